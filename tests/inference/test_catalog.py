"""models.yaml: what it may say, what each mistake is answered with, and what it then serves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from inference.catalog import Catalog, load_catalog, modes_of
from inference.errors import BadValue, CatalogError, UnknownModel, Unsupported
from inference.job import ImageRequest, ImageRole, InputImage, Mode
from inference.pipelines import FAMILIES
from inference.resolve import resolve

SOURCE = InputImage(role=ImageRole.SOURCE, key="source")
MASK = InputImage(role=ImageRole.MASK, key="mask")


@pytest.fixture(scope="session")
def shipped(root: Path) -> Catalog:
    return load_catalog(root / "models.yaml")


def asks(model: str, **wish: Any) -> ImageRequest:
    return ImageRequest(model=model, prompt="a red circle", **wish)


def price(catalog: Catalog, request: ImageRequest) -> int:
    return catalog.price(request, resolve(catalog, request, job_id="t"))


def parsed(**document: Any) -> Catalog:
    for name, entry in document["models"].items():
        entry.setdefault("name", name)
    return Catalog.model_validate(document)


def written(folder: Path, document: Any) -> Path:
    path = folder / "models.yaml"
    path.write_text(document if isinstance(document, str) else yaml.safe_dump(document))
    return path


def refusal(folder: Path, document: Any) -> str:
    with pytest.raises(CatalogError) as refused:
        load_catalog(written(folder, document))
    return str(refused.value).replace(f"{folder}/", "")


class TestShipped:
    def test_it_serves_the_demo_model_in_every_mode(self, shipped: Catalog) -> None:
        for mode in FAMILIES["flux"].routes:
            assert shipped.find("tiny-flux", mode).name == "tiny-flux"

    def test_every_alias_serves_every_mode_but_those_it_shuts_out(self, shipped: Catalog) -> None:
        for name, alias in shipped.aliases.items():
            for mode in FAMILIES["flux"].routes:
                if getattr(alias, mode) is None and mode in alias.model_fields_set:
                    continue
                assert mode in shipped.find(name, mode).modes

    def test_a_request_that_says_nothing_gets_the_first_size(self, shipped: Catalog) -> None:
        assert shipped.models["tiny-flux"].default_size == (128, 128)

    @pytest.mark.parametrize(
        ("model", "wish", "credits"),
        [
            ("tiny-flux", {}, 1),
            ("auto", {}, 1),
            ("tiny-flux", {"resolution": "4k", "quality": "high"}, 1),
            ("nano-banana", {}, 5),
            ("nano-banana-pro", {"resolution": "4k"}, 10),
            ("gpt-image-2", {}, 2),
            ("gpt-image-2", {"quality": "high"}, 18),
            ("gpt-image-2", {"resolution": "4k"}, 10),
            ("gpt-image-2", {"resolution": "4k", "quality": "medium"}, 32),
        ],
    )
    def test_prices(self, shipped: Catalog, model: str, wish: dict[str, str], credits: int) -> None:
        assert price(shipped, asks(model, **wish)) == credits

    def test_a_tier_without_a_price_is_refused(self, shipped: Catalog) -> None:
        with pytest.raises(Unsupported, match="only 1k") as refused:
            price(shipped, asks("nano-banana", resolution="2k"))
        assert refused.value.field == "resolution"

    def test_a_quality_without_a_price_is_refused(self, shipped: Catalog) -> None:
        job = resolve(shipped, asks("gpt-image-2"), job_id="t")
        with pytest.raises(Unsupported, match="only standard, medium, high") as refused:
            shipped.price(asks("gpt-image-2", quality="ultra"), job)
        assert refused.value.field == "quality"


class TestFind:
    CATALOG = parsed(
        models={
            "draw": {"family": "flux", "source": "a/b", "modes": ["generate"]},
            "edit": {"family": "sdxl", "source": "c/d"},
        },
        aliases={
            "both": {"generate": "draw", "img2img": "edit"},
            "all": {"model": "edit", "generate": "draw", "inpaint": None},
            "short": "draw",
        },
    )

    @pytest.mark.parametrize(
        ("name", "mode", "model"),
        [
            ("both", Mode.GENERATE, "draw"),
            ("both", Mode.IMG2IMG, "edit"),
            ("all", Mode.GENERATE, "draw"),
            ("all", Mode.IMG2IMG, "edit"),
            ("short", Mode.GENERATE, "draw"),
        ],
    )
    def test_an_alias_leads_to_a_model_per_mode(self, name: str, mode: Mode, model: str) -> None:
        assert self.CATALOG.find(name, mode).name == model

    @pytest.mark.parametrize(
        ("name", "mode", "said"),
        [
            ("both", Mode.INPAINT, "'both' is not set up to inpaint"),
            ("all", Mode.INPAINT, "'all' is not set up to inpaint"),
            ("short", Mode.IMG2IMG, "'short' cannot img2img; it can: generate"),
            ("draw", Mode.INPAINT, "'draw' cannot inpaint; it can: generate"),
        ],
    )
    def test_a_mode_that_is_not_served_is_refused(self, name: str, mode: Mode, said: str) -> None:
        with pytest.raises(Unsupported, match=said) as refused:
            self.CATALOG.find(name, mode)
        assert refused.value.field == "model"

    def test_an_unknown_name_gets_the_list_of_names(self) -> None:
        with pytest.raises(UnknownModel, match="served are: draw, edit, both, all") as refused:
            self.CATALOG.find("nothing", Mode.GENERATE)
        assert refused.value.field == "model"

    def test_an_alias_without_a_price_costs_what_its_model_costs(self) -> None:
        catalog = parsed(
            models={"m": {"family": "flux", "source": "a/b", "price": 7}},
            aliases={"same": "m", "free": {"model": "m", "price": 0}},
        )
        assert price(catalog, asks("same")) == 7
        assert price(catalog, asks("free")) == 0

    @pytest.mark.parametrize(
        ("width", "height", "credits"),
        [(1024, 1024, 5), (512, 512, 5), (1536, 1024, 9), (2048, 2048, 9)],
    )
    def test_a_size_in_pixels_pays_for_the_tier_that_holds_it(
        self, width: int, height: int, credits: int
    ) -> None:
        catalog = parsed(
            models={
                "m": {
                    "family": "flux",
                    "source": "a/b",
                    "limits": {"max_megapixels": 16.8, "max_side": 4096},
                    "price": {"1k": 5, "2k": 9},
                }
            }
        )
        assert price(catalog, asks("m", width=width, height=height)) == credits
        with pytest.raises(Unsupported, match="has no resolution '4k', only 1k, 2k") as refused:
            price(catalog, asks("m", width=4096, height=4096))
        assert refused.value.field == "resolution"

    def test_a_size_below_every_priced_tier_pays_for_the_smallest(self) -> None:
        entry = {"family": "flux", "source": "a/b", "price": {"2k": 9}}
        assert price(parsed(models={"m": entry}), asks("m", width=512, height=512)) == 9


class TestChoice:
    CATALOG = parsed(
        models={
            "small": {
                "family": "flux",
                "source": "a/b",
                "modes": ["generate"],
                "limits": {"count": 2, "prompt_chars": 10},
            },
            "large": {"family": "sdxl", "source": "c/d"},
        },
        aliases={"auto": ["small", "large"]},
    )

    @pytest.mark.parametrize(
        ("wish", "model"),
        [
            ({}, "small"),
            ({"count": 3}, "large"),
            ({"prompt": "a prompt of more than ten"}, "large"),
        ],
    )
    def test_an_alias_of_several_takes_the_first_that_can(
        self, wish: dict[str, Any], model: str
    ) -> None:
        request = replace(asks("auto"), **({"prompt": "a"} | wish))
        assert self.CATALOG.find("auto", Mode.GENERATE, request).name == model

    KONTEXT = parsed(
        models={
            "draw": {"family": "flux", "source": "a/b"},
            "kontext": {"family": "flux-kontext", "source": "c/d"},
            "schnell": {"family": "flux", "source": "e/f", "guidance_field": "none"},
        },
        aliases={
            "auto": ["draw", "kontext"],
            "fast": ["schnell", "draw"],
            "split": {"generate": "kontext", "img2img": "draw", "edit": "kontext"},
            "varied": {"model": "kontext", "edit": None, "img2img": "draw"},
            "plain": "draw",
        },
    )

    @pytest.mark.parametrize(
        ("name", "wish", "model", "mode"),
        [
            ("draw", {}, "draw", Mode.IMG2IMG),
            ("kontext", {}, "kontext", Mode.EDIT),
            ("plain", {}, "draw", Mode.IMG2IMG),
            ("auto", {}, "kontext", Mode.EDIT),
            ("auto", {"strength": 0.5}, "draw", Mode.IMG2IMG),
            ("auto", {"mode": Mode.IMG2IMG}, "draw", Mode.IMG2IMG),
            ("auto", {"images": (SOURCE, SOURCE)}, "kontext", Mode.EDIT),
            ("auto", {"images": (SOURCE, SOURCE, MASK)}, "kontext", Mode.INPAINT),
            ("auto", {"images": (SOURCE, MASK)}, "draw", Mode.INPAINT),
            ("auto", {"images": ()}, "draw", Mode.GENERATE),
            ("split", {}, "kontext", Mode.EDIT),
            ("split", {"mode": Mode.IMG2IMG}, "draw", Mode.IMG2IMG),
            ("varied", {}, "draw", Mode.IMG2IMG),
            ("fast", {"images": ()}, "schnell", Mode.GENERATE),
            ("fast", {"images": (), "guidance_scale": 5.0}, "draw", Mode.GENERATE),
        ],
    )
    def test_the_model_decides_what_a_source_is_for(
        self, name: str, wish: dict[str, Any], model: str, mode: Mode
    ) -> None:
        spec, chosen = self.KONTEXT.choose(asks(name, **({"images": (SOURCE,)} | wish)))
        assert (spec.name, chosen) == (model, mode)

    def test_a_mode_that_is_named_is_not_changed(self) -> None:
        for name, mode in (("draw", Mode.EDIT), ("kontext", Mode.IMG2IMG)):
            with pytest.raises(Unsupported, match=f"'{name}' cannot {mode}"):
                self.KONTEXT.choose(asks(name, images=(SOURCE,), mode=mode))

    def test_the_mode_decides_too(self) -> None:
        assert self.CATALOG.find("auto", Mode.INPAINT, asks("auto")).name == "large"

    def test_where_none_can_the_first_says_why(self) -> None:
        with pytest.raises(BadValue, match="count must lie between 1 and 2"):
            resolve(self.CATALOG, replace(asks("auto", count=99), prompt="a"), job_id="t")


class TestFamilies:
    @pytest.mark.parametrize("family", FAMILIES)
    def test_an_entry_needs_no_more_than_family_and_source(self, family: str) -> None:
        entry = {"family": family, "source": "a/b"}
        if FAMILIES[family].any_pipeline:
            entry |= {"pipelines": {mode.value: "P" for mode in FAMILIES[family].routes}}
        spec = parsed(models={"m": entry}).models["m"]
        assert set(spec.modes) == set(FAMILIES[family].routes)
        assert spec.guidance_field == FAMILIES[family].guidance_field
        side = FAMILIES[family].native_side
        assert spec.default_size == (side, side)
        defaults = spec.defaults.model_dump()
        assert defaults | dict(FAMILIES[family].defaults) == defaults

    def test_what_an_entry_sets_wins_over_its_family(self) -> None:
        entry = {"family": "flux-fill", "source": "a/b", "defaults": {"guidance_scale": 10.0}}
        spec = parsed(models={"m": entry}).models["m"]
        assert (spec.defaults.guidance_scale, spec.defaults.strength) == (10.0, 1.0)

    def test_a_flux_honours_a_negative_prompt_only_with_true_guidance(self) -> None:
        entry = {"family": "flux", "source": "a/b"}
        for guidance, takes in (("true_cfg_scale", True), ("guidance_scale", False)):
            spec = parsed(models={"m": entry | {"guidance_field": guidance}}).models["m"]
            assert spec.takes_negative_prompt is takes

    def test_any_size_is_answered_with_one_that_can_be_made(self) -> None:
        spec = parsed(models={"m": {"family": "flux", "source": "a/b"}}).models["m"]
        assert spec.nearest_size(1000, 1000) == (1008, 1008)
        assert spec.size_of("16:9", None) == (1360, 768)
        assert spec.size_of("16:9", "4k") == (2048, 1152)


ENTRY = {"family": "flux", "source": "a/b"}


class TestMistakes:
    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"family": "flix"}, "family 'flix' is none of flux, "),
            ({"family": "generic"}, "family 'generic' needs pipelines: a diffusers class per mode"),
            (
                {"family": "generic", "pipelines": {"edit": "P"}, "modes": ["edit", "generate"]},
                "pipelines must name a diffusers class to generate",
            ),
            ({"family": "sdxl", "modes": ["edit"]}, "family 'sdxl' cannot edit"),
            (
                {"defaults": {"negative_prompt": "blur"}},
                "family 'flux' honours no negative_prompt without guidance_field: true_cfg_scale",
            ),
            (
                {"family": "flux-fill", "defaults": {"negative_prompt": "blur"}},
                "family 'flux-fill' honours no negative_prompt",
            ),
            ({"modes": []}, "modes must name at least one"),
            ({"modes": ["paint"]}, "Input should be 'generate', 'img2img', 'inpaint' or 'edit'"),
            ({"sizes": ["100x100"]}, "size 100x100 is not made of 16s"),
            ({"sizes": ["big"]}, "'big' is not a size like 1024x768"),
            ({"sizes": ["0x16"]}, "greater than 0"),
            ({"sizes": ["64x64"], "defaults": {"size": "128x128"}}, "default size 128x128"),
            ({"defaults": {"size": "1000x1000"}}, "default size 1000x1000"),
            ({"defaults": {"size": "4096x4096"}}, "default size 4096x4096"),
            ({"limits": {"num_inference_steps": 20}}, "defaults: num_inference_steps 28 is above"),
            ({"limits": {"guidance_scale": 2}}, "defaults: guidance_scale 3.5 is above"),
            (
                {"qualities": {"high": {"num_inference_steps": 200}}},
                "quality 'high': num_inference_steps 200 is above the limit of 100",
            ),
            ({"limits": {"min_side": 250, "max_side": 255}}, "limits leave no size made of 16s"),
            ({"limits": {"max_megapixels": 0.01}}, "limits leave no size made of 16s"),
            ({"limits": {"max_megapixels": float("nan")}}, "finite number"),
            ({"limits": {"count": 0}}, "greater than 0"),
            ({"limits": {"count": True}}, "valid integer"),
            ({"price": {}}, "at least 1 item"),
            ({"price": {"1k": {}}}, "at least 1 item"),
            ({"price": {"1K": 5}}, "'1k', '2k' or '4k'"),
            ({"price": -1}, "greater than or equal to 0"),
            ({"price": True}, "valid integer"),
            ({"price": "cheap"}, "valid integer"),
            ({"name": "other"}, "model 'm' calls itself 'other'"),
            ({"dtype": "float8"}, "'auto', 'float32', 'bfloat16' or 'float16'"),
            ({"defaults": {"strength": 0}}, "greater than or equal to 0.01"),
            ({"source": ""}, "m.source: String should have at least 1 character"),
            ({"source": " "}, "m.source: must be a folder, or an id of the hub"),
            ({"source": "a/b\nc"}, "m.source: must be a folder, or an id of the hub"),
            ({"source": "https://huggingface.co/a/b"}, "and no address; write a/b"),
            ({"source": "s3://bucket/a"}, "and no address"),
            ({"source": "builtin:nope"}, "no such built-in model, only tiny-flux, tiny-flux-fill"),
            ({"source": "builtin:train"}, "no such built-in model"),
            ({"source": "builtin:tiny-flux/vae"}, "no such built-in model"),
            ({"loras": {"x": {"source": "builtin:nope"}}}, "m.loras.x.source: there is no such"),
            ({"loras": {"x": {"source": "a/b", "file": "../c"}}}, "'../c' is no path within"),
            ({"references": {"style": {"by": "redux", "source": "hf://a"}}}, "and no address"),
            (
                {"references": {"pose": {"by": "controlnet", "source": "a/b", "subfolder": "/x"}}},
                "'/x' is no path within a source",
            ),
            ({"quantization": {"kind": "torchao-int8", "parts": []}}, "parts must name at least"),
            (
                {"quantization": {"kind": "gguf", "source": "a/b", "file": "../../x.gguf"}},
                "'../../x.gguf' is no path within a source",
            ),
        ],
    )
    def test_a_value_that_cannot_be_is_refused(
        self, tmp_path: Path, change: dict[str, Any], said: str
    ) -> None:
        answer = refusal(tmp_path, {"models": {"m": ENTRY | change}})
        assert said in answer
        assert answer.startswith("models.yaml:")
        assert "\n" not in answer

    def test_a_family_without_the_argument_refuses_it(self, tmp_path: Path) -> None:
        entry = {"family": "sdxl", "source": "a/b", "max_sequence_length": 77}
        said = refusal(tmp_path, {"models": {"m": entry}})
        assert said == "models.yaml:2: models.m: family 'sdxl' takes no max_sequence_length"

    @pytest.mark.parametrize(
        ("wrong", "right", "line"),
        [
            ("sorce: a/b", "source", 4),
            ("limits: {cuont: 3}", "count", 4),
            ("defaults: {num_inference_step: 3}", "num_inference_steps", 4),
            ("qualities: {high: {guidance: 3}}", "guidance_scale", 4),
        ],
    )
    def test_a_misspelt_key_is_told_with_its_line_and_the_nearest_key(
        self, tmp_path: Path, wrong: str, right: str, line: int
    ) -> None:
        text = f"models:\n  m:\n    family: flux\n    {wrong}\n    source: a/b\n"
        said = refusal(tmp_path, text)
        assert said.startswith(f"models.yaml:{line}: models.m.")
        assert f"unknown key; did you mean {right!r}?" in said

    @pytest.mark.parametrize(
        ("alias", "said"),
        [
            ({"auto": "n"}, "alias 'auto' leads to 'n', which is not a model"),
            ({"auto": {"inpaint": "n"}}, "alias 'auto' leads to 'n', which is not a model"),
            ({"m": "m"}, "alias 'm' is also a model"),
            ({"auto": {"modle": "m"}}, "unknown key; did you mean 'model'?"),
            ({"auto": 5}, "aliases.auto: Input should be a valid dictionary"),
        ],
    )
    def test_an_alias_that_leads_nowhere_is_refused(
        self, tmp_path: Path, alias: dict[str, Any], said: str
    ) -> None:
        assert said in refusal(tmp_path, {"models": {"m": ENTRY}, "aliases": alias})

    @pytest.mark.parametrize(
        "name", ["", " ", " m", "a\nb", "a\x1b[2J", "../m", "a/./b", "/m", "."]
    )
    def test_a_name_that_would_not_stand_in_an_address_or_a_log_is_refused(
        self, tmp_path: Path, name: str
    ) -> None:
        for document in ({"models": {name: ENTRY}}, {"aliases": {name: "m"}}):
            said = refusal(tmp_path, {"models": {"m": ENTRY}} | document)
            assert f"{name!r} is no name" in said and "\n" not in said

    @pytest.mark.parametrize("name", ["google:4@1", "owner/flux.2 pro", "ein-größeres", "5"])
    def test_names_that_clients_send_are_taken(self, tmp_path: Path, name: str) -> None:
        path = written(tmp_path, {"models": {name: ENTRY}})
        assert load_catalog(path).names() == [name]

    def test_entries_may_share_an_anchor_and_none_may_hold_itself(self, tmp_path: Path) -> None:
        text = "models:\n  a: &a {family: flux, source: x/y}\n  b: *a\n"
        models = load_catalog(written(tmp_path, text)).models
        assert [(name, spec.name) for name, spec in models.items()] == [("a", "a"), ("b", "b")]
        text = "models: &m\n  a: *m\n"
        assert "what is anchored here holds itself" in refusal(tmp_path, text)

    def test_a_file_of_gguf_beside_no_source_is_any_path(self, tmp_path: Path) -> None:
        quantization = {"kind": "gguf", "file": "../../x.gguf"}
        path = written(tmp_path, {"models": {"m": ENTRY | {"quantization": quantization}}})
        assert load_catalog(path).models["m"].quantization is not None

    def test_every_mistake_is_told_at_once(self, tmp_path: Path) -> None:
        text = "models:\n  m: {family: flux, sorce: x}\n  n: {family: flux, price: -1}\n"
        lines = refusal(tmp_path, text).splitlines()
        assert [line.split(":")[1] for line in lines] == ["2", "2", "3", "3"]

    @pytest.mark.parametrize("text", ["", "models:\n", "- a\n", "modles: {}\n"])
    def test_a_file_without_models_is_refused(self, tmp_path: Path, text: str) -> None:
        assert refusal(tmp_path, text).startswith("models.yaml:1: ")


@pytest.mark.parametrize(
    ("wish", "modes"),
    [
        ({}, (Mode.GENERATE,)),
        ({"images": (SOURCE,)}, (Mode.EDIT, Mode.IMG2IMG)),
        ({"images": (SOURCE,), "strength": 0.5}, (Mode.IMG2IMG, Mode.EDIT)),
        ({"images": (SOURCE, MASK)}, (Mode.INPAINT,)),
        ({"images": (SOURCE, MASK), "mode": Mode.GENERATE}, (Mode.GENERATE,)),
    ],
)
def test_pictures_imply_modes_unless_one_is_named(
    wish: dict[str, Any], modes: tuple[Mode, ...]
) -> None:
    assert modes_of(asks("m", **wish)) == modes
