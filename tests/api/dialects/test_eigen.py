"""Eigen's translations, without a server; what a task becomes is in golden/eigen.json."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from api.body import Body, FilePart
from api.dialects.base import ErrorContext, MethodNotAllowed
from api.dialects.eigen import translate, uploads
from api.dialects.eigen.schema import Accepted, Error, Generated, GenerateRequest, Job
from api.dialects.orders import NotMade
from api.dialects.wire import parse
from api.errors import (
    ApiError,
    BadRequest,
    Forbidden,
    Gone,
    IdempotencyMismatch,
    IdempotencyRunning,
    NoCredits,
    NotFound,
    NotReady,
    Overloaded,
    QueueFull,
    RateLimited,
    TooLarge,
    Unauthorized,
    Unavailable,
    UnsupportedMedia,
)
from api.orders import Remote
from api.tasks import Delivery, Extras, Findings, ImageFormat, Task
from inference.catalog import Catalog, load_catalog
from inference.errors import BadValue, EngineClosed, EngineError, UnknownModel, Unsupported
from inference.job import ImageRequest, ImageRole, Mode

CONTEXT = ErrorContext(path="/api/v1/generate", request_id="r1")
ROOT = Path(__file__).parents[3]
LEAST = {"model": "eigen-image", "prompt": "a fox"}
WISH = ImageRequest(model="eigen-image", prompt="a fox", width=1024, height=1024)


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return load_catalog(ROOT / "models.yaml")


def wire(**values: Any) -> GenerateRequest:
    """A JSON body."""
    return parse(GenerateRequest, translate.plain(Body(values=LEAST | values)))


def form(*files: FilePart, **values: str) -> GenerateRequest:
    body = translate.plain(Body(values=LEAST | values, files=files, is_form=True))
    return parse(GenerateRequest, body)


@pytest.mark.parametrize(
    ("values", "changes"),
    [
        ({}, {}),
        ({"mode": "text-to-image", "seed": 7}, {"seed": 7}),
        ({"width": 512, "height": 2048}, {"width": 512, "height": 2048}),
        ({"width": 512}, {"width": 512}),
        ({"height": 512}, {"height": 512}),
        ({"size": "768x512"}, {"width": 768, "height": 512}),
        ({"size": "768x512", "width": 600}, {"width": 600}),
        ({"guidance_scale": 2}, {"guidance_scale": 2}),
        ({"true_cfg_scale": 2.5}, {"guidance_scale": 2.5}),
        ({"sample_guide_scale": 0}, {"guidance_scale": 0}),
        ({"guidance_scale": 2, "true_cfg_scale": 2.0}, {"guidance_scale": 2}),
        ({"num_inference_steps": 9}, {"num_inference_steps": 9}),
        ({"sample_steps": 9}, {"num_inference_steps": 9}),
        ({"negative_prompt": "red"}, {"negative_prompt": "red"}),
        ({"downsizing_mp": 0.5}, {"downsizing_mp": 0.5}),
        ({"lora_strength": 0.7, "rank": 16}, {"lora_strength": 0.7, "lora_rank": 16}),
        ({"guidance_scale": 1, "true_cfg_scale": 4}, {"guidance_scale": 4}),
        ({"num_inference_steps": 30, "sample_steps": 8}, {"num_inference_steps": 8}),
        # a hint, which the entry decides
        ({"offloading": False}, {}),
        ({"offloading": True}, {}),
        ({"weight": "lightning"}, {"profile": "lightning"}),
        ({"seed": None, "weight": None, "image": None, "voice_id": "x"}, {}),
    ],
)
def test_a_body_becomes_a_wish(values: dict[str, Any], changes: dict[str, Any]) -> None:
    assert translate.to_request(wire(**values), edits=False) == replace(WISH, **changes)


@pytest.mark.parametrize(
    ("field", "neutral", "default", "other"),
    [
        ("num_inference_steps", "num_inference_steps", 30, 31),
        ("guidance_scale", "guidance_scale", 1.0, 1.5),
        ("lora_strength", "lora_strength", 0.8, 0.7),
        ("rank", "lora_rank", 32, 16),
    ],
)
def test_a_documented_default_is_told_from_a_wish(
    field: str, neutral: str, default: float, other: float
) -> None:
    repeated = translate.to_request(wire(**{field: default}), edits=False)
    wished = translate.to_request(wire(**{field: other}), edits=False)

    told: dict[str, Any] = {neutral: default, "by_default": (neutral,)}
    meant: dict[str, Any] = {neutral: other}
    assert repeated == replace(WISH, **told)
    assert wished == replace(WISH, **meant)


def test_the_text_of_a_form_becomes_what_its_field_is() -> None:
    texts = {
        **{"seed": "7", "width": "600", "height": "700", "guidance_scale": "2.5"},
        **{"num_inference_steps": "9", "downsizing_mp": "0.25", "lora_strength": "-1", "rank": "3"},
        **{"offloading": "0", "binary_response": "true", "real_time": "1", "async": "false"},
        **{"mode": "", "sample_steps": "", "image_url": ""},
    }

    told = form(**texts)

    assert translate.to_request(told, edits=False) == replace(
        WISH,
        seed=7,
        width=600,
        height=700,
        guidance_scale=2.5,
        num_inference_steps=9,
        downsizing_mp=0.25,
        lora_strength=-1,
        lora_rank=3,
    )
    assert (told.binary_response, told.real_time, told.as_job) == (True, True, False)


def test_an_edit_that_says_no_size_leaves_it_to_its_source() -> None:
    wish = translate.to_request(wire(), edits=True)
    sized = translate.to_request(wire(size="768x512"), edits=True)

    assert (wish.width, wish.height) == (None, None)
    assert (sized.width, sized.height) == (768, 512)


@pytest.mark.parametrize(
    ("sides", "wanted"),
    [
        ({"width": 1024, "height": 1024}, (None, None)),
        ({"width": 1024}, (None, None)),
        ({"width": 1024, "height": 1024, "size": "768x512"}, (None, None)),
        ({"width": 1024, "height": 768}, (1024, 768)),
        ({"height": 768}, (1024, 768)),
        ({"size": "1024x1024"}, (1024, 1024)),
    ],
)
def test_an_edit_that_repeats_the_default_size_leaves_it_to_its_source(
    sides: dict[str, Any], wanted: tuple[int | None, int | None]
) -> None:
    wish = translate.to_request(wire(**sides), edits=True)

    assert (wish.width, wish.height) == wanted


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"model": None}, "model"),
        ({"prompt": None}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"mode": "video"}, "mode"),
        ({"seed": "7"}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"width": 511}, "width"),
        ({"height": 2049}, "height"),
        ({"size": "big"}, "size"),
        ({"size": "512x4096"}, "size"),
        ({"num_inference_steps": 2.5}, "num_inference_steps"),
        ({"binary_response": "yes"}, "binary_response"),
        ({"output_format": "webp"}, "output_format"),
        ({"downsizing_mp": 0}, "downsizing_mp"),
        ({"s3_output_path": "pictures/a.png"}, "s3_output_path"),
        ({"s3_output_path": "s3://pictures"}, "s3_output_path"),
        ({"s3_output_path": ""}, "s3_output_path"),
        ({"size": ""}, "size"),
        ({"s3_output_path": "s3://pictures/"}, "s3_output_path"),
        ({"s3_output_path": "s3://pictures/a/"}, "s3_output_path"),
        ({"images": ["a"] * 10}, "images"),
        ({"async": "true"}, "async"),
    ],
)
def test_a_value_of_the_wrong_kind_is_named(values: dict[str, Any], field: str) -> None:
    with pytest.raises(BadRequest) as caught:
        wire(**values)
    assert caught.value.field == field
    assert field in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text"),
    [("seed", "seven"), ("guidance_scale", "nan"), ("binary_response", "maybe"), ("width", "1e9")],
)
def test_text_of_a_form_that_is_no_such_value_is_named(name: str, text: str) -> None:
    with pytest.raises(BadRequest) as caught:
        form(**{name: text})
    assert caught.value.field == name


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"num_inference_steps": 9}, {"sample_steps": 8}),
        ({"num_inference_steps": 9}, {"sample_steps": 30}),
        ({"guidance_scale": 3}, {"true_cfg_scale": 2}),
        ({"guidance_scale": 3}, {"sample_guide_scale": 1}),
        ({"true_cfg_scale": 1}, {"sample_guide_scale": 0}),
        ({"guidance_scale": 1, "true_cfg_scale": 2}, {"sample_guide_scale": 3}),
    ],
)
def test_names_of_one_thing_that_differ_are_both_named(
    first: dict[str, Any], second: dict[str, Any]
) -> None:
    with pytest.raises(BadRequest) as caught:
        translate.to_request(wire(**first, **second), edits=False)
    assert all(name in str(caught.value) for name in (list(first)[-1], *second))


# pictures

DATA = base64.b64encode(b"picture").decode()


@pytest.mark.parametrize("name", ["image", "image_file", "images", "image[]", "images[]"])
def test_a_file_is_a_source_by_each_of_its_names(name: str) -> None:
    (found,) = uploads.of(form(), [FilePart(name=name, data=b"1")])

    assert (found.role, found.field, found.data) == (
        ImageRole.SOURCE,
        name.removesuffix("[]"),
        b"1",
    )


def test_files_of_one_name_keep_their_order() -> None:
    files = [FilePart(name="images", data=data) for data in (b"3", b"1", b"2")]

    assert [one.data for one in uploads.of(form(), files)] == [b"3", b"1", b"2"]


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ({"image": f"data:image/png;base64,{DATA}"}, [b"picture"]),
        ({"image_file": DATA}, [b"picture"]),
        ({"images": [DATA, "https://a.example/b.png"]}, [b"picture", "https://a.example/b.png"]),
        ({"image_url": "https://a.example/b.png"}, ["https://a.example/b.png"]),
        ({"image_url": f"data:image/png;base64,{DATA}"}, [b"picture"]),
        ({"image_path": "HTTPS://a.example/b.png"}, ["HTTPS://a.example/b.png"]),
        ({"image_path": "https://a.example/b", "image_url": "https://a.example/b"}, None),
        ({}, []),
    ],
)
def test_json_names_pictures(values: dict[str, Any], wanted: list[Any] | None) -> None:
    found = [
        one.data.url if isinstance(one.data, Remote) else one.data
        for one in uploads.of(wire(**values), [])
    ]
    assert found == (["https://a.example/b"] if wanted is None else wanted)


@pytest.mark.parametrize(
    ("path", "inside"),
    [
        ("cats/1.png", "cats/1.png"),
        ("/etc/passwd", "/etc/passwd"),
        ("s3://bucket/1.png", "s3://bucket/1.png"),
        ("https://a.example/1.png", None),
        ("http://a.example/1.png", None),
        ("/darkroom/uploads/u?signature=abc", None),
        (f"data:image/png;base64,{DATA}", None),
        (None, None),
    ],
)
def test_a_path_that_is_no_address_is_one_of_the_server(
    path: str | None, inside: str | None
) -> None:
    assert uploads.inside_path(wire(image_path=path)) == inside


@pytest.mark.parametrize("data", [b"picture", b""])
def test_a_picture_of_the_servers_own_is_a_source(data: bytes) -> None:
    (found,) = uploads.of(wire(image_path="cats/1.png"), [], data)

    assert (found.field, found.data) == ("image_path", data)


@pytest.mark.parametrize(
    ("values", "files", "named"),
    [
        ({"image_url": "https://a.example/b"}, ["image"], ("image", "image_url")),
        ({"image_path": "https://a.example/b"}, ["images"], ("images", "image_path")),
        ({}, ["image", "image_file"], ("image", "image_file")),
        ({}, ["mask"], ("mask", "image_file")),
        ({}, ["images"] * 10, ("images", "9")),
        ({"image_url": "???"}, [], ("image_url",)),
        ({"image": "???"}, [], ("image",)),
    ],
)
def test_pictures_that_cannot_be_meant_are_named(
    values: dict[str, Any], files: list[str], named: tuple[str, ...]
) -> None:
    parts = [FilePart(name=name, data=b"%d" % at) for at, name in enumerate(files)]

    with pytest.raises(BadRequest) as caught:
        uploads.of(wire(**values), parts)
    assert all(name in str(caught.value) for name in named)


@pytest.mark.parametrize("name", ["image", "image_file", "images", "images[]"])
def test_a_form_holds_pictures_as_files_alone(name: str) -> None:
    with pytest.raises(BadRequest, match="must be a file") as caught:
        form(**{name: "https://a.example/b.png"})
    assert caught.value.field == name


# orders


def order_of(told: GenerateRequest, *files: FilePart) -> Any:
    return translate.to_order(told, uploads.of(told, files), Delivery())


@pytest.mark.parametrize("mode", [None, "text-to-image", "image-editing"])
def test_a_picture_makes_an_edit_in_every_mode(mode: str | None) -> None:
    order = order_of(wire(mode=mode), FilePart(name="image", data=b"1"))

    assert [one.role for one in order.uploads] == [ImageRole.SOURCE]
    assert (order.request.mode, order.request.width) == (None, None)


def test_an_edit_without_a_picture_is_refused() -> None:
    with pytest.raises(BadRequest, match="image-editing needs a picture"):
        order_of(wire(mode="image-editing"))


def test_live_references_are_for_words_alone() -> None:
    assert order_of(wire(real_time=True)).extras == Extras(real_time=True)
    with pytest.raises(BadRequest, match="real_time"):
        order_of(wire(real_time=True), FilePart(name="image", data=b"1"))


@pytest.mark.parametrize(
    ("format", "wanted"),
    [("png", ImageFormat.PNG), ("jpg", ImageFormat.JPEG), ("jpeg", ImageFormat.JPEG)],
)
def test_a_file_is_as_asked(format: str, wanted: ImageFormat) -> None:
    assert translate.to_format(wire(output_format=format)) is wanted


# refusals in the caller's words


@pytest.mark.parametrize(
    ("values", "refused", "field", "message"),
    [
        (
            {"sample_steps": 999},
            BadValue("num_inference_steps", "num_inference_steps must lie between 1 and 50"),
            "sample_steps",
            "sample_steps must lie between 1 and 50",
        ),
        (
            {"true_cfg_scale": 2},
            Unsupported("guidance_scale", "'fill' honours no guidance_scale"),
            "true_cfg_scale",
            "'fill' honours no true_cfg_scale",
        ),
        (
            {"rank": 2},
            BadValue("lora_rank", "lora_rank needs a LoRA, or a profile that has one"),
            "rank",
            "rank needs a LoRA, or a profile that has one",
        ),
        (
            {"weight": "fast"},
            Unsupported("profile", "'tiny' has no profile 'fast'; known: none"),
            "weight",
            "'tiny' has no weight 'fast'; known: none",
        ),
        (
            {"sample_steps": 1},
            BadValue("strength", "strength 0.8 of 1 steps leaves none to make"),
            "sample_steps",
            "strength 0.8 of 1 steps leaves none to make",
        ),
        ({}, BadValue("seed", "seed must lie between"), "seed", "seed must lie between"),
    ],
)
def test_a_refusal_names_the_field_that_was_used(
    values: dict[str, Any], refused: Any, field: str, message: str
) -> None:
    with pytest.raises(type(refused)) as caught, translate.in_their_words(wire(**values), []):
        raise refused
    assert (caught.value.field, str(caught.value)) == (field, message)


def test_too_many_pictures_are_told_by_their_name() -> None:
    pictures = uploads.of(form(), [FilePart(name="images", data=b"1")])

    with pytest.raises(Unsupported) as caught, translate.in_their_words(form(), pictures):
        raise Unsupported("image", "at most 1 source image(s), not 2")
    assert translate.to_error(caught.value, CONTEXT).body["error"].startswith("images: at most 1")


# replies


@pytest.mark.parametrize("state", ["queued", "running", "succeeded", "failed", "cancelled"])
def test_a_task_becomes_its_golden_bodies(
    state: str,
    task_in: Callable[[str], Task],
    golden: Callable[[str], dict[str, Any]],
    catalog: Catalog,
) -> None:
    task = replace(task_in(state), dialect="eigen")
    accepted = translate.to_accepted(task).body
    told: dict[str, Any] = {"accepted": accepted, "status": translate.to_status(task)}
    Accepted.model_validate(accepted, strict=True)
    Job.model_validate(told["status"], strict=True)
    if state == "succeeded":
        made: dict[str, Any] = {"image": "aW1hZ2U=", "request_id": "r1", "catalog": catalog}
        told["made"] = translate.to_body(task, wire(), **made)
        editing = replace(task, job=replace(task.job, mode=Mode.EDIT))
        editing = replace(editing, request=replace(task.request, profile="lightning"))
        editing = replace(editing, findings=Findings(sources=("https://a.example",)))
        told["edited"] = translate.to_body(editing, wire(s3_output_path="s3://abc/d.png"), **made)
        Generated.model_validate(told["made"], strict=True)
        Generated.model_validate(told["edited"], strict=True)

    assert told == golden("eigen.json")[state]


def test_the_profile_of_a_model_itself_counts_too(
    task_in: Callable[[str], Task], catalog: Catalog
) -> None:
    spec = catalog.models["tiny-flux"]
    fast = spec.model_copy(update={"defaults": spec.defaults.model_copy(update={"profile": "x"})})
    task = task_in("succeeded")

    def uses(profile: str, asked: str | None) -> Any:
        defaults = fast.defaults.model_copy(update={"profile": profile})
        models = {"tiny-flux": fast.model_copy(update={"defaults": defaults})}
        known = catalog.model_copy(update={"models": models})
        wanted = replace(task, request=replace(task.request, profile=asked))
        body = translate.to_body(wanted, wire(), image="", request_id="", catalog=known)
        return body["use_lightning"]

    assert uses("lightning", None) is True
    assert uses("lightning", "vanilla") is False
    assert uses("vanilla", "lightning") is True


def test_a_model_that_is_served_no_more_changes_nothing(
    task_in: Callable[[str], Task], catalog: Catalog
) -> None:
    none = catalog.model_copy(update={"models": {}})
    body = translate.to_body(task_in("succeeded"), wire(), image="", request_id="", catalog=none)
    assert body["use_lightning"] is False


def test_a_job_is_found_by_its_own_model_alone(task_in: Callable[[str], Task]) -> None:
    task = replace(task_in("queued"), dialect="eigen")

    assert {translate.own(task, one) for one in (None, "", "nano-banana-pro")} == {task}
    for strange, model in ((task, "eigen-image"), (task_in("queued"), None)):
        with pytest.raises(NotFound):
            translate.own(strange, model)


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (BadRequest("x"), 400, "invalid_request"),
        (BadValue("x", "x"), 400, "invalid_request"),
        (Unsupported("x", "x"), 400, "unsupported"),
        (UnknownModel("x", "x"), 404, "model_not_found"),
        (Unauthorized("x"), 401, "unauthorized"),
        (NoCredits("x"), 402, "insufficient_credits"),
        (Forbidden("x"), 403, "forbidden"),
        (NotFound("x"), 404, "not_found"),
        (MethodNotAllowed("x", allow="GET"), 405, "method_not_allowed"),
        (NotReady("x"), 409, "not_ready"),
        (IdempotencyRunning("x"), 409, "idempotency_running"),
        (Gone("x"), 410, "expired"),
        (TooLarge("x"), 413, "payload_too_large"),
        (UnsupportedMedia("x"), 415, "unsupported_media_type"),
        (IdempotencyMismatch("x"), 422, "idempotency_mismatch"),
        (RateLimited("x"), 429, "rate_limited"),
        (QueueFull("x", retry_after_seconds=3), 429, "rate_limited"),
        (NotMade("x", reason="out_of_memory"), 500, "out_of_memory"),
        (NotMade("x", reason="cancelled"), 410, "cancelled"),
        (ApiError("x"), 500, "internal_error"),
        (Overloaded("x"), 503, "overloaded"),
        (Unavailable("x"), 503, "unavailable"),
        (EngineClosed("x"), 503, "unavailable"),
    ],
)
def test_an_error_says_its_text_by_every_name(
    error: ApiError | EngineError, status: int, code: str
) -> None:
    told = translate.to_error(error, CONTEXT)

    texts = {"error": "x", "message": "x", "detail": "x"}
    assert (told.status, told.body) == (status, texts | {"code": code, "request_id": "r1"})
    Error.model_validate(told.body, strict=True)


def test_an_error_names_its_field() -> None:
    for field in ("image_path", "image"):
        told = translate.to_error(BadRequest("there are no images", field=field), CONTEXT)
        assert told.body["error"] == f"{field}: there are no images"
    told = translate.to_error(BadRequest("the image is empty", field="image"), CONTEXT)
    assert told.body["error"] == "the image is empty"
