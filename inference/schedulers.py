"""The diffusers scheduler behind a sampler's name, made for one picture."""

from __future__ import annotations

import copy
from typing import Any

import diffusers

from inference.errors import ModelFailed
from inference.model_spec import ModelSpec
from inference.samplers import SAMPLERS

# What a denoiser may have learned to predict for the samplers of the table to lead anywhere.
_NOISE = ("epsilon", "v_prediction", "sample")


def scheduler_for(own: Any, sampler: str | None) -> Any:
    """A scheduler of one's own: like the checkpoint's, or of a sampler by name."""
    if sampler is None:
        return copy.deepcopy(own)
    chosen = SAMPLERS[sampler]
    return getattr(diffusers, chosen.scheduler).from_config(own.config, **chosen.changes)


def check_samplers(spec: ModelSpec, pipe: Any) -> None:
    """Refuse samplers for a checkpoint whose noise is not as they take it to be."""
    if not spec.samplers:
        return
    own = pipe.scheduler
    if "beta_start" in own.config and own.config.get("prediction_type", "epsilon") in _NOISE:
        return
    name = type(own).__name__
    raise ModelFailed(f"{spec.source}: other samplers do not fit its {name}; set samplers: []")
