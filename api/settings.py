"""Every setting of the service, from `DARKROOM_*` variables; parsed once, frozen."""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    DirectoryPath,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from api.tasks import ImageFormat

PREFIX = "DARKROOM_"
MIB = 1024**2
DEVICE = re.compile(r"cpu(:0)?|cuda:(0|[1-9]\d{0,2})")
STORAGE = r"^(local|s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9_./-]*)?)$"

PositiveInt = Annotated[int, Field(gt=0)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
PositiveSeconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class SettingsError(Exception):
    """A setting is wrong; each line of the message names one and says what to change."""


class Settings(BaseSettings):
    """How the service runs; every name carries its unit.

    Queue bounds count tasks and pictures that have not ended, the running ones included.
    `devices` are torch names ("cuda:0,cuda:1", "cpu"); empty means every CUDA device, else the CPU.
    `allowed_targets` are networks ("10.0.0.0/8") and host names that requests may make the server
    connect to although they are not public. `storage` is "local" or "s3://bucket/prefix".
    `database_url` names a PostgreSQL database; without one it is SQLite in `data_dir`. `api_key` is
    what a command sends to a server.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="forbid"
    )

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    public_url: str | None = None
    data_dir: Path = Path("data")
    database_url: SecretStr | None = None
    models: Path = Path("models.yaml")
    devices: Annotated[tuple[str, ...], NoDecode] = ()
    device_memory_bytes: PositiveInt | None = None
    ram_bytes: Annotated[int | None, Field(ge=0)] = None
    model_wait_seconds: PositiveSeconds = 60.0
    model_stay_seconds: Seconds = 5.0

    max_queue_tasks: PositiveInt = 10_000
    max_queue_images: PositiveInt = 20_000
    max_account_tasks: PositiveInt | None = None
    max_account_images: PositiveInt | None = None

    lease_seconds: PositiveSeconds = 30.0
    heartbeat_seconds: PositiveSeconds = 5.0
    max_attempts: PositiveInt = 3
    images_in_flight: PositiveInt = 64
    drain_seconds: Seconds = 30.0
    worker_silence_seconds: PositiveSeconds = 60.0
    device_processes: bool = False
    worker_restart_seconds: PositiveSeconds = 600.0

    max_body_bytes: PositiveInt = 128 * MIB
    max_part_bytes: PositiveInt = 32 * MIB
    max_picture_bytes: PositiveInt = 50 * MIB
    max_picture_megapixels: Annotated[float, Field(gt=0, le=178, allow_inf_nan=False)] = 16.0
    image_path_folder: DirectoryPath | None = None

    rate_per_minute: PositiveInt | None = None
    credit_usd: Annotated[Decimal, Field(gt=0, allow_inf_nan=False)] = Decimal("0.01")
    mynth_compat: bool = False
    mynth_balance_status: Literal[402, 422] = 402
    apimodels_sync_models: Annotated[tuple[str, ...], NoDecode] = ("gpt-image-2-all",)
    sync_wait_seconds: PositiveSeconds = 120.0

    allowed_targets: Annotated[tuple[str, ...], NoDecode] = ()
    fetch_seconds: PositiveSeconds = 20.0
    max_lora_bytes: PositiveInt = 1024 * MIB
    lora_fetch_seconds: PositiveSeconds = 120.0
    kept_lora_bytes: PositiveInt = 20 * 1024 * MIB

    storage: Annotated[str, Field(pattern=STORAGE)] = "local"
    s3_endpoint: str | None = None
    s3_region: str = "us-east-1"
    s3_access_key_id: str | None = None
    s3_secret_access_key: SecretStr | None = None
    links: Literal["own", "presigned"] = "own"

    output_format: ImageFormat = ImageFormat.PNG
    output_quality: Annotated[int | None, Field(ge=1, le=100)] = None
    embed_parameters: bool = True
    mark_ai_origin: bool = True
    output_retention_hours: Annotated[float | None, Field(gt=0, allow_inf_nan=False)] = None
    upload_retention_hours: Annotated[float, Field(ge=0.001, le=87_600)] = 168.0
    max_upload_bytes_per_account: PositiveInt = 1024 * MIB
    preview_side_px: Annotated[int, Field(ge=0, le=1024)] = 256
    link_ttl_seconds: PositiveInt = 86_400
    disk_floor_bytes: Annotated[int, Field(ge=0)] = 256 * MIB
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    api_key: SecretStr | None = None

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches the server."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host.lower() == "localhost"

    @property
    def postgres_url(self) -> str | None:
        """Where the database is, unless it is in the data folder; holds a password."""
        return self.database_url.get_secret_value() if self.database_url is not None else None

    @field_validator("devices", "allowed_targets", "apimodels_sync_models", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("mynth_balance_status", mode="before")
    @classmethod
    def _number(cls, value: Any) -> Any:
        # of the numbers that a Literal lists, no text is taken for one
        return int(value) if isinstance(value, str) and value.isdecimal() else value

    @field_validator("devices")
    @classmethod
    def _are_devices(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        # whether there are such is known once torch is imported, long after this
        for name in value:
            if not DEVICE.fullmatch(name):
                raise ValueError(f"{name!r} is no device; write cpu, or cuda:0, cuda:1 and so on")
        return value

    @field_validator("public_url")
    @classmethod
    def _is_origin(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("http://", "https://")):
            raise ValueError("must start with http:// or https://")
        return value.rstrip("/") if value is not None else None

    @field_validator("database_url")
    @classmethod
    def _is_postgres(cls, value: SecretStr | None) -> SecretStr | None:
        schemes = ("postgresql://", "postgres://")
        if value is not None and not value.get_secret_value().startswith(schemes):
            raise ValueError("must start with postgresql://; SQLite needs no address")
        return value

    @model_validator(mode="after")
    def _lease_outlives_heartbeats(self) -> Settings:
        if self.lease_seconds < 3 * self.heartbeat_seconds:
            raise ValueError("lease_seconds must be at least three times heartbeat_seconds")
        return self

    @model_validator(mode="after")
    def _presigned_links_need_s3(self) -> Settings:
        if self.links == "presigned" and self.storage == "local":
            raise ValueError("links=presigned needs storage=s3://…; a folder cannot sign links")
        return self


def load_settings(**overrides: Any) -> Settings:
    """The settings of this process; `overrides` (of the command line) win over the environment.

    Raises SettingsError, also for a DARKROOM_ variable that nothing reads.
    """
    _refuse_unknown_variables()
    try:
        return Settings(**{key: value for key, value in overrides.items() if value is not None})
    except ValidationError as error:
        raise SettingsError("\n".join(_explain(problem) for problem in error.errors())) from None


def _refuse_unknown_variables() -> None:
    known = [PREFIX + name.upper() for name in Settings.model_fields]
    for name in os.environ:
        if name.startswith(PREFIX) and name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise SettingsError(f"{name} is no setting{hint}")


def _explain(problem: Any) -> str:
    message = problem["msg"].removeprefix("Value error, ")
    if not problem["loc"]:
        return str(message)
    field = str(problem["loc"][0])
    name = PREFIX + field.upper()
    return f"{name}: {message}" if _is_secret(field) else f"{name}={problem['input']!r}: {message}"


def _is_secret(field: str) -> bool:
    told = Settings.model_fields.get(field)
    return told is not None and SecretStr in get_args(told.annotation)
