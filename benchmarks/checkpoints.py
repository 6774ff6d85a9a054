"""Servable checkpoints with random weights: real architectures from their configs, and no hub.

    python -m benchmarks.checkpoints flux-dev FOLDER [--scale tiny] [--text full]

Weights are bfloat16, written a shard at a time, so that it takes the disk's time and little memory.
Pictures of them are noise made of numbers; what they cost is what real ones cost.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from safetensors.torch import save_file

from benchmarks.configs import REAL
from inference import skeletons
from inference.check.blueprint import Blueprint, build, size_bytes
from inference.model_spec import ModelSpec

Module = torch.nn.Module

SCALES = ("full", "tiny")
TEXTS = ("small", "full")

# What serves as the pipeline around the parts: schedulers, tokenizers, readers of prompts.
SKELETONS: Mapping[str, Callable[[], Any]] = {
    "flux-dev": skeletons.tiny_flux,
    "sdxl": skeletons.tiny_sdxl,
    "qwen-image": skeletons.tiny_qwen,
    "qwen-image-edit": lambda: skeletons.tiny_qwen_edit(plus=True),
    "klein": lambda: skeletons.tiny_klein(distilled=True),
}
# As the commented catalogue has them, at the size that all are compared at.
ENTRIES: Mapping[str, dict[str, Any]] = {
    "flux-dev": {
        "family": "flux",
        "modes": ("generate",),
        "max_sequence_length": 512,
        "defaults": {"num_inference_steps": 28, "guidance_scale": 3.5},
    },
    "sdxl": {
        "family": "sdxl",
        "modes": ("generate",),
        "defaults": {"num_inference_steps": 30, "guidance_scale": 5.0},
    },
    "qwen-image": {
        "family": "qwen-image",
        "modes": ("generate",),
        "max_sequence_length": 512,
        "defaults": {"num_inference_steps": 50},
    },
    "qwen-image-edit": {
        "family": "qwen-image-edit-plus",
        "max_sequence_length": 512,
        "defaults": {"num_inference_steps": 40},
    },
    "klein": {
        "family": "flux2-klein",
        "modes": ("generate",),
        "guidance_field": "none",
        "max_sequence_length": 512,
        "defaults": {"num_inference_steps": 4},
    },
}
# Of a small text encoder, which is as wide as the real one and nowhere as deep.
_SMALL: Mapping[str, dict[str, Any]] = {
    "CLIPTextModel": {"num_hidden_layers": 2},
    "CLIPTextModelWithProjection": {"num_hidden_layers": 2},
    "T5EncoderModel": {"num_layers": 1, "num_decoder_layers": 1},
    # klein reads what comes out of layers 9, 18 and 27
    "Qwen3ForCausalLM": {
        "num_hidden_layers": 28,
        "intermediate_size": 256,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "vocab_size": 1024,
    },
    "Qwen2_5_VLForConditionalGeneration": {"num_hidden_layers": 2, "vocab_size": 1024, "depth": 2},
}
# An empty file that is written last.
_DONE = "complete"
_SHARD_BYTES = 1 << 31
_WRITERS = 4
# No multiple of any layer's width, or the rows of a large one would be copies of one another.
_POOL_NUMBERS = (1 << 24) + 43
_SPREAD = 0.02


def spec_of(name: str, folder: Path, scale: str) -> ModelSpec:
    """The entry that serves a checkpoint of `random_checkpoint`."""
    entry = ENTRIES[name]
    limits = {"min_side": 256, "max_side": 1024}
    size = (1024, 1024)
    if scale == "tiny":
        limits, size = {"min_side": 64, "max_side": 128}, (128, 128)
        entry = entry | ({"max_sequence_length": 16} if name == "flux-dev" else {})
    defaults = entry["defaults"] | {"size": size}
    own = {"name": name, "source": str(folder), "limits": limits, "defaults": defaults}
    return ModelSpec.model_validate(entry | own)


def is_complete(folder: Path) -> bool:
    """Whether `random_checkpoint` has finished there."""
    return (folder / _DONE).is_file()


def random_checkpoint(name: str, folder: Path, *, scale: str = "full", text: str = "small") -> Path:
    """Write a pipeline's folder, unless it is there; 16-bit weights, the same every time.

    The denoiser and the VAE have their real sizes, or with the `tiny` scale the skeleton's; a
    `small` text encoder has the real one's width and few of its layers.
    """
    if is_complete(folder):
        return folder
    write_configs(name, folder, scale=scale, text=text)
    pool = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    numbers = torch.randn(_POOL_NUMBERS, generator=pool).to(torch.bfloat16)
    blueprint = build([folder], torch.bfloat16)
    for part, module in blueprint.parts.items():
        library = blueprint.index[part][0]
        stem = "model" if library == "transformers" else "diffusion_pytorch_model"
        _write_weights(module, folder / part, stem, numbers)
    (folder / _DONE).touch()
    return folder


def write_configs(name: str, folder: Path, *, scale: str, text: str) -> Blueprint:
    """The folder without its weights, and what it will hold."""
    shutil.rmtree(folder, ignore_errors=True)
    skeletons.save(SKELETONS[name](), folder)
    for path in [*folder.glob("*/*.safetensors")]:
        path.unlink()
    if scale == "full":
        for part, (library, kind, config) in REAL[name]().items():
            path = folder / part / "config.json"
            wanted = dict(config)
            if library == "transformers":
                _narrow(wanted, kind, text)
                _share_tokens(json.loads(path.read_text()), wanted)
            path.write_text(json.dumps(wanted, default=str))
    return build([folder], torch.bfloat16)


def weight_bytes(blueprint: Blueprint) -> int:
    """What all of a checkpoint's weights take."""
    return sum(map(size_bytes, blueprint.parts.values()))


def _narrow(config: dict[str, Any], kind: str, text: str) -> None:
    if text == "full":
        return
    for table in (config, config.get("text_config", {}), config.get("vision_config", {})):
        table |= {key: value for key, value in _SMALL[kind].items() if key in table}
        if isinstance(layers := table.get("layer_types"), list):
            table["layer_types"] = layers[: table["num_hidden_layers"]]


def _share_tokens(skeleton: Mapping[str, Any], config: dict[str, Any]) -> None:
    """The numbers of the tokens with a meaning are those of the skeleton's tokenizer."""
    for key, value in skeleton.items():
        if key.endswith("_token_id"):
            config[key] = value
        elif isinstance(value, dict) and isinstance(config.get(key), dict):
            _share_tokens(value, config[key])


def _write_weights(module: Module, folder: Path, stem: str, numbers: torch.Tensor) -> None:
    """All tensors of a module on no device, each once, in shards of 2 GiB."""
    shards: list[list[tuple[str, torch.Tensor]]] = [[]]
    room = _SHARD_BYTES
    for name, tensor in _each_once(module):
        if tensor.nbytes > room and shards[-1]:
            shards.append([])
            room = _SHARD_BYTES
        shards[-1].append((name, tensor))
        room -= tensor.nbytes
    places: dict[str, str] = {}

    def write(number: int, shard: list[tuple[str, torch.Tensor]]) -> None:
        several = f"-{number:05}-of-{len(shards):05}" if len(shards) > 1 else ""
        file = f"{stem}{several}.safetensors"
        filled = {name: fill(name, one, numbers) for name, one in shard}
        save_file(filled, folder / file, metadata={"format": "pt"})
        places.update(dict.fromkeys(filled, file))

    with ThreadPoolExecutor(_WRITERS) as writers:
        for _ in writers.map(write, range(1, len(shards) + 1), shards):
            pass
    if len(shards) > 1:
        index = {"metadata": {"total_size": size_bytes(module)}, "weight_map": places}
        (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index))


def _each_once(module: Module) -> Iterator[tuple[str, torch.Tensor]]:
    seen: set[int] = set()
    for name, tensor in module.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            yield name, tensor


def fill(name: str, tensor: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """Values with which forwards stay finite: norms do nothing, the rest is small noise."""
    kind, shape = name.rpartition(".")[2], tensor.shape
    if not tensor.is_floating_point():
        return torch.zeros(shape, dtype=tensor.dtype)
    if kind in ("gamma", "running_var") or (kind == "weight" and tensor.ndim < 2):
        return torch.ones(shape, dtype=torch.bfloat16)
    if kind in ("bias", "running_mean"):
        return torch.zeros(shape, dtype=torch.bfloat16)
    count = tensor.numel()
    begin = zlib.crc32(name.encode()) % max(1, len(numbers) - count)
    repeats = math.ceil((begin + count) / len(numbers))
    taken = (numbers.repeat(repeats) if repeats > 1 else numbers)[begin : begin + count]
    return (taken * _SPREAD).view(shape)


def main() -> None:
    """Write one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("name", choices=sorted(SKELETONS))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scale", choices=SCALES, default="full")
    parser.add_argument("--text", choices=TEXTS, default="small")
    asked = parser.parse_args()
    begin = time.perf_counter()
    random_checkpoint(asked.name, asked.folder, scale=asked.scale, text=asked.text)
    size = weight_bytes(build([asked.folder], torch.bfloat16))
    print(f"{asked.folder}: {size / 1e9:.1f} GB in {time.perf_counter() - begin:.0f} s")


if __name__ == "__main__":
    main()
