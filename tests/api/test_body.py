"""Bodies at the door: each value that once led to a 500 is refused, with the field named."""

from __future__ import annotations

import asyncio
import gzip
import json
import tempfile
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.requests import ClientDisconnect, Request

from api.body import MAX_DEPTH, Body, BodyLimits, FilePart, parse_json, read_body
from api.errors import ApiError, BadRequest, TooLarge, UnsupportedMedia

LIMITS = BodyLimits(body_bytes=4 * 1024**2, text_bytes=3 * 1024**2, parts=8)
FORM = "multipart/form-data; boundary=edge"


def request_of(
    chunks: Iterable[bytes], content_type: str | None, coding: str | None = None
) -> Request:
    """A request whose body arrives in these chunks."""
    headers = [(b"content-type", content_type.encode())] if content_type is not None else []
    if coding is not None:
        headers.append((b"content-encoding", coding.encode()))
    waiting = [*chunks]

    async def receive() -> dict[str, Any]:
        chunk = waiting.pop(0) if waiting else b""
        return {"type": "http.request", "body": chunk, "more_body": bool(waiting)}

    return Request({"type": "http", "method": "POST", "headers": headers}, receive)


def read(
    body: bytes | Iterable[bytes],
    content_type: str | None = "application/json",
    coding: str | None = None,
) -> Body:
    chunks = [body] if isinstance(body, bytes) else body
    return asyncio.run(read_body(request_of(chunks, content_type, coding), LIMITS))


def part(name: str, value: bytes, *, file_name: str | None = None) -> bytes:
    file = f'; filename="{file_name}"' if file_name is not None else ""
    head = f'--edge\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'
    return head.encode() + value + b"\r\n"


END = b"--edge--\r\n"

REFUSED_JSON = {
    "NaN": (b'{"guidance_scale": NaN}', "guidance_scale"),
    "Infinity": (b'{"guidance_scale": Infinity}', "guidance_scale"),
    "-Infinity": (b'{"guidance_scale": -Infinity}', "guidance_scale"),
    "1e400": (b'{"guidance_scale": 1e400}', "guidance_scale"),
    "5000 digits": (b'{"seed": ' + b"9" * 5000 + b"}", "seed"),
    "21 digits": (b'{"seed": ' + b"9" * 21 + b"}", "seed"),
    "lone surrogate": (b'{"prompt": "a \\ud800 b"}', "prompt"),
    "lone surrogate deep": (b'{"a": {"b": [0, "\\udfff"]}}', "a.b[1]"),
    "lone surrogate as key": (b'{"\\ud800": 1}', "a field name"),
    "NUL": (b'{"prompt": "a\\u0000b"}', "prompt"),
    "free field NaN": (b'{"anything": {"deep": NaN}}', "anything.deep"),
    "just too deep": (b'{"a":' * (MAX_DEPTH + 2) + b"1" + b"}" * (MAX_DEPTH + 2), None),
    "100000 deep": (b"[" * 100_000, None),
    "100000 objects deep": (b'{"a":' * 100_000, None),
    "empty": (b"", None),
    "cut off": (b'{"prompt": "a', None),
    "two values": (b"{} {}", None),
    "an array": (b"[]", None),
    "a string": (b'"prompt"', None),
    "null": (b"null", None),
    "not UTF-8": (b'{"prompt": "\xff"}', None),
    "UTF-16": ('{"prompt": "a"}'.encode("utf-16"), None),
    "single quotes": (b"{'prompt': 'a'}", None),
}


@pytest.mark.parametrize(("body", "field"), REFUSED_JSON.values(), ids=REFUSED_JSON)
def test_refuses_json_without_plain_meaning(body: bytes, field: str | None) -> None:
    with pytest.raises(BadRequest) as caught:
        read(body)
    if field is not None:
        assert caught.value.field == field
        assert field in str(caught.value)
    str(caught.value).encode()


@pytest.mark.parametrize(
    ("body", "values"),
    {
        b'{"seed": 1, "seed": 2}': {"seed": 2},
        b'{"count": 8.0}': {"count": 8},
        b'{"guidance_scale": 3.5}': {"guidance_scale": 3.5},
        b'{"seed": 18446744073709551615}': {"seed": 2**64 - 1},
        b'\xef\xbb\xbf{"prompt": "a"}': {"prompt": "a"},
        b'{"prompt": "\\ud83e\\udd8a \xe2\x80\x8d"}': {"prompt": "🦊 \u200d"},
        b"{}": {},
    }.items(),
)
def test_takes_json(body: bytes, values: dict[str, Any]) -> None:
    read_values = parse_json(body)

    assert read_values == values
    assert [type(one) for one in read_values.values()] == [type(one) for one in values.values()]


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/json; charset=utf-16",
        "multipart/mixed; boundary=edge",
        "multipart/form-data; boundary=edge; charset=base64",
    ],
)
def test_refuses_other_content_types(content_type: str | None) -> None:
    with pytest.raises(UnsupportedMedia):
        read(b'{"prompt": "a"}', content_type)


@pytest.mark.parametrize("content_type", ["application/json; charset=UTF-8", "application/v+json"])
def test_takes_json_under_its_other_names(content_type: str) -> None:
    assert read(b'{"prompt": "a"}', content_type).values == {"prompt": "a"}


def test_refuses_a_declared_length_before_reading() -> None:
    async def receive() -> dict[str, Any]:
        raise AssertionError("the body was read")

    length = str(LIMITS.body_bytes + 1).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", length)]
    request = Request({"type": "http", "method": "POST", "headers": headers}, receive)
    with pytest.raises(TooLarge, match=str(LIMITS.body_bytes)):
        asyncio.run(read_body(request, LIMITS))


def test_stops_reading_once_over_the_limit() -> None:
    taken = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal taken
        while True:
            taken += 1
            assert taken < 1000, "nobody stops it"
            yield b" " * 65536

    chunks = endless()

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": await anext(chunks), "more_body": True}

    headers = [(b"content-type", b"application/json")]
    request = Request({"type": "http", "method": "POST", "headers": headers}, receive)
    with pytest.raises(TooLarge):
        asyncio.run(read_body(request, LIMITS))
    assert taken == LIMITS.body_bytes // 65536 + 1


def test_reads_a_form() -> None:
    body = part("prompt", "a fox 🦊".encode()) + part("image", b"\x00\xff", file_name="x.png") + END

    form = read(body, FORM)

    assert form.values == {"prompt": "a fox 🦊"}
    assert [(one.name, one.data) for one in form.files] == [("image", b"\x00\xff")]
    assert form.is_form


@pytest.mark.parametrize(
    "head",
    [
        'name="image"\r\nContent-Type: image/png',
        'name="image"\r\ncontent-type: Application/Octet-Stream; x=y',
        "name=\"image\"; filename*=UTF-8''%e6%97%a5.png\r\nContent-Type: image/png",
        'name="image"; filename=""',
    ],
    ids=["image type", "bytes type", "extended name", "empty name"],
)
def test_takes_a_file_without_a_plain_name(head: str) -> None:
    body = f"--edge\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode()

    form = read(body + b"\x00\xff\r\n" + END, FORM)

    assert [(one.name, one.data) for one in form.files] == [("image", b"\x00\xff")]
    assert form.values == {}


def test_a_file_that_was_not_chosen_is_none() -> None:
    """A browser sends such a part for a file input that was left alone."""
    body = part("prompt", b"a") + b'--edge\r\nContent-Disposition: form-data; name="image"; '
    body += b'filename=""\r\nContent-Type: application/octet-stream\r\n\r\n\r\n' + END

    form = read(body, FORM)

    assert (form.values, form.files) == ({"prompt": "a"}, ())


def test_a_file_of_no_bytes_is_a_file() -> None:
    assert len(read(part("image", b"", file_name="x.png") + END, FORM).files) == 1


def test_text_that_is_not_utf_8_is_refused_rather_than_guessed() -> None:
    with pytest.raises(BadRequest, match="prompt is not UTF-8") as caught:
        read(part("prompt", "café".encode("latin-1")) + END, FORM)
    assert caught.value.field == "prompt"


def test_says_what_bytes_in_a_text_part_lack() -> None:
    with pytest.raises(BadRequest, match=r"image holds a NUL .* file name") as caught:
        read(part("image", b"\x89PNG\x00") + END, FORM)
    assert caught.value.field == "image"


@pytest.mark.parametrize("coding", ["gzip", "GZIP", "br, gzip", "x"])
def test_refuses_an_encoded_body(coding: str) -> None:
    with pytest.raises(UnsupportedMedia, match="Content-Encoding"):
        read(gzip.compress(b"{}"), coding=coding)


@pytest.mark.parametrize("coding", ["identity", "Identity", ""])
def test_takes_a_body_that_is_called_unencoded(coding: str) -> None:
    assert read(b'{"a": 1}', coding=coding).values == {"a": 1}


def test_takes_a_text_part_over_a_mebibyte() -> None:
    text = b"A" * (2 * 1024**2)

    assert read(part("image", text) + END, FORM).values["image"] == text.decode()


REFUSED_FORMS = {
    "no boundary": (part("a", b"1") + END, "multipart/form-data", BadRequest),
    "no end": (part("a", b"1"), FORM, BadRequest),
    "cut in a file": (part("image", b"x" * 2_000_000, file_name="x")[:-2], FORM, BadRequest),
    "other boundary": (part("a", b"1") + END, "multipart/form-data; boundary=other", BadRequest),
    "empty": (b"", FORM, BadRequest),
    "no name": (b"--edge\r\nContent-Type: text/plain\r\n\r\na\r\n" + END, FORM, BadRequest),
    "garbage": (b"\x00\xff" * 500, FORM, BadRequest),
    "JSON": (b'{"prompt": "a"}', FORM, BadRequest),
    "too many fields": (b"".join(part(f"f{n}", b"1") for n in range(9)) + END, FORM, BadRequest),
    "too many files": (part("i", b"1", file_name="x") * 9 + END, FORM, BadRequest),
    "large text": (part("image", b"A" * (LIMITS.text_bytes + 1)) + END, FORM, TooLarge),
    "large body": (part("i", b"A" * LIMITS.body_bytes, file_name="x") + END, FORM, TooLarge),
    "NUL": (part("prompt", b"a\x00b") + END, FORM, BadRequest),
}


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("body", "content_type", "kind"), REFUSED_FORMS.values(), ids=REFUSED_FORMS
)
def test_refuses_a_broken_form_and_leaves_no_file(
    body: bytes, content_type: str, kind: type[ApiError], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = spy_on_temporary_files(monkeypatch)
    # in chunks, so that the parser meets its boundaries half-way
    chunks = [body[start : start + 65_521] for start in range(0, len(body), 65_521)]

    with pytest.raises(kind):
        read(chunks, content_type)

    assert all(file.closed for file in files)


def test_closes_the_files_of_a_form_that_was_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    files = spy_on_temporary_files(monkeypatch)

    read(part("image", b"x" * 2_000_000, file_name="x") + END, FORM)

    assert len(files) == 1
    assert files[0].closed


def test_closes_the_files_when_the_client_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    files = spy_on_temporary_files(monkeypatch)
    arriving: list[dict[str, Any]] = [
        {
            "type": "http.request",
            "body": part("image", b"x" * 2_000_000, file_name="x")[:-9],
            "more_body": True,
        },
        {"type": "http.disconnect"},
    ]

    async def receive() -> dict[str, Any]:
        return arriving.pop(0)

    headers = [(b"content-type", FORM.encode())]
    request = Request({"type": "http", "method": "POST", "headers": headers}, receive)
    with pytest.raises(ClientDisconnect):
        asyncio.run(read_body(request, LIMITS))

    assert len(files) == 1
    assert files[0].closed


def spy_on_temporary_files(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every spooled file that a form parser makes from now on."""
    made: list[Any] = []

    class Recorded(tempfile.SpooledTemporaryFile[bytes]):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            made.append(self)

    monkeypatch.setattr("starlette.formparsers.SpooledTemporaryFile", Recorded)
    return made


def test_the_same_content_has_the_same_fingerprint_however_it_is_spelled() -> None:
    first = read(b'{"prompt": "a", "steps": 8}', "application/json")
    assert read(b'{"steps":8.0,  "prompt":"\\u0061"}', "application/json") == first
    assert (
        first.fingerprint() == read(b'{"steps":8,"prompt":"a"}', "application/json").fingerprint()
    )


@pytest.mark.parametrize(
    "other",
    [
        Body(values={"prompt": "b"}, files=(FilePart(name="image", data=b"12"),)),
        Body(values={"prompt": "a"}),
        Body(values={"prompt": "a"}, files=(FilePart(name="image", data=b"13"),)),
        Body(values={"prompt": "a"}, files=(FilePart(name="mask", data=b"12"),)),
        Body(values={"prompt": "a", "n": 1}, files=(FilePart(name="image", data=b"12"),)),
    ],
)
def test_other_content_has_another_fingerprint(other: Body) -> None:
    one = Body(values={"prompt": "a"}, files=(FilePart(name="image", data=b"12"),))
    assert one.fingerprint() != other.fingerprint()


def test_messages_repeat_no_long_value() -> None:
    name = "x" * 100_000

    with pytest.raises(BadRequest) as caught:
        parse_json(json.dumps({name: {name: float("nan")}}).encode())

    assert len(str(caught.value)) < 500


ANY_TEXT = st.text(st.characters(exclude_categories=[]))
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(ANY_TEXT, inner),
)


@given(ANY_JSON)
@settings(max_examples=500)
def test_whatever_json_is_taken_can_be_written_again(value: Any) -> None:
    try:
        taken = parse_json(json.dumps(value).encode())
    except BadRequest as refused:
        str(refused).encode()
    else:
        json.dumps(taken, allow_nan=False, ensure_ascii=False).encode()


@given(st.lists(st.sampled_from([b"--edge", b"\r\n", b"--", part("a", b"1"), END]) | st.binary()))
@settings(max_examples=500)
def test_whatever_comes_as_a_form_is_read_or_refused(pieces: list[bytes]) -> None:
    with suppress(BadRequest):
        assert read(pieces, FORM).is_form
