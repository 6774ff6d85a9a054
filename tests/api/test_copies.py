"""What copies are called in destinations, and where they are told to be."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from api.copies import check_path, check_path_template, check_url_template, path_of, url_of
from api.destinations import Destination, Destinations
from api.errors import BadRequest, Conflict, NotFound
from api.outputs import EncodedPicture
from api.store import migrate_sqlite, sqlite_database
from api.store.destinations import DestinationStore
from api.tasks import Delivery, Task, TaskState
from tests.api.making import submission
from tests.api.s3server import BUCKET, KEY_ID, SECRET, S3Server

PICTURE = EncodedPicture(
    data=b"picture", media_type="image/webp", extension="webp", width=1, height=1, sha256="0"
)
# The last millisecond of a year, so that another time zone is another year.
MADE_MS = 1_767_225_599_999


def place(**changes: Any) -> Destination:
    values: dict[str, Any] = {
        "account": "ann",
        "name": "site",
        "url": f"s3://{BUCKET}/ann",
        "endpoint": "https://s3.example",
        "region": "us-east-1",
        "access_key_id": KEY_ID,
        "secret": SECRET,
        "public_url": None,
    }
    return Destination(**(values | changes))


def task(path: str | None = None, count: int = 1) -> Task:
    made = submission("task1", account="ann", count=count)
    return Task(
        id="task1", dialect="darkroom", account="ann", state=TaskState.RUNNING,
        request=made.request, job=made.job, delivery=Delivery(destination="site", path=path),
        credits=0, attempt=1, created_ms=MADE_MS, started_ms=0, finished_ms=None,
        cancel_requested=False, error_kind=None, error_message=None, outputs=(),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("template", "path", "count", "expected"),
    [
        (None, None, 1, "task1/0.webp"),
        (None, None, 3, "task1/2.webp"),
        (None, "a/b.png", 1, "a/b.png"),
        (None, "a/b.png", 3, "a/b-3.png"),
        (None, "a.b/c", 3, "a.b/c-3"),
        (None, "a/.png", 3, "a/.png-3"),
        (None, "a.tar.gz", 3, "a.tar-3.gz"),
        (None, "{index}.png", 3, "{index}-3.png"),
        ("{date}/{task_id}-{number}.{ext}", None, 3, "2025-12-31/task1-3.webp"),
        ("{year}/{month}/{day}/{index}", None, 3, "2025/12/31/2"),
        ("{task_id}.{ext}", None, 3, "task1-3.webp"),
        ("{task_id}.{ext}", None, 1, "task1.webp"),
        ("latest.{ext}", None, 1, "latest.webp"),
        ("{task_id}/{index}", "mine.png", 1, "mine.png"),
    ],
)
def test_what_a_copy_is_called(
    template: str | None, path: str | None, count: int, expected: str
) -> None:
    destination = place(path_template=template)
    assert path_of(destination, task(path, count), count - 1, "webp") == expected


@pytest.mark.parametrize("count", [1, 2, 12])
@pytest.mark.parametrize("template", [None, "{task_id}", "{task_id}{index}", "a", "a.{ext}"])
@pytest.mark.parametrize("path", [None, "a", "a.b", "a/b.c"])
def test_no_two_pictures_of_a_task_have_one_name(
    template: str | None, path: str | None, count: int
) -> None:
    of = task(path, count)
    names = {path_of(place(path_template=template), of, n, "png") for n in range(count)}
    assert len(names) == count
    assert all(check_path(name) for name in names)


@pytest.mark.parametrize(
    ("changes", "path", "expected"),
    [
        ({}, "a b.png", f"s3://{BUCKET}/ann/a b.png"),
        ({"public_url": "https://cdn.example/x"}, None, "https://cdn.example/x/task1/0.webp"),
        ({"public_url": "https://cdn.example"}, "a b#c?.png", "https://cdn.example/a%20b%23c%3F.png"),
        (
            {"url_template": "https://{task_id}.example/", "public_url": "https://cdn.example"},
            None,
            "https://task1.example/",
        ),
        ({"url_template": "https://i.example/{path}?w={index}"}, "é.png", "https://i.example/%C3%A9.png?w=0"),
        (
            {"url_template": "https://i.example/{date}/{ext}", "path_template": "x"},
            None,
            "https://i.example/2025-12-31/webp",
        ),
    ],
)  # fmt: skip
def test_where_a_copy_is_told_to_be(
    changes: dict[str, Any], path: str | None, expected: str
) -> None:
    assert url_of(place(**changes), task(path), 0, "webp") == expected


@pytest.mark.parametrize(
    "path",
    [*("", "/a", "a/", "a//b", ".", "..", "a/../b", "a/.", "a\\b", "a\nb", "a\0"), "a" * 701],
)
def test_what_no_copy_is_called(path: str) -> None:
    with pytest.raises(ValueError, match="must"):
        check_path(path)
    with pytest.raises(ValueError, match="must"):
        check_path_template(path)


@pytest.mark.parametrize(
    "text", ["{x}", "{}", "{", "a}", "{{task_id}}", "{path}", "{task_id", "{a b}"]
)
def test_a_template_holds_known_tokens_alone(text: str) -> None:
    with pytest.raises(ValueError, match=r"no other braces: \{task_id\}, \{index\}"):
        check_path_template(text)


@pytest.mark.parametrize(
    "text",
    [
        *("{path}", "ftp://x.example/{path}", "https:///{path}", "https://{path}", "//x/{path}"),
        *("https://{index}.example/", "https://a:b@x.example/{path}", "https://x.example/a b"),
        *(
            "https://x.example/{x}",
            "https://x.example/\n",
            "https://[x/{path}",
            "javascript:{path}",
        ),
    ],
)
def test_what_is_no_template_of_an_address(text: str) -> None:
    with pytest.raises(ValueError):
        check_url_template(text)


# Kept, found and written to


@pytest.fixture
async def places(tmp_path: Path) -> AsyncIterator[Destinations]:
    """Destinations that connect to anything."""
    migrate_sqlite(tmp_path / "db")
    database = sqlite_database(tmp_path / "db")

    async def passes(url: str, *, field: str) -> None:
        pass

    yield Destinations(DestinationStore(database), passes)
    await database.close()


async def test_a_destination_is_found_and_renamed_by_its_id(places: Destinations) -> None:
    first = await places.add(place(path_template="{index}", provider="bunny"))
    await places.add(place(name="other"))
    assert await places.of_id("ann", first.id) == first
    with pytest.raises(NotFound):
        await places.of_id("bob", first.id)

    moved = await places.replace(replace(first, name="moved", url_template="https://x/{path}"))

    assert (moved.id, moved.name, moved.created_ms) == (first.id, "moved", first.created_ms)
    assert moved.updated_ms >= first.updated_ms
    assert [one.name for one in await places.list("ann")] == ["moved", "other"]
    assert await places.of_id("ann", first.id) == moved
    with pytest.raises(Conflict):
        await places.replace(replace(moved, name="other"))
    with pytest.raises(NotFound):
        await places.replace(replace(moved, id="dst_x"))
    with pytest.raises(NotFound):
        await places.replace(replace(moved, account="bob"))
    assert await places.of_id("ann", first.id) == moved


@pytest.mark.parametrize(
    ("bucket", "key", "found"),
    [
        ("pics", "a/b/c.png", ("z-deep", "c.png")),
        ("pics", "a/bc.png", ("shallow", "bc.png")),
        ("pics", "ab.png", ("whole", "ab.png")),
        ("pics", "a/b", ("shallow", "b")),
        ("other", "a/b/c.png", None),
        ("narrow", "a/x.png", None),
        ("narrow", "ab/x.png", ("narrow", "x.png")),
    ],
)
async def test_a_destination_is_found_by_its_bucket(
    places: Destinations, bucket: str, key: str, found: tuple[str, str] | None
) -> None:
    for name, url in (
        ("whole", "s3://pics"),
        ("shallow", "s3://pics/a"),
        ("z-deep", "s3://pics/a/b"),
        ("narrow", "s3://narrow/ab"),
    ):
        await places.add(place(name=name, url=url))
    await places.add(place(name="theirs", url="s3://other", account="bob"))
    told = await places.for_bucket("ann", bucket, key)
    assert (told and (told[0].name, told[1])) == found


@pytest.mark.parametrize(
    ("field", "value"),
    [("path_template", "{x}"), ("url_template", "x"), ("provider", "A"), ("provider", "a" * 17)],
)
async def test_wrong_templates_are_refused(places: Destinations, field: str, value: str) -> None:
    with pytest.raises(BadRequest) as refused:
        await places.add(place(**{field: value}))
    assert refused.value.field == field


ODD = [
    "a b+c=d&e@f,g;h:i!j'k(l)*m$n~o[p]{q}%20r%#s?t^u`v\"w<x>y|z.png",
    "bücher/日本.png",
    "..a/b..c",
]


@pytest.mark.parametrize("path", ODD)
async def test_a_copy_lies_under_the_very_name(
    s3_server: S3Server, places: Destinations, path: str
) -> None:
    prefix = secrets.token_hex(8)
    kept = await places.add(place(endpoint=s3_server.endpoint, url=f"s3://{BUCKET}/{prefix}"))
    await places.deliver(kept, task(path), 0, PICTURE)
    client = s3_server.client(prefix=prefix)
    assert [one["path"] for some in client.list() for one in some] == [path]


async def test_a_test_of_a_path_touches_nothing_that_lies_there(
    s3_server: S3Server, places: Destinations
) -> None:
    prefix = secrets.token_hex(8)
    kept = await places.add(place(endpoint=s3_server.endpoint, url=f"s3://{BUCKET}/{prefix}"))
    await places.deliver(kept, task("a/b.png"), 0, PICTURE)
    await places.test("ann", "site", "a/b.png")
    client = s3_server.client(prefix=prefix)
    assert bytes(client.get("a/b.png").bytes()) == b"picture"
    assert [one["path"] for some in client.list() for one in some] == ["a/b.png"]
    with pytest.raises(BadRequest) as refused:
        await places.test("ann", "site", "../b.png")
    assert refused.value.field == "path"
