"""Tiny adapters for the tiny pipelines: what takes something from reference pictures."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder
from safetensors.torch import save_file
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    SiglipImageProcessor,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from inference.skeletons.parts import louder

_SEEN_PX = 32
_VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": _SEEN_PX,
    "patch_size": 16,
}
# What an IP-Adapter makes of one picture.
_TOKENS = 4


def tiny_controlnet(pipe: Any, *, seed: int = 0, **changes: Any) -> Any:
    """A random ControlNet for a tiny pipeline of Flux, SDXL, SD3 or Qwen-Image.

    A real one starts training with outputs of zero; this one's are not, so that it counts.
    """
    torch.manual_seed(seed)
    if hasattr(pipe, "unet"):
        net = diffusers.ControlNetModel.from_unet(pipe.unet, load_weights_from_unet=False)
        louder(net.controlnet_cond_embedding, 3.0)
    else:
        kind = {
            "FluxTransformer2DModel": diffusers.FluxControlNetModel,
            "SD3Transformer2DModel": diffusers.SD3ControlNetModel,
            "QwenImageTransformer2DModel": diffusers.QwenImageControlNetModel,
        }[type(pipe.transformer).__name__]
        own = inspect.signature(kind.__init__).parameters
        shape = {key: value for key, value in pipe.transformer.config.items() if key in own}
        net = kind(**shape | changes)
    with torch.no_grad():
        for weights in net.parameters():
            if not weights.any():
                weights.normal_(std=0.2)
    return net.eval()


def tiny_redux(pipe: Any, *, seed: int = 0) -> Any:
    """A random FluxPriorReduxPipeline that makes 4 tokens of a picture for a tiny Flux."""
    torch.manual_seed(seed)
    width = pipe.transformer.config.joint_attention_dim
    encoder = SiglipVisionModel(SiglipVisionConfig(**_VISION))
    return diffusers.FluxPriorReduxPipeline(
        image_encoder=encoder.eval(),
        feature_extractor=SiglipImageProcessor(size={"height": _SEEN_PX, "width": _SEEN_PX}),
        image_embedder=louder(ReduxImageEncoder(_VISION["hidden_size"], width), 30.0).eval(),
    )


def save_ip_adapter(pipe: Any, folder: Path, *, seed: int = 0) -> None:
    """Write a random IP-Adapter for a tiny Flux or SDXL, and its image encoder, as published."""
    torch.manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    weights = _for_unet(pipe.unet) if hasattr(pipe, "unet") else _for_flux(pipe.transformer)
    save_file(weights, folder / "ip-adapter.safetensors")
    config = CLIPVisionConfig(projection_dim=32, **_VISION)
    CLIPVisionModelWithProjection(config).save_pretrained(folder / "image_encoder")


def _projection(prefix: str, width: int) -> dict[str, torch.Tensor]:
    return {
        f"{prefix}.proj.weight": torch.randn(_TOKENS * width, 32) / 4,
        f"{prefix}.proj.bias": torch.zeros(_TOKENS * width),
        f"{prefix}.norm.weight": torch.ones(width),
        f"{prefix}.norm.bias": torch.zeros(width),
    }


def _for_flux(transformer: Any) -> dict[str, torch.Tensor]:
    inner, width = transformer.inner_dim, transformer.config.joint_attention_dim
    weights = _projection("ip_adapter_proj_model", width)
    for block in range(len(transformer.transformer_blocks)):
        for name in ("k", "v"):
            path = f"double_blocks.{block}.processor.ip_adapter_double_stream_{name}_proj"
            weights[f"{path}.weight"] = torch.randn(inner, width) / width**0.5
            weights[f"{path}.bias"] = torch.zeros(inner)
    return weights


def _for_unet(unet: Any) -> dict[str, torch.Tensor]:
    width = unet.config.cross_attention_dim
    weights = _projection("image_proj", width)
    paths = [path.removesuffix(".processor") for path in unet.attn_processors]
    crossing = [path for path in paths if path.endswith("attn2")]
    # published files count the attentions among themselves too
    for number, path in enumerate(crossing):
        inner = unet.get_submodule(path).inner_dim
        for name in ("k", "v"):
            key = f"ip_adapter.{2 * number + 1}.to_{name}_ip.weight"
            weights[key] = torch.randn(inner, width) / width**0.5
    return weights
