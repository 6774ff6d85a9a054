"""What an operator watches, in Prometheus' words; nothing else knows the library.

No label holds what a caller wrote: models are those of models.yaml, kinds and states those of the
code, routes the templates of paths. So the number of series is bounded.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.store.outbox import Backlog
from api.submit import QueueStatus
from api.tally import Tally
from api.tasks import Task
from api.versions import version_of
from inference.status import DeviceStatus, EngineStatus, ModelState

TASK_BUCKETS = (0.1, 0.3, 1, 2, 5, 10, 20, 40, 80, 160, 320, 640, 1800, 3600)
HTTP_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

# What the fields of a device's status say; the series have their names.
DEVICE_GAUGES = {
    "alive": "Whether the device's worker lives.",
    "idle_seconds": "Seconds since the worker last showed a sign of life.",
    "running_images": "Pictures in the making.",
    "waiting_images": "Pictures that wait inside the engine.",
    "memory_bytes": "What models may take of the device.",
    "used_memory_bytes": "What models take of the device.",
    "ram_bytes": "What copies of models may take of RAM.",
    "used_ram_bytes": "What copies of models take of RAM.",
}
DEVICE_COUNTERS = {
    "swaps": "Models that had to leave for others.",
    "restarts": "Processes of the device that were started again.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What the services know at this moment; None is what could not be had.

    `checks` holds "ok" or the reason by the name of what was looked at.
    """

    engine: EngineStatus
    checks: Mapping[str, str]
    queue: QueueStatus | None
    webhooks: Backlog | None
    free_bytes: int | None


class Metrics(Tally):
    """Counts what passes through this process, in a registry of its own."""

    def __init__(self, models: Iterable[str], now_ms: Callable[[], int]) -> None:
        # a second series beside each counter that says when it began
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._models = frozenset(models)
        self._now_ms = now_ms
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        Info("darkroom_build", "What this is.", registry=self._registry).info(_build())

        def counter(name: str, says: str, *labels: str) -> Counter:
            return Counter(f"darkroom_{name}", says, labels, registry=self._registry)

        def histogram(name: str, says: str, *labels: str, buckets: Sequence[float]) -> Histogram:
            return Histogram(
                f"darkroom_{name}", says, labels, registry=self._registry, buckets=buckets
            )

        of_task = ("model", "dialect")
        self._accepted = counter("tasks_accepted", "Tasks accepted.", *of_task)
        self._ended = counter("tasks_ended", "Tasks ended, by their last state.", *of_task, "state")
        self._made = counter("images_made", "Pictures made and stored.", "model")
        self._failed = counter(
            "images_failed",
            "Pictures that will not be made, by the kind of reason.",
            "model",
            "kind",
        )
        self._attempted = counter(
            "webhook_attempts", "Webhooks sent, by what came of it.", "dialect", "outcome"
        )
        self._refused = counter("refusals", "Requests refused, by kind.", "dialect", "kind")
        self._requests = counter(
            "http_requests", "Requests, by template of path.", "route", "method", "status"
        )
        self._first_step = histogram(
            "task_first_step_seconds",
            "From acceptance to the first step, once in each attempt.",
            "model",
            buckets=TASK_BUCKETS,
        )
        self._whole = histogram(
            "task_seconds", "From acceptance to the end.", "model", "state", buckets=TASK_BUCKETS
        )
        self._image_seconds = histogram(
            "image_engine_seconds",
            "From a picture's start in the engine to its end there.",
            "model",
            buckets=TASK_BUCKETS,
        )
        self._request_seconds = histogram(
            "http_request_seconds",
            "From a request's head to that of its reply.",
            "route",
            "method",
            buckets=HTTP_BUCKETS,
        )

    def accepted(self, task: Task) -> None:
        """Count a new task."""
        self._accepted.labels(self._model(task), task.dialect).inc()

    def stepped(self, task: Task) -> None:
        """Time the first step; on any thread."""
        seconds = (self._now_ms() - task.created_ms) / 1000
        self._first_step.labels(self._model(task)).observe(max(seconds, 0.0))

    def made(self, task: Task, *, engine_seconds: float) -> None:
        """Count a picture."""
        model = self._model(task)
        self._made.labels(model).inc()
        self._image_seconds.labels(model).observe(engine_seconds)

    def failed(self, task: Task, kind: str) -> None:
        """Count a picture that will not be."""
        self._failed.labels(self._model(task), kind).inc()

    def ended(self, task: Task) -> None:
        """Count and time a task that has ended."""
        model, ended_ms = self._model(task), task.finished_ms or self._now_ms()
        self._ended.labels(model, task.dialect, task.state.value).inc()
        seconds = (ended_ms - task.created_ms) / 1000
        self._whole.labels(model, task.state.value).observe(max(seconds, 0.0))

    def attempted(self, dialect: str, outcome: str) -> None:
        """Count an attempt to deliver a webhook."""
        self._attempted.labels(dialect, outcome).inc()

    def refused(self, dialect: str, kind: str) -> None:
        """Count a refusal."""
        self._refused.labels(dialect, kind).inc()

    def passed(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count and time a request; status 0 is that of a caller who left before the reply."""
        method = method if method in METHODS else "other"
        told = f"{status // 100}xx" if status else "none"
        self._requests.labels(route, method, told).inc()
        self._request_seconds.labels(route, method).observe(seconds)

    def text(self, reading: Reading, accept: str) -> tuple[bytes, str]:
        """Everything in the format that the reader takes, and the format's media type."""
        encode, media_type = choose_encoder(accept)
        return encode(_Both(self._registry, reading)), media_type

    def _model(self, task: Task) -> str:
        """The task's model, empty if it has none, or one that is in models.yaml no more."""
        return task.job.model if task.job.model in self._models else ""


class Timed:
    """Tells of every request, once it is over, how it went."""

    def __init__(self, app: ASGIApp, *, passed: Callable[[str, str, int, float], None]) -> None:
        self.app = app
        self.passed = passed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun, seconds, status = time.perf_counter(), None, 0

        async def send_timed(message: Message) -> None:
            nonlocal seconds, status
            if message["type"] == "http.response.start":
                # A stream goes on for as long as its task does.
                seconds, status = time.perf_counter() - begun, message["status"]
            await send(message)

        try:
            await self.app(scope, receive, send_timed)
        finally:
            seconds = time.perf_counter() - begun if seconds is None else seconds
            self.passed(_template(scope), scope["method"], status, seconds)


def _build() -> dict[str, str]:
    packages = {package: version_of(package) for package in ("torch", "diffusers")}
    return {"version": version_of("darkroom"), "python": platform.python_version()} | packages


def _template(scope: Scope) -> str:
    """The route as it is declared, without its dialect's alias; empty where there is none."""
    return getattr(scope.get("route"), "path", "")


class _Both(Collector):
    """What was counted, and what is known now."""

    def __init__(self, counted: Collector, reading: Reading) -> None:
        self._counted = counted
        self._reading = reading

    def collect(self) -> Iterable[Metric]:
        yield from self._counted.collect()
        yield from _of_devices(self._reading.engine.devices)
        yield from _of_service(self._reading)


def _of_devices(devices: Sequence[DeviceStatus]) -> Iterable[Metric]:
    for field, says in DEVICE_GAUGES.items():
        gauge = GaugeMetricFamily(f"darkroom_device_{field}", says, labels=["device"])
        for device in devices:
            gauge.add_metric([device.device], getattr(device, field))
        yield gauge
    for field, says in DEVICE_COUNTERS.items():
        counter = CounterMetricFamily(f"darkroom_device_{field}", says, labels=["device"])
        for device in devices:
            counter.add_metric([device.device], getattr(device, field))
        yield counter
    states = GaugeMetricFamily(
        "darkroom_model_state",
        "1 for the state that a model is in, 0 for the others.",
        labels=["device", "model", "state"],
    )
    for device in devices:
        for model in device.models:
            for state in ModelState:
                labels = [device.device, model.name, state.value]
                states.add_metric(labels, float(model.state is state))
    yield states


def _of_service(reading: Reading) -> Iterable[Metric]:
    checks = GaugeMetricFamily(
        "darkroom_check_ok", "What /readyz looks at, 1 where it is well.", labels=["check"]
    )
    for name, found in reading.checks.items():
        checks.add_metric([name], float(found == "ok"))
    yield checks
    if reading.free_bytes is not None:
        says = "What the disk of the data folder has left."
        yield GaugeMetricFamily("darkroom_data_free_bytes", says, reading.free_bytes)
    if (queue := reading.queue) is not None:
        tasks = GaugeMetricFamily(
            "darkroom_queue_tasks", "Unfinished tasks in the database.", labels=["state"]
        )
        tasks.add_metric(["queued"], queue.queued_tasks)
        tasks.add_metric(["running"], queue.running_tasks)
        yield tasks
        says = "Pictures of unfinished tasks in the database."
        yield GaugeMetricFamily("darkroom_queue_images", says, queue.unfinished_images)
    if (webhooks := reading.webhooks) is not None:
        says = "Webhook messages in the database that are not settled."
        yield GaugeMetricFamily("darkroom_webhooks_waiting", says, webhooks.waiting)
        says = "Those of them whose time has come."
        yield GaugeMetricFamily("darkroom_webhooks_due", says, webhooks.due)
