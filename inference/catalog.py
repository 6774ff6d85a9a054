"""models.yaml as a table: which models are served, and under which names.

Nothing here loads a weight.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator

from inference.assistants.spec import EnhancerSpec, RaterSpec, SearchSpec, ViewerSpec
from inference.errors import CatalogError, UnknownModel, Unsupported
from inference.job import ImageRequest, ImageRole, Job, Mode
from inference.model_spec import ModelSpec, Strict
from inference.prices import Price
from inference.sizes import TIER_SIDES_PX, tier_of
from inference.yamlfile import explain, read_yaml

# In a refusal: there may be a hundred aliases.
MOST_NAMED = 20


def _parse_names(value: object) -> object:
    """One name is a list of one."""
    return [value] if isinstance(value, str) else value


def _check_name(name: str) -> str:
    """Names stand in addresses, logs and lines of a terminal."""
    if not name.strip() or not name.isprintable() or name != name.strip():
        raise ValueError(f"{name!r} is no name: it must be printable, without spaces around it")
    if {"", ".", ".."} & {*name.split("/")}:
        raise ValueError(f"{name!r} is no name: between slashes must stand more than dots")
    return name


Name = Annotated[str, AfterValidator(_check_name)]
Names = Annotated[tuple[str, ...], BeforeValidator(_parse_names)]


class Alias(Strict):
    """Another name that clients send, and what it means: `model`, or something else per mode.

    Of several models the first that can do what a request needs is taken.
    """

    model: Names = ()
    generate: Names | None = None
    img2img: Names | None = None
    inpaint: Names | None = None
    edit: Names | None = None
    price: Price | None = None

    def models_for(self, mode: Mode) -> tuple[str, ...]:
        """The local models that serve `mode` under this alias; an explicit null serves none."""
        own: tuple[str, ...] | None = getattr(self, mode.value)
        return (own or ()) if mode.value in self.model_fields_set else self.model


def _parse_alias(value: object) -> object:
    """A bare model name, or a list of them, stands for every mode."""
    return {"model": value} if isinstance(value, str | list) else value


class Catalog(Strict):
    """Every served model, every name it answers to, and who helps around the pictures."""

    models: dict[Name, ModelSpec]
    aliases: dict[Name, Annotated[Alias, BeforeValidator(_parse_alias)]] = Field(default={})
    rater: RaterSpec | None = None
    enhancer: EnhancerSpec | None = None
    search: SearchSpec | None = None
    viewer: ViewerSpec | None = None

    @model_validator(mode="after")
    def _names_agree(self) -> Catalog:
        for name, spec in self.models.items():
            if spec.name != name:
                raise ValueError(f"model {name!r} calls itself {spec.name!r}; leave out its name")
        for name, alias in self.aliases.items():
            if name in self.models:
                raise ValueError(f"alias {name!r} is also a model")
            for mode in Mode:
                for target in alias.models_for(mode):
                    if target not in self.models:
                        raise ValueError(
                            f"alias {name!r} leads to {target!r}, which is not a model"
                        )
        return self

    def names(self) -> list[str]:
        """Every name a request may use, models first."""
        return [*self.models, *self.aliases]

    def find(self, name: str, mode: Mode, request: ImageRequest | None = None) -> ModelSpec:
        """The model that serves `mode` under `name`; raises UnknownModel or Unsupported.

        Where an alias leaves the choice, the first model that can do what `request` needs.
        """
        choice = self._choice(name, mode)
        if not choice:
            raise Unsupported("model", f"{name!r} is not set up to {mode}")
        spec = next((one for one in choice if one.suits(mode, request)), choice[0])
        if mode not in spec.modes:
            can = ", ".join(spec.modes)
            raise Unsupported("model", f"{name!r} cannot {mode}; it can: {can}")
        return spec

    def choose(self, request: ImageRequest) -> tuple[ModelSpec, Mode]:
        """The model and the mode for a wish; raises UnknownModel or Unsupported.

        Where the pictures may mean several modes, the likeliest that a model can do.
        """
        modes = modes_of(request)
        options = [(one, mode) for mode in modes for one in self._choice(request.model, mode)]
        for spec, mode in options:
            if spec.suits(mode, request):
                return spec, mode
        mode = next((mode for spec, mode in options if mode in spec.modes), modes[-1])
        return self.find(request.model, mode, request), mode

    def _choice(self, name: str, mode: Mode) -> list[ModelSpec]:
        """The models that a name may mean in a mode, best first; raises UnknownModel."""
        if name in self.models:
            return [self.models[name]]
        if name not in self.aliases:
            names = self.names()
            more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
            served = ", ".join(names[:MOST_NAMED]) + more
            raise UnknownModel("model", f"no model {name!r} here; served are: {served}")
        return [self.models[target] for target in self.aliases[name].models_for(mode)]

    def price(self, request: ImageRequest, job: Job) -> int:
        """Credits for one picture; raises Unsupported for a tier or quality the price omits.

        A request that names no tier pays for the smallest priced one that holds its picture.
        """
        price: Any = self._price(request, job)
        tier = request.resolution or _priced_tier(price, job)
        for field, asked in (("resolution", tier), ("quality", request.quality)):
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

    def largest_priced(self, request: ImageRequest, job: Job) -> float:
        """Pixels of the largest tier that the price names; endless where it goes by no tier."""
        price = self._price(request, job)
        if not isinstance(price, Mapping):
            return math.inf
        return float(max(TIER_SIDES_PX[tier] for tier in price) ** 2)

    def _price(self, request: ImageRequest, job: Job) -> Price:
        alias = self.aliases.get(request.model)
        if alias is not None and alias.price is not None:
            return alias.price
        return self.models[job.model].price


def _priced_tier(price: Any, job: Job) -> str:
    tiers = list(TIER_SIDES_PX)
    least = tier_of(job.width, job.height)
    priced = price if isinstance(price, Mapping) else {}
    return next((tier for tier in tiers[tiers.index(least) :] if tier in priced), least)


def load_catalog(path: Path) -> Catalog:
    """The catalog in a YAML file; raises CatalogError naming file, line and nearest known key."""
    document = read_yaml(path)
    values = document.values
    if isinstance(values, dict) and isinstance(values.get("models"), dict):
        for name, entry in values["models"].items():
            if isinstance(entry, dict):
                # anew: entries that an anchor shares are one
                values["models"][name] = {"name": str(name), **entry}
    try:
        return Catalog.model_validate(values)
    except ValidationError as error:
        raise CatalogError(explain(error, document, Catalog)) from None


def modes_of(request: ImageRequest) -> tuple[Mode, ...]:
    """The mode a request names, or those its pictures can mean, the likeliest first.

    A source alone is to be edited as the prompt says; with a strength, or without words, it is to
    be varied.
    """
    if request.mode is not None:
        return (request.mode,)
    roles = {image.role for image in request.images}
    if ImageRole.MASK in roles:
        return (Mode.INPAINT,)
    if ImageRole.SOURCE not in roles:
        # some models make pictures from pictures alone
        return (Mode.GENERATE, Mode.EDIT) if ImageRole.REFERENCE in roles else (Mode.GENERATE,)
    varied = request.strength is not None or not request.prompt.strip()
    return (Mode.IMG2IMG, Mode.EDIT) if varied else (Mode.EDIT, Mode.IMG2IMG)
