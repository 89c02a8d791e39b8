import pytest

from fastadv.models import class_name, find_class, imagenet_classes

NAMES = imagenet_classes()


def test_imagenet_has_its_thousand_names():
    assert len(NAMES) == 1000
    assert (NAMES[0], NAMES[100], NAMES[999]) == ("tench", "black swan", "toilet tissue")


@pytest.mark.parametrize(
    ("query", "label"),
    [
        ("black swan", 100),
        ("Black Swan", 100),
        (" black swan ", 100),
        ("100", 100),
        ("0", 0),
        ("999", 999),
        ("Cardigan", 264),
        ("cardigan", 474),
    ],
)
def test_a_class_is_found_by_name_or_number(query, label):
    assert find_class(query, NAMES, 1000) == label


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("swan", "no class 'swan'; did you mean black swan"),
        ("blak swann", "did you mean black swan"),
        ("1000", "no class 1000: labels run from 0 to 999"),
        ("zzzzzzzz", "no class 'zzzzzzzz'$"),
        ("", "no class ''$"),
    ],
)
def test_a_miss_names_the_closest_classes(query, message):
    with pytest.raises(ValueError, match=message):
        find_class(query, NAMES, 1000)


def test_classes_without_names_go_by_number():
    assert find_class("3", (), 10) == 3
    assert class_name(3, ()) == "class 3"
    with pytest.raises(ValueError, match="have no names here, give a number below 10"):
        find_class("three", (), 10)
