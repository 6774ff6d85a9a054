"""The use cases, free of any dialect: submit, get, wait, list, watch, cancel, fetch."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from api.tasks import Output, Task, TaskPage, TaskState, TaskUpdate
from inference.job import ImageRequest, ImageRole

if TYPE_CHECKING:
    from api.dispatcher import Dispatcher
    from api.settings import Settings
    from api.storage import Storage
    from api.store import Store
    from api.watch import Updates
    from inference.catalog import Catalog


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


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueStatus:
    """How much has not ended, in tasks and in pictures, and what one picture lately took."""

    queued_tasks: int
    running_tasks: int
    unfinished_images: int
    seconds_per_image: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """`checks` holds "ok" or the reason by the name of what was looked at."""

    ready: bool
    checks: Mapping[str, str]


class Darkroom:
    """What every dialect, the command line and the page enter through.

    Made by `api.build.build`; a route finds it at `services.darkroom`.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        catalog: Catalog,
        store: Store,
        storage: Storage,
        dispatcher: Dispatcher,
        updates: Updates,
        pixels: Executor,
    ) -> None:
        raise NotImplementedError

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

    async def queue(self) -> QueueStatus:
        """How much waits and runs."""
        raise NotImplementedError

    async def health(self) -> Health:
        """Whether work would be taken and done now; never raises, busy is ready."""
        raise NotImplementedError
