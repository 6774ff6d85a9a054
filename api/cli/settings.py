"""The settings of a command: its flags over the variables, complaints in the flags' terms."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from api.cli.terminal import UsageError, stop

if TYPE_CHECKING:
    from api.settings import Settings

# Where DARKROOM_PORT leaves it to the system, nobody but the server knows.
DEFAULT_PORT = 8000


def settings_of(**flags: object) -> Settings:
    """The settings, flags first; leaves with what is wrong with them."""
    from api.settings import PREFIX, SettingsError, load_settings

    given = {name: value for name, value in flags.items() if value is not None}
    try:
        settings = load_settings(**given)
    except SettingsError as error:
        message = str(error)
        for name in given:
            flag = name.replace("_", "-")
            message = message.replace(f"{PREFIX}{name.upper()}=", f"--{flag} ")
        stop(UsageError(message))
    if "models" in settings.model_fields_set or settings.models.exists():
        return settings
    return settings.model_copy(update={"models": shipped_models()})


def secret_of(key: str | None) -> str | None:
    """The key for a server: that of the flag, else of the environment."""
    api_key = settings_of(api_key=key).api_key
    return api_key.get_secret_value() if api_key is not None else None


def own_server() -> str:
    """Where a server of this machine is to be found, as the settings have it listen."""
    return f"http://127.0.0.1:{settings_of().port or DEFAULT_PORT}"


def shipped_models() -> Path:
    """The models.yaml that Darkroom ships: inside the wheel, or at the root of a checkout."""
    import inference

    package = Path(inference.__file__).parent
    inside = package / "models.yaml"
    return inside if inside.exists() else package.parent / "models.yaml"
