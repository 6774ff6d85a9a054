"""The assistants that models.yaml sets up: who rates, writes prompts out, searches, describes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from api.assist.chat import EndpointChat
from api.assist.enhancer import ChatEnhancer, DemoEnhancer, Room
from api.assist.local import OwnCaptioner, OwnChat, OwnRater, OwnThread
from api.assist.searcher import SearxSearcher
from api.assist.viewer import CaptionViewer, ChatViewer
from api.assist.wire import JsonWire
from api.assistants import Assistants, Enhancer, Rater, Searcher, Viewer
from inference.assistants.spec import EnhancerSpec, SearchSpec, ViewerSpec
from inference.catalog import Catalog

__all__ = ["Staff", "hire"]


@dataclass(frozen=True, slots=True)
class Staff:
    """The assistants of one process; `close` them at its end."""

    assistants: Assistants
    closers: tuple[Callable[[], Awaitable[None]], ...] = ()

    async def close(self) -> None:
        """Let go of their connections and threads."""
        for close in self.closers:
            await close()


def hire(catalog: Catalog, environment: Mapping[str, str]) -> Staff:
    """Those that a catalog names, with their keys from the environment; nothing is loaded yet.

    Raises ValueError for a key that is not there.
    """
    hiring = _Hiring(catalog, environment)
    assistants = Assistants(
        rater=hiring.rater(),
        enhancer=hiring.enhancer(),
        searcher=hiring.searcher(),
        viewer=hiring.viewer(),
        rates_levels=catalog.rater is None or catalog.rater.clip is not None,
        reviews=catalog.viewer is None or catalog.viewer.reviews,
    )
    return Staff(assistants, tuple(hiring.closers))


class _Hiring:
    def __init__(self, catalog: Catalog, environment: Mapping[str, str]) -> None:
        self._catalog = catalog
        self._environment = environment
        self.closers: list[Callable[[], Awaitable[None]]] = []

    def rater(self) -> Rater | None:
        spec = self._catalog.rater
        return OwnRater(self._thread("rater"), spec) if spec is not None else None

    def enhancer(self) -> Enhancer | None:
        spec = self._catalog.enhancer
        if spec is None:
            return None
        if spec.builtin is not None:
            return DemoEnhancer()
        if spec.folder is not None:
            return ChatEnhancer(OwnChat(self._thread("enhancer"), spec), self._room_of)
        return ChatEnhancer(self._chat("enhancer", spec), self._room_of)

    def searcher(self) -> Searcher | None:
        spec = self._catalog.search
        if spec is None:
            return None
        return SearxSearcher(self._wire("search", spec, spec.searxng), spec.results)

    def viewer(self) -> Viewer | None:
        spec = self._catalog.viewer
        if spec is None:
            return None
        if spec.captioner is not None:
            return CaptionViewer(OwnCaptioner(self._thread("viewer"), spec))
        return ChatViewer(self._chat("viewer", spec))

    def _chat(self, name: str, spec: EnhancerSpec | ViewerSpec) -> EndpointChat:
        assert spec.endpoint is not None and spec.model is not None
        key = self._key(name, spec.api_key_env) if spec.api_key_env else None
        return EndpointChat(self._wire(name, spec, spec.endpoint, key), spec.model)

    def _wire(
        self,
        name: str,
        spec: EnhancerSpec | SearchSpec | ViewerSpec,
        url: str,
        key: str | None = None,
    ) -> JsonWire:
        wire = JsonWire(name, url, spec.timeout_seconds, key)
        self.closers.append(wire.close)
        return wire

    def _thread(self, name: str) -> OwnThread:
        thread = OwnThread(name)
        self.closers.append(thread.close)
        return thread

    def _key(self, name: str, variable: str) -> str:
        key = self._environment.get(variable, "").strip()
        if not key or not key.isascii() or not key.isprintable():
            raise ValueError(f"{name}: api_key_env names {variable}, which holds no key")
        return key

    def _room_of(self, model: str) -> Room:
        spec = self._catalog.models.get(model)
        if spec is None:
            # Accepted before the model was taken out of models.yaml: the engine will say so.
            return Room(prompt_chars=0, negative_prompt=False)
        return Room(
            prompt_chars=spec.limits.prompt_chars, negative_prompt=spec.takes_negative_prompt
        )
