import os

import pytest

from fastadv.models.text import brief, printable


@pytest.mark.parametrize("text", ["plain", "∞ 犬.png", "a\u00a0b\\n", "[/b]"])
def test_text_that_can_be_shown_stays_as_it_is(text):
    assert printable(text) == text


def test_what_breaks_a_line_steers_a_terminal_or_cannot_be_encoded_is_escaped():
    assert printable("a\nb\r\x1b[1m\x9b\u2028") == r"a\nb\r\x1b[1m\x9b\u2028"
    assert printable(os.fsdecode(b"caf\xe9")) == r"caf\udce9"


def test_an_error_in_brief_is_its_type_and_first_line():
    assert brief(TypeError("first\nsecond")) == "TypeError: first"
    assert brief(AssertionError()) == "AssertionError"
