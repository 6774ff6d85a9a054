"""The paths that APIModels shares with OpenAI and Model Buffet, over HTTP: who answers, and how.

Which fields tell is tested in tests/api/dialects/test_fork.py; here is what comes of it.
`V` in an id is what OpenAI's client (3.51) sends and reads; `INF` is our own rule.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from PIL import Image

from tests.api.http.apimodels import BASES, KEY, ended, made, refusal
from tests.api.http.openai_client import client_of, half_transparent, pictures_of
from tests.api.http.served import Served, bearer, make_key, serving
from tests.api.making import data_uri, opened, png

BARE = {"model": "gpt-image-2", "prompt": "a red circle"}
PIXELS = {"size": "1024x1024"}
ALL = {"model": "gpt-image-2-all"}


def who(reply: httpx2.Response) -> str:
    """The dialect that a generation, or its refusal, was answered in."""
    body = reply.json()
    if set(body) == {"error"} or isinstance(body.get("data"), list):
        return "openai"
    return "apimodels" if set(body) == {"code", "msg", "data"} else "modelbuffet"


@pytest.mark.parametrize(
    ("path", "fields", "dialect"),
    [
        pytest.param("/openai/v1", {"aspect_ratio": "1:1"}, "openai", id="1 alias"),
        pytest.param("/apimodels/v1", {"response_format": "url"}, "apimodels", id="1 alias, v1"),
        pytest.param("/apimodels/api/v1", {"user": "me"}, "apimodels", id="1 alias, api"),
        pytest.param("/apimodels/v1", PIXELS, "apimodels", id="1 alias before pixels"),
        pytest.param("/v1", {"aspect_ratio": "1:1", "stream": True}, "apimodels", id="3 before 4"),
        pytest.param("/v1", {"size": "2K"}, "apimodels", id="3 a tier"),
        pytest.param("/api/v1", {"response_format": "b64_json"}, "openai", id="4"),
        pytest.param("/v1", PIXELS, "openai", id="5 pixels below v1"),
        pytest.param("/api/v1", PIXELS, "apimodels", id="6 pixels of another model"),
        pytest.param("/api/v1", PIXELS | ALL, "openai", id="5 pixels of a sync model"),
        pytest.param("/apimodels/api/v1", PIXELS | ALL, "openai", id="5 at the alias"),
        pytest.param("/v1", {}, "openai", id="6 bare v1"),
        pytest.param("/api/v1", {}, "apimodels", id="6 bare api"),
    ],
)
def test_the_first_rule_that_holds_counts(
    client: httpx2.Client, path: str, fields: dict[str, Any], dialect: str
) -> None:
    good = client.post(f"{path}/images/generations", json=BARE | fields)
    bad = client.post(f"{path}/images/generations", json=BARE | fields | {"n": 99})

    assert (good.status_code, bad.status_code) == (200, 400)
    assert (who(good), who(bad)) == (dialect, dialect)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keyed")


@pytest.fixture(scope="module")
def keyed(folder: Path) -> Any:
    make_key(folder)
    with serving(folder) as running:
        yield running


@pytest.fixture
def pinned(folder: Path) -> Callable[[str], dict[str, str]]:
    """The header of a key for one dialect."""

    def make(dialect: str, **fields: Any) -> dict[str, str]:
        return bearer(make_key(folder, dialect, dialect=dialect, **fields))

    return make


@pytest.mark.parametrize("fields", [{}, PIXELS, {"user": "me"}, {"aspect_ratio": "1:1"}], ids=str)
@pytest.mark.parametrize("path", ["/v1", "/api/v1"])
@pytest.mark.parametrize("dialect", ["openai", "apimodels"])
def test_1_a_pinned_key_says_who_answers(
    keyed: Served,
    pinned: Callable[[str], dict[str, str]],
    dialect: str,
    path: str,
    fields: dict[str, Any],
) -> None:
    headers = pinned(dialect)
    good = keyed.client.post(f"{path}/images/generations", json=BARE | fields, headers=headers)
    bad = keyed.client.post(f"{path}/images/generations", content=b"{", headers=headers)

    assert (good.status_code, who(good)) == (200, dialect)
    assert (bad.status_code, who(bad)) == (415, dialect)


def test_a_pinned_key_holds_where_its_dialect_is_spoken_and_nowhere_else(
    keyed: Served, pinned: Callable[[str], dict[str, str]]
) -> None:
    picture = {"images": [data_uri(png())]}

    def status(dialect: str, method: str, path: str, **body: Any) -> int:
        json = {"json": BARE | body} if method == "POST" else {}
        return keyed.client.request(method, path, headers=pinned(dialect), **json).status_code

    assert status("apimodels", "GET", "/v1/models") == 200
    assert status("apimodels", "GET", "/v1/images/generations?task_id=x") == 404
    assert status("apimodels", "POST", "/v1/images/edit", **picture) == 200
    assert status("apimodels", "POST", "/v1/images/edits", image=data_uri(png())) == 200
    assert status("apimodels", "POST", "/api/v1/images/edits", image=data_uri(png())) == 200
    assert status("apimodels", "POST", "/apimodels/v1/images/edits", image=data_uri(png())) == 200
    assert status("openai", "POST", "/api/v1/images/edits", image=data_uri(png())) == 200
    assert status("openai", "GET", "/api/v1/models") == 200
    assert status("openai", "POST", "/v1/files") == 400
    assert status("openai", "GET", "/v1/images/generations?task_id=x") == 403
    assert status("openai", "GET", "/api/v1/images/generations?task_id=x") == 403
    assert status("openai", "POST", "/apimodels/v1/images/edits", image=data_uri(png())) == 403
    assert status("openai", "GET", "/apimodels/api/v1/models") == 403
    assert status("openai", "GET", "/api/v1/balance") == 403
    assert status("openai", "POST", "/apimodels/v1/images/generations") == 403
    assert status("apimodels", "POST", "/openai/v1/images/generations") == 403
    assert status("apimodels", "POST", "/v1/images/variations") == 403
    assert status("apimodels", "POST", "/v1/images/generate") == 403
    assert status("modelbuffet", "POST", "/v1/images/generations") == 403
    assert status("modelmux", "POST", "/api/v1/images/generations") == 403
    assert status("modelbuffet", "POST", "/v1/images/edit", image=data_uri(png())) == 200


def test_a_pinned_key_is_refused_in_its_own_words(
    keyed: Served, pinned: Callable[..., dict[str, str]]
) -> None:
    headers = pinned("apimodels", rate_per_minute=1)
    first = keyed.client.post("/v1/images/generations", json=BARE, headers=headers)

    second = keyed.client.post("/v1/images/generations", json=BARE, headers=headers)

    assert first.status_code == 200
    assert refusal(second)[0] == 429


# OpenAI's client at either base


@pytest.mark.parametrize("base", ["/v1", "/api/v1", "/apimodels/api/v1", "/openai/v1"])
def test_openais_client_edits_at_every_base__V(served: Served, base: str) -> None:
    with client_of(served, base=base) as ai:
        reply = ai.images.edit(
            image=[("a.png", png(), "image/png")], mask=half_transparent(), prompt="a", n=2
        )
        with pytest.raises(openai.BadRequestError) as caught:
            ai.images.edit(image=png(), prompt="a", n=99)

    assert len(pictures_of(reply)) == 2
    assert caught.value.param == "n"


@pytest.mark.parametrize("base", ["/v1", "/api/v1", "/apimodels/api/v1"])
def test_openais_client_generates_by_a_sync_model__V(served: Served, base: str) -> None:
    with client_of(served, base=base) as ai:
        reply = ai.images.generate(model="gpt-image-2-all", prompt="a", size="1536x1024")

    assert reply.data is not None
    (item,) = reply.data
    assert opened(item.b64_json).size == (144, 96)
    assert item.url is not None
    with Image.open(io.BytesIO(served.client.get(item.url).content)) as picture:
        assert picture.size == (144, 96)


@pytest.mark.parametrize(
    ("format", "sent"), [("url", (False, True)), ("b64_json", (True, False))], ids=["url", "b64"]
)
def test_a_way_that_is_chosen_is_the_only_one__V(
    served: Served, format: Any, sent: tuple[bool, bool]
) -> None:
    with client_of(served, base="/api/v1") as ai:
        reply = ai.images.generate(
            model="gpt-image-2-all", prompt="a", size="1024x1024", response_format=format
        )

    assert reply.data is not None
    (item,) = reply.data
    assert (item.b64_json is not None, item.url is not None) == sent


@pytest.mark.parametrize("base", ["/v1", "/api/v1"])
def test_openais_client_lists_models_at_either_base__V(served: Served, base: str) -> None:
    with client_of(served, base=base) as ai:
        assert [one.id for one in ai.models.list()] == served.services.catalog.names()
        assert ai.models.retrieve("gpt-image-2").id == "gpt-image-2"
        with pytest.raises(openai.NotFoundError):
            ai.models.retrieve("flux-9")


def test_which_models_are_sync_can_be_said__INF(tmp_path: Path) -> None:
    with serving(tmp_path, apimodels_sync_models="qwen3-image,flux-2-klein") as served:
        for model, dialect in (("qwen3-image", "openai"), ("gpt-image-2-all", "apimodels")):
            body = {"model": model, "prompt": "a"} | PIXELS
            assert who(served.client.post("/api/v1/images/generations", json=body)) == dialect


# edits: one letter apart, and Model Buffet's


def test_an_edit_below_v1_is_model_buffets_unless_its_fields_tell__INF(
    client: httpx2.Client,
) -> None:
    body = {"model": "mystic-2-5-flexible", "prompt": "a", "aspect_ratio": "1:1"}

    theirs = client.post("/v1/images/edit", json=body | {"image": data_uri(png())})
    ours = client.post("/v1/images/edit", json=body | {"images": [data_uri(png())]})
    aliased = client.post("/modelbuffet/v1/images/edit", json=body | {"image": data_uri(png())})
    at_ours = client.post("/apimodels/v1/images/edit", json=body | {"image": data_uri(png())})

    assert len(theirs.json()["outputs"]) == len(aliased.json()["outputs"]) == 4
    assert made(ours) and made(at_ours)
    assert who(client.post("/v1/images/edit", json={"prompt": "a"})) == "modelbuffet"
    assert refusal(client.post("/v1/images/edit", json={"images": ["a"], "model": "m"}))[0] == 400


# files: one path, three readers


@pytest.mark.parametrize("path", ["/v1/files", "/api/v1/files"])
def test_a_file_with_a_purpose_is_openais(served: Served, path: str) -> None:
    base = path.removesuffix("/files")
    with client_of(served, base=base) as ai:
        file = ai.files.create(file=("fox.png", png(40, 20), "image/png"), purpose="vision")
        with pytest.raises(openai.BadRequestError):
            ai.files.create(file=("fox.txt", b"text", "text/plain"), purpose="vision")

    assert (file.object, file.filename, file.purpose) == ("file", "fox.png", "vision")
    assert file.id.startswith("file-")
    assert file.expires_at is not None
    assert 6 * 24 * 3600 < file.expires_at - file.created_at <= 7 * 24 * 3600 + 1
    edit = {"prompt": "a", "images": [{"file_id": file.id}]}
    reply = served.client.post("/v1/images/edits", json=edit)
    assert reply.status_code == 200, reply.text
    assert len(reply.json()["data"]) == 1


def test_a_file_is_named_by_its_id_in_edits_of_its_account_alone(
    keyed: Served, folder: Path
) -> None:
    owner, stranger = (bearer(make_key(folder, name)) for name in ("owner", "stranger"))
    send: dict[str, Any] = {"data": {"purpose": "vision"}}
    file_ids = [
        keyed.client.post("/v1/files", files={"file": data}, headers=owner, **send).json()["id"]
        for data in (("a.png", png()), ("m.png", half_transparent()))
    ]
    body = {
        "prompt": "a",
        "images": [{"file_id": file_ids[0]}],
        "mask": {"file_id": file_ids[1]},
    }

    assert keyed.client.post("/v1/images/edits", json=body, headers=owner).status_code == 200
    reply = keyed.client.post("/v1/images/edits", json=body, headers=stranger)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "images.0.file_id")
    both = body | {"mask": {"file_id": file_ids[1], "image_url": data_uri(png())}}
    reply = keyed.client.post("/v1/images/edits", json=both, headers=owner)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "mask")


def test_a_file_called_content_is_replicates(served: Served) -> None:
    reply = served.client.post("/v1/files", files={"content": ("a.png", png(40, 20), "image/png")})

    assert reply.status_code == 201, reply.text
    body = reply.json()
    assert set(body) == {
        *("id", "content_type", "size", "checksums", "metadata", "created_at", "expires_at"),
        "urls",
    }
    got = served.client.get(body["urls"]["get"])
    assert got.headers["content-type"] == body["content_type"] == "image/png"
    assert len(got.content) == body["size"]


@pytest.mark.parametrize("base", BASES[2:])
def test_at_the_alias_a_file_is_apimodels_whatever_its_parts(served: Served, base: str) -> None:
    reply = served.client.post(
        f"{base}/files", files={"file": png()}, data={"purpose": "vision"}, headers=KEY
    )

    assert reply.json()["data"]["publicUrl"].startswith(served.url)


def test_a_task_made_below_v1_is_polled_below_api_v1(served: Served) -> None:
    reply = served.client.post("/v1/images/generations", json=BARE | {"resolution": "1K"})

    assert ended(served, reply)["state"] == "completed"
