"""LoRA files: the common layouts are read as diffusers does, all else is refused with a reason."""

from __future__ import annotations

import os
import pickle
import random
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import save, save_file

from inference.catalog import Catalog
from inference.coalesce import Rendezvous
from inference.errors import LoraFailed
from inference.job import Lora
from inference.loading import load_pipelines
from inference.loras import shelf as lora_shelf
from inference.loras.spec import LoraSpec
from inference.model import LoadedModel, load_model
from inference.pixels import Pictures
from inference.prompts import PromptCache
from tests.inference.loras import alone, far, random_lora, saved
from tests.inference.making import job

Weights = dict[str, torch.Tensor]


@pytest.fixture(scope="module", autouse=True)
def _no_grad() -> Iterator[None]:
    torch.set_grad_enabled(False)
    yield
    torch.set_grad_enabled(True)


@pytest.fixture(scope="module")
def models(catalog: Catalog) -> dict[str, LoadedModel]:
    return {name: load(catalog, name) for name in ("flux", "sdxl")}


def load(catalog: Catalog, name: str) -> LoadedModel:
    spec = catalog.models[name]
    return load_model(spec, "cpu", Rendezvous(), PromptCache(0), 0, lora_bytes=1 << 22)


@pytest.fixture(scope="module")
def good(catalog: Catalog) -> Weights:
    pipe = load_pipelines(catalog.models["flux"], "cpu")[job().mode]
    return random_lora(pipe.transformer, "transformer", 0, pick=lambda path: ".attn.to_" in path)


def state(model: LoadedModel) -> dict[str, Any]:
    """Everything that a LoRA could have left behind in a model: weights, forwards, modules."""
    found: dict[str, Any] = {}
    for attached in model.attached:
        for path, module in attached.module.named_modules():
            found[f"{id(attached)}.{path}"] = (type(module), module.__dict__.get("forward"))
        for name, weight in attached.module.state_dict().items():
            found[f"{id(attached)}.{name}"] = weight.numpy().tobytes()
    return found


def listing(model: LoadedModel, source: Path | str, **changes: Any) -> str:
    """List a file with the model, under a name of its own; the name."""
    name = f"n{len(model.loras._spec.loras)}"
    entry = LoraSpec(source=str(source), **changes)
    loras = {**model.loras._spec.loras, name: entry}
    model.loras._spec = model.loras._spec.model_copy(update={"loras": loras})
    return name


def mixed(model: LoadedModel, source: Path | str, **changes: Any) -> Any:
    name = listing(model, source, **changes)
    return model.loras.mix((Lora(name=name, strength=1.0),))


def refusal(model: LoadedModel, source: Path | str, **changes: Any) -> str:
    before = state(model)
    with pytest.raises(LoraFailed) as caught:
        mixed(model, source, **changes)
    assert state(model) == before
    assert 10 < len(str(caught.value)) < 600
    return str(caught.value)


def as_kohya(module: Any, prefix: str, paths: list[str], alpha: float) -> Weights:
    """Random weights of kohya's layout for some layers, with alphas that differ by layer."""
    weights: Weights = {}
    for number, path in enumerate(paths):
        own = random_lora(module, "x", number, pick=path.__eq__)
        key = f"{prefix}_{path.replace('.', '_')}"
        weights[f"{key}.lora_down.weight"] = own[f"x.{path}.lora_A.weight"]
        weights[f"{key}.lora_up.weight"] = own[f"x.{path}.lora_B.weight"]
        weights[f"{key}.alpha"] = torch.tensor(alpha)
    return weights


def flux_kohya(pipe: Any) -> Weights:
    """Its own names for the blocks of Flux; q, k and v are one layer."""
    inner = pipe.transformer.inner_dim
    dice = torch.Generator().manual_seed(0)
    key = "lora_unet_double_blocks_0_img_attn_qkv"
    return as_kohya_proj(pipe) | {
        f"{key}.lora_down.weight": torch.randn(4, inner, generator=dice) / 8,
        f"{key}.lora_up.weight": torch.randn(3 * inner, 4, generator=dice) / 4,
        f"{key}.alpha": torch.tensor(2.0),
    }


def as_kohya_proj(pipe: Any) -> Weights:
    own = random_lora(pipe.transformer, "x", 1, pick=lambda path: path.endswith("0.attn.to_out.0"))
    down, up = own.values()
    key = "lora_unet_double_blocks_0_img_attn_proj"
    return {
        f"{key}.lora_down.weight": down,
        f"{key}.lora_up.weight": up,
        f"{key}.alpha": torch.tensor(1.0),
    }


def sdxl_kohya(pipe: Any) -> Weights:
    unet = "down_blocks.1.attentions.0.transformer_blocks.0"
    words = [f"encoder.layers.1.self_attn.{part}_proj" for part in ("q", "v", "out")]
    words += ["encoder.layers.0.mlp.fc1"]
    one = as_kohya(pipe.text_encoder, "lora_te1_text_model", words, 2.0)
    two = {
        key.replace("lora_te_", "lora_te2_"): value
        for key, value in as_kohya(
            pipe.text_encoder_2.text_model, "lora_te_text_model", words, 2.0
        ).items()
    }
    paths = [f"{unet}.attn1.to_q", f"{unet}.attn2.to_out.0", f"{unet}.ff.net.2"]
    paths += ["down_blocks.0.resnets.0.conv1"]
    return as_kohya(pipe.unet, "lora_unet", paths, 2.0) | one | two


def old_diffusers(pipe: Any) -> Weights:
    own = random_lora(pipe.unet, "unet", 0, pick=lambda path: ".attn1.to_" in path)
    return {
        key.replace(".lora_A.", ".lora.down.").replace(".lora_B.", ".lora.up."): value
        for key, value in own.items()
    }


LAYOUTS: dict[str, tuple[str, Callable[[Any], Weights]]] = {
    "flux, kohya": ("flux", flux_kohya),
    "sdxl, kohya": ("sdxl", sdxl_kohya),
    "sdxl, old diffusers": ("sdxl", old_diffusers),
}


def by_diffusers(catalog: Catalog, name: str, path: Path) -> Any:
    spec, wanted = catalog.models[name], job(model=name, num_inference_steps=2)
    pipe = load_pipelines(spec, "cpu")[wanted.mode]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipe.load_lora_weights(str(path))
    arguments = spec.rules.routes[wanted.mode].arguments(wanted, spec, Pictures())
    noise = torch.Generator("cpu").manual_seed(1)
    return pipe(**arguments, generator=noise, output_type="np").images[0]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_common_layout_is_read_as_diffusers_reads_it(
    catalog: Catalog, models: Any, tmp_path: Path, layout: str
) -> None:
    family, make = LAYOUTS[layout]
    model = models[family]
    path = saved(make(model.pipes[job().mode]), tmp_path / "a.safetensors")
    named = (Lora(name=listing(model, path), strength=1.0),)
    made = alone(model, job(model=family, num_inference_steps=2, loras=named))
    assert far(made, by_diffusers(catalog, family, path)) <= 1e-5
    assert far(made, alone(model, job(model=family, num_inference_steps=2))) > 1e-3


def test_kohyas_text_encoders_without_an_output_layer_are_read(models: Any, tmp_path: Path) -> None:
    """diffusers cannot tell what they are; trainers that adapt q and v alone write them."""
    model = models["sdxl"]
    words = [f"encoder.layers.0.self_attn.{part}_proj" for part in "qv"]
    encoder = model.pipes[job().mode].text_encoder
    weights = as_kohya(encoder, "lora_te1_text_model", words, 1.0)
    adapter = mixed(model, saved(weights, tmp_path / "a.safetensors")).parts[0][0]
    assert set(adapter.layers["text_encoder"]) == set(words)


def test_an_alpha_in_the_metadata_counts(
    catalog: Catalog, models: Any, good: Weights, tmp_path: Path
) -> None:
    """As diffusers' own training scripts save it."""
    model, path = models["flux"], tmp_path / "a.safetensors"
    short = {key.removeprefix("transformer."): value for key, value in good.items()}
    told = {"r": 4, "lora_alpha": 1, "alpha_pattern": {"transformer_blocks.0.attn.to_q": 8}}
    told |= {"target_modules": sorted({key.partition(".lora")[0] for key in short})}
    pipe = model.pipes[job().mode]
    pipe.save_lora_weights(
        tmp_path,
        transformer_lora_layers=short,
        weight_name="a.safetensors",
        transformer_lora_adapter_metadata=told,
    )
    pairs = mixed(model, path).parts[0][0].layers["transformer"]
    for layer, factor in (("attn.to_k", 0.25), ("attn.to_q", 2.0)):
        layer = f"transformer_blocks.0.{layer}"
        assert torch.equal(pairs[layer][1], factor * good[f"transformer.{layer}.lora_B.weight"]), (
            layer
        )
    named = (Lora(name=listing(model, path), strength=1.0),)
    made = alone(model, job(num_inference_steps=2, loras=named))
    assert far(made, by_diffusers(catalog, "flux", path)) <= 1e-5


class _Canary:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("ending", ["bin", "pt", "ckpt", "safetensors"])
@pytest.mark.parametrize("kind", ["pickle", "torch"])
def test_a_pickled_file_is_refused_and_never_run(
    models: Any, good: Weights, tmp_path: Path, ending: str, kind: str
) -> None:
    canary, path = tmp_path / "canary", tmp_path / f"a.{ending}"
    if kind == "pickle":
        path.write_bytes(pickle.dumps({"x": _Canary(canary), **good}))
    else:
        torch.save({"x": _Canary(canary), **good}, path)
    assert "pickled" in refusal(models["flux"], path)
    assert not canary.exists()
    with pytest.raises(Exception):  # noqa: B017  a canary that would not sing proves nothing
        torch.load(path, weights_only=False) if kind == "torch" else pickle.loads(path.read_bytes())
        assert not canary.exists()


def changed(good: Weights, change: Callable[[str, torch.Tensor], Any]) -> Weights:
    made = {key: change(key, value) for key, value in good.items()}
    return {key: value for key, value in made.items() if value is not None}


FIRST = "transformer.transformer_blocks.0.attn.to_q.lora_A.weight"
WRONG: dict[str, tuple[Callable[[Weights], Weights], str]] = {
    "nothing": (lambda good: {}, "no layer|layout"),
    "one half": (lambda good: {k: v for k, v in good.items() if k != FIRST}, "one half"),
    "another width": (
        lambda good: changed(good, lambda k, v: v[:, :-1] if "lora_A" in k else v),
        r"\[4, 63\] and \[64, 4\], not \[r, 64\]",
    ),
    "another rank": (lambda good: good | {FIRST: good[FIRST][:2]}, "not"),
    "no rank": (
        lambda good: changed(good, lambda k, v: v[:0] if "lora_A" in k else v[:, :0]),
        "rank 0",
    ),
    "an unknown layer": (
        lambda good: {k.replace("blocks.0", "blocks.7"): v for k, v in good.items()},
        r"no layer \w+_blocks.7",
    ),
    "an unknown component": (
        lambda good: {k.replace("transformer.tr", "unet.tr"): v for k, v in good.items()},
        "changes what this model has not: unet",
    ),
    "a layer that is none": (
        lambda good: {k.replace("to_q", "norm_q"): v for k, v in good.items()},
        "takes no LoRA|not",
    ),
    "not a number": (lambda good: good | {FIRST: good[FIRST] * torch.nan}, "no numbers"),
    "infinite": (lambda good: good | {FIRST: good[FIRST] / 0}, "no numbers"),
    "integers": (lambda good: good | {FIRST: good[FIRST].int()}, "floating-point"),
    "DoRA": (
        lambda good: good | {FIRST.replace("lora_A.weight", "dora_scale"): torch.ones(64)},
        "DoRA",
    ),
    "biases": (
        lambda good: good | {FIRST.replace("lora_A.weight", "lora_B.bias"): torch.ones(64)},
        "biases",
    ),
    "LoKr": (lambda good: good | {"transformer.x.lokr_w1": torch.ones(2, 2)}, "LoKr"),
    "an alpha of nothing": (lambda good: good | {"x.alpha": torch.tensor(1.0)}, "alpha of any"),
    "an alpha that is none": (
        lambda good: good | {FIRST.replace("lora_A.weight", "alpha"): torch.tensor(torch.inf)},
        "inf of rank 4",
    ),
    "a stranger's keys": (lambda good: {"weight": torch.ones(4)}, "changes what|layout|holds"),
    "half of kohya's unknown": (
        lambda good: {
            "lora_unet_double_blocks_0_img_attn_proj.lora_down.weight": torch.ones(4, 64),
            "lora_unet_double_blocks_0_img_attn_proj.lora_up.weight": torch.ones(64, 4),
            "lora_unet_triple_blocks_0_x.lora_down.weight": torch.ones(4, 64),
        },
        "layout|not known",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_does_not_fit_is_refused_with_a_reason(
    models: Any, good: Weights, tmp_path: Path, wrong: str
) -> None:
    change, says = WRONG[wrong]
    path = saved(change(good), tmp_path / "a.safetensors")
    reason = refusal(models["flux"], path)
    assert re.search(says, reason), reason


@pytest.mark.parametrize("metadata", ["{", "[]", '{"transformer.lora_alpha": "x"}', "[" * 100_000])
def test_metadata_that_cannot_be_read_is_refused(
    models: Any, good: Weights, tmp_path: Path, metadata: str
) -> None:
    path = tmp_path / "a.safetensors"
    save_file(good, path, {"lora_adapter_metadata": metadata})
    assert "metadata" in refusal(models["flux"], path)


def test_a_file_cut_short_or_empty_is_refused(models: Any, good: Weights, tmp_path: Path) -> None:
    whole = save(good)
    for number, length in enumerate((0, 1, 7, 8, 9, 100, len(whole) // 2, len(whole) - 1)):
        path = tmp_path / f"{number}.safetensors"
        path.write_bytes(whole[:length])
        assert "no whole safetensors file" in refusal(models["flux"], path)


def test_after_two_hundred_mutations_the_base_is_as_it_was(
    models: Any, good: Weights, tmp_path: Path
) -> None:
    """Each loads or is refused with a reason; no other error, nothing left behind."""
    model, dice = models["flux"], random.Random(0)
    whole, before = save(good), state(model)
    header = 8 + int.from_bytes(whole[:8], "little")
    base = alone(model, job(num_inference_steps=1)).tobytes()
    refused = 0
    for number in range(200):
        data = bytearray(whole)
        for _ in range(dice.choice((1, 1, 2, 8))):
            # mostly in the header, where there is more to get wrong
            place = dice.randrange(header if dice.random() < 0.8 else len(data))
            data[place] = dice.randrange(256)
        path = tmp_path / f"{number}.safetensors"
        path.write_bytes(data)
        try:
            mixed(model, path)
        except LoraFailed as error:
            refused += 1
            assert str(error)
        path.unlink()
    assert 50 < refused < 200
    assert state(model) == before
    assert alone(model, job(num_inference_steps=1)).tobytes() == base


class TestWhere:
    def test_a_folder_with_one_file(self, models: Any, good: Weights, tmp_path: Path) -> None:
        saved(good, tmp_path / "only.safetensors")
        assert mixed(models["flux"], tmp_path).parts

    def test_of_several_one_must_be_named(self, models: Any, good: Weights, tmp_path: Path) -> None:
        for name in ("a", "b"):
            saved(good, tmp_path / f"{name}.safetensors")
        assert "a.safetensors, b.safetensors" in refusal(models["flux"], tmp_path)
        assert mixed(models["flux"], tmp_path, file="b.safetensors").parts
        assert "c.safetensors" in refusal(models["flux"], tmp_path, file="c.safetensors")

    def test_an_empty_folder_and_a_missing_file(self, models: Any, tmp_path: Path) -> None:
        assert "no .safetensors" in refusal(models["flux"], tmp_path)
        assert "is not there" in refusal(models["flux"], tmp_path / "x.safetensors")

    def test_the_hub_offline_says_why(self, models: Any, monkeypatch: Any, tmp_path: Path) -> None:
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
        reason = refusal(models["flux"], "some/lora")
        assert "cannot be had from the hub: some/lora: not all of it is on this machine" in reason

    def test_the_hubs_cache_is_enough(
        self, models: Any, good: Weights, monkeypatch: Any, tmp_path: Path
    ) -> None:
        """As the downloader leaves a repository behind: a commit's folder, and a name for it."""
        cached = tmp_path / "models--some--lora"
        commit = "0" * 40
        (cached / "snapshots" / commit).mkdir(parents=True)
        (cached / "refs").mkdir()
        (cached / "refs" / "main").write_text(commit)
        saved(good, cached / "snapshots" / commit / "it.safetensors")
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", tmp_path)
        assert mixed(models["flux"], "some/lora").parts
        assert mixed(models["flux"], "some/lora", file="it.safetensors").parts

    def test_a_requests_own_file_must_lie_below_the_folder(
        self, models: Any, good: Weights, tmp_path: Path
    ) -> None:
        inside, model = tmp_path / "in", models["flux"]
        (inside / "sub").mkdir(parents=True)
        saved(good, tmp_path / "out.safetensors")
        saved(good, inside / "sub" / "in.safetensors")
        (inside / "link.safetensors").symlink_to(tmp_path / "out.safetensors")
        spec = model.loras._spec
        model.loras._spec = spec.model_copy(update={"loras_from": (str(inside),)})
        try:
            assert model.loras.mix((Lora(name="folder:sub/in.safetensors", strength=1.0),)).parts
            for name in ("link.safetensors", "../out.safetensors", "none.safetensors"):
                with pytest.raises(LoraFailed, match="is not there"):
                    model.loras.mix((Lora(name=f"folder:{name}", strength=1.0),))
        finally:
            model.loras._spec = spec


class TestRoom:
    def sizes(self, model: LoadedModel, good: Weights, folder: Path, count: int) -> list[str]:
        paths = [saved(good, folder / f"{number}.safetensors") for number in range(count)]
        return [listing(model, path) for path in paths]

    def test_the_least_recently_used_goes_first_and_bytes_are_counted(
        self, catalog: Catalog, good: Weights, tmp_path: Path
    ) -> None:
        model = load(catalog, "flux")
        own = sum(value.numel() * 4 for value in good.values())
        model.loras.limit_bytes = 2 * own
        a, b, c = self.sizes(model, good, tmp_path, 3)

        def use(name: str) -> Any:
            return model.loras.mix((Lora(name=name, strength=1.0),)).parts[0][0]

        first = id(use(a))
        use(b)
        assert model.loras.held_bytes == 2 * own
        assert id(use(a)) == first
        use(c)
        assert model.loras.held_bytes == 2 * own
        assert {name for name, _ in model.loras._kept} == {a, c}

    def test_one_in_use_stays_until_that_is_done(
        self, catalog: Catalog, good: Weights, tmp_path: Path
    ) -> None:
        model = load(catalog, "flux")
        own = sum(value.numel() * 4 for value in good.values())
        model.loras.limit_bytes = own
        a, b = self.sizes(model, good, tmp_path, 2)
        held = model.loras.mix((Lora(name=a, strength=1.0),))
        model.loras.mix((Lora(name=b, strength=1.0),))
        assert model.loras.held_bytes == 2 * own
        again = model.loras.mix((Lora(name=a, strength=0.5),))
        assert again.parts[0][0] is held.parts[0][0], "it was there, and was read again"
        del held, again
        model.loras.mix((Lora(name=b, strength=1.0),))
        assert model.loras.held_bytes == own

    def test_one_that_never_fits_is_refused(
        self, catalog: Catalog, good: Weights, tmp_path: Path
    ) -> None:
        model = load(catalog, "flux")
        model.loras.limit_bytes = 1000
        assert "bytes" in refusal(model, saved(good, tmp_path / "a.safetensors"))

    def test_ranks_are_kept_apart_and_each_is_cut_once(
        self, models: Any, good: Weights, tmp_path: Path, monkeypatch: Any
    ) -> None:
        model, cut = models["flux"], []
        truncate = lora_shelf.truncate
        monkeypatch.setattr(
            lora_shelf, "truncate", lambda *pair: (cut.append(pair[2]), truncate(*pair))[1]
        )
        name = listing(model, saved(good, tmp_path / "a.safetensors"))
        for rank in (2, None, 2, 1, 2):
            parts = model.loras.mix((Lora(name=name, strength=1.0, rank=rank),)).parts
            pair = parts[0][0].layers["transformer"]["transformer_blocks.0.attn.to_q"]
            assert len(pair[0]) == (rank or 4)
        layers = len(good) // 2
        assert (cut.count(2), cut.count(1)) == (layers, layers)
