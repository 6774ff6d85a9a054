"""`darkroom models check` as it is read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from api.cli.check import size_of
from api.cli.commands import app
from api.cli.terminal import UsageError

SHIPPED = Path(__file__).parents[3] / "models.yaml"


def check(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["models", "check", "--models", str(SHIPPED), *arguments])


def test_what_fits_and_what_does_not_is_said_plainly() -> None:
    good = check("tiny-flux", "--memory", "1GB")
    assert good.exit_code == 0, good.stderr
    assert "tiny-flux: can be served" in good.stdout
    assert "generate, img2img, inpaint at 128x128: about" in good.stdout
    bad = check("tiny-flux", "--memory", "24MB")
    assert bad.exit_code == 1
    assert "tiny-flux: CANNOT BE SERVED" in bad.stdout and "DOES NOT FIT" in bad.stdout
    assert "or with offload: sequential" in bad.stdout
    assert "cannot be served: tiny-flux" in bad.stderr
    assert "weights of all" in good.stdout and "weights of" not in bad.stdout
    few = check("tiny-flux", "--memory", "1")
    assert "any card (as cuda): models may take 1 byte" in few.stdout


def test_nothing_is_said_of_weights_that_could_not_be_read(tmp_path: Path) -> None:
    models = tmp_path / "models.yaml"
    models.write_text("models: {away: {family: sdxl, source: ./not-there}}")
    told = CliRunner().invoke(app, ["models", "check", "--models", str(models)])
    assert told.exit_code == 1
    assert "away: CANNOT BE SERVED" in told.stdout
    assert "room for all" not in told.stdout


def test_the_variable_counts_where_no_flag_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DARKROOM_DEVICE_MEMORY_BYTES", "24000000")
    bad = check("tiny-flux", "--json")
    assert bad.exit_code == 1
    told = json.loads(bad.stdout)
    assert told["memory_bytes"] == 24_000_000
    assert [one["servable"] for one in told["models"]] == [False]


def test_a_card_that_is_not_here_is_checked_for_by_its_size_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DARKROOM_DEVICES", "cuda:99")
    missing = check("tiny-flux")
    assert missing.exit_code == 1
    assert missing.stderr.splitlines()[-1].startswith(
        "darkroom: DARKROOM_DEVICES: there is no cuda:99 here, only "
    )
    monkeypatch.setenv("DARKROOM_DEVICE_MEMORY_BYTES", "1000000000")
    assert check("tiny-flux").exit_code == 0


def test_each_device_is_told_and_what_an_entry_names_that_is_not_here(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DARKROOM_DEVICES", "cuda:0,cuda:1")
    monkeypatch.setenv("DARKROOM_DEVICE_MEMORY_BYTES", "1000000000")
    models = tmp_path / "models.yaml"
    entry = (
        'family: flux, source: "builtin:tiny-flux", sizes: [128x128], max_sequence_length: 24, '
        "guidance_field: true_cfg_scale, devices: "
    )
    models.write_text(f"models: {{a: {{{entry} [cuda:1]}}, b: {{{entry} [cuda:7]}}}}")
    told = CliRunner().invoke(app, ["models", "check", "--models", str(models)])
    assert told.exit_code == 1 and "cannot be served: b" in told.stderr
    lines = told.stdout.splitlines()
    assert lines[:2] == [f"cuda:{one}: models may take 1.0 GB" for one in (0, 1)]
    assert "  devices  cuda:1; as on cuda:1, the smallest" in lines
    assert any("devices: b is to be on cuda:7, which is not here" in line for line in lines)
    (together,) = (line for line in lines if "shared parts once" in line)
    assert together.startswith("cuda:1: weights of the 1 that can be served")


def test_all_that_is_shipped_can_be_served_here() -> None:
    told = check()
    assert told.exit_code == 0, told.stdout
    assert "text_encoder 1.5 MB, also of tiny-flux-fill" in told.stdout


@pytest.mark.parametrize(
    ("text", "size"),
    [("24GB", 24 * 10**9), ("1.5 gib", 3 * 2**29), ("24000000", 24_000_000), ("8MB", 8 * 10**6)],
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert size_of(text) == size


@pytest.mark.parametrize("text", ["", "GB", "0GB", "24 apples", "-1GB", "1e9", "9" * 40])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        size_of(text)
