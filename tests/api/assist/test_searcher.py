"""Live references from a SearXNG: what it is asked, and what of its answer is kept."""

from __future__ import annotations

from collections.abc import AsyncIterator
from urllib.parse import parse_qs, urlsplit

import pytest

from api.assistants import AssistantFailed, Note, Searcher
from tests.api.assist.conftest import Hire
from tests.api.assist.replies import finds, tells
from tests.api.receivers import Receiver, says


@pytest.fixture
async def searx() -> AsyncIterator[Receiver]:
    async with Receiver() as running:
        yield running


def searcher(hired: Hire, searx: Receiver, **more: object) -> Searcher:
    hands = hired(search={"searxng": f"http://127.0.0.1:{searx.port}/sx/", **more}).searcher
    assert hands is not None
    return hands


def result(number: int, **changes: object) -> dict[str, object]:
    url = f"https://{number}.example/"
    return {"url": url, "title": f"T{number}", "content": f"text {number}"} | changes


async def test_results_become_notes_in_their_order(hired: Hire, searx: Receiver) -> None:
    searx.answers = [finds(*(result(number) for number in range(9)))]
    notes = await searcher(hired, searx, results=3).search("the tower & its top")
    assert notes == tuple(
        Note(title=f"T{n}", url=f"https://{n}.example/", text=f"text {n}") for n in range(3)
    )
    asked = urlsplit(searx.received[0].path)
    assert asked.path == "/sx/search"
    assert parse_qs(asked.query) == {"q": ["the tower & its top"], "format": ["json"]}


async def test_what_names_no_page_is_left_out(hired: Hire, searx: Receiver) -> None:
    searx.answers = [
        finds(
            result(1, url="javascript:alert(1)"),
            result(2, url=None),
            result(3, url="https://x.example/" + "a" * 3000),
            result(4, url="https://x.example/\n"),
            "x",
            result(5, content=None, title=7),
        )
    ]
    assert await searcher(hired, searx).search("x") == (
        Note(title="", url="https://5.example/", text=""),
    )


async def test_excerpts_are_bounded(hired: Hire, searx: Receiver) -> None:
    searx.answers = [finds(result(1, title="t " * 999, content="c\n" * 9999))]
    (note,) = await searcher(hired, searx).search("x" * 5000)
    assert (len(note.title), len(note.text)) == (199, 999)
    assert len(parse_qs(urlsplit(searx.received[0].path).query)["q"][0]) == 400


async def test_a_prompt_gives_the_search_no_orders(hired: Hire, searx: Receiver) -> None:
    searx.answers = [finds()]
    await searcher(hired, searx).search("!!g a:b cat! :fr <9 ?x !images\n!x 1<2")
    assert parse_qs(urlsplit(searx.received[0].path).query)["q"] == [
        "g a:b cat! fr 9 x images x 1<2"
    ]


async def test_nothing_is_asked_for_nothing(hired: Hire, searx: Receiver) -> None:
    assert await searcher(hired, searx).search(" \n ") == ()
    assert searx.connections == 0


@pytest.mark.parametrize("body", [{}, [], None, {"results": None}, {"results": {}}])
async def test_an_answer_without_results_is_a_failure(
    hired: Hire, searx: Receiver, body: object
) -> None:
    searx.answers = [tells(body)]
    with pytest.raises(AssistantFailed, match="the search answered without results"):
        await searcher(hired, searx).search("x")


async def test_a_searxng_that_allows_no_json_is_told(hired: Hire, searx: Receiver) -> None:
    searx.answers = [says(403)]
    with pytest.raises(AssistantFailed, match="the search answered with status 403"):
        await searcher(hired, searx).search("x")
