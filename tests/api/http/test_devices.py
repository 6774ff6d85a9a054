"""A server of several devices: one model on one of them, and a device that dies while it works."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from api.cli.commands import app
from inference.worker import Worker
from tests.api.http.served import Served, serving, until

MODELS = """
models:
  anywhere: &tiny
    {family: flux, source: "builtin:tiny-flux", modes: [generate], max_sequence_length: 24,
     guidance_field: true_cfg_scale, sizes: [128x128], dtype: float32}
  second: {<<: *tiny, devices: ["cpu:0"]}
  nowhere: {<<: *tiny, devices: ["cuda:5"], preload: true}
"""


def told(served: Served) -> dict[str, dict[str, str]]:
    devices = served.client.get("/darkroom/devices").json()["devices"]
    return {
        device["device"]: {model["name"]: model["state"] for model in device["models"]}
        for device in devices
    }


def darkroom(served: Served, *arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["models", *arguments, "--server", served.url])
    assert result.exit_code == code, (result.output, result.exception)
    return result.output


class Panic(BaseException):
    """What a compiled library may raise."""


def test_models_are_moved_on_one_device_and_a_dead_ones_tasks_are_made_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models.yaml").write_text(MODELS)
    models = tmp_path / "models.yaml"
    with serving(tmp_path, is_scripted=False, models=models, devices="cpu,cpu:0") as served:
        until(lambda: served.client.get("/darkroom/devices").is_success)
        lost = {"nowhere": "failed"}
        first = {"anywhere": "unloaded", **lost}
        assert told(served) == {"cpu": first, "cpu:0": {**first, "second": "unloaded"}}
        assert "cpu:0: ready" in darkroom(served, "load", "anywhere", "--device", "cpu:0")
        assert told(served)["cpu"] == first
        there_are = "the devices are: cpu, cpu:0"
        for arguments, words in (
            (("load", "second", "--device", "cpu"), "'second' is served on cpu:0 alone"),
            (("load", "second", "--device", "cuda:0"), f"no device 'cuda:0' here; {there_are}"),
            (("pin", "nowhere"), f"cuda:5, which is not here; {there_are}"),
        ):
            said = " ".join(darkroom(served, *arguments, code=2).split())
            # a model's name has no flag here
            assert words in said and "--model" not in said
        refused = served.client.post("/darkroom/admin/models/second/load?device=cpu")
        assert (refused.status_code, refused.json()["field"]) == (400, "device")
        (listed,) = (
            model
            for model in served.client.get("/darkroom/models").json()["models"]
            if model["name"] == "nowhere"
        )
        assert listed["state"] == "failed" and "cuda:5" in listed["reason"]
        assert served.make(model="nowhere")["state"] == "failed"
        kill_when_working(monkeypatch, "cpu:0")
        task = served.make(model="anywhere", num_inference_steps=2)
        assert task["state"] == "succeeded", task["error"]
        assert told(served)["cpu"]["anywhere"] == "ready"
        devices = served.client.get("/darkroom/devices").json()["devices"]
        assert [device["alive"] for device in devices] == [True, False]
        assert "works any more" in darkroom(served, "load", "second", code=1)
        assert served.client.get("/readyz").status_code == 200


def kill_when_working(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    """From here on a device's thread ends when it has a picture in the making."""
    tick = Worker.tick

    def ticked(self: Any) -> None:
        tick(self)
        if self.device == device and self._running:
            raise Panic

    monkeypatch.setattr(Worker, "tick", ticked)
