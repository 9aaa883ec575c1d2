"""The user's files as the self-test uses them: nothing in them leads anywhere but to the stand-ins."""

import json
from pathlib import Path
from typing import Any

import pytest

from ocd.selftest import streams
from ocd.selftest.redirected import DUMMY, NOWHERE, Turned, turn
from ocd.settings.folders import Folders
from ocd.settings.schema import Settings
from ocd.stack.defaults import template

ANTHROPIC, BEDROCK = "http://127.0.0.1:5001", "http://127.0.0.1:5002"
PRIVATE = {"main": 6000, "bedrock": 6001}


def turned(
    tmp_path: Path, main: str = "", bedrock: str = ""
) -> tuple[Turned, dict[str, Any], dict[str, Any]]:
    config, into = tmp_path / "config", tmp_path / "into"
    config.mkdir(exist_ok=True)
    into.mkdir()
    (config / "litellm.yaml").write_text(main or template("litellm.yaml"), encoding="utf-8")
    (config / "litellm-bedrock.yaml").write_text(
        bedrock or template("litellm-bedrock.yaml"), encoding="utf-8"
    )
    folders = Folders(config, tmp_path, tmp_path, tmp_path, tmp_path)
    found = turn(folders, Settings(), into, ANTHROPIC, BEDROCK, PRIVATE)
    first, second = (
        json.loads((into / name).read_text()) for name in ("litellm.yaml", "litellm-bedrock.yaml")
    )
    return found, first, second


def params(data: dict[str, Any]) -> list[dict[str, Any]]:
    return [one["litellm_params"] for one in data["model_list"]]


def test_the_shipped_files(tmp_path: Path) -> None:
    found, main, bedrock = turned(tmp_path)
    assert [(one.group, one.to) for one in found.routes] == [
        ("claude-*", "anthropic"),
        ("qwen-3-coder", "bedrock"),
    ]
    assert params(main)[0] == {"model": "anthropic/claude-*", "api_base": ANTHROPIC}
    assert params(main)[1]["api_base"] == "os.environ/OCD_BEDROCK_URL"
    assert params(bedrock)[0]["aws_bedrock_runtime_endpoint"] == BEDROCK
    assert main["general_settings"]["master_key"] == "os.environ/OCD_MAIN_KEY"
    assert found.problems == []
    assert (route := found.route("claude-haiku-9-9")) is not None and route.group == "claude-*"
    assert found.route("other") is None


def test_no_address_and_no_key_of_the_users_stays(tmp_path: Path) -> None:
    main = """
model_list:
  - {model_name: a, litellm_params: {model: openai/gpt, api_key: sk-real-key}}
  - {model_name: b, litellm_params: {model: vertex_ai/gemini, vertex_project: real-project}}
  - {model_name: c, litellm_params: {model: anthropic/c, api_base: "https://real.example", api_key: sk-real}}
  - {model_name: d, litellm_params: {model: openai/q, api_base: "http://localhost:4001/v1", api_key: sk-real}}
  - {model_name: e, litellm_params: {model: bedrock/x, aws_access_key_id: real, aws_secret_access_key: real}}
litellm_settings:
  {callbacks: [langfuse, real.handler], success_callback: real-remote, cache: true, drop_params: true}
general_settings: {master_key: os.environ/OCD_MAIN_KEY, database_url: "postgres://real", alerting: [real]}
router_settings: {redis_host: real, num_retries: 0}
environment_variables: {REAL: real}
"""
    found, first, _second = turned(tmp_path, main)
    assert "real" not in json.dumps(first)
    assert (
        params(first)[0]
        == params(first)[1]
        == {"model": "openai/not-tested", "api_base": NOWHERE, "api_key": DUMMY}
    )
    assert params(first)[3]["api_base"] == "http://127.0.0.1:6001/v1"
    assert [one.to for one in found.routes] == ["other", "other", "anthropic", "bedrock", "bedrock"]
    assert first["litellm_settings"] == {"callbacks": [], "drop_params": True}
    assert (
        len(found.problems) == 1
        and "real.example" in found.problems[0]
        and "plan's token" in found.problems[0]
    )


def test_includes_and_modules_come_along(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.mkdir()
    (config / "more.yaml").write_text("model_list: [{model_name: m, litellm_params: {model: anthropic/m}}]\n")
    (config / "hooks.py").write_text("handler = None\n")
    found, first, _second = turned(
        tmp_path,
        "include: [more.yaml]\nmodel_list: []\nlitellm_settings: {callbacks: [hooks.handler, remote]}\n",
    )
    assert [one.group for one in found.routes] == ["m"]
    assert "include" not in first
    assert first["litellm_settings"] == {"callbacks": ["hooks.handler"]}
    assert (tmp_path / "into" / "hooks.py").read_text() == "handler = None\n"
    assert (tmp_path / "into" / "litellm.yaml").stat().st_mode & 0o777 == 0o600


# ---- the protocol check


def stream(*events: dict[str, Any]) -> str:
    return "".join(f"event: {one['type']}\ndata: {json.dumps(one)}\n\n" for one in events)


START: dict[str, Any] = {"type": "message_start", "message": {}}
OPEN: dict[str, Any] = {"type": "content_block_start", "index": 0, "content_block": {"type": "text"}}
DELTA: dict[str, Any] = {"type": "content_block_delta", "index": 0, "delta": {}}
CLOSE: dict[str, Any] = {"type": "content_block_stop", "index": 0}
END: dict[str, Any] = {
    "type": "message_delta",
    "delta": {"stop_reason": "end_turn"},
    "usage": {"output_tokens": 1},
}
STOP: dict[str, Any] = {"type": "message_stop"}


def test_a_good_stream() -> None:
    text = stream(
        START, OPEN, {"type": "ping"}, DELTA, CLOSE, OPEN | {"index": 1}, CLOSE | {"index": 1}, END, STOP
    )
    assert streams.check_stream(text) == (["text", "text"], [])


@pytest.mark.parametrize(
    "events",
    [
        [],
        [START, OPEN, DELTA, CLOSE, END],
        [OPEN, DELTA, CLOSE, END, STOP],
        [START, OPEN, DELTA, END, STOP],
        [START, OPEN, OPEN | {"index": 1}, CLOSE | {"index": 1}, CLOSE, END, STOP],
        [START, OPEN | {"index": 1}, CLOSE | {"index": 1}, END, STOP],
        [START, DELTA, END, STOP],
        [START, OPEN, CLOSE, DELTA, END, STOP],
        [START, OPEN, CLOSE, END | {"delta": {}}, STOP],
        [START, OPEN, CLOSE, END | {"usage": {}}, STOP],
        [START, OPEN, CLOSE, END, STOP, DELTA],
        [START, START, OPEN, CLOSE, END, STOP],
        [START, OPEN, {"type": "error", "error": {}}, CLOSE, END, STOP],
    ],
)
def test_broken_streams(events: list[dict[str, Any]]) -> None:
    assert streams.check_stream(stream(*events))[1]


def test_broken_text_and_plain_answers() -> None:
    good = stream(START, OPEN, CLOSE, END, STOP)
    assert streams.check_stream(good + "data: {\n\n")[1]
    assert streams.check_stream(good.replace("event: message_stop", "event: other"))[1]
    assert streams.check_plain([])[1] and streams.check_plain({"content": []})[1]
