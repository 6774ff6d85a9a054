"""Weights that are not all there: refused by name, and those under older names are not missed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from inference.catalog import Catalog
from inference.errors import ModelFailed
from inference.loading import load_pipelines
from tests.inference.making import ENTRIES, catalog_over

VAE = Path("vae/diffusion_pytorch_model.safetensors")
UNET = Path("unet/diffusion_pytorch_model.safetensors")
# What the attention of a VAE was called in the checkpoints of diffusers' first versions.
OLD = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


@pytest.fixture
def sdxl(folders: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(folders["sdxl"], tmp_path / "sdxl"))


def served_from(folder: Path) -> Catalog:
    return catalog_over({"sdxl": folder}, {"sdxl": ENTRIES["sdxl"]})


@pytest.mark.parametrize("file", [UNET, VAE], ids=["unet", "vae"])
def test_a_weight_that_is_missing_is_named(sdxl: Path, file: Path) -> None:
    weights = load_file(sdxl / file)
    lost = sorted(name for name in weights if name.endswith(".weight"))[0]
    del weights[lost]
    save_file(weights, sdxl / file, metadata={"format": "pt"})

    with pytest.raises(ModelFailed, match=f"{file.parts[0]}: {lost} is missing in its files"):
        load_pipelines(served_from(sdxl).models["sdxl"], "cpu")


def test_weights_under_older_names_are_there(sdxl: Path) -> None:
    weights = load_file(sdxl / VAE)
    attention = {name: one for name, one in weights.items() if ".attentions.0.to_" in name}
    assert len(attention) > 4
    for name in attention:
        old = name
        for own, before in OLD.items():
            old = old.replace(own, before)
        weights[old] = weights.pop(name)
    save_file(weights, sdxl / VAE, metadata={"format": "pt"})

    pipe = next(iter(load_pipelines(served_from(sdxl).models["sdxl"], "cpu").values()))

    own = pipe.vae.state_dict()
    assert all((own[name] == one).all() for name, one in attention.items())
