import os

import pytest

from fastadv.models.text import brief, difference, printable


@pytest.mark.parametrize("text", ["plain", "∞ 犬.png", "a\u00a0b\\n", "[/b]"])
def test_text_that_can_be_shown_stays_as_it_is(text):
    assert printable(text) == text


def test_what_breaks_a_line_steers_a_terminal_or_cannot_be_encoded_is_escaped():
    assert printable("a\nb\r\x1b[1m\x9b\u2028") == r"a\nb\r\x1b[1m\x9b\u2028"
    assert printable(os.fsdecode(b"caf\xe9")) == r"caf\udce9"


def test_an_error_in_brief_is_its_type_and_first_line():
    assert brief(TypeError("first\nsecond")) == "TypeError: first"
    assert brief(AssertionError()) == "AssertionError"


@pytest.mark.parametrize(
    ("here", "there", "words"),
    [
        ({"eps": 0.1, "norm": "2"}, {"norm": "2", "eps": 0.1}, None),
        ({"eps": 0.1, "norm": "2"}, {"eps": 0.2, "norm": "1"}, "eps is 0.1 here and 0.2 there"),
        ({}, {"eps": 0.2}, "eps is None here and 0.2 there"),
        ({"images": ["a", "b"]}, {"images": ["a", "c", "d"]}, "images[1] is 'b' here and 'c' there"),
        ({"images": ["a"]}, {"images": ["a", "b"]}, "images[1] is None here and 'b' there"),
        ({"images": ["a"]}, {"images": None}, "images is ['a'] here and None there"),
        ({"images": []}, {"images": []}, None),
    ],
)
def test_a_difference_is_the_first_one_down_to_the_place_in_a_list(here, there, words):
    assert difference(here, there) == words
