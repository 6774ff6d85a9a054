"""One image's own pipeline call: shared weights, private state."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from inference.errors import PipelineFailed
from inference.options.spec import VaeOptions
from inference.prompts import PromptCache
from inference.schedulers import scheduler_for

OnStep = Callable[[Any, Tensor, Tensor], None]


def private_copy(
    pipe: Any, prompts: PromptCache, owner: Hashable, sampler: str | None = None
) -> Any:
    """The pipeline with its own scheduler, so that two calls never share a step counter.

    It is that of the `sampler`, if one is named. Prompts are remembered for `owner`: the model, and
    whatever else its encoders depend on. `maybe_free_model_hooks` does nothing: else the first call
    to finish would offload, or reset, what the others are using.
    """
    own = copy.copy(pipe)
    # around `__setattr__`, which would write the scheduler into the shared config
    own.__dict__["scheduler"] = scheduler_for(pipe.scheduler, sampler)
    own.__dict__["maybe_free_model_hooks"] = lambda: None
    if hasattr(own, "encode_prompt"):
        owner_and_class = (owner, type(pipe).__name__)
        own.__dict__["encode_prompt"] = prompts.wrap(owner_and_class, own.encode_prompt)
    return own


def check_numbers(pipe: Any) -> None:
    """Have a picture fail that is made of no numbers, which diffusers would paint black."""
    if (shared := getattr(pipe, "image_processor", None)) is None:
        return
    finish = shared.postprocess

    @functools.wraps(finish)
    def finished(image: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(image, Tensor) and not image.isfinite().all():
            raise PipelineFailed(
                "the picture came out as NaN or infinity: weights that are damaged, or a dtype too "
                "narrow for them"
            )
        return finish(image, *args, **kwargs)

    own = copy.copy(shared)
    own.__dict__["postprocess"] = finished
    pipe.__dict__["image_processor"] = own


def accepted(pipe: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """Those of a call's arguments that the pipeline takes; raises ValueError for one that matters.

    Sizes and steps may be fixed; what was asked not to be shown may not be left out in silence.
    """
    taken = inspect.signature(pipe.__call__).parameters
    if arguments.get("negative_prompt") and "negative_prompt" not in taken:
        raise ValueError(f"{type(pipe).__name__} takes no negative_prompt")
    return {name: value for name, value in arguments.items() if name in taken}


def watch_steps(pipe: Any, on_step: OnStep) -> None:
    """Call `on_step(scheduler, before, after)` with the latents around each scheduler step.

    Every diffusers pipeline steps a scheduler; not every one takes a callback.
    """
    scheduler = pipe.scheduler
    step = scheduler.step

    @functools.wraps(step)  # pipelines read the signature to see what `step` takes
    def watched(
        model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        output = step(model_output, timestep, sample, *args, **kwargs)
        after = output[0] if isinstance(output, tuple) else output.prev_sample
        on_step(scheduler, sample, after)
        return output

    scheduler.__dict__["step"] = watched


def total_steps(pipe: Any, asked: int) -> int:
    """Denoising steps this call will make; img2img makes fewer than asked."""
    return int(getattr(pipe, "_num_timesteps", None) or asked)


def as_map(pipe: Any, latents: Tensor, width: int, height: int) -> Tensor:
    """Latents as [1, C, h, w]; packed ones ([1, tokens, C·4]) are unpacked by the pipeline."""
    if latents.ndim == 4:
        return latents
    unpacked: Tensor = pipe._unpack_latents(latents, height, width, pipe.vae_scale_factor)
    return unpacked


def is_cast(vae: Any) -> bool:
    """Whether pipelines cast this VAE to float32 while it decodes: in float16 it overflows."""
    is_narrow = getattr(vae, "dtype", None) is torch.float16
    return is_narrow and bool(getattr(vae.config, "force_upcast", False))


@contextmanager
def lasting_dtype(vae: Any) -> Iterator[None]:
    """Within, a VAE may be cast; after it, whatever was raised, it is as the next call needs it."""
    before = getattr(vae, "dtype", None)
    try:
        yield
    finally:
        if before is not None and vae.dtype is not before:
            vae.to(dtype=before)


def seeded_vae(vae: Any, seed: int) -> Any:
    """The VAE, drawing latents by the seed where a pipeline asks for some and names no generator.

    Else they came from torch's own state, and the same seed made another picture every time.
    """
    own, noise = copy.copy(vae), generator(seed)

    def encode(*args: Any, **kwargs: Any) -> Any:
        output = vae.encode(*args, **kwargs)
        latents = getattr(output, "latent_dist", None)
        if latents is not None:
            draw = latents.sample
            latents.sample = lambda generator=None: draw(generator or noise)
        return output

    own.__dict__["encode"] = encode
    return own


def set_vae(vae: Any, wanted: VaeOptions) -> Any:
    """The VAE with its own switches: models that share its weights may want others."""
    own = copy.copy(vae)
    own.__dict__ |= {"use_tiling": wanted.tiling, "use_slicing": wanted.slicing}
    return own


def generator(seed: int) -> torch.Generator:
    """Noise from the CPU whatever the device, so that a seed means one picture everywhere."""
    return torch.Generator("cpu").manual_seed(seed)
