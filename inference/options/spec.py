"""Options of speed and size as models.yaml asks for them, and what became of each.

No torch here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from inference.places import SourceOrNone, path_within
from inference.references.spec import Way

if TYPE_CHECKING:
    from inference.model_spec import ModelSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionStatus:
    """What an entry asks for, what a loaded model has of it ("" until then), and why not more."""

    requested: str
    effective: str = ""
    reason: str = ""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class QuantizationKind(StrEnum):
    """Who narrows the weights, and to what."""

    BITSANDBYTES_8BIT = "bitsandbytes-8bit"
    BITSANDBYTES_4BIT = "bitsandbytes-4bit"
    TORCHAO_INT8 = "torchao-int8"
    TORCHAO_FLOAT8 = "torchao-float8"
    GGUF = "gguf"


class Quantization(_Strict):
    """Narrower weights of some parts; no `parts` means the denoisers.

    `gguf` takes its one denoiser from `file`: a path, or one of the hub's repository `source`.
    """

    kind: QuantizationKind
    parts: tuple[str, ...] = ()
    file: str = ""
    source: SourceOrNone = ""
    revision: str | None = None

    @model_validator(mode="after")
    def _agree(self) -> Quantization:
        if self.kind is not QuantizationKind.GGUF:
            if foreign := sorted(self.model_fields_set - {"kind", "parts"}):
                raise ValueError(f"{self.kind} has no {', '.join(foreign)}")
            if "parts" in self.model_fields_set and not self.parts:
                raise ValueError("parts must name at least one, or be left out for the denoisers")
        elif not self.file.endswith(".gguf"):
            raise ValueError("gguf needs a file, one of .gguf")
        elif self.parts:
            raise ValueError("gguf is one denoiser, and has no parts")
        elif self.source:
            path_within(self.file)
        return self


class StepCacheKind(StrEnum):
    """Which step cache of diffusers."""

    FIRST_BLOCK = "first_block"
    TAYLORSEER = "taylorseer"


class StepCache(_Strict):
    """What of a step is left out where the step before was much the same.

    `threshold` is the first block's relative change below which the others are left out;
    `interval` how many steps TaylorSeer foresees from each that it computes.
    """

    kind: StepCacheKind
    threshold: Annotated[float, Field(gt=0, le=1, strict=True)] | None = None
    interval: Annotated[int, Field(ge=2, le=20, strict=True)] | None = None

    @model_validator(mode="after")
    def _agree(self) -> StepCache:
        foreign = "interval" if self.kind is StepCacheKind.FIRST_BLOCK else "threshold"
        if getattr(self, foreign) is not None:
            raise ValueError(f"{self.kind} has no {foreign}")
        return self


class VaeOptions(_Strict):
    """How pictures are decoded: in `tiling` tiles, and of several in `slicing` one at a time."""

    tiling: Annotated[bool, Field(strict=True)] = False
    slicing: Annotated[bool, Field(strict=True)] = False


def _by_kind(value: Any) -> Any:
    """A kind alone stands for an entry that says no more."""
    return {"kind": value} if isinstance(value, str) else value


AnyQuantization = Annotated[Quantization, BeforeValidator(_by_kind)]
AnyStepCache = Annotated[StepCache, BeforeValidator(_by_kind)]
# What diffusers calls them; those of _hub are fetched from the hub by the package "kernels". Not
# flex: called as diffusers does it computes all scores at once, slower and in more memory.
ATTENTIONS = (
    *("native", "_native_flash", "_native_efficient", "_native_math", "_native_cudnn"),
    *("flash", "flash_varlen", "flash_hub", "flash_varlen_hub", "flash_4_hub"),
    *("_flash_3", "_flash_varlen_3", "_flash_3_hub", "_flash_3_varlen_hub"),
    *("sage", "sage_varlen", "sage_hub", "sage_blackwell_hub"),
    *("_sage_qk_int8_pv_fp8_cuda", "_sage_qk_int8_pv_fp8_cuda_sm90"),
    *("_sage_qk_int8_pv_fp16_cuda", "_sage_qk_int8_pv_fp16_triton"),
    "xformers",
)


def _known(value: str) -> str:
    if value not in ATTENTIONS:
        raise ValueError(f"must be one of {', '.join(ATTENTIONS)}")
    return value


Attention = Annotated[str, AfterValidator(_known)]


def requested(spec: ModelSpec) -> dict[str, OptionStatus]:
    """What an entry asks for by option, in words; nothing is loaded yet."""
    asked = {
        "dtype": spec.dtype,
        "quantization": _quantization(spec.quantization),
        "attention": spec.attention or "",
        "compile": "on" if spec.compile else "",
        "vae": ", ".join(name for name, on in spec.vae if on),
        "cache": spec.cache.kind.value if spec.cache is not None else "",
        "offload": spec.offload if spec.offload != "none" else "",
    }
    return {name: OptionStatus(requested=words) for name, words in asked.items() if words}


def problems(spec: ModelSpec) -> Iterator[str]:
    """What a model's options say against one another, or against its family."""
    if spec.quantization is not None:
        yield from _beyond_parts(spec, spec.quantization)
    if spec.cache is None:
        return
    if spec.compile:
        yield "cache and compile exclude one another: a cache decides at each step what to run"
    controlled = [tag for tag, one in spec.references.items() if one.by is Way.CONTROLNET]
    if controlled:
        # what a ControlNet adds between blocks is in what the cache adds for those left out
        yield f"cache excludes references by controlnet: {', '.join(controlled)}"


def _beyond_parts(spec: ModelSpec, wanted: Quantization) -> Iterator[str]:
    for part in wanted.parts:
        if part not in spec.rules.denoisers and not part.startswith("text_encoder"):
            yield f"quantization: {part!r} is no denoiser or text encoder of {spec.family!r}"


def _quantization(wanted: Quantization | None) -> str:
    if wanted is None:
        return ""
    return f"{wanted.kind} of {', '.join(wanted.parts)}" if wanted.parts else wanted.kind.value
