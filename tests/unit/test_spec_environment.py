"""What a proxy's environment is made of."""

from __future__ import annotations

import json

from ocd.settings.schema import Settings
from ocd.supervisor.supervision import litellm_env, spec


def test_the_users_own_variables_reach_their_proxy_as_text() -> None:
    settings = Settings.model_validate(
        {"proxies": {"bedrock": {"env": {"AWS_SESSION_TOKEN": "t"}}, "main": {"env": {"DATABASE_URL": "u"}}}}
    )
    made = {name: spec.public_environment(settings, name, "/nowhere", "/bin") for name in spec.PROXIES}
    assert made["bedrock"]["AWS_SESSION_TOKEN"] == "t" and made["main"]["DATABASE_URL"] == "u"
    # They go over the guest's socket as JSON, and into the revision's name.
    assert json.loads(json.dumps(made)) == made
    assert spec.revision("x", settings, "main", "/nowhere", "/bin", "h").startswith("x-")


def test_nothing_of_aws_is_in_the_main_proxys_environment() -> None:
    names = spec.public_environment(Settings(aws_profile="p"), "main", "/nowhere", "/bin")
    aws = {name: value for name, value in names.items() if "AWS" in name and name != "OCD_AWS_REGION"}
    assert aws == spec.NO_AWS


def test_a_litellm_that_leaks_by_itself_is_named_in_the_status() -> None:
    for version in ("1.82.6", "1.90.7", "1.98.1", "0.9"):
        (problem,) = litellm_env.worries(version)
        assert problem.code == "litellm-old" and version in problem.what and problem.next
    for version in ("1.99.4", "1.106.2", "2.0.0", "", "main", "1.106.2.dev1"):
        assert litellm_env.worries(version) == []
