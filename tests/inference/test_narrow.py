"""Weights that somebody quantized and did not say so: refused at load and by `check`, or served."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from inference.catalog import Catalog
from inference.check.cards import Card
from inference.check.entries import check
from inference.errors import ModelFailed
from inference.hub.checkpoint import parts_of
from inference.hub.narrow import obstacle
from inference.hub.sources import Sources
from inference.loading import load_pipelines, read_part
from inference.model_spec import ModelSpec

Tensors = dict[str, Tensor]
Narrowed = Callable[[Tensors], Tensors]


def each_matrix(change: Callable[[str, Tensor], Mapping[str, Tensor]]) -> Narrowed:
    """With each matrix replaced by what `change` makes of it, as tools do."""

    def made(tensors: Tensors) -> Tensors:
        found: Tensors = {}
        for name, one in tensors.items():
            found |= change(name, one) if one.ndim == 2 else {name: one}
        return found

    return made


def int8(name: str, one: Tensor) -> Mapping[str, Tensor]:
    scale = one.abs().max() / 127
    return {name: (one / scale).round().to(torch.int8), f"{name}.SCB": scale}


def packed(name: str, one: Tensor) -> Mapping[str, Tensor]:
    return {name.removesuffix("weight") + "qweight": torch.zeros(2, 2, dtype=torch.int32)}


def nf4(name: str, one: Tensor) -> Mapping[str, Tensor]:
    halves = torch.zeros(one.numel() // 2, 1, dtype=torch.uint8)
    return {name: halves, f"{name}.quant_state.bitsandbytes__nf4": halves[:1].clone()}


def coarse(name: str, one: Tensor) -> Mapping[str, Tensor]:
    return {name: one.to(torch.float8_e4m3fn)}


def scaled(key: str) -> Callable[[str, Tensor], Mapping[str, Tensor]]:
    def change(name: str, one: Tensor) -> Mapping[str, Tensor]:
        scale = one.abs().max() / 448
        path = name.removesuffix("weight")
        return {name: (one / scale).to(torch.float8_e4m3fn), path + key: scale.reshape(1)}

    return change


@pytest.fixture
def flux(folders: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of a saved pipeline."""
    return Path(shutil.copytree(folders["flux"], tmp_path / "copy"))


def narrow(folder: Path, change: Narrowed) -> None:
    (file,) = folder.glob("*.safetensors")
    tensors = {name: one.contiguous() for name, one in change(load_file(file)).items()}
    save_file(tensors, file, metadata={"format": "pt"})


def told_by_check(catalog: Catalog, spec: ModelSpec) -> list[str]:
    served = catalog.model_copy(update={"models": {spec.name: spec}})
    with Sources() as sources:
        return check(served, [spec.name], [Card("cpu", 10**12)], sources).models[0].problems


def at(catalog: Catalog, folder: Path) -> ModelSpec:
    return catalog.models["flux"].model_copy(update={"source": str(folder)})


@pytest.mark.parametrize("part", ["transformer", "text_encoder", "vae"])
@pytest.mark.parametrize(
    ("change", "words", "entry"),
    [
        (int8, "int8 and its config names no quantization", "torchao-int8"),
        (packed, "int32 and its config names no quantization", "bitsandbytes-4bit"),
        (nf4, "uint8 and its config names no quantization", "bitsandbytes-4bit"),
        (scaled("scale_weight"), "float8_e4m3 with scales beside them (", "torchao-float8"),
        (scaled("weight_scale"), "float8_e4m3 with scales beside them (", "torchao-float8"),
        (scaled("weight_scale_inv"), "float8_e4m3 with scales beside them (", "torchao-float8"),
    ],
)
def test_quantized_weights_without_a_word_are_refused_with_what_to_name(
    catalog: Catalog,
    flux: Path,
    part: str,
    change: Callable[[str, Tensor], Mapping[str, Tensor]],
    words: str,
    entry: str,
) -> None:
    narrow(flux / part, each_matrix(change))
    spec = at(catalog, flux)
    with pytest.raises(ModelFailed) as refused:
        load_pipelines(spec, "cpu")
    told = str(refused.value)
    assert told.startswith(f"{flux}: {part}: its weights are {words}")
    assert f"`quantization: {entry}`" in told and "{kind: gguf, file: …}" in told
    (problem,) = told_by_check(catalog, spec)
    assert f"{flux}: {problem}" == told


def test_coarse_floats_without_scales_are_what_they_say(catalog: Catalog, flux: Path) -> None:
    plain = load_pipelines(at(catalog, flux), "cpu")
    before = parts_of(flux)["transformer"]
    size = before.size_bytes(2)
    narrow(flux / "transformer", each_matrix(coarse))
    spec = at(catalog, flux)
    served = load_pipelines(spec, "cpu")
    mode = spec.modes[0]
    for name, one in plain[mode].transformer.named_parameters():
        other = served[mode].transformer.get_parameter(name)
        assert other.dtype == torch.float32
        torch.testing.assert_close(other, one, rtol=0.07, atol=0.002)
    assert told_by_check(catalog, spec) == []
    assert parts_of(flux)["transformer"].size_bytes(2) == size, "they are served in the dtype"


def test_a_config_that_names_its_quantization_is_left_to_the_library(flux: Path) -> None:
    narrow(flux / "transformer", each_matrix(scaled("weight_scale")))
    part = parts_of(flux)["transformer"]
    wide = part.size_bytes(4)
    assert obstacle(part)
    told = json.loads(part.config.read_text())
    part.config.write_text(json.dumps({**told, "quantization_config": {"quant_method": "fp8"}}))
    assert obstacle(part) == "" and part.size_bytes(4) < wide / 2


def test_tables_of_whole_numbers_are_no_weights(flux: Path) -> None:
    table = torch.arange(77)[None]
    narrow(flux / "text_encoder", lambda tensors: {**tensors, "embeddings.position_ids": table})
    narrow(flux / "vae", lambda tensors: {**tensors, "scale_weight": torch.ones(1)})
    assert [obstacle(part) for part in parts_of(flux).values()] == [""] * 4


def test_a_denoiser_that_a_file_replaces_may_be_anything(catalog: Catalog, flux: Path) -> None:
    narrow(flux / "transformer", each_matrix(int8))
    gguf = {"quantization": {"kind": "gguf", "file": str(flux / "none.gguf")}}
    spec = ModelSpec.model_validate(at(catalog, flux).model_dump() | gguf)
    assert not any("int8" in problem for problem in told_by_check(catalog, spec))
    with pytest.raises(ModelFailed) as refused:
        load_pipelines(spec, "cpu")
    assert "int8" not in str(refused.value)


def test_so_is_what_stands_beside_a_model(catalog: Catalog, flux: Path) -> None:
    narrow(flux / "vae", each_matrix(int8))
    with pytest.raises(ModelFailed, match="its weights are int8"):
        read_part(diffusers.AutoencoderKL, str(flux), torch.float32, None, "vae")
    place = {"by": "controlnet", "source": str(flux), "subfolder": "vae"}
    other = catalog.models["flux"].model_dump() | {"references": {"composition": place}}
    (problem,) = told_by_check(catalog, ModelSpec.model_validate(other))
    assert problem.startswith("flux, composition: its weights are int8")
