"""botocore's own view of AWS's files, and the whole report against a running daemon. Nothing leaves this machine."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ocd.aws import ask
from ocd.selftest.upstreams import Behaviour, Upstreams
from tests.helpers.daemon import ROOT, Daemon, eventually, litellm_python

pytestmark = pytest.mark.process

#: nobody's; they must never be printed
SECRETS = ("SeCrEtOfNobody0123456789", "AKIANOBODYNOBODY1234", "HiddenArgument")
CONFIG = """\
[profile sso]
sso_session = corp
sso_account_id = 111122223333
sso_role_name = dev
[profile lost]
sso_session = crop
sso_account_id = 111122223333
sso_role_name = dev
[profile chain]
role_arn = arn:aws:iam::111122223333:role/x
source_profile = sso
[profile process]
credential_process = /bin/sh -c "touch {marker}; echo HiddenArgument"
[profile half]
aws_access_key_id = AKIANOBODYNOBODY1234
[sso-session corp]
sso_start_url = https://corp.example.com/start
sso_region = us-east-1
"""


def test_botocore_is_asked_offline_and_nothing_secret_comes_out(tmp_path: Path) -> None:
    marker, aws = tmp_path / "ran", tmp_path / ".aws"
    (aws / "sso" / "cache").mkdir(parents=True)
    (aws / "config").write_text(CONFIG.format(marker=marker))
    (aws / "credentials").write_text(
        f"[default]\naws_access_key_id = {SECRETS[1]}\naws_secret_access_key = {SECRETS[0]}\n"
    )
    # the name: botocore, SSOTokenLoader: SHA-1 of the session's name
    token = {"accessToken": SECRETS[0], "expiresAt": "2020-01-01T00:00:00Z"}

    name = hashlib.sha1(b"corp", usedforsecurity=False).hexdigest()
    (aws / "sso" / "cache" / f"{name}.json").write_text(json.dumps(token))
    env = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    asked = [None, "sso", "lost", "chain", "process", "half", "nobody"]
    answer = ask.look_up(litellm_python(), env, asked)
    found: dict[Any, dict[str, Any]] = {one["asked"]: one for one in answer["lookups"]}
    assert "us-west-2" in answer["regions"]
    assert found[None]["profiles"]["default"]["pairs"]["shared-credentials-file"]["key"] == "1234"
    assert found["sso"]["profiles"]["sso"]["token"]["expires"] == "2020-01-01T00:00:00Z"
    assert found["lost"]["sessions"] == {} and not found["lost"]["profiles"]["lost"]["token"]["present"]
    assert list(found["chain"]["profiles"]) == ["chain", "sso"]
    assert found["process"]["profiles"]["process"]["process"] == {"name": "sh", "found": True}
    assert found["half"]["profiles"]["half"]["pairs"]["config-file"]["missing"] == "aws_secret_access_key"
    assert found["nobody"]["profiles"] == {"nobody": {"exists": False}}
    assert not marker.exists()
    assert not [secret for secret in SECRETS if secret in json.dumps(answer)]
    (aws / "config").write_text("[profile")
    assert ask.look_up(litellm_python(), env, [None])["lookups"][0]["error"]


def occtl(env: dict[str, str], *words: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "ocd.ctl", *words],
        env=env,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


def test_the_report_of_a_running_daemon_online_too(daemon: Daemon, upstreams: Upstreams) -> None:
    claude = daemon.prefix / "claude"
    claude.write_text("#!/bin/sh\n")
    claude.chmod(0o755)
    env = {**daemon.env, "OPENCLAUDE_CLAUDE": str(claude)}
    before = len(upstreams.seen())
    code, out, err = occtl(env, "doctor", "--json")
    said = json.loads(out)
    wrong = [row for row in said["rows"] if row["level"] == "error" and row["check"] != "configuration"]
    # the stand-ins' addresses in the files are findings of the configuration's own
    assert not wrong and code == (0 if said["fit"] else 3), (wrong, err)
    assert len(upstreams.seen()) == before
    assert {"running", "aws", "litellm", "claude"} <= {row["code"] for row in said["rows"]}
    code, out, err = occtl(env, "doctor", "--online", "--yes", "--json")
    online = [row for row in json.loads(out)["rows"] if row["check"] == "online"]
    assert "list price" in err
    assert {row["code"] for row in online} >= {"answered", "cost"}, online
    assert {seen.upstream for seen in upstreams.seen()[before:]} == {"anthropic", "bedrock"}
    assert len(upstreams.seen()) == before + 3
    keys = [*daemon.keys().values(), "wJalrXUtnFEMI"]
    assert not [key for key in keys if key in out + err]
    upstreams.behave(Behaviour(upstream="anthropic", status=401))
    code, out, err = occtl(env, "doctor", "--online", "--yes", "--json")
    assert "reachable" in {row["code"] for row in json.loads(out)["rows"] if row["check"] == "online"}, out
    assert not [p["troubles"] for p in daemon.status()["proxies"].values() if p["troubles"]], "it was made up"


def test_login_runs_aws_for_the_profile_and_ends_with_its_code(tmp_path: Path) -> None:
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "config").write_text(CONFIG.format(marker=tmp_path / "ran"))
    config, stub = tmp_path / "p" / "config", tmp_path / "bin" / "aws"
    config.mkdir(parents=True)
    (config / "ocd.toml").write_text(f'aws_profile = "chain"\n[litellm]\npython = "{litellm_python()}"\n')
    (config / "litellm-bedrock.yaml").write_text(
        "model_list:\n  - model_name: q\n    litellm_params:\n      model: bedrock/converse/x.y\n"
        "      aws_profile_name: os.environ/OCD_AWS_PROFILE\n"
    )
    stub.parent.mkdir()
    stub.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\nexit $STUB_EXIT\n')
    stub.chmod(0o755)
    env = {"PATH": f"{stub.parent}:/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    env |= {"OCD_PREFIX": str(tmp_path / "p")}
    assert occtl({**env, "STUB_EXIT": "7"}, "aws", "login")[0] == 7
    code, _, err = occtl({**env, "STUB_EXIT": "0"}, "aws", "login")
    assert code == 0 and "not running" in err
    assert (tmp_path / "asked").read_text() == "sso login --profile sso\n" * 2


@pytest.mark.parametrize("broken", ["toml", "yaml", "nothing", "unreadable"])
def test_whatever_is_broken_there_is_a_report(tmp_path: Path, broken: str) -> None:
    config = tmp_path / "p" / "config"
    if broken != "nothing":
        config.mkdir(parents=True)
        (config / "ocd.toml").write_text("port = [" if broken == "toml" else "")
        (config / "litellm.yaml").write_text("{[}" if broken == "yaml" else "model_list: []\n")
        if broken == "unreadable":
            (config / "ocd.toml").unlink()
            (config / "ocd.toml").mkdir()
    env = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "OCD_PREFIX": str(tmp_path / "p")}
    if broken == "nothing":
        # not even a home folder
        env["HOME"] = "/nonexistent"
    else:
        env["HOME"] = str(tmp_path)
    code, out, _ = occtl(env, "doctor", "--json")
    assert code == 3 and any(row["check"] == "configuration" for row in json.loads(out)["rows"])
    assert not [row for row in json.loads(out)["rows"] if row["code"] in ("check-failed", "check-slow")], out


def test_a_machine_without_aws_is_told_so_at_once_and_the_cure_counts_at_once(
    addresses: dict[str, str], upstreams: Upstreams
) -> None:
    """The first prompt of a person without a profile: neither silence nor minutes of retries."""
    with Daemon(upstreams=addresses) as daemon:
        home = daemon.prefix / "home"
        home.mkdir()
        daemon.env["HOME"] = str(home)
        theirs = daemon.read("litellm-bedrock.yaml")
        daemon.write("litellm-bedrock.yaml", re.sub(r"\n +aws_(access|secret).*", PROFILE, theirs, count=1))
        daemon.write(
            "litellm-bedrock.yaml", re.sub(r"\n +aws_secret.*", "", daemon.read("litellm-bedrock.yaml"))
        )
        daemon.start()
        upstreams.reset()
        (problem,) = [one for one in daemon.status()["problems"] if one["code"] == "aws-not-set-up"]
        assert "aws configure --profile openclaude" in problem["next"]
        answer = daemon.ask("qwen-3-coder")
        assert answer.status_code == 424 and "AWS" in answer.text, answer.text
        assert not upstreams.seen("bedrock")
        (home / ".aws").mkdir(mode=0o700)
        (home / ".aws" / "credentials").write_text(
            "[default]\naws_access_key_id = AKIANOBODYNOBODY1234\n"
            f"aws_secret_access_key = {SECRETS[0]}\nregion = eu-west-1\n"
        )
        eventually(lambda: daemon.ask("qwen-3-coder").status_code == 200, 30, "what was written counts")
        eventually(lambda: not daemon.status()["problems"], 30, "and nothing is wrong any more")
        assert not daemon.proxy("bedrock")["troubles"]
        (seen, *_) = upstreams.seen("bedrock")
        assert "/eu-west-1/bedrock/" in dict(seen.headers)["authorization"], "the profile's own region"


PROFILE = "\n      aws_profile_name: os.environ/OCD_AWS_PROFILE"
