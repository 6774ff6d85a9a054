"""Where the tensors of a module are: on the device, in RAM, or both.

Weights never change while they are served, so the copy in RAM stays valid and leaving the device
copies nothing: the module's tensors are pointed back at it.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from typing import Any

import structlog
import torch
from torch import Tensor

from inference.faults import is_out_of_memory

log = structlog.get_logger()

# torch rounds each pinned allocation up to a power of two: tensors are packed into such.
_SLAB_BYTES = 1 << 28
_ALIGNED_BYTES = 512
_RAM = torch.device("cpu")


class Weights:
    """The parameters and buffers of one module, moved as a whole by its device's thread.

    `key` is what they count as once; `size_bytes` what they take in one place. On the CPU both
    places are the same memory, and moving is counting.
    """

    def __init__(self, module: torch.nn.Module, key: Hashable, device: str) -> None:
        self.module = module
        self.key = key
        self.device = torch.device(device)
        found = [tensor.data for tensor in tensors_of(module)]
        self.on_device = all(one.device.type == self.device.type for one in found)
        self.size_bytes = sum({_identity(one): _bytes(one) for one in found}.values())
        self._in_ram = [] if self.on_device and self._has_two_places else found
        self._is_read = False

    @property
    def _has_two_places(self) -> bool:
        return self.device.type != "cpu"

    @property
    def in_ram(self) -> bool:
        """Whether `to_ram` has somewhere to go back to."""
        return bool(self._in_ram) or not self._has_two_places

    def read(self, *, pin: bool) -> None:
        """Have all of it in memory, not only mapped from its file; `pin` for fast copies.

        By the thread that made the module: once others know of it, it is read.
        """
        if self._is_read:
            return
        self._is_read = True
        if pin and self._in_ram and self._has_two_places:
            self._in_ram = packed(self._in_ram, pin=torch.cuda.is_available())
            self._point_at(self._in_ram)
            return
        for tensor in self._in_ram:
            touch(tensor)

    def to_device(self) -> None:
        """Copy them to the device, if they are not there."""
        if not self.on_device:
            # of the module's own, which a pipeline may have cast for a moment
            self._point_at(_copies([one.data for one in tensors_of(self.module)], self.device))
            self.on_device = True

    def to_ram(self) -> None:
        """Leave the device for the copy in RAM, which is made where it was forgotten."""
        if self.on_device and self._has_two_places:
            if not self._in_ram:
                self._in_ram = _copies([one.data for one in tensors_of(self.module)], _RAM)
            self._point_at(self._in_ram)
            self.on_device = False

    def forget_ram(self) -> None:
        """Give the copy in RAM back; what is on the device stays there until it is dropped."""
        if self.on_device and self._has_two_places:
            self._in_ram = []

    def _point_at(self, tensors: list[Tensor]) -> None:
        for own, tensor in zip([*tensors_of(self.module)], tensors, strict=True):
            if _inner(own):
                # its memory is that of others, which its data would not bring along
                alias = torch.nn.Parameter(tensor.detach(), requires_grad=False)
                torch.utils.swap_tensors(own, alias)  # type: ignore[no-untyped-call]
            else:
                own.data = tensor


def tensors_of(module: torch.nn.Module) -> Iterator[Tensor]:
    """Parameters and buffers, each object once, in an order that stays."""
    yield from module.parameters()
    yield from module.buffers()


def modules_of(pipes: Mapping[Any, Any]) -> dict[str, torch.nn.Module]:
    """The modules of a model's pipelines by their name there, each once."""
    found: dict[int, tuple[str, torch.nn.Module]] = {}
    for pipe in pipes.values():
        for name, part in pipe.components.items():
            if isinstance(part, torch.nn.Module):
                found.setdefault(id(part), (name, part))
    return dict(found.values())


def touch(tensor: Tensor) -> None:
    """Read one byte of each page, so that none has to be fetched from a file in a forward."""
    for inner in _inner(tensor):
        touch(inner)
    if _inner(tensor):
        return
    if tensor.device.type == "cpu" and tensor.numel() and tensor.is_contiguous():
        # those of gguf files take any operation for one on what the bytes stand for
        with torch._C.DisableTorchFunctionSubclass():
            tensor.reshape(-1).view(torch.uint8)[::4096].max()


def packed(tensors: list[Tensor], *, pin: bool, slab_bytes: int = _SLAB_BYTES) -> list[Tensor]:
    """Copies of them, packed into few large allocations; what shares memory goes on sharing it."""
    made: dict[Hashable, Tensor] = {}
    slab, filled = torch.empty(0, dtype=torch.uint8), 0
    left = sum(_aligned(tensor) for tensor in {_identity(one): one for one in tensors}.values())
    for tensor in tensors:
        if _identity(tensor) in made:
            continue
        if _inner(tensor):
            made[_identity(tensor)] = tensor
            continue
        size = tensor.nbytes
        if filled + size > len(slab):
            wanted = max(size, min(slab_bytes, 1 << max(0, left - 1).bit_length()))
            slab, filled = _slab(wanted, pin=pin), 0
        place = slab[filled : filled + size].view(tensor.dtype).view(tensor.shape)
        place.copy_(tensor)
        made[_identity(tensor)] = place
        filled += _aligned(tensor)
        left -= _aligned(tensor)
    return [made[_identity(tensor)] for tensor in tensors]


def _slab(size: int, *, pin: bool) -> Tensor:
    """So many bytes, pinned where there is as much to pin: systems set limits of their own."""
    try:
        return torch.empty(size, dtype=torch.uint8, pin_memory=pin)
    except RuntimeError as error:
        if not pin or not is_out_of_memory(error):
            raise
        log.warning("ram.not_pinned", bytes=size)
        return torch.empty(size, dtype=torch.uint8)


def _copies(tensors: list[Tensor], device: torch.device) -> list[Tensor]:
    """Copies on a device; what is one tensor here is one there."""
    # into RAM that is not pinned nothing says when the last byte has come
    later = device != _RAM
    made: dict[Hashable, Tensor] = {}
    for tensor in tensors:
        if _identity(tensor) not in made:
            made[_identity(tensor)] = tensor.to(device, non_blocking=later, copy=True)
    return [made[_identity(tensor)] for tensor in tensors]


def _identity(tensor: Tensor) -> Hashable:
    """Equal for tensors that are the same memory."""
    if inner := _inner(tensor):
        return tuple(_identity(one) for one in inner)
    shape = (tuple(tensor.shape), tensor.stride(), tensor.dtype)
    return (tensor.data_ptr(), *shape) if tensor.numel() else (id(tensor), *shape)


def _inner(tensor: Tensor) -> list[Tensor]:
    """What a tensor is made of that has no memory of its own, as torchao's have none."""
    if not hasattr(tensor, "__tensor_flatten__"):
        return []
    names, _ = tensor.__tensor_flatten__()
    return [getattr(tensor, name) for name in names]


def _bytes(tensor: Tensor) -> int:
    return sum(_bytes(one) for one in _inner(tensor)) or tensor.nbytes


def _aligned(tensor: Tensor) -> int:
    if _inner(tensor):
        return 0
    return -(-tensor.nbytes // _ALIGNED_BYTES) * _ALIGNED_BYTES
