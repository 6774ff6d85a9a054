"""Random checkpoints have the real sizes, can be served, and make pictures made of numbers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from benchmarks import checkpoints, configs, subjects
from benchmarks.checkpoints import SKELETONS, fill, random_checkpoint, spec_of, write_configs
from benchmarks.engine import Engine, Plain, picture_of
from inference import selftest
from inference.check.blueprint import build, size_bytes
from inference.errors import ModelFailed
from inference.loading import load_pipelines

# Billions of weights of the denoisers, as their makers tell them.
DENOISERS = {
    "flux-dev": 11.9,
    "sdxl": 2.57,
    "qwen-image": 20.4,
    "qwen-image-edit": 20.4,
    "klein": 3.88,
}


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    torch.set_grad_enabled(False)
    yield
    torch.set_grad_enabled(True)


@pytest.mark.parametrize("name", SKELETONS)
def test_a_full_one_has_the_sizes_of_the_real_one(name: str, tmp_path: Path) -> None:
    real = build([configs.write(tmp_path / "real", configs.REAL[name]())], torch.bfloat16)
    whole = write_configs(name, tmp_path / "whole", scale="full", text="full")
    short = write_configs(name, tmp_path / "short", scale="full", text="small")
    sizes = {part: size_bytes(module) for part, module in real.parts.items()}
    assert {part: size_bytes(module) for part, module in whole.parts.items()} == sizes
    denoiser = "unet" if name == "sdxl" else "transformer"
    assert sizes[denoiser] / 2e9 == pytest.approx(DENOISERS[name], rel=0.01)
    for part, module in short.parts.items():
        if part.startswith("text_encoder"):
            assert size_bytes(module) < sizes[part] / 2
        else:
            assert size_bytes(module) == sizes[part]
    # no token with a meaning is one that the tiny tokenizers lack
    for config in tmp_path.glob("[ws]*/text_encoder*/config.json"):
        assert max(token_ids(json.loads(config.read_text()))) < 300, config


def token_ids(config: dict[str, Any]) -> Iterator[int]:
    for key, value in config.items():
        if isinstance(value, dict):
            yield from token_ids(value)
        elif key.endswith("_token_id") and isinstance(value, int):
            yield value


@pytest.mark.parametrize("name", SKELETONS)
def test_what_is_written_is_served_and_makes_what_diffusers_makes(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selftest, "MEASURED_SIZES", 1)
    folder = random_checkpoint(name, tmp_path / "model", scale="tiny")
    spec = spec_of(name, folder, "tiny")
    job = picture_of(spec, 3, side=64, steps=2)
    expected = np.asarray(Plain(spec, "cpu").make([job])[job.id], np.int16)
    assert expected.shape == (64, 64, 3) and expected.std() > 1
    if name == "qwen-image-edit":
        return  # which looks at a megapixel: loading it into the engine takes 10 s
    engine = Engine(subjects.catalog_of(spec), "cpu")
    made = np.asarray(engine.make([job]).pictures[job.id], np.int16)
    assert np.array_equal(made, expected)
    engine.close()


def weights_in(folder: Path) -> dict[str, torch.Tensor]:
    found = {}
    for path in sorted(folder.rglob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118
                assert f"{path.parent.name}.{name}" not in found, "each is written once"
                found[f"{path.parent.name}.{name}"] = file.get_tensor(name)
    return found


def test_shards_hold_what_one_file_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = weights_in(random_checkpoint("klein", tmp_path / "whole", scale="tiny"))
    monkeypatch.setattr(checkpoints, "_SHARD_BYTES", 100_000)
    folder = random_checkpoint("klein", tmp_path / "parts", scale="tiny")
    parts = weights_in(folder)
    assert len([*folder.glob("transformer/*-of-*.safetensors")]) > 2
    assert len([*folder.glob("text_encoder/*-of-*.safetensors")]) > 1
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    index = folder / "transformer/diffusion_pytorch_model.safetensors.index.json"
    places = json.loads(index.read_text())["weight_map"]
    assert {f"transformer.{name}" for name in places} <= parts.keys()
    pipe: Any = next(iter(load_pipelines(spec_of("klein", folder, "tiny"), "cpu").values()))
    state = pipe.transformer.state_dict()
    for name, tensor in state.items():
        assert torch.equal(tensor, parts[f"transformer.{name}"].to(tensor.dtype)), name


def test_weights_are_16_bits_wide_and_those_of_two_models_differ(tmp_path: Path) -> None:
    flux = weights_in(random_checkpoint("flux-dev", tmp_path / "flux", scale="tiny"))
    sdxl = weights_in(random_checkpoint("sdxl", tmp_path / "sdxl", scale="tiny"))
    assert {tensor.dtype for tensor in flux.values()} == {torch.bfloat16}
    both = [name for name in flux if name in sdxl and "mlp.fc1.weight" in name]
    assert both and not any(torch.equal(flux[name], sdxl[name]) for name in both)


def test_values_let_forwards_stay_finite() -> None:
    numbers = torch.randn(1009, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)

    def of(name: str, *shape: int) -> torch.Tensor:
        return fill(name, torch.empty(shape, device="meta"), numbers)

    assert (of("norm.weight", 8) == 1).all() and (of("norm.gamma", 8, 1, 1, 1) == 1).all()
    assert (of("bn.running_var", 8) == 1).all() and (of("bn.running_mean", 8) == 0).all()
    assert (of("layer.bias", 8) == 0).all()
    counted = fill("n", torch.empty((), dtype=torch.long, device="meta"), numbers)
    assert counted.dtype == torch.long and counted == 0
    large = of("layer.weight", 64, 64).float()
    assert large.std() == pytest.approx(0.02, rel=0.1)
    # more than there are numbers, and yet no row like another
    assert len(torch.unique(large, dim=0)) == 64


def test_what_is_there_is_left_and_what_is_half_there_is_written_again(tmp_path: Path) -> None:
    folder = random_checkpoint("flux-dev", tmp_path / "model", scale="tiny")
    file = next(folder.glob("transformer/*.safetensors"))
    before = file.stat().st_mtime_ns
    random_checkpoint("flux-dev", folder, scale="tiny")
    assert file.stat().st_mtime_ns == before
    (folder / "complete").unlink()
    file.unlink()
    random_checkpoint("flux-dev", folder, scale="tiny")
    assert file.is_file()


def test_an_engine_whose_model_fails_says_so_and_closes(tmp_path: Path) -> None:
    folder = tmp_path / "nothing"
    folder.mkdir()
    spec = spec_of("flux-dev", folder, "tiny")
    with pytest.raises(ModelFailed):
        Plain(spec, "cpu")
    engine = Engine(subjects.catalog_of(spec), "cpu")
    assert "model_index.json" in engine.load("flux-dev").reason
    with pytest.raises(RuntimeError, match=r"model_index\.json"):
        engine.make([picture_of(spec, 0)])
    engine.close()
