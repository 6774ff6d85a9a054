"""Our own translations, without a server; what a task becomes is in golden/darkroom.json."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from api.body import Body, FilePart
from api.dialects.base import ErrorContext, MethodNotAllowed
from api.dialects.darkroom import models_schema, models_translate, schema, translate
from api.dialects.darkroom.events import to_stream
from api.dialects.wire import parse
from api.errors import ApiError, BadRequest, NotFound, TooLarge, UnsupportedMedia
from api.tasks import Extras, Task, TaskState, TaskUpdate
from inference.catalog import Catalog, load_catalog
from inference.errors import BadValue, EngineError, UnknownModel
from inference.job import ImageRequest, ImageRole, Lora, Mode
from inference.status import DeviceStatus, EngineStatus, Lane, ModelState, ModelStatus

CONTEXT = ErrorContext(path="/darkroom/generations", request_id="r1")

STATUS = EngineStatus(
    devices=(
        DeviceStatus(
            device="cpu",
            name="a processor",
            alive=True,
            idle_seconds=0.5,
            running_images=1,
            waiting_images=2,
            models=(
                ModelStatus(
                    name="tiny-flux",
                    state=ModelState.READY,
                    lanes={Mode.GENERATE: Lane.MERGE, Mode.INPAINT: Lane.INTERLEAVE},
                    dtype="float32",
                    token_budget=4096,
                ),
            ),
        ),
    )
)


@pytest.fixture
def catalog(root: Path) -> Catalog:
    return load_catalog(root / "models.yaml")


def wire(is_form: bool = False, **values: Any) -> schema.GenerationRequest:
    return parse(schema.GenerationRequest, Body(values=values, is_form=is_form))


def link(path: str, key: str) -> str:
    return f"{path}?signature=abc"


def test_only_a_prompt_leaves_the_rest_to_the_model() -> None:
    assert translate.to_request(wire(prompt="a")) == ImageRequest(model="auto", prompt="a")


EVERYTHING = {
    "model": "tiny-flux",
    "prompt": "a red circle",
    "negative_prompt": "blur",
    "mode": "inpaint",
    "width": 128,
    "height": 96,
    "aspect_ratio": "4:3",
    "resolution": "1k",
    "quality": "high",
    "count": 3,
    "seed": 7,
    "num_inference_steps": 4,
    "guidance_scale": 2.5,
    "strength": 0.5,
    "downsizing_mp": 1.5,
    "sampler": "euler_a",
    "mask_blur": 8,
    "offloading": True,
}


@pytest.mark.parametrize("is_form", [False, True], ids=["JSON", "form"])
def test_every_field_reaches_the_wish(is_form: bool) -> None:
    values = {name: str(value) for name, value in EVERYTHING.items()} if is_form else EVERYTHING

    request = translate.to_request(wire(is_form, **values))

    assert request == ImageRequest(**EVERYTHING | {"mode": Mode.INPAINT})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({}, "prompt"),
        ({"prompt": 1}, "prompt"),
        ({"prompt": "a", "count": "2"}, "count"),
        ({"prompt": "a", "count": True}, "count"),
        ({"prompt": "a", "count": 1.5}, "count"),
        ({"prompt": "a", "seed": 2**63}, "seed"),
        ({"prompt": "a", "mode": "video"}, "mode"),
        ({"prompt": "a", "guidance_scale": "high"}, "guidance_scale"),
        ({"prompt": "a", "priority": 101}, "priority"),
        ({"prompt": "a", "aspect_ratio": "1" * 41}, "aspect_ratio"),
        ({"prompt": "a", "pictures": []}, "pictures"),
        ({"prompt": "a", "images": "AAEC"}, "images"),
        ({"prompt": "a", "downsizing_mp": "1"}, "downsizing_mp"),
        ({"prompt": "a", "sampler": ""}, "sampler"),
        ({"prompt": "a", "mask_blur": 1.5}, "mask_blur"),
        ({"prompt": "a", "offloading": 1}, "offloading"),
        ({"prompt": "a", "loras": [{"strength": 1}]}, "loras.0.name"),
        ({"prompt": "a", "loras": [{"name": "x", "weight": 1}]}, "loras.0.weight"),
    ],
)
def test_a_value_of_the_wrong_kind_is_named(values: dict[str, Any], field: str) -> None:
    with pytest.raises(BadRequest) as caught:
        wire(**values)
    assert caught.value.field == field
    assert field in str(caught.value)


@pytest.mark.parametrize("text", ["NaN", "inf", "1e999", "9" * 5000, "", "0x10"])
def test_a_form_takes_no_other_spelling_of_a_number(text: str) -> None:
    for field in ("seed", "guidance_scale"):
        with pytest.raises(BadRequest) as caught:
            wire(is_form=True, prompt="a", **{field: text})
        assert caught.value.field == field


def test_a_misspelt_field_gets_its_nearest_known_one() -> None:
    with pytest.raises(BadRequest, match="did you mean 'guidance_scale'"):
        wire(prompt="a", guidance_scal=3)


def test_a_required_field_that_is_misspelt_is_named_as_it_is_spelt() -> None:
    with pytest.raises(BadRequest, match="no field 'promt'; did you mean 'prompt'") as caught:
        wire(seedling=3, promt="a")
    assert caught.value.field == "promt"
    with pytest.raises(BadRequest, match="prompt is required"):
        wire(seedling=3)


def test_pictures_come_as_text_or_as_files() -> None:
    uploads = translate.to_uploads(
        wire(prompt="a", image="data:image/png;base64,AAEC"), [FilePart(name="mask", data=b"m")]
    )

    assert [(one.role, one.field, one.data) for one in uploads] == [
        (ImageRole.SOURCE, "image", b"\x00\x01\x02"),
        (ImageRole.MASK, "mask", b"m"),
    ]


def test_several_sources_keep_their_order() -> None:
    files = [FilePart(name="image", data=b"file")]
    uploads = translate.to_uploads(wire(prompt="a", image="AAEC", images=["AAED"]), files)
    assert [(one.field, one.data) for one in uploads] == [
        ("image", b"\x00\x01\x02"),
        ("images.0", b"\x00\x01\x03"),
        ("image", b"file"),
    ]


def test_loras_reach_the_wish() -> None:
    request = translate.to_request(
        wire(prompt="a", loras=[{"name": "ink", "strength": 0.5}, {"name": "x", "rank": 4}])
    )
    assert request.loras == (Lora(name="ink", strength=0.5), Lora(name="x", rank=4))


def test_a_form_holds_lists_as_json() -> None:
    body = Body(values={"prompt": "a", "loras": '[{"name": "ink"}]'}, is_form=True)
    assert parse(schema.GenerationRequest, translate.with_lists(body)).loras[0].name == "ink"
    with pytest.raises(BadRequest, match="not JSON"):
        translate.with_lists(Body(values={"loras": "ink"}, is_form=True))


@pytest.mark.parametrize(
    ("image", "names"),
    [(None, ["mask", "mask"]), (None, ["picture"]), ("%%", [])],
)
def test_pictures_too_many_or_under_other_names_are_refused(
    image: str | None, names: list[str]
) -> None:
    with pytest.raises(BadRequest):
        translate.to_uploads(
            wire(prompt="a", image=image), [FilePart(name=name, data=b"x") for name in names]
        )


@pytest.mark.parametrize("state", ["queued", "running", "succeeded", "failed", "cancelled"])
def test_a_task_becomes_its_golden_body(
    state: str, task_in: Callable[[str], Task], golden: Callable[[str], dict[str, Any]]
) -> None:
    task = replace(task_in(state), extras=Extras(allows_partial=True))
    body = translate.to_body(task, link)

    assert body == golden("darkroom.json")[state]
    schema.Generation.model_validate(body, strict=True)


@pytest.mark.parametrize(
    ("mode", "strength"), [(Mode.IMG2IMG, 0.8), (Mode.INPAINT, 0.8), (Mode.EDIT, None)]
)
def test_strength_is_told_where_it_was_used(
    task_in: Callable[[str], Task], mode: Mode, strength: float | None
) -> None:
    task = task_in("queued")

    body = translate.to_body(replace(task, job=replace(task.job, mode=mode)), link)

    schema.Generation.model_validate(body, strict=True)
    assert (body["mode"], body["strength"]) == (mode.value, strength)


@pytest.mark.parametrize(("mode", "told"), [(Mode.INPAINT, 4), (Mode.GENERATE, None)])
def test_a_masks_blur_is_told_where_it_was_used(
    mode: Mode, told: int | None, task_in: Callable[[str], Task]
) -> None:
    task = task_in("queued")
    body = translate.to_body(replace(task, job=replace(task.job, mode=mode, mask_blur=4)), link)
    assert body["mask_blur"] == told


@pytest.mark.parametrize("mode", Mode)
def test_every_mode_can_be_asked_for(mode: Mode) -> None:
    assert translate.to_request(wire(False, prompt="a", mode=mode.value)).mode is mode


def test_models_tell_what_they_can_and_how_they_stand(catalog: Catalog) -> None:
    model = models_translate.to_models(catalog, STATUS)["models"][0]

    models_schema.Model.model_validate(model)
    assert (model["name"], model["state"], model["dtype"]) == ("tiny-flux", "ready", "float32")
    assert model["modes"] == {
        "generate": {"lane": "merge"},
        "img2img": {"lane": None},
        "inpaint": {"lane": "interleave"},
    }
    assert {"width": 144, "height": 80} in model["sizes"]
    assert model["aliases"][0] == "auto"
    assert model["defaults"]["size"] == {"width": 128, "height": 128}


def test_a_failed_model_tells_why(catalog: Catalog) -> None:
    failed = ModelStatus(name="tiny-flux", state=ModelState.FAILED, reason="no such file")
    status = EngineStatus(devices=(replace(STATUS.devices[0], models=(failed,)),))

    model = models_translate.to_models(catalog, status)["models"][0]

    assert (model["state"], model["reason"]) == ("failed", "no such file")


def test_devices_tell_what_they_do() -> None:
    body = models_translate.to_devices(STATUS)

    models_schema.DeviceList.model_validate(body)
    (device,) = body["devices"]
    assert (device["running_images"], device["waiting_images"]) == (1, 2)
    assert device["models"][0]["lanes"] == {"generate": "merge", "inpaint": "interleave"}


@pytest.mark.parametrize(
    ("error", "status", "kind", "field"),
    [
        (BadRequest("x", field="seed"), 400, "bad_request", "seed"),
        (BadValue("count", "x"), 400, "bad_value", "count"),
        (UnknownModel("model", "x"), 404, "unknown_model", "model"),
        (NotFound("x"), 404, "not_found", None),
        (TooLarge("x"), 413, "too_large", None),
        (UnsupportedMedia("x", field="image"), 415, "unsupported_media", "image"),
        (MethodNotAllowed("x", allow="GET"), 405, "method_not_allowed", None),
        (ApiError("x"), 500, "internal", None),
    ],
)
def test_an_error_becomes_a_problem(
    error: ApiError | EngineError, status: int, kind: str, field: str | None
) -> None:
    told = translate.to_error(error, CONTEXT)

    schema.Problem.model_validate(told.body)
    assert told.media_type == "application/problem+json"
    assert (told.status, told.body["status"]) == (status, status)
    assert (told.body["type"], told.body.get("field")) == (f"urn:darkroom:{kind}", field)
    assert (told.body["instance"], told.body["request_id"]) == (CONTEXT.path, "r1")


async def test_updates_become_numbered_events(task_in: Callable[[str], Task]) -> None:
    done = task_in("succeeded")
    common: dict[str, Any] = {"task_id": done.id, "state": TaskState.RUNNING}
    progress: dict[str, Any] = {"index": 1, "step": 3, "steps": 8}
    updates = [
        TaskUpdate(task_id=done.id, state=TaskState.QUEUED, position=4),
        TaskUpdate(**common),
        TaskUpdate(**common, **progress),
        TaskUpdate(**common, **progress, preview=b"\x00", preview_media_type="image/webp"),
        TaskUpdate(**common, output=done.outputs[1]),
        TaskUpdate(task_id=done.id, state=TaskState.SUCCEEDED),
        TaskUpdate(**common),
    ]
    body = translate.to_body(done, link)

    events = await told(updates, body)

    assert [(one.event, one.id) for one in events] == [
        ("queued", "1"),
        ("running", "2"),
        ("step", "3"),
        ("step", "4"),
        ("preview", "5"),
        ("image", "6"),
        ("done", "7"),
    ]
    assert events[0].data == '{"position": 4}'
    assert events[2].data == '{"index": 1, "step": 3, "steps": 8}'
    assert "data:image/webp;base64,AA==" in events[4].data
    assert '"seed": 0' in events[5].data
    assert '"seeds"' in events[6].data


@pytest.mark.parametrize(
    ("state", "name"), [(TaskState.FAILED, "failed"), (TaskState.CANCELLED, "cancelled")]
)
async def test_each_end_has_its_event(
    state: TaskState, name: str, task_in: Callable[[str], Task]
) -> None:
    events = await told([TaskUpdate(task_id="t", state=state)], {"state": state.value})

    assert [one.event for one in events] == [name]


async def test_leaving_a_stream_closes_what_feeds_it() -> None:
    closed = False

    async def feed() -> AsyncIterator[TaskUpdate]:
        nonlocal closed
        try:
            while True:
                yield TaskUpdate(task_id="t", state=TaskState.QUEUED, position=1)
        finally:
            closed = True

    async def body() -> dict[str, Any]:
        return {}

    stream = to_stream(feed(), body)
    await anext(stream)
    await stream.aclose()  # type: ignore[attr-defined]

    assert closed


async def told(updates: list[TaskUpdate], whole: dict[str, Any]) -> list[Any]:
    async def feed() -> AsyncIterator[TaskUpdate]:
        for update in updates:
            yield update

    async def body() -> dict[str, Any]:
        return whole

    return [event async for event in to_stream(feed(), body)]
