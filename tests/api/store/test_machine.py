"""The queue against a model of it: any order of any operations by any worker, late ones too."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from collections.abc import Coroutine
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from api.store import Claim, Holding
from api.tasks import Extras, Failure, Task, TaskState
from tests.api.making import AMPLE, Clock, inserted, open_store, output_of, submission
from tests.api.places import InFile, OnServer, Place
from tests.api.postgres import Cluster

LEASE_MS = 1_000


@dataclass
class Expected:
    """What must be true of one task."""

    count: int
    state: TaskState = TaskState.QUEUED
    holder: Holding | None = None
    lease_until_ms: int = 0
    attempt: int = 0
    releases: int = 0
    cancel: bool = False
    outputs: set[int] = field(default_factory=set)
    failures: set[int] = field(default_factory=set)


class Queue(RuleBasedStateMachine):
    """Random operations on the store and on the model side by side."""

    claims = Bundle("claims")

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.runner = asyncio.Runner()
        self.clock = Clock()
        self.store = open_store(self.place(), self.clock)
        self.tasks: dict[str, Expected] = {}
        self.names = (f"t{number}" for number in itertools.count())

    def place(self) -> Place:
        return InFile(Path(self.folder.name) / "tasks.db")

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(work)

    def teardown(self) -> None:
        self.do(self.store.close())
        self.runner.close()
        self.folder.cleanup()

    def holds(self, holding: Holding) -> bool:
        expected = self.tasks[holding.task_id]
        return expected.state is TaskState.RUNNING and expected.holder == holding

    @rule(count=st.integers(1, 3))
    def submit(self, count: int) -> None:
        name = next(self.names)
        given = replace(submission(name, count=count), extras=Extras(allows_partial=True))
        self.do(inserted(self.store, given, AMPLE))
        self.tasks[name] = Expected(count)
        self.clock.ms += 1

    @rule(target=claims, worker=st.sampled_from("ab"))
    def claim(self, worker: str) -> Claim | None:
        claimed: Claim | None = self.do(self.store.claim(worker, lease_ms=LEASE_MS))
        free = [name for name, expected in self.tasks.items() if self.is_free(expected)]
        assert (claimed.task.id if claimed else None) == (free[0] if free else None)
        if claimed is not None:
            expected = self.tasks[claimed.task.id]
            expected.attempt += 1
            expected.state, expected.holder = TaskState.RUNNING, claimed.holding
            expected.lease_until_ms = self.clock.ms + LEASE_MS
            assert claimed.tries == expected.attempt - expected.releases
        return claimed

    def is_free(self, expected: Expected) -> bool:
        lost = expected.state is TaskState.RUNNING and expected.lease_until_ms < self.clock.ms
        return lost or expected.state is TaskState.QUEUED

    @rule(claim=claims)
    def heartbeat(self, claim: Claim | None) -> None:
        if claim is None:
            return
        beat = self.do(self.store.heartbeat([claim.holding], lease_ms=LEASE_MS))
        expected = self.tasks[claim.task.id]
        if self.holds(claim.holding):
            expected.lease_until_ms = self.clock.ms + LEASE_MS
            assert beat == {claim.task.id: expected.cancel}
        else:
            assert beat == {}

    @rule(claim=claims, index=st.integers(0, 2))
    def add_output(self, claim: Claim | None, index: int) -> None:
        if claim is None or index >= len(claim.task.job.seeds):
            return
        output = output_of(claim.task.id, index, claim.holding.attempt)
        held = self.holds(claim.holding)
        assert self.do(self.store.add_output(claim.holding, output)) == held
        expected = self.tasks[claim.task.id]
        if held and index not in expected.failures:
            expected.outputs.add(index)

    @rule(claim=claims, index=st.integers(0, 2))
    def add_failure(self, claim: Claim | None, index: int) -> None:
        if claim is None or index >= len(claim.task.job.seeds):
            return
        failure = Failure(index=index, kind="pipeline_failed", message="it broke")
        held = self.holds(claim.holding)
        assert self.do(self.store.add_failure(claim.holding, failure)) == held
        expected = self.tasks[claim.task.id]
        if held and index not in expected.outputs:
            expected.failures.add(index)

    @rule(claim=claims, end=st.sampled_from(["succeeded", "failed", "cancelled"]))
    def finish(self, claim: Claim | None, end: str) -> None:
        if claim is None:
            return
        state, expected = TaskState(end), self.tasks[claim.task.id]
        ends = len(expected.outputs) + len(expected.failures)
        complete = ends == expected.count and bool(expected.outputs)
        allowed = self.holds(claim.holding) and (complete or end != "succeeded")
        ended: Task | None = self.do(self.store.finish(claim.holding, state))
        assert (ended is not None) == allowed
        if allowed:
            expected.state, expected.holder = state, None

    @rule(claim=claims, counted=st.booleans())
    def release(self, claim: Claim | None, counted: bool) -> None:
        if claim is None:
            return
        self.do(self.store.release([claim.holding], counted=counted))
        if self.holds(claim.holding):
            expected = self.tasks[claim.task.id]
            expected.holder, expected.lease_until_ms = None, 0
            expected.releases += not counted

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        if not self.tasks:
            return
        name = data.draw(st.sampled_from(sorted(self.tasks)))
        expected = self.tasks[name]
        changed = self.do(self.store.request_cancel(name))
        assert (changed is None) == expected.state.ended
        if changed is not None:
            expected.cancel = True
            if self.is_free(expected):
                expected.state, expected.holder = TaskState.CANCELLED, None

    @rule(ms=st.sampled_from([1, LEASE_MS, LEASE_MS + 1]))
    def pass_time(self, ms: int) -> None:
        self.clock.ms += ms

    @rule()
    def boot(self) -> None:
        self.do(self.store.expire_leases())
        for expected in self.tasks.values():
            if expected.state is TaskState.RUNNING:
                expected.holder, expected.lease_until_ms = None, 0

    @invariant()
    def agree(self) -> None:
        for name, expected in self.tasks.items():
            task: Task = self.do(self.store.get(name))
            assert task.state is expected.state
            assert task.attempt == expected.attempt
            assert task.cancel_requested == expected.cancel
            assert {output.index for output in task.outputs} == expected.outputs
            assert len(task.outputs) == len(expected.outputs)
            assert [one.index for one in task.failures] == sorted(expected.failures)
            assert (task.finished_ms is not None) == task.state.ended
            assert (task.started_ms is None) == (task.attempt == 0)


TestQueue = Queue.TestCase
TestQueue.settings = settings(max_examples=40, stateful_step_count=30)


class QueueOnServer(Queue):
    """The same on PostgreSQL."""

    def place(self) -> Place:
        return OnServer(Cluster.running)


TestQueueOnServer = pytest.mark.usefixtures("cluster")(QueueOnServer.TestCase)
TestQueueOnServer.settings = settings(max_examples=8, stateful_step_count=25)
