"""Replies of language models taken apart."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.assist.chat import object_in, plain, without_thoughts


@pytest.mark.parametrize(
    ("text", "most", "cut"),
    [
        ("aaa bbb ccc", 11, "aaa bbb ccc"),
        ("aaa bbb ccc", 10, "aaa bbb"),
        ("aaa bbb ccc", 7, "aaa bbb"),
        ("aaa bbb ccc", 6, "aaa"),
        ("aaa bbb ccc", 2, "aa"),
        ("aaa", 0, ""),
        (" a\x00\u2028b\ud800\u202e ", 9, "a b?"),
        (b"aaa", 9, ""),
    ],
)
def test_a_text_is_one_line_cut_between_words(text: object, most: int, cut: str) -> None:
    assert plain(text, most) == cut


@given(text=st.text(), most=st.integers(0, 50))
def test_no_text_is_longer_than_it_may_be_or_more_than_one_line(text: str, most: int) -> None:
    cut = plain(text, most)
    assert len(cut) <= most and cut.isprintable() and cut == cut.strip()
    cut.encode()


@given(text=st.text(alphabet='{}[]"\\:,a1 <think/>`\n', max_size=300))
def test_whatever_is_replied_is_read_or_not(text: str) -> None:
    found = object_in(without_thoughts(text))
    assert found is None or isinstance(found, dict)


def test_thousands_of_open_brackets_are_not_tried_one_by_one() -> None:
    assert object_in('{"a":' * 50_000) is None
    assert object_in("{" * 19 + '{"a": 1}') == {"a": 1}
