"""Narrower weights: what diffusers is to be told at reading, and why it cannot be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from inference.errors import ModelFailed
from inference.hub.checkpoint import parts_of
from inference.model_spec import ModelSpec
from inference.options.spec import Quantization, QuantizationKind

Kind = QuantizationKind

_PACKAGES = {
    Kind.BITSANDBYTES_8BIT: "bitsandbytes",
    Kind.BITSANDBYTES_4BIT: "bitsandbytes",
    Kind.TORCHAO_INT8: "torchao",
    Kind.TORCHAO_FLOAT8: "torchao",
    Kind.GGUF: "gguf",
}
# Of a weight, its share of the scales included; what is not Linear stays as it was.
_BYTES = {
    Kind.BITSANDBYTES_8BIT: 1.01,
    Kind.BITSANDBYTES_4BIT: 0.57,
    Kind.TORCHAO_INT8: 1.01,
    Kind.TORCHAO_FLOAT8: 1.01,
}


def needs_package(module: str, package: str = "") -> str:
    """What to install, if it cannot be imported; else nothing."""
    package = package or module
    return "" if find_spec(module) is not None else f"needs {package}: pip install {package}"


def obstacle(spec: ModelSpec, device: str) -> str:
    """Why this machine cannot do what the entry asks for, as far as can be told beforehand."""
    if spec.quantization is None:
        return ""
    kind = spec.quantization.kind
    if on_card(spec) and not device.startswith("cuda"):
        return f"{kind} needs an NVIDIA GPU, and this device is {device}"
    return needs_package(_PACKAGES[kind])


def on_card(spec: ModelSpec) -> bool:
    """Whether the narrowed weights come into being on a card, and stay on that one."""
    return spec.quantization is not None and spec.quantization.kind.startswith("bitsandbytes")


def arguments(spec: ModelSpec, dtype: torch.dtype) -> dict[str, Any]:
    """What `from_pretrained` of a pipeline is told; nothing without quantization."""
    wanted = spec.quantization
    if wanted is None or wanted.kind is Kind.GGUF:
        return {}
    mapping = {part: _config(wanted.kind, part, dtype) for part in _parts(spec, wanted)}
    made = diffusers.PipelineQuantizationConfig(quant_mapping=mapping)
    return {"quantization_config": made}


def single_file(spec: ModelSpec, source: str, dtype: torch.dtype) -> dict[str, Any]:
    """The denoiser of a gguf file by its name in the pipeline, set up as that of `source`."""
    wanted = spec.quantization
    if wanted is None or wanted.kind is not Kind.GGUF:
        return {}
    part = spec.rules.denoisers[0]
    place: dict[str, Any] = {"subfolder": part, "revision": spec.revision}
    name = diffusers.AutoModel.load_config(source, **place)["_class_name"]
    config = diffusers.GGUFQuantizationConfig(compute_dtype=dtype)
    made = getattr(diffusers, name).from_single_file(
        _file(wanted), config=source, quantization_config=config, torch_dtype=dtype, **place
    )
    return {part: made}


@contextmanager
def placing(spec: ModelSpec, device: str) -> Iterator[None]:
    """Within, what can be narrowed on a card alone is put on this one."""
    if spec.quantization is None or not device.startswith("cuda"):
        yield
        return
    with torch.cuda.device(device):
        yield


def check(spec: ModelSpec, pipe: Any) -> None:
    """Whether the parts came narrowed; raises ModelFailed."""
    if spec.quantization is None:
        return
    found = {part: getattr(pipe, part, None) for part in _parts(spec, spec.quantization)}
    if missing := [part for part in spec.quantization.parts if found[part] is None]:
        raise ModelFailed(f"quantization: {spec.source} has no {', '.join(missing)}")
    for part, module in found.items():
        if module is not None and getattr(module, "hf_quantizer", None) is None:
            raise ModelFailed(f"quantization: the {part} of {spec.source} came as it was")


def shares(
    spec: ModelSpec, dtype: torch.dtype, folders: Sequence[Path] = ()
) -> Mapping[str, float]:
    """About what is left of the bytes of each part that is narrowed, of those in the folders."""
    wanted = spec.quantization
    if wanted is None:
        return {}
    if wanted.kind is Kind.GGUF:
        part = parts_of(*folders).get(name := spec.rules.denoisers[0])
        file = _file_here(wanted)
        if part is None or file is None:
            return {}
        return {name: file.stat().st_size / max(1, part.size_bytes(dtype.itemsize))}
    return dict.fromkeys(_parts(spec, wanted), min(1.0, _BYTES[wanted.kind] / dtype.itemsize))


def _parts(spec: ModelSpec, wanted: Quantization) -> tuple[str, ...]:
    """Those named, or the denoisers, of which a pipeline may have but one."""
    return wanted.parts or spec.rules.denoisers


def _config(kind: Kind, part: str, dtype: torch.dtype) -> Any:
    # text encoders are read by transformers, which has classes of its own of the same names
    library: Any = transformers if part.startswith("text_encoder") else diffusers
    if kind is Kind.BITSANDBYTES_8BIT:
        return library.BitsAndBytesConfig(load_in_8bit=True)
    if kind is Kind.BITSANDBYTES_4BIT:
        return library.BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
        )
    from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig

    weight_only = Int8WeightOnlyConfig if kind is Kind.TORCHAO_INT8 else Float8WeightOnlyConfig
    return library.TorchAoConfig(weight_only())


def _file_here(wanted: Quantization) -> Path | None:
    """The file of gguf, if it is on this machine."""
    if not wanted.source:
        return path if (path := Path(wanted.file)).is_file() else None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(wanted.source, wanted.file, revision=wanted.revision)
    return Path(found) if isinstance(found, str) else None


def _file(wanted: Quantization) -> str:
    if not wanted.source:
        if not Path(wanted.file).is_file():
            raise ModelFailed(f"quantization: there is no file {wanted.file}")
        return wanted.file
    # it was fetched before the load lock was taken
    if (path := _file_here(wanted)) is None:
        raise ModelFailed(f"quantization: {wanted.file} of {wanted.source} is not here")
    return str(path)
