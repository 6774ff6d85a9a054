"""How the engine uses its devices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


def as_it_is() -> None:
    """Leave a new process as it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """Settings of one engine.

    `devices` are torch names ("cuda:0", "cpu"); empty means every CUDA device, else the CPU.
    `max_running_images` bounds the pictures in the making on one device, whatever they wait for.
    `preview_side_px` bounds the longer side of step previews; 0 turns them off, and one picture
    shows at most one preview each `preview_interval_seconds`.
    The LoRAs of each model take at most `lora_bytes` of a device, those in use aside, and one
    forward mixes at most `max_loras_per_forward`: each costs its rows a few percent.
    Models take at most `device_memory_bytes` of a device, working memory included, and copies to
    come back from quickly `ram_bytes` of RAM for each device; None leaves it to the machine.
    One that is asked for is moved for another whose request would else wait `model_wait_seconds`,
    and not within `model_stay_seconds` of its coming.
    What models are compiled to is kept in `compiled_folder`, else in the system's temporary one.
    `retry_load_seconds` must pass before a model that failed to load is tried again.
    A device that shows no sign of life for `worker_silence_seconds` gets no more work while another
    does. With `device_processes` each has a process of its own, which is started again when it has
    ended, or has shown none for `worker_restart_seconds`, and calls `prepare_process` first.
    """

    devices: tuple[str, ...] = ()
    max_running_images: int = 32
    prompt_cache_bytes: int = 256 * 1024**2
    preview_side_px: int = 256
    preview_interval_seconds: float = 0.05
    lora_bytes: int = 2 * 1024**3
    max_loras_per_forward: int = 8
    retry_load_seconds: float = 30.0
    worker_silence_seconds: float = 60.0
    device_memory_bytes: int | None = None
    ram_bytes: int | None = None
    model_wait_seconds: float = 60.0
    model_stay_seconds: float = 5.0
    compiled_folder: Path | None = None
    device_processes: bool = False
    worker_restart_seconds: float = 600.0
    prepare_process: Callable[[], None] = as_it_is
