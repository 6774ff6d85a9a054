"""The JSON Schema of models.yaml against what the server itself takes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml

from inference.catalog import load_catalog
from inference.errors import CatalogError
from inference.job import Mode
from inference.yaml_schema import schema
from tests.inference.shipped import ROOT, SHIPPED, commented, real_models

COMMITTED = ROOT / "docs" / "models.schema.json"


@pytest.fixture(scope="module")
def editor() -> Any:
    return jsonschema_rs.validator_for(schema())


def complaints(editor: Any, document: Any) -> list[str]:
    return [f"{error.instance_path}: {error.message}" for error in editor.iter_errors(document)]


def is_served(document: Any, folder: Path) -> bool:
    path = folder / "models.yaml"
    path.write_text(yaml.safe_dump(document, allow_unicode=True))
    try:
        load_catalog(path)
    except CatalogError:
        return False
    return True


def one(**keys: Any) -> dict[str, Any]:
    return {"models": {"m": {"family": "flux", "source": "./m", **keys}}}


def test_the_committed_schema_is_the_codes() -> None:
    told = "write it anew: darkroom models schema > docs/models.schema.json"
    assert json.loads(COMMITTED.read_text()) == schema(), told


def test_models_yaml_names_its_schema_where_editors_look() -> None:
    first = SHIPPED.read_text().splitlines()[0]
    assert first == "# yaml-language-server: $schema=" + COMMITTED.relative_to(ROOT).as_posix()


def test_models_yaml_as_shipped_is_valid(editor: Any) -> None:
    assert complaints(editor, yaml.safe_load(SHIPPED.read_text())) == []


def test_the_real_models_in_comments_are_a_whole_catalogue(editor: Any, tmp_path: Path) -> None:
    document = real_models()
    assert complaints(editor, document) == []
    path = tmp_path / "models.yaml"
    path.write_text(yaml.safe_dump(document))
    catalog = load_catalog(path)
    assert len(catalog.models) == 11
    assert all(spec.license and spec.description for spec in catalog.models.values())


def test_the_real_models_can_stand_beside_the_demo_ones(tmp_path: Path) -> None:
    """As an operator takes the # away in place, and lets the hosted ids mean them."""
    text = SHIPPED.read_text()
    block = commented("catalogue")
    masked = "".join("  # " + line[2:] + "\n" for line in block.splitlines())
    assert masked in text
    text = text.replace(masked, block)
    for line in commented("aliases").splitlines():
        name = line.partition(":")[0]
        text, times = re.subn(rf"^{re.escape(name)}: .*$", line, text, count=1, flags=re.M)
        assert times == 1, name
    path = tmp_path / "models.yaml"
    path.write_text(text)
    catalog = load_catalog(path)
    assert {"tiny-flux", "flux-dev", "z-image"} <= set(catalog.models)
    assert catalog.find("black-forest-labs/flux.1-dev", Mode.GENERATE).name == "flux-dev"
    assert catalog.find("qwen3-image", Mode.EDIT).name == "qwen-image-edit"


def test_the_hosted_ids_in_comments_are_names_that_are_served_already() -> None:
    served = yaml.safe_load(SHIPPED.read_text())["aliases"]
    named = real_models()["aliases"]
    assert set(named) <= set(served)
    prices = {name: one["price"] for name, one in named.items() if isinstance(one, dict)}
    shown = {name: served[name] for name in prices}
    known = {name: one["price"] for name, one in shown.items() if "price" in one}
    assert {name: prices[name] for name in known} == known


REFERENCE = {"by": "redux", "source": "a/b"}
GOOD = [
    one(sizes=["128x96", [128, 96]], defaults={"size": "128X96"}),
    one(references={"palette": "transfer", "style": REFERENCE}),
    one(quantization="torchao-int8", vae={"tiling": True}),
    one(quantization={"kind": "gguf", "file": "q.gguf"}, cache="first_block"),
    one(price={"1k": {"standard": 2, "high": 5}, "2k": 8}),
    one() | {"aliases": {"a": "m", "b": ["m"], "c": {"model": ["m"], "edit": None, "price": 3}}},
    one() | {"rater": {"clip": "a/b"}},
    one() | {"rater": {"classifier": "a/b", "nsfw_labels": "bad"}},
]
BAD = [
    {},
    one(familly="flux"),
    one(family="flax"),
    one(sizes=["128 by 96"]),
    one(sizes=[[128]]),
    one(defaults={"sampler": "eule"}),
    one(defaults={"num_inference_steps": 0}),
    one(references={"palette": "transfers"}),
    one(references={"colours": "transfer"}),
    one(quantization="int8"),
    one(modes=["generates"]),
    one(price=-1),
    one(price={"8k": 1}),
    one(preload="perhaps"),
    one() | {"aliases": {"a": 3}},
    one() | {"aliases": {"a": {"model": "m", "prize": 3}}},
    one() | {"rator": {"clip": "a/b"}},
]


@pytest.mark.parametrize("document", GOOD, ids=range(len(GOOD)))
def test_what_the_server_takes_the_editor_takes(
    editor: Any, document: dict[str, Any], tmp_path: Path
) -> None:
    assert is_served(document, tmp_path)
    assert complaints(editor, document) == []


@pytest.mark.parametrize("document", BAD, ids=range(len(BAD)))
def test_what_the_editor_marks_the_server_refuses(
    editor: Any, document: dict[str, Any], tmp_path: Path
) -> None:
    assert not is_served(document, tmp_path)
    assert complaints(editor, document) != []
