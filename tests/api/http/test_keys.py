"""Keys over HTTP: who comes in, sees what, how often, how much at once and for how many credits."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import httpx2
import pytest

from api.accounts import Period, Scope
from api.build import build
from api.dialects import DIALECTS
from api.dialects.darkroom import admin_schema
from api.keys import hash_of
from api.settings import Settings, SettingsError
from inference.errors import PipelineFailed
from tests.api.http.served import ROOT, Served, bearer, make_key, serving, until
from tests.api.scripted import ScriptedEngine

HERE = "/darkroom/generations"
# What each dialect's error is made of, by the tag of its operations.
SHAPES: dict[str, Callable[[Any], Any]] = {
    "darkroom": lambda told: (told["type"], told["status"]),
    "modelmux": lambda told: (told["code"], 401),
    "modelbuffet": lambda told: (told["error"]["type"], told["request_id"] and 401),
    "openai": lambda told: (told["error"]["type"], told["error"]["message"] and 401),
    "apimodels": lambda told: (told["msg"], told["code"]),
    "eigen": lambda told: (told["message"], told["code"] == "unauthorized" and 401),
    "mynth": lambda told: (told["message"], told["code"] == "UNAUTHORIZED" and 401),
}
# To be read without a key: signed links, and what tells nothing of anybody.
KEYLESS = (
    *("/darkroom/files/{task_id}/{index}/{name}", "/o/{generation_id}/{index}.{extension}"),
    *("/api/v1/images/files/{task_id}/{index}.{extension}", "/darkroom/uploads/{upload_id}"),
    *("/v1/images/files/{task_id}/{index}.{extension}", "/livez", "/readyz"),
    *("/image/files/{task_id}/{index}.{extension}", "/models"),
)
# A first picture by each dialect that gives ids away: path, body, and where the id stands.
CREATIONS: dict[str, tuple[str, dict[str, Any], Callable[[Any], str]]] = {
    "darkroom": (HERE, {"prompt": "a"}, lambda told: told["id"]),
    "modelmux": ("/api/v1/generations", {"prompt": "a"}, lambda told: told["historyId"]),
    "modelbuffet": (
        *("/v1/images/generate", {"prompt": "a", "model": "mystic-2-5-flexible", "count": 1}),
        lambda told: told["id"],
    ),
    "mynth": ("/image/generate", {"prompt": "a"}, lambda told: told["data"]["taskId"]),
    "apimodels": (
        *("/api/v1/images/generations", {"prompt": "a", "model": "gpt-image-2"}),
        lambda told: told["data"]["taskId"],
    ),
    "eigen": (
        *("/api/v1/generate", {"prompt": "a", "model": "eigen-image", "async": True}),
        lambda told: told["task_id"],
    ),
}
# What is read by an id in the query: the query.
ASKED = {
    "/api/v1/images/generations": "?task_id={id}",
    "/api/v1/generate/status": "?model=eigen-image&jobId={id}",
    "/api/v1/generate/result": "?model=eigen-image&jobId={id}",
}
IDS = {"task_id", "history_id", "generation_id"}
NO_TASK = "tsk_" + "0" * 26


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def admin(folder: Path) -> dict[str, str]:
    return bearer(make_key(folder, "boss", scopes=frozenset(Scope)))


@pytest.fixture(scope="module")
def server(folder: Path, admin: dict[str, str]) -> Iterator[Served]:
    with serving(folder) as running:
        yield running


@pytest.fixture
def key(served: Served, admin: dict[str, str]) -> Callable[..., dict[str, str]]:
    """Makes a key over HTTP, and gives the header it is sent in."""

    def make(account: str = "team", **fields: Any) -> dict[str, str]:
        body = {"account": account} | fields
        reply = served.client.post("/darkroom/admin/keys", json=body, headers=admin)
        assert reply.status_code == 201, reply.text
        return bearer(reply.json()["key"])

    return make


def ask(served: Served, headers: dict[str, str], **fields: Any) -> httpx2.Response:
    return served.client.post(HERE, json={"prompt": "a"} | fields, headers=headers)


def own(served: Served, headers: dict[str, str]) -> dict[str, Any]:
    told: dict[str, Any] = served.client.get("/darkroom/account", headers=headers).json()
    return told


def operations(served: Served) -> Iterator[tuple[str, str, str]]:
    """Method, path and tag of everything that is served."""
    paths = served.client.get("/darkroom/openapi.json").json()["paths"]
    for path, methods in paths.items():
        for method, described in methods.items():
            yield method.upper(), path, (described.get("tags") or [""])[0]


def filled(path: str, **values: str) -> str:
    known = {"index": "0", "extension": "png", "name": "team", "key_id": "abc", "action": "load"}
    known |= {"task_id": NO_TASK} | values
    query = "?key=generated/abc/0.png" if path == "/api/storage/file" else ""
    return re.sub(r"\{(\w+)\}", lambda match: known.get(match[1], "gen_abcdefghij"), path) + query


# --- who comes in


def test_no_operation_is_open(served: Served) -> None:
    seen = set()
    for method, path, tag in operations(served):
        for headers in ({}, bearer("dk_nonsense"), {"x-api-key": "dk_" + "0" * 49}):
            if method == "GET" and path in KEYLESS:
                continue
            reply = served.client.request(method, filled(path), headers=headers)
            assert reply.status_code == 401, (method, path, reply.text)
            assert reply.headers["www-authenticate"] == "Bearer"
            kind, status = SHAPES[tag](reply.json())
            assert (bool(kind), status) == (True, 401), path
            seen.add(tag)
    assert seen == set(SHAPES)


@pytest.mark.parametrize(
    ("dialect", "path", "told"),
    [
        ("darkroom", HERE, {"type": "urn:darkroom:unauthorized", "title": "A key is needed"}),
        ("modelmux", "/api/v1/generations", {"code": "unauthorized"}),
        ("modelmux", "/modelmux/api/v1/generations", {"code": "unauthorized"}),
    ],
)
def test_a_refusal_is_in_the_shape_of_the_paths_owner(
    served: Served, dialect: str, path: str, told: dict[str, str]
) -> None:
    body = served.client.post(path, json={"prompt": "a"}).json()
    assert body | told == body


@pytest.mark.parametrize("how", ["Bearer", "Key", "Token", "x-api-key"])
def test_a_key_comes_in_either_header(
    served: Served, key: Callable[..., dict[str, str]], how: str
) -> None:
    text = key()["Authorization"].removeprefix("Bearer ")
    headers = {"x-api-key": text} if how == "x-api-key" else {"Authorization": f"{how} {text}"}
    assert served.client.get(HERE, headers=headers).status_code == 200


@pytest.mark.parametrize("path", ["/", "/playground/page.js", "/livez", "/darkroom/openapi.json"])
def test_what_tells_nothing_of_anybody_needs_no_key(served: Served, path: str) -> None:
    assert served.client.get(path).status_code == 200


def test_a_key_of_one_dialect_is_403_elsewhere(
    served: Served, key: Callable[..., dict[str, str]]
) -> None:
    headers = key(dialect="modelmux")
    created = served.client.post("/api/v1/generations", json={"prompt": "a"}, headers=headers)
    assert created.status_code == 200
    for path in (HERE, "/darkroom/account", "/v1/images/generate"):
        method = "POST" if path.startswith("/v1") else "GET"
        reply = served.client.request(method, path, json={}, headers=headers)
        assert reply.status_code == 403, path
        assert "modelmux only" in reply.text


def test_a_key_made_on_the_command_line_is_known_at_once(served: Served, folder: Path) -> None:
    headers = bearer(make_key(folder, "late"))
    assert served.client.get(HERE, headers=headers).status_code == 200


def test_an_open_address_needs_a_key_first(tmp_path: Path) -> None:
    """What would listen there is not started here."""

    async def start() -> None:
        settings = Settings(
            host="0.0.0.0", data_dir=tmp_path, models=ROOT / "models.yaml", disk_floor_bytes=0
        )
        services = build(settings, engine=ScriptedEngine())
        await services.start()
        await services.stop()

    with pytest.raises(SettingsError, match="darkroom keys create NAME"):
        asyncio.run(start())
    make_key(tmp_path)
    asyncio.run(start())


# --- who sees what


def test_one_accounts_generations_are_nothing_to_another(
    served: Served, key: Callable[..., dict[str, str]]
) -> None:
    mine, colleague, stranger = key("mine"), key("mine"), key("stranger")
    ids = {}
    for tag, (path, body, id_of) in CREATIONS.items():
        reply = served.client.post(path, json=body, headers=mine)
        assert reply.status_code in (200, 201, 202), reply.text
        ids[tag] = id_of(reply.json())
    listed = served.client.get(HERE, headers=mine).json()["generations"]
    for one in listed:
        served.client.get(f"{HERE}/{one['id']}?wait=60", headers=mine)

    asked = set()
    for method, path, tag in operations(served):
        # that takes a message too: test_deliveries.py
        if path.endswith("/resend") or path in KEYLESS or tag not in ids:
            continue
        query = ASKED.get(path, "") if method == "GET" else ""
        taken = set(re.findall(r"\{(\w+)\}", path)) & IDS
        if not query and not taken:
            continue
        asked.add((tag, path))
        where = filled(path, **dict.fromkeys(taken, ids[tag])) + query.format(id=ids[tag])
        refused = served.client.request(method, where, headers=stranger)
        assert refused.status_code == 404, (method, path, refused.text)
        for headers in (mine, colleague):
            allowed = served.client.request(method, where, headers=headers)
            assert allowed.status_code == 200, (method, path, allowed.text)
    assert {tag for tag, _ in asked} == set(ids)
    assert set(ASKED) <= {path for _, path in asked}
    assert len(listed) == len(ids)
    assert served.client.get(HERE, headers=colleague).json()["generations"]
    assert served.client.get(HERE, headers=stranger).json()["generations"] == []


def test_a_stranger_cancels_nothing(served: Served, key: Callable[..., dict[str, str]]) -> None:
    mine, stranger = key("mine"), key("stranger")
    served.script.gate.clear()
    links = ask(served, mine).json()["links"]
    for method, path in (("POST", links["cancel"]), ("DELETE", links["self"])):
        assert served.client.request(method, path, headers=stranger).status_code == 404
    told = served.client.get(links["self"], headers=mine).json()
    assert (told["cancel_requested"], told["finished_at"]) == (False, None)


def test_a_signed_link_needs_no_key(served: Served, key: Callable[..., dict[str, str]]) -> None:
    mine = key()
    made = ask(served, mine).json()
    done = served.client.get(f"{made['links']['self']}?wait=60", headers=mine).json()
    (picture,) = done["images"]
    assert served.client.get(picture["url"]).status_code == 200
    unsigned = served.client.get(picture["url"].split("?")[0], headers=mine)
    assert unsigned.status_code == 403


# --- how much at once


def test_a_key_has_only_so_many_unfinished_tasks(
    served: Served, key: Callable[..., dict[str, str]]
) -> None:
    two, free = key("crowd", max_unfinished=2), key("crowd")
    served.script.gate.clear()
    first = [ask(served, two).json() for _ in range(2)]

    refused = ask(served, two)

    assert (refused.status_code, refused.json()["type"]) == (429, "urn:darkroom:queue_full")
    assert "this key may have 2 unfinished at once and has 2" in refused.json()["detail"]
    assert int(refused.headers["retry-after"]) >= 1
    assert ask(served, free).status_code == 202, "another key of the account is not held up"
    served.client.post(first[0]["links"]["cancel"], headers=two)
    served.client.get(f"{first[0]['links']['self']}?wait=60", headers=two)
    assert ask(served, two).status_code == 202


def test_a_rush_gets_no_more_than_the_key_may_have(
    served: Served, key: Callable[..., dict[str, str]]
) -> None:
    headers = key("rush", max_unfinished=3)
    served.script.gate.clear()

    async def rush() -> list[int]:
        async with httpx2.AsyncClient(base_url=served.url, timeout=60, trust_env=False) as client:
            asked = (client.post(HERE, json={"prompt": "a"}, headers=headers) for _ in range(24))
            return [reply.status_code for reply in await asyncio.gather(*asked)]

    statuses = asyncio.run(rush())

    assert sorted(statuses) == [202] * 3 + [429] * 21


# --- how often


def test_a_key_may_ask_so_often(served: Served, key: Callable[..., dict[str, str]]) -> None:
    three, other = key("often", rate_per_minute=3), key("often")
    replies = [ask(served, three) for _ in range(3)]

    refused = ask(served, three)

    assert [reply.status_code for reply in replies] == [202] * 3
    assert {reply.headers["ratelimit-policy"] for reply in replies} == {'"requests";q=3;w=60'}
    left = [reply.headers["ratelimit"].split(";")[1] for reply in replies]
    assert left == ["r=2", "r=1", "r=0"]
    assert (refused.status_code, refused.json()["type"]) == (429, "urn:darkroom:rate_limited")
    assert 1 <= int(refused.headers["retry-after"]) <= 20
    assert refused.headers["ratelimit"].startswith('"requests";r=0;t=')
    assert served.client.get(HERE, headers=three).status_code == 200, "reading is not counted"
    assert "ratelimit" not in ask(served, other).headers


def test_the_servers_rate_holds_for_keys_without_their_own(tmp_path: Path) -> None:
    plain = bearer(make_key(tmp_path, "a"))
    another = bearer(make_key(tmp_path, "a"))
    generous = bearer(make_key(tmp_path, "b", rate_per_minute=5))
    with serving(tmp_path, rate_per_minute=1) as served:
        assert [ask(served, plain).status_code for _ in range(2)] == [202, 429]
        assert ask(served, another).status_code == 202
        assert [ask(served, generous).status_code for _ in range(3)] == [202] * 3


# --- for how many credits


def test_a_key_spends_its_limit_and_no_more(
    served: Served, key: Callable[..., dict[str, str]]
) -> None:
    headers = key("spender", credits=100, spend_limit=3, spend_period="day")
    for count in (1, 2):
        assert ask(served, headers, count=count).status_code == 202

    refused = ask(served, headers)

    assert (refused.status_code, refused.json()["type"]) == (402, "urn:darkroom:no_credits")
    assert "of the 3 that this key may spend a day, 0 are left" in refused.json()["detail"]
    told = own(served, headers)
    assert told["balance"] == 97
    spending = {"limit": 3, "period": "day", "spent": 3, "left": 0}
    assert told["spending"] | spending == told["spending"]
    midnight = r"\d{4}-\d\d-\d\dT00:00:00.000Z"
    assert re.fullmatch(midnight, told["spending"]["resets_at"])


def test_the_balance_is_told_and_holds(served: Served, key: Callable[..., dict[str, str]]) -> None:
    headers = key("payer", credits=2)
    served.script.gate.clear()
    first = ask(served, headers, count=2).json()

    refused = ask(served, headers)

    assert refused.status_code == 402
    assert refused.json()["detail"] == "this costs 1 credits and the balance is 0"
    until(lambda: own(served, headers)["held"] == 0)  # charged, as it runs
    served.script.fails = lambda job, index: PipelineFailed("it broke")
    served.script.gate.set()
    served.client.get(f"{first['links']['self']}?wait=60", headers=headers)
    told = own(served, headers)
    assert (told["balance"], told["held"], told["metered"]) == (2, 0, True)


def test_own_account_tells_the_key_and_never_its_text(
    served: Served, key: Callable[..., dict[str, str]]
) -> None:
    headers = key("team", label="mine", rate_per_minute=9)
    text = headers["Authorization"].removeprefix("Bearer ")

    reply = served.client.get("/darkroom/account", headers=headers)

    assert reply.json()["key"]["label"] == "mine"
    assert reply.json()["key"]["rate_per_minute"] == 9
    assert reply.json()["spending"] is None
    assert text not in reply.text and hash_of(text) not in reply.text


# --- managing


def test_the_first_key_is_made_while_the_server_is_open(tmp_path: Path) -> None:
    with serving(tmp_path) as served:
        nobody = own(served, {})
        assert (nobody["name"], nobody["key"], nobody["metered"]) == ("", None, False)
        body = {"account": "boss", "scopes": ["admin", "use"]}
        made = served.client.post("/darkroom/admin/keys", json=body)

        assert made.status_code == 201
        assert made.headers["cache-control"] == "no-store"
        assert served.client.post("/darkroom/admin/keys", json=body).status_code == 401
        boss = bearer(made.json()["key"])
        assert served.client.get("/darkroom/admin/keys", headers=boss).status_code == 200


def test_what_was_made_without_a_key_stays_nobodys(tmp_path: Path) -> None:
    with serving(tmp_path) as served:
        made = served.make()
        mine = bearer(make_key(tmp_path))
        until(lambda: served.client.get(HERE).status_code == 401)
        assert served.client.get(made["links"]["self"], headers=mine).status_code == 404
        assert served.client.get(made["images"][0]["url"]).status_code == 200


ADMIN = [
    ("GET", "/darkroom/admin/keys"),
    ("POST", "/darkroom/admin/keys"),
    ("DELETE", "/darkroom/admin/keys/abc"),
    ("GET", "/darkroom/admin/accounts"),
    ("GET", "/darkroom/admin/accounts/team"),
    ("POST", "/darkroom/admin/accounts/team/credits"),
    ("POST", "/darkroom/admin/models/team/load"),
]


@pytest.mark.parametrize(("method", "path"), ADMIN)
def test_managing_takes_the_scope(
    served: Served, key: Callable[..., dict[str, str]], method: str, path: str
) -> None:
    reply = served.client.request(method, path, json={}, headers=key())
    assert (reply.status_code, reply.json()["type"]) == (403, "urn:darkroom:forbidden")
    assert "'admin'" in reply.json()["detail"]


def test_a_key_for_managing_alone_asks_for_no_pictures(
    served: Served, key: Callable[..., dict[str, str]]
) -> None:
    headers = key(scopes=["admin"])
    assert served.client.get("/darkroom/admin/keys", headers=headers).status_code == 200
    assert ask(served, headers).status_code == 403


def test_every_admin_operation_is_in_the_list(served: Served) -> None:
    described = {
        (method, filled(path)) for method, path, _ in operations(served) if "/admin/" in path
    }
    assert described == set(ADMIN)


def test_keys_are_made_listed_and_revoked(served: Served, admin: dict[str, str]) -> None:
    body = {
        **{"account": "listed", "label": "a label", "scopes": ["use"], "dialect": "darkroom"},
        **{"rate_per_minute": 7, "max_unfinished": 8, "spend_limit": 9, "spend_period": "day"},
    }
    made = served.client.post("/darkroom/admin/keys", json=body, headers=admin).json()
    text = made.pop("key")
    listed = served.client.get("/darkroom/admin/keys", headers=admin)

    assert made | body == made
    assert made in listed.json()["keys"]
    assert text not in listed.text and hash_of(text) not in listed.text
    assert served.client.get(HERE, headers=bearer(text)).status_code == 200
    gone = served.client.delete(f"/darkroom/admin/keys/{made['id']}", headers=admin)
    assert gone.json() == made | {"revoked_at": gone.json()["revoked_at"]}
    assert gone.json()["revoked_at"] is not None
    assert served.client.get(HERE, headers=bearer(text)).status_code == 401
    assert served.client.delete("/darkroom/admin/keys/none", headers=admin).status_code == 404


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "account"),
        ({"account": "Team"}, "account"),
        ({"account": "team", "scopes": []}, "scopes"),
        ({"account": "team", "scopes": ["root"]}, "scopes"),
        ({"account": "team", "dialect": "midjourney"}, "dialect"),
        ({"account": "team", "rate_per_minute": 0}, "rate_per_minute"),
        ({"account": "team", "max_unfinished": "2"}, "max_unfinished"),
        ({"account": "team", "spend_limit": -1}, "spend_limit"),
        ({"account": "team", "spend_period": "week"}, "spend_period"),
        ({"account": "team", "credits": -1}, "credits"),
        ({"account": "team", "label": "x" * 65}, "label"),
        ({"account": "team", "expires": 5}, "expires"),
    ],
)
def test_a_key_that_cannot_be_is_refused_by_its_field(
    served: Served, admin: dict[str, str], body: dict[str, Any], field: str
) -> None:
    before = served.client.get("/darkroom/admin/keys", headers=admin).content
    reply = served.client.post("/darkroom/admin/keys", json=body, headers=admin)
    assert reply.status_code == 400, reply.text
    assert reply.json()["field"].startswith(field)
    if field == "dialect":
        detail = reply.json()["detail"]
        assert all(dialect.name in detail for dialect in DIALECTS), detail
    assert served.client.get("/darkroom/admin/keys", headers=admin).content == before


def test_credits_are_granted_and_taken_back(
    served: Served, admin: dict[str, str], key: Callable[..., dict[str, str]]
) -> None:
    headers = key("book")
    path = "/darkroom/admin/accounts/book"
    made = ask(served, headers).json()
    told = served.client.get(f"{made['links']['self']}?wait=60", headers=headers).json()
    assert told["state"] == "succeeded"
    for amount, note in ((10, "welcome"), (-4, "sorry")):
        body = {"amount": amount, "note": note}
        reply = served.client.post(f"{path}/credits", json=body, headers=admin)
        assert reply.status_code == 200, reply.text
    too_much = served.client.post(f"{path}/credits", json={"amount": -7}, headers=admin)
    unknown = served.client.post(
        "/darkroom/admin/accounts/none/credits", json={"amount": 1}, headers=admin
    )
    endless = served.client.post(f"{path}/credits", json={"amount": 10**18}, headers=admin)

    told = served.client.get(path, headers=admin).json()

    assert (too_much.status_code, unknown.status_code, endless.status_code) == (402, 404, 400)
    assert (told["balance"], told["held"], told["metered"]) == (6, 0, True)
    lines = [(one["kind"], one["amount"], one["note"]) for one in told["ledger"]]
    assert lines[:2] == [("grant", -4, "sorry"), ("grant", 10, "welcome")]
    assert [kind for kind, _, _ in lines[2:]] == ["forgiven", "charge", "hold"]
    assert sum(one["amount"] for one in told["ledger"]) == 6
    short = served.client.get(f"{path}?limit=1", headers=admin).json()["ledger"]
    assert short == told["ledger"][:1]
    listed = served.client.get("/darkroom/admin/accounts", headers=admin)
    without = {name: value for name, value in told.items() if name != "ledger"}
    assert without in listed.json()["accounts"]
    assert "whsec_" not in listed.text


def test_the_secret_of_webhooks_is_ones_own(
    served: Served, key: Callable[..., dict[str, str]]
) -> None:
    path = "/darkroom/account/webhook-secret"
    mine, stranger = key("hooked"), key("stranger")
    first = served.client.get(path, headers=mine)

    rotated = served.client.post(f"{path}/rotate", headers=mine)

    assert first.json()["secret"].startswith("whsec_")
    assert (first.json()["old_secret"], first.json()["old_secret_until"]) == (None, None)
    assert rotated.json()["secret"] != first.json()["secret"]
    assert rotated.json()["old_secret"] == first.json()["secret"]
    until_at = time.strptime(rotated.json()["old_secret_until"][:19], "%Y-%m-%dT%H:%M:%S")
    assert until_at > time.gmtime(time.time() + 86_000)
    assert served.client.get(path, headers=mine).json() == rotated.json()
    others = served.client.get(path, headers=stranger).text
    assert first.json()["secret"] not in others and rotated.json()["secret"] not in others
    for reply in (first, rotated):
        assert reply.headers["cache-control"] == "no-store"


def test_periods_and_scopes_are_those_of_the_model() -> None:
    """The wire types spell them out."""
    assert get_args(admin_schema.ScopeName) == tuple(Scope)
    assert get_args(admin_schema.PeriodName) == tuple(Period)


def test_a_grant_that_is_sent_twice_counts_once(
    served: Served, admin: dict[str, str], key: Callable[..., dict[str, str]]
) -> None:
    key("once", credits=0)
    path, headers = "/darkroom/admin/accounts/once/credits", admin | {"Idempotency-Key": "grant-1"}

    def grant(amount: int) -> httpx2.Response:
        return served.client.post(path, json={"amount": amount}, headers=headers)

    assert [grant(7).json()["balance"] for _ in range(3)] == [7, 7, 7]
    other = grant(8)
    assert (other.status_code, other.json()["type"]) == (422, "urn:darkroom:idempotency_mismatch")
    assert served.client.post(path, json={"amount": 7}, headers=admin).json()["balance"] == 14


def test_a_key_is_never_repeated(served: Served, admin: dict[str, str]) -> None:
    reply = served.client.post(
        "/darkroom/admin/keys",
        json={"account": "team"},
        headers=admin | {"Idempotency-Key": "again"},
    )
    assert (reply.status_code, reply.json()["field"]) == (400, "Idempotency-Key")
