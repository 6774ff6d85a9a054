"""Tiny models that take references in every way, and what diffusers alone makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import torch
from PIL import Image

from inference import skeletons
from inference.catalog import Catalog
from inference.job import ImageRole, InputImage, Job, Mode, ReferenceTag
from inference.loading import load_pipelines
from inference.loras.spec import LoraSpec
from inference.model_spec import ModelSpec
from inference.pixels import Reference, as_rgb, decoded, fit
from inference.references import palette
from inference.references.conditions import condition
from inference.references.spec import Way
from inference.skeletons.parts import louder
from tests.inference.loras import random_lora, saved
from tests.inference.making import BLUR, IMAGES, PICTURES, catalog_over, job

FILE = "ip-adapter.safetensors"
# By family and mode, as the documents of diffusers name them.
CONTROLLED = {
    ("flux", Mode.GENERATE): "FluxControlNetPipeline",
    ("flux", Mode.IMG2IMG): "FluxControlNetImg2ImgPipeline",
    ("flux", Mode.INPAINT): "FluxControlNetInpaintPipeline",
    ("sdxl", Mode.GENERATE): "StableDiffusionXLControlNetPipeline",
    ("sdxl", Mode.IMG2IMG): "StableDiffusionXLControlNetImg2ImgPipeline",
    ("sdxl", Mode.INPAINT): "StableDiffusionXLControlNetInpaintPipeline",
    ("sd3", Mode.GENERATE): "StableDiffusion3ControlNetPipeline",
    ("qwen-image", Mode.GENERATE): "QwenImageControlNetPipeline",
}
MAKERS: dict[str, Any] = {
    "flux": skeletons.tiny_flux,
    "flux-cfg": lambda: skeletons.tiny_flux(guidance=False, seed=1),
    "fill": skeletons.tiny_fill,
    "sdxl": skeletons.tiny_sdxl,
    "sd3": skeletons.tiny_sd3,
    "qwen": skeletons.tiny_qwen,
}
SHORT = {"family": "flux", "max_sequence_length": 16}


def serve(root: Path) -> Catalog:
    """All of them, their adapters beside them."""
    folders = {name: root / name for name in MAKERS}
    for name, make in MAKERS.items():
        pipe = make()
        louder(getattr(pipe, "transformer", torch.nn.Identity()), 2.0)
        skeletons.save(pipe, folders[name])
        if name != "fill":
            skeletons.tiny_controlnet(pipe).save_pretrained(root / f"{name}-control")
        if name == "flux":
            skeletons.tiny_redux(pipe).save_pretrained(root / "redux")
            union = skeletons.tiny_controlnet(pipe, seed=1, num_mode=3)
            union.save_pretrained(root / "flux-union")
            saved(random_lora(pipe.transformer, "transformer", 0), root / "lora.safetensors")
        if name == "flux-cfg":
            # as XLabs makes them: it reads the condition's pixels itself
            own = {"patch_size": 2, "conditioning_embedding_channels": 4}
            skeletons.tiny_controlnet(pipe, **own).save_pretrained(root / "xlabs-control")
        if name in ("flux", "flux-cfg", "sdxl"):
            skeletons.save_ip_adapter(pipe, root / f"{name}-ip")
        if name == "sdxl":
            skeletons.save_ip_adapter(pipe, root / "other-ip", seed=1)
    made = catalog_over(folders | {"bare": folders["flux"]}, entries(root))
    loras = {"a": LoraSpec(source=str(root / "lora.safetensors"))}
    flux = made.models["flux"].model_copy(update={"loras": loras})
    return made.model_copy(update={"models": made.models | {"flux": flux}})


def entries(root: Path) -> dict[str, dict[str, Any]]:
    """What models.yaml says of each."""

    def control(name: str, **more: Any) -> dict[str, Any]:
        return {"by": "controlnet", "source": str(root / name), **more}

    def image(name: str) -> dict[str, Any]:
        return {"by": "ip_adapter", "source": str(root / f"{name}-ip"), "file": FILE}

    drawn = {"condition": "edges", "strength": 0.5}
    cfg = {"guidance_field": "true_cfg_scale", **BLUR}
    return {
        "bare": SHORT,
        "flux": SHORT
        | {
            "references": {
                "composition": control("flux-union", control_mode=1, **drawn),
                "pose": control("flux-control"),
                "style": {"by": "redux", "source": str(root / "redux")},
                "character": image("flux"),
                "palette": "transfer",
            }
        },
        "flux-cfg": SHORT
        | cfg
        | {
            "references": {
                "composition": control("xlabs-control"),
                "pose": control("flux-cfg-control"),
                "style": image("flux-cfg"),
            }
        },
        "fill": SHORT
        | {
            "family": "flux-fill",
            "references": {"style": {"by": "redux", "source": str(root / "redux")}},
        },
        "sdxl": {
            "family": "sdxl",
            **BLUR,
            "references": {
                "composition": control("sdxl-control", **drawn),
                "pose": control("sdxl-control"),
                "style": image("sdxl"),
                "character": image("other"),
                "palette": "transfer",
            },
        },
        "sd3": {
            "family": "sd3",
            "max_sequence_length": 16,
            "references": {"pose": control("sd3-control")},
        },
        "qwen": {"family": "qwen-image", "references": {"pose": control("qwen-control")}},
    }


def reference(tag: str, weight: float, key: str = "other") -> InputImage:
    """A reference picture of a request."""
    return InputImage(role=ImageRole.REFERENCE, key=key, tag=ReferenceTag(tag), weight=weight)


def asks(model: str, mode: Mode = Mode.GENERATE, *weights: tuple[str, float], **more: Any) -> Job:
    """A job with references by tag and weight."""
    images = (*IMAGES[mode], *(reference(tag, weight) for tag, weight in weights))
    return job(more.pop("name", "j"), model, mode=mode, **{"images": images, **more})


def plain_guided(catalog: Catalog, wanted: Job) -> Image.Image:
    """The picture as diffusers alone makes it: adapters loaded into fresh pipelines."""
    spec, given = catalog.models[wanted.model], decoded(wanted, PICTURES)
    pipe = load_pipelines(spec, "cpu")[wanted.mode]
    arguments = spec.rules.routes[wanted.mode].arguments(wanted, spec, given)
    by: dict[Way, list[Reference]] = {way: [] for way in Way}
    for one in given.references:
        by[spec.references[one.tag].by].append(one)
    for one in by[Way.IP_ADAPTER]:
        _load_ip_adapter(pipe, spec, one, arguments)
    if by[Way.CONTROLNET]:
        pipe = _with_controlnets(pipe, spec, wanted, by[Way.CONTROLNET], arguments)
    if by[Way.REDUX]:
        _append_tokens(pipe, spec, by[Way.REDUX], arguments)
    pipe.set_progress_bar_config(disable=True)
    torch.manual_seed(wanted.seeds[0])  # which one of them draws from
    noise = torch.Generator("cpu").manual_seed(wanted.seeds[0])
    made: Image.Image = pipe(**arguments, generator=noise).images[0]
    for one in by[Way.TRANSFER]:
        made = palette.transfer(made, one.picture, one.weight)
    if wanted.mode is not Mode.INPAINT:
        return made
    assert given.mask is not None
    return Image.composite(made, fit(given.sources[0], *made.size), given.mask)


def _load_ip_adapter(pipe: Any, spec: ModelSpec, one: Reference, arguments: Any) -> None:
    entry = spec.references[one.tag]
    image_encoder: Any = {"image_encoder_folder": "image_encoder"}
    if spec.family == "flux":
        image_encoder = {
            "image_encoder_pretrained_model_name_or_path": Path(entry.source) / "image_encoder",
            "image_encoder_dtype": torch.float32,
        }
    pipe.load_ip_adapter(entry.source, subfolder="", weight_name=FILE, **image_encoder)
    pipe.set_ip_adapter_scale(one.weight)
    arguments["ip_adapter_image"] = as_rgb(one.picture)


def _with_controlnets(
    pipe: Any, spec: ModelSpec, wanted: Job, references: list[Reference], arguments: Any
) -> Any:
    found = [spec.references[one.tag] for one in references]
    kind = getattr(diffusers, spec.rules.controlnet)
    nets = [kind.from_pretrained(entry.source) for entry in found]
    size = wanted.width, wanted.height
    pairs = list(zip(references, found, strict=True))
    shown = [condition(one.picture, entry.condition, *size) for one, entry in pairs]
    scales = [one.weight * entry.strength for one, entry in pairs]
    modes = [entry.control_mode for entry in found]
    alone = len(nets) == 1
    generates_sdxl = spec.family == "sdxl" and wanted.mode is Mode.GENERATE
    arguments["image" if generates_sdxl else "control_image"] = shown[0] if alone else shown
    arguments["controlnet_conditioning_scale"] = scales[0] if alone else scales
    if any(mode is not None for mode in modes):
        arguments["control_mode"] = modes[0] if alone else modes
    controlled = getattr(diffusers, CONTROLLED[spec.family, wanted.mode])
    return controlled.from_pipe(pipe, controlnet=nets[0] if alone else nets)


def _append_tokens(pipe: Any, spec: ModelSpec, references: list[Reference], arguments: Any) -> None:
    tokens = []
    for one in references:
        source = spec.references[one.tag].source
        prior = diffusers.FluxPriorReduxPipeline.from_pretrained(source)
        seen = prior.encode_image(as_rgb(one.picture), "cpu", 1)
        tokens.append(prior.image_embedder(seen).image_embeds * one.weight)
    words = {"prompt": arguments.pop("prompt"), "prompt_2": None}
    embeds, pooled, _ = pipe.encode_prompt(**words, max_sequence_length=16)
    arguments["prompt_embeds"] = torch.cat([embeds, *tokens], dim=1)
    arguments["pooled_prompt_embeds"] = pooled
