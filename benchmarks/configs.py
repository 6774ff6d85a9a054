"""Configs of the real architectures, written down: nothing of their weights, and no hub."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from transformers import (
    CLIPTextConfig,
    Mistral3Config,
    MistralConfig,
    PixtralVisionConfig,
    Qwen2_5_VLConfig,
    Qwen3Config,
    T5Config,
)

# Of a part: its library, its class, and its config; what that does not say is the class's default.
Part = tuple[str, str, Mapping[str, Any]]


def diffusers(kind: str, **config: Any) -> Part:
    """A part that diffusers has a class for."""
    return "diffusers", kind, {"_class_name": kind, **config}


def transformers(kind: str, config: Any) -> Part:
    """A part that transformers has a class for."""
    return "transformers", kind, config.to_dict()


def clip_large(kind: str = "CLIPTextModel") -> Part:
    """CLIP ViT-L/14's text encoder."""
    config = CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12)
    config.num_attention_heads, config.projection_dim = 12, 768
    return transformers(kind, config)


def clip_giant() -> Part:
    """OpenCLIP ViT-bigG/14's text encoder."""
    config = CLIPTextConfig(hidden_size=1280, intermediate_size=5120, num_hidden_layers=32)
    config.num_attention_heads, config.projection_dim = 20, 1280
    return transformers("CLIPTextModelWithProjection", config)


def t5_xxl() -> Part:
    """The encoder of T5 v1.1 XXL."""
    config = T5Config(d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64)
    config.feed_forward_proj, config.vocab_size = "gated-gelu", 32128
    config.is_gated_act, config.dense_act_fn = True, "gelu_new"
    return transformers("T5EncoderModel", config)


def qwen3(kind: str) -> Part:
    """Of four billion weights."""
    config = Qwen3Config(
        hidden_size=2560,
        num_hidden_layers=36,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        intermediate_size=9728,
        vocab_size=151936,
        tie_word_embeddings=True,
    )
    return transformers(kind, config)


def qwen_vl() -> Part:
    """Qwen2.5-VL of seven billion weights, and its eyes."""
    text = {
        "hidden_size": 3584,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "intermediate_size": 18944,
        "vocab_size": 152064,
    }
    vision = {
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "out_hidden_size": 3584,
        "num_heads": 16,
    }
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=False)
    return transformers("Qwen2_5_VLForConditionalGeneration", config)


def mistral() -> Part:
    """Mistral Small 3 of 24 billion weights, and its eyes."""
    text = MistralConfig(
        hidden_size=5120,
        num_hidden_layers=40,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        intermediate_size=32768,
        vocab_size=131072,
        tie_word_embeddings=False,
    )
    vision = PixtralVisionConfig(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16
    )
    config = Mistral3Config(text_config=text, vision_config=vision, tie_word_embeddings=False)
    return transformers("Mistral3ForConditionalGeneration", config)


def vae(latent_channels: int = 16, **more: Any) -> Part:
    """The common VAE, which makes eight pixels one."""
    stages = [128, 256, 512, 512]
    return diffusers(
        "AutoencoderKL",
        block_out_channels=stages,
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        layers_per_block=2,
        latent_channels=latent_channels,
        sample_size=1024,
        **more,
    )


def flux_vae() -> Part:
    """That of FLUX.1, which others took over."""
    return vae(use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.1159)


def flux(**transformer: Any) -> dict[str, Part]:
    """FLUX.1; `transformer` is where a variant differs from dev."""
    return {
        "text_encoder": clip_large(),
        "text_encoder_2": t5_xxl(),
        "transformer": diffusers(
            "FluxTransformer2DModel", **{"guidance_embeds": True, **transformer}
        ),
        "vae": flux_vae(),
    }


def flux2() -> dict[str, Part]:
    """FLUX.2 dev."""
    return {
        "text_encoder": mistral(),
        "transformer": diffusers("Flux2Transformer2DModel"),
        "vae": diffusers("AutoencoderKLFlux2"),
    }


def klein() -> dict[str, Part]:
    """FLUX.2 klein of four billion weights."""
    sizes = {"num_layers": 5, "num_single_layers": 20, "num_attention_heads": 24}
    return {
        "text_encoder": qwen3("Qwen3ForCausalLM"),
        "transformer": diffusers(
            "Flux2Transformer2DModel", joint_attention_dim=7680, guidance_embeds=False, **sizes
        ),
        "vae": diffusers("AutoencoderKLFlux2"),
    }


def sdxl() -> dict[str, Part]:
    """Stable Diffusion XL's base."""
    unet = diffusers(
        "UNet2DConditionModel",
        block_out_channels=[320, 640, 1280],
        down_block_types=["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        up_block_types=["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        transformer_layers_per_block=[1, 2, 10],
        attention_head_dim=[5, 10, 20],
        cross_attention_dim=2048,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
        use_linear_projection=True,
        sample_size=128,
    )
    return {
        "text_encoder": clip_large(),
        "text_encoder_2": clip_giant(),
        "unet": unet,
        "vae": vae(4, force_upcast=True),
    }


def sd35_large() -> dict[str, Part]:
    """Stable Diffusion 3.5 large."""
    transformer = diffusers(
        "SD3Transformer2DModel",
        num_layers=38,
        num_attention_heads=38,
        attention_head_dim=64,
        caption_projection_dim=2432,
        pos_embed_max_size=192,
        qk_norm="rms_norm",
    )
    return {
        "text_encoder": clip_large("CLIPTextModelWithProjection"),
        "text_encoder_2": clip_giant(),
        "text_encoder_3": t5_xxl(),
        "transformer": transformer,
        "vae": flux_vae(),
    }


def qwen_image() -> dict[str, Part]:
    """Qwen-Image; its editing sibling is built alike."""
    return {
        "text_encoder": qwen_vl(),
        "transformer": diffusers("QwenImageTransformer2DModel"),
        "vae": diffusers("AutoencoderKLQwenImage"),
    }


def z_image() -> dict[str, Part]:
    """Z-Image."""
    return {
        "text_encoder": qwen3("Qwen3Model"),
        "transformer": diffusers("ZImageTransformer2DModel"),
        "vae": flux_vae(),
    }


# By the names that the commented catalogue has for them.
REAL: Mapping[str, Callable[[], dict[str, Part]]] = {
    "flux-dev": flux,
    "flux-schnell": lambda: flux(guidance_embeds=False),
    "flux-kontext": flux,
    "flux-fill": lambda: flux(in_channels=384, out_channels=64),
    "flux2": flux2,
    "klein": klein,
    "sdxl": sdxl,
    "sd35-large": sd35_large,
    "qwen-image": qwen_image,
    "qwen-image-edit": qwen_image,
    "z-image": z_image,
}


def write(folder: Path, parts: Mapping[str, Part]) -> Path:
    """A pipeline's folder with its configs alone."""
    index = {name: [library, kind] for name, (library, kind, _) in parts.items()}
    folder.mkdir(parents=True)
    (folder / "model_index.json").write_text(json.dumps(index))
    for name, (_, _, config) in parts.items():
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps(dict(config), default=str))
    return folder
