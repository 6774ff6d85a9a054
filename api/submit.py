"""The use cases, free of any dialect: submit, get, wait, list, watch, cancel, fetch."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from api.tasks import Output, Task, TaskPage, TaskState, TaskUpdate
from inference.job import ImageRequest, ImageRole


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """An input picture as it arrived: encoded bytes, not yet checked; `field` names its part."""

    role: ImageRole
    field: str
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredImage:
    """A finished picture's bytes with the record of it."""

    output: Output
    data: bytes


class Darkroom:
    """What every dialect, the command line and the page enter through."""

    async def submit(
        self,
        request: ImageRequest,
        *,
        dialect: str,
        account: str = "",
        uploads: Sequence[Upload] = (),
        priority: int = 0,
    ) -> Task:
        """Accept a request durably; raises Refused or ApiError, and then nothing is kept."""
        raise NotImplementedError

    async def get(self, task_id: str, *, account: str = "") -> Task:
        """The task; raises NotFound."""
        raise NotImplementedError

    async def wait(self, task_id: str, *, timeout_seconds: float, account: str = "") -> Task:
        """The task once it has ended, or as it stands when the time is up; raises NotFound."""
        raise NotImplementedError

    async def list(
        self,
        *,
        account: str = "",
        state: TaskState | None = None,
        limit: int = 20,
        cursor: str | None = None,
    ) -> TaskPage:
        """Tasks, newest first; raises BadRequest for a cursor that this service did not give."""
        raise NotImplementedError

    def watch(self, task_id: str, *, account: str = "") -> AsyncIterator[TaskUpdate]:
        """What happens to a task from now on, starting with its present state, to its end."""
        raise NotImplementedError

    async def cancel(self, task_id: str, *, account: str = "") -> Task:
        """Cancel a queued task at once, a running one at its next step; an ended one stays."""
        raise NotImplementedError

    async def image(self, task_id: str, index: int, *, account: str = "") -> StoredImage:
        """A finished picture; raises NotFound, or NotReady while there is none."""
        raise NotImplementedError
