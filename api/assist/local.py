"""Models of this process that help: each on a thread of its own, which alone imports torch."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

import structlog

from api.assist.chat import Message
from api.assistants import AssistantFailed
from api.tasks import RatingWish
from inference.assistants.spec import EnhancerSpec, RaterSpec, ViewerSpec
from inference.errors import ModelFailed
from inference.hub.download import Download

if TYPE_CHECKING:
    from PIL.Image import Image

    from inference.assistants.captioner import LocalCaptioner
    from inference.assistants.enhancer import LocalChat
    from inference.assistants.rater import LocalRater

log = structlog.get_logger()

T = TypeVar("T")


class OwnThread:
    """Runs the calls to one local model, one after another; `download` is what it is fetched by."""

    def __init__(self, name: str) -> None:
        self.download = Download()
        self._name = name
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)

    async def run(self, call: Callable[[], T]) -> T:
        """What the call returns; raises AssistantFailed, with the reason in the log."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, call)
        except ModelFailed as error:
            # The reason names folders of this machine, which are no caller's business.
            log.error("assistant_failed", assistant=self._name, reason=str(error))
            raise self.failed("could not be loaded") from None
        except Exception as error:
            log.exception("assistant_failed", assistant=self._name)
            raise self.failed(f"failed ({type(error).__name__})") from error

    async def close(self) -> None:
        """Take no more; what runs is left behind, and what is being fetched ends."""
        self.download.stop()
        self._thread.shutdown(wait=False, cancel_futures=True)

    def failed(self, why: str) -> AssistantFailed:
        """A failure of this model, told by its name."""
        return AssistantFailed(f"the {self._name} {why}")


class OwnRater:
    """Rates pictures by the models that `rater` names."""

    def __init__(self, thread: OwnThread, spec: RaterSpec) -> None:
        self._thread = thread
        self._spec = spec
        self._rater: LocalRater | None = None

    async def rate(self, picture: Image, wish: RatingWish) -> str:
        """The level; raises AssistantFailed."""
        levels = {level.value: level.description for level in wish.levels}
        return await self._thread.run(lambda: self._get().rate(picture, levels))

    def _get(self) -> LocalRater:
        if self._rater is None:
            from inference.assistants.rater import LocalRater

            self._rater = LocalRater(self._spec, self._thread.download)
        return self._rater


class OwnChat:
    """A language model of this process."""

    def __init__(self, thread: OwnThread, spec: EnhancerSpec) -> None:
        self._thread = thread
        self._spec = spec
        self._chat: LocalChat | None = None

    async def reply(self, messages: Sequence[Message]) -> str:
        """What it says, as far as it gets in time; raises AssistantFailed."""
        seconds = self._spec.timeout_seconds
        return await self._thread.run(lambda: self._get().reply(messages, seconds))

    def failed(self, why: str) -> AssistantFailed:
        """A failure of this model, told by its name."""
        return self._thread.failed(why)

    def _get(self) -> LocalChat:
        if self._chat is None:
            from inference.assistants.enhancer import LocalChat

            spec = self._spec
            assert spec.folder is not None
            place = (spec.folder, spec.revision, spec.device)
            self._chat = LocalChat(*place, self._thread.download)
        return self._chat


class OwnCaptioner:
    """A captioning model of this process."""

    def __init__(self, thread: OwnThread, spec: ViewerSpec) -> None:
        self._thread = thread
        self._spec = spec
        self._captioner: LocalCaptioner | None = None

    async def describe(self, picture: Image) -> str:
        """One sentence, as far as it gets in time; raises AssistantFailed."""
        seconds = self._spec.timeout_seconds
        return await self._thread.run(lambda: self._get().describe(picture, seconds))

    def failed(self, why: str) -> AssistantFailed:
        """A failure of this model, told by its name."""
        return self._thread.failed(why)

    def _get(self) -> LocalCaptioner:
        if self._captioner is None:
            from inference.assistants.captioner import LocalCaptioner

            spec = self._spec
            assert spec.captioner is not None
            place = (spec.captioner, spec.revision, spec.device)
            self._captioner = LocalCaptioner(*place, self._thread.download)
        return self._captioner
