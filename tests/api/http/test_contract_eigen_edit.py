"""Eigen's contract, pictures that are changed: a test per documented statement.

`S2` in an id is the provider's own page, `D` another page of theirs, `T` what clients are seen to
send and read; `INF` is what we do where all are silent.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from api.storage import input_key
from tests.api.http.eigen import LEAST, PATH, ask, fault, made, send
from tests.api.http.served import Served, serving
from tests.api.making import data_uri, opened, png
from tests.api.receivers import Receiver, says


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the operator's."""
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "cats").mkdir()
    (folder / "cats" / "1.png").write_bytes(png(24, 16, colour="blue"))
    (folder / "words.txt").write_text("no picture")
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Iterator[Served]:
    """It may fetch from loopback, and reads the folder."""
    folder = tmp_path_factory.mktemp("data")
    options: dict[str, Any] = {"allowed_targets": ("127.0.0.1",), "image_path_folder": pictures}
    with serving(folder, **options) as running:
        yield running


def source_of(served: Served) -> tuple[int, int]:
    """The size of the picture that the newest task was given."""
    return opened(served.script.pictures[input_key(served.newest()["id"], 0)]).size


# 3.2 pictures by file


@pytest.mark.parametrize(
    ("name", "file"),
    [
        pytest.param("image_file", ("a.png", png(40, 20), "image/png"), id="S2 image_file"),
        pytest.param("image", ("a.png", png(40, 20), "image/png"), id="S2 image"),
        pytest.param("images", ("a.png", png(40, 20), "image/png"), id="T images"),
        pytest.param("images[]", ("a.png", png(40, 20), "image/png"), id="INF images[]"),
        pytest.param("image", (None, png(40, 20), "image/png"), id="INF without a file name"),
        pytest.param("image", ("a.jpg", png(40, 20, form="JPEG"), "image/jpeg"), id="INF jpeg"),
        pytest.param("image", ("a", png(40, 20, form="WEBP"), "image/webp"), id="INF webp"),
    ],
)
def test_a_file_is_edited(served: Served, name: str, file: Any) -> None:
    body = made(send(served.client, (name, file)))

    assert served.newest()["mode"] == "edit"
    assert source_of(served) == (40, 20)
    assert body["edited_image_base64"] == body["image_base64"]
    assert "turbo_image_base64" not in body
    assert opened(body["image_base64"]).format == "PNG"


@pytest.mark.parametrize(
    "mode",
    [
        pytest.param({"mode": "image-editing"}, id="S2"),
        pytest.param({}, id="INF a file makes an edit"),
        pytest.param({"mode": "text-to-image"}, id="INF whatever the mode"),
    ],
)
def test_the_mode_of_an_edit(served: Served, mode: dict[str, str]) -> None:
    made(send(served.client, ("image_file", png()), **mode))

    assert served.newest()["mode"] == "edit"


@pytest.mark.parametrize("model", ["eigen-image", "flux-1-kontext", "qwen-image-edit-2511"])
def test_the_providers_models_edit__S2(client: httpx2.Client, model: str) -> None:
    body = made(send(client, ("images", png()), model=model, mode="image-editing"))

    assert (body["model"], body["use_lightning"]) == (model, False)


def test_several_files_reach_the_door__T(client: httpx2.Client) -> None:
    """The model that is served takes four, and says so by the name that was used."""
    files = [("images", png(size)) for size in (16, 17, 18, 19, 20)]

    reply = send(client, *files)

    assert (reply.status_code, reply.json()["code"]) == (400, "unsupported")
    assert "at most 4 source image" in fault(reply)
    assert "not 5" in fault(reply)
    assert "images" in fault(reply)


def test_more_than_nine_files_are_too_many__T(client: httpx2.Client) -> None:
    reply = send(client, *[("images", png(8 + at)) for at in range(10)])

    assert reply.status_code == 400
    assert "at most 9" in fault(reply)


def test_an_edit_carries_its_fields__S2(served: Served) -> None:
    texts = {
        **{"num_inference_steps": "12", "true_cfg_scale": "2.5", "negative_prompt": "blue"},
        **{"seed": "5", "weight": "striped", "lora_strength": "0.5", "rank": "2"},
        **{"downsizing_mp": "0.001", "offloading": "true", "output_format": "jpg"},
    }
    with served.jobs() as jobs:
        body = made(send(served.client, ("image_file", png(64, 64)), **texts))

    (job,) = jobs
    assert (job.num_inference_steps, job.guidance_scale, job.negative_prompt) == (12, 2.5, "blue")
    assert [(one.name, one.strength, one.rank) for one in job.loras] == [("stripes", 0.5, 2)]
    assert (job.seeds, job.downsizing_mp) == ((5,), 0.001)
    assert opened(body["image_base64"]).format == "JPEG"


def test_an_edit_may_have_a_size__INF(client: httpx2.Client) -> None:
    body = made(send(client, ("image", png(40, 40)), width="2048", height="1152"))

    assert (body["width"], body["height"]) == (144, 80)


def test_the_size_of_words_is_none_of_an_edits__S2(client: httpx2.Client) -> None:
    """`width` and `height` are documented for text-to-image, with 1024 for both."""
    body = made(send(client, ("image", png(160, 90)), width="1024", height="1024"))

    assert (body["width"], body["height"]) == (144, 80)


# 3.2 pictures by name


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"image_url": data_uri(png(40, 20))}, id="INF image_url holds data"),
        pytest.param({"image": data_uri(png(40, 20))}, id="INF image holds data"),
        pytest.param({"images": [data_uri(png(40, 20))]}, id="INF images hold data"),
        pytest.param(
            {"image_file": data_uri(png(40, 20)).partition(",")[2]}, id="INF plain base64"
        ),
    ],
)
def test_json_holds_a_picture(served: Served, fields: dict[str, Any]) -> None:
    made(ask(served.client, **fields))

    assert (served.newest()["mode"], source_of(served)) == ("edit", (40, 20))


@pytest.mark.parametrize(
    "name", [pytest.param("image_path", id="S2"), pytest.param("image_url", id="INF")]
)
@pytest.mark.parametrize("is_form", [False, True])
async def test_a_picture_is_fetched(served: Served, name: str, is_form: bool) -> None:
    async with (
        Receiver([says(200, png(40, 20))]) as source,
        httpx2.AsyncClient(base_url=served.url, timeout=60, trust_env=False) as client,
    ):
        fields = LEAST | {name: source.url}
        texts = [(field, (None, text)) for field, text in fields.items()]
        reply = await (
            client.post(PATH, files=texts) if is_form else client.post(PATH, json=fields)
        )

    assert made(reply)["edited_image_base64"]
    assert source_of(served) == (40, 20)
    assert [one.method for one in source.received] == ["GET"]


@pytest.mark.parametrize("name", ["image_path", "image_url"])
async def test_an_address_that_gives_none_is_named__INF(served: Served, name: str) -> None:
    async with (
        Receiver([says(404)]) as source,
        httpx2.AsyncClient(base_url=served.url, timeout=60, trust_env=False) as client,
    ):
        reply = await client.post(PATH, json=LEAST | {name: source.url})

    assert reply.status_code == 400
    assert name in fault(reply)
    assert "404" in fault(reply)


def test_a_path_names_a_picture_of_the_operators__S2(served: Served) -> None:
    made(ask(served.client, image_path="cats/1.png"))
    assert source_of(served) == (24, 16)

    made(send(served.client, image_path="cats/1.png", mode="image-editing"))
    assert source_of(served) == (24, 16)


@pytest.mark.parametrize(
    ("path", "status", "named"),
    [
        pytest.param("cats/2.png", 400, "no such picture", id="INF none there"),
        pytest.param("../data/darkroom.db", 400, "no such picture", id="INF elsewhere"),
        pytest.param("/etc/passwd", 400, "relative", id="INF absolute"),
        pytest.param("s3://bucket/1.png", 400, "relative", id="INF another scheme"),
        pytest.param("words.txt", 415, "not a picture", id="INF no picture"),
    ],
)
def test_a_path_to_nothing_is_told(
    client: httpx2.Client, pictures: Path, path: str, status: int, named: str
) -> None:
    reply = ask(client, image_path=path)

    assert reply.status_code == status, reply.text
    assert "image_path" in fault(reply)
    assert named in fault(reply)
    assert str(pictures) not in reply.text


def test_paths_are_refused_unless_the_operator_names_a_folder__INF(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with serving(tmp_path_factory.mktemp("data")) as served:
        reply = ask(served.client, image_path="cats/1.png")
        assert reply.status_code == 400
        assert "DARKROOM_IMAGE_PATH_FOLDER" in fault(reply)
        own = ask(served.client, image_path="http://127.0.0.1:1/a.png")
        assert own.status_code == 400
        assert "image_path" in fault(own)


@pytest.mark.parametrize("name", ["image_path", "image_url"])
def test_a_link_of_our_own_is_a_picture__INF(served: Served, name: str) -> None:
    """That of an upload, and that of a picture made here, with and without its origin."""
    kept = served.client.post("/darkroom/uploads", files={"file": png(40, 20)}).json()
    upload = kept["uploads"][0]["url"]
    created = served.client.post("/api/v1/generations", json={"prompt": "a"}).json()
    served.end(created["historyId"])
    polled = served.client.get(f"/api/v1/generations/{created['historyId']}").json()

    made(ask(served.client, **{name: upload}))
    assert source_of(served) == (40, 20)
    for link in (polled["outputUrl"], served.url + polled["outputUrl"]):
        made(ask(served.client, **{name: link}))
        assert source_of(served) == (128, 128)
    forged = ask(served.client, **{name: polled["outputUrl"].replace("/0.png", "/1.png")})
    assert forged.status_code in (400, 403, 404), forged.text
    assert fault(forged)
