"""Everything the engine can refuse or fail with.

EngineError
├── Refused           the request is at fault; found before anything is queued
│   ├── UnknownModel  no such model or alias
│   ├── Unsupported   this model cannot do that
│   └── BadValue      a field is out of bounds or malformed
├── JobError          the work failed; ends one image, touches no other
│   ├── OutOfMemory   even alone the image does not fit the device
│   ├── ModelFailed   the model could not be loaded
│   │   ├── NoRoom  memory does not suffice for it as things are
│   │   ├── LoraFailed  one of its LoRAs could not, and the model is as it was
│   │   └── ReferenceFailed  what it takes a tag by could not, and the model is as it was
│   └── PipelineFailed  the pipeline raised
├── HubFailed         the hub of models does not give what was asked of it
├── EngineClosed      the engine takes no more work
├── DeviceMissing     a device it is to use is not there; found when it is started
└── CatalogError      models.yaml cannot be used; found at start-up

`kind` is a neutral word: whoever speaks HTTP maps it to a status and dresses the message.
"""

from __future__ import annotations

from typing import ClassVar


class EngineError(Exception):
    """The engine cannot do what was asked."""

    kind: ClassVar[str] = "engine_error"


class Refused(EngineError):
    """The request asks for something no retry will give; `field` names what to change."""

    kind = "bad_request"

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class UnknownModel(Refused):
    """No model or alias of that name is served."""

    kind = "unknown_model"


class Unsupported(Refused):
    """The model exists but cannot do what the field asks."""

    kind = "unsupported"


class BadValue(Refused):
    """A value is malformed or outside what the model allows."""

    kind = "bad_value"


class JobError(EngineError):
    """One image could not be made."""

    kind = "job_failed"


class OutOfMemory(JobError):
    """The image does not fit the device's memory, even alone."""

    kind = "out_of_memory"


class ModelFailed(JobError):
    """The model could not be loaded; the message carries the reason."""

    kind = "model_failed"


class NoRoom(ModelFailed):
    """Memory does not suffice for the model beside what has to stay there."""


class LoraFailed(ModelFailed):
    """A LoRA could not be loaded; the message carries the reason."""

    kind = "lora_failed"


class ReferenceFailed(ModelFailed):
    """What takes a tag from reference pictures could not be loaded; the message carries both."""

    kind = "reference_failed"


class PipelineFailed(JobError):
    """The pipeline raised while making the image."""

    kind = "pipeline_failed"


class HubFailed(EngineError):
    """What lies on the hub cannot be had; the message carries the reason."""

    kind = "hub"


class EngineClosed(EngineError):
    """The engine is shutting down and takes no more work."""

    kind = "closed"


class DeviceMissing(EngineError):
    """This machine has no such device; the message names those it has."""

    kind = "device_missing"


class CatalogError(EngineError):
    """models.yaml cannot be used; the message names file, line and what to change."""

    kind = "catalog"
