"""Every command that the project prints exists, with its options: README, docs, man pages, --help, messages."""

from __future__ import annotations

import pytest

from tests.helpers.printed import Printed, everywhere, wrong

FOUND = everywhere()


def test_every_printed_command_exists() -> None:
    said = [f"{one.where}: `{one.text}`: {why}" for one in FOUND if (why := wrong(one))]
    assert not said, "\n".join(said)


def test_they_are_found_in_every_place() -> None:
    """Else the test above would be content with nothing."""
    places = [one.where for one in FOUND]
    for where, least in (("README.md", 20), ("docs/troubleshooting.md", 15), ("docs/install.md", 8)):
        assert places.count(where) >= least, where
    assert len([one for one in FOUND if one.where.endswith("--help") and one.whole]) >= 60
    assert (
        len({one.where for one in FOUND if one.where.startswith("ocd/") and one.where.endswith(".py")}) >= 25
    )
    assert places.count("ocd/man/occtl.1") >= 40 and "ocd/man/ocd.toml.5" in places


@pytest.mark.parametrize(
    "text",
    [
        "occtl statsu",
        "occtl status --jsn",
        "occtl config chekc --fix",
        "occtl init --preset nobody",
        "occtl completion tcsh",
        "occtl config check && occtl relod",
        "occtl status --json | occtl nothing",
        "occtl completion",
        "python3 install.py --prefx DIR",
        "make nothing",
        "systemctl --user reload ocdd",
        "systemctl restart ocd",
        "launchctl restart ocd",
        "ocd --background",
    ],
)
def test_a_wrong_one_is_noticed(text: str) -> None:
    assert wrong(Printed("here", text, True))
