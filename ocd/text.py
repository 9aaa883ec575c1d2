"""Text from outside made printable, in one place. Standard library only: anyone may import it.

Command lines, paths, user names and log lines are bytes that somebody else chose. As they come they can break JSON
(a byte that is not UTF-8 becomes a lone surrogate), an event (a line end), a terminal (escape sequences) or a reader
(letters that turn the direction of writing). So they go through ``printable`` where they enter.
"""

import re

#: characters of one text that is not the point of what it stands in: a command line, a path, a reason
LONGEST = 600
_COLOUR = re.compile(r"\x1b\[[0-9;:]*m")
_NAMED = {"\n": "\\n", "\r": "\\r", "\t": " "}


def printable(text: str | bytes, longest: int = LONGEST, *, lines: bool = False) -> str:
    """``text`` on one line of at most ``longest`` characters, each of which can be printed; the rest is escaped.

    Bytes are taken for UTF-8; what is not, and what Python had made of it (PEP 383), reads ``\\xe9``. Colours are taken
    out. With ``lines`` line ends stay, for texts that have several.
    """
    if isinstance(text, bytes):
        text = text[: 4 * longest + 4].decode("utf-8", "surrogateescape")
    # Colours are no text: what is cut off must not depend on them. Bounded all the same.
    if len(text) > 4 * longest:
        text = text[: 4 * longest] + "…"
    if not text.isprintable():
        text = "".join(
            c if c.isprintable() or (lines and c == "\n") else _escaped(c) for c in _COLOUR.sub("", text)
        )
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _escaped(character: str) -> str:
    number = ord(character)
    if 0xDC80 <= number <= 0xDCFF:
        return f"\\x{number - 0xDC00:02x}"
    if character in _NAMED:
        return _NAMED[character]
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
