"""GET /metrics: a real scrape, read by Prometheus' own parser."""

from __future__ import annotations

import asyncio
import platform
import re
import secrets
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx2
import prometheus_client
import pytest
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from api.accounts import Scope
from api.build import build
from api.idempotency import Once
from api.metrics import Metrics, Reading
from api.orders import Order
from api.services import Services
from api.settings import Settings
from api.store import Submission
from api.tasks import Delivery, Task, TaskState
from inference.errors import OutOfMemory, PipelineFailed
from inference.job import ImageRequest
from inference.status import DeviceStatus, EngineStatus, ModelState, ModelStatus
from tests.api.http.served import ROOT, Served, bearer, make_key, serving, until
from tests.api.making import Clock, inserted, job_of, open_store
from tests.api.scripted import ScriptedEngine

HERE = "/darkroom/generations"
OF_TASK = {"model": "tiny-flux", "dialect": "darkroom"}
UNUSUAL = ("TRACE", "PROPFIND", "MKCOL", "LOCK", "PURGE", "REPORT")
NEW_TASK = Task(
    id="one",
    dialect="darkroom",
    account="",
    state=TaskState.QUEUED,
    request=ImageRequest(model="paint", prompt="a"),
    job=job_of("one"),
    credits=0,
    attempt=0,
    created_ms=1000,
    started_ms=None,
    finished_ms=None,
    cancel_requested=False,
    error_kind=None,
    error_message=None,
    outputs=(),
)
NOTHING_KNOWN = Reading(
    engine=EngineStatus(devices=()), checks={}, queue=None, webhooks=None, free_bytes=None
)
Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def series(text: str) -> Series:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def scraped(client: httpx2.Client, headers: dict[str, str] | None = None) -> Series:
    reply = client.get("/metrics", headers=headers)
    assert reply.status_code == 200, reply.text
    return series(reply.text)


class Watched:
    """A server's metrics, as what they have grown by."""

    def __init__(self, served: Served, headers: dict[str, str] | None = None) -> None:
        self._served, self._headers = served, headers
        self._before = scraped(served.client, headers)

    def grown(self, name: str, **labels: str) -> float:
        key = (f"darkroom_{name}", frozenset(labels.items()))
        now = scraped(self._served.client, self._headers)
        return now.get(key, 0.0) - self._before.get(key, 0.0)

    def total(self, name: str) -> float:
        """All series of a name together."""

        def sum_of(found: Series) -> float:
            return sum(value for (one, _), value in found.items() if one == f"darkroom_{name}")

        return sum_of(scraped(self._served.client, self._headers)) - sum_of(self._before)

    def until_grown(self, by: float, name: str, **labels: str) -> None:
        # A reply may overtake the counting by a moment: the record comes first.
        until(lambda: self.grown(name, **labels) == by)


@pytest.fixture
def watched(served: Served) -> Watched:
    return Watched(served)


def fail(served: Served, *indexes: int) -> None:
    served.script.fails = lambda job, index: (
        PipelineFailed("it broke") if index in indexes else None
    )


def test_what_went_well_is_counted_and_timed(served: Served, watched: Watched) -> None:
    served.make(count=3)

    model = {"model": "tiny-flux"}
    watched.until_grown(1, "tasks_ended_total", **OF_TASK, state="succeeded")
    assert watched.total("tasks_ended_total") == 1
    assert watched.grown("tasks_accepted_total", **OF_TASK) == 1
    assert watched.grown("images_made_total", **model) == 3
    assert watched.total("images_failed_total") == 0
    assert watched.grown("task_first_step_seconds_count", **model) == 1
    assert watched.grown("image_engine_seconds_count", **model) == 3
    assert watched.grown("image_engine_seconds_sum", **model) == pytest.approx(0.03)
    assert watched.grown("task_seconds_count", **model, state="succeeded") == 1
    assert 0 <= watched.grown("task_seconds_sum", **model, state="succeeded") < 60


def test_times_begin_with_acceptance(served: Served, watched: Watched) -> None:
    served.script.gate.clear()
    task_id = served.client.post(HERE, json={"prompt": "a"}).json()["id"]
    until(lambda: watched.grown("queue_tasks", state="running") == 1)
    assert watched.total("task_first_step_seconds_count") == 0, "step 0 is none"
    time.sleep(0.4)
    served.script.gate.set()
    served.end(task_id)

    watched.until_grown(1, "task_seconds_count", model="tiny-flux", state="succeeded")
    first = watched.grown("task_first_step_seconds_sum", model="tiny-flux")
    whole = watched.grown("task_seconds_sum", model="tiny-flux", state="succeeded")
    assert 0.4 <= first <= whole + 0.01 < 30
    assert watched.grown("image_engine_seconds_sum", model="tiny-flux") == pytest.approx(0.01)


def test_a_failed_task_is_counted_with_its_reason(served: Served, watched: Watched) -> None:
    served.script.fails = lambda job, index: OutOfMemory("too big")
    served.make(count=1)

    watched.until_grown(1, "tasks_ended_total", **OF_TASK, state="failed")
    assert watched.grown("images_failed_total", model="tiny-flux", kind="out_of_memory") == 1
    assert watched.total("images_made_total") == 0
    assert watched.total("image_engine_seconds_count") == 0
    assert watched.grown("task_seconds_count", model="tiny-flux", state="failed") == 1


def test_of_a_task_that_is_all_or_nothing_the_picture_at_fault_is_counted(
    served: Served, watched: Watched
) -> None:
    fail(served, 0)
    body = {"prompt": "a", "n": 3}
    assert served.client.post("/openai/v1/images/generations", json=body).status_code >= 400

    labels = {"model": "tiny-flux", "dialect": "openai"}
    watched.until_grown(1, "tasks_ended_total", **labels, state="failed")
    assert watched.grown("images_failed_total", model="tiny-flux", kind="pipeline_failed") == 1
    assert watched.total("images_failed_total") == 1


def test_pictures_of_a_partial_task_are_counted_each(served: Served, watched: Watched) -> None:
    fail(served, 1)
    told = served.make(count=3)
    assert told["state"] == "succeeded"

    watched.until_grown(1, "tasks_ended_total", **OF_TASK, state="succeeded")
    assert watched.grown("images_made_total", model="tiny-flux") == 2
    assert watched.grown("images_failed_total", model="tiny-flux", kind="pipeline_failed") == 1
    assert watched.total("images_failed_total") == 1


def test_cancelled_tasks_are_counted_whether_they_ran_or_not(tmp_path: Path) -> None:
    with serving(tmp_path, images_in_flight=1) as served:
        watched = Watched(served)
        served.script.gate.clear()
        running = served.client.post(HERE, json={"prompt": "a"}).json()["id"]
        until(lambda: watched.grown("queue_tasks", state="running") == 1)
        queued = served.client.post(HERE, json={"prompt": "a", "count": 2}).json()["id"]
        assert watched.grown("queue_tasks", state="queued") == 1
        assert watched.grown("queue_images") == 3
        for task_id in (queued, running):
            served.client.post(f"{HERE}/{task_id}/cancel")
            served.end(task_id)

        watched.until_grown(2, "tasks_ended_total", **OF_TASK, state="cancelled")
        assert watched.total("tasks_ended_total") == 2
        assert watched.total("images_made_total") == watched.total("images_failed_total") == 0
        assert watched.grown("queue_images") == 0


def test_the_dialect_is_that_of_the_request(served: Served, watched: Watched) -> None:
    body = {"model": "auto", "prompt": "a"}
    assert served.client.post("/openai/v1/images/generations", json=body).status_code == 200

    labels = {"model": "tiny-flux", "dialect": "openai"}
    watched.until_grown(1, "tasks_ended_total", **labels, state="succeeded")
    assert watched.grown("tasks_accepted_total", **labels) == 1


def test_a_request_that_counts_once_is_counted_once(served: Served, watched: Watched) -> None:
    headers = {"Idempotency-Key": secrets.token_hex(8)}
    for _ in range(2):
        assert served.client.post(HERE, json={"prompt": "a"}, headers=headers).is_success

    watched.until_grown(1, "tasks_ended_total", **OF_TASK, state="succeeded")
    assert watched.grown("tasks_accepted_total", **OF_TASK) == 1


async def test_of_requests_that_count_once_and_race_one_counts(tmp_path: Path) -> None:
    services = built(tmp_path, ScriptedEngine())
    await services.start()
    try:
        order = Order(request=ImageRequest(model="tiny-flux", prompt="a"), dialect="darkroom")
        once = Once(route="race", key="one", fingerprint="same")
        asked = (services.darkroom.submit(order, once=once) for _ in range(8))
        accepted = await asyncio.gather(*asked)
        found = series(await text_of(services))
    finally:
        await services.stop()

    assert len({one.task.id for one in accepted}) == 1
    assert found["darkroom_tasks_accepted_total", frozenset(OF_TASK.items())] == 1


async def test_what_a_start_gives_up_is_counted(tmp_path: Path) -> None:
    """Its callers went with the process that they waited at."""
    task = NEW_TASK.job
    given = Submission(
        dialect="openai",
        request=NEW_TASK.request,
        job=replace(task, model="tiny-flux"),
        credits=0,
        delivery=Delivery(in_reply=True),
    )
    store = open_store(tmp_path / "darkroom.db")
    await inserted(store, given)
    await store.close()
    services = built(tmp_path, ScriptedEngine())
    await services.start()
    try:
        found = series(await text_of(services))
    finally:
        await services.stop()
    labels = {"model": "tiny-flux", "dialect": "openai", "state": "cancelled"}
    assert found["darkroom_tasks_ended_total", frozenset(labels.items())] == 1


def test_it_says_which_versions_run(client: httpx2.Client) -> None:
    (told,) = [dict(labels) for name, labels in scraped(client) if name == "darkroom_build_info"]
    packages = {"version": "darkroom", "torch": "torch", "diffusers": "diffusers"}
    expected = {label: version(package) for label, package in packages.items()}
    assert told == expected | {"python": platform.python_version()}


def test_webhooks_are_counted_by_what_came_of_them() -> None:
    metrics = Metrics(["paint"], Clock())
    for outcome in ("delivered", "postponed", "delivered"):
        metrics.attempted("mynth", outcome)
    found = series(metrics.text(NOTHING_KNOWN, "")[0].decode())
    counts = {
        dict(labels)["outcome"]: value
        for (name, labels), value in found.items()
        if name == "darkroom_webhook_attempts_total" and ("dialect", "mynth") in labels
    }
    assert counts == {"delivered": 2, "postponed": 1}


def test_refusals_are_counted_by_kind(served: Served, watched: Watched) -> None:
    served.client.post(HERE, json={"prompt": "a", "nothing": 1})
    served.client.post(HERE, json={"prompt": "a", "model": "no-such"})
    served.client.post("/openai/v1/images/generations", json={"prompt": 1})
    served.client.get("/darkroom/queue", headers={"Host": "evil.example"})
    served.client.delete("/livez")

    assert watched.grown("refusals_total", dialect="darkroom", kind="bad_request") == 1
    assert watched.grown("refusals_total", dialect="darkroom", kind="unknown_model") == 1
    assert watched.grown("refusals_total", dialect="openai", kind="bad_request") == 1
    assert watched.grown("refusals_total", dialect="darkroom", kind="forbidden") == 1
    assert watched.grown("refusals_total", dialect="darkroom", kind="method_not_allowed") == 1
    assert watched.total("refusals_total") == 5
    assert watched.total("tasks_accepted_total") == 0


def test_a_full_disk_and_want_of_credits_are_refusals(tmp_path: Path) -> None:
    text = make_key(tmp_path, "boss", scopes=frozenset(Scope))
    boss = bearer(text)
    poor = bearer(make_key(tmp_path, "poor", credits=0))
    often = bearer(make_key(tmp_path, "often", rate_per_minute=1))
    with serving(tmp_path, max_account_tasks=1) as served:
        watched = Watched(served, boss)
        served.script.gate.clear()
        for headers in (poor, often, often, boss, boss):
            served.client.post(HERE, json={"prompt": "a"}, headers=headers)
        found = {
            kind: watched.grown("refusals_total", dialect="darkroom", kind=kind)
            for kind in ("no_credits", "rate_limited", "queue_full")
        }
        assert found == {"no_credits": 1, "rate_limited": 1, "queue_full": 1}
    with serving(tmp_path, disk_floor_bytes=2**62) as served:
        watched = Watched(served, boss)
        assert served.client.post(HERE, json={"prompt": "a"}, headers=boss).status_code == 503
        assert watched.grown("refusals_total", dialect="darkroom", kind="unavailable") == 1
        checks = scraped(served.client, boss)
        assert checks["darkroom_check_ok", frozenset({("check", "disk")})] == 0
        assert checks["darkroom_check_ok", frozenset({("check", "database")})] == 1


def test_requests_are_counted_by_template_method_and_class(served: Served) -> None:
    task_id = served.make()["id"]
    watched = Watched(served)
    for path in (task_id, task_id, "tsk_unknown"):
        served.client.get(f"{HERE}/{path}")
    served.client.get("/modelmux/api/v1/generations/none-of-that")

    route = {"route": HERE + "/{task_id}", "method": "GET"}
    watched.until_grown(3, "http_request_seconds_count", **route)
    assert watched.grown("http_requests_total", **route, status="2xx") == 2
    assert watched.grown("http_requests_total", **route, status="4xx") == 1
    assert 0 < watched.grown("http_request_seconds_sum", **route) < 30


def test_a_request_is_timed_to_its_head(served: Served, watched: Watched) -> None:
    """However long a stream goes on."""
    served.script.gate.clear()
    task_id = served.client.post(HERE, json={"prompt": "a"}).json()["id"]
    asked = time.monotonic()
    with served.client.stream("GET", f"{HERE}/{task_id}/events") as stream:
        head_seconds = time.monotonic() - asked
        assert stream.status_code == 200
        time.sleep(0.5)
        served.script.gate.set()
        stream.read()

    route = {"route": HERE + "/{task_id}/events", "method": "GET"}
    watched.until_grown(1, "http_request_seconds_count", **route)
    assert 0 < watched.grown("http_request_seconds_sum", **route) <= head_seconds


def test_no_request_makes_a_series_of_its_own(served: Served) -> None:
    def ask(number: int) -> None:
        path = secrets.token_urlsafe(6)
        for where in (f"/{path}", f"{HERE}/{path}", f"/v1/{path}/{path}", f"/playground/{path}"):
            served.client.get(where, headers={"x-request-id": path})
            served.client.request(UNUSUAL[number % len(UNUSUAL)], where)
        served.client.post(HERE, json={"prompt": "a", "model": path, path: 1})
        served.client.post(HERE, json={"prompt": "a", "model": path})

    ask(0)
    before = set(scraped(served.client))
    for number in range(1, 15):
        ask(number)

    assert set(scraped(served.client)) == before


def test_a_task_of_a_model_that_is_gone_has_an_empty_one() -> None:
    """Tasks outlive changes of models.yaml; each change would leave its names behind."""
    metrics = Metrics(["paint"], Clock(ms=5000))
    for name in ("paint", "gone"):
        job = job_of("one", model=name)
        metrics.accepted(replace(NEW_TASK, job=job))
        metrics.stepped(replace(NEW_TASK, job=job))
    found = series(metrics.text(NOTHING_KNOWN, "")[0].decode())

    labels = [dict(labels) for name, labels in found if name.startswith("darkroom_task")]
    models = {one["model"] for one in labels}
    assert models == {"paint", ""}
    assert found["darkroom_task_first_step_seconds_sum", frozenset({("model", "paint")})] == 4.0


def test_no_label_tells_who_asked_or_what_for(tmp_path: Path) -> None:
    account, label = "secretive", "whispered"
    text = make_key(tmp_path, account, label=label, scopes=frozenset(Scope))
    headers = bearer(text)
    with serving(tmp_path) as served:
        body = {"prompt": "a canary prompt", "negative_prompt": "a canary fear"}
        reply = served.client.post(HERE, json=body, headers=headers)
        task_id = reply.json()["id"]
        served.client.get(f"{HERE}/{task_id}?wait=60", headers=headers)
        served.client.get(f"{HERE}/{task_id}")
        scrape = served.client.get("/metrics", headers=headers).text
    assert "tiny-flux" in scrape
    for secret in ("canary", account, label, text, task_id, text.partition("_")[2]):
        assert secret not in scrape


def test_who_may_read(tmp_path: Path) -> None:
    with serving(tmp_path) as served:
        assert served.client.get("/metrics").status_code == 200, "an open server"
        keys = {
            scope: make_key(tmp_path, scope.value, scopes=frozenset({scope})) for scope in Scope
        }
        until(lambda: served.client.get("/metrics").status_code == 401)

        def status(scope: Scope, path: str = "/metrics") -> int:
            headers = {"Authorization": f"Bearer {keys[scope]}"}
            return served.client.get(path, headers=headers).status_code

        assert {scope: status(scope) for scope in Scope} == {
            Scope.USE: 403,
            Scope.ADMIN: 200,
            Scope.METRICS: 200,
        }
        wrong = served.client.get("/metrics", headers={"Authorization": "Bearer dk_nothing"})
        assert wrong.status_code == 401


@pytest.mark.parametrize(
    "path",
    [
        *(HERE, "/darkroom/queue", "/darkroom/account", "/darkroom/admin/keys", "/v1/models"),
        *("/api/v1/models/image", "/me", "/tasks", "/v1/images/generations"),
    ],
)
def test_a_key_for_metrics_reads_nothing_else(
    observed: tuple[Served, dict[str, str]], path: str
) -> None:
    served, headers = observed
    reads = served.client.get(path, headers=headers)
    asks = served.client.post(path, json={"prompt": "a"}, headers=headers)

    assert {reads.status_code, asks.status_code} <= {403, 404, 405}
    assert 403 in (reads.status_code, asks.status_code)


@pytest.fixture(scope="module")
def observed(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Served, dict[str, str]]]:
    folder = tmp_path_factory.mktemp("observed")
    text = make_key(folder, "prometheus", scopes=frozenset({Scope.METRICS}))
    with serving(folder) as served:
        yield served, bearer(text)


class Elaborate(ScriptedEngine):
    """Tells of two devices and a model on each."""

    def status(self) -> EngineStatus:
        device = {"name": "card", "running_images": 2, "waiting_images": 5, "idle_seconds": 0.5}
        sizes = {"memory_bytes": 100, "used_memory_bytes": 60, "ram_bytes": 9, "used_ram_bytes": 4}
        ready = ModelStatus(name="tiny-flux", state=ModelState.READY)
        broken = ModelStatus(name="tiny-flux", state=ModelState.FAILED, reason="/srv/secret")
        whole: dict[str, Any] = device | sizes
        return EngineStatus(
            devices=(
                DeviceStatus(
                    device="cuda:0", alive=True, swaps=7, restarts=3, models=(ready,), **whole
                ),
                DeviceStatus(device="cuda:1", alive=False, models=(broken,), **whole),
            )
        )


async def text_of(services: Services) -> str:
    body, media_type = await services.scraper.text("text/plain")
    assert media_type.startswith("text/plain; version=0.0.4")
    return body.decode()


def built(folder: Path, engine: ScriptedEngine) -> Services:
    settings = Settings(data_dir=folder, models=ROOT / "models.yaml", disk_floor_bytes=0)
    return build(settings, engine=engine)


async def test_devices_and_models_are_told_as_the_engine_does(tmp_path: Path) -> None:
    services = built(tmp_path, Elaborate())
    await services.start()
    try:
        text = await text_of(services)
    finally:
        await services.stop()
    found = series(text)

    def of(name: str, **labels: str) -> float:
        return found[f"darkroom_{name}", frozenset(labels.items())]

    expected = {
        **{"alive": 1, "idle_seconds": 0.5, "running_images": 2, "waiting_images": 5},
        **{"memory_bytes": 100, "used_memory_bytes": 60, "ram_bytes": 9, "used_ram_bytes": 4},
        **{"swaps_total": 7, "restarts_total": 3},
    }
    assert {name: of(f"device_{name}", device="cuda:0") for name in expected} == expected
    assert of("device_alive", device="cuda:1") == of("device_swaps_total", device="cuda:1") == 0
    for device, present in (("cuda:0", "ready"), ("cuda:1", "failed")):
        states = {
            state.value: of("model_state", device=device, model="tiny-flux", state=state.value)
            for state in ModelState
        }
        assert Counter(states) == Counter({present: 1}), device
    assert "/srv/secret" not in text


async def test_a_database_that_is_gone_costs_its_figures_alone(tmp_path: Path) -> None:
    services = built(tmp_path, Elaborate())
    await services.start()
    await services.stop()
    found = series(await text_of(services))

    assert found["darkroom_check_ok", frozenset({("check", "database")})] == 0
    assert found["darkroom_device_alive", frozenset({("device", "cuda:0")})] == 1
    names = {name for name, _ in found}
    assert not names & {"darkroom_queue_tasks", "darkroom_queue_images", "darkroom_webhooks_due"}


def test_every_application_counts_for_itself(served: Served, tmp_path: Path) -> None:
    with serving(tmp_path) as other:
        watched, unmoved = Watched(served), Watched(other)
        served.make()
        watched.until_grown(1, "tasks_ended_total", **OF_TASK, state="succeeded")
        assert unmoved.total("tasks_ended_total") == 0
    shared = prometheus_client.generate_latest().decode()
    assert "darkroom_" not in shared


def test_a_reader_gets_the_format_that_it_asks_for(served: Served) -> None:
    served.make()
    accept = {"Accept": "application/openmetrics-text; version=1.0.0, text/plain;q=0.5"}
    reply = served.client.get("/metrics", headers=accept)

    assert reply.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    names = {one.name for one in openmetrics.text_string_to_metric_families(reply.text)}
    assert "darkroom_tasks_accepted" in names
    plain = served.client.get("/metrics")
    assert plain.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"


def documented() -> dict[str, tuple[str, ...]]:
    """The labels of each metric by its name, as the page has them."""
    text = (ROOT / "docs/metrics.md").read_text()
    rows = re.findall(r"^\| `(darkroom_\w+)` \| ([^|]*)\|", text, re.M)
    return {name: tuple(sorted(re.findall(r"`(\w+)`", labels))) for name, labels in rows}


async def test_every_metric_is_documented_with_its_labels(tmp_path: Path) -> None:
    services = built(tmp_path, Elaborate())
    await services.start()
    try:
        text = await text_of(services)
        counted = {
            metric._name: metric._labelnames
            for metric in vars(services.metrics).values()
            if hasattr(metric, "_labelnames")
        }
    finally:
        await services.stop()
    found = {
        family.name + ("_total" if family.type == "counter" else ""): tuple(
            sorted({label for sample in family.samples for label in sample.labels})
        )
        for family in text_string_to_metric_families(text)
        if family.name.startswith("darkroom_")
    }
    for name in found:
        if (plain := name.removesuffix("_total")) in counted:
            found[name] = tuple(sorted(counted[plain]))
    assert found == documented()


def test_every_query_of_the_page_asks_for_metrics_there_are() -> None:
    text = (ROOT / "docs/metrics.md").read_text()
    queries = "\n".join(re.findall(r"^```promql\n(.*?)^```", text, re.M | re.S))
    asked = set(re.findall(r"\b(darkroom_\w+)", queries))
    known = documented()
    assert len(queries.split("\n\n")) >= 4
    assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in asked} <= set(known)
    for name, selector in re.findall(r"(darkroom_\w+?)(?:_bucket|_sum|_count)?\{(.*?)\}", queries):
        assert set(re.findall(r"(\w+)\s*[=!]", selector)) <= set(known[name])
