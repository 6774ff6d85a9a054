"""Which devices each model may be on, and what each of them loads first. No torch here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from inference.catalog import Catalog
from inference.errors import Unsupported
from inference.model_spec import ModelSpec


class Homes:
    """What models.yaml says of an engine's devices, which go by their numbers here."""

    def __init__(self, catalog: Catalog, devices: Sequence[str]) -> None:
        self._catalog = catalog
        self._devices = devices
        self._homes = {name: tuple(self._of(spec)) for name, spec in catalog.models.items()}
        wanted = {name: self._homes[name] for name, spec in catalog.models.items() if spec.preload}
        self._dealt = deal(wanted, len(devices))

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
        pinned = [name for name, spec in models.items() if spec.pin]
        order = dict.fromkeys([*pinned, *self._dealt[device], *models])
        own = {name: models[name] for name in order if device in self._homes[name]}
        return self._catalog.model_copy(update={"models": own})

    def _of(self, spec: ModelSpec) -> Iterator[int]:
        if set(spec.devices) <= set(self._devices):
            for number, device in enumerate(self._devices):
                if not spec.devices or device in spec.devices:
                    yield number

    def _there_are(self) -> str:
        return f"the devices are: {', '.join(dict.fromkeys(self._devices))}"


def deal(homes: Mapping[str, Sequence[int]], devices: int) -> list[list[str]]:
    """By device, the order in which it takes the models that may be there: its share first.

    Each model goes in turn to the device that has the fewest; in the next round to another of its
    devices, and so on, until all have all.
    """
    dealt: list[list[str]] = [[] for _ in range(devices)]
    for _ in range(devices):
        for name, numbers in homes.items():
            left = [one for one in numbers if name not in dealt[one]]
            if left:
                dealt[min(left, key=lambda one: len(dealt[one]))].append(name)
    return dealt
