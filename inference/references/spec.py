"""Reference pictures by tag: how models.yaml says a model takes each, and the door for requests.

No torch here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from inference.arguments import TRUE_CFG
from inference.errors import BadValue, Unsupported
from inference.job import DEFAULT_WEIGHT, ImageRequest, ImageRole, InputImage, Mode, ReferenceTag
from inference.places import PathWithin, SourceOrNone

if TYPE_CHECKING:
    from inference.model_spec import ModelSpec


class Way(StrEnum):
    """How a model takes something from a reference picture.

    CONTROLNET, IP_ADAPTER and REDUX are checkpoints beside its own. NATIVE shows it the picture
    after the source pictures, and says in words what for. TRANSFER needs no model.
    """

    CONTROLNET = "controlnet"
    IP_ADAPTER = "ip_adapter"
    REDUX = "redux"
    NATIVE = "native"
    TRANSFER = "transfer"


_LOOK = (Way.IP_ADAPTER, Way.REDUX, Way.NATIVE)
_LAYOUT = (Way.CONTROLNET, Way.NATIVE)
WAYS: Mapping[ReferenceTag, tuple[Way, ...]] = {
    ReferenceTag.STYLE: _LOOK,
    ReferenceTag.CHARACTER: _LOOK,
    ReferenceTag.PALETTE: (Way.TRANSFER,),
    ReferenceTag.COMPOSITION: _LAYOUT,
    ReferenceTag.POSE: _LAYOUT,
}
# How many pictures of one tag; of those that are shown natively the model's own bound counts.
MOST = {Way.CONTROLNET: 1, Way.IP_ADAPTER: 1, Way.REDUX: 4, Way.TRANSFER: 1}

_PLACE = {"source", "revision", "strength"}
_IMAGE_ENCODER = {"image_encoder", "image_encoder_subfolder"}
# The keys that mean something, by way.
_KEYS: Mapping[Way, set[str]] = {
    Way.CONTROLNET: _PLACE | {"subfolder", "condition", "control_mode"},
    Way.IP_ADAPTER: _PLACE | {"subfolder", "file"} | _IMAGE_ENCODER,
    Way.REDUX: _PLACE,
    Way.NATIVE: set(),
    Way.TRANSFER: set(),
}


class ReferenceSpec(BaseModel):
    """How a model takes one tag: the way, and where its checkpoint is if it needs one.

    `strength` is what a weight of 1 comes to. `condition` is what a ControlNet is shown of the
    picture, and `control_mode` the number of that kind of condition where it knows several.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    by: Way
    source: SourceOrNone = ""
    revision: str | None = None
    subfolder: PathWithin = ""
    file: PathWithin = ""
    image_encoder: SourceOrNone = ""
    image_encoder_subfolder: PathWithin = ""
    condition: Literal["as_given", "edges", "grey", "blur"] = "as_given"
    control_mode: Annotated[int, Field(ge=0, strict=True)] | None = None
    strength: Annotated[float, Field(gt=0, le=4, strict=True)] = 1.0

    @model_validator(mode="after")
    def _agree(self) -> ReferenceSpec:
        known = _KEYS[self.by]
        if foreign := sorted(self.model_fields_set - known - {"by"}):
            raise ValueError(f"what is taken by {self.by} has no {', '.join(foreign)}")
        if "source" in known and not self.source:
            raise ValueError(f"what is taken by {self.by} needs a source")
        if self.by is Way.IP_ADAPTER and not self.file.endswith(".safetensors"):
            raise ValueError("an IP-Adapter needs a file, one of .safetensors")
        return self


def _parse(value: Any) -> Any:
    """A way alone stands for an entry that says no more."""
    return {"by": value} if isinstance(value, str) else value


References = dict[ReferenceTag, Annotated[ReferenceSpec, BeforeValidator(_parse)]]


def problems(spec: ModelSpec) -> Iterator[str]:
    """What a model's references say against their tags or its family."""
    for tag, entry in spec.references.items():
        able = [way for way in WAYS[tag] if way in spec.rules.reference_ways]
        if entry.by not in able:
            known = ", ".join(able) or "nothing"
            yield f"references: {tag} can be taken by {known} in family {spec.family!r}"
        names_modes = any(route.mode_field for route in spec.rules.controls.values())
        if entry.control_mode is not None and not names_modes:
            yield f"references: {tag} has a control_mode, of which {spec.family!r} knows none"
        if entry.by is not Way.TRANSFER and spec.pipelines:
            yield f"references: {tag} by {entry.by} needs the family's own pipelines"


def counted(request: ImageRequest) -> list[InputImage]:
    """The references that are to change the picture; a weight of 0 is as if it was not there."""
    return [
        image for image in request.images if image.role is ImageRole.REFERENCE and image.weight != 0
    ]


def check(request: ImageRequest, spec: ModelSpec, mode: Mode) -> None:
    """Refuse references that the model cannot take; raises Refused with the field at fault."""
    for image in request.images:
        weight = DEFAULT_WEIGHT if image.weight is None else image.weight
        if image.role is ImageRole.REFERENCE and not 0 <= weight <= 1:
            what = f"a reference's weight must lie between 0 and 1, not {weight:g}"
            raise BadValue("references", what)
    if (reason := refusal(spec, mode, request)) is not None:
        raise Unsupported("references", f"{spec.name!r} cannot {reason}")


def refusal(spec: ModelSpec, mode: Mode, request: ImageRequest) -> str | None:
    """What the model cannot do with a request's references; None where it can follow them."""
    return next(_refusals(spec, mode, request), None)


def _refusals(spec: ModelSpec, mode: Mode, request: ImageRequest) -> Iterator[str]:
    can = ", ".join(sorted(spec.references)) or "nothing"
    for image in request.images:
        if image.role is ImageRole.REFERENCE and image.tag not in spec.references:
            yield f"take {image.tag} from a reference picture, only {can}"
            return
    tags = Counter(image.tag for image in counted(request) if image.tag is not None)
    for tag, count in tags.items():
        most = MOST.get(spec.references[tag].by, count)
        if count > most:
            yield f"take {tag} from {count} reference pictures, only from {most}"
    by = {way: [tag for tag in tags if spec.references[tag].by is way] for way in Way}
    yield from _too_many_shown(spec, mode, request, sum(tags[tag] for tag in by[Way.NATIVE]))
    yield from _uncombinable(spec, mode, by)
    yield from _uncontrollable(spec, mode, by)


def _too_many_shown(
    spec: ModelSpec, mode: Mode, request: ImageRequest, shown: int
) -> Iterator[str]:
    sources = sum(image.role is ImageRole.SOURCE for image in request.images)
    route = spec.rules.routes.get(Mode.EDIT if mode is Mode.GENERATE else mode)
    most = route.max_sources if route is not None else 0
    if shown and sources + shown > most:
        yield f"look at {sources + shown} pictures at once, only at {most}"


def _uncombinable(
    spec: ModelSpec, mode: Mode, by: Mapping[Way, list[ReferenceTag]]
) -> Iterator[str]:
    if len(by[Way.IP_ADAPTER]) > 1:
        yield f"take {' and '.join(by[Way.IP_ADAPTER])} at once: each is an IP-Adapter"
    # all pipelines but one count the tokens of the negative prompt like those of the prompt
    counts_alike = mode is not Mode.GENERATE or by[Way.CONTROLNET]
    if by[Way.REDUX] and spec.guidance_field == TRUE_CFG and counts_alike:
        beside = f" with {by[Way.CONTROLNET][0]}" if by[Way.CONTROLNET] else ""
        yield f"take {by[Way.REDUX][0]} in {mode}{beside}: its guidance is {TRUE_CFG}"


def _uncontrollable(
    spec: ModelSpec, mode: Mode, by: Mapping[Way, list[ReferenceTag]]
) -> Iterator[str]:
    """What stands against a ControlNet in a mode, or beside others."""
    if not (tags := by[Way.CONTROLNET]):
        return
    route = spec.rules.controls.get(mode)
    if route is None:
        yield f"take {tags[0]} in {mode}, only to {', '.join(spec.rules.controls)}"
        return
    if len(tags) > 1 and not spec.rules.several_controls:
        yield f"take {' and '.join(tags)} at once: each is a ControlNet"
    if spec.guidance_field == TRUE_CFG and not route.true_cfg:
        yield f"take {tags[0]} in {mode}: its guidance is {TRUE_CFG}"
    if by[Way.IP_ADAPTER] and not route.ip_adapter:
        yield f"take {tags[0]} and {by[Way.IP_ADAPTER][0]} at once in {mode}"


def shown(request: ImageRequest, spec: ModelSpec) -> list[InputImage]:
    """The references that the model looks at like source pictures, in order."""
    return [
        image
        for image in counted(request)
        if image.tag in spec.references and spec.references[image.tag].by is Way.NATIVE
    ]


# What a weight up to so much is worded as.
WORDS = (
    (1 / 3, "Take a hint of the {tag} of picture {number}."),
    (2 / 3, "Take over the {tag} of picture {number}."),
    (1.0, "Follow the {tag} of picture {number} closely."),
)


def with_words(prompt: str, request: ImageRequest, spec: ModelSpec) -> str:
    """The prompt, and for each picture that is only shown what it is for."""
    first = 1 + sum(image.role is ImageRole.SOURCE for image in request.images)
    said = []
    for number, image in enumerate(shown(request, spec), first):
        weight = DEFAULT_WEIGHT if image.weight is None else image.weight
        words = next(words for limit, words in WORDS if weight <= limit)
        said.append(words.format(tag=image.tag, number=number))
    if not said:
        return prompt
    end = "" if not prompt or prompt.rstrip().endswith((".", "!", "?")) else "."
    return " ".join([prompt.rstrip() + end, *said]).strip()
