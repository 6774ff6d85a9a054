"""The door: everything a wish may leave open gets a value, everything wrong names its field."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.catalog import Catalog, load_catalog
from inference.errors import BadValue, Refused, Unsupported
from inference.job import (
    ImageRequest,
    ImageRole,
    InputImage,
    Job,
    Mode,
    ReferenceTag,
    dump_job,
    load_job,
)
from inference.pipelines import FAMILIES
from inference.resolve import SEED_LIMIT, follow, resolve
from inference.sizes import TIER_SIDES_PX

ROOT = Path(__file__).parent.parent.parent
TINY = load_catalog(ROOT / "models.yaml")
FREE = Catalog.model_validate(
    {"models": {"big": {"name": "big", "family": "flux", "source": "a/b", "limits": {"count": 4}}}}
)
SIZES = set(TINY.models["tiny-flux"].sizes)
SOURCE = InputImage(role=ImageRole.SOURCE, key="s")
MASK = InputImage(role=ImageRole.MASK, key="m")


def made(catalog: Catalog = TINY, **wish: Any) -> Job:
    asked: dict[str, Any] = {"model": next(iter(catalog.models)), "prompt": "a red circle"}
    return resolve(catalog, ImageRequest(**asked | wish), job_id="job")


def refused(catalog: Catalog = TINY, **wish: Any) -> Refused:
    with pytest.raises(Refused) as caught:
        made(catalog, **wish)
    assert len(str(caught.value)) < 500
    return caught.value


def test_a_bare_prompt_gets_the_models_defaults() -> None:
    job = made()
    assert (job.id, job.model, job.mode) == ("job", "tiny-flux", Mode.GENERATE)
    assert (job.width, job.height) == (128, 128)
    assert (job.num_inference_steps, job.guidance_scale) == (8, 3)
    assert job.negative_prompt == ""
    assert len(job.seeds) == 1


def test_an_alias_becomes_the_model() -> None:
    assert made(model="nano-banana-pro").model == "tiny-flux"


@pytest.mark.parametrize(("quality", "steps"), [("standard", 8), ("medium", 12), ("high", 16)])
def test_a_quality_replaces_the_defaults(quality: str, steps: int) -> None:
    assert made(quality=quality).num_inference_steps == steps
    assert made(quality=quality).guidance_scale == 3


def test_what_the_caller_says_wins_over_the_quality() -> None:
    assert made(quality="high", num_inference_steps=3).num_inference_steps == 3


def test_a_model_without_qualities_takes_any_quality() -> None:
    assert made(FREE, quality="high").num_inference_steps == 28


class TestSeeds:
    def test_pictures_of_one_task_get_seeds_that_follow_one_another(self) -> None:
        assert made(seed=7, count=3).seeds == (7, 8, 9)

    def test_the_last_seed_is_followed_by_the_first(self) -> None:
        assert made(seed=SEED_LIMIT - 1, count=2).seeds == (SEED_LIMIT - 1, 0)

    def test_without_one_every_task_gets_its_own(self) -> None:
        assert len({made().seeds for _ in range(20)}) == 20

    @given(st.integers(0, SEED_LIMIT - 1), st.integers(1, 8))
    def test_every_seed_is_one_that_a_caller_may_send_again(self, seed: int, count: int) -> None:
        seeds = made(seed=seed, count=count).seeds
        assert len(set(seeds)) == count
        assert all(0 <= one < SEED_LIMIT for one in seeds)


class TestSizes:
    @given(st.integers(16, 16384), st.integers(16, 16384))
    def test_any_size_is_answered_with_a_listed_one(self, width: int, height: int) -> None:
        job = made(width=width, height=height)
        assert (job.width, job.height) in SIZES

    @given(st.integers(16, 16384), st.integers(16, 16384))
    def test_a_free_size_keeps_the_models_bounds(self, width: int, height: int) -> None:
        job = made(FREE, width=width, height=height)
        assert job.width % 16 == job.height % 16 == 0
        assert 256 <= min(job.width, job.height) <= max(job.width, job.height) <= 2048
        assert job.width * job.height <= 2.4e6

    @given(st.integers(1, 100), st.integers(1, 100), st.sampled_from([None, "1k", "2k"]))
    def test_a_ratio_costs_no_more_than_its_tier(
        self, left: int, right: int, resolution: str | None
    ) -> None:
        if not 1 / 8 <= left / right <= 8:
            return
        job = made(FREE, aspect_ratio=f"{left}:{right}", resolution=resolution)
        side = TIER_SIDES_PX[resolution or "1k"]
        assert job.width * job.height <= side**2

    @given(st.integers(1, 100), st.integers(1, 100), st.sampled_from([None, "1k", "2k", "4k"]))
    def test_no_other_listed_size_honours_the_ratio_better(
        self, left: int, right: int, resolution: str | None
    ) -> None:
        if not 1 / 8 <= left / right <= 8:
            return
        job = made(aspect_ratio=f"{left}:{right}", resolution=resolution)

        def off(size: tuple[int, int]) -> float:
            return abs(math.log(size[0] / size[1] * right / left))

        assert off((job.width, job.height)) <= min(map(off, SIZES)) + 0.0101

    @pytest.mark.parametrize(
        ("wish", "size"),
        [
            ({"aspect_ratio": "16:9"}, (144, 80)),
            ({"aspect_ratio": "9:16"}, (80, 144)),
            ({"aspect_ratio": "4:3"}, (128, 96)),
            ({"aspect_ratio": "3:2", "resolution": "2k"}, (144, 96)),
            ({"resolution": "4k"}, (128, 128)),
            ({"width": 1024, "height": 768}, (128, 96)),
            ({"width": 96, "height": 144}, (96, 144)),
        ],
    )
    def test_what_the_demo_model_makes_of_a_wish(
        self, wish: dict[str, Any], size: tuple[int, int]
    ) -> None:
        job = made(**wish)
        assert (job.width, job.height) == size

    @pytest.mark.parametrize(
        ("wish", "size"),
        [
            ({}, (1024, 1024)),
            ({"resolution": "2k"}, (1536, 1536)),
            ({"aspect_ratio": "21:9", "resolution": "1k"}, (1552, 672)),
            ({"width": 4096, "height": 512}, (2048, 256)),
        ],
    )
    def test_what_a_model_of_any_size_makes_of_a_wish(
        self, wish: dict[str, Any], size: tuple[int, int]
    ) -> None:
        job = made(FREE, **wish)
        assert (job.width, job.height) == size


class TestRefusals:
    @pytest.mark.parametrize(
        ("wish", "field"),
        [
            ({"model": "nothing"}, "model"),
            ({"prompt": ""}, "prompt"),
            ({"prompt": " \n\t"}, "prompt"),
            ({"prompt": "x" * 32001}, "prompt"),
            ({"prompt": "a \ud800"}, "prompt"),
            ({"negative_prompt": "x" * 32001}, "negative_prompt"),
            ({"negative_prompt": "\udfff"}, "negative_prompt"),
            ({"count": 0}, "count"),
            ({"count": -1}, "count"),
            ({"count": 999}, "count"),
            ({"count": 10**400}, "count"),
            ({"seed": -1}, "seed"),
            ({"seed": SEED_LIMIT}, "seed"),
            ({"seed": 10**5000}, "seed"),
            ({"num_inference_steps": 0}, "num_inference_steps"),
            ({"num_inference_steps": 51}, "num_inference_steps"),
            ({"guidance_scale": -0.1}, "guidance_scale"),
            ({"guidance_scale": 10.1}, "guidance_scale"),
            ({"guidance_scale": math.nan}, "guidance_scale"),
            ({"guidance_scale": math.inf}, "guidance_scale"),
            ({"strength": 0.5}, "strength"),
            ({"strength": math.nan}, "strength"),
            ({"strength": 0.0, "images": (SOURCE,)}, "strength"),
            ({"strength": 1.1, "images": (SOURCE,)}, "strength"),
            ({"strength": 0.1, "images": (SOURCE,)}, "strength"),
            ({"quality": "ultra"}, "quality"),
            ({"width": 128}, "height"),
            ({"height": 128}, "width"),
            ({"width": 15, "height": 128}, "width"),
            ({"width": 128, "height": 16385}, "height"),
            ({"width": 10**400, "height": 128}, "width"),
            ({"width": 128, "height": 128, "aspect_ratio": "1:1"}, "aspect_ratio"),
            ({"aspect_ratio": "wide"}, "aspect_ratio"),
            ({"aspect_ratio": "9:1"}, "aspect_ratio"),
            ({"resolution": "8k"}, "resolution"),
            ({"mode": Mode.IMG2IMG}, "image"),
            ({"mode": Mode.INPAINT, "images": (SOURCE,)}, "mask"),
            ({"images": (MASK,)}, "image"),
            ({"images": (SOURCE, SOURCE)}, "image"),
            ({"images": (SOURCE,), "mode": Mode.GENERATE}, "image"),
            ({"images": (SOURCE, MASK), "mode": Mode.IMG2IMG}, "mask"),
            ({"images": (SOURCE, MASK, MASK)}, "mask"),
            ({"images": (SOURCE,), "mode": Mode.EDIT}, "model"),
        ],
    )
    def test_every_refusal_names_its_field(self, wish: dict[str, Any], field: str) -> None:
        assert refused(**wish).field == field

    @pytest.mark.parametrize(
        "tag", sorted({*ReferenceTag} - {*TINY.models["tiny-flux"].references})
    )
    def test_a_reference_that_the_model_cannot_honour_is_refused_by_its_tag(
        self, tag: ReferenceTag
    ) -> None:
        reference = InputImage(role=ImageRole.REFERENCE, key="r", tag=tag, weight=0.5)
        error = refused(images=(reference,))
        assert (error.field, type(error)) == ("references", Unsupported)
        assert f"cannot take {tag} from a reference picture" in str(error)

    def test_only_a_variation_needs_no_prompt(self) -> None:
        assert made(prompt="", images=(SOURCE,)).mode is Mode.IMG2IMG
        assert refused(prompt="", images=(SOURCE, MASK)).field == "prompt"

    def test_bounds_are_told_in_full(self) -> None:
        said = str(refused(seed=SEED_LIMIT))
        assert said == "seed must lie between 0 and 4294967295, not 4294967296"
        said = str(refused(guidance_scale=10.5))
        assert said == "guidance_scale must lie between 0 and 10, not 10.5"

    def test_the_kind_tells_a_wrong_value_from_a_lacking_skill(self) -> None:
        assert isinstance(refused(count=999), BadValue)
        assert isinstance(refused(images=(SOURCE, SOURCE)), Unsupported)

    def test_a_model_that_honours_no_negative_prompt_says_so(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        deaf = replace(FAMILIES["flux"], negative_prompt=False)
        monkeypatch.setitem(FAMILIES, "flux", deaf)
        assert refused(negative_prompt="blurry").field == "negative_prompt"
        assert made(negative_prompt="").negative_prompt == ""

    def test_a_pipeline_without_a_negative_prompt_says_so_by_its_mode(self) -> None:
        pipelines = {
            "generate": "LatentConsistencyModelPipeline",
            "img2img": "StableDiffusionImg2ImgPipeline",
        }
        entry = {"name": "any", "family": "generic", "source": "a/b", "pipelines": pipelines}
        mixed = Catalog.model_validate({"models": {"any": entry}})
        assert refused(mixed, negative_prompt="blurry").field == "negative_prompt"
        assert made(mixed, negative_prompt="blurry", images=(SOURCE,), strength=0.5)
        pipelines["img2img"] = "LatentConsistencyModelImg2ImgPipeline"
        neither = Catalog.model_validate({"models": {"any": entry}})
        assert not neither.models["any"].takes_negative_prompt
        with pytest.raises(ValueError, match="honours no negative_prompt"):
            Catalog.model_validate(
                {"models": {"any": entry | {"defaults": {"negative_prompt": "blurry"}}}}
            )


EDITS = Catalog.model_validate(
    {
        "models": {
            "kontext": {"name": "kontext", "family": "flux-kontext", "source": "a/b"},
            "schnell": {
                "name": "schnell",
                "family": "flux",
                "source": "c/d",
                "guidance_field": "none",
            },
            "fill": {"name": "fill", "family": "flux-fill", "source": "e/f"},
            "klein": {"name": "klein", "family": "flux2-klein", "source": "g/h"},
        }
    }
)


class TestCapabilities:
    """What a family declares is refused at the door, by the model's name and in numbers."""

    @pytest.mark.parametrize(
        ("wish", "field", "said"),
        [
            (
                {"images": (SOURCE,) * 5},
                "image",
                "'kontext' takes at most 4 source image(s) to edit, not 5",
            ),
            (
                {"model": "fill", "images": (SOURCE, SOURCE, MASK)},
                "image",
                "'fill' takes at most 1 source image(s) to inpaint, not 2",
            ),
            (
                {"images": (SOURCE, MASK), "mode": Mode.EDIT},
                "mask",
                "'kontext' takes at most 0 mask image(s) to edit, not 1",
            ),
            (
                {"images": (SOURCE,), "strength": 0.5},
                "strength",
                "'kontext' edits as the prompt says and takes no strength; leave it out",
            ),
            (
                {"model": "schnell", "guidance_scale": 3.0},
                "guidance_scale",
                "'schnell' honours no guidance_scale",
            ),
            ({"model": "schnell", "negative_prompt": "x"}, "negative_prompt", None),
            ({"negative_prompt": "x"}, "negative_prompt", None),
            (
                {"model": "fill", "images": (SOURCE,)},
                "model",
                "'fill' cannot img2img; it can: inpaint",
            ),
            ({"model": "fill"}, "model", "'fill' cannot generate; it can: inpaint"),
        ],
    )
    def test_it_is_refused(self, wish: dict[str, Any], field: str, said: str | None) -> None:
        error = refused(EDITS, **wish)
        assert (error.field, type(error)) == (field, Unsupported)
        assert str(error) == (said or f"{wish.get('model', 'kontext')!r} honours no {field}")

    def test_an_edit_needs_a_picture_and_a_prompt(self) -> None:
        assert refused(EDITS, mode=Mode.EDIT).field == "image"
        assert refused(EDITS, images=(SOURCE,), prompt="").field == "prompt"

    def test_an_edit_takes_several_pictures_and_leaves_out_the_strength(self) -> None:
        job = made(EDITS, images=(SOURCE,) * 4)
        assert (job.mode, len(job.images), job.takes_strength) == (Mode.EDIT, 4, False)

    @pytest.mark.parametrize(
        ("images", "size"), [((SOURCE,), (1920, 1088)), ((SOURCE, MASK), (1360, 768))]
    )
    def test_a_size_is_no_larger_than_the_modes_pipeline_makes_it(
        self, images: tuple[InputImage, ...], size: tuple[int, int]
    ) -> None:
        job = made(EDITS, model="klein", images=images, width=1920, height=1088)
        assert (job.width, job.height) == size

    def test_an_edit_of_few_steps_is_one(self) -> None:
        """One step of img2img at the default strength would leave none."""
        assert made(EDITS, images=(SOURCE,), num_inference_steps=1).num_inference_steps == 1


numbers = st.one_of(
    st.none(), st.floats(), st.integers(-(10**6), 10**6), st.sampled_from([10**400, -(10**400)])
)


@given(
    st.text(max_size=40),
    st.fixed_dictionaries(
        {},
        optional={
            "negative_prompt": st.none() | st.text(max_size=10),
            "images": st.sampled_from([(), (SOURCE,), (SOURCE, MASK)]),
            "width": st.none() | st.integers(-100, 20000),
            "height": st.none() | st.integers(-100, 20000),
            "aspect_ratio": st.none() | st.text(max_size=8) | st.sampled_from(["1:1", "16:9"]),
            "resolution": st.sampled_from([None, "1k", "4k", "9k"]),
            "quality": st.sampled_from([None, "high", "odd"]),
            "count": st.integers(-3, 12),
            "seed": st.none() | st.integers(),
            "num_inference_steps": st.none() | st.integers(),
            "guidance_scale": numbers,
            "strength": numbers,
        },
    ),
)
def test_any_wish_becomes_a_job_or_a_refusal(prompt: str, wish: dict[str, Any]) -> None:
    """Nothing else may escape, and a job always survives the way to disk and back."""
    try:
        job = made(prompt=prompt, **wish)
    except Refused as error:
        assert error.field
        return
    assert load_job(dump_job(job)) == job
    assert (job.width, job.height) in SIZES
    assert 1 <= job.num_inference_steps <= 50
    assert 0 <= job.guidance_scale <= 10


class TestFollowingTheSource:
    """Where a request with a source names no size, the picture is of the source's."""

    PRICED = Catalog.model_validate(
        {
            "models": {
                "big": {
                    "name": "big",
                    "family": "flux",
                    "source": "a/b",
                    "price": {"1k": 5},
                }
            }
        }
    )

    def followed(
        self, size: tuple[int, int], catalog: Catalog = FREE, **wish: Any
    ) -> tuple[int, int]:
        asked: dict[str, Any] = {"prompt": "a red circle", "images": (SOURCE,)} | wish
        request = ImageRequest(model=next(iter(catalog.models)), **asked)
        job = resolve(catalog, request, job_id="job")
        after = follow(catalog, request, job, size)
        assert replace(after, width=job.width, height=job.height) == job
        return after.width, after.height

    def test_a_size_that_can_be_made_is_kept(self) -> None:
        assert self.followed((800, 608)) == (800, 608)

    @given(st.integers(1, 9000), st.integers(1, 9000))
    def test_any_other_becomes_the_nearest(self, width: int, height: int) -> None:
        made_width, made_height = self.followed((width, height))
        assert made_width % 16 == made_height % 16 == 0
        assert min(made_width, made_height) >= 256 and max(made_width, made_height) <= 2048
        assert made_width * made_height <= 2.4e6
        if 1 / 3 < width / height < 3:
            assert made_width / made_height == pytest.approx(width / height, rel=0.09)

    def test_of_listed_sizes_it_is_the_nearest(self) -> None:
        assert self.followed((1600, 1200), TINY) == (128, 96)
        assert self.followed((500, 900), TINY) == (80, 144)

    def test_it_follows_what_is_left_of_a_shrunk_source(self) -> None:
        assert self.followed((1600, 1200), downsizing_mp=0.4801) == (800, 608)
        assert self.followed((800, 608), downsizing_mp=4) == (800, 608)

    def test_a_resolution_alone_takes_the_sources_ratio(self) -> None:
        assert self.followed((600, 300), resolution="1k") == (1440, 720)

    @pytest.mark.parametrize("wish", [{"width": 512, "height": 512}, {"aspect_ratio": "1:1"}])
    def test_what_the_request_names_wins(self, wish: dict[str, Any]) -> None:
        width, height = self.followed((1600, 400), **wish)
        assert width == height

    def test_a_reference_is_nothing_to_follow(self) -> None:
        assert self.followed((1600, 400), images=()) == (1024, 1024)

    def test_nothing_becomes_larger_than_what_has_a_price(self) -> None:
        assert self.followed((1600, 1200)) == (1600, 1200)
        width, height = self.followed((1600, 1200), self.PRICED)
        assert 1024**2 * 0.9 < width * height <= 1024**2
        assert width / height == pytest.approx(4 / 3, rel=0.03)

    def test_a_mode_with_a_bound_of_its_own_keeps_to_it(self) -> None:
        entry = {"name": "k", "family": "flux2-klein", "source": "a/b"}
        klein = Catalog.model_validate({"models": {"k": entry}})
        assert self.followed((1600, 1200), klein) == (1600, 1200)
        width, height = self.followed((1600, 1200), klein, images=(SOURCE, MASK))
        assert width * height <= 1024**2


class TestInputFields:
    @pytest.mark.parametrize("most", [0, -1.0, math.nan, math.inf])
    def test_a_downsizing_that_leaves_nothing_is_refused(self, most: float) -> None:
        assert refused(images=(SOURCE,), downsizing_mp=most).field == "downsizing_mp"

    def test_a_downsizing_needs_something_to_shrink(self) -> None:
        assert refused(downsizing_mp=1.0).field == "downsizing_mp"
        assert made(images=(SOURCE,), downsizing_mp=2).downsizing_mp == 2.0

    def test_a_blur_needs_a_mask(self) -> None:
        assert refused(mask_blur=4).field == "mask_blur"
        assert refused(images=(SOURCE,), mask_blur=4).field == "mask_blur"
        assert made(images=(SOURCE, MASK), mask_blur=4).mask_blur == 4
        assert made(images=(SOURCE, MASK)).mask_blur == 0

    @pytest.mark.parametrize("blur", [-1, 257, 10**400])
    def test_a_blur_has_bounds(self, blur: int) -> None:
        assert refused(images=(SOURCE, MASK), mask_blur=blur).field == "mask_blur"

    @pytest.mark.parametrize("offload", ["none", "model", "sequential", "group"])
    def test_offloading_is_refused_where_the_entry_says_otherwise(self, offload: str) -> None:
        spec = TINY.models["tiny-flux"].model_copy(update={"offload": offload})
        catalog = TINY.model_copy(update={"models": {**TINY.models, "tiny-flux": spec}})
        request = ImageRequest(model="tiny-flux", prompt="a")
        for same in (None, offload != "none"):
            resolve(catalog, replace(request, offloading=same), job_id="j")
        with pytest.raises(Unsupported, match=f"offload: {offload}; leave offloading out") as told:
            resolve(catalog, replace(request, offloading=offload == "none"), job_id="j")
        assert told.value.field == "offloading"
