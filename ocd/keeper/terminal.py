"""Telling a terminal that closed from ``kill -HUP``: both arrive as SIGHUP. Standard library only.

When a terminal goes away the kernel takes it from every process of its session before it sends the signal
(tty_ioctl(4), setsid(2)): then ``/dev/tty`` cannot be opened any more. Who was started with SIGHUP ignored (nohup)
wants to outlive the terminal.
"""

import errno
import os
import signal


def _attached() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError as error:
        # Out of descriptors says nothing about the terminal.
        return error.errno in (errno.EMFILE, errno.ENFILE)
    return True


class Terminal:
    """The terminal that we were started from, if any."""

    def __init__(self) -> None:
        self.had = _attached()
        self.outlive = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN

    def hung_up(self) -> bool:
        """Whether it has gone since, which for a daemon in the foreground is the wish that it ends."""
        return self.had and not self.outlive and not _attached()
