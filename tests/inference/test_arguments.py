"""What each family's call is given: sizes, guidance, and every picture in its place."""

from __future__ import annotations

from typing import Any

import pytest
from PIL import Image

from inference.job import Mode
from inference.model_spec import ModelSpec
from inference.pipelines import FAMILIES
from inference.pixels import Pictures
from tests.inference.making import job

WIDE, TALL = Image.new("RGB", (3000, 1000), "red"), Image.new("RGB", (500, 1000), "blue")
PICTURES = Pictures(sources=(WIDE, TALL), mask=Image.new("L", (300, 100), 255))


def arguments(family: str, mode: Mode, pictures: Pictures = PICTURES, **changes: Any) -> Any:
    entry: dict[str, Any] = {"name": "m", "family": family, "source": "a/b"}
    wish: dict[str, Any] = {"width": 768, "height": 512, "negative_prompt": None, "mask_blur": 0}
    wish |= {key: changes.pop(key) for key in tuple(changes) if key in wish}
    spec = ModelSpec.model_validate(entry | changes)
    return (
        FAMILIES[family].routes[mode].arguments(job(model="m", mode=mode, **wish), spec, pictures)
    )


@pytest.mark.parametrize(
    ("family", "changes", "given"),
    [
        ("flux", {}, {"guidance_scale": 3.0}),
        ("flux", {"guidance_field": "none"}, {}),
        ("flux", {"negative_prompt": "blur"}, {"guidance_scale": 3.0}),
        (
            "flux",
            {"guidance_field": "true_cfg_scale"},
            {"true_cfg_scale": 3.0, "negative_prompt": ""},
        ),
        (
            "qwen-image",
            {"negative_prompt": "blur"},
            {"true_cfg_scale": 3.0, "negative_prompt": "blur"},
        ),
        ("sdxl", {"negative_prompt": "blur"}, {"guidance_scale": 3.0, "negative_prompt": "blur"}),
        ("flux2-klein", {"negative_prompt": "blur"}, {"guidance_scale": 3.0}),
        ("sd3", {"max_sequence_length": 64}, {"guidance_scale": 3.0, "max_sequence_length": 64}),
    ],
)
def test_guidance_goes_where_the_model_listens(
    family: str, changes: dict[str, Any], given: dict[str, Any]
) -> None:
    made = arguments(family, Mode.GENERATE, **changes)
    common = {"prompt": "a red fox", "width": 768, "height": 512, "num_inference_steps": 4}
    assert made == common | given


@pytest.mark.parametrize("mode", [Mode.GENERATE, Mode.EDIT, Mode.INPAINT])
def test_kontext_makes_the_size_that_was_asked_for(mode: Mode) -> None:
    made = arguments("flux-kontext", mode)
    assert (made["max_area"], made["_auto_resize"]) == (768 * 512, False)


def test_kontext_sees_its_sources_side_by_side_at_the_outputs_area() -> None:
    shown = arguments("flux-kontext", Mode.EDIT)["image"]
    assert shown.size == (1168, 336)
    assert shown.getpixel((0, 0)) == (255, 0, 0)
    assert shown.getpixel((1167, 335)) == (0, 0, 255)


@pytest.mark.parametrize("family", ["flux-kontext", "flux2-klein"])
def test_to_inpaint_the_first_source_is_redrawn_and_the_others_show_what_with(family: str) -> None:
    made = arguments(family, Mode.INPAINT)
    assert (made["image"].size, made["mask_image"].size) == ((768, 512), (768, 512))
    assert made["image"].getpixel((0, 0)) == (255, 0, 0)
    assert made["image_reference"].getpixel((0, 0)) == (0, 0, 255)
    alone = arguments(family, Mode.INPAINT, Pictures(sources=(WIDE,), mask=PICTURES.mask))
    assert "image_reference" not in alone


@pytest.mark.parametrize(
    ("width", "height", "least", "most"),
    [(768, 512, 370e3, 410e3), (32, 32, 28e3, 40e3), (2048, 2048, 1.0e6, 1.06e6)],
)
def test_flux2_sees_each_source_in_its_own_ratio(
    width: int, height: int, least: float, most: float
) -> None:
    shown = arguments("flux2", Mode.EDIT, width=width, height=height)["image"]
    for before, after in zip((WIDE, TALL), shown, strict=True):
        assert least <= after.width * after.height <= most
        assert min(after.size) >= 64 and not after.width % 16 and not after.height % 16
        ratio = before.width / before.height
        assert after.width / after.height == pytest.approx(ratio, rel=0.15)


@pytest.mark.parametrize(("count", "several"), [(1, False), (2, True)])
def test_qwen_sees_its_sources_as_they_are(count: int, several: bool) -> None:
    pictures = Pictures(sources=PICTURES.sources[:count])
    shown = arguments("qwen-image-edit-plus", Mode.EDIT, pictures)["image"]
    assert isinstance(shown, list) is several
    assert [one.size for one in (shown if several else [shown])] == [(3000, 1000), (500, 1000)][
        :count
    ]


@pytest.mark.parametrize("family", ["flux", "flux-fill", "sdxl", "flux-kontext", "flux2-klein"])
def test_all_that_a_fading_edge_reaches_is_painted_anew(family: str) -> None:
    mask = Image.new("L", (768, 512))
    mask.paste(255, (100, 100, 200, 200))
    pictures = Pictures(sources=(WIDE,), mask=mask)
    for blur, box in ((0, (100, 100, 200, 200)), (12, (88, 88, 212, 212))):
        made = arguments(family, Mode.INPAINT, pictures, mask_blur=blur)["mask_image"]
        assert made.getbbox() == box
        assert made.crop(box).getextrema() == (255, 255)
