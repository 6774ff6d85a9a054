"""Pictures by signed link: what a file has, and what a changed link opens."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx2
import pytest

from tests.api.http.served import Served


@pytest.fixture(scope="module")
def picture(server: Served) -> str:
    """The signed link to one picture."""
    url: str = server.make(seed=5)["images"][0]["url"]
    return url


def test_a_picture_has_the_headers_of_a_file(client: httpx2.Client, picture: str) -> None:
    reply = client.get(picture)

    name = urlsplit(picture).path.split("/")[-1]
    assert reply.headers["content-type"] == "image/png"
    assert int(reply.headers["content-length"]) == len(reply.content)
    assert reply.headers["content-disposition"] == f'inline; filename="{name}"'
    assert reply.headers["cache-control"].startswith("private")
    assert "immutable" in reply.headers["cache-control"]
    head = client.head(picture)
    assert (head.status_code, head.headers["etag"]) == (200, reply.headers["etag"])
    assert head.headers["content-length"] == reply.headers["content-length"]


@pytest.mark.parametrize("form", ["{}", "W/{}", '"other", {}', "*"])
def test_a_picture_that_is_known_is_not_sent_again(
    client: httpx2.Client, picture: str, form: str
) -> None:
    etag = client.get(picture).headers["etag"]

    reply = client.get(picture, headers={"If-None-Match": form.format(etag)})

    assert (reply.status_code, reply.content, reply.headers["etag"]) == (304, b"", etag)
    other = client.get(picture, headers={"If-None-Match": '"other"'})
    assert other.status_code == 200


def tampered(picture: str) -> Iterator[str]:
    """The link with each of its parts changed, emptied, lengthened, left out."""
    path, _, rest = picture.partition("?")
    query = {name: values[0] for name, values in parse_qs(rest).items()}
    yield path
    yield picture.replace("-0.png", "-1.png")
    for name, value in query.items():
        last = "0" if value[-1] != "0" else "1"
        for other in ("", value[:-1] + last, value + "0", "\u00e4", value.upper() + " "):
            yield f"{path}?{urlencode(query | {name: other})}"
        yield f"{path}?{urlencode({key: query[key] for key in query if key != name})}"
        yield f"{path}?{urlencode(query)}".replace(f"{name}=", f"{name}=%ED%A0%80")


def test_a_link_that_was_changed_opens_nothing(client: httpx2.Client, picture: str) -> None:
    replies = [client.get(link) for link in tampered(picture)]

    assert len(replies) == 23
    assert {reply.status_code for reply in replies} == {403}
    assert len({reply.json()["detail"] for reply in replies}) == 1
