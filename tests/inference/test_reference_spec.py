"""References in models.yaml, and the door: what is refused names the tag and the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from inference.catalog import Catalog, load_catalog
from inference.errors import BadValue, CatalogError, Refused, Unsupported
from inference.job import ImageRequest, ImageRole, InputImage, Job, Mode, ReferenceTag
from inference.model_spec import ModelSpec
from inference.pipelines import FAMILIES
from inference.references.spec import WAYS, Way
from inference.resolve import resolve

SOURCE = InputImage(role=ImageRole.SOURCE, key="s")
MASK = InputImage(role=ImageRole.MASK, key="m")
CONTROL = {"by": "controlnet", "source": "a/control"}
IMAGE = {"by": "ip_adapter", "source": "a/ip", "file": "ip.safetensors"}
REDUX = {"by": "redux", "source": "a/redux"}


def spec_of(family: str, references: dict[str, Any], **changes: Any) -> ModelSpec:
    entry = {"name": "m", "family": family, "source": "a/b", "references": references}
    return ModelSpec.model_validate(entry | changes)


FLUX = {"composition": CONTROL, "pose": CONTROL, "style": REDUX, "character": IMAGE}
FLUX |= {"palette": "transfer"}
SPECS = {
    "flux": spec_of("flux", FLUX),
    "flux-cfg": spec_of("flux", FLUX, guidance_field="true_cfg_scale"),
    "sdxl": spec_of("sdxl", {"composition": CONTROL, "style": IMAGE, "character": IMAGE}),
    "sd3": spec_of("sd3", {"composition": CONTROL, "pose": CONTROL}),
    "klein": spec_of("flux2-klein", {"style": "native", "pose": "native", "palette": "transfer"}),
    "edit": spec_of("qwen-image-edit-plus", {"style": "native", "character": "native"}),
    "plain": spec_of("z-image", {}),
}


def ref(tag: str | None = "style", weight: float | None = 0.5) -> InputImage:
    wanted = None if tag is None else ReferenceTag(tag)
    return InputImage(role=ImageRole.REFERENCE, key="r", tag=wanted, weight=weight)


def made(model: str, *images: InputImage, **changes: Any) -> Job:
    models = {"m": SPECS[model]}
    request = ImageRequest(model="m", images=images, **{"prompt": "a fox", **changes})
    return resolve(Catalog(models=models), request, job_id="j")


def refused(model: str, *images: InputImage, **changes: Any) -> Refused:
    with pytest.raises(Refused) as raised:
        made(model, *images, **changes)
    return raised.value


@pytest.mark.parametrize(
    ("references", "said"),
    [
        ({"style": "redux"}, "by redux needs a source"),
        ({"style": {"by": "magic", "source": "a/b"}}, "'controlnet', 'ip_adapter'"),
        ({"mood": "native"}, "'style'"),
        ({"style": {"by": "ip_adapter", "source": "a/b"}}, "needs a file"),
        ({"style": IMAGE | {"file": "ip.bin"}}, "needs a file, one of .safetensors"),
        ({"style": IMAGE | {"condition": "edges"}}, "by ip_adapter has no condition"),
        ({"pose": CONTROL | {"file": "x.safetensors"}}, "by controlnet has no file"),
        ({"palette": {"by": "transfer", "source": "a/b"}}, "by transfer has no source"),
        ({"pose": CONTROL | {"condition": "depth"}}, "'as_given', 'edges'"),
        ({"pose": CONTROL | {"strength": 0}}, "greater than 0"),
        ({"pose": CONTROL | {"strengths": 1}}, "strengths"),
        ({"pose": CONTROL | {"control_mode": True}}, "valid integer"),
        ({"style": "native"}, "style can be taken by ip_adapter, redux in family 'flux'"),
        ({"style": CONTROL}, "style can be taken by ip_adapter, redux"),
        ({"palette": REDUX}, "palette can be taken by transfer"),
        ({"pose": "transfer"}, "pose can be taken by controlnet"),
    ],
)
def test_what_cannot_be_is_refused_at_the_start(references: Any, said: str) -> None:
    with pytest.raises(ValidationError) as raised:
        spec_of("flux", references)
    assert said in str(raised.value)


def test_more_that_cannot_be() -> None:
    with pytest.raises(ValidationError, match="control_mode, of which 'sdxl' knows none"):
        spec_of("sdxl", {"pose": CONTROL | {"control_mode": 1}})
    with pytest.raises(ValidationError, match="needs the family's own pipelines"):
        spec_of("sdxl", {"pose": CONTROL}, pipelines={"generate": "StableDiffusionXLPAGPipeline"})
    generic = {"generate": "PixArtSigmaPipeline"}
    assert spec_of("generic", {"palette": "transfer"}, pipelines=generic).references


def test_a_mistake_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "models.yaml"
    path.write_text(
        "models:\n  m:\n    family: flux\n    source: a/b\n    references:\n"
        "      style:\n        by: redux\n        source: a/redux\n        revison: abc\n"
    )
    with pytest.raises(CatalogError) as raised:
        load_catalog(path)
    where = f"{path}:9: models.m.references.style.revison: "
    assert str(raised.value) == where + "unknown key; did you mean 'revision'?"


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_takes_colours_and_every_tag_has_a_way(family: str) -> None:
    pipelines = {"generate": "PixArtSigmaPipeline"} if family == "generic" else {}
    assert spec_of(family, {"palette": "transfer"}, pipelines=pipelines).references
    assert set(WAYS) == set(ReferenceTag)
    assert {way for ways in WAYS.values() for way in ways} == set(Way)


@pytest.mark.parametrize("tag", ReferenceTag)
def test_what_a_model_does_not_name_is_refused_by_tag_and_model(tag: str) -> None:
    for weight in (0.0, 0.5):
        error = refused("plain", ref(tag, weight))
        assert (type(error), error.field) == (Unsupported, "references")
        assert str(error) == f"'m' cannot take {tag} from a reference picture, only nothing"


REFUSED: list[tuple[str, list[InputImage], dict[str, Any], str]] = [
    ("flux", [ref("pose"), ref("pose")], {}, "take pose from 2 reference pictures, only from 1"),
    ("flux", [ref("palette")] * 2, {}, "take palette from 2 reference pictures, only from 1"),
    ("flux", [ref("style")] * 5, {}, "take style from 5 reference pictures, only from 4"),
    ("sdxl", [ref("style"), ref("character")], {}, "take style and character at once: each is an"),
    ("sd3", [ref("composition"), ref("pose")], {}, "take composition and pose at once: each is a"),
    ("sd3", [SOURCE, ref("pose")], {"strength": 0.5}, "take pose in img2img, only to generate"),
    (
        "flux",
        [SOURCE, ref("pose"), ref("character")],
        {"strength": 0.5},
        "take pose and character at once in img2img",
    ),
    ("flux-cfg", [SOURCE, MASK, ref("pose")], {}, "take pose in inpaint: its guidance is true_cfg"),
    ("flux-cfg", [SOURCE, MASK, ref("style")], {}, "take style in inpaint: its guidance is true"),
    ("flux-cfg", [ref("style"), ref("pose")], {}, "take style in generate with pose: its guidance"),
    ("klein", [ref("style")] * 5, {}, "look at 5 pictures at once, only at 4"),
    ("klein", [SOURCE, SOURCE, SOURCE, ref("style"), ref("pose")], {}, "look at 5 pictures"),
    ("edit", [SOURCE, SOURCE, ref("style"), ref("character")], {}, "look at 4 pictures"),
]


@pytest.mark.parametrize(("model", "images", "changes", "said"), REFUSED)
def test_what_cannot_be_taken_together_is_refused_by_name(
    model: str, images: list[InputImage], changes: dict[str, Any], said: str
) -> None:
    error = refused(model, *images, **changes)
    assert (type(error), error.field) == (Unsupported, "references")
    assert str(error).startswith(f"'m' cannot {said}")


TAKEN: list[tuple[str, list[InputImage], dict[str, Any]]] = [
    ("flux", [ref(tag) for tag in FLUX], {}),
    ("flux", [ref("pose"), ref("pose", 0.0)], {}),
    ("flux", [ref("style")] * 4, {}),
    ("flux", [SOURCE, ref("pose"), ref("composition")], {"strength": 0.5}),
    ("flux", [SOURCE, MASK, ref("style"), ref("pose")], {}),
    ("flux-cfg", [ref("style")], {}),
    ("flux-cfg", [ref("pose"), ref("character")], {}),
    ("sdxl", [SOURCE, MASK, ref("style"), ref("composition")], {}),
    ("klein", [SOURCE, SOURCE, ref("style"), ref("pose"), ref("palette")], {}),
    ("klein", [ref("style")] * 4, {}),
    ("klein", [SOURCE, MASK, ref("style")], {}),
]


@pytest.mark.parametrize(("model", "images", "changes"), TAKEN)
def test_what_can_be_taken_is(model: str, images: list[InputImage], changes: Any) -> None:
    assert made(model, *images, **changes).images == tuple(images)


@pytest.mark.parametrize("weight", [-0.1, 1.1, float("nan"), float("inf")])
def test_a_weight_is_from_0_to_1(weight: float) -> None:
    error = refused("flux", ref("style", weight))
    assert (type(error), error.field) == (BadValue, "references")
    assert "between 0 and 1" in str(error)


def test_a_reference_without_a_tag_is_refused() -> None:
    assert refused("flux", ref(None)).field == "references"


class TestWords:
    """What the models that look for themselves are told of each picture."""

    def prompt(self, *images: InputImage, model: str = "klein", **changes: Any) -> str:
        return made(model, *images, **changes).prompt

    @pytest.mark.parametrize(
        ("weight", "said"),
        [
            (0.01, "Take a hint of the style of picture 1."),
            (0.33, "Take a hint of the style of picture 1."),
            (0.5, "Take over the style of picture 1."),
            (None, "Take over the style of picture 1."),
            (0.7, "Follow the style of picture 1 closely."),
            (1.0, "Follow the style of picture 1 closely."),
        ],
    )
    def test_the_weight_chooses_them(self, weight: float | None, said: str) -> None:
        assert self.prompt(ref("style", weight)) == f"a fox. {said}"

    def test_pictures_are_counted_after_the_sources(self) -> None:
        images = (ref("style", 0.5), SOURCE, ref("palette"), ref("pose", 0.0), ref("pose", 0.9))
        words = "Take over the style of picture 2. Follow the pose of picture 3 closely."
        assert self.prompt(*images) == f"a fox. {words}"

    @pytest.mark.parametrize("prompt", ["A fox.", "A fox!", "A fox?  "])
    def test_a_sentence_is_ended_once(self, prompt: str) -> None:
        told = self.prompt(ref("style"), prompt=prompt)
        assert told == f"{prompt.strip()} Take over the style of picture 1."

    def test_what_is_not_shown_is_not_told(self) -> None:
        for images in ((), (ref("palette"),), (ref("style", 0.0),)):
            assert self.prompt(*images) == "a fox"
        assert self.prompt(ref("style"), model="flux") == "a fox"


class TestModes:
    """Pictures alone can be enough to make one of."""

    def test_a_model_that_edits_only_makes_one_of_references(self) -> None:
        job = made("edit", ref("style"), ref("character"))
        assert job.mode is Mode.EDIT
        assert job.prompt.endswith("Take over the character of picture 2.")

    def test_one_that_generates_does_that(self) -> None:
        assert made("klein", ref("style")).mode is Mode.GENERATE
        assert made("flux", ref("pose")).mode is Mode.GENERATE

    def test_a_reference_of_no_weight_is_no_picture_to_edit(self) -> None:
        assert refused("edit", ref("style", 0.0)).field == "image"
        assert refused("edit").field == "model"

    def test_an_alias_finds_the_model_that_can_follow(self) -> None:
        models = {
            name: SPECS[name].model_copy(update={"name": name})
            for name in ("plain", "sd3", "klein")
        }
        catalog = Catalog.model_validate({"models": models, "aliases": {"auto": [*models]}})
        for images, expected in [
            ((), "plain"),
            ((ref("composition"),), "sd3"),
            ((ref("pose"), ref("palette")), "klein"),
            ((ref("pose"), ref("pose")), "klein"),
        ]:
            request = ImageRequest(model="auto", prompt="a fox", images=images)
            assert resolve(catalog, request, job_id="j").model == expected
