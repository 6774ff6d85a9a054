"""From a catalog entry to pipelines: shared weights, one dtype, safetensors, clear reasons."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from inference.catalog import Catalog
from inference.errors import ModelFailed
from inference.job import Mode
from inference.loading import load_pipelines, locate
from inference.skeletons import tiny_klein, tiny_sdxl


def test_modes_share_every_module(catalog: Catalog) -> None:
    pipes = load_pipelines(catalog.models["sdxl"], "cpu")
    assert set(pipes) == {Mode.GENERATE, Mode.IMG2IMG, Mode.INPAINT}
    for name in ("unet", "vae", "text_encoder", "text_encoder_2"):
        assert len({id(getattr(pipe, name)) for pipe in pipes.values()}) == 1


@pytest.mark.parametrize("name", ["flux", "sdxl"])
def test_weights_keep_the_dtype_asked_for_in_every_mode(catalog: Catalog, name: str) -> None:
    spec = catalog.models[name].model_copy(update={"dtype": "bfloat16"})
    pipes = load_pipelines(spec, "cpu")
    denoiser = getattr(pipes[Mode.INPAINT], spec.rules.denoisers[0])
    assert {weight.dtype for weight in denoiser.parameters()} == {torch.bfloat16}


def test_pickled_weights_are_refused(
    catalog: Catalog, folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "pickled"
    shutil.copytree(folders["flux"], folder)
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    torch.save({}, weights.with_suffix(".bin"))
    weights.unlink()
    spec = catalog.models["flux"].model_copy(update={"source": str(folder)})
    with pytest.raises(ModelFailed):
        load_pipelines(spec, "cpu")


def test_damaged_weights_are_a_reason(
    catalog: Catalog, folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "cut"
    shutil.copytree(folders["flux"], folder)
    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    spec = catalog.models["flux"].model_copy(update={"source": str(folder)})
    with pytest.raises(ModelFailed, match="cut"):
        load_pipelines(spec, "cpu")


def test_a_pipeline_class_that_diffusers_lacks_is_a_reason(catalog: Catalog) -> None:
    changes = {"pipelines": {Mode.GENERATE: "NoSuchPipeline"}}
    with pytest.raises(ModelFailed, match="NoSuchPipeline"):
        load_pipelines(catalog.models["flux"].model_copy(update=changes), "cpu")


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        (
            "flux",
            {"family": "flux-fill", "modes": (Mode.INPAINT,)},
            "to inpaint, family 'flux-fill' needs a denoiser of 336 input channels, and this one "
            "has 16",
        ),
        (
            "sdxl-inpaint",
            {"modes": (Mode.GENERATE, Mode.INPAINT)},
            "to generate, family 'sdxl' needs a denoiser of 4 input channels, and this one has 9",
        ),
        ("flux-cfg", {"guidance_field": "guidance_scale"}, "listens to no guidance_scale; set "),
    ],
)
def test_a_checkpoint_made_for_something_else_is_a_reason(
    catalog: Catalog, tmp_path: Path, name: str, changes: dict[str, Any], said: str
) -> None:
    spec = catalog.models["sdxl" if name == "sdxl-inpaint" else name]
    if name == "sdxl-inpaint":
        tiny_sdxl(in_channels=9).save_pretrained(tmp_path)
        changes = changes | {"source": str(tmp_path)}
    with pytest.raises(ModelFailed, match=said):
        load_pipelines(spec.model_copy(update=changes), "cpu")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"pipelines": {Mode.IMG2IMG: "StableDiffusionPipeline"}},
            "StableDiffusionPipeline takes no image, strength, so it cannot img2img as told",
        ),
        (
            {"guidance_field": "true_cfg_scale", "max_sequence_length": 8},
            "StableDiffusionPipeline takes no true_cfg_scale, max_sequence_length, so",
        ),
        (
            {"pipelines": {Mode.EDIT: "FluxPriorReduxPipeline"}},
            "FluxPriorReduxPipeline takes no guidance_scale",
        ),
    ],
)
def test_a_class_that_cannot_do_its_mode_is_a_reason(
    catalog: Catalog, changes: dict[str, Any], said: str
) -> None:
    entry = {"family": "generic", "pipelines": {Mode.GENERATE: "StableDiffusionPipeline"}} | changes
    spec = catalog.models["sdxl"].model_copy(update=entry | {"modes": tuple(entry["pipelines"])})
    with pytest.raises(ModelFailed, match=said):
        load_pipelines(spec, "cpu")


def test_a_distilled_klein_is_served_without_guidance(catalog: Catalog, tmp_path: Path) -> None:
    tiny_klein(distilled=True).save_pretrained(tmp_path)
    klein = {"family": "flux2-klein", "source": str(tmp_path), "modes": (Mode.EDIT,)}
    spec = catalog.models["sdxl"].model_copy(update=klein | {"samplers": ()})
    with pytest.raises(ModelFailed, match=r"to no guidance_scale; set guidance_field: none$"):
        load_pipelines(spec, "cpu")
    load_pipelines(spec.model_copy(update={"guidance_field": "none"}), "cpu")


def test_sources_are_found() -> None:
    assert locate("owner/name") == "owner/name"
    with pytest.raises(ModelFailed, match="no such built-in"):
        locate("builtin:nothing")
