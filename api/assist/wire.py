"""JSON to and from a server that models.yaml names: bounded in time and size, and no redirects."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx2

from api.assistants import AssistantFailed

MOST_REPLY_BYTES = 2 * 1024 * 1024


class JsonWire:
    """One server. It is configuration and no request's address, so it may be a private one.

    `name` is how callers are told of it: its address and its key are never said.
    """

    def __init__(
        self, name: str, base_url: str, timeout_seconds: float, key: str | None = None
    ) -> None:
        self._name = name
        self._base_url = base_url
        self._timeout_seconds = timeout_seconds
        # Whatever unpacks a reply may be made to unpack gigabytes.
        headers = {"accept": "application/json", "accept-encoding": "identity"}
        headers |= {"user-agent": "darkroom"} | ({"authorization": f"Bearer {key}"} if key else {})
        self._client = httpx2.AsyncClient(
            headers=headers, trust_env=False, follow_redirects=False, timeout=None
        )

    async def get(self, path: str, query: dict[str, str]) -> Any:
        """What a GET answers; raises AssistantFailed."""
        return await self._ask("GET", path, params=query)

    async def post(self, path: str, body: Any) -> Any:
        """What a POST answers; raises AssistantFailed."""
        return await self._ask("POST", path, json=body)

    async def close(self) -> None:
        """Let go of the connections."""
        await self._client.aclose()

    def failed(self, why: str) -> AssistantFailed:
        """A failure of this server, told by its name."""
        return AssistantFailed(f"the {self._name} {why}")

    async def _ask(self, method: str, path: str, **content: Any) -> Any:
        try:
            async with asyncio.timeout(self._timeout_seconds):
                data = await self._exchange(method, self._base_url + path, **content)
        except TimeoutError:
            raise self.failed(f"did not answer in {self._timeout_seconds:g} s") from None
        except httpx2.ConnectError:
            # An error's own text may hold the address.
            raise self.failed("cannot be reached") from None
        except (httpx2.HTTPError, httpx2.InvalidURL):
            raise self.failed("broke off, or does not speak HTTP") from None
        try:
            return json.loads(data)
        except (ValueError, RecursionError):
            raise self.failed("answered with something that is not JSON") from None

    async def _exchange(self, method: str, url: str, **content: Any) -> bytes:
        async with self._client.stream(method, url, **content) as reply:
            if reply.status_code != 200:
                raise self.failed(f"answered with status {reply.status_code}")
            if reply.headers.get("content-encoding", "identity") != "identity":
                raise self.failed("sends its answer compressed although asked not to")
            data = bytearray()
            async for part in reply.aiter_raw():
                data += part
                if len(data) > MOST_REPLY_BYTES:
                    raise self.failed(f"answered with more than {MOST_REPLY_BYTES} bytes")
            return bytes(data)
