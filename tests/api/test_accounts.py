"""Keys and accounts: who is let in, what is kept of a key, and how soon a change is noticed."""

from __future__ import annotations

import random
import string
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fastapi import Request

from api import accounts as module
from api.accounts import NOBODY, OLD_SECRET_MS, Accounts, Caller, Key, Period, Scope
from api.dialects import DIALECTS
from api.dialects.callers import admin_of, asker_of, caller_of, key_in
from api.errors import BadRequest, Forbidden, NoCredits, NotFound, Unauthorized
from api.keys import hash_of, is_well_formed, new_key
from api.limits import Limiter
from api.store import migrate_sqlite, sqlite_database
from api.store.accounts import AccountStore
from api.store.database import Database
from tests.api.making import Clock


@dataclass
class Seconds:
    """A clock that moves only when told."""

    now: float = 50.0

    def __call__(self) -> float:
        return self.now


class Counting(AccountStore):
    """The store itself, counting how often a key is looked up."""

    looked_up = 0

    async def find_key(self, digest: str) -> Key | None:
        self.looked_up += 1
        return await super().find_key(digest)


@dataclass
class Books:
    """Accounts as one process has them, with its clocks in hand."""

    database: Database
    clock: Clock = field(default_factory=Clock)
    seconds: Seconds = field(default_factory=Seconds)

    def __post_init__(self) -> None:
        self.store = Counting(self.database, self.clock)
        self.accounts = Accounts(self.store, now_seconds=self.seconds)

    async def key(self, account: str = "team", **fields: Any) -> tuple[Key, str]:
        return await self.accounts.create_key(Key(id="", account=account, **fields))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "darkroom.db"
    migrate_sqlite(path)
    return path


@pytest.fixture
async def books(file: Path) -> AsyncIterator[Books]:
    database = sqlite_database(file)
    yield Books(database)
    await database.close()


@pytest.fixture
async def elsewhere(file: Path) -> AsyncIterator[Books]:
    """The same file as another process has it: a command, while the server runs."""
    database = sqlite_database(file)
    yield Books(database)
    await database.close()


# --- the text of a key


def mutated(text: str, draw: random.Random) -> str:
    """The key with a small accident: a character changed, lost, doubled, swapped or cut."""
    at = draw.randrange(3, len(text) - 1)
    return draw.choice(
        [
            text[:at] + draw.choice(string.ascii_letters + string.digits) + text[at + 1 :],
            text[:at] + text[at + 1 :],
            text[:at] + text[at] + text[at:],
            text[:at] + text[at + 1] + text[at] + text[at + 2 :],
            text[:at],
            text[:at] + text[at:].swapcase(),
            text + draw.choice("aA0="),
            text[:at] + draw.choice("-_ é\n\0") + text[at + 1 :],
        ]
    )


def test_a_key_is_256_bits_with_a_checksum() -> None:
    made = [new_key() for _ in range(200)]

    assert len(set(made)) == 200
    assert {len(text) for text in made} == {52}
    assert all(text.startswith("dk_") and text[3:].isalnum() and text.isascii() for text in made)
    assert all(is_well_formed(text) for text in made)
    # every place of the random part takes many values, the first one too
    assert min(len(set(column)) for column in zip(*(text[4:46] for text in made), strict=True)) > 30


async def test_a_mistyped_key_is_refused_without_a_look(books: Books) -> None:
    _, text = await books.key()
    draw = random.Random(7)
    others = [one for one in (mutated(text, draw) for _ in range(2000)) if one != text][:1000]
    assert len(others) == 1000

    for other in others:
        with pytest.raises(Unauthorized):
            await books.accounts.caller(other)

    assert books.store.looked_up == 0
    with pytest.raises(Unauthorized):
        await books.accounts.caller(new_key())
    assert books.store.looked_up == 1, "one that could be ours is looked up"


@pytest.mark.parametrize("text", ["", "dk_", "dk_" + "0" * 49, "sk-" + "a" * 48, "é" * 52])
def test_other_texts_are_no_keys(text: str) -> None:
    assert not is_well_formed(text)


async def test_only_the_hash_reaches_the_disk(books: Books, file: Path) -> None:
    made = [(await books.key(label=f"n{number}"))[1] for number in range(20)]
    for text in made:
        assert (await books.accounts.caller(text)).account == "team"

    kept = b"".join(path.read_bytes() for path in file.parent.iterdir())

    for text in made:
        assert hash_of(text).encode() in kept
        for secret in (text, text[3:], text[3:-6], text[10:30]):
            assert secret.encode() not in kept


async def test_nothing_that_is_shown_holds_the_key(books: Books) -> None:
    key, text = await books.key(label="mine")
    account = await books.accounts.account("team")

    shown = repr([key, await books.accounts.keys(), await books.accounts.caller(text), account])

    assert text not in shown
    assert hash_of(text) not in shown
    assert account.webhook_secret not in shown


# --- who is let in


async def test_a_server_is_open_until_the_first_key_and_never_again(books: Books) -> None:
    assert await books.accounts.caller(None) == NOBODY
    assert await books.accounts.caller("anything") == NOBODY
    key, text = await books.key()

    with pytest.raises(Unauthorized):
        await books.accounts.caller(None)
    assert (await books.accounts.caller(text)).key == key
    await books.accounts.revoke(key.id)
    for sent in (None, text, "anything"):
        with pytest.raises(Unauthorized):
            await books.accounts.caller(sent)

    restarted = Accounts(books.store)
    with pytest.raises(Unauthorized):
        await restarted.caller(None)


async def test_a_key_made_elsewhere_closes_within_a_second(books: Books, elsewhere: Books) -> None:
    assert await books.accounts.caller(None) == NOBODY
    _, text = await elsewhere.key()

    books.seconds.now += 1.0

    with pytest.raises(Unauthorized):
        await books.accounts.caller(None)
    assert (await books.accounts.caller(text)).account == "team"


async def test_what_is_revoked_elsewhere_is_noticed_after_a_second(
    books: Books, elsewhere: Books
) -> None:
    key, text = await books.key()
    await books.accounts.caller(text)
    looked_up = books.store.looked_up
    await elsewhere.accounts.revoke(key.id)

    books.seconds.now += 0.99
    assert (await books.accounts.caller(text)).key == key, "within the second it is remembered"
    assert books.store.looked_up == looked_up
    books.seconds.now += 0.01

    with pytest.raises(Unauthorized):
        await books.accounts.caller(text)


async def test_what_is_revoked_here_is_noticed_at_once(books: Books) -> None:
    key, text = await books.key()
    await books.accounts.caller(text)

    revoked = await books.accounts.revoke(key.id)

    with pytest.raises(Unauthorized):
        await books.accounts.caller(text)
    books.clock.ms += 5000
    assert (await books.accounts.revoke(key.id)).revoked_ms == revoked.revoked_ms
    with pytest.raises(NotFound):
        await books.accounts.revoke("none")


async def test_a_key_is_good_until_it_is_revoked(books: Books, elsewhere: Books) -> None:
    (first, _), (second, _) = await books.key(), await books.key()
    assert await books.accounts.is_good(first.id)
    assert await books.accounts.is_good(second.id)
    assert not await books.accounts.is_good("none")

    await elsewhere.accounts.revoke(first.id)
    assert await books.accounts.is_good(first.id), "within the second it is remembered"
    books.seconds.now += 1.0
    assert not await books.accounts.is_good(first.id)

    await books.accounts.revoke(second.id)
    assert not await books.accounts.is_good(second.id)


async def test_the_memory_of_keys_is_bounded(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_CACHED", 10)
    _, text = await books.key()
    for _ in range(100):
        with pytest.raises(Unauthorized):
            await books.accounts.caller(new_key())
        assert len(books.accounts._known) <= 10
    assert (await books.accounts.caller(text)).account == "team"


# --- what a key may do


@dataclass
class FakeDesk:
    """What the callers' dependencies use of a desk."""

    accounts: Accounts
    dialects: Any = DIALECTS
    rate_per_minute: int | None = None
    limiter: Limiter = field(default_factory=Limiter)


def request_to(path: str, headers: dict[str, str]) -> Request:
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "path": path, "headers": raw, "state": {"headers": {}}}
    return Request(scope)


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ({}, None),
        ({"Authorization": "Bearer abc"}, "abc"),
        ({"Authorization": "bearer  abc "}, "abc"),
        ({"Authorization": "Key abc"}, "abc"),
        ({"Authorization": "Token abc"}, "abc"),
        ({"Authorization": "Basic abc"}, None),
        ({"Authorization": "Bearer"}, None),
        ({"Authorization": "Bearer ", "x-api-key": "def"}, "def"),
        ({"x-api-key": "def"}, "def"),
        ({"x-api-key": ""}, None),
        ({"Authorization": "Bearer abc", "x-api-key": "def"}, "abc"),
    ],
)
def test_a_key_is_found_in_either_header(headers: dict[str, str], found: str | None) -> None:
    assert key_in(request_to("/", headers)) == found


@pytest.mark.parametrize(
    ("path", "is_allowed"),
    [
        ("/api/v1/generations", True),
        ("/modelmux/api/v1/generations", True),
        ("/darkroom/generations", False),
        ("/v1/images/generate", False),
        ("/nowhere", False),
    ],
)
async def test_a_key_of_one_dialect_is_good_for_no_other(
    books: Books, path: str, is_allowed: bool
) -> None:
    _, text = await books.key(dialect="modelmux")
    request = request_to(path, {"x-api-key": text})
    desk: Any = FakeDesk(books.accounts)

    if is_allowed:
        assert (await caller_of(request, desk)).account == "team"
    else:
        with pytest.raises(Forbidden, match="modelmux only"):
            await caller_of(request, desk)


@pytest.mark.parametrize(
    ("scopes", "may_ask", "may_manage"),
    [({"use"}, True, False), ({"admin"}, False, True), ({"use", "admin"}, True, True)],
)
async def test_scopes_are_what_a_key_may_do(
    books: Books, scopes: set[str], may_ask: bool, may_manage: bool
) -> None:
    _, text = await books.key(scopes=frozenset(map(Scope, scopes)))
    caller = await books.accounts.caller(text)
    request = request_to("/darkroom/generations", {})
    desk: Any = FakeDesk(books.accounts)

    for is_allowed, work in (
        (may_ask, asker_of(request, desk, caller)),
        (may_manage, admin_of(caller)),
    ):
        if is_allowed:
            assert await work == caller
        else:
            with pytest.raises(Forbidden, match="lacks the scope"):
                await work


async def test_who_needs_no_key_may_do_everything() -> None:
    assert await admin_of(NOBODY) == NOBODY
    NOBODY.need(Scope.USE)


# --- what is kept


async def test_a_key_comes_back_as_it_was_made(books: Books) -> None:
    wanted = Key(
        id="",
        account="team",
        label="the printer's",
        scopes=frozenset(Scope),
        dialect="modelmux",
        rate_per_minute=5,
        max_unfinished=2,
        spend_limit=70,
        spend_period=Period.DAY,
    )
    made, text = await books.accounts.create_key(wanted)

    (listed,) = await books.accounts.keys()
    caller = await books.accounts.caller(text)

    assert made == listed == caller.key
    given = {"id": made.id, "created_ms": books.clock.ms}
    assert made == Key(**{name: getattr(wanted, name) for name in wanted.__slots__} | given)
    assert (caller.id, caller.key_id, Caller().key_id) == (made.id, made.id, None)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"account": ""}, "account"),
        ({"account": "Team"}, "account"),
        ({"account": "-team"}, "account"),
        ({"account": "a" * 65}, "account"),
        ({"account": "a\n"}, "account"),
        ({"label": "a" * 65}, "label"),
        ({"label": "a\0b"}, "label"),
        ({"scopes": frozenset()}, "scopes"),
        ({"rate_per_minute": 0}, "rate_per_minute"),
        ({"rate_per_minute": 2**31}, "rate_per_minute"),
        ({"max_unfinished": -1}, "max_unfinished"),
        ({"spend_limit": -1}, "spend_limit"),
        ({"spend_limit": 10**18}, "spend_limit"),
        ({"credits": -1}, "credits"),
        ({"credits": 2**63}, "credits"),
    ],
)
async def test_what_is_unfit_is_refused_and_nothing_kept(
    books: Books, fields: dict[str, Any], field: str
) -> None:
    given = dict(fields)
    credits = given.pop("credits", None)

    with pytest.raises(BadRequest) as refused:
        key = Key(**({"id": "", "account": "team"} | given))
        await books.accounts.create_key(key, credits=credits)

    assert refused.value.field == field
    assert await books.accounts.keys() == []
    assert [one.name for one in await books.accounts.accounts()] == [""]


async def test_credits_come_with_a_key_and_go_by_hand(books: Books) -> None:
    await books.accounts.create_key(Key(id="", account="team"), credits=10)
    assert (await books.accounts.account("team")).metered

    account = await books.accounts.grant("team", -4, "a mistake")

    assert (account.balance, account.metered) == (6, True)
    with pytest.raises(NoCredits, match="the balance is 6, 7 cannot be taken"):
        await books.accounts.grant("team", -7)
    told = [(one.kind, one.amount, one.note) for one in await books.accounts.entries("team")]
    assert told == [("grant", -4, "a mistake"), ("grant", 10, "with a new key")]
    for name, amount in (("", 5), ("team", 2**63), ("team", -(2**63))):
        with pytest.raises(BadRequest):
            await books.accounts.grant(name, amount)
    for work in (books.accounts.grant("none", 5), books.accounts.unmeter("none")):
        with pytest.raises(NotFound):
            await work


async def test_the_old_secret_signs_for_a_day(books: Books) -> None:
    first = await books.accounts.open("team")
    assert (await books.accounts.open("team")).webhook_secret == first.webhook_secret
    assert first.webhook_secrets(books.clock.ms) == (first.webhook_secret,)

    changed = await books.accounts.rotate_webhook_secret("team")

    both = (changed.webhook_secret, first.webhook_secret)
    assert len(set(both)) == 2
    assert all(secret.startswith("whsec_") for secret in both)
    assert changed.webhook_secrets(books.clock.ms + OLD_SECRET_MS - 1) == both
    assert changed.webhook_secrets(books.clock.ms + OLD_SECRET_MS) == both[:1]
