"""AWS credentials: which source wins, each problem with a case that has it and one that has not; the policy."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ocd.aws import ask, judge, policy
from ocd.aws.judge import Verdict, Wanted
from ocd.ctl import aws as verbs
from ocd.ctl.__main__ import main
from ocd.settings.load import Settings
from ocd.stack.stack import Route, Stack

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
PAIR = {"shared-credentials-file": {"key": "MPLE", "temporary": False}}
SSO = {"exists": True, "sso_session": "corp", "sso_complete": True, "pairs": {}}
TOKEN = {"present": True, "expires": "2026-11-21T20:00:00Z", "renewable_until": ""}
ROLE = {"exists": True, "role_arn": "arn:aws:iam::1:role/x", "pairs": {}, "mfa": False}


def facts(profiles: dict[str, Any], profile: str = "work", **more: Any) -> dict[str, Any]:
    return {
        "asked": profile,
        "profile": profile,
        "chosen_by": "route",
        "error": "",
        "profiles": profiles,
        "known": sorted(name for name, one in profiles.items() if one["exists"]),
        "sessions": {"corp": {}},
        "environment": {"names": []},
        "config_file": "/h/.aws/config",
        "credentials_file": "/h/.aws/credentials",
        **more,
    }


def look(found: dict[str, Any], wanted: Wanted | None = None) -> Verdict:
    return judge.judge(wanted or Wanted(("qwen",), "us-west-2", "work"), found, NOW, ["us-west-2"])


def codes(verdict: Verdict) -> list[str]:
    return [problem.code for problem in verdict.problems]


GOOD = {"exists": True, "pairs": PAIR}


@pytest.mark.parametrize(
    ("code", "bad", "good"),
    [
        ("aws-profile-missing", {"work": {"exists": False}}, {"work": GOOD}),
        (
            "aws-half-pair",
            {
                "work": {
                    "exists": True,
                    "pairs": {"shared-credentials-file": {"missing": "aws_secret_access_key"}},
                }
            },
            {"work": GOOD},
        ),
        (
            "aws-temporary-keys",
            {"work": {"exists": True, "pairs": {"config-file": {"key": "MPLE", "temporary": True}}}},
            {"work": GOOD},
        ),
        (
            "aws-sso-session-missing",
            {"work": {**SSO, "sso_session": "crop", "token": TOKEN}},
            {"work": {**SSO, "token": TOKEN}},
        ),
        (
            "aws-sso-incomplete",
            {"work": {**SSO, "sso_complete": False, "token": TOKEN}},
            {"work": {**SSO, "token": TOKEN}},
        ),
        (
            "aws-sso-login-missing",
            {"work": {**SSO, "token": {"present": False}}},
            {"work": {**SSO, "token": TOKEN}},
        ),
        (
            "aws-sso-expired",
            {"work": {**SSO, "token": {**TOKEN, "expires": "2026-11-21T11:59:59Z"}}},
            {"work": {**SSO, "token": TOKEN}},
        ),
        (
            "aws-sso-expired",
            {"work": {**SSO, "token": {**TOKEN, "expires": "some day"}}},
            # botocore renews it by itself
            {
                "work": {
                    **SSO,
                    "token": {"present": True, "expires": "x", "renewable_until": "2027-01-01T00:00:00Z"},
                }
            },
        ),
        (
            "aws-sso-ends-soon",
            {"work": {**SSO, "token": {**TOKEN, "expires": "2026-11-21T12:05:00UTC"}}},
            {"work": {**SSO, "token": TOKEN}},
        ),
        (
            "aws-process-missing",
            {"work": {"exists": True, "pairs": {}, "process": {"name": "p", "found": False}}},
            {"work": {"exists": True, "pairs": {}, "process": {"name": "p", "found": True}}},
        ),
        (
            "aws-source-profile-missing",
            {"work": {**ROLE, "source_profile": "base"}, "base": {"exists": False}},
            {"work": {**ROLE, "source_profile": "base"}, "base": GOOD},
        ),
        (
            "aws-role-circle",
            {"work": {**ROLE, "source_profile": "base"}, "base": {**ROLE, "source_profile": "work"}},
            # a source profile's own keys go before its role
            {
                "work": {**ROLE, "source_profile": "base"},
                "base": {**ROLE, "source_profile": "work", "pairs": PAIR},
            },
        ),
        (
            "aws-mfa",
            {"work": {**ROLE, "source_profile": "base", "mfa": True}, "base": GOOD},
            {"work": {**ROLE, "source_profile": "base"}, "base": GOOD},
        ),
        (
            "aws-credential-source",
            {"work": {**ROLE, "credential_source": "Ec2InstanceMetadata"}},
            {"work": GOOD},
        ),
        (
            "aws-token-file-missing",
            {"work": {**ROLE, "token_file": False}},
            {"work": {**ROLE, "token_file": True}},
        ),
        ("aws-no-credentials", {"work": {"exists": True, "pairs": {}}}, {"work": GOOD}),
    ],
)
def test_each_problem_of_a_profile(code: str, bad: dict[str, Any], good: dict[str, Any]) -> None:
    verdict = look(facts(bad))
    assert codes(verdict) == [code]
    assert verdict.problems[0].why and verdict.problems[0].next
    assert verdict.usable == (verdict.problems[0].severity != "error")
    assert codes(look(facts(good))) == []


def test_a_role_chain_is_told_and_the_login_is_that_of_its_source() -> None:
    expired = {**SSO, "token": {**TOKEN, "expires": "2026-11-20T00:00:00Z"}}
    verdict = look(facts({"work": {**ROLE, "source_profile": "base"}, "base": expired}))
    assert verdict.chain == ["profile work: role arn:aws:iam::1:role/x"]
    assert verdict.login == ["aws", "sso", "login", "--profile", "base"]
    assert not verdict.usable


def test_single_sign_on_goes_before_keys_of_the_same_profile() -> None:
    verdict = look(facts({"work": {**SSO, "pairs": PAIR, "token": TOKEN}}))
    assert "single sign-on" in verdict.source and verdict.over and verdict.key == ""


def test_the_environment_beats_a_profile_that_the_route_does_not_name() -> None:
    found = facts(
        {"work": GOOD},
        chosen_by="AWS_PROFILE",
        environment={"names": ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"], "key": "WXYZ"},
    )
    unnamed = Wanted(("qwen",), "us-west-2")
    verdict = look(found, unnamed)
    assert codes(verdict) == ["aws-environment-overrides"] and verdict.usable and verdict.key == "WXYZ"
    assert codes(look(found)) == [] and look(found).over
    half = {**found, "environment": {"names": ["AWS_ACCESS_KEY_ID"]}}
    assert codes(look(half, unnamed))[0] == "aws-half-pair"


def test_a_bearer_token_beats_everything_and_is_told() -> None:
    assert codes(look(facts({"work": GOOD}, environment={"names": ["AWS_BEARER_TOKEN_BEDROCK"]}))) == [
        "aws-bearer-token"
    ]


def test_files_that_cannot_be_read_are_told() -> None:
    assert codes(look(facts({}, error="ConfigParseError"))) == ["aws-file-broken"]


def test_the_routes_own_keys() -> None:
    found = facts({"work": GOOD})
    whole = Wanted(("qwen",), "us-west-2", keys=("id", "secret"), key="MPLE")
    assert codes(look(found, whole)) == [] and look(found, whole).key == "MPLE"
    assert codes(look(found, Wanted(("qwen",), "us-west-2", keys=("id",)))) == ["aws-half-pair"]


@pytest.mark.parametrize(
    ("region", "code"), [("", ["aws-no-region"]), ("us-wset-2", ["aws-region-unknown"]), ("us-west-2", [])]
)
def test_regions(region: str, code: list[str]) -> None:
    assert codes(look(facts({"work": GOOD}), Wanted(("qwen",), region, "work"))) == code


def test_what_routes_ask_for_is_put_together_and_variables_are_filled_in() -> None:
    profile = {"model": "bedrock/converse/x.y", "aws_profile_name": "os.environ/OCD_AWS_PROFILE"}
    keys = {
        "model": "bedrock/x.y",
        "aws_access_key_id": "AKIAIOSFODNN7EXAMPLE",
        "aws_region_name": "eu-west-1",
    }
    listed = [
        Route(0, "a", profile),
        Route(1, "b", profile),
        Route(2, "c", keys),
        Route(3, "d", {"model": "openai/x"}),
    ]
    one, two = ask.wanted(listed, {"OCD_AWS_PROFILE": "work", "AWS_REGION": "us-west-2"})
    assert (one.routes, one.profile, one.region) == (("a", "b"), "work", "us-west-2")
    assert (two.routes, two.keys, two.key, two.region) == (("c",), ("id",), "MPLE", "eu-west-1")
    assert "AKIA" not in repr(two)


def test_of_a_key_too_short_to_be_one_nothing_is_shown() -> None:
    (one,) = ask.wanted([Route(0, "a", {"model": "bedrock/x.y", "aws_access_key_id": "hunter2"})], {})
    assert one.keys == ("id",) and one.key == ""


def stack(*models: str) -> Stack:
    class File:
        def routes(self) -> Any:
            return ((i, f"m{i}", {"model": model}) for i, model in enumerate(models))

    return Stack(Settings(), None, File(), Path("ocd.toml"), None, None)  # type: ignore[arg-type]


def test_the_policy_has_both_actions_and_the_models_behind_profiles() -> None:
    found = policy.needs(
        stack(
            "bedrock/converse/qwen.q",
            "bedrock/us.anthropic.c",
            "bedrock/arn:aws:bedrock:us-east-1:1:inference-profile/eu.meta.l",
            "bedrock/arn:aws:bedrock:us-east-1:1:application-inference-profile/abc",
            "openai/qwen",
        )
    )
    statement = policy.document(found)["Statement"][0]
    assert statement["Action"] == ["bedrock:InvokeModel", "bedrock:InvokeModelWithResponseStream"]
    assert statement["Resource"] == [
        "arn:aws:bedrock:us-west-2::foundation-model/qwen.q",
        "arn:aws:bedrock:us-west-2:*:inference-profile/us.anthropic.c",
        "arn:aws:bedrock:*::foundation-model/anthropic.c",
        "arn:aws:bedrock:us-east-1:1:inference-profile/eu.meta.l",
        "arn:aws:bedrock:*::foundation-model/meta.l",
        "arn:aws:bedrock:us-east-1:1:application-inference-profile/abc",
    ]
    assert [one.remark != "" for one in found] == [False, False, False, True]
    counting = policy.document(found)["Statement"][1]
    assert counting["Action"] == ["bedrock:CountTokens"]
    assert counting["Resource"] == ["arn:aws:bedrock:*::foundation-model/anthropic.c"], (
        "Claude's, by their own name"
    )
    assert len(policy.document(found[:1])["Statement"]) == 1, "nothing of Claude's, nothing to count"


def given(monkeypatch: pytest.MonkeyPatch, *verdicts: Verdict) -> None:
    monkeypatch.setattr(verbs, "_report", lambda: ask.Report(list(verdicts), "1.0", ("AWS_PROFILE",)))


def test_status_ends_with_0_or_3(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    given(monkeypatch, look(facts({"work": GOOD})))
    assert main(["aws", "status"]) == 0
    shown = capsys.readouterr()
    assert "…MPLE" in shown.out and "AWS_PROFILE" in shown.err
    given(monkeypatch, look(facts({"work": {"exists": False}})))
    assert main(["aws", "status", "--json"]) == 3
    said = json.loads(capsys.readouterr().out)
    assert said["usable"] is False and said["lookups"][0]["problems"][0]["code"] == "aws-profile-missing"


def test_login_says_what_it_would_run_and_what_to_do_without_single_sign_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given(monkeypatch, look(facts({"work": {**SSO, "token": TOKEN}})))
    assert main(["aws", "login", "--dry-run"]) == 0
    assert capsys.readouterr().out == "aws sso login --profile work\n"
    monkeypatch.setenv("PATH", "/nonexistent")
    assert main(["aws", "login"]) == 69
    assert "not installed" in capsys.readouterr().err
    given(monkeypatch, look(facts({"work": GOOD})))
    assert main(["aws", "login"]) == 78
    assert "does not use single sign-on" in capsys.readouterr().err
    given(monkeypatch, look(facts({"work": {**SSO, "sso_session": "crop", "token": TOKEN}})))
    assert main(["aws", "login"]) == 78
    assert "crop does not exist" in capsys.readouterr().err
