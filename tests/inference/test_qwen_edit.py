"""Qwen-Image-Edit without torchvision; few requests, since every source is seen at a megapixel."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from inference import coalesce, skeletons, steps
from inference.catalog import Catalog
from inference.coalesce import Carrier, Rendezvous, forward
from inference.job import ImageRole, InputImage, Job, Mode, ReferenceTag
from inference.loading import load_pipelines
from inference.model import load_model
from inference.pixels import decoded
from inference.processors import QwenPrompts
from inference.prompts import PromptCache
from inference.references.spec import ReferenceSpec, Way
from inference.skeletons.language import qwen_prompts, qwen_vision
from inference.status import Lane
from tests.inference.guided import reference
from tests.inference.making import PICTURES, Bench, catalog_over, difference, job, plain

SOURCE = InputImage(role=ImageRole.SOURCE, key="source")
OTHER = InputImage(role=ImageRole.SOURCE, key="other")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    root = tmp_path_factory.mktemp("qwen")
    skeletons.save(skeletons.tiny_qwen_edit(), root / "edit")
    skeletons.save(skeletons.tiny_qwen_edit(plus=True), root / "plus")
    # guidance 1 leaves out the second forward of each step, in the self-test too
    defaults = {"size": (64, 64), "guidance_scale": 1.0}
    entries = {
        "edit": {"family": "qwen-image-edit", "defaults": defaults},
        "plus": {"family": "qwen-image-edit-plus", "defaults": defaults},
    }
    return catalog_over({name: root / name for name in entries}, entries)


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    torch.set_grad_enabled(False)
    yield
    torch.set_grad_enabled(True)


def edit(name: str, **changes: Any) -> Job:
    values = {"num_inference_steps": 2, "guidance_scale": 1.0, "prompt": "paint 1"} | changes
    return job(name, mode=Mode.EDIT, **values)


def test_staggered_edits_merge_and_are_as_alone(
    served: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(served)
    wanted = [
        edit("a", model="edit", seeds=(1,)),
        edit("b", model="edit", seeds=(2,), num_inference_steps=3, prompt="paint 2"),
    ]
    model = bench.worker._residents.get("edit")
    assert model.lanes == {Mode.EDIT: Lane.MERGE}
    rows: list[int] = []

    def counted(calls: Any) -> Any:
        rows.append(len(calls))
        return coalesce.forward(calls)

    monkeypatch.setattr(steps, "forward", counted)
    monkeypatch.setattr(model.attached[0], "budget_tokens", 1 << 20)
    for one in wanted:
        bench.submit(one)
        bench.ticks(1)
    bench.finish()
    assert max(rows) == 2
    for one in wanted:
        assert difference(bench.seen.picture(one.id), plain(served.models["edit"], one)) <= 1


def test_several_sources_are_all_seen(served: Catalog) -> None:
    references = {ReferenceTag.STYLE: ReferenceSpec(by=Way.NATIVE)}
    spec = served.models["plus"].model_copy(update={"references": references})
    model = load_model(spec, "cpu", Rendezvous(), PromptCache(0), preview_side_px=0)
    made: dict[Any, bytes] = {}
    shown = reference("style", 0.5)
    for key, images in {1: (SOURCE,), "shown": (SOURCE, shown), 2: (SOURCE, OTHER)}.items():
        wanted = edit("p", model="plus", images=images, num_inference_steps=1)
        carrier = Carrier(model.call(wanted, 0, decoded(wanted, PICTURES))[1])
        carrier.advance()
        while carrier.call is not None:
            carrier.advance(forward([carrier.call])[0])
        assert carrier.error is None
        made[key] = carrier.result.tobytes()
    assert made[2] == plain(spec, wanted).tobytes()
    assert made[1] != made[2]
    assert made["shown"] == made[2]


class TestPrompts:
    def test_a_mark_becomes_as_many_as_its_picture_has_tokens(self) -> None:
        prompts = qwen_prompts()
        mark = prompts.tokenizer.convert_tokens_to_ids("<|image_pad|>")
        pictures = [Image.new("RGB", (56, 56)), Image.new("RGB", (112, 28))]
        text = "a<|image_pad|>b<|image_pad|>c"
        inputs = prompts(text=[text, "short"], images=pictures, padding=True)
        counts = (inputs["input_ids"] == mark).sum(dim=1).tolist()
        assert counts == [int(inputs["image_grid_thw"].prod(dim=1).sum()) // 4, 0]
        assert inputs["pixel_values"].shape[0] == counts[0] * 4
        assert inputs["attention_mask"].sum(dim=1).tolist() == [counts[0] + 3, 5]

    def test_words_alone_need_no_picture(self) -> None:
        assert set(qwen_prompts()(text=["abc"])) == {"input_ids", "attention_mask"}

    def test_it_is_read_back_as_it_was_saved(self, tmp_path: Path) -> None:
        prompts = qwen_prompts()
        prompts.save(tmp_path / "processor")
        read = QwenPrompts.read(str(tmp_path), "processor")
        picture = Image.linear_gradient("L").convert("RGB")
        before, after = (each(text=["<|image_pad|>"], images=[picture]) for each in (prompts, read))
        assert all(torch.equal(before[name], after[name]) for name in before)

    def test_the_encoder_places_pictures_in_two_dimensions(self) -> None:
        """As the model was trained; without being told it would count their tokens like words."""
        prompts = qwen_prompts()
        inputs = prompts(text=["<|image_pad|>a"], images=[Image.new("RGB", (56, 56))])
        encoder = qwen_vision(prompts.tokenizer).eval()
        untold = encoder(**inputs).logits
        QwenPrompts.prepare(encoder)
        told = encoder(**inputs).logits
        marks = (inputs["input_ids"] == encoder.config.image_token_id).int()
        assert torch.equal(told, encoder(**inputs, mm_token_type_ids=marks).logits)
        assert not torch.equal(told, untold)


def test_the_processor_is_ours_and_the_encoder_is_told(served: Catalog) -> None:
    (pipe,) = load_pipelines(served.models["edit"], "cpu").values()
    assert isinstance(pipe.processor, QwenPrompts)
    assert len(pipe.text_encoder._forward_pre_hooks) == 1
