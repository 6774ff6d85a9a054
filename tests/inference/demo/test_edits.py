"""What the derived models are asked for: edits, and objects to replace under a mask."""

import random
from collections import Counter

import numpy as np
import pytest
import torch
from diffusers import FluxFillPipeline, FluxTransformer2DModel
from PIL import Image

from inference.demo import TINY_FLUX
from inference.demo.captions import edit_instruction
from inference.demo.derived import load_derived
from inference.demo.edits import KINDS, random_edit
from inference.demo.inpaint import MASKS, mask_around, paste_back, replacements
from inference.demo.judge import judge, kept
from inference.demo.scenes import (
    ATTRIBUTES,
    POSITIONS,
    RADII,
    SIZES,
    Scene,
    draw,
    held_out,
)
from inference.demo.train.edit import Cube, edit_ids
from inference.demo.train.fill import pack_mask, widened
from inference.demo.train.finetune import Example, Reading, flow_loss, plain_attention
from inference.demo.train.latents import image_ids
from inference.demo.train.text import TextEncoders

pytestmark = pytest.mark.timeout(60)


@pytest.mark.parametrize("kind", KINDS)
def test_an_edit_changes_the_attribute_it_names_and_no_other(kind: str) -> None:
    rng = random.Random(1)
    for _ in range(300):
        edit = random_edit(kind, rng, held=False)
        changed = [n for n in ATTRIBUTES if getattr(edit.before, n) != getattr(edit.after, n)]
        assert changed == [kind]
        assert edit.after.colour != edit.after.background


@pytest.mark.parametrize("kind", KINDS)
def test_outcomes_are_held_out_as_asked(kind: str) -> None:
    rng = random.Random(2)
    for held in (True, False):
        edits = [random_edit(kind, rng, held=held) for _ in range(100)]
        assert {held_out(edit.after) for edit in edits} == {held}
        assert not any(held_out(edit.before) for edit in edits)


@pytest.mark.parametrize("kind", KINDS)
def test_drawings_differ_only_where_the_edit_is(kind: str) -> None:
    rng = random.Random(3)
    for index in range(30):
        edit = random_edit(kind, rng, held=False)
        before, after = edit.drawings(*SIZES[index % len(SIZES)], index)
        changes = (before != after).any(-1)
        assert 0.002 < changes.mean() < 0.98
        assert judge(Image.fromarray(before), edit.before).right
        assert judge(Image.fromarray(after), edit.after).right
        assert not judge(Image.fromarray(before), edit.after).right
        assert kept(Image.fromarray(before), Image.fromarray(after), ~changes) == 1


def test_instructions_name_the_new_value_and_the_object_by_its_old_shape() -> None:
    rng, before = random.Random(4), Scene("red", "circle", "blue", "left", "medium")
    after = Scene("pink", "circle", "blue", "left", "medium")
    texts = {edit_instruction("colour", before, after, rng) for _ in range(200)}
    assert len(texts) > 10
    assert all("pink" in text and "square" not in text for text in texts)
    after = Scene("red", "triangle", "blue", "left", "medium")
    texts = {edit_instruction("shape", before, after, rng) for _ in range(200)}
    assert all(text.endswith("a triangle") for text in texts)
    after = Scene("red", "circle", "black", "left", "medium")
    texts = {edit_instruction("background", before, after, rng) for _ in range(200)}
    assert all("black" in text and "background" in text for text in texts)


def test_edges_of_a_cube_are_single_edits_without_held_out_scenes() -> None:
    rng, found = random.Random(5), Counter[str]()
    for _ in range(200):
        cube = Cube.random(rng)
        assert len(set(cube.scenes)) == 8
        assert all(scene.colour != scene.background for scene in cube.scenes)
        for kind in KINDS:
            for first, second in cube.edges(kind):
                pair = cube.scenes[first], cube.scenes[second]
                assert not any(map(held_out, pair))
                assert [n for n in ATTRIBUTES if getattr(pair[0], n) != getattr(pair[1], n)] == [
                    kind
                ]
                found[kind] += 1
    assert min(found.values()) > 1000


def test_reference_tokens_have_the_same_places_on_an_axis_of_their_own() -> None:
    ids = edit_ids(128, 96)
    assert ids.shape == (2 * 8 * 6, 3)
    assert np.array_equal(ids[:48, 1:], ids[48:, 1:])
    assert set(ids[:48, 0].tolist()) == {0}
    assert set(ids[48:, 0].tolist()) == {1}


@pytest.mark.parametrize("kind", MASKS)
def test_masks_cover_the_object_whatever_its_shape_and_not_the_whole_picture(kind: str) -> None:
    for size in SIZES:
        for position in POSITIONS:
            for radius in RADII:
                mask = mask_around(Scene(position=position, size=radius), *size, kind, 4)
                assert mask.shape == (size[1], size[0])
                assert mask.mean() < 0.95
                for shape in ("square", "heart"):
                    scene = Scene("red", shape, "white", position, radius)
                    image = draw(scene, *size)
                    assert not ((image != image[~mask][0]).any(-1) & ~mask).any()


def test_replacements_ask_for_another_object_in_the_same_place() -> None:
    for held in (True, False):
        orders = replacements(60, 6, held=held)
        for order in orders:
            assert held_out(order.after) == held
            assert order.before.colour != order.after.colour
            assert order.before.shape != order.after.shape
            assert order.before.background == order.after.background
            assert str(order.after.colour) in order.prompt
            before, after = order.drawings()
            changed = (np.asarray(before) != np.asarray(after)).any(-1)
            assert not (changed & ~order.mask()).any()
        assert {order.mask_kind for order in orders} == set(MASKS)
        said = sum("background" in order.prompt for order in orders)
        assert said == 30


def test_pasting_back_keeps_the_outside_exactly_and_the_inside_as_painted() -> None:
    order = replacements(1, 7)[0]
    before, after = order.drawings()
    noise = np.random.default_rng(0).integers(0, 256, np.asarray(before).shape, dtype=np.uint8)
    pasted = np.asarray(paste_back(before, Image.fromarray(noise), order.mask()))
    assert np.array_equal(pasted[~order.mask()], np.asarray(before)[~order.mask()])
    assert np.array_equal(pasted[order.mask()], noise[order.mask()])
    assert judge(paste_back(before, after, order.mask()), order.after).right


@pytest.mark.filterwarnings("ignore:Mismatch dtype:UserWarning")
def test_training_reads_texts_as_the_pipeline_does_and_attends_as_it_does() -> None:
    encoders = TextEncoders.load(TINY_FLUX).eval().requires_grad_(False)
    model = FluxTransformer2DModel.from_pretrained(
        TINY_FLUX / "transformer", torch_dtype=torch.float32
    )
    texts = ["make it blue", "turn the circle into a star"]
    read = Reading(encoders)
    example = Example(torch.zeros(2, 48, 64), texts, image_ids(128, 96))
    with torch.no_grad():
        flow_loss(model, read, example)
        pooled, sequence = encoders(texts)
    assert torch.equal(torch.stack([read.known[text][0] for text in texts]), pooled)
    assert torch.equal(torch.stack([read.known[text][1] for text in texts]), sequence)
    with torch.no_grad():
        seen = {
            "hidden_states": torch.randn(2, 48, 64, generator=torch.Generator().manual_seed(0)),
            "timestep": torch.tensor([0.3, 0.9]),
            "pooled_projections": pooled,
            "encoder_hidden_states": sequence,
            "txt_ids": torch.zeros(24, 3),
            "img_ids": image_ids(128, 96),
        }
        fused = model(**seen).sample
        with plain_attention():
            plain = model(**seen).sample
            with pytest.raises(ValueError, match="mask"):
                encoders(texts)
    assert torch.allclose(fused, plain, atol=1e-4)


def test_training_packs_a_mask_as_the_fill_pipeline_does() -> None:
    pipe = load_derived(TINY_FLUX, FluxFillPipeline)
    mask = (torch.rand(1, 96, 128, generator=torch.Generator().manual_seed(1)) > 0.5).float()
    expected, _ = pipe.prepare_mask_latents(
        mask[:, None],
        torch.zeros(1, 3, 96, 128),
        1,
        16,
        1,
        96,
        128,
        torch.float32,
        "cpu",
        None,
    )
    assert torch.equal(pack_mask(mask), expected)


def test_new_inputs_of_the_fill_model_start_without_effect() -> None:
    base = FluxTransformer2DModel.from_pretrained(
        TINY_FLUX / "transformer", torch_dtype=torch.float32
    )
    inputs: dict[str, torch.Tensor] = {
        "timestep": torch.tensor([0.5]),
        "pooled_projections": torch.randn(1, 128),
        "encoder_hidden_states": torch.randn(1, 24, 128),
        "txt_ids": torch.zeros(24, 3),
        "img_ids": image_ids(128, 96),
    }
    latents, beside = torch.randn(1, 48, 64), torch.randn(1, 48, 320)
    with torch.no_grad():
        plain = base(hidden_states=latents, **inputs).sample
        wide = widened(base)(hidden_states=torch.cat([latents, beside], dim=2), **inputs).sample
    assert wide.shape == plain.shape
    assert torch.allclose(plain, wide, atol=1e-5)
