"""The one root exception, and the exit codes (sysexits.h) that the commands use. Standard library only."""

EX_OK = 0
EX_USAGE = 64
EX_DATAERR = 65
EX_NOINPUT = 66
EX_UNAVAILABLE = 69
EX_SOFTWARE = 70
EX_OSERR = 71
EX_CANTCREAT = 73
EX_IOERR = 74
EX_TEMPFAIL = 75
EX_PROTOCOL = 76
EX_NOPERM = 77
EX_CONFIG = 78


class OcdError(Exception):
    """An error for a person: what failed, why, and what to do next.

    ``what`` and ``why`` are sentences without a final stop; ``next_step`` is a command or an action.
    ``exit_code`` is the code that a command ends with. None of the texts may hold a secret.
    """

    def __init__(
        self,
        what: str,
        why: str = "",
        next_step: str = "",
        *,
        exit_code: int = EX_SOFTWARE,
        code: str = "error",
    ) -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.next_step = next_step
        self.exit_code = exit_code
        self.code = code

    def sentence(self) -> str:
        """All three parts on one line."""
        text = self.what
        if self.why:
            text += f": {self.why}"
        text = text.rstrip(".") + "."
        if self.next_step:
            text += f" {self.next_step.rstrip('.')}."
        return text

    __str__ = sentence
