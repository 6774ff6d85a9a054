"""What the devices have to do, as far as it was handed to them. No torch here."""

from __future__ import annotations

import threading
from collections import Counter

from inference.status import DeviceStatus, ModelState

# What a model that has to come first costs, in pictures: a device that is idle but for its coming
# is chosen once the others have so many more to make.
COMING_IMAGES = 8
# Where it failed lately, or nobody works, only where there is no other.
_HOPELESS_IMAGES = 1e9


class Balance:
    """Unfinished pictures by device and model, from their handing over on; for any thread."""

    def __init__(self, devices: int, silence_seconds: float) -> None:
        self._unfinished: list[Counter[str]] = [Counter() for _ in range(devices)]
        self._silence_seconds = silence_seconds
        self._lock = threading.Lock()

    def hand(self, device: int, model: str, images: int) -> None:
        """So many pictures were handed to a device."""
        with self._lock:
            self._unfinished[device][model] += images

    def end(self, device: int, model: str) -> None:
        """One of them has ended, in whatever way."""
        with self._lock:
            self._unfinished[device][model] -= 1

    def burden(self, device: int, status: DeviceStatus, model: str) -> float:
        """What lies before a picture of a model that came now, in pictures."""
        with self._lock:
            images, own = self._unfinished[device].total(), self._unfinished[device][model]
        found = next((one for one in status.models if one.name == model), None)
        hangs = status.idle_seconds > self._silence_seconds
        if not status.alive or hangs or (found is not None and found.is_barred):
            return images + _HOPELESS_IMAGES
        is_here = found is not None and found.state in (ModelState.READY, ModelState.LOADING)
        is_coming = own > 0 or is_here
        return images + (0 if is_coming else COMING_IMAGES)
