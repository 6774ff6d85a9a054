"""Signed links: only the very link that was given holds, and only for its time."""

from __future__ import annotations

import random
import stat
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.errors import Forbidden
from api.links import KeyFile, LinkKey, Links, load_links, rotate

# a multiple of every share below, so that nothing is rounded
NOW = 1_800_000_000
OLD, NEW = LinkKey("old1", b"o" * 32), LinkKey("new1", b"n" * 32)
PATH = "/darkroom/files/abc/0/abc-0.png"


def links(*keys: LinkKey, now: float = NOW) -> Links:
    return Links(lambda: keys or (NEW, OLD), 600, lambda: now)


def parts(link: str) -> tuple[str, dict[str, str]]:
    split = urlsplit(link)
    return split.path, dict(parse_qsl(split.query))


def accepts(service: Links, path: str, query: dict[str, str], method: str = "GET") -> bool:
    try:
        service.verify(path, query, method=method)
    except Forbidden as refused:
        assert str(refused) == "this link is not valid, or no longer"
        return False
    return True


def test_a_link_holds_until_it_expires() -> None:
    path, query = parts(links().sign(PATH))
    assert path == PATH
    assert accepts(links(), path, query) and accepts(links(), path, query, "HEAD")
    assert accepts(links(now=NOW + 599), path, query)
    assert not accepts(links(now=NOW + 600), path, query)
    _, brief = parts(links().sign(PATH, ttl_seconds=5))
    assert accepts(links(now=NOW + 4), path, brief)
    assert not accepts(links(now=NOW + 5), path, brief)


def test_links_to_one_thing_are_the_same_for_a_while_and_hold_long_enough() -> None:
    start = NOW // 50 * 50
    given = [links(now=start + second).sign(PATH) for second in range(1, 52)]
    assert len(set(given[:50])) == 1 and given[50] != given[0]
    path, query = parts(given[49])
    assert accepts(links(now=start + 50 + 599), path, query)


def test_another_method_or_path_does_not_hold() -> None:
    path, query = parts(links().sign(PATH))
    for method in ("POST", "DELETE", "PUT", "get", ""):
        assert not accepts(links(), path, query, method)
    for other in (PATH + "/", PATH[:-1], "/" + PATH, PATH.replace("/0/", "/1/"), PATH.upper(), ""):
        assert not accepts(links(), other, query)


def test_keys_can_be_replaced_without_breaking_links() -> None:
    _, query = parts(links(OLD).sign(PATH))
    assert accepts(links(NEW, OLD), PATH, query)
    assert not accepts(links(NEW), PATH, query)
    assert parts(links(NEW, OLD).sign(PATH))[1]["key"] == "new1"
    assert not accepts(links(NEW, OLD), PATH, query | {"key": "new1"})
    assert not accepts(links(LinkKey("old1", b"x" * 32)), PATH, query)


def test_no_mutation_of_a_link_holds() -> None:
    seed = random.SystemRandom().randrange(2**32)
    chance = random.Random(seed)
    _, query = parts(links().sign(PATH))
    mutants = [query | {name: value} for name in query for value in ("", "0", " ", "é", "\ud800")]
    mutants += [{k: v for k, v in query.items() if k != name} for name in query]
    mutants += [query | {"signature": query["signature"].upper()}]
    mutants += [
        query | {"expires": wrap % query["expires"]} for wrap in ("+%s", "0%s", "%s.0", "%s ")
    ]
    for bit in range(256):
        flipped = int(query["signature"], 16) ^ 1 << bit
        mutants.append(query | {"signature": f"{flipped:064x}"})
    while len(mutants) < 10_000:
        name = chance.choice(list(query))
        letters = list(query[name])
        letters[chance.randrange(len(letters))] = chance.choice("0123456789abcdefé٣ -")
        if "".join(letters) != query[name]:
            mutants.append(query | {name: "".join(letters)})
    held = [mutant for mutant in mutants if accepts(links(), PATH, mutant)]
    assert held == [], f"seed {seed}"
    assert accepts(links(), PATH, query)


@given(path=st.text(), expires=st.text(), key=st.text(), signature=st.text(), method=st.text())
def test_nothing_made_up_holds(
    path: str, expires: str, key: str, signature: str, method: str
) -> None:
    query = {"expires": expires, "key": key, "signature": signature}
    assert not accepts(links(), path, query, method)


def test_the_secret_is_made_once_and_private(tmp_path: Path) -> None:
    file = tmp_path / "link_keys"
    first = load_links(file, ttl_seconds=60)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["link_keys"]
    path, query = parts(first.sign(PATH))
    assert accepts(load_links(file, ttl_seconds=60), path, query)
    other = load_links(tmp_path / "other", ttl_seconds=60)
    assert not accepts(other, path, query)


@pytest.mark.parametrize("text", ["", "id\n", "id zz\n", "id 00ff\n", f" {'00' * 32}\n", "\n"])
def test_a_broken_key_file_stops_the_start(tmp_path: Path, text: str) -> None:
    file = tmp_path / "link_keys"
    file.write_text(text)
    with pytest.raises(ValueError, match="link_keys"):
        load_links(file, ttl_seconds=60)


def test_a_new_key_signs_and_the_last_one_still_holds(tmp_path: Path) -> None:
    file, now = tmp_path / "link_keys", [0.0]
    load_links(file, ttl_seconds=600)
    served = Links(KeyFile(file, lambda: now[0]), 600)
    first = parts(served.sign(PATH))
    new = rotate(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["link_keys"]
    assert parts(served.sign(PATH))[1]["key"] != new.id, "not looked at again yet"
    now[0] = 1.0
    second = parts(served.sign(PATH))
    assert second[1]["key"] == new.id
    assert accepts(served, *first) and accepts(served, *second)
    rotate(file)
    now[0] = 2.0
    assert not accepts(served, *first), "older than the last"
    assert accepts(served, *second)


@pytest.mark.parametrize("text", ["", "no key", None])
def test_a_file_that_is_broken_later_changes_nothing(tmp_path: Path, text: str | None) -> None:
    file, now = tmp_path / "link_keys", [0.0]
    load_links(file, ttl_seconds=600)
    served = Links(KeyFile(file, lambda: now[0]), 600)
    link = parts(served.sign(PATH))
    file.unlink()
    if text is not None:
        file.write_text(text)
    now[0] = 1.0
    assert accepts(served, *link)
    assert accepts(served, *parts(served.sign(PATH)))
