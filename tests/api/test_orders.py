"""What a text that stands for a picture may be."""

from __future__ import annotations

import pytest

from api.errors import BadRequest
from api.orders import Remote, picture_of


@pytest.mark.parametrize(
    "text", ["AAEC", "data:image/png;base64,AAEC", " AA\nEC ", "DATA:;BASE64,AAEC"]
)
def test_base64_is_decoded(text: str) -> None:
    assert picture_of(text, "image") == b"\x00\x01\x02"


@pytest.mark.parametrize("text", ["https://example.com/a.png", "HTTP://example.com/"])
def test_an_address_is_left_to_be_fetched(text: str) -> None:
    assert picture_of(text, "image") == Remote(text)


@pytest.mark.parametrize(
    "text",
    ["", "A", "AAEC!", "data:image/png,AAEC", "data:;base64,", "ÄÖ==", "ftp://a/b", "/etc/x"],
)
def test_what_is_neither_is_refused(text: str) -> None:
    with pytest.raises(BadRequest) as caught:
        picture_of(text, "image")
    assert caught.value.field == "image"
