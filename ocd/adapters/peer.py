"""Whose the other end of a loopback TCP connection is, where the kernel tells (Linux: ``/proc/net/tcp``, proc(5))."""

import contextlib

ESTABLISHED = "01"


def parse(text: str, here: int, there: int) -> int | None:
    """The uid of the socket on port ``there`` that is connected to ``here`` on 127.0.0.1, in the text of
    ``/proc/net/tcp``; None: there is none. Bad lines are passed over."""
    wanted = [f"0100007F:{there:04X}", f"0100007F:{here:04X}", ESTABLISHED]
    # The kernel prints the address as one number in the machine's byte order.
    other = [f"7F000001:{there:04X}", f"7F000001:{here:04X}", ESTABLISHED]
    for line in text.splitlines()[1:]:
        words = line.split()
        if words[1:4] in (wanted, other):
            with contextlib.suppress(ValueError, IndexError):
                return int(words[7])
    return None


def uid(here: int, there: int) -> int | None:
    """The uid of who is connected from port ``there`` to ``here`` on 127.0.0.1; None: not known."""
    with contextlib.suppress(OSError), open("/proc/net/tcp", encoding="ascii") as file:
        return parse(file.read(), here, there)
    return None
