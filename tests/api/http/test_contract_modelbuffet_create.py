"""Model Buffet's contract, creation: a test per documented statement.

`S0` in an id is the provider's own page; `INF` is what we do where it is silent.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx2
import pytest
from PIL import Image

from inference.errors import PipelineFailed
from inference.job import Job, ReferenceTag
from inference.pipelines import FAMILIES
from tests.api.http.modelbuffet import (
    ASYNC,
    EDIT,
    FIELDS,
    KEY,
    MODELS,
    PATH,
    assert_error,
    data_uri,
    done,
    generate,
    is_generation_id,
    neutral,
)
from tests.api.http.modelbuffet import server as server
from tests.api.http.served import Served, serving, until

GENERATION = {"id", "status", "model", "credits_used", "duration_ms", "outputs"}


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server whose model makes the sizes that the ratios stand for."""
    folder = tmp_path_factory.mktemp("wide")
    (folder / "models.yaml").write_text(MODELS)
    with serving(folder / "data", models=folder / "models.yaml") as running:
        yield running


# 0.1 auth


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param(KEY, id="S0 bearer"),
        pytest.param({}, id="INF no key while the server has none"),
    ],
)
def test_a_key_is_taken(client: httpx2.Client, headers: dict[str, str]) -> None:
    assert client.post(PATH, json=FIELDS, headers=headers).status_code == 200


# 1.1 the request's fields


@pytest.mark.parametrize(
    ("fields", "echoed"),
    [
        *(
            pytest.param({"model": name}, {"model": name}, id=f"S0 model {name}")
            for name in ("mystic-2-5-flexible", "imagen-4-ultra", "flux-2-max")
        ),
        pytest.param({"prompt": "a" * 4000}, {}, id="S0 prompt of 4000 characters"),
        pytest.param({"prompt": "狐" * 4000}, {}, id="S0 prompt of 4000 long characters"),
        pytest.param({"count": None, "seed": None, "webhook": None}, {}, id="INF nulls"),
        pytest.param({"style": 1, "user": {"a": []}}, {}, id="INF unknown keys"),
        pytest.param({"references": []}, {}, id="S0 no references"),
    ],
)
def test_a_creation_is_answered_when_it_is_done(
    client: httpx2.Client, fields: dict[str, Any], echoed: dict[str, Any]
) -> None:
    told = done(client, **fields)

    assert told | echoed == told


@pytest.mark.parametrize(
    ("fields", "count"),
    [
        pytest.param({}, 4, id="S0 count defaults to 4"),
        pytest.param({"count": 1}, 1, id="S0 count 1"),
        pytest.param({"count": 8}, 8, id="S0 count 8"),
    ],
)
def test_so_many_variations_are_made(
    client: httpx2.Client, fields: dict[str, Any], count: int
) -> None:
    told = done(client, **fields)

    assert len(told["outputs"]) == count
    assert told["credits_used"] == 8 * count


@pytest.mark.parametrize(
    ("fields", "size"),
    [
        pytest.param({}, (1024, 1024), id="INF ratio defaults to 1:1"),
        pytest.param({"aspect_ratio": "2:3"}, (1024, 1536), id="S0 2:3"),
        pytest.param({"aspect_ratio": "1:1"}, (1024, 1024), id="INF pixels of 1:1"),
        pytest.param({"aspect_ratio": "4:5"}, (1024, 1280), id="INF pixels of 4:5"),
        pytest.param({"aspect_ratio": "16:9"}, (1536, 864), id="INF pixels of 16:9"),
        pytest.param({"aspect_ratio": "21:9"}, (1792, 768), id="INF pixels of 21:9"),
        pytest.param({"aspect_ratio": "9:16"}, (864, 1536), id="INF pixels of 9:16"),
    ],
)
def test_a_ratio_is_so_many_pixels(
    wide: Served, fields: dict[str, Any], size: tuple[int, int]
) -> None:
    (output,) = done(wide.client, model="auto", count=1, **fields)["outputs"]

    assert (output["width"], output["height"]) == size
    with Image.open(io.BytesIO(wide.client.get(output["url"]).content)) as picture:
        assert picture.size == size


@pytest.mark.parametrize(
    ("ratio", "size"),
    [
        pytest.param("1:1", (128, 128), id="INF 1:1"),
        pytest.param("2:3", (96, 144), id="INF 2:3"),
        pytest.param("16:9", (144, 80), id="INF 16:9"),
        pytest.param("9:16", (80, 144), id="INF 9:16"),
    ],
)
def test_a_small_model_makes_and_tells_its_nearest_size(
    client: httpx2.Client, ratio: str, size: tuple[int, int]
) -> None:
    (output,) = done(client, count=1, aspect_ratio=ratio)["outputs"]

    assert (output["width"], output["height"]) == size


def test_a_negative_prompt_reaches_the_model__S0(client: httpx2.Client) -> None:
    told = done(client, count=1, negative_prompt="low quality, harsh shadows")

    assert neutral(client, told["id"])["negative_prompt"] == "low quality, harsh shadows"


@pytest.mark.parametrize(
    ("seed", "seeds"),
    [
        pytest.param(142857, [142857, 142858, 142859], id="S0 seed, INF of the next outputs"),
        pytest.param(0, [0, 1, 2], id="S0 seed 0"),
        pytest.param(2**32 - 2, [2**32 - 2, 2**32 - 1, 0], id="INF seeds wrap at 2^32"),
    ],
)
def test_each_output_tells_its_seed(client: httpx2.Client, seed: int, seeds: list[int]) -> None:
    outputs = done(client, count=3, seed=seed)["outputs"]

    assert [output["seed"] for output in outputs] == seeds
    for output in outputs:
        with Image.open(io.BytesIO(client.get(output["url"]).content)) as picture:
            # the script paints a picture in the colour of its seed
            assert picture.tobytes()[0] == output["seed"] % 256


def test_without_a_seed_it_is_random__S0(client: httpx2.Client) -> None:
    seeds = {done(client, count=1)["outputs"][0]["seed"] for _ in range(4)}

    assert len(seeds) > 1


def test_with_a_webhook_it_is_answered_when_done_as_well__INF(client: httpx2.Client) -> None:
    assert len(done(client, webhook="http://127.0.0.1:9/hook")["outputs"]) == 4


@pytest.mark.parametrize(
    "tag",
    [
        pytest.param(tag, id=f"S0 tag {tag}")
        for tag in ("style", "character", "palette", "composition", "pose")
    ],
)
def test_a_model_that_cannot_follow_a_reference_names_tag_and_itself(
    client: httpx2.Client, tag: str
) -> None:
    reference = {"url": data_uri(), "tag": tag, "weight": 0.7}

    reply = generate(client, references=[reference])

    assert_error(reply, 400, "invalid_request", "unsupported_by_model", "references")
    assert tag in reply.json()["error"]["message"]
    assert "tiny-flux" in reply.json()["error"]["message"]


def test_references_reach_a_model_that_can_follow_them__S0(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    able = replace(FAMILIES["flux"], reference_tags=frozenset(ReferenceTag))
    monkeypatch.setitem(FAMILIES, "flux", able)
    jobs: list[Job] = []
    served.script.fails = lambda job, index: jobs.append(job)
    colours = {"style": "red", "character": "lime", "palette": "blue", "pose": "white"}
    references = [
        {"url": data_uri(16, colour), "tag": tag, "weight": number / 4}
        for number, (tag, colour) in enumerate(colours.items())
    ]

    done(served.client, count=1, references=[*references, {"url": data_uri(16, "black")}])

    (job,) = jobs
    assert [(image.role, image.tag, image.weight) for image in job.images] == [
        ("reference", "style", 0.0),
        ("reference", "character", 0.25),
        ("reference", "palette", 0.5),
        ("reference", "pose", 0.75),
        # INF: what tag and weight are when they are left out
        ("reference", "style", 0.5),
    ]
    pixels = []
    for image in job.images:
        with Image.open(io.BytesIO(served.script.pictures[image.key])) as picture:
            pixels.append(picture.tobytes()[:3].hex())
    assert pixels == ["ff0000", "00ff00", "0000ff", "ffffff", "000000"]


def test_a_reference_without_a_tag_is_of_style__INF(client: httpx2.Client) -> None:
    reply = generate(client, references=[{"url": data_uri()}])

    assert "style" in reply.json()["error"]["message"]


def test_six_references_are_not_too_many__S0(client: httpx2.Client) -> None:
    six = generate(client, references=[{"url": data_uri()}] * 6)
    seven = generate(client, references=[{"url": data_uri()}] * 7)

    assert six.json()["error"]["code"] == "unsupported_by_model"
    assert seven.json()["error"]["code"] == "invalid_request"
    assert "6" in seven.json()["error"]["message"]


# 1.1 the reply


def test_a_generation_has_all_fields_and_no_other__S0(client: httpx2.Client) -> None:
    told = done(client, model="mystic-2-5-flexible", count=2)

    assert set(told) == GENERATION
    assert is_generation_id(told["id"])
    assert (told["status"], told["model"]) == ("completed", "mystic-2-5-flexible")
    assert isinstance(told["credits_used"], int)
    assert isinstance(told["duration_ms"], int)
    assert 0 <= told["duration_ms"] < 60_000
    for index, output in enumerate(told["outputs"]):
        assert set(output) == {"url", "width", "height", "seed"}
        assert f"/o/{told['id']}/{index}.png" in output["url"]


def test_four_pictures_are_32_credits__S0(client: httpx2.Client) -> None:
    assert done(client, model="mystic-2-5-flexible")["credits_used"] == 32


def test_a_creation_waits_for_its_pictures__S0(served: Served) -> None:
    served.script.gate.clear()
    replies: list[httpx2.Response] = []
    orders_before = len(served.script.orders)
    caller = threading.Thread(target=lambda: replies.append(generate(served.client)))
    caller.start()
    until(lambda: len(served.script.orders) > orders_before)

    assert replies == []
    served.script.gate.set()
    caller.join()

    assert (replies[0].status_code, replies[0].json()["status"]) == (200, "completed")


# 1.2 asynchronous replies


@pytest.mark.parametrize("path", [PATH, EDIT], ids=["INF generate", "INF edit"])
def test_who_prefers_it_is_answered_at_once(served: Served, path: str) -> None:
    served.script.gate.clear()

    reply = served.client.post(path, json=FIELDS | {"image": data_uri()}, headers=KEY | ASYNC)

    told = reply.json()
    assert reply.status_code == 202
    assert reply.headers["preference-applied"] == "respond-async"
    assert set(told) == GENERATION
    assert (told["status"] in ("queued", "processing"), told["outputs"]) == (True, [])
    assert (told["credits_used"], told["duration_ms"]) == (0, 0)
    served.script.gate.set()
    until(lambda: read(served, told["id"])["status"] == "completed")


def test_past_the_longest_wait_it_is_answered_as_it_stands__INF(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with serving(tmp_path_factory.mktemp("data"), sync_wait_seconds=0.3) as served:
        served.script.gate.clear()
        reply = generate(served.client)
        told = reply.json()

        assert (reply.status_code, told["status"]) == (202, "processing")
        assert told["outputs"] == []
        assert "preference-applied" not in reply.headers
        served.script.gate.set()
        until(lambda: read(served, told["id"])["status"] == "completed")
        assert len(read(served, told["id"])["outputs"]) == 4


def read(served: Served, generation_id: str) -> dict[str, Any]:
    told: dict[str, Any] = served.client.get(f"{PATH}/{generation_id}", headers=KEY).json()
    return told


# 1.2 a generation that failed


def test_a_failed_generation_is_a_200_that_says_why__INF(served: Served) -> None:
    served.script.fails = lambda job, index: PipelineFailed("the pipeline broke")

    reply = generate(served.client)

    told = reply.json()
    assert reply.status_code == 200
    assert set(told) == GENERATION | {"error"}
    assert (told["status"], told["credits_used"], told["outputs"]) == ("failed", 0, [])
    assert told["error"] == {"code": "pipeline_failed", "message": "the pipeline broke"}
    assert read(served, told["id"]) == told


def test_a_cancelled_generation_is_failed__INF(served: Served) -> None:
    served.script.gate.clear()
    generation_id = generate(served.client, headers=ASYNC).json()["id"]

    served.client.post(f"/darkroom/generations/{generation_id[4:]}/cancel")

    until(lambda: read(served, generation_id)["status"] == "failed")
    told = read(served, generation_id)
    assert (told["error"]["code"], told["credits_used"]) == ("cancelled", 0)


# 1.2 the edit endpoint


@pytest.mark.parametrize(
    ("pictures", "mode"),
    [
        pytest.param({"image": data_uri()}, "img2img", id="INF data URI"),
        pytest.param({"image": data_uri().partition(",")[2]}, "img2img", id="INF base64"),
        pytest.param(
            {"image": data_uri(), "mask": data_uri(16, "white")}, "inpaint", id="INF mask"
        ),
        pytest.param({"image": data_uri(), "mask": None}, "img2img", id="INF no mask"),
    ],
)
def test_an_edit_changes_a_picture(
    client: httpx2.Client, pictures: dict[str, str], mode: str
) -> None:
    reply = client.post(EDIT, json=FIELDS | {"count": 2} | pictures, headers=KEY)

    told = reply.json()
    assert reply.status_code == 200, reply.text
    assert (told["status"], len(told["outputs"])) == ("completed", 2)
    assert neutral(client, told["id"])["mode"] == mode


def test_an_edit_fetches_its_picture__INF(served: Served) -> None:
    (first,) = done(served.client, count=1, seed=200)["outputs"]

    fields = FIELDS | {"count": 1, "image": first["url"]}
    reply = served.client.post(EDIT, json=fields, headers=KEY)

    assert reply.status_code == 200, reply.text
    told = neutral(served.client, reply.json()["id"])
    assert told["mode"] == "img2img"
    given = next(data for key, data in served.script.pictures.items() if told["id"] in key)
    with Image.open(io.BytesIO(given)) as picture:
        assert (picture.size, picture.getpixel((0, 0))) == ((128, 128), (200, 0, 0))


def test_a_generation_leaves_the_pictures_of_an_edit_alone__INF(client: httpx2.Client) -> None:
    told = done(client, count=1, image="not a picture")

    assert neutral(client, told["id"])["mode"] == "generate"
