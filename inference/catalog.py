"""models.yaml as a table: which models are served, what each can make, under which names.

Nothing here loads a weight.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from inference.errors import BadValue, CatalogError, UnknownModel, Unsupported
from inference.job import ImageRequest, ImageRole, Mode
from inference.pipelines import FAMILIES, Family
from inference.yamlfile import explain, read_yaml

TIER_SIDES_PX = {"1k": 1024, "2k": 2048, "4k": 4096}


def _parse_size(value: object) -> object:
    """ "128x96" → (128, 96); anything else is left for pydantic to judge."""
    if isinstance(value, str):
        width, x, height = value.lower().partition("x")
        if x and width.isdecimal() and height.isdecimal():
            return int(width), int(height)
        raise ValueError(f"{value!r} is not a size like 1024x768")
    return value


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Side = Annotated[int, Field(gt=0, le=16384)]
Size = Annotated[tuple[Side, Side], BeforeValidator(_parse_size)]
Steps = Annotated[int, Field(ge=1, le=1000)]
PositiveInt = Annotated[int, Field(gt=0)]
Guidance = Annotated[float, Field(ge=0, le=100)]


class Defaults(_Strict):
    """What a request gets when it does not say."""

    num_inference_steps: Steps = 28
    guidance_scale: Guidance = 3.5
    negative_prompt: str | None = None
    strength: Annotated[float, Field(gt=0, le=1)] = 0.8
    size: Size | None = None


class Quality(_Strict):
    """A named quality: what replaces the defaults when a request names it."""

    num_inference_steps: Steps | None = None
    guidance_scale: Guidance | None = None


class Limits(_Strict):
    """What a request may ask for; sides in pixels."""

    count: PositiveInt = 8
    num_inference_steps: Steps = 100
    guidance_scale: Guidance = 30.0
    prompt_chars: PositiveInt = 4000
    min_side: PositiveInt = 256
    max_side: PositiveInt = 2048
    max_megapixels: Annotated[float, Field(gt=0)] = 2.4


Credits = Annotated[int, Field(ge=0)]
# One number, or one per resolution tier, or one per tier and quality.
Price = Credits | dict[str, Credits | dict[str, Credits]]


class ModelSpec(_Strict):
    """One served model, as models.yaml describes it."""

    name: str = ""
    family: str
    source: str
    revision: str | None = None
    description: str = ""
    license: str = ""
    modes: tuple[Mode, ...] = ()
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    preload: bool = False
    guidance_field: str = ""
    max_sequence_length: PositiveInt | None = None
    sizes: tuple[Size, ...] = ()
    defaults: Defaults = Defaults()
    qualities: dict[str, Quality] = {}
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
        filled.setdefault("modes", tuple(family.routes))
        filled.setdefault("guidance_field", family.guidance_field)
        return filled

    @model_validator(mode="after")
    def _agree(self) -> ModelSpec:
        family = FAMILIES.get(self.family)
        if family is None:
            raise ValueError(f"family {self.family!r} is none of {', '.join(FAMILIES)}")
        missing = [mode for mode in self.modes if mode not in family.routes]
        if missing:
            raise ValueError(f"family {self.family!r} cannot {', '.join(missing)}")
        for width, height in self.sizes:
            if width % family.size_multiple or height % family.size_multiple:
                raise ValueError(f"size {width}x{height} is not made of {family.size_multiple}s")
        return self

    @property
    def rules(self) -> Family:
        """What the model's architecture fixes."""
        return FAMILIES[self.family]

    @cached_property
    def default_size(self) -> tuple[int, int]:
        """Width and height in pixels of a request that names no size."""
        if self.defaults.size is not None:
            return self.defaults.size
        return self.sizes[0] if self.sizes else self._nearest_free(1.0, self.rules.native_side**2)

    def nearest_size(self, width: int, height: int) -> tuple[int, int]:
        """The size nearest to `width` × `height` pixels that the model can make."""
        return self._nearest(width / height, width * height)

    def size_of(self, aspect_ratio: str, resolution: str | None) -> tuple[int, int]:
        """The size nearest to a ratio like "16:9" at a tier like "2k"; native area without one."""
        side = TIER_SIDES_PX[resolution] if resolution else math.sqrt(math.prod(self.default_size))
        return self._nearest(parse_ratio(aspect_ratio), side**2)

    def _nearest(self, ratio: float, area_px: float) -> tuple[int, int]:
        if not self.sizes:
            return self._nearest_free(ratio, area_px)

        # A wrong ratio spoils a picture more than a wrong scale does, hence the order.
        def distance(size: tuple[int, int]) -> tuple[float, float]:
            width, height = size
            return (
                round(abs(math.log(width / height / ratio)), 2),
                abs(math.log(width * height / area_px)),
            )

        return min(self.sizes, key=distance)

    def _nearest_free(self, ratio: float, area_px: float) -> tuple[int, int]:
        unit, limits = self.rules.size_multiple, self.limits
        area_px = min(area_px, limits.max_megapixels * 1e6)
        lowest, highest = -(-limits.min_side // unit) * unit, limits.max_side // unit * unit

        def side(length: float) -> int:
            return min(max(round(length / unit) * unit, lowest), highest)

        width, height = side(math.sqrt(area_px * ratio)), side(math.sqrt(area_px / ratio))
        while width * height > limits.max_megapixels * 1e6 and max(width, height) > lowest:
            if width >= height:
                width -= unit
            else:
                height -= unit
        return width, height


class Alias(_Strict):
    """Another name that clients send, and the local model it means, per mode."""

    generate: str | None = None
    img2img: str | None = None
    inpaint: str | None = None
    price: Price | None = None

    def model_for(self, mode: Mode) -> str | None:
        """The local model that serves `mode` under this alias."""
        return {
            Mode.GENERATE: self.generate,
            Mode.IMG2IMG: self.img2img,
            Mode.INPAINT: self.inpaint,
        }[mode]


def _parse_alias(value: object) -> object:
    """A bare model name, or `model:` for every mode."""
    if isinstance(value, str):
        value = {"model": value}
    if isinstance(value, dict) and "model" in value:
        rest = {key: other for key, other in value.items() if key != "model"}
        return {mode.value: value["model"] for mode in Mode} | rest
    return value


class Catalog(_Strict):
    """Every served model and every name it answers to."""

    models: dict[str, ModelSpec]
    aliases: dict[str, Annotated[Alias, BeforeValidator(_parse_alias)]] = {}

    @model_validator(mode="after")
    def _aliases_lead_somewhere(self) -> Catalog:
        for name, alias in self.aliases.items():
            if name in self.models:
                raise ValueError(f"alias {name!r} is also a model")
            for mode in Mode:
                target = alias.model_for(mode)
                if target is not None and target not in self.models:
                    raise ValueError(f"alias {name!r} leads to {target!r}, which is not a model")
        return self

    def names(self) -> list[str]:
        """Every name a request may use, models first."""
        return [*self.models, *self.aliases]

    def find(self, name: str, mode: Mode) -> ModelSpec:
        """The model that serves `mode` under `name`; raises UnknownModel or Unsupported."""
        spec = self.models.get(name)
        if spec is None and (alias := self.aliases.get(name)) is not None:
            target = alias.model_for(mode)
            spec = self.models[target] if target is not None else None
            if spec is None:
                raise Unsupported("model", f"{name!r} is not set up to {mode}")
        if spec is None:
            served = ", ".join(self.names())
            raise UnknownModel("model", f"no model {name!r} here; served are: {served}")
        if mode not in spec.modes:
            can = ", ".join(spec.modes)
            raise Unsupported("model", f"{name!r} cannot {mode}; it can: {can}")
        return spec

    def price(self, request: ImageRequest) -> int:
        """Credits for one picture; raises Unsupported for a tier or quality the price omits."""
        alias = self.aliases.get(request.model)
        spec = self.find(request.model, mode_of(request))
        price: Any = alias.price if alias is not None and alias.price is not None else spec.price
        for field, asked in (("resolution", request.resolution), ("quality", request.quality)):
            if not isinstance(price, Mapping):
                break
            choice = asked if asked is not None else next(iter(price))
            if choice not in price:
                known = ", ".join(price)
                raise Unsupported(
                    field, f"{request.model!r} has no {field} {choice!r}, only {known}"
                )
            price = price[choice]
        return int(price)


def load_catalog(path: Path) -> Catalog:
    """The catalog in a YAML file; raises CatalogError naming file, line and nearest known key."""
    document = read_yaml(path)
    values = document.values
    if isinstance(values, dict) and isinstance(values.get("models"), dict):
        for name, entry in values["models"].items():
            if isinstance(entry, dict):
                entry.setdefault("name", str(name))
    try:
        return Catalog.model_validate(values)
    except ValidationError as error:
        raise CatalogError(explain(error, document, Catalog)) from None


def mode_of(request: ImageRequest) -> Mode:
    """The mode a request names, or the one its pictures imply."""
    if request.mode is not None:
        return request.mode
    roles = {image.role for image in request.images}
    if ImageRole.MASK in roles:
        return Mode.INPAINT
    return Mode.IMG2IMG if ImageRole.SOURCE in roles else Mode.GENERATE


def parse_ratio(text: str) -> float:
    """Width over height of a ratio like "16:9"; raises BadValue."""
    left, colon, right = text.partition(":")
    if not (colon and left.isdecimal() and right.isdecimal() and int(left) and int(right)):
        raise BadValue("aspect_ratio", f"{text!r} is not a ratio like 16:9")
    ratio = int(left) / int(right)
    if not 1 / 8 <= ratio <= 8:
        raise BadValue("aspect_ratio", f"{text!r} is beyond 8:1")
    return ratio
