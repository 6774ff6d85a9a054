"""Weights that are narrower than they say: quantized by a tool whose config is not there. No torch.

diffusers and transformers take such numbers for the weights themselves, and paint noise with them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

from inference.hub.checkpoint import Part, dtypes_of

_NAMES = {
    **{f"I{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
    **{f"U{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)},
    **{"F8_E4M3": "float8_e4m3", "F8_E5M2": "float8_e5m2"},
}
# Tables of positions and the like are whole numbers, and no weights.
_WEIGHT = re.compile(r"weight(_packed)?$")
# What ComfyUI, compressed-tensors and others keep beside numbers that are to be multiplied.
_SCALE = re.compile(
    r"(^|\.)(scale_(weight|input)|(weight|input)_scale(_inv)?|scaled_fp8|comfy_quant)$"
)
_ENTRY_OF = {"int8": "torchao-int8", "float8": "torchao-float8"}


def obstacle(part: Part) -> str:
    """Why a part's weights are not what they would be taken for, and what to do; else nothing.

    Reads headers. Raises ValueError where a file is not whole.
    """
    if part.names_quantization():
        return ""
    kinds = {name: kind for file in part.files for name, kind in dtypes_of(file).items()}
    weights = Counter(kind for name, kind in kinds.items() if _WEIGHT.search(name))
    whole = {kind: count for kind, count in weights.items() if kind[0] in "IU"}
    if whole:
        kind = _most(whole)
        return _told(kind, "and its config names no quantization")
    floats = {kind: count for kind, count in weights.items() if kind.startswith("F8")}
    scales = [name for name in kinds if _SCALE.search(name)]
    if floats and scales:
        # without scales they are plain numbers, only coarse ones
        return _told(_most(floats), f"with scales beside them ({scales[0]}), which are not read")
    return ""


def _most(counted: Mapping[str, int]) -> str:
    found = max(counted, key=lambda kind: counted[kind])
    return _NAMES.get(found, found)


def _told(kind: str, why: str) -> str:
    entry = _ENTRY_OF.get(kind.partition("_")[0], "bitsandbytes-4bit")
    return (
        f"its weights are {kind} {why}, so that they would make noise; name a checkpoint in "
        f"bfloat16 or float16, which `quantization: {entry}` narrows here, or of a denoiser a gguf "
        "file, by `quantization: {kind: gguf, file: …}`"
    )
