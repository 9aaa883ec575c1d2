"""What comes back on both routes is Anthropic's protocol: blocks, indices, stop reasons, usage, errors.

That streams from Anthropic pass byte for byte is in test_fidelity.py; here the hop to Bedrock is held to the protocol.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from ocd.selftest.answers import TOKENS, TOOL_WORDS
from ocd.selftest.streams import check_plain, check_stream
from ocd.selftest.upstreams import Behaviour, Upstreams
from tests.helpers.daemon import BEDROCK, MAIN, Daemon, eventually

pytestmark = [pytest.mark.process, pytest.mark.timeout(240)]

BASH = {"name": "Bash", "input_schema": {"type": "object", "properties": {"value": {"type": "string"}}}}
#: No tool_choice: LiteLLM drops it for Bedrock's Qwen (drop_params), which does not know it.
TOOL = {"tools": [BASH], "messages": [{"role": "user", "content": TOOL_WORDS}]}
#: Bedrock's side of a login that has ended, and of a profile that there is not
PROFILES = ("ended", "missing")
AWS_CONFIG = """\
[profile ended]
sso_session = corp
sso_account_id = 111122223333
sso_role_name = Developer
region = eu-central-1
[sso-session corp]
sso_region = eu-central-1
sso_start_url = https://corp.example/start
"""


@pytest.fixture(scope="module")
def shared(addresses: dict[str, str]) -> Iterator[Daemon]:
    with Daemon(
        upstreams=addresses, settings="[proxies.main]\nspare = false\n[proxies.bedrock]\nspare = false"
    ) as one:
        aws = one.prefix / ".aws"
        aws.mkdir(mode=0o700)
        (aws / "config").write_text(AWS_CONFIG)
        main, bedrock = MAIN.format(**addresses), BEDROCK.format(**addresses)
        for name in PROFILES:
            hop = f"{{model: openai/{name}, api_base: os.environ/OCD_BEDROCK_URL, api_key: os.environ/OCD_BEDROCK_KEY}}"
            aws_params = (
                f"{{model: bedrock/converse/qwen.qwen3-next-80b-a3b, aws_profile_name: {name}, "
                f"aws_region_name: eu-central-1, aws_bedrock_runtime_endpoint: {addresses['bedrock']}}}"
            )
            main = main.replace(
                "model_list:\n", f"model_list:\n  - {{model_name: {name}, litellm_params: {hop}}}\n"
            )
            row = f"model_list:\n  - {{model_name: {name}, litellm_params: {aws_params}}}\n"
            bedrock = bedrock.replace("model_list:\n", row)
        one.write("litellm.yaml", main)
        one.write("litellm-bedrock.yaml", bedrock)
        one.start()
        yield one


def events(answer: httpx.Response) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]


def last_of(daemon: Daemon, count: int) -> list[dict[str, Any]]:
    """The latest reports of the main proxy, when there are ``count`` in all."""

    def told() -> list[dict[str, Any]]:
        with daemon.client() as client:
            lines = client.get("/v1/requests?lines=500").text.splitlines()
        found = [one for one in map(json.loads, lines) if one["proxy"] == "main"]
        return found if len(found) >= count else []

    return list(eventually(told, what=f"{count} reports"))


@pytest.mark.parametrize("shape", [{}, TOOL], ids=["text", "tool"])
@pytest.mark.parametrize("model", ["claude-opus-9-9", "qwen-3-coder"])
def test_streams_and_plain_answers_keep_the_protocol(
    daemon: Daemon, model: str, shape: dict[str, Any]
) -> None:
    stream = daemon.ask(model, stream=True, **shape)
    plain = daemon.ask(model, **shape)
    blocks = ["text", "tool_use"] if shape else ["text"]
    assert check_stream(stream.text) == (blocks, []), stream.text
    assert check_plain(plain.json()) == (blocks, [])
    (delta,) = [one for one in events(stream) if one["type"] == "message_delta"]
    reason = "tool_use" if shape else "end_turn"
    assert delta["delta"]["stop_reason"] == plain.json()["stop_reason"] == reason
    assert plain.json()["usage"]["input_tokens"] == TOKENS
    (start,) = [one for one in events(stream) if one["type"] == "message_start"]
    usage = {**start["message"]["usage"], **delta["usage"]}
    assert usage["input_tokens"] == TOKENS and usage["output_tokens"] == 3
    if shape:
        parts = [one["delta"] for one in events(stream) if one["type"] == "content_block_delta"]
        assert json.loads("".join(one.get("partial_json", "") for one in parts)) == {"value": "x"}


@pytest.mark.parametrize("model", ["claude-opus-9-9", "qwen-3-coder"])
def test_an_error_in_mid_stream_is_an_error_event_and_nothing_after_it(
    daemon: Daemon, upstreams: Upstreams, model: str
) -> None:
    upstreams.behave(Behaviour(chunks=4, drop="error"))
    answer = daemon.ask(model, stream=True)
    found = events(answer)
    assert found[0]["type"] == "message_start" and found[-1]["type"] == "error"
    kind = found[-1]["error"]["type"]
    assert kind == ("overloaded_error" if model.startswith("claude") else "api_error")
    assert "message_stop" not in answer.text


def test_bedrocks_errors_are_in_anthropics_form_and_never_about_a_login(
    daemon: Daemon, upstreams: Upstreams
) -> None:
    """A 401 would make Claude Code renew the plan's token, a 403 ask for a login: AWS's have nothing to do with it."""
    before = len(last_of(daemon, 0) or [])
    expected = [
        (Behaviour(status=401, error="UnrecognizedClientException"), 424, "access-denied"),
        (Behaviour(status=403), 424, "model-access"),
        (Behaviour(status=403, error="ExpiredTokenException"), 424, "aws-expired"),
        (Behaviour(status=404), 424, "model-access"),
        (Behaviour(status=429), 429, "throttled"),
        (Behaviour(status=400), 400, "bad-request"),
        (Behaviour(status=503), 529, "overloaded"),
    ]
    for behaviour, status, _word in expected:
        upstreams.behave(behaviour)
        answer = daemon.ask("qwen-3-coder", stream=True)
        assert answer.status_code == status, answer.text
        value = answer.json()
        assert (
            value["type"] == "error"
            and value["error"]["type"].endswith("_error")
            and value["error"]["message"]
        )
        assert value["error"]["type"] != "authentication_error"
    told = last_of(daemon, before + len(expected))[-len(expected) :]
    assert [one["trouble"] for one in told] == [word for _behaviour, _status, word in expected]
    upstreams.behave(Behaviour(upstream="anthropic", status=401))
    assert daemon.ask().status_code == 401, "the plan's own login: Claude Code shall renew it"


@pytest.mark.parametrize("profile", PROFILES)
def test_an_aws_login_that_fails_before_any_call_is_told(
    daemon: Daemon, upstreams: Upstreams, profile: str
) -> None:
    upstreams.reset()
    answer = daemon.ask(profile)
    assert answer.status_code not in (200, 401) and not upstreams.seen("bedrock"), answer.text
    found = eventually(lambda: [one for one in daemon.proxy()["troubles"] if one["model"] == profile])
    assert found[0]["kind"] == "aws-expired" and "occtl aws login" in found[0]["next"]
