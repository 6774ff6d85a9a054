"""What `check` says of models, against what loading them finds; and what of the real ones."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.configs import REAL, write
from inference import skeletons
from inference.catalog import Catalog
from inference.check.blueprint import build, size_bytes
from inference.check.cards import Card
from inference.check.entries import check
from inference.check.fits import Need, Sizes, remedies
from inference.check.report import ModelReport, Report
from inference.check.shapes import pictures_of, working_bytes
from inference.coalesce import Rendezvous
from inference.hub.files import is_hub_id
from inference.hub.sources import Sources
from inference.job import Mode
from inference.model import load_model
from inference.model_spec import ModelSpec
from inference.prompts import PromptCache
from inference.residency.placement import modules_of
from inference.selftest import run_selftest
from tests.inference.shipped import commented, real_models

PLENTY = 10**12
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def flux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("flux")
    skeletons.save(skeletons.tiny_flux(), folder)
    return folder


@pytest.fixture
def copied(flux: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(flux, tmp_path / "copied"))


def entry(folder: Path | str, **keys: Any) -> dict[str, Any]:
    plain = {"family": "flux", "dtype": "float32", "sizes": ["128x128"]}
    return {"source": str(folder), **plain, **keys}


def report_of(memory: int = PLENTY, device: str = "cpu", **entries: dict[str, Any]) -> Report:
    named = {name: {"name": name, **told} for name, told in entries.items()}
    catalog = Catalog.model_validate({"models": named})
    with Sources() as sources:
        return check(catalog, list(entries), [Card(device, memory)], sources)


def one(folder: Path | str, memory: int = PLENTY, device: str = "cpu", **keys: Any) -> ModelReport:
    return report_of(memory, device, m=entry(folder, **keys)).models[0]


def test_a_whole_model_can_be_served_and_is_counted_as_it_is(flux: Path) -> None:
    told = one(flux)
    pipe = skeletons.tiny_flux()
    real = {
        name: sum(parameter.nbytes for parameter in module.parameters())
        for name, module in modules_of({Mode.GENERATE: pipe}).items()
    }
    assert told.problems == [] and told.where == "here"
    assert {part.name: part.size_bytes for part in told.parts} == real
    assert told.weight_bytes == sum(real.values())
    assert {(picture.mode, picture.size) for picture in told.pictures} == {
        (mode, "128x128") for mode in (Mode.GENERATE, Mode.IMG2IMG, Mode.INPAINT)
    }
    assert one(flux, dtype="bfloat16").weight_bytes == told.weight_bytes // 2


def test_parts_that_are_the_same_count_once_and_denoisers_twice(flux: Path, copied: Path) -> None:
    both = report_of(a=entry(flux), b=entry(copied))
    single = report_of(a=entry(flux))
    (denoiser,) = (part for part in single.models[0].parts if part.name == "transformer")
    assert both.devices[0].weight_bytes == single.devices[0].weight_bytes + denoiser.size_bytes
    shared = {part.name: part.shared_with for part in both.models[0].parts}
    assert shared.pop("transformer") == ()
    assert set(shared.values()) == {("b",)}


CASES: list[tuple[str, Callable[[], Any], dict[str, Any]]] = [
    ("flux", skeletons.tiny_flux, {"max_sequence_length": 24}),
    ("sdxl", skeletons.tiny_sdxl, {}),
    ("sd3", skeletons.tiny_sd3, {"max_sequence_length": 24}),
    ("flux2-klein", skeletons.tiny_klein, {"max_sequence_length": 24}),
]


@pytest.mark.parametrize(("family", "make", "keys"), CASES, ids=[case[0] for case in CASES])
def test_what_a_picture_takes_is_what_loading_measures(
    family: str, make: Callable[[], Any], keys: dict[str, Any], tmp_path: Path
) -> None:
    skeletons.save(make(), tmp_path)
    spec = ModelSpec.model_validate(entry(tmp_path, name="m", family=family, **keys))
    plan = build([tmp_path], torch.float32)
    guessed = working_bytes(spec, plan, pictures_of(spec, spec.modes[0], (128, 128)))
    model = load_model(spec, "cpu", Rendezvous(), PromptCache(0), 0)
    measured = run_selftest(model, "cpu").operations
    denoiser = next(name for name in spec.rules.denoisers if name in measured)
    assert guessed["denoiser"] == pytest.approx(measured[denoiser][0], rel=0.02)
    assert guessed["vae"] == pytest.approx(measured["decoder"][0], rel=0.02)


def test_more_pixels_and_pictures_take_more(flux: Path) -> None:
    spec = ModelSpec.model_validate(entry(flux, name="m", family="flux-kontext", sizes=[]))
    plan = build([flux], torch.float32)
    small = working_bytes(spec, plan, pictures_of(spec, Mode.GENERATE, (256, 256)))
    large = working_bytes(spec, plan, pictures_of(spec, Mode.GENERATE, (512, 512)))
    edit = working_bytes(spec, plan, pictures_of(spec, Mode.EDIT, (512, 512)))
    assert large["vae"] == pytest.approx(4 * small["vae"], rel=0.01)
    assert small["denoiser"] < large["denoiser"] < edit["denoiser"]


def spoil(folder: Path, what: str) -> None:
    if what == "folder":
        shutil.rmtree(folder)
    elif what == "index":
        (folder / "model_index.json").unlink()
    elif what == "weights":
        (folder / WEIGHTS).unlink()
    elif what == "cut":
        whole = (folder / WEIGHTS).read_bytes()
        (folder / WEIGHTS).write_bytes(whole[:-1])
    elif what == "config":
        (folder / "transformer" / "config.json").write_text("{")
    elif what == "part":
        told = json.loads((folder / "model_index.json").read_text())
        del told["vae"]
        (folder / "model_index.json").write_text(json.dumps(told))
    else:
        key, value = what.split("=")
        config = folder / "transformer" / "config.json"
        told = json.loads(config.read_text()) | {key: int(value)}
        config.write_text(json.dumps(told))


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("folder", "is not there"),
        ("index", "no model_index.json"),
        ("weights", "transformer: no safetensors file"),
        ("cut", "diffusion_pytorch_model.safetensors is not whole"),
        ("part", "FluxPipeline needs vae"),
        ("joint_attention_dim=48", "in its files and"),
        ("num_layers=9", "is missing in its files"),
        ("config", "transformer/config.json is no JSON"),
    ],
)
def test_what_is_wrong_with_a_folder_is_told(copied: Path, what: str, words: str) -> None:
    spoil(copied, what)
    told = one(copied)
    assert not told.is_servable
    assert any(words in problem for problem in told.problems), told.problems


def test_what_does_not_suit_its_entry_is_told(flux: Path, copied: Path) -> None:
    fill = one(flux, family="flux-fill")
    assert any("needs a denoiser of" in problem for problem in fill.problems)
    other = one(flux, family="sdxl")
    assert any("none of unet" in problem for problem in other.problems)
    spoil(copied, "guidance_embeds=0")
    assert any("listens to no guidance_scale" in problem for problem in one(copied).problems)


def test_loras_and_references_are_looked_for_too(flux: Path, tmp_path: Path) -> None:
    told = one(
        flux,
        loras={
            "gone": {"source": "./no-such-lora"},
            "stripes": {"source": "builtin:tiny-flux-stripes"},
        },
        references={
            "palette": "transfer",
            "composition": {"by": "controlnet", "source": str(tmp_path)},
            "style": {"by": "redux", "source": "./no-such-folder"},
        },
    )
    assert len(told.problems) == 3
    assert any("LoRA gone" in problem for problem in told.problems)
    assert any(
        "composition" in problem and "no safetensors" in problem for problem in told.problems
    )
    assert any("style" in problem and "is not there" in problem for problem in told.problems)


@pytest.mark.parametrize(
    ("source", "is_hub"),
    [
        ("owner/name", True),
        ("gpt2", True),
        ("./owner/name", False),
        ("builtin:tiny-flux", False),
        ("stripes.safetensors", False),
        ("owner/name/more", False),
    ],
)
def test_ids_of_the_hub_are_told_from_places(source: str, is_hub: bool) -> None:
    assert is_hub_id(source) is is_hub


def test_a_gguf_file_that_is_not_there_is_told(flux: Path) -> None:
    told = one(flux, quantization={"kind": "gguf", "file": "gone.gguf"})
    assert any("gone.gguf is not there" in problem for problem in told.problems)


def test_what_does_not_fit_says_what_would_and_it_does(flux: Path) -> None:
    plain = one(flux, device="cuda")
    whole = plain.pictures[0].needs_bytes
    assert whole == plain.weight_bytes + plain.pictures[0].working_bytes
    visited = one(flux, device="cuda", offload="model").pictures[0]
    largest = max(part.size_bytes for part in plain.parts)
    assert visited.needs_bytes == largest + plain.pictures[0].working_bytes
    told = one(flux, whole - 1, device="cuda")
    assert not told.is_servable and "128x128" in told.problems[0]
    assert one(flux, whole, device="cuda").is_servable
    offers = [words for words in told.pictures[0].remedies if words.startswith("offload")]
    assert offers
    for words in offers:
        mode = words.partition(": ")[2]
        assert one(flux, whole - 1, device="cuda", offload=mode).is_servable
    narrowed = one(flux, whole - 1, device="cuda", quantization="torchao-int8")
    named = "quantization: torchao-int8" in told.pictures[0].remedies
    assert named is narrowed.is_servable is True


def test_half_the_bytes_are_offered_to_what_is_served_in_four(flux: Path) -> None:
    whole = one(flux).pictures[0].needs_bytes
    half = one(flux, dtype="bfloat16").pictures[0].needs_bytes
    assert half < whole
    told = one(flux, half)
    assert "dtype: bfloat16" in told.pictures[0].remedies
    assert one(flux, half, dtype="bfloat16").is_servable
    assert "dtype: bfloat16" not in one(flux, half - 1).pictures[0].remedies
    narrow = one(flux, half - 1, dtype="bfloat16")
    assert not narrow.is_servable and "dtype: bfloat16" not in narrow.pictures[0].remedies


def test_what_does_not_fit_is_not_counted_among_all(flux: Path, copied: Path) -> None:
    plain = one(flux)
    wide = entry(copied, sizes=["512x512"])
    told = report_of(plain.pictures[0].needs_bytes, a=entry(flux), b=wide)
    assert [model.is_servable for model in told.models] == [True, False]
    assert told.devices[0].weight_bytes == plain.weight_bytes
    assert told.devices[0].working_bytes == plain.pictures[0].working_bytes
    none = report_of(1, a=entry(flux))
    assert none.devices[0].weight_bytes == none.devices[0].working_bytes == 0


def on_cards(flux: Path, *cards: Card, any_card: bool = False, **keys: Any) -> Report:
    catalog = Catalog.model_validate({"models": {"m": {"name": "m", **entry(flux, **keys)}}})
    with Sources() as sources:
        return check(catalog, ["m"], cards, sources, any_card=any_card)


def test_an_entry_is_estimated_for_the_smallest_of_its_devices(flux: Path) -> None:
    needs = one(flux, device="cuda").pictures[0].needs_bytes
    large, small = Card("cuda:0", needs), Card("cuda:1", needs - 1)
    both = on_cards(flux, large, small)
    (told,) = both.models
    assert (told.devices, both.device) == (("cuda:1", "cuda:0"), "cuda:1")
    assert told.is_servable, "it is, on one of them"
    (picture,) = {(one.fits, one.fits_on) for one in told.pictures}
    assert picture == (False, ("cuda:0",))
    (note,) = told.notes
    assert "at its default size 128x128 it fits on cuda:0 alone" in note
    assert told.pictures[0].remedies
    (there,) = on_cards(flux, large, small, devices=["cuda:0"]).models
    assert there.is_servable and there.notes == [] and there.pictures[0].fits
    (here,) = on_cards(flux, large, small, devices=["cuda:1"]).models
    assert here.problems == ["does not fit at its default size 128x128: generate, img2img, inpaint"]
    (neither,) = on_cards(flux, small, Card("cuda:2", 1000)).models
    assert "does not fit" in neither.problems[0]


def test_what_may_be_on_a_device_is_what_is_counted_there(flux: Path) -> None:
    cards = Card("cuda:0", PLENTY), Card("cuda:1", PLENTY)
    entries = {"a": entry(flux, devices=["cuda:0"]), "b": entry(flux), "c": entry("gone")}
    named = {name: {"name": name, **told} for name, told in entries.items()}
    with Sources() as sources:
        told = check(Catalog.model_validate({"models": named}), list(named), cards, sources)
    first, second = told.devices
    assert (first.models, second.models) == (("a", "b"), ("b",))
    assert second.weight_bytes == told.models[0].weight_bytes < first.weight_bytes


def test_devices_that_are_not_here_are_named(flux: Path) -> None:
    (told,) = on_cards(flux, Card("cuda:0", PLENTY), devices=["cuda:0", "cuda:7"]).models
    assert told.problems == [
        "devices: m is to be on cuda:7, which is not here; the devices are: cuda:0"
    ]
    assert told.devices == () and told.pictures, "what it takes is told all the same"
    (any_one,) = on_cards(flux, Card("cuda", PLENTY), any_card=True, devices=["cuda:7"]).models
    assert any_one.is_servable and any_one.notes == ["devices: cuda:7 taken for cuda"]


def test_another_kind_of_device_is_not_estimated_by_the_first(flux: Path) -> None:
    (told,) = on_cards(flux, Card("cuda:0", 1000), Card("cpu", PLENTY)).models
    assert told.notes[0] == "not estimated on cpu, only on cuda:0"
    assert told.is_servable and "does not fit" in told.notes[1]
    assert not told.pictures[0].fits and told.pictures[0].fits_on == ()


def test_a_checkpoint_of_another_pipeline_of_its_architecture_is_noted(flux: Path) -> None:
    told = one(flux, family="flux-kontext")
    assert told.is_servable
    (note,) = told.notes
    assert "of FluxPipeline, and family 'flux-kontext' is served by FluxKontext" in note
    assert one(flux).notes == one("builtin:tiny-flux-kontext", family="flux-kontext").notes == []


def test_a_cpu_is_offered_no_offloading(flux: Path) -> None:
    told = one(flux, 1000)
    assert told.pictures and all(not picture.remedies for picture in told.pictures)


def test_a_smaller_size_is_offered_where_the_picture_is_what_does_not_fit(flux: Path) -> None:
    keys = {"sizes": [], "limits": {"min_side": 64}, "defaults": {"size": "512x512"}}
    told = one(flux, **keys)
    half = one(flux, **{**keys, "defaults": {"size": "256x256"}})
    memory = half.pictures[0].needs_bytes
    assert memory < told.pictures[0].needs_bytes
    (offer,) = (w for w in one(flux, memory, **keys).pictures[0].remedies if "sizes" in w)
    assert offer == "sizes up to 256x256"


# The figure that the shipped catalogue has in a comment beside each real model, in gigabytes.
TOLD = dict(re.findall(r"^  ([\w-]+):  # (\d+) GB", commented("catalogue"), re.M))


@pytest.mark.parametrize("name", REAL)
def test_the_catalogue_tells_the_real_sizes(name: str, tmp_path: Path) -> None:
    plan = build([write(tmp_path / name, REAL[name]())], torch.bfloat16)
    weights = sum(size_bytes(part) for part in plan.parts.values())
    assert int(TOLD[name]) == round(weights / 1e9)


def test_every_real_model_tells_its_size() -> None:
    assert set(TOLD) == set(real_models()["models"]) == set(REAL)


def test_a_real_model_on_a_card_of_24_gigabytes(tmp_path: Path) -> None:
    spec = ModelSpec(name="flux-dev", **real_models()["models"]["flux-dev"])
    plan = build([write(tmp_path / "m", REAL["flux-dev"]())], torch.bfloat16)
    weights = {name: size_bytes(part) for name, part in plan.parts.items()}
    sizes = Sizes(spec=spec, weights=weights, plan=plan, device="cuda", dtype=torch.bfloat16)
    took = working_bytes(spec, plan, pictures_of(spec, Mode.GENERATE, (1024, 1024)))
    need = Need(Mode.GENERATE, (1024, 1024), took)
    offers = list(remedies(sizes, need, 24 * 10**9))
    assert "offload: group" in offers and "offload: model" not in offers
    assert 1e9 < took["vae"] < 3e9 and 3e8 < took["denoiser"] < 1e9
