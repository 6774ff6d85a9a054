"""Copies in places of the caller's own: checked, signed for, tried again, never told of twice."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import ssl
import subprocess
import traceback
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from api.destinations import (
    PAUSES_SECONDS,
    DestinationFailed,
    Destinations,
    Pause,
    deliver_nowhere,
)
from api.errors import BadRequest, NotFound, Unavailable
from api.outbound import Outbound
from api.outbound.client import GuardedNetwork
from api.outputs import EncodedPicture, FileStyle
from api.services import Services
from api.store import migrate_sqlite, sqlite_database
from api.store.destinations import Destination, DestinationStore
from api.tasks import Delivery, ImageFormat, Task, TaskState
from tests.api.making import AMPLE, submission
from tests.api.s3server import BUCKET, KEY_ID, SECRET, S3Server
from tests.api.scripted import ScriptedEngine
from tests.api.test_s3 import broken

PICTURE = EncodedPicture(
    data=b"picture",
    media_type="image/webp",
    extension="webp",
    width=1,
    height=1,
    sha256=hashlib.sha256(b"picture").hexdigest(),
)


class Guard:
    """Lets everything pass, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.refuses: str | None = None

    async def __call__(self, url: str, *, field: str) -> None:
        self.asked.append((url, field))
        if self.refuses is not None:
            raise BadRequest(self.refuses, field=field)


class Naps:
    """Pauses that take no time, and are remembered."""

    def __init__(self) -> None:
        self.taken: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.taken.append(seconds)


@pytest.fixture
def guard() -> Guard:
    """What the endpoints are shown to."""
    return Guard()


@pytest.fixture
def naps() -> Naps:
    """The pauses between tries."""
    return Naps()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[DestinationStore]:
    """An empty table."""
    path = tmp_path / "destinations.db"
    migrate_sqlite(path)
    database = sqlite_database(path)
    yield DestinationStore(database)
    await database.close()


@pytest.fixture
def places(store: DestinationStore, guard: Guard) -> Destinations:
    """Destinations that connect to anything."""
    return Destinations(store, guard)


def wanted(**changes: Any) -> Destination:
    values: dict[str, Any] = {
        "account": "ann",
        "name": "my-bucket",
        "url": f"s3://{BUCKET}/ann",
        "endpoint": "https://s3.example",
        "region": "us-east-1",
        "access_key_id": KEY_ID,
        "secret": SECRET,
        "public_url": None,
    }
    return Destination(**(values | changes))


def on(server: S3Server, **changes: Any) -> Destination:
    """A place on the server that no other test has."""
    url = f"s3://{BUCKET}/{secrets.token_hex(8)}/ann"
    return wanted(**({"endpoint": server.endpoint, "url": url} | changes))


def objects(server: S3Server, destination: Destination) -> dict[str, bytes]:
    prefix = destination.url.removeprefix(f"s3://{BUCKET}/")
    client = server.client(prefix=prefix)
    paths = [one["path"] for some in client.list() for one in some]
    return {path: bytes(client.get(path).bytes()) for path in paths}


# The table


async def test_destinations_are_kept_by_account_and_name(places: Destinations) -> None:
    mine = await places.add(wanted())
    second = await places.add(wanted(name="another"))
    theirs = await places.add(wanted(account="bob", secret="other"))
    assert await places.list("ann") == (second, mine)
    assert await places.get("ann", "my-bucket") == mine
    kept = {"id": mine.id, "created_ms": mine.created_ms, "updated_ms": mine.created_ms}
    assert mine == wanted(**kept)
    assert len({mine.id, second.id, theirs.id}) == 3
    await places.remove("ann", "my-bucket")
    assert await places.list("ann") == (second,)
    assert await places.list("bob") == (theirs,)
    for missing in (places.get("ann", "my-bucket"), places.remove("ann", "my-bucket")):
        with pytest.raises(NotFound, match="my-bucket"):
            await missing


async def test_a_name_is_given_once(places: Destinations) -> None:
    await places.add(wanted())
    with pytest.raises(BadRequest, match="already") as refused:
        await places.add(wanted(secret="other"))
    assert refused.value.field == "name"
    assert (await places.get("ann", "my-bucket")).secret == SECRET


REFUSED = [
    *(("name", name) for name in ("", "A", "a b", "a/b", "..", "é", "a" * 65, "a\n", "a\0")),
    *(("url", url) for url in ("", "/etc", "s3://", "https://x.example/b", "s3://Bucket/x")),
    *(("url", url) for url in ("s3://bucket/../x", "s3://bucket/a//b", "s3://b/" + "a/" * 600)),
    *(("endpoint", url) for url in ("s3.example", "ftp://s3.example", "https://a:b@s3.example")),
    *(("endpoint", url) for url in ("https://s3.example/x", "https://s3.example?x", "https://é.x")),
    *(("endpoint", url) for url in ("https://s3.example\\@x", "https://x:0", "https://x:99999")),
    *(("region", region) for region in ("", "eu.x/", "us-east-1.evil.example#", "a b", "a" * 65)),
    *(("access_key_id", value) for value in ("", "a b", "é", "a\n", "a" * 201)),
    *(("secret", value) for value in ("", "a b", "é", "a\n", "a" * 201)),
    *(("public_url", url) for url in ("javascript:alert(1)", "https://", "https://x y")),
    *(("public_url", url) for url in ("https://a:b@x.example", "https://x.example/?a", "http://x#a")),
]  # fmt: skip


@pytest.mark.parametrize(("field", "value"), REFUSED)
async def test_what_is_no_place_is_refused(
    places: Destinations, guard: Guard, field: str, value: str
) -> None:
    with pytest.raises(BadRequest) as refused:
        await places.add(wanted(**{field: value}))
    assert refused.value.field == {"secret": "secret_access_key"}.get(field, field)
    assert guard.asked == [], "nobody is asked about what cannot be"
    assert await places.list("ann") == ()


async def test_an_endpoint_must_pass_the_guard(places: Destinations, guard: Guard) -> None:
    guard.refuses = "leads to a private address"
    with pytest.raises(BadRequest, match="private address"):
        await places.add(wanted())
    assert await places.list("ann") == ()
    assert guard.asked == [("https://s3.example", "endpoint")]


async def test_without_an_endpoint_it_is_that_of_the_region(
    places: Destinations, guard: Guard
) -> None:
    added = await places.add(wanted(endpoint=None, region="eu-central-1"))
    assert added.endpoint is None
    assert guard.asked == [("https://s3.eu-central-1.amazonaws.com", "endpoint")]


async def test_what_is_kept_has_one_spelling(places: Destinations) -> None:
    added = await places.add(
        wanted(url="s3://bucket/a/", endpoint="https://s3.example/", public_url="https://x/y/")
    )
    assert (added.url, added.endpoint) == ("s3://bucket/a", "https://s3.example")
    assert added.public_url == "https://x/y"
    assert await places.get("ann", "my-bucket") == added


def test_a_secret_is_in_no_repr() -> None:
    assert SECRET not in repr(wanted()) and SECRET not in str(wanted())


# Delivery to a real server


async def test_a_copy_is_delivered(s3_server: S3Server, places: Destinations) -> None:
    place = await places.add(on(s3_server))
    url = await places.deliver(place, task_for("my-bucket"), 0, PICTURE)
    assert url == f"{place.url}/task1/0.webp"
    assert objects(s3_server, place) == {"task1/0.webp": b"picture"}
    client = s3_server.client(prefix=place.url.removeprefix(f"s3://{BUCKET}/"))
    assert client.get("task1/0.webp").attributes["Content-Type"] == "image/webp"


async def test_a_second_delivery_replaces_the_first(
    s3_server: S3Server, places: Destinations
) -> None:
    place = await places.add(on(s3_server))
    await places.deliver(place, task_for("my-bucket"), 0, PICTURE)
    await places.deliver(place, task_for("my-bucket"), 0, replace(PICTURE, data=b"again"))
    assert objects(s3_server, place) == {"task1/0.webp": b"again"}


async def test_a_public_address_is_told_instead(s3_server: S3Server, places: Destinations) -> None:
    place = await places.add(on(s3_server, public_url="https://cdn.example/ann/"))
    told = await places.deliver(place, task_for("my-bucket"), 3, PICTURE)
    assert told == "https://cdn.example/ann/task1/3.webp"


async def test_testing_a_destination_leaves_nothing(
    s3_server: S3Server, places: Destinations
) -> None:
    place = await places.add(on(s3_server))
    await places.test("ann", "my-bucket")
    assert objects(s3_server, place) == {}
    with pytest.raises(NotFound):
        await places.test("bob", "my-bucket")


WRONG = {
    "secret": ({"secret": "wrong"}, "the secret access key is wrong"),
    "key": ({"access_key_id": "nobody"}, "the access key id is not known there"),
    "bucket": ({"url": "s3://no-such-bucket/x"}, "there is no such bucket"),
    "endpoint": ({"endpoint": "http://127.0.0.1:1"}, "it cannot be reached"),
}


@pytest.mark.parametrize(("changes", "cause"), list(WRONG.values()), ids=list(WRONG))
async def test_what_is_wrong_is_named(
    s3_server: S3Server, places: Destinations, changes: dict[str, Any], cause: str
) -> None:
    place = await places.add(on(s3_server, **changes))
    with pytest.raises(Unavailable, match=cause):
        await places.test("ann", "my-bucket")
    with pytest.raises(Unavailable, match=cause):
        await places.deliver(place, task_for("my-bucket"), 0, PICTURE)


async def test_no_secret_and_no_signature_is_told(
    s3_server: S3Server, places: Destinations, naps: Naps, caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    caplog.set_level(0)
    await places.add(on(s3_server))
    await places.test("ann", "my-bucket")
    await places.deliver_for(task_for("my-bucket"), 0, PICTURE, naps)
    told = []
    for number, changes in enumerate([{"endpoint": "http://127.0.0.1:1"}, {"region": "elsewhere"},
                                      {"access_key_id": "nobody"}]):  # fmt: skip
        name = f"wrong-{number}"
        await places.add(on(s3_server, name=name, **changes))
        try:
            await places.deliver_for(task_for(name), 0, PICTURE, naps)
        except DestinationFailed as error:
            told += traceback.format_exception(error)
    assert told
    told += [caplog.text, *capsys.readouterr()]
    assert not [text for text in told if SECRET in text or "X-Amz-Signature" in text]


# Servers that are not what they should be


async def test_no_redirect_is_followed(places: Destinations) -> None:
    with broken(200) as (inner, reached):
        for status in (301, 302, 303, 307, 308):
            with broken(status, location=inner) as (endpoint, seen):
                place = await places.add(wanted(endpoint=endpoint, name=f"r{status}"))
                with pytest.raises(Unavailable, match=f"status {status}"):
                    await places.deliver(place, task_for("my-bucket"), 0, PICTURE)
                assert len(seen) == 1
        assert reached == []


@pytest.mark.parametrize("trusted", [True, False])
async def test_a_certificate_must_hold(
    store: DestinationStore, guard: Guard, tmp_path: Path, trusted: bool
) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2"
    command += " -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command.split(), *files], check=True, capture_output=True)
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    serving.load_cert_chain(certificate, key)
    tls = ssl.create_default_context(cafile=str(certificate)) if trusted else None
    places = Destinations(store, guard, tls=tls)
    with broken(200, tls=serving) as (endpoint, seen):
        port = endpoint.rpartition(":")[2]
        place = await places.add(wanted(endpoint=f"https://localhost:{port}"))
        if trusted:
            await places.deliver(place, task_for("my-bucket"), 0, PICTURE)
            assert [method for method, *_ in seen] == ["PUT"]
        else:
            with pytest.raises(Unavailable, match="cannot be reached"):
                await places.deliver(place, task_for("my-bucket"), 0, PICTURE)
            assert seen == []


async def test_an_endless_reply_is_cut(places: Destinations) -> None:
    with broken(500, b"x" * 5_000_000) as (endpoint, _):
        place = await places.add(wanted(endpoint=endpoint))
        with pytest.raises(Unavailable, match="status 500"):
            await places.deliver(place, task_for("my-bucket"), 0, PICTURE)


async def test_a_silent_server_is_given_up(store: DestinationStore, guard: Guard) -> None:
    async def stay_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(stay_silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    places = Destinations(store, guard, timeout_seconds=0.3)
    place = await places.add(wanted(endpoint=f"http://127.0.0.1:{port}"))
    with pytest.raises(Unavailable, match="cannot be reached"):
        await places.deliver(place, task_for("my-bucket"), 0, PICTURE)
    server.close()


async def test_the_environment_changes_nothing(
    s3_server: S3Server, places: Destinations, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The operator's own variables must not lead a stranger's pictures to the operator's place."""
    place = await places.add(on(s3_server))
    with broken(200) as (elsewhere, reached), monkeypatch.context() as environment:
        for name in ("AWS_ENDPOINT", "AWS_ENDPOINT_URL", "HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            environment.setenv(name, elsewhere)
        environment.setenv("AWS_SESSION_TOKEN", "the operator's")
        environment.setenv("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "true")
        environment.setenv("AWS_SKIP_SIGNATURE", "true")
        await places.deliver(place, task_for("my-bucket"), 0, PICTURE)
        assert reached == []
    assert objects(s3_server, place) == {"task1/0.webp": b"picture"}


async def test_the_address_is_judged_again_when_it_is_connected_to(
    s3_server: S3Server, store: DestinationStore
) -> None:
    """A name that was public when the place was added may lead inside later."""
    port = s3_server.endpoint.rpartition(":")[2]
    answers = [["93.184.215.14"], ["93.184.215.14"], ["127.0.0.1"]]
    asked: list[str] = []

    async def resolve(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return answers[min(len(asked), len(answers)) - 1]

    outbound = Outbound(resolve=resolve)
    network = GuardedNetwork(outbound.addresses_of)
    places = Destinations(store, outbound.check_host, network=network)
    place = await places.add(on(s3_server, endpoint=f"http://rebinding.example:{port}"))
    with pytest.raises(Unavailable, match="leads to a private address"):
        await places.deliver(place, task_for("my-bucket"), 0, PICTURE)
    assert len(asked) == 3
    assert objects(s3_server, place) == {}
    await outbound.close()


@pytest.mark.parametrize(
    "endpoint",
    ["http://127.0.0.1:9000", "http://169.254.169.254", "http://[::1]", "http://2130706433"],
)
async def test_no_private_address_is_taken(store: DestinationStore, endpoint: str) -> None:
    outbound = Outbound()
    places = Destinations(store, outbound.check_host)
    with pytest.raises(BadRequest, match="private address"):
        await places.add(wanted(endpoint=endpoint))
    await outbound.close()


# A task's copies


def task_for(name: str | None, account: str = "ann") -> Task:
    made = submission("task1", account=account)
    return Task(
        id="task1", dialect="darkroom", account=account, state=TaskState.RUNNING,
        request=made.request, job=made.job, delivery=Delivery(destination=name), credits=0,
        attempt=1, created_ms=0, started_ms=0, finished_ms=None, cancel_requested=False,
        error_kind=None, error_message=None, outputs=(),
    )  # fmt: skip


async def test_a_delivery_is_tried_again(
    s3_server: S3Server, places: Destinations, guard: Guard
) -> None:
    place = await places.add(on(s3_server))
    guard.refuses = "was not found"

    class Recovers(Naps):
        async def __call__(self, seconds: float) -> None:
            await super().__call__(seconds)
            guard.refuses = None if len(self.taken) == 3 else guard.refuses

    naps = Recovers()
    url = await places.deliver_for(task_for("my-bucket"), 0, PICTURE, naps)
    assert url == f"{place.url}/task1/0.webp"
    assert naps.taken == list(PAUSES_SECONDS[:3])


async def test_a_delivery_that_never_works_names_its_destination(
    places: Destinations, naps: Naps
) -> None:
    with broken(503, b"<Error><Code>SlowDown</Code></Error>") as (endpoint, seen):
        await places.add(wanted(endpoint=endpoint))
        with pytest.raises(DestinationFailed, match="destination 'my-bucket': SlowDown") as failed:
            await places.deliver_for(task_for("my-bucket"), 0, PICTURE, naps)
        assert failed.value.kind == "destination_failed"
        assert len(seen) == 5
    assert naps.taken == [1.0, 3.0, 8.0, 18.0]


@pytest.mark.parametrize("account", ["ann", "bob"])
async def test_a_destination_that_is_gone_fails_at_once(
    places: Destinations, naps: Naps, account: str
) -> None:
    await places.add(wanted())
    await places.remove("ann", "my-bucket")
    await places.add(wanted(account="bob", name="theirs"))
    name = "my-bucket" if account == "bob" else "theirs"
    with pytest.raises(DestinationFailed, match=f"no destination '{name}'"):
        await places.deliver_for(task_for(name, account), 0, PICTURE, naps)
    assert naps.taken == []


async def order(services: Services, count: int = 1, **delivery: Any) -> Task:
    """A task that asks for its files in some way, run to its end."""
    task_id = secrets.token_hex(8)
    made = submission(task_id, count=count, account="ann")
    await services.accounts.open("ann")
    await services.store.accept(replace(made, delivery=Delivery(**delivery)), AMPLE)
    services.dispatcher.wake()
    return await services.darkroom.wait(task_id, timeout_seconds=30, account="ann")


def equip(services: Services, **changes: Any) -> None:
    services.dispatcher._shop = replace(services.dispatcher._shop, **changes)


async def test_a_tasks_copies_lie_in_its_destination(
    services: Services, s3_server: S3Server, places: Destinations
) -> None:
    place = await places.add(on(s3_server))
    equip(services, deliver=places.deliver_for)
    task = await order(services, count=3, destination="my-bucket", format=ImageFormat.WEBP)
    assert task.state is TaskState.SUCCEEDED, task
    copies = objects(s3_server, place)
    for output in task.outputs:
        path = f"{task.id}/{output.index}.webp"
        assert output.destination_url == f"{place.url}/{path}"
        assert hashlib.sha256(copies[path]).hexdigest() == output.sha256
    assert len(copies) == 3


async def test_a_task_without_a_destination_has_no_copy(services: Services) -> None:
    task = await order(services)
    assert task.state is TaskState.SUCCEEDED
    assert [output.destination_url for output in task.outputs] == [None]


async def test_an_undelivered_copy_fails_the_task(
    services: Services, store: DestinationStore, guard: Guard, tmp_path: Path
) -> None:
    places = Destinations(store, guard, pauses_seconds=(0.01, 0.01))
    with broken(403, b"<Error><Code>AccessDenied</Code></Error>") as (endpoint, _):
        await places.add(wanted(endpoint=endpoint))
        equip(services, deliver=places.deliver_for)
        task = await order(services, count=2, destination="my-bucket")
    assert (task.state, task.error_kind) == (TaskState.FAILED, "destination_failed")
    assert task.error_message == "destination 'my-bucket': the access key may not do that"
    assert task.outputs == ()
    assert [*(tmp_path / "data" / "objects").rglob("*.png")] == []


async def test_no_picture_is_recorded_before_its_copy_lies_there(services: Services) -> None:
    asked, may = asyncio.Event(), asyncio.Event()

    async def deliver(task: Task, index: int, picture: EncodedPicture, pause: Pause) -> str:
        asked.set()
        await may.wait()
        return "s3://somewhere/x.png"

    equip(services, deliver=deliver)
    running = asyncio.create_task(order(services, destination="my-bucket"))
    await asyncio.wait({running, asyncio.create_task(asked.wait())}, return_when="FIRST_COMPLETED")
    assert not running.done(), running
    page = await services.store.list(account="ann", state=None, limit=1, cursor=None)
    assert (page.tasks[0].state, page.tasks[0].outputs) == (TaskState.RUNNING, ())
    may.set()
    done = await running
    assert [output.destination_url for output in done.outputs] == ["s3://somewhere/x.png"]


async def test_our_own_database_being_away_fails_no_task(
    services: Services, s3_server: S3Server, places: Destinations
) -> None:
    await places.add(on(s3_server))
    tries: list[int] = []

    async def deliver(task: Task, index: int, picture: EncodedPicture, pause: Pause) -> str:
        tries.append(index)
        if len(tries) < 3:
            raise Unavailable("the database cannot be used now")
        return await places.deliver_for(task, index, picture, pause)

    equip(services, deliver=deliver)
    task = await order(services, destination="my-bucket")
    assert task.state is TaskState.SUCCEEDED
    assert len(tries) == 3


async def test_a_service_without_destinations_says_so(services: Services) -> None:
    equip(services, deliver=deliver_nowhere)
    task = await order(services, destination="my-bucket")
    assert (task.state, task.error_kind) == (TaskState.FAILED, "destination_failed")


@pytest.mark.parametrize("format", list(ImageFormat))
async def test_a_task_chooses_its_format(
    services: Services, engine: ScriptedEngine, format: ImageFormat
) -> None:
    equip(services, style=FileStyle(format=ImageFormat.AVIF, mark_ai_origin=False))
    task = await order(services, format=format, quality=40)
    stored = await services.darkroom.image(task.id, 0, account="ann")
    assert stored.output.media_type == format.media_type
    assert stored.output.key.endswith(f"/1-0.{format.extension}")
    assert b"DigitalSourceType" not in stored.data
    fallen_back = await order(services)
    assert fallen_back.outputs[0].media_type == "image/avif"
