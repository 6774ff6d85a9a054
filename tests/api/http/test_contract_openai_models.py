"""OpenAI's contract, models: a test per documented statement, by OpenAI's own client.

`V` in an id is what the client (3.51) reads; `INF` is what we do where it is silent.
"""

from __future__ import annotations

from collections.abc import Iterator

import httpx2
import openai
import pytest

from tests.api.http.openai_client import client_of, fault
from tests.api.http.served import ROOT, Served, serving

MORE = """aliases:
  some-lab/some.model-2: tiny-flux
  eraser: {inpaint: tiny-flux}"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with names that the catalog we ship does not have."""
    folder = tmp_path_factory.mktemp("data")
    models = folder / "models.yaml"
    shipped = (ROOT / "models.yaml").read_text(encoding="utf-8")
    models.write_text(shipped.replace("aliases:", MORE, 1), encoding="utf-8")
    with serving(folder / "data", models=models) as running:
        yield running


@pytest.fixture
def ai(served: Served) -> Iterator[openai.OpenAI]:
    with client_of(served) as client:
        yield client


def test_every_name_is_listed__V(served: Served, ai: openai.OpenAI) -> None:
    listed = list(ai.models.list())

    names = [model.id for model in listed]
    assert names == served.services.catalog.names()
    assert {"tiny-flux", "auto", "gpt-image-2", "some-lab/some.model-2"} <= set(names)
    assert {model.object for model in listed} == {"model"}
    assert {(model.owned_by, model.created) for model in listed} == {("darkroom", 0)}


def test_a_list_serves_two_readers__INF(client: httpx2.Client) -> None:
    body = client.get("/v1/models").json()

    assert set(body) == {"object", "data"}
    assert body["object"] == "list"
    for model in body["data"]:
        assert set(model) == {"id", "object", "created", "owned_by", "modality", "endpoint"}
        assert model["modality"] == "image"
    endpoints = {model["id"]: model["endpoint"] for model in body["data"]}
    assert endpoints["tiny-flux"] == "images/generations"
    assert endpoints["eraser"] == "images/edits"


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("tiny-flux", id="V a model"),
        pytest.param("gpt-image-2", id="V an alias"),
        pytest.param("some-lab/some.model-2", id="V an id with a slash"),
    ],
)
@pytest.mark.parametrize("base", ["/v1", "/openai/v1"])
def test_a_model_is_found(served: Served, name: str, base: str) -> None:
    with client_of(served, base=base) as ai:
        found = ai.models.retrieve(name)

    assert (found.id, found.object, found.owned_by) == (name, "model", "darkroom")


@pytest.mark.parametrize(
    "path",
    [
        pytest.param("/v1/models/flux-9", id="V unknown"),
        pytest.param("/v1/models/black-forest-labs/flux-9", id="V unknown with a slash"),
        pytest.param("/v1/models/", id="INF no name"),
    ],
)
def test_an_unknown_model_is_404(client: httpx2.Client, path: str) -> None:
    reply = client.get(path)

    assert reply.status_code == 404
    assert (fault(reply)["code"], fault(reply)["param"]) == ("model_not_found", "model")
    assert "gpt-image-2" in fault(reply)["message"]


def test_the_client_raises_it__V(ai: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        ai.models.retrieve("flux-9")
