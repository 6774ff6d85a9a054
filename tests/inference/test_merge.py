"""Which calls may share a forward, and that sharing gives each its own rows back."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers.models.modeling_outputs import Transformer2DModelOutput

from inference.merge import Keys, count_rows, count_tokens, factor, merge, scaled, split
from inference.rules import MODEL_RULES, UNKNOWN_MODEL

FLUX = MODEL_RULES["FluxTransformer2DModel"]
UNET = MODEL_RULES["UNet2DConditionModel"]
QWEN = MODEL_RULES["QwenImageTransformer2DModel"]
ZIMAGE = MODEL_RULES["ZImageTransformer2DModel"]


def flux_call(rows: int = 1, tokens: int = 8, **changes: Any) -> dict[str, Any]:
    return {
        "hidden_states": torch.rand(rows, tokens, 4),
        "encoder_hidden_states": torch.rand(rows, 5, 6),
        "pooled_projections": torch.rand(rows, 7),
        "timestep": torch.full((rows,), 0.5),
        "guidance": torch.full((rows,), 3.5),
        "img_ids": torch.arange(tokens * 3.0).reshape(tokens, 3),
        "txt_ids": torch.zeros(5, 3),
        "joint_attention_kwargs": {},
        "return_dict": False,
    } | changes


def same(rules: Any, one: dict[str, Any], other: dict[str, Any]) -> bool:
    keys = Keys()
    return keys.key(rules, one) == keys.key(rules, other)


def test_calls_that_differ_in_time_guidance_and_content_merge() -> None:
    other = flux_call(timestep=torch.tensor([0.1]), guidance=torch.tensor([7.0]))
    assert same(FLUX, flux_call(), other)


def test_calls_with_different_row_counts_merge() -> None:
    assert same(FLUX, flux_call(rows=1), flux_call(rows=2))


@pytest.mark.parametrize(
    "changes",
    [
        {"img_ids": torch.ones(8, 3)},
        {"txt_ids": torch.ones(5, 3)},
        {"guidance": None},
        {"encoder_hidden_states": torch.rand(1, 9, 6)},
        {"hidden_states": torch.rand(1, 8, 4, dtype=torch.float64)},
        {"joint_attention_kwargs": {"scale": 0.5}},
        {"return_dict": True},
        {"something_new": torch.rand(1)},
        {"controlnet_block_samples": [torch.rand(1, 8, 4)]},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_calls_that_differ_in_what_all_rows_share_do_not_merge(changes: dict[str, Any]) -> None:
    assert not same(FLUX, flux_call(), flux_call(**changes))


def test_sizes_do_not_merge() -> None:
    assert not same(FLUX, flux_call(tokens=8), flux_call(tokens=16))


def test_an_argument_without_a_rule_is_compared_by_identity() -> None:
    unknown = object()
    assert same(FLUX, flux_call(new=unknown), flux_call(new=unknown))
    assert not same(FLUX, flux_call(new=object()), flux_call(new=object()))


def test_a_model_without_rules_never_merges() -> None:
    assert not same(UNKNOWN_MODEL, flux_call(), flux_call())


def test_true_is_not_one() -> None:
    assert not same(FLUX, flux_call(flag=True), flux_call(flag=1))


def test_a_tensor_replaced_at_the_same_address_is_read_again() -> None:
    keys = Keys()
    first = torch.zeros(5, 3)
    before = keys.key(FLUX, flux_call(txt_ids=first))
    del first
    assert before != keys.key(FLUX, flux_call(txt_ids=torch.ones(5, 3)))


def test_one_call_passes_untouched() -> None:
    call = flux_call()
    assert merge(FLUX, [call]) is call


def test_merged_rows_keep_their_order() -> None:
    calls = [flux_call(rows=rows, timestep=torch.full((rows,), float(rows))) for rows in (1, 2, 1)]
    merged = merge(FLUX, calls)
    assert merged["hidden_states"].shape == (4, 8, 4)
    assert merged["timestep"].tolist() == [1.0, 2.0, 2.0, 1.0]
    assert torch.equal(merged["img_ids"], calls[0]["img_ids"])
    shares = split((merged["hidden_states"],), [1, 2, 1])
    for call, share in zip(calls, shares, strict=True):
        assert torch.equal(share[0], call["hidden_states"])


def test_a_timestep_without_rows_is_widened() -> None:
    calls = [
        {
            "sample": torch.rand(2, 4, 8, 8),
            "timestep": torch.tensor(time),
            "added_cond_kwargs": {"text_embeds": torch.rand(2, 3), "time_ids": torch.rand(2, 6)},
            "down_block_additional_residuals": (torch.rand(2, 1), torch.rand(2, 2)),
        }
        for time in (999.0, 1.0)
    ]
    assert same(UNET, *calls)
    merged = merge(UNET, calls)
    assert merged["timestep"].tolist() == [999.0, 999.0, 1.0, 1.0]
    assert merged["added_cond_kwargs"]["time_ids"].shape == (4, 6)
    assert [tuple(part.shape) for part in merged["down_block_additional_residuals"]] == [
        (4, 1),
        (4, 2),
    ]


def qwen_call(rows: int = 1, **changes: Any) -> dict[str, Any]:
    return {
        "hidden_states": torch.rand(rows, 24, 4),
        "encoder_hidden_states": torch.rand(rows, 5, 6),
        "encoder_hidden_states_mask": None,
        "timestep": torch.full((rows,), 0.5),
        "img_shapes": [[(1, 4, 4), (1, 2, 4)]] * rows,
    } | changes


def test_shapes_must_be_equal_because_the_first_rows_decide() -> None:
    """Both have 24 tokens; sharing would give the second one the first one's positions."""
    assert same(QWEN, qwen_call(1), qwen_call(2))
    assert not same(QWEN, qwen_call(), qwen_call(img_shapes=[[(1, 4, 4), (1, 4, 2)]]))
    assert not same(QWEN, qwen_call(), qwen_call(img_shapes=[[(1, 4, 6)]]))
    mixed = qwen_call(2, img_shapes=[[(1, 4, 6)], [(1, 6, 4)]])
    assert not same(QWEN, mixed, qwen_call(2, img_shapes=[[(1, 4, 6)], [(1, 6, 4)]]))
    merged = merge(QWEN, [qwen_call(1), qwen_call(2)])
    assert merged["img_shapes"] == [[(1, 4, 4), (1, 2, 4)]] * 3


def test_positions_with_a_row_axis_are_shared_and_compared() -> None:
    """FLUX.2 reads the first row's: 24 tokens of another shape must not share a forward."""
    rules = MODEL_RULES["Flux2Transformer2DModel"]
    wide, tall = (torch.cartesian_prod(*map(torch.arange, size))[None] for size in ((4, 6), (6, 4)))
    calls = [
        {"hidden_states": torch.rand(1, 24, 4), "img_ids": ids, "guidance": None}
        for ids in (wide, tall, wide.clone())
    ]
    assert not same(rules, calls[0], calls[1])
    assert same(rules, calls[0], calls[2])
    assert torch.equal(merge(rules, [calls[0], calls[2]])["img_ids"], wide)


def zimage_call(rows: int = 1, side: int = 8, length: int = 32) -> dict[str, Any]:
    return {
        "x": [torch.rand(4, 1, side, side) for _ in range(rows)],
        "t": torch.full((rows,), 0.5),
        "cap_feats": [torch.rand(length, 6) for _ in range(rows)],
        "return_dict": False,
    }


def test_lists_of_rows_merge_whatever_the_length_of_their_texts() -> None:
    calls = [zimage_call(2, length=7), zimage_call(1, length=9)]
    assert same(ZIMAGE, *calls)
    assert not same(ZIMAGE, zimage_call(), zimage_call(side=6))
    assert (count_rows(ZIMAGE, calls[0]), count_tokens(ZIMAGE, calls[0])) == (2, 64)
    merged = merge(ZIMAGE, calls)
    assert [id(row) for row in merged["x"]] == [id(row) for call in calls for row in call["x"]]
    assert [len(text) for text in merged["cap_feats"]] == [7, 7, 9]
    assert merged["t"].shape == (3,)


def test_a_list_of_rows_is_split_by_rows() -> None:
    rows = [torch.tensor(float(number)) for number in range(3)]
    one, two = split((rows,), [2, 1], lists_rows=True)
    assert one == (rows[:2],) and two == (rows[2:],)
    one, two = split(Transformer2DModelOutput(sample=rows), [2, 1], lists_rows=True)
    assert one.sample == rows[:2] and two.sample == rows[2:]


def test_outputs_are_split_by_field() -> None:
    output = Transformer2DModelOutput(sample=torch.arange(3.0).reshape(3, 1))
    one, two = split(output, [1, 2])
    assert isinstance(one, Transformer2DModelOutput)
    assert one.sample.tolist() == [[0.0]] and two.sample.tolist() == [[1.0], [2.0]]


def test_rows_and_tokens_are_counted_from_the_latents() -> None:
    assert count_rows(FLUX, flux_call(rows=3)) == 3
    assert count_tokens(FLUX, flux_call(tokens=9)) == 9
    assert count_tokens(UNET, {"sample": torch.rand(2, 4, 6, 7)}) == 42


CONTROL = MODEL_RULES["FluxControlNetModel"]


def test_calls_of_unequal_scale_merge_and_each_gets_its_own() -> None:
    calls = [
        {"hidden_states": torch.rand(1, 8, 4), "conditioning_scale": scale}
        for scale in (0.3, 1, 0.0)
    ]
    assert same(CONTROL, calls[0], calls[1])
    assert same(CONTROL, calls[0], calls[2])
    assert merge(CONTROL, calls)["conditioning_scale"] == 1.0
    assert merge(CONTROL, calls[:1])["conditioning_scale"] == 0.3
    assert [factor(CONTROL, call) for call in calls] == [0.3, 1, 0.0]
    assert factor(FLUX, flux_call()) == 1


@pytest.mark.parametrize("scale", [[0.3], torch.tensor([0.3]), None])
def test_a_scale_that_is_no_number_is_compared_as_it_is(scale: Any) -> None:
    calls = [
        {"hidden_states": torch.rand(1, 8, 4), "conditioning_scale": one} for one in (scale, 0.3)
    ]
    assert not same(CONTROL, *calls)


def test_every_part_of_an_output_is_scaled() -> None:
    part = torch.rand(1, 3)
    made = scaled(([part, None], Transformer2DModelOutput(sample=part)), 0.5)
    assert torch.equal(made[0][0], part * 0.5)
    assert made[0][1] is None
    assert torch.equal(made[1].sample, part * 0.5)
