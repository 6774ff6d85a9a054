"""A wish that repeats its API's defaults: they count where there is what they are for."""

from __future__ import annotations

from typing import Any

import pytest

from inference.catalog import Catalog
from inference.errors import Refused
from inference.job import ImageRequest, Job, Lora
from inference.resolve import resolve

DEFAULTS: dict[str, Any] = {"lora_strength": 0.8, "lora_rank": 32, "guidance_scale": 1.0}
CATALOG = Catalog.model_validate(
    {
        "models": {
            "guided": {
                "name": "guided",
                "family": "flux",
                "source": "builtin:tiny-flux",
                "loras": {"ink": {"source": "./ink.safetensors"}},
                "profiles": {
                    "inked": {"loras": {"ink": 1}},
                    "plain": {},
                    "fast": {"num_inference_steps": 4, "guidance_scale": 2},
                },
            },
            "distilled": {
                "name": "distilled",
                "family": "flux",
                "source": "builtin:tiny-flux",
                "guidance_field": "none",
                "defaults": {"guidance_scale": 0},
            },
        }
    }
)


def made(model: str, **fields: Any) -> Job:
    request = ImageRequest(model=model, prompt="a fox", **fields)
    return resolve(CATALOG, request, job_id="j")


@pytest.mark.parametrize(
    ("model", "fields"), [("guided", {}), ("guided", {"profile": "plain"}), ("distilled", {})]
)
def test_defaults_that_nothing_could_follow_ask_for_nothing(
    model: str, fields: dict[str, Any]
) -> None:
    job = made(model, **fields, **DEFAULTS, by_default=tuple(DEFAULTS))

    assert job.loras == ()
    assert job.guidance_scale == (1 if model == "guided" else 0)


@pytest.mark.parametrize("fields", [{"profile": "inked"}, {"loras": (Lora(name="ink"),)}])
def test_defaults_count_where_there_is_what_they_are_for(fields: dict[str, Any]) -> None:
    job = made("guided", **fields, **DEFAULTS, by_default=tuple(DEFAULTS))

    assert job.loras == (Lora(name="ink", strength=0.8, rank=32),)
    assert job.guidance_scale == 1


@pytest.mark.parametrize("name", DEFAULTS)
def test_what_is_no_default_is_a_wish(name: str) -> None:
    others = tuple(other for other in DEFAULTS if other != name)

    with pytest.raises(Refused) as caught:
        made("distilled", **DEFAULTS, by_default=others)
    assert caught.value.field == name


def test_a_profile_knows_better_than_a_default() -> None:
    steps = {"num_inference_steps": 30, "guidance_scale": 1.0}
    repeated = made("guided", profile="fast", **steps, by_default=tuple(steps))
    wished = made("guided", profile="fast", **steps)

    assert (repeated.num_inference_steps, repeated.guidance_scale) == (4, 2)
    assert (wished.num_inference_steps, wished.guidance_scale) == (30, 1)
