"""LoRAs and profiles at the door: what models.yaml may list, and what a request may then name."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from inference.catalog import Catalog, load_catalog
from inference.errors import BadValue, CatalogError, Refused, Unsupported
from inference.job import ImageRequest, Job, Lora, dump_job, load_job
from inference.resolve import resolve

FLUX: dict[str, Any] = {
    "name": "flux",
    "family": "flux",
    "source": "a/b",
    "loras": {
        "ink": {"source": "a/ink", "strength": 0.8, "rank": 16, "trigger": "ink wash"},
        "fast": {"source": "a/fast"},
    },
    "loras_from": ["hub", "./loras"],
    "qualities": {"high": {"num_inference_steps": 50, "guidance_scale": 7}},
    "profiles": {
        "lightning": {"loras": {"fast": 1}, "num_inference_steps": 4, "guidance_scale": 1},
        "vanilla": {},
    },
}
PLAIN: dict[str, Any] = {"name": "plain", "family": "flux", "source": "a/b"}


def catalog(**changes: Any) -> Catalog:
    models = {"flux": FLUX | changes, "plain": PLAIN}
    return Catalog.model_validate({"models": models, "aliases": {"auto": ["plain", "flux"]}})


SERVED = catalog()


def made(served: Catalog = SERVED, **wish: Any) -> Job:
    asked: dict[str, Any] = {"model": "flux", "prompt": "a red fox"}
    return resolve(served, ImageRequest(**asked | wish), job_id="job")


def refused(served: Catalog = SERVED, **wish: Any) -> Refused:
    with pytest.raises(Refused) as caught:
        made(served, **wish)
    assert len(str(caught.value)) < 300
    return caught.value


class TestRequests:
    def test_none_by_default(self) -> None:
        assert made().loras == ()

    def test_a_name_alone_gets_what_its_entry_says(self) -> None:
        assert made(loras=(Lora(name="ink"),)).loras == (Lora(name="ink", strength=0.8, rank=16),)
        assert made(loras=(Lora(name="fast"),)).loras == (Lora(name="fast", strength=1.0),)

    def test_what_a_lora_says_wins_over_the_request_and_that_over_the_entry(self) -> None:
        wish = (Lora(name="ink", strength=-0.5, rank=2), Lora(name="fast"))
        assert made(loras=wish, lora_strength=0.3, lora_rank=4).loras == (
            Lora(name="ink", strength=-0.5, rank=2),
            Lora(name="fast", strength=0.3, rank=4),
        )

    def test_zero_is_a_strength(self) -> None:
        assert made(loras=(Lora(name="ink", strength=0),)).loras[0].strength == 0
        assert made(loras=(Lora(name="ink"),), lora_strength=0).loras[0].strength == 0

    def test_an_unknown_name_is_refused_with_the_list(self) -> None:
        error = refused(loras=(Lora(name="inc"),))
        assert isinstance(error, Unsupported) and error.field == "loras"
        assert "'inc'" in str(error) and "ink, fast" in str(error)

    def test_a_model_without_any_says_so(self) -> None:
        error = refused(model="plain", loras=(Lora(name="ink"),))
        assert isinstance(error, Unsupported) and str(error) == "'plain' takes no LoRA"

    @pytest.mark.parametrize("strength", [math.nan, math.inf, -math.inf, 4.01, -4.01])
    def test_a_strength_out_of_range_is_refused(self, strength: float) -> None:
        error = refused(loras=(Lora(name="ink", strength=strength),))
        assert isinstance(error, BadValue) and error.field == "loras"
        error = refused(loras=(Lora(name="ink"),), lora_strength=strength)
        assert isinstance(error, BadValue) and error.field == "lora_strength"

    @given(st.floats(-4, 4))
    def test_every_strength_in_range_is_carried_as_it_is(self, strength: float) -> None:
        assert made(loras=(Lora(name="ink", strength=strength),)).loras[0].strength == strength

    @pytest.mark.parametrize("rank", [0, -1, 1025])
    def test_a_rank_out_of_range_is_refused(self, rank: int) -> None:
        assert refused(loras=(Lora(name="ink", rank=rank),)).field == "loras"
        assert refused(loras=(Lora(name="ink"),), lora_rank=rank).field == "lora_rank"

    def test_the_same_twice_and_too_many_are_refused(self) -> None:
        twice = (Lora(name="ink"), Lora(name="ink", strength=0.1))
        assert "once" in str(refused(loras=twice))
        few = catalog(limits={"loras": 1})
        assert "at most 1" in str(refused(few, loras=(Lora(name="ink"), Lora(name="fast"))))

    @pytest.mark.parametrize("field", ["lora_strength", "lora_rank"])
    def test_a_strength_of_nothing_is_refused(self, field: str) -> None:
        error = refused(**{field: 1})
        assert isinstance(error, BadValue) and error.field == field

    def test_a_trigger_leads_the_prompt_once_and_only_while_it_counts(self) -> None:
        ink = Lora(name="ink")
        assert made(loras=(ink,)).prompt == "ink wash, a red fox"
        assert made(loras=(ink,), prompt="A fox, Ink Wash").prompt == "A fox, Ink Wash"
        assert made(loras=(ink,), lora_strength=0).prompt == "a red fox"
        assert made(loras=(Lora(name="fast"),)).prompt == "a red fox"

    def test_a_job_with_loras_survives_json(self) -> None:
        job = made(loras=(Lora(name="ink", strength=-1.5), Lora(name="hub:a/b")))
        assert load_job(dump_job(job)) == job

    def test_a_job_of_before_has_none(self) -> None:
        text = dump_job(made()).replace('"loras":[],', "")
        assert "loras" not in text
        assert load_job(text).loras == ()


class TestOwnSources:
    @pytest.mark.parametrize(
        "name",
        [
            "hub:owner/name",
            "hub:owner/name/file.safetensors",
            "hub:o.w-n/n_1/sub/file.safetensors",
            "folder:file.safetensors",
            "folder:sub/some file.safetensors",
        ],
    )
    def test_allowed(self, name: str) -> None:
        assert made(loras=(Lora(name=name),)).loras == (Lora(name=name, strength=1.0),)

    @pytest.mark.parametrize(
        "name",
        [
            "owner/name",
            "hub:name",
            "hub:../name",
            "hub:owner/name/file.bin",
            "hub:owner/..",
            "hub:owner/name/../file.safetensors",
            "folder:/etc/file.safetensors",
            "folder:../file.safetensors",
            "folder:sub/../../file.safetensors",
            "folder:file.ckpt",
            "folder:.hidden.safetensors",
            "folder:a\n.safetensors",
            "https://example.org/a.safetensors",
        ],
    )
    def test_refused(self, name: str) -> None:
        assert refused(loras=(Lora(name=name),)).field == "loras"

    @pytest.mark.parametrize(
        ("allowed", "name"), [("hub", "folder:a.safetensors"), ("./x", "hub:a/b")]
    )
    def test_only_from_where_the_entry_says(self, allowed: str, name: str) -> None:
        assert isinstance(
            refused(catalog(loras_from=[allowed]), loras=(Lora(name=name),)), Unsupported
        )
        assert isinstance(refused(catalog(loras_from=[]), loras=(Lora(name=name),)), Unsupported)


class TestAddresses:
    TAKES = catalog(loras_from=["url"])

    @pytest.mark.parametrize("name", ["https://a.example/ink.safetensors", "HTTPS://a.example/x?y"])
    def test_allowed_where_the_entry_says(self, name: str) -> None:
        job = made(self.TAKES, loras=(Lora(name=name),))
        assert job.loras == (Lora(name=name, strength=1.0),)
        assert isinstance(refused(loras=(Lora(name=name),)), Unsupported)

    @pytest.mark.parametrize(
        "name", ["http://a.example/x", "ftp://a.example/x", f"sha256:{'a' * 64}", "folder:a"]
    )
    def test_nothing_else_is_one(self, name: str) -> None:
        assert refused(self.TAKES, loras=(Lora(name=name),)).field == "loras"


class TestProfiles:
    def test_a_profile_brings_its_loras_steps_and_guidance(self) -> None:
        job = made(profile="lightning")
        assert job.loras == (Lora(name="fast", strength=1.0),)
        assert (job.num_inference_steps, job.guidance_scale) == (4, 1)

    def test_an_empty_one_changes_nothing(self) -> None:
        assert made(profile="vanilla", seed=1) == made(seed=1)

    def test_it_wins_over_the_quality(self) -> None:
        job = made(profile="lightning", quality="high")
        assert (job.num_inference_steps, job.guidance_scale) == (4, 1)
        assert made(profile="vanilla", quality="high").num_inference_steps == 50

    def test_what_the_request_says_wins_over_it(self) -> None:
        job = made(profile="lightning", num_inference_steps=9, guidance_scale=2)
        assert (job.num_inference_steps, job.guidance_scale) == (9, 2)
        own = (Lora(name="fast", strength=0.4), Lora(name="ink"))
        assert [lora.strength for lora in made(profile="lightning", loras=own).loras] == [0.4, 0.8]
        assert made(profile="lightning", lora_strength=0.6).loras[0].strength == 0.6

    def test_the_default_profile_is_for_requests_that_name_none(self) -> None:
        served = catalog(defaults={"profile": "lightning"})
        assert made(served).num_inference_steps == 4
        assert made(served, profile="vanilla").num_inference_steps == 28

    def test_an_unknown_one_is_refused_with_the_list(self) -> None:
        error = refused(profile="fast")
        assert isinstance(error, Unsupported) and error.field == "profile"
        assert "lightning, vanilla" in str(error)
        assert "known: none" in str(refused(model="plain", profile="fast"))

    @pytest.mark.parametrize("wish", [{"profile": "vanilla"}, {"loras": (Lora(name="ink"),)}])
    def test_an_alias_takes_the_model_that_has_it(self, wish: Any) -> None:
        assert made(model="auto").model == "plain"
        assert made(model="auto", **wish).model == "flux"


@pytest.mark.parametrize(
    ("changes", "line", "says"),
    [
        ({"loras": {"ink": {"source": "a/b", "strenght": 1}}}, 8, "did you mean 'strength'?"),
        ({"loras": {"ink": {"strength": 1}}}, 6, "needs 'source'"),
        ({"loras": {"ink": {"source": "a/b", "strength": math.nan}}}, 8, "finite"),
        ({"loras": {"ink": {"source": "a/b", "strength": True}}}, 8, "number"),
        ({"loras": {"ink": {"source": "a/b", "rank": 0}}}, 8, "greater than or equal to 1"),
        ({"loras": {"ink": {"source": "a/b", "strength": 5}}}, 2, "beyond the limit of 4"),
        ({"loras": {"hub:x": {"source": "a/b"}}}, 2, "no colon"),
        ({"loras_from": ["web"]}, 2, "'hub', 'url' or a folder's path, not 'web'"),
        ({"profiles": {"p": {"loras": {"x": 1}}}}, 2, "profile 'p': no LoRA 'x'; it lists none"),
        ({"profiles": {"p": {"lora": {}}}}, 7, "did you mean 'loras'?"),
        ({"profiles": {"p": {"num_inference_steps": 500}}}, 2, "above the limit of 100"),
        ({"defaults": {"profile": "p"}}, 2, "default profile 'p'"),
    ],
)
def test_mistakes_are_told_with_their_line(
    tmp_path: Path, changes: dict[str, Any], line: int, says: str
) -> None:
    path = tmp_path / "models.yaml"
    entry = {"family": "flux", "source": "a/b", **changes}
    path.write_text(yaml.safe_dump({"models": {"m": entry}}, sort_keys=False))
    with pytest.raises(CatalogError) as error:
        load_catalog(path)
    told = str(error.value)
    assert says in told
    assert f"models.yaml:{line}:" in told
