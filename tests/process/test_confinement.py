"""What a proxy can reach, asked from inside its process, with real files in place."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from ocd.guest import confine
from tests.helpers.daemon import BEDROCK, MAIN, Daemon, eventually

#: Code of the user's own that tells what it finds; loaded by LiteLLM as a callback.
LOOKING = """\
import json
import os

from litellm.integrations.custom_logger import CustomLogger

found = {}
for name in NAMES:
    try:
        with open(name) as file:
            found[name] = len(file.read())
    except OSError as error:
        found[name] = type(error).__name__
try:
    import botocore.session

    chain = botocore.session.Session().get_credentials()
    found["aws"] = chain.access_key if chain else None
except Exception as error:
    found["aws"] = type(error).__name__
print("LOOKED " + json.dumps(found), flush=True)


class Nothing(CustomLogger):
    pass


nothing = Nothing()
"""
PLACES = {
    ".aws/credentials": "[default]\naws_access_key_id = AKIAFAKEDEFAULT\naws_secret_access_key = fake\n",
    ".config/gcloud/application_default_credentials.json": "{}",
    ".azure/msal_token_cache.json": "{}",
    ".claude/.credentials.json": "{}",
    ".ssh/id_ed25519": "fake",
}


@pytest.fixture(scope="module")
def looked(addresses: dict[str, str]) -> Iterator[dict[str, dict[str, object]]]:
    with Daemon(addresses) as daemon:
        home = daemon.prefix / "home"
        daemon.env["HOME"] = str(home)
        for name, text in PLACES.items():
            (home / name).parent.mkdir(parents=True, exist_ok=True)
            (home / name).write_text(text)
        names = [str(home / name) for name in PLACES]
        (daemon.config / "looking.py").write_text(LOOKING.replace("NAMES", json.dumps(names)))
        for name, text in (("litellm.yaml", MAIN), ("litellm-bedrock.yaml", BEDROCK)):
            shown = text.format(**addresses)
            changed = shown.replace(
                "litellm_settings: {", "litellm_settings: {callbacks: [looking.nothing], "
            )
            assert changed != shown
            daemon.write(name, changed)
        daemon.start()
        said = {}
        for proxy in ("main", "bedrock"):
            log = daemon.prefix / "state" / "logs" / f"{proxy}.log"
            line = eventually(lambda log=log: [x for x in log.read_text().splitlines() if "LOOKED" in x], 20)
            text = json.loads(line[0])["text"].partition("LOOKED ")[2]
            said[proxy] = {k.removeprefix(f"{home}/"): v for k, v in json.loads(text).items()}
        yield said


def test_main_finds_no_credential_of_any_cloud(looked: dict[str, dict[str, object]]) -> None:
    found = looked["main"]
    assert found.pop("aws") is None
    if confine.version():
        assert set(found) == set(PLACES)
        assert set(found.values()) == {"PermissionError"}


def test_bedrock_finds_aws_and_no_other_login(looked: dict[str, dict[str, object]]) -> None:
    found = looked["bedrock"]
    assert found["aws"] == "AKIAFAKEDEFAULT"
    assert found[".aws/credentials"] == len(PLACES[".aws/credentials"])
    if confine.version():
        for name in (
            ".claude/.credentials.json",
            ".azure/msal_token_cache.json",
            ".config/gcloud/application_default_credentials.json",
        ):
            assert found[name] == "PermissionError", name
