"""From the tensors of a LoRA file to a pair for each layer of a model, or the reason against it.

Nothing here changes the model, so whatever is wrong with a file, the base stays as it was. Keys are
converted by diffusers' own functions, on dicts alone: no module is built, so no lock is needed, and
any thread may do it.
"""

from __future__ import annotations

import json
import logging
import math
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.utils import convert_state_dict_to_peft, convert_unet_state_dict_to_peft
from diffusers.utils.state_dict_utils import StateDictType
from torch import Tensor

from inference.errors import LoraFailed
from inference.loras.files import Weights, first_line
from inference.loras.mix import Pair

# Of one pair: where the file's own layouts keep the half that goes down, and the one that goes up.
_HALVES = (
    (".lora_down.weight", ".lora_up.weight"),
    (".lora.down.weight", ".lora.up.weight"),
    (".lora_A.weight", ".lora_B.weight"),
    (".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight"),
)
_LAYER = re.compile(r"(.+)\.lora_([AB])\.weight")
# Kinds of adapter that are no sum of B A, and that diffusers would pass over or half apply.
_OTHER_KINDS = {
    "dora_scale": "DoRA",
    "magnitude_vector": "DoRA",
    "hada_w1": "LoHa",
    "lokr_w1": "LoKr",
    "lora_B.bias": "a LoRA with biases",
}


def fit(
    weights: Weights, metadata: Mapping[str, str], pipe: Any, modules: Mapping[str, Any]
) -> dict[str, dict[str, Pair]]:
    """The pairs of each layer by component, in float32, alpha / r folded into the upper one.

    `modules` are the components that can have any. Raises LoraFailed where a layer is unknown or
    of another shape: half an adapter would be another picture than was asked for.
    """
    for key in weights:
        for sign, kind in _OTHER_KINDS.items():
            if sign in key:
                raise LoraFailed(f"this is {kind}, and only plain LoRA can be served")
    fitted: dict[str, dict[str, Pair]] = {}
    converted = _converted(pipe, _without_alphas(weights))
    for component, module in modules.items():
        own = {
            key.removeprefix(f"{component}."): converted.pop(key)
            for key in [*converted]
            if key.startswith(f"{component}.")
        }
        if own:
            scales = _Scales(metadata, component)
            fitted[component] = _pairs(_as_peft(own, component, module), module, scales)
    if converted:
        raise LoraFailed(f"it changes what this model has not: {_some(converted)}")
    if not fitted:
        raise LoraFailed("it holds no layer")
    return fitted


def _without_alphas(weights: Weights) -> Weights:
    """The same LoRA with every alpha equal to its rank: each layout keeps alphas its own way."""
    plain = {key: value for key, value in weights.items() if not key.endswith(".alpha")}
    for key in weights.keys() - plain.keys():
        layer = key.removesuffix(".alpha")
        halves = next((pair for pair in _HALVES if layer + pair[0] in plain), None)
        if halves is None or weights[key].numel() != 1 or layer + halves[1] not in plain:
            raise LoraFailed(f"{key} is not the alpha of any layer")
        alpha, rank = float(weights[key]), len(plain[layer + halves[0]])
        if not rank or not math.isfinite(alpha):
            raise LoraFailed(f"{key} is {alpha:g} of rank {rank}")
        plain[layer + halves[1]] = plain[layer + halves[1]].float() * (alpha / rank)
    return plain


def _converted(pipe: Any, weights: Weights) -> Weights:
    """Keys in diffusers' own layout, whichever of the common trainers wrote them."""
    if not hasattr(pipe, "lora_state_dict"):
        raise LoraFailed(f"diffusers loads no LoRA into {type(pipe).__name__}")
    options = {"unet_config": pipe.unet.config} if hasattr(pipe, "unet") else {}
    try:
        with _complaints() as complaints:
            made = pipe.lora_state_dict(dict(weights), **options)
    except Exception as error:
        # a file may be wrong in any way that the converters never thought of
        raise LoraFailed(f"its layout is not known: {first_line(error)}") from None
    if complaints:
        raise LoraFailed(f"it holds what is not known: {complaints[0][:200]}")
    # some return the alphas beside it, all of which are 1 by now
    return dict(made[0] if isinstance(made, tuple) else made)


@contextmanager
def _complaints() -> Iterator[list[str]]:
    """What diffusers' converters say of keys that they leave out; they do not raise."""
    said: list[str] = []
    logger = logging.getLogger("diffusers.loaders.lora_conversion_utils")
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    # of this file, not of one that another thread reads
    handler.addFilter(lambda record: record.thread == threading.get_ident())
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING)
    try:
        yield said
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def _as_peft(weights: Weights, component: str, module: Any) -> Weights:
    """Keys that end in `.lora_A.weight` and `.lora_B.weight`, after the path of their layer."""
    if all(".lora_A." in key or ".lora_B." in key for key in weights):
        plain = weights
    elif component.startswith("text_encoder"):
        old = any("_lora." in key for key in weights)
        kind = StateDictType.DIFFUSERS_OLD if old else StateDictType.DIFFUSERS
        plain = convert_state_dict_to_peft(weights, kind)
    else:
        plain = convert_unet_state_dict_to_peft(weights)
    if component.startswith("text_encoder") and not hasattr(module, "text_model"):
        # transformers 5 keeps CLIP's layers one level higher than the files do
        plain = {key.removeprefix("text_model."): value for key, value in plain.items()}
    return plain


def _pairs(weights: Weights, module: Any, scales: _Scales) -> dict[str, Pair]:
    halves: dict[str, dict[str, Tensor]] = {}
    for key, value in weights.items():
        match = _LAYER.fullmatch(key)
        if match is None:
            raise LoraFailed(f"{key} is no part of a LoRA that is known")
        halves.setdefault(match[1], {})[match[2]] = value
    layers = dict(module.named_modules())
    pairs: dict[str, Pair] = {}
    for path, found in halves.items():
        if found.keys() != {"A", "B"}:
            raise LoraFailed(f"{path} has one half of a pair only")
        if path not in layers:
            raise LoraFailed(f"this model has no layer {path}")
        down, up = _shaped(path, layers[path], found["A"], found["B"])
        pairs[path] = down, up * scales.of(path, len(down))
        if not all(bool(half.isfinite().all()) for half in pairs[path]):
            raise LoraFailed(f"{path} holds values that are no numbers")
    return pairs


def _shaped(path: str, layer: Any, down: Tensor, up: Tensor) -> Pair:
    """Both in float32, if they are of the layer's shape."""
    if not down.is_floating_point() or not up.is_floating_point():
        raise LoraFailed(f"{path} holds no floating-point numbers")
    if isinstance(layer, torch.nn.Conv2d):
        if layer.groups != 1 or layer.padding_mode != "zeros":
            raise LoraFailed(f"{path} is a grouped or differently padded convolution")
        # 1 × 1 kernels are sometimes kept as matrices
        down = down[..., None, None] if down.ndim == 2 and layer.kernel_size == (1, 1) else down
        inner, outer = (layer.in_channels, *layer.kernel_size), layer.out_channels
    elif hasattr(layer, "in_features") and hasattr(layer, "out_features"):
        down = down.flatten(1) if tuple(down.shape[2:]) == (1, 1) else down
        inner, outer = (layer.in_features,), layer.out_features
    else:
        raise LoraFailed(f"{path} is a {type(layer).__name__}, which takes no LoRA")
    up = up.flatten(1) if tuple(up.shape[2:]) == (1, 1) else up
    if down.ndim < 2 or not len(down) or up.ndim != 2:
        raise LoraFailed(f"{path} is of rank 0, or of no rank")
    if tuple(down.shape[1:]) != inner or tuple(up.shape) != (outer, len(down)):
        shapes = f"{[*down.shape]} and {[*up.shape]}"
        raise LoraFailed(
            f"{path} is {shapes}, not [r, {', '.join(map(str, inner))}] and [{outer}, r]"
        )
    return down.float(), up.float()


class _Scales:
    """alpha / r of each layer as the file's metadata has it, where it has any."""

    def __init__(self, metadata: Mapping[str, str], component: str) -> None:
        try:
            told = json.loads(metadata.get("lora_adapter_metadata") or "{}")
            if not isinstance(told, dict):
                raise ValueError
            start = f"{component}."
            self._config = {
                key.removeprefix(start): value
                for key, value in told.items()
                if key.startswith(start)
            }
            alphas = self._config.get("alpha_pattern") or {}
            self._alphas = {key: float(alpha) for key, alpha in alphas.items()}
            default = self._config.get("lora_alpha")
            self._default = None if default is None else float(default)
        except (ValueError, TypeError, AttributeError, RecursionError):
            raise LoraFailed("its metadata cannot be read") from None
        if self._config.get("use_dora"):
            raise LoraFailed("this is DoRA, and only plain LoRA can be served")

    def of(self, path: str, rank: int) -> float:
        """The factor of a layer."""
        if self._default is None:
            return 1.0
        patterns = [key for key in self._alphas if re.search(rf"(^|\.){_escaped(key)}$", path)]
        alpha = self._alphas[patterns[0]] if patterns else self._default
        return alpha / (math.sqrt(rank) if self._config.get("use_rslora") else rank)


def _escaped(pattern: str) -> str:
    """peft writes paths, some anchored by ^; a dot is a dot, and nothing else is a pattern."""
    return re.escape(pattern.removeprefix("^"))


def _some(weights: Weights) -> str:
    return ", ".join(sorted(weights)[:3])[:200]
