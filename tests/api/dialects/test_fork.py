"""Whose a request is where dialects share a path: rule by rule, the first that holds counts."""

from __future__ import annotations

from typing import Any

import pytest

from api.dialects.base import Dialect
from api.dialects.fork import (
    APIMODELS,
    MODELBUFFET,
    OPENAI,
    whose_edit,
    whose_generation,
)

PIXELS = {"size": "1024x1024"}
ALL = {"model": "gpt-image-2-all"}
# A field of APIModels alone, by the third rule, and of OpenAI alone, by the fourth.
THIRD: list[dict[str, Any]] = [
    *({name: "1:1"} for name in ("aspect_ratio", "resolution")),
    *({name: "https://a.example"} for name in ("image_url", "mask_url")),
    *({name: "https://a.example"} for name in ("callback_url", "callBackUrl")),
    {"image_urls": ["https://a.example"]},
    *({"size": size} for size in ("1K", "2K", "4k")),
    *({name: 256} for name in ("width", "height")),
    *({name: True} for name in ("turbo", "prompt_upsampling", "layer_decomposition")),
    *({name: False} for name in ("face_enhance", "nsfw_checker")),
    *({"lora_weights": "stripes"}, {"lora_scale": 1.5}, {"scale": 2}),
    *({f"{side}_expansion_ratio": 0.5} for side in ("up", "down", "left", "right")),
]
PICTURES = [{name: "AAEC"} for name in ("image", "images", "mask", "mask_image")]
FOURTH: list[dict[str, Any]] = [
    {"response_format": "url"},
    {"stream": False},
    {"partial_images": 1},
    {"output_compression": 50},
    {"background": "opaque"},
    {"background": "auto"},
    {"moderation": "low"},
    {"style": "vivid"},
    {"user": "me"},
    {"safety_identifier": "me"},
]
BASES = pytest.mark.parametrize("base", [OPENAI, APIMODELS], ids=["v1", "api-v1"])


def whose(base: Dialect, fields: dict[str, Any], told: Dialect | None = None) -> Dialect:
    values = {"model": "gpt-image-2", "prompt": "a"} | fields
    return whose_generation(values, told=told, default=base, sync_models=["gpt-image-2-all"])


@BASES
@pytest.mark.parametrize("fields", [*THIRD, *PICTURES, *FOURTH, PIXELS, {}], ids=str)
def test_contract_1_an_explicit_dialect_counts_first(base: Dialect, fields: dict[str, Any]) -> None:
    assert whose(base, fields, told=OPENAI) is OPENAI
    assert whose(base, fields, told=APIMODELS) is APIMODELS


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param(ALL | PIXELS, id="D its own reply to pixels"),
        pytest.param(ALL | PIXELS | {"response_format": "url"}, id="D and OpenAI's fields"),
    ],
)
def test_contract_1_apimodels_itself_answers_some_models_as_openai(fields: dict[str, Any]) -> None:
    assert whose(APIMODELS, fields, told=APIMODELS) is OPENAI
    assert whose(APIMODELS, fields | {"image_url": "AAEC"}, told=APIMODELS) is APIMODELS


@BASES
@pytest.mark.parametrize("fields", THIRD, ids=str)
def test_contract_3_a_field_of_apimodels_alone(base: Dialect, fields: dict[str, Any]) -> None:
    assert whose(base, fields) is APIMODELS
    for other in FOURTH:
        assert whose(base, other | fields) is APIMODELS
    assert whose(base, PIXELS | ALL | fields) is APIMODELS


@BASES
@pytest.mark.parametrize("fields", PICTURES, ids=str)
def test_contract_3_a_picture_is_not_dropped__INF(base: Dialect, fields: dict[str, Any]) -> None:
    assert whose(base, fields) is APIMODELS


@BASES
@pytest.mark.parametrize("fields", FOURTH, ids=str)
def test_contract_4_a_field_of_openai_alone(base: Dialect, fields: dict[str, Any]) -> None:
    assert whose(base, fields) is OPENAI
    assert whose(base, fields | PIXELS) is OPENAI


@BASES
def test_contract_4_a_transparent_background_tells_nothing(base: Dialect) -> None:
    assert whose(base, {"background": "transparent"}) is base
    assert whose(base, {"background": ""}) is base


def test_contract_5_pixels_of_a_sync_model_or_below_v1() -> None:
    assert whose(APIMODELS, PIXELS | ALL) is OPENAI
    assert whose(APIMODELS, PIXELS) is APIMODELS
    assert whose(OPENAI, PIXELS) is OPENAI
    assert whose(APIMODELS, ALL) is APIMODELS


@BASES
@pytest.mark.parametrize(
    "fields",
    [
        *({}, {"n": 2, "quality": "high"}, {"size": "auto"}),
        *({"aspect_ratio": None, "stream": None}, {"seed": 5, "negative_prompt": "a"}),
    ],
    ids=str,
)
def test_contract_6_what_tells_nothing_is_of_its_base(
    base: Dialect, fields: dict[str, Any]
) -> None:
    assert whose(base, fields) is base


@BASES
@pytest.mark.parametrize("fields", [{"size": 5}, {"model": ["a"]} | PIXELS, {"size": ["2K"]}])
def test_nonsense_is_left_to_whoever_parses_it(base: Dialect, fields: dict[str, Any]) -> None:
    assert whose(base, fields) is base


@pytest.mark.parametrize(
    ("fields", "dialect"),
    [
        ({"image": "AAEC"}, MODELBUFFET),
        ({"image": "AAEC", "mask": "AAEC", "aspect_ratio": "1:1"}, MODELBUFFET),
        ({"images": None, "image": "AAEC"}, MODELBUFFET),
        ({}, MODELBUFFET),
        ({"images": ["AAEC"]}, APIMODELS),
        ({"image_urls": ["AAEC"]}, APIMODELS),
        ({"image": "AAEC", "turbo": True}, APIMODELS),
        ({"image": "AAEC", "width": 256, "height": 256}, APIMODELS),
        ({"image": "AAEC", "seed": 5, "negative_prompt": "a"}, MODELBUFFET),
        ({"image": "AAEC", "callback_url": "https://a.example"}, APIMODELS),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_contract_an_edit_is_told_by_its_fields__INF(
    fields: dict[str, Any], dialect: Dialect
) -> None:
    values = {"model": "m", "prompt": "a"} | fields

    assert whose_edit(values, told=None) is dialect
    assert whose_edit(values, told=APIMODELS) is APIMODELS
    assert whose_edit(values, told=MODELBUFFET) is MODELBUFFET
