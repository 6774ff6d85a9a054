"""Model Buffet's contract, creation: a test per documented statement.

`S0` in an id is the provider's own page; `INF` is what we do where it is silent.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from PIL import Image

from inference.job import Job
from inference.references import spec as reference_spec
from tests.api.http.modelbuffet import (
    FIELDS,
    KEY,
    MODELS,
    PATH,
    assert_error,
    data_uri,
    done,
    generate,
    neutral,
)
from tests.api.http.modelbuffet import server as server
from tests.api.http.served import Served, serving


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server whose model makes any size that is asked."""
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
        for tag in ("style", "character", "composition", "pose")
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
    monkeypatch.setattr(reference_spec, "refusal", lambda spec, mode, request: None)
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
