"""What is told of an image while it is made: its steps, and previews while somebody looks."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import structlog
from torch import Tensor

from inference.calls import as_map, total_steps
from inference.events import Progress
from inference.preview import denoised
from inference.running import Running

if TYPE_CHECKING:
    from PIL.Image import Image

log = structlog.get_logger()


class Reports:
    """Tells of steps; of one image at most one preview each `preview_interval_seconds`."""

    def __init__(self, clock: Callable[[], float], preview_interval_seconds: float) -> None:
        self._clock = clock
        self._preview_interval_seconds = preview_interval_seconds

    def start(self, image: Running) -> None:
        """Tell that an image has started."""
        self._tell(image, image.job.num_inference_steps)

    def step(
        self, image: Running, pipe: Any, scheduler: Any, before: Tensor, after: Tensor
    ) -> None:
        """Tell of one more step, which led from the latents `before` to `after`."""
        image.step += 1
        preview = None
        if self._preview_is_due(image):
            preview = self._preview(image, pipe, denoised(scheduler, before, after))
        self._tell(image, total_steps(pipe, image.job.num_inference_steps), preview)

    def _tell(self, image: Running, steps: int, preview: Image | None = None) -> None:
        image.tell(
            Progress(
                job_id=image.job.id,
                index=image.index,
                step=image.step,
                steps=steps,
                preview=preview,
            )
        )

    def _preview_is_due(self, image: Running) -> bool:
        """Whether somebody looks, and has not just been shown one."""
        now = self._clock()
        if now - image.previewed < self._preview_interval_seconds or not image.previews():
            return False
        image.previewed = now
        return True

    def _preview(self, image: Running, pipe: Any, latents: Tensor) -> Image | None:
        """A preview, or none where the latents are not of a kind that is known: no loss."""
        model = image.model
        if model is None or model.previewer is None:
            return None
        try:
            unpacked = as_map(pipe, latents, image.job.width, image.job.height)
            return model.previewer.picture(unpacked)
        except Exception as error:
            log.warning("previews.off", model=model.spec.name, error=repr(error)[:200])
            model.previewer = None
            return None
