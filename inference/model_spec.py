"""One served model as models.yaml describes it: what it can make, by default and at most.

No torch here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from inference import samplers
from inference.arguments import NO_GUIDANCE
from inference.job import ImageRequest, ImageRole, Mode
from inference.loras import spec as lora_spec
from inference.loras.spec import LoraSpec, LoraStrength
from inference.options import spec as option_spec
from inference.options.spec import AnyQuantization, AnyStepCache, Attention, VaeOptions
from inference.pipelines import FAMILIES, Family
from inference.places import Source
from inference.prices import Price
from inference.references import spec as reference_spec
from inference.references.spec import References
from inference.signatures import parameters_of
from inference.sizes import TIER_SIDES_PX, FreeSizes, nearest_listed, parse_ratio, parse_size


class Strict(BaseModel):
    """Values read from models.yaml: unknown keys are refused, and nothing changes afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Side = Annotated[int, Field(gt=0, le=16384)]
Size = Annotated[tuple[Side, Side], BeforeValidator(parse_size)]
# Strict, or YAML's yes and true would count as 1.
Steps = Annotated[int, Field(ge=1, le=1000, strict=True)]
PositiveInt = Annotated[int, Field(gt=0, strict=True)]
Guidance = Annotated[float, Field(ge=0, le=100, strict=True)]
Strength = Annotated[float, Field(ge=0.01, le=1, strict=True)]
Megapixels = Annotated[float, Field(gt=0, strict=True)]
# As torch calls it; whether the server has it is seen when its engine starts.
DeviceName = Annotated[str, Field(pattern=r"^[a-z]+(:[0-9]+)?$")]
LoraLimit = Annotated[float, Field(gt=0, le=100, strict=True)]


class Defaults(Strict):
    """What a request gets when it does not say."""

    num_inference_steps: Steps = 28
    guidance_scale: Guidance = 3.5
    negative_prompt: str | None = None
    sampler: str | None = None
    strength: Strength = 0.8
    profile: str | None = None
    size: Size | None = None


class Quality(Strict):
    """A named quality: what replaces the defaults when a request names it."""

    num_inference_steps: Steps | None = None
    guidance_scale: Guidance | None = None


class Profile(Quality):
    """A named way to run a model: LoRAs by strength, and what suits them."""

    sampler: str | None = None
    loras: dict[str, LoraStrength] = {}


class Limits(Strict):
    """What a request may ask for; sides in pixels."""

    count: PositiveInt = 8
    num_inference_steps: Steps = 100
    guidance_scale: Guidance = 30.0
    prompt_chars: PositiveInt = 4000
    loras: PositiveInt = 4
    lora_strength: LoraLimit = 4.0
    min_side: PositiveInt = 256
    max_side: PositiveInt = 2048
    max_megapixels: Megapixels = 2.4


class ModelSpec(Strict):
    """One served model, as models.yaml describes it."""

    name: str = ""
    family: str
    source: Source
    revision: str | None = None
    description: str = ""
    license: str = ""
    modes: tuple[Mode, ...] = ()
    pipelines: dict[Mode, str] = {}
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    quantization: AnyQuantization | None = None
    attention: Attention | None = None
    compile: Annotated[bool, Field(strict=True)] = False
    vae: VaeOptions = VaeOptions()
    cache: AnyStepCache | None = None
    offload: Literal["none", "model", "sequential", "group"] = "none"
    devices: tuple[DeviceName, ...] = ()
    preload: bool = False
    pin: bool = False
    guidance_field: str = ""
    max_sequence_length: PositiveInt | None = None
    samplers: tuple[str, ...] = ()
    sizes: tuple[Size, ...] = ()
    defaults: Defaults = Defaults()
    qualities: dict[str, Quality] = {}
    loras: dict[str, LoraSpec] = {}
    loras_from: tuple[str, ...] = ()
    profiles: dict[str, Profile] = {}
    references: References = {}
    limits: Limits = Limits()
    price: Price = 0

    @model_validator(mode="before")
    @classmethod
    def _fill_from_family(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        family = FAMILIES.get(str(values.get("family")))
        if family is None:
            return values
        filled = dict(values)
        chosen = filled.get("pipelines") if family.any_pipeline else family.routes
        filled.setdefault("modes", tuple(chosen) if isinstance(chosen, Mapping) else ())
        filled.setdefault("guidance_field", family.guidance_field)
        filled.setdefault("samplers", family.samplers)
        given = filled.get("defaults", {})
        if isinstance(given, dict):
            filled["defaults"] = {**family.defaults, **given}
        return filled

    @model_validator(mode="after")
    def _agree(self) -> ModelSpec:
        if self.family not in FAMILIES:
            raise ValueError(f"family {self.family!r} is none of {', '.join(FAMILIES)}")
        for problem in self._problems():
            raise ValueError(problem)
        return self

    def _problems(self) -> Iterator[str]:
        """What the entry's values say against one another, or against its family."""
        unit = self.rules.size_multiple
        yield from self._beyond_family()
        if not self.modes:
            yield "modes must name at least one"
        for width, height in self.sizes:
            if width % unit or height % unit:
                yield f"size {width}x{height} is not made of {unit}s"
        if not self.sizes and self.free_sizes.empty:
            yield f"limits leave no size made of {unit}s; see min_side, max_side, max_megapixels"
        elif self.nearest_size(*self.default_size) != self.default_size:
            width, height = self.default_size
            yield f"the default size {width}x{height} is none that the model can make"
        yield from lora_spec.problems(self)
        yield from samplers.problems(self)
        yield from reference_spec.problems(self)
        yield from option_spec.problems(self)
        yield from self._beyond_limits()

    def _beyond_family(self) -> Iterator[str]:
        family = self.rules
        if missing := [mode for mode in self.modes if mode not in family.routes]:
            yield f"family {self.family!r} cannot {', '.join(missing)}"
        if family.any_pipeline and not self.pipelines:
            yield f"family {self.family!r} needs pipelines: a diffusers class per mode"
        unnamed = [mode for mode in self.modes if mode not in self.pipelines]
        if family.any_pipeline and unnamed:
            yield f"pipelines must name a diffusers class to {', '.join(unnamed)}"
        if self.max_sequence_length is not None and not family.max_sequence_length:
            yield f"family {self.family!r} takes no max_sequence_length"
        if self.defaults.negative_prompt and not self.takes_negative_prompt:
            needs = family.negative_field if family.negative_prompt else ""
            only = f" without guidance_field: {needs}" if needs else ""
            yield f"family {self.family!r} honours no negative_prompt{only}"

    def _beyond_limits(self) -> Iterator[str]:
        chosen: dict[str, Defaults | Quality] = {"defaults": self.defaults}
        chosen |= {f"quality {name!r}": quality for name, quality in self.qualities.items()}
        chosen |= {f"profile {name!r}": profile for name, profile in self.profiles.items()}
        for where, values in chosen.items():
            for key in ("num_inference_steps", "guidance_scale"):
                value, limit = getattr(values, key), getattr(self.limits, key)
                if value is not None and value > limit:
                    yield f"{where}: {key} {value:g} is above the limit of {limit:g}"

    @property
    def rules(self) -> Family:
        """What the model's architecture fixes."""
        return FAMILIES[self.family]

    @property
    def own_parts(self) -> tuple[str, ...]:
        """The parts that no other model may have too: they are changed, or narrowed."""
        narrowed = self.quantization.parts if self.quantization is not None else ()
        return tuple(dict.fromkeys((*self.rules.denoisers, *narrowed)))

    @property
    def guided(self) -> bool:
        """Whether `guidance_scale` means anything to it."""
        return self.guidance_field != NO_GUIDANCE

    @property
    def takes_negative_prompt(self) -> bool:
        """Whether it honours, in some mode, what a picture should not show."""
        return any(self.honours_negative_prompt(mode) for mode in self.modes)

    def honours_negative_prompt(self, mode: Mode) -> bool:
        """Whether it does in one mode: pipelines that the entry names may differ in that."""
        needed = self.rules.negative_field or self.guidance_field
        if not (self.rules.negative_prompt and self.guided and self.guidance_field == needed):
            return False
        taken = parameters_of(self.pipelines[mode]) if self.rules.any_pipeline else None
        return taken is None or "negative_prompt" in taken

    def max_sources(self, mode: Mode) -> int:
        """How many pictures to change it takes in a mode."""
        return 0 if mode is Mode.GENERATE else self.rules.routes[mode].max_sources

    @cached_property
    def default_size(self) -> tuple[int, int]:
        """Width and height in pixels of a request that names no size."""
        if self.defaults.size is not None:
            return self.defaults.size
        return self.sizes[0] if self.sizes else self._nearest(1.0, self.rules.native_side**2)

    @cached_property
    def smallest_size(self) -> tuple[int, int]:
        """The cheapest width and height in pixels that the model makes well enough to test it."""
        if self.sizes:
            return min(self.sizes, key=math.prod)
        return self._nearest(1.0, self.limits.min_side**2)

    def suits(self, mode: Mode, request: ImageRequest | None) -> bool:
        """Whether it can do the kind of thing that a request needs."""
        if mode not in self.modes:
            return False
        if request is None:
            return True
        sources = sum(image.role is ImageRole.SOURCE for image in request.images)
        return (
            reference_spec.refusal(self, mode, request) is None
            and sources <= self.max_sources(mode)
            and (not request.negative_prompt or self.honours_negative_prompt(mode))
            and (self.guided or request.guidance_scale is None)
            and (request.sampler is None or request.sampler in self.samplers)
            and request.count <= self.limits.count
            and len(request.prompt) <= self.limits.prompt_chars
            and lora_spec.knows(self, request)
        )

    def nearest_size(
        self, width: int, height: int, *, area: float | None = None, most: float = math.inf
    ) -> tuple[int, int]:
        """The size nearest to `width` × `height` pixels that the model can make.

        With an `area` in pixels only their ratio counts; with a `most`, none that has more.
        """
        return self._nearest(width / height, area or width * height, most)

    def size_of(self, aspect_ratio: str, resolution: str | None) -> tuple[int, int]:
        """The size nearest to a ratio like "16:9" at a tier like "2k"; native area without one."""
        side = TIER_SIDES_PX[resolution] if resolution else math.sqrt(math.prod(self.default_size))
        ratio = parse_ratio(aspect_ratio)
        if self.sizes:
            return self._nearest(ratio, side**2)
        # no larger than the tier, or it would cost as the next; the ratio comes first all the same
        least = self.free_sizes.lowest**2 * max(ratio, 1 / ratio)
        return self._nearest(ratio, side**2, max(side**2, least))

    @property
    def free_sizes(self) -> FreeSizes:
        """The sizes of a model that lists none."""
        limits = self.limits
        return FreeSizes(
            unit=self.rules.size_multiple,
            min_side=limits.min_side,
            max_side=limits.max_side,
            max_area=limits.max_megapixels * 1e6,
        )

    def _nearest(self, ratio: float, area: float, most: float = math.inf) -> tuple[int, int]:
        if self.sizes:
            small = [size for size in self.sizes if math.prod(size) <= most]
            return nearest_listed(small or self.sizes, ratio, area)
        free = self.free_sizes
        return replace(free, max_area=min(free.max_area, most)).nearest(ratio, area)
