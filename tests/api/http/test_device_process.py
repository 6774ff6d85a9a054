"""A device's process that dies with pictures in the making: the server goes on, nothing is lost."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from inference import skeletons
from tests.api.http.served import bearer, make_key, serving, until
from tests.api.http.test_end_to_end import MODELS
from tests.inference.test_process_host import children


def test_pictures_of_a_process_that_died_are_made_by_the_next_and_charged_once(
    tmp_path: Path,
) -> None:
    skeletons.tiny_flux().save_pretrained(tmp_path / "tiny")
    models = tmp_path / "models.yaml"
    models.write_text(MODELS.format(folder=tmp_path / "tiny"))
    data = tmp_path / "data"
    data.mkdir()
    headers = bearer(make_key(data, credits=100))
    with serving(
        data, is_scripted=False, models=models, devices="cpu", device_processes=True
    ) as served:
        served.client.headers.update(headers)
        until(lambda: served.client.get("/readyz").status_code == 200)
        quick = served.client.post(
            "/darkroom/generations", json={"prompt": "a", "num_inference_steps": 1}
        ).json()["id"]
        assert served.end(quick)["state"] == "succeeded"
        slow = served.client.post(
            "/darkroom/generations",
            json={"prompt": "a", "count": 3, "seed": 1, "num_inference_steps": 1000},
        ).json()["id"]
        until(lambda: served.services.engine.status().devices[0].running_images == 3)
        (first,) = children()
        os.kill(first, signal.SIGKILL)

        task = served.end(slow)

        assert task["state"] == "succeeded"
        assert [image["index"] for image in task["images"]] == [0, 1, 2]
        assert task["attempt"] == 2
        account = served.client.get("/darkroom/account").json()
        assert (account["balance"], account["held"]) == (100 - 4 * 5, 0)
    assert not children()
