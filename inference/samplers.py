"""Samplers by the names people call them: which diffusers scheduler each is, and set how.

For denoisers that predict noise; a flow-matching model has its own way, and no other. No torch
here: class names are strings.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inference.model_spec import ModelSpec


@dataclass(frozen=True, slots=True)
class Sampler:
    """A scheduler class by name, and what differs from the configuration of the model's own."""

    scheduler: str
    changes: Mapping[str, Any] = field(default_factory=dict)


_PLAIN = {
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
}
_KARRAS = _PLAIN | {"use_karras_sigmas": True}
_DPMPP_2M = {"algorithm_type": "dpmsolver++", "solver_order": 2, "solver_type": "midpoint"}
_DPMPP_2M_SDE = _DPMPP_2M | {"algorithm_type": "sde-dpmsolver++"}
# latents go beyond -1 and 1, where pixels end
_UNCLIPPED = {"clip_sample": False, "set_alpha_to_one": False}

SAMPLERS: Mapping[str, Sampler] = {
    "euler": Sampler("EulerDiscreteScheduler", _PLAIN),
    "euler_karras": Sampler("EulerDiscreteScheduler", _KARRAS),
    "euler_a": Sampler("EulerAncestralDiscreteScheduler"),
    "heun": Sampler("HeunDiscreteScheduler", _PLAIN),
    "heun_karras": Sampler("HeunDiscreteScheduler", _KARRAS),
    "dpmpp_2m": Sampler("DPMSolverMultistepScheduler", _DPMPP_2M | _PLAIN),
    "dpmpp_2m_karras": Sampler("DPMSolverMultistepScheduler", _DPMPP_2M | _KARRAS),
    "dpmpp_2m_sde": Sampler("DPMSolverMultistepScheduler", _DPMPP_2M_SDE | _PLAIN),
    "dpmpp_2m_sde_karras": Sampler("DPMSolverMultistepScheduler", _DPMPP_2M_SDE | _KARRAS),
    "unipc": Sampler("UniPCMultistepScheduler", _PLAIN),
    "deis": Sampler("DEISMultistepScheduler", _PLAIN),
    "ddim": Sampler("DDIMScheduler", _UNCLIPPED),
    "ddpm": Sampler("DDPMScheduler", {"clip_sample": False}),
    "lcm": Sampler("LCMScheduler", _UNCLIPPED),
    "tcd": Sampler("TCDScheduler", _UNCLIPPED),
}


def problems(spec: ModelSpec) -> Iterator[str]:
    """What a model's samplers say against its family or the table."""
    if spec.samplers and not spec.rules.samplers and not spec.rules.any_pipeline:
        yield f"family {spec.family!r} has its own sampler, and no other"
    for name in spec.samplers:
        if name not in SAMPLERS:
            yield f"there is no sampler {name!r}; known are: {', '.join(SAMPLERS)}"
    chosen = {"defaults": spec.defaults.sampler}
    chosen |= {f"profile {name!r}": profile.sampler for name, profile in spec.profiles.items()}
    for where, sampler in chosen.items():
        if sampler is not None and sampler not in spec.samplers:
            yield f"{where}: the sampler {sampler!r} is none of its samplers"
