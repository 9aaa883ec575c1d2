"""The user's own code in the real LiteLLM: the seeds' custom_auth and OAuth callback; what is said when it fails."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from typing import Any

import pytest

from ocd.selftest.upstreams import Upstreams
from ocd.supervisor.supervision import spec
from tests.helpers import canaries
from tests.helpers.daemon import MAIN, Daemon, eventually

#: The seed's, where it is quoted; the rest as its text says: tokens by their beginning, the raw token in the metadata.
CUSTOM_AUTH = """\
from litellm.proxy._types import UserAPIKeyAuth


async def user_api_key_auth(request, api_key):
    token = request.headers.get("authorization", "").removeprefix("Bearer ") or api_key
    if not token.startswith(("sk-ant-oat", "sk-ant-api")):
        raise Exception("not an Anthropic token")
    return UserAPIKeyAuth(
        api_key=api_key,
        user_id="oauth-user",
        team_id="oauth-team",
        metadata={"raw_token": token},
    )
"""
OAUTH_PASSTHROUGH = """\
import os

from litellm.integrations.custom_logger import CustomLogger

from beside.shouting import debug_print


class OAuthPassthroughHandler(CustomLogger):
    async def async_pre_call_hook(self, user_api_key_dict, cache, data, call_type):
        metadata = user_api_key_dict.metadata or {}
        oauth_token = metadata.get("raw_token")
        debug_print(f"called for {data['model']}, token {bool(oauth_token)}")
        debug_print("environment: " + " ".join(sorted(os.environ)))
        is_bedrock = "qwen" in data["model"]
        if not is_bedrock:
            data["anthropic_api_key"] = oauth_token  # Provider-specific
        return data


proxy_handler_instance = OAuthPassthroughHandler()
"""
SHOUTING = """\
import sys
import litellm


def debug_print(msg):
    print(f"[OAuthPassthrough] {msg}", file=sys.stderr, flush=True)
    litellm.print_verbose(f"[OAuthPassthrough] {msg}")
"""
#: A traceback shows the line that failed, and with it what stands there.
IN_THE_CODE = "sk-ant-oat01-in-the-users-own-code"
PASSWORD = canaries.forbid("database password", f"canary-{secrets.token_hex(12)}")


@pytest.fixture(scope="module")
def seeded(addresses: dict[str, str]) -> Iterator[Daemon]:
    """The set-up of the seed "LiteLLM Proxy Configuration", its callback broken at first."""
    with Daemon(addresses) as daemon:
        text = MAIN.format(**addresses)
        text = text.replace(
            "litellm_settings: {",
            "litellm_settings: {callbacks: [oauth_passthrough.proxy_handler_instance], ",
        )
        text = text.replace(
            "general_settings: {", "general_settings: {custom_auth: custom_auth.user_api_key_auth, "
        )
        assert "custom_auth.user" in text and "oauth_pass" in text
        daemon.write("litellm.yaml", text)
        daemon.write("custom_auth.py", CUSTOM_AUTH)
        daemon.write("oauth_passthrough.py", OAUTH_PASSTHROUGH)
        (daemon.config / "beside").mkdir()
        (daemon.config / "beside" / "__init__.py").touch()
        # What no check of the text can see: the module's own work fails when it is imported.
        (daemon.config / "beside" / "shouting.py").write_text(
            SHOUTING + f"\n\nTABLE = {{}}['{IN_THE_CODE}' and 'missing']\n"
        )
        daemon.start(wait=False)
        yield daemon


def said(daemon: Daemon) -> list[str]:
    """What the callback wrote, from the proxy's log."""
    with daemon.client() as client:
        lines = client.get("/v1/logs/main?lines=2000").text.splitlines()
    texts = [str(json.loads(line).get("text", "")) for line in lines]
    return [text for text in texts if text.startswith("[OAuthPassthrough]")]


def test_code_that_fails_at_the_first_start_names_file_and_line(seeded: Daemon) -> None:
    proxy = eventually(lambda: (p := seeded.proxy())["state"] in ("failed", "crash-loop") and p)
    assert "KeyError: 'missing'" in proxy["reason"]
    assert f'File "{seeded.config}/beside/shouting.py", line 10' in proxy["reason"]
    assert "revisions" not in proxy["reason"] and len(proxy["reason"]) < 700
    assert IN_THE_CODE not in json.dumps(seeded.status()) + json.dumps(seeded.events()) + seeded.tail(
        "main", 1000
    )
    # The user corrects it; nothing else is needed.
    (seeded.config / "beside" / "shouting.py").write_text(SHOUTING)
    seeded.wait_ready()


@pytest.mark.parametrize("stream", [False, True])
def test_the_seeds_code_runs_and_each_credential_goes_where_it_belongs(
    seeded: Daemon, upstreams: Upstreams, stream: bool
) -> None:
    """Even with the line that the check warns about: it harms nobody where the login is forwarded by itself."""
    seeded.wait_ready()
    upstreams.reset()
    for model in ("claude-opus-9-9", "qwen-3-coder"):
        answer = seeded.ask(model, stream)
        assert answer.status_code == 200, answer.text
        assert f"[OAuthPassthrough] called for {model}, token True" in said(seeded)
    (first,), (second,) = upstreams.seen("anthropic"), upstreams.seen("bedrock")
    secret = canaries.bare(canaries.TOKEN)
    assert first.where(secret) == ["header authorization"] and second.where(secret) == []
    names = next(line for line in said(seeded) if "environment: " in line).split()
    assert "OCD_MAIN_KEY" in names
    # AWS's three are those that keep botocore from looking for credentials.
    cloud = {name for name in names if name.startswith(("AWS_", "ANTHROPIC_"))}
    assert cloud == {name for name in spec.NO_AWS if name.startswith("AWS_")}


def test_the_seeds_auth_decides_behind_ours(seeded: Daemon, upstreams: Upstreams) -> None:
    """Our key alone is no login for it; without our key nobody asks it."""
    import httpx

    seeded.wait_ready()
    upstreams.reset()
    url = seeded.url() + "/v1/messages"
    body = {"model": "claude-opus-9-9", "max_tokens": 8, "messages": [{"role": "user", "content": "x"}]}
    key = {"x-litellm-api-key": f"Bearer {seeded.keys()['main']}"}
    refused = httpx.post(url, headers=key, json=body, trust_env=False)
    assert refused.status_code >= 400 and upstreams.seen() == []
    login = {"authorization": f"Bearer {canaries.TOKEN}"}
    assert httpx.post(url, headers=login, json=body, trust_env=False).status_code == 424
    assert upstreams.seen() == []


def test_a_changed_module_is_served_without_being_asked(seeded: Daemon) -> None:
    """One that the YAML file does not even name."""
    seeded.wait_ready()
    before = seeded.proxy()["revision"]
    path = seeded.config / "beside" / "shouting.py"
    path.write_text(
        SHOUTING.replace('f"[OAuthPassthrough] {msg}", file', 'f"[OAuthPassthrough] now {msg}", file')
    )
    eventually(lambda: seeded.proxy()["revision"] != before and seeded.proxy()["state"] == "ready")

    def now() -> bool:
        assert seeded.ask().status_code == 200
        return any("] now called for" in line for line in said(seeded))

    eventually(now, what="the new code answers")


BROKEN: dict[str, tuple[str, str, str, str]] = {
    "raises": (
        "oauth_passthrough.py",
        OAUTH_PASSTHROUGH + "\n\nraise RuntimeError('not today')\n",
        "RuntimeError: not today",
        "oauth_passthrough.py",
    ),
    "syntax": ("custom_auth.py", "def user_api_key_auth(:\n", "custom_auth.py", "custom_auth.py:1"),
    "import": (
        "custom_auth.py",
        "import os\nimport no_such_thing\n" + CUSTOM_AUTH,
        "no_such_thing",
        "custom_auth.py:2",
    ),
    "no instance": (
        "oauth_passthrough.py",
        OAUTH_PASSTHROUGH.replace("proxy_handler_instance =", "other ="),
        "proxy_handler_instance",
        "litellm.yaml",
    ),
}


@pytest.mark.parametrize("how", BROKEN)
def test_broken_code_changes_nothing_and_its_place_is_told(seeded: Daemon, how: str) -> None:
    seeded.wait_ready()
    name, text, says, place = BROKEN[how]
    good, generation = seeded.read(name), seeded.proxy()["generation"]
    (seeded.config / name).write_text(text)
    try:
        outcome = seeded.post("/v1/reload")
        assert not outcome["ok"]
        rejected = seeded.proxy()["rejected"]
        for one in (outcome["reason"], rejected):
            assert says in one and place in one, one
            assert "revisions/" not in one and len(one) < 1200
        if how == "raises":
            line = text.splitlines().index("raise RuntimeError('not today')") + 1
            assert f'oauth_passthrough.py", line {line}' in rejected
        assert seeded.proxy()["state"] == "ready" and seeded.proxy()["generation"] == generation
        assert seeded.ask().status_code == 200
    finally:
        seeded.write(name, good)
    assert seeded.post("/v1/reload")["ok"]
    eventually(lambda: not seeded.proxy()["rejected"])


def test_a_database_that_cannot_be_had_is_the_reason_without_its_password(seeded: Daemon) -> None:
    """DATABASE_URL passes through; LiteLLM's own words are the reason, bounded, on one line, masked."""
    seeded.wait_ready()
    settings = seeded.read("ocd.toml")
    url = f"postgresql://litellm:{PASSWORD}@127.0.0.1:9/litellm"
    seeded.write("ocd.toml", f'{settings}\n[proxies.main.env]\nDATABASE_URL = "{url}"\n')
    try:
        outcome: dict[str, Any] = seeded.post("/v1/reload")
        assert not outcome["ok"] and "database" in outcome["reason"].lower(), outcome
        rejected = seeded.proxy()["rejected"]
        assert "database" in rejected.lower() and len(rejected) < 700
        assert "\n" not in rejected and "\x1b" not in rejected
        everything = (
            rejected + json.dumps(outcome) + json.dumps(seeded.events()) + json.dumps(seeded.status())
        )
        assert PASSWORD not in everything
        assert seeded.ask().status_code == 200, "the old one serves on"
    finally:
        # The password stands in the user's own file alone, and that goes before the search at the end.
        seeded.write("ocd.toml", settings)
    assert seeded.post("/v1/reload")["ok"]


def test_the_token_is_in_no_file_of_all_this(seeded: Daemon) -> None:
    known = {canaries.bare(canaries.TOKEN): "plan token", PASSWORD: "database password"}
    assert canaries.in_files(seeded.prefix, known) == set()
