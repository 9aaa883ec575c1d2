"""Why a process ended, from the end of what it wrote: one line for people, bounded, without a credential."""

import re

from ocd.mask import mask

#: lines of a process's output that are kept to look for the reason; LiteLLM's tracebacks are long and chained
TAIL = 120
LINES = 6
CHARACTERS = 600

_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
#: uvicorn and LiteLLM put a level, a time or a name before the first line
_TRACEBACK = "Traceback (most recent call last):"
_PLACE = re.compile(r'\s*File "(.+?)", line \d+')
#: says that something was wrong, never what
_SAYS_NOTHING = re.compile(
    r"(?:ERROR:\s+)?(?:Application startup failed\. Exiting\.|Traceback \(most recent call last\):)\s*$"
    r"|The above exception was the direct cause|During handling of the above exception"
)


def reason_from(lines: list[str], own: tuple[str, ...] = ()) -> str:
    """The last lines that say something, on one line; of a traceback the exception and its place.

    ``own`` are the folders of the user's own code: of several places the nearest to the end that lies there is the
    one to look at. Colours are taken out, credentials masked.
    """
    useful = [_COLOUR.sub("", line).rstrip() for line in lines]
    useful = [line for line in useful if line.strip() and not line.lstrip().startswith(("^", "~"))]
    start = next((i for i in range(len(useful) - 1, -1, -1) if _TRACEBACK in useful[i]), None)
    place = ""
    if start is not None:
        first = start + 1
        while first < len(useful) and useful[first].startswith(" "):
            first += 1
        after = [line for line in useful[first:] if not _SAYS_NOTHING.search(line)]
        if after:
            place = _last_place(useful, own) if own else ""
            place = place or _last_place(useful[start:], ("",))
            useful = after[:LINES]
    useful = [line for line in useful if not _SAYS_NOTHING.search(line)] or useful
    text = mask(" | ".join(line.strip() for line in useful[-LINES - 1 :]))
    # However much an exception says, where it came from is not cut off.
    return f"{text[: CHARACTERS - len(place) - 3]} | {place}" if place else text[:CHARACTERS]


def _last_place(lines: list[str], folders: tuple[str, ...]) -> str:
    """The place nearest to the end whose file lies in one of ``folders``."""
    found = [line.strip() for line in lines if (match := _PLACE.match(line)) and match[1].startswith(folders)]
    return found[-1][: CHARACTERS // 2] if found else ""
