"""Text that others wrote, file names and error messages among it, made fit to be shown in one line."""

import re
from collections.abc import Mapping

UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""Characters that break a line, steer a terminal, or (those of undecodable file names) cannot be encoded."""

FAILURES = (Exception, SystemExit)
"""What a user's code may raise. Where it was written as a script, it may also end the program."""


def printable(text: str) -> str:
    """`text` with every character of `UNPRINTABLE` written as its Python escape, such as \\n or \\udce9."""
    return UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)


def brief(error: BaseException) -> str:
    """An error's type and the first line of its message."""
    first_line = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {first_line}" if first_line else type(error).__name__


def difference(here: Mapping[str, object], there: Mapping[str, object]) -> str | None:
    """The first entry that is not the same in both, as in "eps is 0.1 here and 0.2 there"; None without one.

    A missing entry is None; of two lists it is their first difference.
    """
    for name in [*here, *there]:
        one, other = here.get(name), there.get(name)
        if isinstance(one, list) and isinstance(other, list):
            lists = [{f"{name}[{place}]": value for place, value in enumerate(each)} for each in (one, other)]
            if found := difference(*lists):
                return found
        elif one != other:
            return f"{name} is {one!r} here and {other!r} there"
    return None
