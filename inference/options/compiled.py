"""Compiled blocks of a denoiser, and the plain code in their place for a while."""

from __future__ import annotations

import shutil
from collections.abc import Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

from inference import coalesce
from inference.coalesce import Attached, Call
from inference.loading import LOAD_LOCK, denoisers
from inference.loras.mix import Mix
from inference.model import LoadedModel
from inference.model_spec import ModelSpec
from inference.options.quantization import needs_package
from inference.references.image_rows import ImageUse
from inference.residency.aside import elsewhere

# For torch.compile; tests take one that compiles within a second.
BACKEND = "inductor"
# Every size that is compiled for itself counts, of all models of a class together; beyond it torch
# silently goes on uncompiled, and its own limit is 8.
MOST_GRAPHS = 64


def obstacle(spec: ModelSpec, device: str) -> str:
    """Why nothing can be compiled here, or nothing."""
    if device.startswith("cuda"):
        return needs_package("triton")
    compilers = [name for name in ("g++", "clang++", "c++") if shutil.which(name)]
    return "" if compilers or BACKEND != "inductor" else "needs a C++ compiler: install g++"


def switch_on(model: LoadedModel) -> None:
    """Have the blocks of its denoisers compiled, each when it first runs."""
    _configure()
    for attached in _denoisers(model):
        module: Any = attached.module
        module.compile_repeated_blocks(backend=BACKEND)
        attached.row_data += [Uncompiled(module, kind) for kind in (Mix, ImageUse)]


def switch_off(model: LoadedModel) -> None:
    """Have them run plainly again."""
    for attached in _denoisers(model):
        attached.row_data[:] = [one for one in attached.row_data if type(one) is not Uncompiled]
        for block in compiled_blocks(attached.module):
            block._compiled_call_impl = None


def forward(calls: Sequence[Call]) -> list[Any]:
    """One forward of a denoiser that may have to be compiled first, which takes minutes.

    Pictures of other models go on meanwhile; models are not read, since what is compiled depends
    on defaults that reading changes for the whole process.
    """

    def run() -> list[Any]:
        with LOAD_LOCK, torch.no_grad(), _device_of(calls[0].target.module):
            return coalesce.forward(calls)

    return elsewhere("compile", run)


def compiled_blocks(*modules: torch.nn.Module) -> list[Any]:
    """The parts of modules that run compiled."""
    found: list[Any] = [one for module in modules for one in module.modules()]
    return [one for one in found if one.__dict__.get("_compiled_call_impl") is not None]


@contextmanager
def plain_code(*modules: torch.nn.Module) -> Iterator[None]:
    """Within, nothing of the modules runs compiled."""
    blocks = compiled_blocks(*modules)
    before = [block._compiled_call_impl for block in blocks]
    try:
        for block in blocks:
            block.__dict__["_compiled_call_impl"] = None
        yield
    finally:
        for block, own in zip(blocks, before, strict=True):
            block.__dict__["_compiled_call_impl"] = own


class Uncompiled:
    """Forwards whose rows bring a LoRA or an IP-Adapter run the plain code: the `RowData` for it.

    Those exchange layers for the length of a forward, which compiled code would not see.
    """

    def __init__(self, module: torch.nn.Module, takes: type) -> None:
        self.takes = takes
        self._module = module

    def key(self, brought: Any) -> Hashable:
        """Any may share a forward."""
        return None

    def parts(self, brought: Any) -> frozenset[Hashable]:
        """It needs nothing."""
        return frozenset()

    @contextmanager
    def during(self, brought: Sequence[Any], rows: Sequence[int]) -> Iterator[None]:
        """Within, nothing of the module is compiled where one of the rows brought something."""
        given = [one for one in brought if one is not None and getattr(one, "parts", True)]
        with plain_code(*([self._module] if given else [])):
            yield


def _denoisers(model: LoadedModel) -> list[Attached]:
    modules = denoisers(model.spec, model.pipes[model.spec.modes[0]])
    return [one for one in model.attached if one.module in modules]


def _device_of(module: torch.nn.Module) -> AbstractContextManager[Any]:
    """A thread begins on the first card, wherever the module is."""
    device = next(module.parameters()).device
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _configure() -> None:
    """Limits of torch's compiler for the whole process."""
    config: Any = torch._dynamo.config
    # what is set the usual way holds for the greenlet or thread that sets it alone
    config._config["recompile_limit"].default = MOST_GRAPHS
    # another device's thread may trace meanwhile, which torch tells by a global
    config._config["error_on_nested_fx_trace"].default = False
