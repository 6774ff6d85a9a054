"""Conversations with language models, whoever runs them, and what is to be made of a reply."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias

from api.assist.wire import JsonWire
from api.assistants import AssistantFailed

Message: TypeAlias = Mapping[str, Any]

# The tag that opens them may have been a part of the question.
_THOUGHTS = re.compile(r"\A.*</think(?:ing)?>|<think(?:ing)?>.*\Z", re.DOTALL)
_FENCE = re.compile(r"\A```\w*\s*(.*?)\s*(?:```)?\Z", re.DOTALL)


class Chat(Protocol):
    """Answers a conversation; raises AssistantFailed."""

    async def reply(self, messages: Sequence[Message]) -> str: ...

    def failed(self, why: str) -> AssistantFailed: ...


class EndpointChat:
    """A model behind an API that speaks chat completions as OpenAI's does."""

    def __init__(self, wire: JsonWire, model: str) -> None:
        self._wire = wire
        self._model = model

    async def reply(self, messages: Sequence[Message]) -> str:
        """The first choice's text; raises AssistantFailed."""
        body = {"model": self._model, "messages": list(messages), "stream": False}
        told = await self._wire.post("/chat/completions", body)
        try:
            text = told["choices"][0]["message"]["content"]
        except (LookupError, TypeError):
            text = None
        if not isinstance(text, str):
            raise self._wire.failed("answered without a text")
        return text

    def failed(self, why: str) -> AssistantFailed:
        """A failure of this model, told by its name."""
        return self._wire.failed(why)


def without_thoughts(text: str) -> str:
    """A reply without what its model thought aloud, and without a fence around all of it."""
    text = _THOUGHTS.sub("", text).strip()
    fenced = _FENCE.match(text)
    return fenced[1] if fenced else text


def object_in(text: str) -> Mapping[str, Any] | None:
    """The first JSON object in a text, or None."""
    decoder = json.JSONDecoder(strict=False)
    for brace in list(re.finditer(r"\{", text))[:20]:
        try:
            found, _ = decoder.raw_decode(text, brace.start())
        except (ValueError, RecursionError):
            continue
        if isinstance(found, dict):
            return found
    return None


def plain(value: object, max_chars: int) -> str:
    """A value that should be a text as one line of it, cut between words; "" for anything else."""
    if not isinstance(value, str):
        return ""
    text = value.encode("utf-8", "replace").decode()
    text = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    if len(text) <= max_chars:
        return text
    cut = text[: max_chars + 1].rpartition(" ")[0] or text
    return cut[:max_chars].rstrip()
