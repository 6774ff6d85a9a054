"""What a picture takes beside the weights, from one forward of shapes alone: no numbers in it.

Counted as on a CPU, see `memory.Gauge`: what the operations return, until it is given back.
Attention counts as a kernel that keeps no matrix of all tokens by all tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from inference.check.blueprint import Blueprint, Module
from inference.job import Mode
from inference.model_spec import ModelSpec
from inference.residency.memory import Gauge

# Sources that a model looks at are shown to it in about so many pixels.
_LOOKED_AT_PX = 1024**2
# Text tokens of a model whose entry names no other number.
_TEXT_TOKENS = 512
_CLIP_TOKENS = 77


@dataclass(frozen=True, slots=True)
class Picture:
    """What is made: sides in pixels, and how many pictures the model looks at for it."""

    width: int
    height: int
    looked_at: int = 0


def pictures_of(spec: ModelSpec, mode: Mode, size: tuple[int, int]) -> Picture:
    """What a request of one source picture makes in a mode."""
    is_shown = mode is Mode.EDIT or (spec.rules.looks and mode is Mode.INPAINT)
    return Picture(*size, looked_at=int(is_shown))


def working_bytes(spec: ModelSpec, plan: Blueprint, picture: Picture) -> dict[str, int]:
    """The most that each operation takes for one picture, "denoiser" and "vae".

    An operation is left out whose class is not known here.
    """
    found = {}
    denoiser: Any = plan.part(*spec.rules.denoisers)
    vae: Any = plan.part("vae")
    scale = _scale(vae)
    make = _INPUTS.get(type(denoiser).__name__)
    if denoiser is not None and make is not None:
        inputs = make(_Shapes(spec, denoiser, picture, scale))
        found["denoiser"] = _peak(lambda: denoiser(**inputs))
    if vae is not None and hasattr(vae, "decode"):
        found["vae"] = _decoding(vae, spec, picture, scale)
    return found


def _decoding(vae: Any, spec: ModelSpec, picture: Picture, scale: int) -> int:
    """What the VAE takes; in tiles one of them, and the picture as pieces and as a whole."""
    if next(vae.parameters()).dtype is torch.float16 and vae.config.get("force_upcast"):
        # half as many bits would overflow, and the pipelines know
        Module.to(vae, torch.float32)
    side = getattr(vae, "tile_sample_min_height", getattr(vae, "tile_sample_min_size", 0))
    is_tiled = spec.vae.tiling and side and max(picture.width, picture.height) > side
    shown = Picture(min(picture.width, side), min(picture.height, side)) if is_tiled else picture
    latents = _latents(vae, shown, scale)
    whole = 3 * picture.width * picture.height * latents.element_size()
    return _peak(lambda: vae.decode(latents)) + (2 * whole if is_tiled else 0)


def _peak(forward: Callable[[], Any]) -> int:
    gauge = Gauge("cpu")
    with torch.no_grad(), torch.device("meta"), _Attention(), gauge.watch("it"):
        forward()
    return gauge.peaks["it"]


class _Attention(TorchFunctionMode):
    """Takes what a fused kernel takes: what it returns."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function is torch.nn.functional.scaled_dot_product_attention:
            given = [*args, *(kwargs or {}).values()]
            query, value = given[0], given[2]
            return query.new_empty((*query.shape[:-1], value.shape[-1]))
        return function(*args, **(kwargs or {}))


class _Shapes:
    """The shapes that a denoiser is called with."""

    def __init__(self, spec: ModelSpec, denoiser: Module, picture: Picture, scale: int) -> None:
        self.config: Any = denoiser.config
        self.dtype = next(denoiser.parameters()).dtype
        self.width, self.height = picture.width // scale, picture.height // scale
        self.looked_at = picture.looked_at
        self.scale = scale
        self.text = spec.max_sequence_length or _TEXT_TOKENS
        guided = spec.guided and spec.defaults.guidance_scale > (spec.family != "z-image")
        # these put the picture with and without its prompt into one forward
        self.rows = 2 if guided and spec.family in ("sdxl", "sd3", "z-image") else 1

    @property
    def grid(self) -> tuple[int, int]:
        """Height and width in tokens of two by two latents."""
        return self.height // 2, self.width // 2

    @property
    def grids(self) -> list[tuple[int, int]]:
        """That of the picture, and of those that are looked at."""
        side = round(_LOOKED_AT_PX**0.5) // self.scale // 2
        area = self.grid[0] * self.grid[1]
        other = (side, side) if side * side < 4 * area else self.grid
        return [self.grid, *[other] * self.looked_at]

    @property
    def tokens(self) -> int:
        """Of all pictures in the call."""
        return sum(height * width for height, width in self.grids)

    def full(self, *shape: int) -> torch.Tensor:
        """A tensor in the denoiser's dtype that holds nothing."""
        return torch.empty(shape, dtype=self.dtype, device="meta")

    def numbers(self, *shape: int) -> torch.Tensor:
        """The same in whole numbers."""
        return torch.empty(shape, dtype=torch.int64, device="meta")


def _flux(of: _Shapes) -> dict[str, Any]:
    inputs = {
        "hidden_states": of.full(of.rows, of.tokens, of.config.in_channels),
        "encoder_hidden_states": of.full(of.rows, of.text, of.config.joint_attention_dim),
        "pooled_projections": of.full(of.rows, of.config.pooled_projection_dim),
        "timestep": of.full(of.rows),
        "img_ids": of.full(of.tokens, 3),
        "txt_ids": of.full(of.text, 3),
    }
    return inputs | ({"guidance": of.full(of.rows)} if of.config.guidance_embeds else {})


def _flux2(of: _Shapes) -> dict[str, Any]:
    return {
        "hidden_states": of.full(of.rows, of.tokens, of.config.in_channels),
        "encoder_hidden_states": of.full(of.rows, of.text, of.config.joint_attention_dim),
        "timestep": of.full(of.rows),
        "img_ids": of.full(of.rows, of.tokens, 4),
        "txt_ids": of.full(of.rows, of.text, 4),
        "guidance": of.full(of.rows),
    }


def _unet(of: _Shapes) -> dict[str, Any]:
    added = of.config.projection_class_embeddings_input_dim - 6 * of.config.addition_time_embed_dim
    return {
        "sample": of.full(of.rows, of.config.in_channels, of.height, of.width),
        "timestep": of.full(of.rows),
        "encoder_hidden_states": of.full(of.rows, _CLIP_TOKENS, of.config.cross_attention_dim),
        "added_cond_kwargs": {
            "text_embeds": of.full(of.rows, added),
            "time_ids": of.full(of.rows, 6),
        },
    }


def _sd3(of: _Shapes) -> dict[str, Any]:
    tokens = _CLIP_TOKENS + of.text
    return {
        "hidden_states": of.full(of.rows, of.config.in_channels, of.height, of.width),
        "encoder_hidden_states": of.full(of.rows, tokens, of.config.joint_attention_dim),
        "pooled_projections": of.full(of.rows, of.config.pooled_projection_dim),
        "timestep": of.full(of.rows),
    }


def _qwen(of: _Shapes) -> dict[str, Any]:
    return {
        "hidden_states": of.full(of.rows, of.tokens, of.config.in_channels),
        "encoder_hidden_states": of.full(of.rows, of.text, of.config.joint_attention_dim),
        "encoder_hidden_states_mask": of.numbers(of.rows, of.text),
        "timestep": of.full(of.rows),
        "img_shapes": [[(1, *grid) for grid in of.grids]] * of.rows,
    }


def _z_image(of: _Shapes) -> dict[str, Any]:
    return {
        "x": [of.full(of.config.in_channels, 1, of.height, of.width)] * of.rows,
        "t": of.full(of.rows),
        "cap_feats": [of.full(of.text, of.config.cap_feat_dim)] * of.rows,
    }


_INPUTS: Mapping[str, Callable[[_Shapes], dict[str, Any]]] = {
    "FluxTransformer2DModel": _flux,
    "Flux2Transformer2DModel": _flux2,
    "UNet2DConditionModel": _unet,
    "SD3Transformer2DModel": _sd3,
    "QwenImageTransformer2DModel": _qwen,
    "ZImageTransformer2DModel": _z_image,
}


def _scale(vae: Any) -> int:
    """Pixels of a latent's side."""
    if vae is None:
        return 8
    config = vae.config
    stages = config.get("block_out_channels") or config.get("dim_mult") or (1, 1, 1, 1)
    return int(2 ** (len(stages) - 1))


def _latents(vae: Any, picture: Picture, scale: int) -> torch.Tensor:
    config = vae.config
    sides = (picture.height // scale, picture.width // scale)
    dtype = next(vae.parameters()).dtype
    if "z_dim" in config:  # made for video: one frame
        return torch.empty((1, config.z_dim, 1, *sides), dtype=dtype, device="meta")
    return torch.empty((1, config.latent_channels, *sides), dtype=dtype, device="meta")
