"""References beside pictures without: each as diffusers makes it alone, together within 1/255."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from structlog.testing import capture_logs

from inference import coalesce, steps
from inference.catalog import Catalog
from inference.events import ImageDone
from inference.job import Job, Lora, Mode, ReferenceTag
from inference.loading import load_pipelines
from inference.pixels import decoded
from inference.references import shelf as reference_shelf
from inference.references.image_rows import ImageUse
from tests.inference.guided import asks, plain_guided, reference, serve
from tests.inference.making import PICTURES, Bench, difference

GENERATE, IMG2IMG, INPAINT = Mode.GENERATE, Mode.IMG2IMG, Mode.INPAINT


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    return serve(tmp_path_factory.mktemp("guided"))


@pytest.fixture(scope="module")
def bench(served: Catalog) -> Iterator[Bench]:
    yield Bench(served)
    torch.set_grad_enabled(True)


@pytest.fixture(autouse=True)
def _fresh(bench: Bench) -> Iterator[None]:
    bench.finish()
    bench.seen.events.clear()
    with capture_logs():  # a traceback drawn for people takes seconds
        yield
    assert nothing_is_left(bench)


def nothing_is_left(bench: Bench) -> bool:
    """Whether the denoisers look at nothing beside the prompt again."""
    residents = bench.worker._residents
    unet, transformer = (residents.get(name).attached[0].module for name in ("sdxl", "flux"))
    processors = [*unet.attn_processors.values(), *transformer.attn_processors.values()]
    return (
        not any("IPAdapter" in type(one).__name__ for one in processors)
        and "process_encoder_hidden_states" not in unet.__dict__
        and "encoder_hid_proj" not in transformer.__dict__
    )


def settle(bench: Bench) -> None:
    """Wait until all that was asked for has been read, so that all may start at once."""
    for image in bench.worker._waiting:
        image.model = bench.worker._residents.get(image.job.model)
    while not all(image.ready for image in bench.worker._waiting):
        time.sleep(0.001)


def made(bench: Bench, *jobs: Job) -> list[Any]:
    for wanted in jobs:
        bench.submit(wanted)
    settle(bench)
    bench.finish()
    return [bench.seen.picture(wanted.id) for wanted in jobs]


ALONE: list[tuple[str, Mode, list[tuple[str, float]]]] = [
    ("flux", GENERATE, [("pose", 0.7)]),
    ("flux", GENERATE, [("composition", 1.0)]),
    ("flux", GENERATE, [("composition", 0.6), ("pose", 0.9)]),
    ("flux", GENERATE, [("character", 0.6)]),
    ("flux", GENERATE, [("pose", 0.5), ("character", 0.8), ("palette", 0.5)]),
    ("flux", IMG2IMG, [("pose", 0.7)]),
    ("flux", IMG2IMG, [("pose", 0.7), ("composition", 0.2)]),
    ("flux", IMG2IMG, [("character", 0.3)]),
    ("flux", GENERATE, [("style", 0.6), ("style", 0.9), ("composition", 0.4)]),
    ("flux", INPAINT, [("composition", 0.7)]),
    ("flux", INPAINT, [("style", 0.7)]),
    ("fill", INPAINT, [("style", 0.7)]),
    ("flux", INPAINT, [("character", 1.0), ("palette", 0.7)]),
    ("flux-cfg", GENERATE, [("pose", 0.7), ("style", 0.4)]),
    ("flux-cfg", GENERATE, [("composition", 0.7)]),
    ("flux-cfg", INPAINT, [("style", 0.8)]),
    ("sdxl", GENERATE, [("pose", 0.7)]),
    ("sdxl", GENERATE, [("composition", 0.8), ("pose", 0.5), ("style", 0.5)]),
    ("sdxl", IMG2IMG, [("pose", 0.7), ("style", 0.5)]),
    ("sdxl", INPAINT, [("composition", 0.7)]),
    ("sdxl", INPAINT, [("style", 0.5)]),
    ("sd3", GENERATE, [("pose", 0.7)]),
    ("qwen", GENERATE, [("pose", 0.7)]),
]


@pytest.mark.parametrize(("model", "mode", "weights"), ALONE)
def test_alone_is_what_diffusers_makes(
    bench: Bench, served: Catalog, model: str, mode: Mode, weights: list[tuple[str, float]]
) -> None:
    wanted = asks(model, mode, *weights)
    (picture,) = made(bench, wanted)
    assert picture.tobytes() == plain_guided(served, wanted).tobytes()
    (without,) = made(bench, asks(model, mode, name="without"))
    assert difference(picture, without) > 0


def many(model: str, mode: Mode, *sets: list[tuple[str, float]]) -> list[Job]:
    return [
        asks(
            model,
            mode,
            *weights,
            name=f"j{number}",
            seeds=(number,),
            num_inference_steps=4 + number,
            prompt=f"prompt number {number}",
            loras=(Lora(name="a", strength=number / 4),) if model == "flux" else (),
        )
        for number, weights in enumerate(sets)
    ]


POSES = [[], [("pose", 0.3)], [("pose", 0.9)], [("palette", 0.5), ("pose", 0.6)]]
LOOKS = [[], [("character", 0.3)], [("character", 0.9)], [("character", 0.6), ("pose", 0.4)]]
TOGETHER: list[tuple[str, Mode, list[list[tuple[str, float]]]]] = [
    ("flux", GENERATE, [*POSES, [("pose", 0.3), ("composition", 0.8)]]),
    ("flux", GENERATE, [*LOOKS, [("style", 0.3)], [("style", 0.8)]]),
    ("flux", IMG2IMG, POSES),
    ("flux", INPAINT, LOOKS[:3]),
    ("flux-cfg", GENERATE, [[], [("style", 0.3)], [("style", 0.8)], [("pose", 0.6)]]),
    ("flux-cfg", GENERATE, [[], [("composition", 0.3)], [("composition", 0.8)]]),
    ("sdxl", GENERATE, [[], [("pose", 0.3)], [("pose", 0.9)], [("style", 0.4), ("pose", 0.6)]]),
    ("sdxl", IMG2IMG, [[], [("style", 0.3)], [("style", 0.9)], [("composition", 0.6)]]),
    ("sdxl", GENERATE, [[("style", 0.3)], [("style", 0.9)], [("character", 0.9)]]),
    ("sd3", GENERATE, [[], [("pose", 0.3)], [("pose", 0.9)]]),
    ("qwen", GENERATE, [[], [("pose", 0.3)], [("pose", 0.9)]]),
]


@pytest.fixture
def forwards(monkeypatch: pytest.MonkeyPatch) -> list[list[coalesce.Call]]:
    """The calls of each forward that is shared, from here on."""
    seen: list[list[coalesce.Call]] = []

    def watched(calls: Any) -> Any:
        if len(calls) > 1:
            seen.append(list(calls))
        return coalesce.forward(calls)

    monkeypatch.setattr(steps, "forward", watched)
    return seen


def lift_budgets(bench: Bench, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was measured of so small a model is mostly noise."""
    loaded = bench.worker._residents.get(model)
    for attached in [*loaded.attached, *loaded.references.attached]:
        monkeypatch.setattr(attached, "budget_tokens", 1 << 20)


@pytest.mark.parametrize(("model", "mode", "sets"), TOGETHER)
def test_together_is_as_alone(
    bench: Bench,
    forwards: list[list[coalesce.Call]],
    monkeypatch: pytest.MonkeyPatch,
    model: str,
    mode: Mode,
    sets: list[list[tuple[str, float]]],
) -> None:
    jobs = many(model, mode, *sets)
    alone = []
    for wanted in jobs:
        alone += made(bench, wanted)
        bench.seen.events.clear()
    lift_budgets(bench, model, monkeypatch)
    forwards.clear()
    for wanted in jobs:
        bench.submit(wanted)
        settle(bench)
        bench.ticks(2)
    bench.finish()
    for wanted, expected in zip(jobs, alone, strict=True):
        assert difference(bench.seen.picture(wanted.id), expected) <= 1, wanted.id
    # unequal weights share forwards
    scales = [
        {call.arguments.get("conditioning_scale") for call in calls} - {None} for calls in forwards
    ]
    weights = [
        {call.brought[ImageUse].weight for call in calls if ImageUse in call.brought}
        for calls in forwards
    ]
    has_nets = any(tag in ("pose", "composition") for one in sets[:3] for tag, _ in one)
    assert any(len(found) > 1 for found in (scales if has_nets else weights))


@pytest.mark.parametrize("tag", ["pose", "composition", "style", "character", "palette"])
def test_without_weight_it_is_the_bare_model_to_the_bit(bench: Bench, tag: str) -> None:
    """Whatever was loaded beside it before."""
    made(bench, asks("flux", GENERATE, (tag, 1.0), name="before"))
    jobs = [
        asks("flux", name="none"),
        asks("flux", GENERATE, (tag, 0.0), name="nothing"),
        asks("bare", name="bare"),
    ]
    pictures = [made(bench, wanted)[0].tobytes() for wanted in jobs]
    assert len(set(pictures)) == 1


@pytest.mark.parametrize(
    ("model", "tag"),
    [
        ("flux", "pose"),
        ("flux", "style"),
        ("flux", "character"),
        ("flux", "palette"),
        ("sdxl", "composition"),
        ("sdxl", "style"),
    ],
)
def test_more_weight_changes_more(bench: Bench, model: str, tag: str) -> None:
    jobs = [
        asks(model, GENERATE, (tag, weight), name=f"j{weight}", num_inference_steps=2)
        for weight in (0.0, 0.1, 0.4, 1.0)
    ]
    bare, *pictures = (np.asarray(one, np.float32) for one in made(bench, *jobs))
    changes = [float(np.abs(one - bare).mean()) for one in pictures]
    assert 0 < changes[0] < changes[1] < changes[2]


def test_what_is_in_the_picture_counts(bench: Bench) -> None:
    """And not only that there is one."""
    jobs = [
        asks(model, GENERATE, name=f"{model}-{tag}-{key}", images=(reference(tag, 1.0, key),))
        for model, tag in (("flux", "pose"), ("flux", "style"), ("flux", "character"))
        for key in ("other", "source")
    ]
    pictures = made(bench, *jobs)
    for one, other in zip(pictures[::2], pictures[1::2], strict=True):
        assert difference(one, other) > 1


def test_the_same_seed_makes_the_same_picture(bench: Bench) -> None:
    """Of SD3 too, whose pipeline draws the condition's latents from torch's own state."""
    first, other = made(
        bench,
        asks("sd3", GENERATE, ("pose", 1.0), name="first"),
        asks("sd3", GENERATE, ("pose", 1.0), name="other"),
    )
    (again,) = made(bench, asks("sd3", GENERATE, ("pose", 1.0), name="again"))
    assert first.tobytes() == again.tobytes()
    assert difference(first, other) <= 1


def test_redux_is_what_its_own_pipeline_makes(
    served: Catalog,
) -> None:
    """Whose prompts are always 512 tokens long."""
    spec = served.models["flux"].model_copy(update={"max_sequence_length": 512})
    wanted = asks("flux", GENERATE, ("style", 1.0))
    alone = Bench(Catalog(models={"flux": spec}))
    alone.submit(wanted)
    alone.finish()

    pipe = load_pipelines(spec, "cpu")[GENERATE]
    encoders = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
    prior = diffusers.FluxPriorReduxPipeline.from_pretrained(
        spec.references[ReferenceTag.STYLE].source,
        **{name: getattr(pipe, name) for name in encoders},
    )
    (shown,) = decoded(wanted, PICTURES).references
    made = pipe(
        **prior(shown.picture, prompt=wanted.prompt),
        width=64,
        height=64,
        num_inference_steps=wanted.num_inference_steps,
        guidance_scale=wanted.guidance_scale,
        generator=torch.Generator("cpu").manual_seed(1),
    )
    assert alone.seen.picture("j").tobytes() == made.images[0].tobytes()


def test_nobody_waits_for_what_another_needs(
    bench: Bench, served: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ControlNet is read beside the pictures that need none."""
    may_read, read = threading.Event(), reference_shelf.load_controlnet

    def slowly(*args: Any) -> Any:
        assert may_read.wait(60)
        return read(*args)

    monkeypatch.setattr(reference_shelf, "load_controlnet", slowly)
    fresh = Bench(Catalog(models={"flux": served.models["flux"]}))
    fresh.submit(asks("flux", GENERATE, ("pose", 0.5), name="waits"))
    fresh.submit(asks("flux", name="goes on"))
    while not any(isinstance(event, ImageDone) for event in fresh.seen.events):
        fresh.worker.tick()
    assert fresh.seen.picture("goes on")
    assert not any(event.job_id == "waits" for event in fresh.seen.events)
    may_read.set()
    fresh.finish(100_000)
    (expected,) = made(bench, asks("flux", GENERATE, ("pose", 0.5)))
    assert fresh.seen.picture("waits").tobytes() == expected.tobytes()


def test_what_was_let_go_is_read_again(bench: Bench) -> None:
    wanted = asks("sd3", GENERATE, ("pose", 0.8))
    (first,) = made(bench, wanted)
    references = bench.worker._residents.get("sd3").references
    assert references.held_bytes > 100_000
    references.let_go()
    assert (references.held_bytes, references.attached) == (0, [])
    bench.seen.events.clear()
    (again,) = made(bench, wanted)
    assert again.tobytes() == first.tobytes()
    (attached,) = references.attached
    guidance = references.guide(wanted, decoded(wanted, PICTURES))
    assert guidance.pipe.controlnet is attached.module


def test_a_controlnet_steps_like_the_denoiser(bench: Bench) -> None:
    """It is no brief forward that goes before everybody's steps, and has the same budget."""
    made(bench, asks("qwen", GENERATE, ("pose", 0.8)))
    model = bench.worker._residents.get("qwen")
    (attached,) = model.references.attached
    assert model.denoises(attached)
    assert attached.budget_tokens == model.attached[0].budget_tokens
    assert [model.denoises(one) for one in model.attached].count(True) == 1
