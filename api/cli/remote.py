"""Pictures from a running Darkroom, over its own API."""

from __future__ import annotations

import base64
import ipaddress
import json
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, suppress
from typing import Any
from urllib.parse import urlsplit

import httpx2

from api.cli.terminal import Failure, UsageError, say
from api.cli.wish import Made, Step, Update, Updates, Waiting, Wish
from inference.job import ImageRole

GREET_SECONDS = 1.0
ANSWER_SECONDS = 30.0
WAIT_SECONDS = 20
LAST_EVENTS = ("done", "failed", "cancelled")


def find(
    url: str, key: str | None = None, *, greet_seconds: float = GREET_SECONDS
) -> Remote | None:
    """The Darkroom at a URL, or None when nothing there is one; raises UsageError.

    One that refuses the key is one all the same: UsageError.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"{url!r} is not a URL like http://127.0.0.1:8000", "server")
    # a proxy of the environment cannot reach this machine's own loopback
    trusts_proxies = not _is_loopback(parts.hostname)
    client = httpx2.Client(base_url=url, trust_env=trusts_proxies, headers=_headers(key))
    try:
        reply = client.get("/darkroom/models", timeout=greet_seconds)
        told = reply.json()
        if reply.status_code in (401, 403) and str(told["type"]).startswith("urn:darkroom:"):
            raise UsageError(f"{url}: {told['detail']}", "key")
        return Remote(client, url, told["models"])
    except UsageError:
        client.close()
        raise
    except (httpx2.HTTPError, ValueError, KeyError, TypeError):
        client.close()
        return None


def found(url: str, key: str | None) -> Remote:
    """The Darkroom at a URL; raises UsageError, or Failure when nothing there is one."""
    server = find(url, key, greet_seconds=ANSWER_SECONDS)
    if server is None:
        raise Failure(f"no Darkroom answers at {url}")
    return server


class Remote:
    """One server, and the models it says it serves."""

    def __init__(self, client: httpx2.Client, url: str, served: list[Mapping[str, Any]]) -> None:
        self.client = client
        self._url = url
        self._served = served

    def make(self, wish: Wish) -> Updates:
        """Ask, follow and fetch; leaving early cancels. Raises UsageError or Failure."""
        with closing(self.client):
            yield Waiting(why=f"asking {self._url}")
            task = self._submit(wish if "model" in wish.fields else self._choose(wish))
            try:
                task = yield from self._follow(task)
            except httpx2.HTTPError as error:
                where = f"{self._url}{task['links']['self']}"
                raise Failure(f"lost the server ({error}); the pictures come to {where}") from None
            except BaseException:
                # whoever leaves is not told that the server has gone as well
                with suppress(httpx2.HTTPError):
                    self.client.post(task["links"]["cancel"], timeout=ANSWER_SECONDS)
                raise
            for image in task["images"]:
                yield self._fetch(task, image)
            if task["error"] is not None:
                raise Failure(_why(task["error"]))
            for lost in task["failures"]:
                say(f"darkroom: picture {lost['index'] + 1}: {lost['message']}")

    def _choose(self, wish: Wish) -> Wish:
        """The server's own choice where it has one, else the first model it serves."""
        names = [alias for model in self._served for alias in model["aliases"]]
        if "auto" in names or not self._served:
            return wish
        return wish.with_model(self._served[0]["name"])

    def _submit(self, wish: Wish) -> Mapping[str, Any]:
        try:
            reply = self.client.post(
                "/darkroom/generations", timeout=ANSWER_SECONDS, json=_body(wish)
            )
        except httpx2.HTTPError as error:
            raise Failure(f"the server did not take it: {error}") from None
        if reply.status_code == 202:
            return json_of(reply)
        raise refusal(reply)

    def _follow(self, task: Mapping[str, Any]) -> Generator[Update, None, Mapping[str, Any]]:
        """Events until the task has ended, by asking again where the stream breaks off."""
        try:
            yield from self._listen(task)
        except httpx2.HTTPError:
            yield Waiting(why="waiting for the server")
        while True:
            path, wait = task["links"]["self"], WAIT_SECONDS
            reply = self.client.get(path, params={"wait": wait}, timeout=wait + ANSWER_SECONDS)
            task = json_of(reply)
            if task["finished_at"] is not None:
                return task

    def _listen(self, task: Mapping[str, Any]) -> Iterator[Update]:
        with self.client.stream("GET", task["links"]["events"], timeout=ANSWER_SECONDS) as reply:
            for name, told in events_of(reply.iter_lines()):
                if name in LAST_EVENTS:
                    return
                if name == "queued":
                    yield Waiting(why=f"in the queue, {told['position'] or 0} ahead")
                if name == "step":
                    yield Step(index=told["index"], step=told["step"], steps=told["steps"])

    def _fetch(self, task: Mapping[str, Any], image: Mapping[str, Any]) -> Made:
        path = f"{task['links']['self']}/images/{image['index']}"
        try:
            reply = self.client.get(path, timeout=ANSWER_SECONDS).raise_for_status()
        except httpx2.HTTPError as error:
            raise Failure(f"picture {image['index'] + 1} could not be fetched: {error}") from None
        return Made(index=image["index"], seed=image["seed"], data=reply.content)


def events_of(lines: Iterator[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Server-sent events as name and parsed data; comments and unknown fields are skipped."""
    name, data = "message", ""
    for line in lines:
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            name = value
        elif field == "data":
            data += value
        elif not line:
            if data:
                yield name, json.loads(data)
            name, data = "message", ""


def _body(wish: Wish) -> dict[str, Any]:
    """A `GenerationRequest`, its pictures as base64."""
    body = dict(wish.fields)
    for given in wish.pictures:
        text = base64.b64encode(given.data).decode()
        match given.role:
            case ImageRole.SOURCE if "image" not in body:
                body["image"] = text
            case ImageRole.SOURCE:
                body.setdefault("images", []).append(text)
            case ImageRole.MASK:
                body["mask"] = text
            case ImageRole.REFERENCE:
                weight = {} if given.weight is None else {"weight": given.weight}
                reference = {"image": text, "tag": given.tag} | weight
                body.setdefault("references", []).append(reference)
    return body


def _headers(key: str | None) -> dict[str, str]:
    if key is None:
        return {}
    if not (key.isascii() and key.isprintable()):
        raise UsageError("a key is plain ASCII", "key")
    return {"Authorization": f"Bearer {key}"}


def json_of(reply: httpx2.Response) -> Mapping[str, Any]:
    """The object in a reply; raises Failure, or HTTPStatusError for an error."""
    try:
        told: Mapping[str, Any] = reply.raise_for_status().json()
    except ValueError:
        raise Failure(f"{reply.url} answered with something else than JSON") from None
    return told


def _why(error: Mapping[str, Any]) -> str:
    """What a server says of a task that failed."""
    # one of an older server tells no reason
    reason = error.get("reason")
    return f"{error['message']}: {reason}" if reason else str(error["message"])


def refusal(reply: httpx2.Response) -> Exception:
    """What to raise for a reply that is an error."""
    try:
        problem = reply.json()
        message, field = str(problem["detail"]), problem.get("field")
    except (ValueError, KeyError, TypeError, AttributeError):
        return Failure(f"the server answered {reply.status_code}")
    return UsageError(message, field) if reply.status_code < 429 else Failure(message)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
