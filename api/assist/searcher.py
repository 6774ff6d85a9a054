"""Live references: what a SearXNG finds for a prompt."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from api.assist.chat import plain
from api.assist.wire import JsonWire
from api.assistants import Note

MOST_QUERY_CHARS = 400
MOST_TITLE_CHARS = 200
MOST_TEXT_CHARS = 1000
MOST_URL_CHARS = 2048
# With these a word tells SearXNG which engine to ask, in which language, for how long, or to send
# us elsewhere; a prompt is nothing but what is searched for.
_ORDERS = re.compile(r"(?<!\S)[!:?<]+")


class SearxSearcher:
    """Searches by a SearXNG whose settings allow the format json."""

    def __init__(self, wire: JsonWire, results: int) -> None:
        self._wire = wire
        self._results = results

    async def search(self, query: str) -> tuple[Note, ...]:
        """At most so many results, best first; none for an empty query. Raises AssistantFailed."""
        asked = plain(_ORDERS.sub("", query), MOST_QUERY_CHARS)
        if not asked:
            return ()
        told = await self._wire.get("/search", {"q": asked, "format": "json"})
        found = told.get("results") if isinstance(told, Mapping) else None
        if not isinstance(found, list):
            raise self._wire.failed("answered without results")
        notes = (note for entry in found if (note := _note(entry)) is not None)
        return tuple(note for note, _ in zip(notes, range(self._results), strict=False))


def _note(entry: Any) -> Note | None:
    """One result, or None where it has no address to name."""
    if not isinstance(entry, Mapping):
        return None
    url = entry.get("url")
    if not isinstance(url, str) or not url.startswith(("http://", "https://")):
        return None
    if len(url) > MOST_URL_CHARS or not url.isprintable():
        return None
    return Note(
        title=plain(entry.get("title"), MOST_TITLE_CHARS),
        url=url,
        text=plain(entry.get("content"), MOST_TEXT_CHARS),
    )
