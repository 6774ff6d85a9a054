"""Every family, as tiny components of its real architecture loaded the way checkpoints are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from inference import coalesce, skeletons, steps
from inference.catalog import Catalog
from inference.job import ImageRole, InputImage, Job, Mode
from inference.pipelines import FAMILIES
from inference.status import Lane
from tests.inference.making import Bench, catalog_over, difference, job, plain

SOURCE = InputImage(role=ImageRole.SOURCE, key="source")
OTHER = InputImage(role=ImageRole.SOURCE, key="other")
MASK = InputImage(role=ImageRole.MASK, key="mask")


@dataclass(frozen=True)
class Case:
    """One served model: how its tiny checkpoint is made, and what models.yaml says of it."""

    make: Callable[[], Any]
    family: str
    entry: dict[str, Any] = field(default_factory=dict)
    lane: Lane = Lane.MERGE


SHORT = {"max_sequence_length": 16}
CASES: dict[str, Case] = {
    "schnell": Case(
        lambda: skeletons.tiny_flux(guidance=False),
        "flux",
        SHORT | {"guidance_field": "none"},
    ),
    "kontext": Case(skeletons.tiny_kontext, "flux-kontext", SHORT),
    "fill": Case(skeletons.tiny_fill, "flux-fill", SHORT),
    "sdxl-inpaint": Case(
        lambda: skeletons.tiny_sdxl(in_channels=9), "sdxl", {"modes": ["inpaint"]}
    ),
}
CASES |= {
    # its own instructions come before the prompt, and take 300 of these single-byte tokens
    "flux2": Case(skeletons.tiny_flux2, "flux2"),
    "klein": Case(skeletons.tiny_klein, "flux2-klein", {"max_sequence_length": 64}),
    "klein-distilled": Case(
        lambda: skeletons.tiny_klein(distilled=True),
        "flux2-klein",
        {"max_sequence_length": 64, "guidance_field": "none", "modes": ["edit"]},
    ),
    "sd3": Case(skeletons.tiny_sd3, "sd3", SHORT),
    "qwen": Case(skeletons.tiny_qwen, "qwen-image"),
    "z-image": Case(skeletons.tiny_zimage, "z-image", {"max_sequence_length": 64}),
}
CASES |= {
    "sd": Case(
        skeletons.tiny_sd,
        "generic",
        {
            "pipelines": {
                "generate": "StableDiffusionPipeline",
                "img2img": "StableDiffusionImg2ImgPipeline",
            }
        },
    ),
    "pix2pix": Case(
        lambda: skeletons.tiny_sd(edits=True),
        "generic",
        {"pipelines": {"edit": "StableDiffusionInstructPix2PixPipeline"}},
    ),
    "pixart": Case(
        skeletons.tiny_pixart,
        "generic",
        SHORT | {"pipelines": {"generate": "PixArtSigmaPipeline"}},
        lane=Lane.INTERLEAVE,
    ),
}


def modes_of(case: Case) -> list[Mode]:
    """What a case is served for."""
    own = case.entry.get("modes") or case.entry.get("pipelines")
    return [Mode(mode) for mode in own or FAMILIES[case.family].routes]


ROUTES = [(name, mode) for name, case in CASES.items() for mode in modes_of(case)]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    """All cases, saved to folders and served from there."""
    root = tmp_path_factory.mktemp("families")
    for name, case in CASES.items():
        skeletons.save(case.make(), root / name)
    entries = {name: {"family": case.family} | case.entry for name, case in CASES.items()}
    return catalog_over({name: root / name for name in CASES}, entries)


@pytest.fixture(scope="module")
def bench(served: Catalog) -> Iterator[Bench]:
    bench = Bench(served)
    yield bench
    torch.set_grad_enabled(True)


@pytest.fixture(autouse=True)
def _fresh(bench: Bench) -> None:
    bench.finish()
    bench.seen.events.clear()


def wishes(name: str, mode: Mode) -> list[Job]:
    """Three requests that differ in steps, guidance, seed and prompt."""
    table = [(4, 1.0, 11), (7, 3.0, 12), (5, 5.0, 13)]
    return [
        job(
            f"j{seed}",
            name,
            mode=mode,
            num_inference_steps=steps,
            guidance_scale=guidance,
            seeds=(seed,),
            prompt=f"prompt number {seed}",
        )
        for steps, guidance, seed in table
    ]


@pytest.mark.parametrize(("name", "mode"), ROUTES)
def test_alone_is_bit_exact(bench: Bench, served: Catalog, name: str, mode: Mode) -> None:
    wanted = job(model=name, mode=mode)
    bench.submit(wanted)
    bench.finish()
    expected = plain(served.models[name], wanted)
    assert bench.seen.picture("j").tobytes() == expected.tobytes()
    assert expected.size == (64, 64)


@pytest.mark.parametrize(("name", "mode"), ROUTES)
def test_three_staggered_requests_are_as_alone(
    bench: Bench, served: Catalog, name: str, mode: Mode, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []

    def counted(calls: Any) -> Any:
        rows.append(len(calls))
        return coalesce.forward(calls)

    monkeypatch.setattr(steps, "forward", counted)
    for attached in bench.worker._residents.get(name).attached:
        # what was measured of so small a model is mostly noise
        monkeypatch.setattr(attached, "budget_tokens", 1 << 20)
    for wanted in wishes(name, mode):
        bench.submit(wanted)
        bench.ticks(2)
    bench.finish()
    merges = CASES[name].lane is Lane.MERGE
    assert (max(rows) > 1) is merges, "what merges is to be seen merged, and nothing else"
    for wanted in wishes(name, mode):
        made = bench.seen.picture(wanted.id)
        assert difference(made, plain(served.models[name], wanted)) <= 1, wanted.id


@pytest.mark.parametrize("name", CASES)
def test_lanes(bench: Bench, name: str) -> None:
    model = bench.worker._residents.get(name)
    assert set(model.lanes.values()) == {CASES[name].lane}


@pytest.mark.parametrize(
    ("name", "mode", "images"),
    [
        ("kontext", Mode.EDIT, (SOURCE, OTHER)),
        ("kontext", Mode.INPAINT, (SOURCE, OTHER, MASK)),
        ("flux2", Mode.EDIT, (SOURCE, OTHER)),
        ("klein", Mode.EDIT, (SOURCE, OTHER)),
        ("klein", Mode.INPAINT, (SOURCE, OTHER, MASK)),
    ],
)
def test_every_source_counts(
    bench: Bench, served: Catalog, name: str, mode: Mode, images: tuple[InputImage, ...]
) -> None:
    """Several sources make another picture than the first of them, and the one of plain calls."""
    several = job("several", name, mode=mode, images=images)
    one = job("one", name, mode=mode, images=tuple(image for image in images if image is not OTHER))
    for wanted in (several, one):
        bench.submit(wanted)
    bench.finish()
    made = bench.seen.picture("several")
    assert difference(made, plain(served.models[name], several)) <= 1
    assert made.tobytes() != bench.seen.picture("one").tobytes()
