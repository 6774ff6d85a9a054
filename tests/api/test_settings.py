"""Settings: parsed once, and a wrong one stops the start by its name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from api.settings import Settings, SettingsError, load_settings


def test_the_defaults_are_for_one_machine() -> None:
    settings = load_settings()
    assert (settings.host, settings.port, settings.data_dir) == ("127.0.0.1", 8000, Path("data"))
    assert settings.devices == () and settings.max_attempts == 3


def test_variables_are_read_and_overrides_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DARKROOM_PORT", "9000")
    monkeypatch.setenv("DARKROOM_DEVICES", "cuda:0, cuda:1")
    monkeypatch.setenv("DARKROOM_PUBLIC_URL", "https://pictures.example/")
    monkeypatch.setenv("DARKROOM_LOG_LEVEL", "")
    settings = load_settings(host=None, data_dir=Path("/srv"), port=9001)
    assert settings.devices == ("cuda:0", "cuda:1")
    assert settings.public_url == "https://pictures.example"
    assert (settings.port, settings.data_dir, settings.log_level) == (9001, Path("/srv"), "info")


@pytest.mark.parametrize(
    ("name", "default"),
    [(name, one.default) for name, one in Settings.model_fields.items() if one.default is not None],
)
def test_every_default_may_be_written_out(
    monkeypatch: pytest.MonkeyPatch, name: str, default: Any
) -> None:
    written = ",".join(default) if isinstance(default, tuple) else str(default)
    monkeypatch.setenv(f"DARKROOM_{name.upper()}", written)
    assert getattr(load_settings(), name) == default


def test_a_number_of_a_few_is_read_from_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DARKROOM_MYNTH_BALANCE_STATUS", "422")
    assert load_settings().mynth_balance_status == 422
    monkeypatch.setenv("DARKROOM_MYNTH_BALANCE_STATUS", "400")
    with pytest.raises(SettingsError, match="DARKROOM_MYNTH_BALANCE_STATUS=400: "):
        load_settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "eighty"), ("PORT", "70000"), ("MAX_QUEUE_TASKS", "0"), ("LEASE_SECONDS", "nan"),
        ("LEASE_SECONDS", "inf"), ("MAX_PICTURE_MEGAPIXELS", "500"), ("OUTPUT_FORMAT", "gif"),
        ("PUBLIC_URL", "pictures.example"), ("LOG_LEVEL", "loud"), ("DRAIN_SECONDS", "-1"),
        ("DISK_FLOOR_BYTES", "1GB"), ("MYNTH_BALANCE_STATUS", "no"),
        ("DEVICES", "foo"), ("DEVICES", "cpu,meta"), ("DEVICES", "cuda"), ("DEVICES", "cuda:01"),
    ],
)  # fmt: skip
def test_a_bad_value_names_itself(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"DARKROOM_{name}", value)
    with pytest.raises(SettingsError, match=f"DARKROOM_{name}='{value}': "):
        load_settings()


def test_a_secret_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DARKROOM_DATABASE_URL", "mysql://ann:hunter2@db/darkroom")
    with pytest.raises(SettingsError, match="DARKROOM_DATABASE_URL: must start with") as refused:
        load_settings()
    assert "hunter2" not in str(refused.value)


def test_every_bad_value_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DARKROOM_PORT", "x")
    monkeypatch.setenv("DARKROOM_MAX_ATTEMPTS", "0")
    with pytest.raises(SettingsError) as refused:
        load_settings()
    assert len(str(refused.value).splitlines()) == 2


def test_a_lease_must_outlive_heartbeats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DARKROOM_LEASE_SECONDS", "10")
    with pytest.raises(SettingsError, match="lease_seconds must be at least three times"):
        load_settings()


def test_a_misspelt_variable_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DARKROOM_DATADIR", "/srv")
    with pytest.raises(
        SettingsError, match="DARKROOM_DATADIR is no setting; did you mean DARKROOM_DATA_DIR"
    ):
        load_settings()


def test_settings_stay_as_they_are() -> None:
    with pytest.raises(ValidationError):
        Settings().port = 1  # type: ignore[misc]
    with pytest.raises(ValidationError):
        Settings(colour="red")  # type: ignore[call-arg]
