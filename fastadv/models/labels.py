"""Class names, and finding a class by its name or number."""

import difflib
from collections.abc import Sequence

from ._packages import torchvision


def imagenet_classes() -> tuple[str, ...]:
    """The names of the 1,000 ImageNet-1k classes in label order, as torchvision ships them (no download).

    Raises:
        ModelError: torchvision is not installed.
    """
    return tuple(torchvision("models").ResNet50_Weights.IMAGENET1K_V1.meta["categories"])


def class_name(label: int, names: Sequence[str]) -> str:
    """The name of a label, or "class 17" where the classes have no names."""
    return names[label] if names else f"class {label}"


def find_class(query: str, names: Sequence[str], classes: int) -> int:
    """The label that `query` means: a number in [0, classes), or a name, whatever its case.

    Args:
        query: such as "black swan" or "100".
        names: the class names in label order; empty where the classes have none.
        classes: how many classes there are.

    Raises:
        ValueError: no such class; the message names the closest ones.
    """
    query = query.strip()
    if query.isdecimal():
        if int(query) < classes:
            return int(query)
        raise ValueError(f"no class {query}: labels run from 0 to {classes - 1}")
    if query in names:
        # Case can tell classes apart: ImageNet has a Cardigan (a dog) and a cardigan.
        return list(names).index(query)
    lower = [name.lower() for name in names]
    if query.lower() in lower:
        return lower.index(query.lower())
    if not names:
        raise ValueError(f"no class {query!r}: classes have no names here, give a number below {classes}")
    likeness = {name: _likeness(query.lower(), name.lower()) for name in names}
    best = sorted(names, key=likeness.__getitem__, reverse=True)[:3]
    close = [name for name in best if likeness[name] > 0.6]
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    raise ValueError(f"no class {query!r}{hint}")


def _likeness(query: str, name: str) -> float:
    """How alike they are, from 0 to 1; a single word of the name counts nearly as much as the whole."""
    whole, *words = (difflib.SequenceMatcher(None, part, query).ratio() for part in (name, *name.split()))
    return max(whole, 0.9 * max(words))
