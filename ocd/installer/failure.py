"""What ends an installation, as a sentence with what to do."""

import errno

from ocd.errors import EX_IOERR, EX_NOPERM, EX_OSERR, OcdError


class Failure(OcdError):
    """What failed, why, what to do; ``exit_code`` is install.py's."""

    def __init__(self, what: str, why: str = "", step: str = "", exit_code: int = EX_OSERR) -> None:
        super().__init__(what, why, step, exit_code=exit_code)


def explain(error: OSError) -> tuple[str, int]:
    """An OSError that nobody expected, as (a sentence with what to do, exit code)."""
    where = f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error)
    kept = "What was installed before still works"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{where}. Free some disk space, then run this again. {kept}.", EX_IOERR
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        step = "Make it writable for you, or name another place with --prefix DIR"
        return f"{where}. {step}. {kept}.", EX_NOPERM
    return f"{where}. {kept}.", EX_IOERR
