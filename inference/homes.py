"""Which devices each model may be on, and what each of them loads first. No torch here."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from statistics import median_low

from inference.catalog import Catalog
from inference.errors import Unsupported
from inference.model_spec import ModelSpec
from inference.residency.standing import Parts

# What a model would take of a device, by the content of its parts; empty where nobody knows.
Weigh = Callable[[ModelSpec, str], Parts]


def _unknown(spec: ModelSpec, device: str) -> Parts:
    return {}


class Homes:
    """What models.yaml says of an engine's devices, which go by their numbers here."""

    def __init__(self, catalog: Catalog, devices: Sequence[str], weigh: Weigh = _unknown) -> None:
        self._catalog = catalog
        self._devices = devices
        self._homes = {name: tuple(self._of(spec)) for name, spec in catalog.models.items()}
        self._dealt = self._deal(weigh)

    def of(self, model: str) -> tuple[int, ...]:
        """The devices a model may be on: none where it names another, all if it is not served."""
        return self._homes.get(model, tuple(range(len(self._devices))))

    def named(self, model: str, device: str | None) -> tuple[int, ...]:
        """Those of them that a name means, all without one; raises Unsupported where none is."""
        homes = self.of(model)
        if not homes:
            raise Unsupported("model", self.reason(model))
        if device is None:
            return homes
        if device not in self._devices:
            raise Unsupported("device", f"no device {device!r} here; {self._there_are()}")
        found = tuple(one for one in homes if self._devices[one] == device)
        if not found:
            only = ", ".join(self._catalog.models[model].devices)
            raise Unsupported("device", f"{model!r} is served on {only} alone")
        return found

    def homeless(self) -> dict[str, str]:
        """The models that no device may have, and why."""
        return {name: self.reason(name) for name, homes in self._homes.items() if not homes}

    def reason(self, model: str) -> str:
        """Why no device may have it."""
        wrong = [one for one in self._catalog.models[model].devices if one not in self._devices]
        return f"{model} is to be on {', '.join(wrong)}, which is not here; {self._there_are()}"

    def catalog_of(self, device: int) -> Catalog:
        """What a device serves, in the order it is to be loaded: first what stays."""
        models = self._catalog.models
        order = dict.fromkeys([*self._dealt[device], *models])
        own = {name: models[name] for name in order if device in self._homes[name]}
        return self._catalog.model_copy(update={"models": own})

    def _of(self, spec: ModelSpec) -> Iterator[int]:
        if set(spec.devices) <= set(self._devices):
            for number, device in enumerate(self._devices):
                if not spec.devices or device in spec.devices:
                    yield number

    def _deal(self, weigh: Weigh) -> list[list[str]]:
        models = self._catalog.models
        asked = [name for name, spec in models.items() if spec.pin or spec.preload]
        homes = {name: self._homes[name] for name in asked if self._homes[name]}
        # one device takes them as the file has them
        is_choice = len(self._devices) > 1
        # where it may be on devices of two kinds, the first is near enough to compare by
        first = {name: self._devices[homes[name][0]] for name in homes if is_choice}
        parts = {name: weigh(models[name], device) for name, device in first.items()}
        pinned = [name for name in homes if models[name].pin]
        return deal(homes, parts, len(self._devices), pinned)

    def _there_are(self) -> str:
        return f"the devices are: {', '.join(dict.fromkeys(self._devices))}"


def deal(
    homes: Mapping[str, Sequence[int]],
    parts: Mapping[str, Parts],
    devices: int,
    pinned: Sequence[str] = (),
) -> list[list[str]]:
    """By device, the order in which it takes the models that may be there: its share first.

    What is pinned is on all of its devices. Then each model, the largest first, goes to the device
    that holds the fewest bytes with it; in the next round to another of its devices, and so on,
    until all have all. A size that nobody knows is taken for the median of the others.
    """
    known = _all_known(homes, parts)
    held: list[dict[Hashable, int]] = [{} for _ in range(devices)]
    dealt: list[list[str]] = [[] for _ in range(devices)]

    def place(name: str, device: int) -> None:
        held[device].update(known[name])
        dealt[device].append(name)

    def bytes_with(name: str, device: int) -> tuple[int, int]:
        return sum({**held[device], **known[name]}.values()), len(dealt[device])

    for name in pinned:
        for device in homes[name]:
            place(name, device)
    largest_first = sorted(homes, key=lambda name: -sum(known[name].values()))
    for _ in range(devices):
        for name in largest_first:
            if left := [one for one in homes[name] if name not in dealt[one]]:
                place(name, min(left, key=lambda one: bytes_with(name, one)))
    return dealt


def _all_known(
    homes: Mapping[str, Sequence[int]], parts: Mapping[str, Parts]
) -> dict[str, Mapping[Hashable, int]]:
    sizes = [size for name in homes if (size := sum(parts.get(name, {}).values()))]
    usual = median_low(sizes) if sizes else 1
    return {name: parts.get(name) or {("unknown", name): usual} for name in homes}
