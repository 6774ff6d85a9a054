"""The models derived from the demo model, loaded as any user would and judged by their pixels."""

import json
import warnings
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FluxFillPipeline, FluxKontextPipeline
from PIL import Image
from safetensors import safe_open

from inference.catalog import Catalog
from inference.demo import TINY_FLUX
from inference.demo.derived import base_of, load_derived, own_parts, write_base
from inference.demo.inpaint import paste_back, replacements
from inference.demo.judge import judge, stripes
from inference.demo.train.edit_scores import edit_orders, make_edits, score_edits
from inference.demo.train.inpaint_scores import replace_objects, score_replacements
from inference.demo.train.lora_scores import STRENGTHS, load_striped, lora_orders, paint_at
from inference.loading import load_pipelines

pytestmark = pytest.mark.timeout(120)

SEED = 55
COUNT = 24
STRIPES = TINY_FLUX.with_name("tiny-flux-stripes")
FILL = TINY_FLUX.with_name("tiny-flux-fill")
KONTEXT = TINY_FLUX.with_name("tiny-flux-kontext")
DERIVED = (STRIPES, FILL, KONTEXT)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture(scope="module")
def striped() -> dict[float, list[Image.Image]]:
    """The same prompts and seeds at every strength of the LoRA."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipe, orders = load_striped(STRIPES), lora_orders(COUNT, SEED)
        return {strength: paint_at(pipe, orders, strength) for strength in STRENGTHS}


def test_objects_get_more_striped_with_every_step_of_the_strength(
    striped: dict[float, list[Image.Image]],
) -> None:
    means = [np.mean([stripes(picture) for picture in striped[s]]) for s in STRENGTHS]
    assert abs(means[0]) < 0.02
    assert all(after > before + 0.005 for before, after in pairwise(means))
    assert means[-1] > 0.35


def test_stripes_leave_shape_place_and_background_alone(
    striped: dict[float, list[Image.Image]],
) -> None:
    # At full strength the judge is unsure: it takes a dark stripe for something else.
    verdicts = [
        judge(picture, order.scene.keep({"shape", "position", "background"}))
        for picture, order in zip(striped[0.75], lora_orders(COUNT, SEED), strict=True)
    ]
    for name, least in (("shape", 0.7), ("background", 0.75), ("position", 0.85)):
        marks = [verdict.matches[name] for verdict in verdicts if name in verdict.matches]
        assert np.mean(marks) >= least, name


def test_no_strength_is_the_generator_itself(striped: dict[float, list[Image.Image]]) -> None:
    pipe = load_striped(STRIPES)
    pipe.unload_lora_weights()
    pipe.set_adapters = lambda *_: None
    plain = paint_at(pipe, lora_orders(COUNT, SEED)[:4], 0.0)
    for first, second in zip(plain, striped[0.0], strict=False):
        difference = np.abs(np.asarray(first, np.int16) - np.asarray(second, np.int16))
        assert difference.max() <= 2


def test_fill_replaces_the_object_and_keeps_the_rest() -> None:
    pipe, orders = load_derived(FILL, FluxFillPipeline), replacements(COUNT, SEED)
    painted = replace_objects(pipe, orders)
    found = score_replacements(orders, painted)
    assert found["colour"] >= 0.8
    assert found["shape"] >= 0.75
    assert found["background"] >= 0.85
    assert found["kept"] >= 0.9
    for order, picture in zip(orders, painted, strict=True):
        before, _ = order.drawings()
        assert not judge(before, order.after.keep({"colour", "shape"})).right
        outside = ~order.mask()
        pasted = np.asarray(paste_back(before, picture, order.mask()))
        assert np.array_equal(pasted[outside], np.asarray(before)[outside])


def test_edits_do_what_they_are_told_and_keep_the_rest() -> None:
    orders = edit_orders(COUNT, SEED)
    edited = make_edits(load_derived(KONTEXT, FluxKontextPipeline), orders, steps=8, guidance=1)
    found = score_edits(orders, edited)
    assert found["success"] >= 0.8
    assert found["kept"] >= 0.9
    assert found["changed"] >= 0.7
    for order in orders:
        before, _ = order.drawings()
        assert not judge(before, order.edit.after).right


def test_parts_that_do_not_lie_in_a_derived_folder_are_the_generators() -> None:
    pipe = load_derived(FILL, FluxFillPipeline)
    base: Any = load_derived(TINY_FLUX, FluxFillPipeline)
    assert pipe.transformer.config.in_channels == 384
    assert base.transformer.config.in_channels == 64
    for name in ("vae", "text_encoder", "text_encoder_2"):
        ours, theirs = (getattr(p, name).state_dict() for p in (pipe, base))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize("folder", DERIVED, ids=lambda folder: folder.name)
def test_derived_folders_hold_only_what_is_their_own(folder: Path) -> None:
    assert base_of(folder) == TINY_FLUX.resolve()
    assert set(own_parts(folder, torch.float16)) <= {"transformer"}
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".md"}
    for path in files:
        if path.suffix == ".json":
            assert "_name_or_path" not in json.loads(path.read_text())
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as tensors:
                assert all(torch.isfinite(tensors.get_tensor(k)).all() for k in tensors.keys())  # noqa: SIM118


def test_derived_models_together_are_small() -> None:
    files = [path for folder in DERIVED for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 24_000_000


def test_a_whole_folder_is_its_own_base_and_brings_no_parts(tmp_path: Path) -> None:
    assert base_of(TINY_FLUX) == TINY_FLUX
    assert own_parts(TINY_FLUX, torch.float32) == {}
    (tmp_path / "one").mkdir()
    write_base(tmp_path / "one", tmp_path / "two")
    assert json.loads((tmp_path / "one" / "base.json").read_text()) == {"base": "../two"}
    assert base_of(tmp_path / "one") == (tmp_path / "two").resolve()


@pytest.mark.parametrize("folder", DERIVED, ids=lambda folder: folder.name)
def test_scores_lie_beside_the_weights(folder: Path) -> None:
    scores = json.loads((folder / "scores.json").read_text())
    assert all(row["n"] >= 100 for row in scores["scores"])


def test_the_engine_loads_a_derived_model_by_its_builtin_name() -> None:
    entry = {
        "name": "fill",
        "family": "flux-fill",
        "source": "builtin:tiny-flux-fill",
        "dtype": "float32",
        "guidance_field": "none",
    }
    spec = Catalog.model_validate({"models": {"fill": entry}}).models["fill"]
    (pipe,) = load_pipelines(spec, "cpu").values()
    assert isinstance(pipe, FluxFillPipeline)
    whole = load_derived(FILL, FluxFillPipeline)
    ours, theirs = (part.transformer.state_dict() for part in (pipe, whole))
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
