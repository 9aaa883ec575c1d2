"""What is wrong in a configuration file, for people and for programs. Standard library only."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ocd.errors import EX_CONFIG, OcdError
from ocd.settings.edits import Edit

Severity = Literal["error", "warning", "note"]

_RANK: dict[str, int] = {"error": 0, "warning": 1, "note": 2}


@dataclass(frozen=True, slots=True)
class Finding:
    """One mistake or hint. None of the texts may hold a secret.

    ``severity`` is "error" only for what will not work or gives a credential away. ``code`` is stable
    kebab-case. ``file`` is a path or an environment variable's name; ``line`` counts from 1 or is None.
    ``key`` is the dotted place in the file. ``what`` says what is wrong and what will happen, ``fix`` what to
    do; both are sentences without a final stop. ``fixable``: ``ocd.stack.fix`` can do it, by ``edits``.
    """

    severity: Severity
    code: str
    file: str
    line: int | None
    key: str
    what: str
    fix: str = ""
    fixable: bool = False
    edits: tuple[Edit, ...] = field(default=(), repr=False, compare=False)

    def sentence(self) -> str:
        """The finding on one line: ``file:line: key: what. Fix.``"""
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        key = f"{self.key}: " if self.key else ""
        text = f"{place}: {key}{self.what.rstrip('.')}."
        if self.fix:
            text += f" {self.fix}" if self.fix.endswith("?") else f" {self.fix.rstrip('.')}."
        return text

    def as_dict(self) -> dict[str, Any]:
        """All fields but the edits, for JSON."""
        names = ("severity", "code", "file", "line", "key", "what", "fix", "fixable")
        return {name: getattr(self, name) for name in names}


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """Errors, then warnings, then notes; inside each by file and line."""
    return sorted(findings, key=lambda f: (_RANK[f.severity], f.file, f.line or 0, f.key, f.code))


class ConfigError(OcdError):
    """The configuration cannot be used; ``findings`` say where and why. Exit code 78."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        self.findings = list(findings)
        first = self.findings[0]
        more = len(self.findings) - 1
        tail = f" ({more} more: run `occtl config check`)" if more else ""
        place = first.file if first.line is None else f"{first.file}:{first.line}"
        key = f"{first.key}: " if first.key else ""
        super().__init__(
            f"{place}: {key}{first.what.rstrip('.')}{tail}",
            next_step=first.fix,
            exit_code=EX_CONFIG,
            code=first.code,
        )
