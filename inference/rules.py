"""What each argument of a forward holds, declared per model class: what the merging goes by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto

import torch


class Rule(Enum):
    """What one argument of a forward holds.

    ROWS: a tensor [rows, …], concatenated. EACH_ROWS: a list of such tensors, concatenated
    element by element. TIME: a timestep, 0-dimensional or [rows], widened to [rows]. SHARED: a
    tensor that is the same for all, so that any call's will do. NESTED: a dict whose entries have
    rules by name. ITEMS: a list with one tensor per row, all of one shape. TEXTS: likewise, of
    any length. SHAPES: a list with one entry of plain numbers per row, all equal. FACTOR: a number
    that all of the output is multiplied by, and nothing else.
    """

    ROWS = auto()
    EACH_ROWS = auto()
    TIME = auto()
    SHARED = auto()
    NESTED = auto()
    ITEMS = auto()
    TEXTS = auto()
    SHAPES = auto()
    FACTOR = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRules:
    """The rules of one model class; `latents` names the argument [rows, …] that counts them."""

    latents: str
    rules: Mapping[str, Rule] = field(default_factory=dict)

    @property
    def lists_rows(self) -> bool:
        """Whether the model takes and gives lists of rows, not tensors with a row axis."""
        return self.rules.get(self.latents) is Rule.ITEMS


UNKNOWN_MODEL = ModelRules(latents="")

_TEXT = ModelRules(
    latents="input_ids",
    rules={"input_ids": Rule.ROWS, "attention_mask": Rule.ROWS},
)

MODEL_RULES: Mapping[str, ModelRules] = {
    "FluxTransformer2DModel": ModelRules(
        latents="hidden_states",
        rules={
            "hidden_states": Rule.ROWS,
            "encoder_hidden_states": Rule.ROWS,
            "pooled_projections": Rule.ROWS,
            "timestep": Rule.TIME,
            "guidance": Rule.ROWS,
            "img_ids": Rule.SHARED,
            "txt_ids": Rule.SHARED,
            "joint_attention_kwargs": Rule.NESTED,
            "ip_adapter_image_embeds": Rule.EACH_ROWS,
            "controlnet_block_samples": Rule.EACH_ROWS,
            "controlnet_single_block_samples": Rule.EACH_ROWS,
        },
    ),
    "FluxControlNetModel": ModelRules(
        latents="hidden_states",
        rules={
            "hidden_states": Rule.ROWS,
            "controlnet_cond": Rule.ROWS,
            "controlnet_mode": Rule.ROWS,
            "conditioning_scale": Rule.FACTOR,
            "encoder_hidden_states": Rule.ROWS,
            "pooled_projections": Rule.ROWS,
            "timestep": Rule.TIME,
            "guidance": Rule.ROWS,
            "img_ids": Rule.SHARED,
            "txt_ids": Rule.SHARED,
            "joint_attention_kwargs": Rule.NESTED,
            "ip_adapter_image_embeds": Rule.EACH_ROWS,
        },
    ),
    "UNet2DConditionModel": ModelRules(
        latents="sample",
        rules={
            "sample": Rule.ROWS,
            "timestep": Rule.TIME,
            "encoder_hidden_states": Rule.ROWS,
            "timestep_cond": Rule.ROWS,
            "added_cond_kwargs": Rule.NESTED,
            "text_embeds": Rule.ROWS,
            "time_ids": Rule.ROWS,
            "image_embeds": Rule.EACH_ROWS,
            "cross_attention_kwargs": Rule.NESTED,
            "down_block_additional_residuals": Rule.EACH_ROWS,
            "mid_block_additional_residual": Rule.ROWS,
        },
    ),
    "ControlNetModel": ModelRules(
        latents="sample",
        rules={
            "sample": Rule.ROWS,
            "timestep": Rule.TIME,
            "encoder_hidden_states": Rule.ROWS,
            "controlnet_cond": Rule.ROWS,
            "conditioning_scale": Rule.FACTOR,
            "added_cond_kwargs": Rule.NESTED,
            "text_embeds": Rule.ROWS,
            "time_ids": Rule.ROWS,
            "image_embeds": Rule.EACH_ROWS,
        },
    ),
    "Flux2Transformer2DModel": ModelRules(
        latents="hidden_states",
        rules={
            "hidden_states": Rule.ROWS,
            "encoder_hidden_states": Rule.ROWS,
            "timestep": Rule.TIME,
            "guidance": Rule.ROWS,
            # [rows, tokens, 4], of which it reads the first row's alone
            "img_ids": Rule.SHARED,
            "txt_ids": Rule.SHARED,
            "joint_attention_kwargs": Rule.NESTED,
        },
    ),
    "SD3Transformer2DModel": ModelRules(
        latents="hidden_states",
        rules={
            "hidden_states": Rule.ROWS,
            "encoder_hidden_states": Rule.ROWS,
            "pooled_projections": Rule.ROWS,
            "timestep": Rule.TIME,
            "block_controlnet_hidden_states": Rule.EACH_ROWS,
            "joint_attention_kwargs": Rule.NESTED,
        },
    ),
    "SD3ControlNetModel": ModelRules(
        latents="hidden_states",
        rules={
            "hidden_states": Rule.ROWS,
            "controlnet_cond": Rule.ROWS,
            "conditioning_scale": Rule.FACTOR,
            "encoder_hidden_states": Rule.ROWS,
            "pooled_projections": Rule.ROWS,
            "timestep": Rule.TIME,
            "joint_attention_kwargs": Rule.NESTED,
        },
    ),
    "QwenImageTransformer2DModel": ModelRules(
        latents="hidden_states",
        rules={
            "hidden_states": Rule.ROWS,
            "encoder_hidden_states": Rule.ROWS,
            "encoder_hidden_states_mask": Rule.ROWS,
            "timestep": Rule.TIME,
            "guidance": Rule.ROWS,
            # positions are made from the first row's alone
            "img_shapes": Rule.SHAPES,
            "attention_kwargs": Rule.NESTED,
            "controlnet_block_samples": Rule.EACH_ROWS,
        },
    ),
    "QwenImageControlNetModel": ModelRules(
        latents="hidden_states",
        rules={
            "hidden_states": Rule.ROWS,
            "controlnet_cond": Rule.ROWS,
            "conditioning_scale": Rule.FACTOR,
            "encoder_hidden_states": Rule.ROWS,
            "encoder_hidden_states_mask": Rule.ROWS,
            "timestep": Rule.TIME,
            "img_shapes": Rule.SHAPES,
            "joint_attention_kwargs": Rule.NESTED,
        },
    ),
    "ZImageTransformer2DModel": ModelRules(
        latents="x",
        # it pads what is shorter; another size could share too, and would pay for the largest
        rules={
            "x": Rule.ITEMS,
            "t": Rule.TIME,
            "cap_feats": Rule.TEXTS,
            "joint_attention_kwargs": Rule.NESTED,
        },
    ),
    # the decoder of AutoencoderKL
    "Decoder": ModelRules(latents="sample", rules={"sample": Rule.ROWS}),
    "CLIPTextModel": _TEXT,
    "CLIPTextModelWithProjection": _TEXT,
    "T5EncoderModel": _TEXT,
    "Qwen3Model": _TEXT,
    "Qwen3ForCausalLM": _TEXT,
}


def rules_of(model: torch.nn.Module) -> ModelRules:
    """The declared rules of a model's class, or none at all."""
    return MODEL_RULES.get(type(model).__name__, UNKNOWN_MODEL)
