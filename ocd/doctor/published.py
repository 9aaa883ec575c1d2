"""The packages of both environments, and what is published against them."""

import sysconfig
from pathlib import Path

from ocd import __version__
from ocd.adapters import packages
from ocd.adapters.packages import Advisory, Package
from ocd.doctor.report import Row, of_error
from ocd.errors import EX_UNAVAILABLE, OcdError
from ocd.settings.folders import Folders
from ocd.settings.load import load
from ocd.stack.models import site_packages

ENVIRONMENTS = ("ocd", "litellm")


def consists_of(environment: str) -> tuple[list[Package], str]:
    """The packages of one of ENVIRONMENTS, and its own version. Raises OcdError (69) when LiteLLM is not there."""
    if environment == "ocd":
        return packages.installed([Path(sysconfig.get_path("purelib"))]), __version__
    folders = Folders.find()
    site = site_packages(load(folders).litellm.python or folders.data / "litellm" / "bin" / "python")
    if site is None:
        raise OcdError(
            "There is no environment with LiteLLM",
            f"none at {folders.data / 'litellm'}",
            "Run `occtl setup` or `python3 install.py`",
            exit_code=EX_UNAVAILABLE,
            code="no-litellm",
        )
    found = packages.installed([site])
    return found, next((one.version for one in found if one.name == "litellm"), "")


def advisories() -> tuple[int, list[Advisory]]:
    """How many packages both environments have, and what is published against them. Raises OcdError (69)."""
    url = load(Folders.find()).litellm.advisories.rstrip("/")
    if not url:
        raise OcdError(
            "Nobody is asked for advisories",
            "advisories under [litellm] in ocd.toml is empty",
            "Take it out there, then repeat the command",
            exit_code=EX_UNAVAILABLE,
            code="no-advisories",
        )
    both = {one.purl: one for name in ENVIRONMENTS for one in consists_of(name)[0]}
    try:
        return len(both), packages.advisories(both.values(), url)
    except packages.Unanswered as error:
        raise OcdError(
            "Nobody could say what is published against the installed packages",
            str(error),
            "Check the network and try again",
            exit_code=EX_UNAVAILABLE,
            code="no-advisories",
        ) from None


def sentence(one: Advisory) -> str:
    """An advisory in one line."""
    text = f"{one.package.name} {one.package.version}: {one.id}"
    if one.summary:
        text += f" ({one.summary})"
    return text + (f"; fixed in {', '.join(one.fixed)}" if one.fixed else "")


def rows() -> list[Row]:
    """For the doctor's report, which may ask the network."""
    try:
        count, known = advisories()
    except OcdError as error:
        return [of_error("advisories", error, "note")]
    if not known:
        return [Row("ok", "advisories", "none-known", f"Nothing is published against the {count} packages")]
    fix = "`occtl upgrade`, or `occtl litellm use` for a package of LiteLLM's"
    return [Row("warning", "advisories", "published", sentence(one), "", fix) for one in known]
