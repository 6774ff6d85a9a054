"""Wire types: bodies become them, or are told why not, and the OpenAPI document shows them."""

from __future__ import annotations

import difflib
import re
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from api.body import MULTIPART, Body, short
from api.errors import BadRequest

Wire = TypeVar("Wire", bound=BaseModel)


def parse(wire: type[Wire], body: Body) -> Wire:
    """The wire type in a body; raises BadRequest with the first field at fault.

    Values of a form are text and become what the field is; values of JSON must be it already.
    """
    try:
        return wire.model_validate(body.values, strict=not body.is_form)
    except ValidationError as error:
        raise explain(error, tuple(wire.model_fields)) from None


def body_docs(wire: type[BaseModel], *, files: tuple[str, ...]) -> dict[str, Any]:
    """The OpenAPI request body of a wire type that comes as JSON, or as a form with files."""
    schema = whole_schema(wire)
    binary = {name: {"type": "string", "format": "binary"} for name in files}
    form = schema | {"properties": schema["properties"] | binary}
    content = {"application/json": {"schema": schema}, MULTIPART: {"schema": form}}
    return {"requestBody": {"required": True, "content": content}}


def json_docs(wire: type[BaseModel]) -> dict[str, Any]:
    """The OpenAPI request body of a wire type that comes as JSON only."""
    content = {"application/json": {"schema": whole_schema(wire)}}
    return {"requestBody": {"required": True, "content": content}}


def whole_schema(wire: type[BaseModel]) -> dict[str, Any]:
    """A wire type's JSON schema with what it refers to put in place.

    Inside an OpenAPI document its references would lead nowhere.
    """
    schema = wire.model_json_schema()
    parts = schema.pop("$defs", {})

    def filled(value: Any) -> Any:
        if isinstance(value, list):
            return [filled(item) for item in value]
        if not isinstance(value, dict):
            return value
        if "$ref" in value:
            return filled(parts[value["$ref"].rpartition("/")[2]])
        return {name: filled(item) for name, item in value.items()}

    return dict(filled(schema))


def explain(error: ValidationError, known: tuple[str, ...]) -> BadRequest:
    """The first complaint in words for the caller, which repeat no value of theirs.

    Of a field that is missing and there by another spelling, the spelling is what to change.
    """
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    problem = next((one for one in problems if _misspells(one, problems[0])), problems[0])
    return complaint(problem["type"], problem["loc"], problem["msg"], known)


def _misspells(one: ErrorDetails, missing: ErrorDetails) -> bool:
    if (one["type"], missing["type"]) != ("extra_forbidden", "missing"):
        return False
    (*where, name), (*place, wanted) = one["loc"], missing["loc"]
    return where == place and bool(difflib.get_close_matches(str(name)[:60], [str(wanted)], n=1))


def complaint(
    kind: str, location: tuple[int | str, ...], message: str, known: tuple[str, ...] = ()
) -> BadRequest:
    """One complaint of pydantic's in words for the caller, with the field at fault."""
    name = ".".join(short(str(part)) for part in location) or None
    if kind == "extra_forbidden":
        close = difflib.get_close_matches(str(location[-1])[:60], known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known are: {', '.join(known)}"
        return BadRequest(f"there is no field {name!r}; {hint}", field=name)
    if kind == "missing":
        return BadRequest(f"{name} is required", field=name)
    if kind == "model_type":
        message = "Input should be an object"
    text = message.removesuffix(".").replace(" after validation", "")
    for opening in ("Value error, ", "Input ", "String ", "List "):
        text = text.removeprefix(opening)
    return BadRequest(f"{name or 'the body'} {text[:1].lower()}{text[1:]}", field=name)


def without_nulls(value: Any) -> Any:
    """A JSON value as if fields that are null, at any depth, had been left out."""
    if isinstance(value, dict):
        return {name: without_nulls(one) for name, one in value.items() if one is not None}
    if isinstance(value, list):
        return [without_nulls(one) for one in value]
    return value


def in_brackets(field: str) -> str:
    """The name of a field as one would write it in code: `inputs.0.url` is `inputs[0].url`."""
    return re.sub(r"\.(\d+)(?=\.|$)", r"[\1]", field)
