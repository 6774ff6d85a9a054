"""What servers of language models and of SearXNG answer."""

from __future__ import annotations

import json
from typing import Any

from tests.api.receivers import Answer, Received, says


def tells(body: Any, status: int = 200, **headers: str) -> Answer:
    """A reply in JSON."""
    return says(status, json.dumps(body).encode(), content_type="application/json", **headers)


def chats(content: Any) -> Answer:
    """A chat completion with that content."""
    message = {"role": "assistant", "content": content}
    return tells(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "model": "m",
            "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
        }
    )


def finds(*results: Any) -> Answer:
    """What a SearXNG answers in JSON."""
    return tells({"query": "q", "number_of_results": 0, "results": list(results), "answers": []})


def sent(received: Received) -> Any:
    """A request's body."""
    return json.loads(received.body)
