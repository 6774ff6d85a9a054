"""The use cases on a running service."""

from __future__ import annotations

from api.build import Services
from api.tasks import TaskState
from inference.job import ImageRequest


async def test_a_request_becomes_pictures(services: Services) -> None:
    task = await services.darkroom.submit(
        ImageRequest(model="auto", prompt="a red circle", count=3, seed=7), dialect="darkroom"
    )
    assert task.state is TaskState.QUEUED and task.credits == 9
    done = await services.darkroom.wait(task.id, timeout_seconds=5)
    assert done.state is TaskState.SUCCEEDED
    assert [output.seed for output in done.outputs] == [7, 8, 9]
