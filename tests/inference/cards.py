"""Cards that are not there: tensors keep to the CPU's memory, and to the device they were put on.

Of each allocation a table knows the device, a `TorchFunctionMode` looks there what every operation
is handed, and raises where a card would: tensors of two devices in one, a generator of another, a
card's tensor read as numpy. What comes out is what the CPU computes, to the byte.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

CARD_BYTES = 1 << 34
_CPU = torch.device("cpu")
# They may be given tensors of several devices: what one is copied to, and what compares no values.
_ACROSS = frozenset({"copy_", "_has_compatible_shallow_copy_type", "set_"})
# Here even a tensor of no dimension has to be where the others are.
_STRICT = frozenset({"cat", "stack", "concat", "hstack", "vstack"})


class Cards:
    """What is on which card, and how much of it; each thread has a card of its own to begin with.

    `foreign` is what was raised for tensors that did not meet, `began` the threads that were
    seen, by name.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.foreign: list[str] = []
        self.peaks = [0] * count
        self._here = threading.local()
        self._held = [0] * count
        self._places: dict[int, tuple[weakref.ref[Any], torch.device]] = {}
        self._pinned: dict[int, weakref.ref[Any]] = {}

    @property
    def current(self) -> int:
        """The card of this thread."""
        return getattr(self._here, "index", 0)

    @current.setter
    def current(self, index: int) -> None:
        self._here.index = index

    def named(self, wanted: Any) -> torch.device:
        """A device by any of its names, the card's number filled in."""
        device = torch.device("cuda", wanted) if isinstance(wanted, int) else torch.device(wanted)
        if device.type != "cuda":
            return _CPU if device.type == "cpu" else device
        index = self.current if device.index is None else device.index
        if index >= self.count:
            raise RuntimeError("CUDA error: invalid device ordinal")
        return torch.device("cuda", index)

    def held_bytes(self, wanted: Any = None) -> int:
        """What tensors take of a card."""
        return self._held[self.named("cuda" if wanted is None else wanted).index]

    def place(self, tensor: Tensor) -> torch.device:
        """Where a tensor is."""
        if tensor.device.type != "cpu":
            return tensor.device
        if inner := _inner(tensor):
            return self.place(inner[0])
        known = self._places.get(id(tensor.untyped_storage()))
        return _CPU if known is None else known[1]

    def put(self, tensor: Tensor, device: torch.device) -> Tensor:
        """Have a new tensor be there; one that shares its memory stays where that is."""
        if device.type != "cuda" or tensor.device.type != "cpu":
            return tensor
        if inner := _inner(tensor):
            for one in inner:
                self.put(one, device)
            return tensor
        storage = tensor.untyped_storage()
        number, size = id(storage), storage.nbytes()
        if number in self._places:
            return tensor

        def gone(_: object) -> None:
            if self._places.pop(number, None) is not None:
                self._held[device.index] -= size

        self._places[number] = weakref.ref(storage, gone), device
        self._held[device.index] += size
        self.peaks[device.index] = max(self.peaks[device.index], self._held[device.index])
        return tensor

    def pin(self, tensor: Tensor) -> Tensor:
        """Have a tensor's memory count as pinned."""
        storage = tensor.untyped_storage()
        number = id(storage)
        self._pinned[number] = weakref.ref(storage, lambda _: self._pinned.pop(number, None))
        return tensor

    def is_pinned(self, tensor: Tensor) -> bool:
        """Whether it was."""
        return id(tensor.untyped_storage()) in self._pinned


class _Card(TorchFunctionMode):
    """Looks at every operation of one thread."""

    def __init__(self, cards: Cards) -> None:
        super().__init__()
        self._cards = cards

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        if name == "__get__":
            return self._attribute(func, args)
        if name == "__set__":
            return func(*args, **kwargs)
        own: Callable[..., Any] | None = getattr(self, f"_do_{name}", None)
        if own is not None and args and isinstance(args[0], Tensor):
            return own(func, *args, **kwargs)
        return self._operation(name, func, args, kwargs)

    def _attribute(self, func: Any, args: Any) -> Any:
        match func:
            case _ if func == Tensor.device.__get__:
                return self._cards.place(args[0])
            case _ if func == Tensor.is_cuda.__get__:
                return self._cards.place(args[0]).type == "cuda"
            case _ if func == Tensor.is_cpu.__get__:
                return self._cards.place(args[0]).type == "cpu"
        return func(*args)

    def _do_to(self, func: Any, tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if args and isinstance(args[0], Tensor):
            other, args = args[0], args[1:]
            args = (self._cards.place(other), other.dtype, *args)
        device, dtype, _, shape = torch._C._nn._parse_to(*args, **_without(kwargs, "copy"))
        wanted = self._cards.place(tensor) if device is None else self._cards.named(device)
        return self._moved(func, tensor, wanted, dtype, shape, copy=kwargs.get("copy", False))

    def _moved(
        self, func: Any, tensor: Tensor, wanted: Any, dtype: Any, shape: Any, *, copy: bool
    ) -> Tensor:
        own = self._cards.place(tensor)
        if "meta" in (own.type, wanted.type):
            return func(tensor, wanted, dtype)  # type: ignore[no-any-return]
        if hasattr(tensor, "__tensor_flatten__") and wanted != own:
            names, rest = tensor.__tensor_flatten__()
            parts = [getattr(tensor, name) for name in names]
            moved = [self._moved(Tensor.to, one, wanted, None, None, copy=True) for one in parts]
            inner = dict(zip(names, moved, strict=True))
            return type(tensor).__tensor_unflatten__(inner, rest, tensor.shape, tensor.stride())
        more = {} if shape is None else {"memory_format": shape}
        made = func(tensor, _CPU, dtype or tensor.dtype, copy=copy or wanted != own, **more)
        return made if made is tensor else self._cards.put(made, wanted)

    def _do_cuda(self, func: Any, tensor: Tensor, device: Any = "cuda", **more: Any) -> Tensor:
        return self._moved(Tensor.to, tensor, self._cards.named(device), None, None, copy=False)

    def _do_cpu(self, func: Any, tensor: Tensor, **more: Any) -> Tensor:
        return self._moved(Tensor.to, tensor, _CPU, None, None, copy=False)

    def _do_pin_memory(self, func: Any, tensor: Tensor, *_: Any) -> Tensor:
        if self._cards.place(tensor).type != "cpu":
            raise RuntimeError("cannot pin 'torch.cuda.FloatTensor' only dense CPU tensors can be")
        return tensor if self._cards.is_pinned(tensor) else self._cards.pin(tensor.clone())

    def _do_is_pinned(self, func: Any, tensor: Tensor, *_: Any) -> bool:
        return self._cards.is_pinned(tensor)

    def _do_record_stream(self, func: Any, tensor: Tensor, stream: Any) -> None:
        if self._cards.place(tensor).type != "cuda":
            raise NotImplementedError("Could not run 'aten::record_stream' on the CPU")

    def _do___deepcopy__(self, func: Any, tensor: Tensor, memo: Any) -> Tensor:
        return self._cards.put(func(tensor, memo), self._cards.place(tensor))

    def _do_get_device(self, func: Any, tensor: Tensor) -> int:
        return self._cards.place(tensor).index if self._cards.place(tensor).index else 0

    def _do_numpy(self, func: Any, tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        if self._cards.place(tensor).type != "cpu":
            raise TypeError("can't convert cuda device type tensor to numpy; use Tensor.cpu()")
        return func(tensor, *args, **kwargs)

    _do___array__ = _do_numpy

    def _do___getitem__(self, func: Any, tensor: Tensor, index: Any) -> Any:
        """A card's tensor may be indexed by one of the CPU; the other way round by a number."""
        own = self._cards.place(tensor)
        places = {self._cards.place(one) for one in _tensors(index) if one.ndim} - {own, _CPU}
        self._check(places | {own}, "__getitem__")
        return self._put(func(tensor, index), own)

    def _do___setitem__(self, func: Any, tensor: Tensor, index: Any, value: Any) -> Any:
        own = self._cards.place(tensor)
        places = {self._cards.place(one) for one in _tensors(index)} - {own, _CPU}
        if isinstance(value, Tensor) and value.ndim:
            places.add(self._cards.place(value))
        self._check(places | {own}, "__setitem__")
        return func(tensor, index, value)

    def _operation(self, name: str, func: Any, args: Any, kwargs: Any) -> Any:
        wanted = kwargs.get("device")
        if wanted is not None and torch.device(wanted).type in ("cpu", "cuda"):
            return self._made(name, func, args, kwargs, self._cards.named(wanted))
        given = _tensors((args, kwargs))
        counted = [one for one in given if one.ndim or name in _STRICT]
        places = {self._cards.place(one) for one in counted}
        if not counted:
            # of two numbers the card's says where
            places = {max((self._cards.place(one) for one in given), key=str)} if given else set()
        if len({one for one in places if one.type == "cuda"}) == 0:
            # a number on a card is no number for the CPU
            places |= {place for one in given if (place := self._cards.place(one)).type == "cuda"}
        if name not in _ACROSS:
            self._check(places, name)
        if (noise := kwargs.get("generator")) is not None and "cuda" in {p.type for p in places}:
            self._check_generator(noise, "cuda")
        pinned = kwargs.get("pin_memory") is True
        made = func(*args, **(_without(kwargs, "pin_memory") if pinned else kwargs))
        if pinned:
            self._cards.pin(made)
        return made if name in _ACROSS or not places else self._put(made, min(places, key=str))

    def _made(self, name: str, func: Any, args: Any, kwargs: Any, wanted: torch.device) -> Any:
        """A new tensor on a device that the call names."""
        if (noise := kwargs.get("generator")) is not None:
            self._check_generator(noise, wanted.type)
        given = {self._cards.place(one) for one in _tensors(args)}
        pinned = kwargs.get("pin_memory") is True
        made = func(*args, **(_without(kwargs, "pin_memory") | {"device": "cpu"}))
        if name in ("as_tensor", "asarray") and given and given != {wanted}:
            made = made.clone()
        return self._cards.pin(made) if pinned else self._cards.put(made, wanted)

    def _put(self, made: Any, device: torch.device) -> Any:
        for one in _tensors(made):
            self._cards.put(one, device)
        return made

    def _check(self, places: set[torch.device], name: str) -> None:
        if len({one for one in places if one.type != "meta"}) > 1:
            found = ", ".join(sorted(map(str, places)))
            self._cards.foreign.append(f"{name}: {found}")
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but found at least two devices, "
                f"{found}! ({name})"
            )

    def _check_generator(self, noise: torch.Generator, wanted: str) -> None:
        if noise.device.type != wanted:
            self._cards.foreign.append(f"generator: {noise.device}, {wanted}")
            raise RuntimeError(
                f"Expected a '{wanted}' device type for generator but found '{noise.device.type}'"
            )


class _Stream:
    """Everything is done at once, so there is nothing to wait for."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def synchronize(self) -> None:
        """Nothing is under way."""

    wait_stream = wait_event = record_event = lambda self, *_: None


def _tensors(values: Any) -> list[Tensor]:
    return [one for one in tree_leaves(values) if isinstance(one, Tensor)]


def _inner(tensor: Tensor) -> list[Tensor]:
    """What a tensor is made of that has no memory of its own."""
    if not hasattr(tensor, "__tensor_flatten__"):
        return []
    return [getattr(tensor, name) for name in tensor.__tensor_flatten__()[0]]


def _without(kwargs: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in kwargs.items() if key != name}


@contextmanager
def cards(count: int = 2) -> Iterator[Cards]:
    """So many cards are there, for this thread and all that begin within."""
    made = Cards(count)
    run = threading.Thread.run

    def looked_at(self: threading.Thread) -> None:
        with _Card(made):
            run(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading.Thread, "run", looked_at)
        for name, value in _functions(made).items():
            patch.setattr(torch.cuda, name, value)
        patch.setattr(
            torch.accelerator, "current_accelerator", lambda *_, **__: torch.device("cuda")
        )
        patch.setattr(torch.accelerator, "is_available", lambda: True)
        with _Card(made):
            yield made


def _functions(made: Cards) -> dict[str, Any]:
    """What `torch.cuda` answers."""

    def set_device(wanted: Any) -> None:
        made.current = made.named(wanted).index

    @contextmanager
    def device(wanted: Any) -> Iterator[None]:
        before = made.current
        set_device(wanted)
        try:
            yield
        finally:
            made.current = before

    def reset(wanted: Any = "cuda") -> None:
        made.peaks[made.named(wanted).index] = made.held_bytes(wanted)

    def peak(wanted: Any = "cuda") -> int:
        return made.peaks[made.named(wanted).index]

    def free(wanted: Any = "cuda") -> tuple[int, int]:
        return CARD_BYTES - made.held_bytes(wanted), CARD_BYTES

    return {
        "_lazy_init": lambda: None,
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "device_count": lambda: made.count,
        "current_device": lambda: made.current,
        "set_device": set_device,
        "device": device,
        "get_device_name": lambda wanted=None: "a card that is not there",
        "mem_get_info": free,
        "memory_allocated": made.held_bytes,
        "memory_reserved": made.held_bytes,
        "max_memory_allocated": peak,
        "reset_peak_memory_stats": reset,
        "empty_cache": lambda: None,
        "synchronize": lambda wanted=None: None,
        "Stream": _Stream,
        "Event": _Stream,
        "current_stream": lambda wanted=None: _Stream(),
        "default_stream": lambda wanted=None: _Stream(),
        "stream": lambda one: nullcontext(),
    }
