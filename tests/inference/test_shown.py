"""Models that look at reference pictures themselves: as if those were sources after the sources."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from inference import coalesce, skeletons, steps
from inference.catalog import Catalog
from inference.job import ImageRole, InputImage, Job, Mode
from tests.inference.guided import reference
from tests.inference.making import IMAGES, Bench, catalog_over, difference, job, plain

NATIVE = {"references": {"style": "native", "pose": "native", "palette": "transfer"}}
CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "klein": (skeletons.tiny_klein, {"family": "flux2-klein", "max_sequence_length": 64}),
    "kontext": (skeletons.tiny_kontext, {"family": "flux-kontext", "max_sequence_length": 16}),
}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    root = tmp_path_factory.mktemp("shown")
    for name, (make, _) in CASES.items():
        skeletons.save(make(), root / name)
    folders = {name: root / name for name in CASES}
    return catalog_over(folders, {name: entry | NATIVE for name, (_, entry) in CASES.items()})


@pytest.fixture(scope="module")
def bench(served: Catalog) -> Iterator[Bench]:
    yield Bench(served)
    torch.set_grad_enabled(True)


@pytest.fixture(autouse=True)
def _fresh(bench: Bench) -> None:
    bench.finish()
    bench.seen.events.clear()


def as_source(image: InputImage) -> InputImage:
    return InputImage(role=ImageRole.SOURCE, key=image.key)


def asks(model: str, mode: Mode, *shown: InputImage, **more: Any) -> tuple[Job, Job]:
    """A job with references, and the one with sources in their place."""
    own, images = IMAGES[mode], tuple(as_source(image) for image in shown)
    guided = job(more.pop("name", "j"), model, mode=mode, images=(*own, *shown), **more)
    edits = mode if mode is not Mode.GENERATE else Mode.EDIT
    return guided, job("plain", model, mode=edits, images=(*own, *images), **more)


@pytest.mark.parametrize("mode", [Mode.GENERATE, Mode.EDIT, Mode.INPAINT])
@pytest.mark.parametrize("model", CASES)
def test_alone_they_are_further_sources(
    bench: Bench, served: Catalog, model: str, mode: Mode
) -> None:
    shown = (reference("style", 0.5), reference("pose", 0.9, "source"))
    wanted, expected = asks(model, mode, *shown)
    for one in (wanted, job("bare", model, mode=mode)):
        bench.submit(one)
        bench.finish()
    made = bench.seen.picture("j").tobytes()
    assert made == plain(served.models[model], expected).tobytes()
    assert made != bench.seen.picture("bare").tobytes()


def test_without_weight_nothing_is_shown(bench: Bench) -> None:
    for name, images in (("bare", ()), ("none", (reference("style", 0.0),))):
        bench.submit(job(name, "klein", images=images))
        bench.finish()
    assert bench.seen.picture("bare").tobytes() == bench.seen.picture("none").tobytes()


def test_they_share_forwards_with_edits(
    bench: Bench, served: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A picture made from references is to the model what an edit of as many sources is."""
    rows: list[int] = []

    def counted(calls: Any) -> Any:
        rows.append(len(calls))
        return coalesce.forward(calls)

    monkeypatch.setattr(steps, "forward", counted)
    for attached in bench.worker._residents.get("klein").attached:
        monkeypatch.setattr(attached, "budget_tokens", 1 << 20)
    guided, expected = asks("klein", Mode.GENERATE, reference("style", 0.5, "source"))
    edit = job("edit", "klein", mode=Mode.EDIT, seeds=(7,), num_inference_steps=6)
    for wanted in (guided, edit):
        bench.submit(wanted)
        bench.ticks(2)
    bench.finish()
    assert max(rows) == 2
    spec = served.models["klein"]
    assert difference(bench.seen.picture("j"), plain(spec, expected)) <= 1
    assert difference(bench.seen.picture("edit"), plain(spec, edit)) <= 1
