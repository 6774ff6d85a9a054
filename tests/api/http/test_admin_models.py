"""An operator moves models on a running server, by HTTP and by the command."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from api.accounts import Scope
from api.cli.commands import app
from inference.status import ModelAction
from tests.api.http.served import Served, bearer, make_key, serving, until

HERE = "/darkroom/admin/models"
# Each mode more is a longer test at load.
MODELS = """
aliases: {drawer: tiny-flux}
models:
  tiny-flux:
    {family: flux, source: "builtin:tiny-flux", modes: [generate], max_sequence_length: 24,
     guidance_field: true_cfg_scale, sizes: [128x128]}
  tiny-flux-fill:
    {family: flux-fill, source: "builtin:tiny-flux-fill", max_sequence_length: 24,
     guidance_field: none, sizes: [128x128]}
"""


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("data")
    (folder / "models.yaml").write_text(MODELS)
    models = folder / "models.yaml"
    with serving(folder, is_scripted=False, models=models, devices="cpu") as served:
        until(lambda: served.client.get("/darkroom/devices").is_success)
        yield served


def on_device(served: Served, name: str) -> dict[str, Any]:
    (device,) = served.client.get("/darkroom/devices").json()["devices"]
    return next(model for model in device["models"] if model["name"] == name)


def darkroom(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == code, (result.output, result.exception)
    return result.output


def test_models_come_and_go_and_share_what_they_have_in_common(demo: Served) -> None:
    def do(action: str, name: str) -> list[str]:
        told = darkroom("models", action, name, "--server", demo.url).splitlines()
        # the server in this process logs to the same place
        return [line for line in told if line.startswith("cpu: ")]

    assert do("load", "tiny-flux")[-1] == "cpu: ready"
    assert do("pin", "tiny-flux-fill")[-1] == "cpu: ready, pinned"
    (device,) = demo.client.get("/darkroom/devices").json()["devices"]
    found = {model["name"]: model for model in device["models"]}
    both = [found[name] for name in ("tiny-flux", "tiny-flux-fill")]
    alone = sum(model["weight_bytes"] for model in both)
    # text encoders and VAE: 7 MB that the second has from the first
    assert device["used_memory_bytes"] < alone + max(m["working_bytes"] for m in both) - 7_000_000
    assert all(model["working_bytes"] > 100_000 for model in both)
    assert device["used_memory_bytes"] <= device["memory_bytes"] and device["swaps"] == 0
    assert do("unpin", "tiny-flux-fill")[-1] == "cpu: ready"
    assert do("unload", "tiny-flux-fill")[-1] == "cpu: unloaded"
    task = demo.make(model="tiny-flux", prompt="a red circle", num_inference_steps=2)
    assert task["state"] == "succeeded", task["error"]
    until(lambda: (on_device(demo, "tiny-flux")["last_used_at"] or "") > task["created_at"])
    assert do("unload", "tiny-flux")[-1] == "cpu: unloaded"
    until(
        lambda: demo.client.get("/darkroom/devices").json()["devices"][0]["used_memory_bytes"] == 0
    )


def test_a_wrong_name_or_action_is_told(demo: Served) -> None:
    reply = demo.client.post(f"{HERE}/nothing/of/this/load")
    assert (reply.status_code, reply.json()["type"]) == (404, "urn:darkroom:not_found")
    assert "nothing/of/this" in reply.json()["detail"]
    alias = demo.client.post(f"{HERE}/drawer/load")
    assert alias.status_code == 404
    told = "'drawer' is an alias; the models served here are: tiny-flux, tiny-flux-fill"
    assert alias.json()["detail"] == told
    assert demo.client.post(f"{HERE}/tiny-flux/explode").status_code in (400, 404, 422)
    for action in ("load", "unload", "pin", "unpin"):
        said = darkroom("models", action, "none", "--server", demo.url, code=2)
        (line,) = (line for line in said.splitlines() if line.startswith("darkroom: "))
        # NAME has no flag
        assert "no model 'none'" in line and "--" not in line
    said = darkroom("models", "load", "tiny-flux", "--server", "http://127.0.0.1:1", code=1)
    assert "no Darkroom answers" in said


def test_only_who_manages_the_server_may(tmp_path: Path) -> None:
    boss = make_key(tmp_path, "boss", scopes=frozenset(Scope))
    guest = make_key(tmp_path, "guest")
    with serving(tmp_path) as served:
        for key, status in ((guest, 403), (boss, 202)):
            headers = bearer(key)
            there = f"{HERE}/tiny-flux/unload?device=cuda:1"
            reply = served.client.post(there, headers=headers)
            assert reply.status_code == status, reply.text
        assert served.client.post(f"{HERE}/tiny-flux/unload").status_code == 401
        assert served.script.managed == [("tiny-flux", ModelAction.UNLOAD, "cuda:1")]
