"""models.yaml as a JSON Schema, for editors that complete and check while one types. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from inference.catalog import Catalog
from inference.options.spec import ATTENTIONS
from inference.pipelines import FAMILIES
from inference.samplers import SAMPLERS

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
# Tables that one of their keys alone stands for: `palette: transfer` is `palette: {by: transfer}`.
_SHORT_FORMS = {
    "Alias": "model",
    "ReferenceSpec": "by",
    "Quantization": "kind",
    "StepCache": "kind",
}
# Lists of names that a name alone stands for.
_NAMES = {
    "Alias": ("model", "generate", "img2img", "inpaint", "edit"),
    "RaterSpec": ("nsfw_labels",),
}
# What is text to pydantic, and one of a table's names to a validator.
_CHOICES: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("ModelSpec", "family"): tuple(FAMILIES),
    ("ModelSpec", "attention"): ATTENTIONS,
    ("ModelSpec", "samplers"): tuple(SAMPLERS),
    ("Defaults", "sampler"): tuple(SAMPLERS),
    ("Profile", "sampler"): tuple(SAMPLERS),
}
_SIZE = {"type": "string", "pattern": r"^[0-9]{1,6}[xX][0-9]{1,6}$"}


def schema() -> dict[str, Any]:
    """The schema of a whole file.

    What one value says against another, such as a default beyond a limit, only the server knows.
    """
    made = Catalog.model_json_schema()
    tables = made["$defs"]
    del tables["ModelSpec"]["properties"]["name"]
    for (table, key), names in _CHOICES.items():
        _limit(tables[table]["properties"][key], names)
    for table, keys in _NAMES.items():
        for key in keys:
            _take_one(tables[table]["properties"][key])
    return {"$schema": _DIALECT, "title": "models.yaml of Darkroom", **_shortened(made)}


def _limit(node: dict[str, Any], names: tuple[str, ...]) -> None:
    """Let text, wherever it stands in a key's schema, be one of these."""
    if node.get("type") == "string":
        node["enum"] = list(names)
    for inner in (*node.get("anyOf", ()), *filter(None, [node.get("items")])):
        _limit(inner, names)


def _take_one(node: dict[str, Any]) -> None:
    """Let one text stand for a list of it."""
    choices = node.pop("anyOf", None)
    if choices is None:
        kept = {key: node.pop(key) for key in ("type", "items", "minItems") if key in node}
        choices = [kept]
    node["anyOf"] = [{"type": "string"}, *choices]


def _shortened(node: Any, key: str = "") -> Any:
    """The same with what stands for a table, or a pair of sides, allowed in its place."""
    if isinstance(node, list):
        return [_shortened(one) for one in node]
    if not isinstance(node, dict):
        return node
    # pydantic's titles repeat the keys
    inner = {
        name: _shortened(one, name)
        for name, one in node.items()
        if name != "title" or key == "properties"
    }
    table = str(inner.get("$ref", "")).removeprefix("#/$defs/")
    if table in _SHORT_FORMS:
        short = {"$ref": f"#/$defs/{table}/properties/{_SHORT_FORMS[table]}"}
        others = {name: one for name, one in inner.items() if name != "$ref"}
        return {"anyOf": [short, {"$ref": inner["$ref"]}], **others}
    if "prefixItems" in inner:
        return {"anyOf": [_SIZE, inner]}
    return inner
