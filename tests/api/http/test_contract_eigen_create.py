"""Eigen's contract, pictures made of words: a test per documented statement.

`S2` in an id is the provider's own page, `D` another page of theirs, `T` what clients are seen to
send and read; `INF` is what we do where all are silent.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml

from tests.api.assist.replies import finds
from tests.api.http.eigen import LEAST, PATH, Send, ask, fault, made, send
from tests.api.http.served import ROOT, Served, bearer, make_key, serving
from tests.api.making import opened
from tests.api.receivers import Receiver

FACTS = {
    *("image_base64", "turbo_image_base64", "seed", "width", "height", "model"),
    *("request_id", "processing_time_seconds", "use_lightning"),
}

# 3.1 endpoints, auth


@pytest.mark.parametrize(
    "path", [pytest.param(PATH, id="S2"), pytest.param(f"/eigen{PATH}", id="INF alias")]
)
@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({"Authorization": "Bearer any"}, id="S2 bearer"),
        pytest.param({}, id="INF open"),
    ],
)
def test_a_picture_is_made(client: httpx2.Client, path: str, headers: dict[str, str]) -> None:
    assert made(client.post(path, json=LEAST, headers=headers))["image_base64"]


def test_a_key_is_asked_for_where_there_are_keys__S2(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("data")
    key = make_key(folder, dialect="eigen")
    with serving(folder) as served:
        refused = ask(served.client)
        assert refused.status_code == 401
        assert fault(refused)
        assert refused.headers["www-authenticate"] == "Bearer"
        headers = bearer(key)
        made(served.client.post(f"/eigen{PATH}", json=LEAST, headers=headers))
        made(served.client.post(PATH, json=LEAST, headers=headers))
        strange = served.client.post("/api/v1/generations", json={"prompt": "a"}, headers=headers)
        assert strange.status_code == 403


# 3.2 fields


@pytest.mark.parametrize("how", [pytest.param(ask, id="S2 JSON"), pytest.param(send, id="T form")])
@pytest.mark.parametrize(
    ("fields", "job"),
    [
        pytest.param({"seed": 7}, {"seeds": (7,)}, id="S2 seed"),
        pytest.param({"mode": "text-to-image"}, {"mode": "generate"}, id="S2 mode"),
        pytest.param({"width": 2048, "height": 512}, {"width": 144, "height": 80}, id="S2 size"),
        pytest.param({"width": 512}, {"width": 80, "height": 144}, id="S2 height is 1024"),
        pytest.param({"height": 512}, {"width": 144, "height": 80}, id="S2 width is 1024"),
        pytest.param({}, {"width": 128, "height": 128}, id="S2 both are 1024"),
        pytest.param({"size": "1536x1024"}, {"width": 144, "height": 96}, id="INF size"),
        pytest.param(
            {"size": "1536x1024", "width": 1024, "height": 1024},
            {"width": 128, "height": 128},
            id="INF width and height count more than size",
        ),
        pytest.param({"guidance_scale": 2.5}, {"guidance_scale": 2.5}, id="S2 guidance_scale"),
        pytest.param({"true_cfg_scale": 2}, {"guidance_scale": 2}, id="S2 true_cfg_scale"),
        pytest.param(
            {"sample_guide_scale": 1.5}, {"guidance_scale": 1.5}, id="S2 sample_guide_scale"
        ),
        pytest.param(
            {"num_inference_steps": 9}, {"num_inference_steps": 9}, id="S2 num_inference_steps"
        ),
        pytest.param({"num_inference_steps": 9.0}, {"num_inference_steps": 9}, id="S2 a number"),
        pytest.param({"sample_steps": 9}, {"num_inference_steps": 9}, id="S2 sample_steps"),
        pytest.param(
            {"sample_steps": 9, "num_inference_steps": 9},
            {"num_inference_steps": 9},
            id="INF both, saying the same",
        ),
        pytest.param(
            {"negative_prompt": "blue"}, {"negative_prompt": "blue"}, id="S2 negative_prompt"
        ),
        pytest.param({"weight": "lightning"}, {"num_inference_steps": 4}, id="S2 weight lightning"),
        pytest.param({"weight": "vanilla"}, {"num_inference_steps": 8}, id="S2 weight vanilla"),
        pytest.param(
            {"weight": "lightning", "sample_steps": 6},
            {"num_inference_steps": 6},
            id="INF what is said counts more than the profile",
        ),
        pytest.param({"offloading": True}, {"num_inference_steps": 8}, id="S2 offloading"),
        pytest.param({"offloading": False}, {"num_inference_steps": 8}, id="S2 no offloading"),
        pytest.param(
            {},
            {"num_inference_steps": 8, "guidance_scale": 3, "loras": ()},
            id="INF what is not said is the model's choice",
        ),
    ],
)
def test_a_field_reaches_the_engine(
    served: Served, how: Send, fields: dict[str, Any], job: dict[str, Any]
) -> None:
    given = fields if how is ask else {name: str(value) for name, value in fields.items()}

    with served.jobs() as jobs:
        made(how(served.client, **given))

    (told,) = jobs
    assert {name: getattr(told, name) for name in job} == job


def test_the_profiles_loras_are_turned_up_and_down__S2(served: Served) -> None:
    with served.jobs() as jobs:
        made(ask(served.client, weight="striped"))
        made(ask(served.client, weight="striped", lora_strength=0.4, rank=2))
        made(send(served.client, weight="striped", lora_strength="-0.5", rank="32"))

    told = [(lora.name, lora.strength, lora.rank) for job in jobs for lora in job.loras]
    assert told == [("stripes", 1, None), ("stripes", 0.4, 2), ("stripes", -0.5, 32)]


ALL_DEFAULTS: dict[str, Any] = {
    **{"mode": "text-to-image", "real_time": False, "width": 1024, "height": 1024},
    **{"guidance_scale": 1.0, "num_inference_steps": 30, "binary_response": False},
    **{"output_format": "png", "lora_strength": 0.8, "rank": 32, "offloading": False},
}


@pytest.mark.parametrize("how", [ask, send])
def test_a_client_may_send_every_default__S2(served: Served, how: Send) -> None:
    """Those of LoRAs are heard where there are LoRAs; a value of one's own is always a wish."""
    given = ALL_DEFAULTS if how is ask else {name: str(one) for name, one in ALL_DEFAULTS.items()}

    with served.jobs() as jobs:
        made(how(served.client, **given))
        made(
            how(served.client, **given, weight="vanilla", true_cfg_scale="4" if how is send else 4)
        )
        made(how(served.client, **given, weight="striped"))

    assert [(job.num_inference_steps, job.guidance_scale) for job in jobs] == [
        *((30, 1), (30, 4), (30, 1))
    ]
    told = [[(lora.name, lora.strength, lora.rank) for lora in job.loras] for job in jobs]
    assert told == [[], [], [("stripes", 0.8, 32)]]


def test_a_seed_is_random_unless_it_is_given__S2(client: httpx2.Client) -> None:
    seeds = {made(ask(client))["seed"] for _ in range(3)}

    assert len(seeds) == 3
    assert made(ask(client, seed=9))["seed"] == 9


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"voice_id": "x", "unheard_of": {"a": [1]}}, id="INF keys of other models"),
        pytest.param({"seed": None, "width": None, "weight": None, "image": None}, id="INF null"),
    ],
)
def test_what_is_not_known_or_null_is_left_out__INF(
    client: httpx2.Client, fields: dict[str, Any]
) -> None:
    made(ask(client, **fields))


def test_the_empty_fields_of_a_form_are_left_out__INF(served: Served) -> None:
    """Pages send every field of a form, the empty ones and files that nobody chose too."""
    texts = LEAST | dict.fromkeys(("mode", "seed", "size", "image_path", "rank", "async"), "")
    parts = [f'"{name}"\r\n\r\n{text}' for name, text in texts.items()]
    parts.append('"image_file"; filename=""\r\nContent-Type: application/octet-stream\r\n\r\n')
    body = "".join(f"--edge\r\nContent-Disposition: form-data; name={part}\r\n" for part in parts)
    headers = {"Content-Type": "multipart/form-data; boundary=edge"}

    made(served.client.post(PATH, content=f"{body}--edge--\r\n".encode(), headers=headers))

    assert served.newest()["mode"] == "generate"


async def test_live_references_reach_the_prompt_and_are_told__S2(tmp_path: Path) -> None:
    found = {"url": "https://flags.example/", "title": "Ours", "content": "A blue star on pink."}
    async with Receiver([finds(found)]) as web:
        models = tmp_path / "models.yaml"
        search = {"search": {"searxng": f"http://127.0.0.1:{web.port}"}}
        models.write_text((ROOT / "models.yaml").read_text() + yaml.safe_dump(search))
        with serving(tmp_path / "data", models=models) as served:
            async with httpx2.AsyncClient(base_url=served.url, timeout=60) as client:
                wish = LEAST | {"prompt": "the flag of Testland", "real_time": True}
                live = made(await client.post(PATH, json=wish))
                told = served.newest()["prompt"]
                plain = made(await client.post(PATH, json=wish | {"real_time": False}))

    assert live["sources"] == ["https://flags.example/"]
    assert all(word in told for word in ("blue", "star", "pink")), told
    assert "sources" not in plain
    assert len(web.received) == 1


@pytest.mark.parametrize("model", ["eigen-image", "flux-1-kontext", "qwen-image-edit-2511"])
def test_the_providers_models_are_served__S2(client: httpx2.Client, model: str) -> None:
    assert made(ask(client, model=model))["model"] == model


# 3.3 replies


def test_a_reply_has_all_facts_and_no_other__INF(client: httpx2.Client) -> None:
    reply = ask(client, seed=11, width=2048, height=1152)

    body = made(reply)
    assert set(body) == FACTS
    assert (body["seed"], body["width"], body["height"]) == (11, 144, 80)
    assert body["request_id"] == reply.headers["x-request-id"]
    assert isinstance(body["processing_time_seconds"], float)
    assert 0 <= body["processing_time_seconds"] < 60
    assert reply.headers["content-type"] == "application/json"


def test_the_picture_is_plain_base64_by_two_names__T(client: httpx2.Client) -> None:
    body = made(ask(client))

    picture = opened(body["image_base64"])
    assert (picture.format, picture.size) == ("PNG", (128, 128))
    assert body["turbo_image_base64"] == body["image_base64"]


@pytest.mark.parametrize(
    ("weight", "told"), [("lightning", True), ("vanilla", False), (..., False)], ids=str
)
def test_the_reply_says_whether_it_was_the_fast_profile__T(
    client: httpx2.Client, weight: Any, told: bool
) -> None:
    assert made(ask(client, weight=weight))["use_lightning"] is told


@pytest.mark.parametrize("how", [pytest.param(ask, id="S2 JSON"), pytest.param(send, id="T form")])
@pytest.mark.parametrize(
    ("format", "kind"),
    [
        pytest.param(..., "png", id="INF default"),
        pytest.param("png", "png", id="S2 png"),
        pytest.param("jpg", "jpeg", id="S2 jpg"),
        pytest.param("jpeg", "jpeg", id="INF jpeg"),
    ],
)
@pytest.mark.parametrize("binary", [False, True])
def test_a_file_is_of_the_format_that_is_asked(
    client: httpx2.Client, how: Send, format: Any, kind: str, binary: bool
) -> None:
    given = {} if format is ... else {"output_format": format}
    reply = how(client, binary_response=binary if how is ask else str(binary).lower(), **given)

    assert reply.status_code == 200, reply.text
    if not binary:
        assert opened(reply.json()["image_base64"]).format == kind.upper()
        return
    assert reply.headers["content-type"] == f"image/{kind}"
    assert reply.headers["content-length"] == str(len(reply.content))
    assert opened(reply.content).format == kind.upper()
    assert f'.{"jpg" if kind == "jpeg" else "png"}"' in reply.headers["content-disposition"]
