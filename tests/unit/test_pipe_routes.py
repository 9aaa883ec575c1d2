"""Which way each model group takes, why, and that guest and configuration mean the same by it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ocd.guest.layers.pipe import Table
from ocd.settings.folders import Folders
from ocd.settings.load import load
from ocd.settings.schema import Settings
from ocd.stack import pipe, presets
from ocd.stack.check import check_all
from ocd.stack.defaults import write_defaults
from ocd.stack.litellm_file import load_litellm
from ocd.stack.stack import Stack

MAIN = """\
model_list:
  - model_name: claude-*
    litellm_params: {model: anthropic/claude-*}
  - model_name: opus
    litellm_params: {model: anthropic/claude-opus-9-9}
  - model_name: qwen
    litellm_params: {model: openai/qwen-3, api_base: os.environ/OCD_BEDROCK_URL, api_key: os.environ/OCD_BEDROCK_KEY}
  - model_name: gpt
    litellm_params: {model: openai/gpt-9, api_key: os.environ/OPENAI_API_KEY}
"""
BEDROCK = """\
model_list:
  - model_name: qwen-3
    litellm_params: {model: bedrock/converse/qwen.qwen3-next, aws_region_name: eu-west-1}
general_settings: {master_key: os.environ/OCD_BEDROCK_KEY}
"""


@pytest.fixture
def made(tmp_path: Path) -> Any:
    def make(main: str = MAIN, bedrock: str = BEDROCK, **settings: Any) -> Stack:
        files = {}
        for name, text in (("main", main), ("bedrock", bedrock)):
            path = tmp_path / f"{name}.yaml"
            path.write_text(text)
            files[name] = load_litellm(path)
        return Stack(Settings(**settings), files["main"], files["bedrock"], tmp_path / "ocd.toml", None, None)

    return make


def ways(stack: Stack) -> dict[str, str]:
    return {way.group: way.way for way in pipe.ways(stack)}


def test_a_plain_file(made: Any) -> None:
    stack = made()
    assert ways(stack) == {"claude-*": "anthropic", "opus": "anthropic", "qwen": "hop", "gpt": "litellm"}
    assert all(way.why for way in pipe.ways(stack))
    table = Table(pipe.table(stack, "main"), {"OCD_BEDROCK_URL": "http://127.0.0.1:4001/v1"})
    for asked, way, name, model in (
        ("claude-opus-9-9", "anthropic", b"api.anthropic.com", "claude-opus-9-9"),
        ("opus", "anthropic", b"api.anthropic.com", "claude-opus-9-9"),
        ("qwen", "hop", b"127.0.0.1:4001", "qwen-3"),
    ):
        route = table.find(asked)
        assert route is not None and route.origin is not None
        assert (route.way, route.origin.name, route.origin.base, route.model) == (way, name, b"", model)
    assert table.find("gpt").way == "litellm" and table.find("unknown") is None  # type: ignore[union-attr]
    assert table.names("gpt") == {"provider": "openai", "host": "", "model": "gpt-9"}


@pytest.mark.parametrize(
    "name", [name for name, preset in presets.PRESETS.items() if preset.folder is not None]
)
def test_every_preset_passes_beside_litellm(made: Any, name: str) -> None:
    texts = presets.files(presets.PRESETS[name], "eu-west-1")
    stack = made(texts["litellm.yaml"], texts["litellm-bedrock.yaml"])
    found = ways(stack)
    assert found and "litellm" not in found.values()
    assert ("anthropic" in found.values()) == (name != "bedrock")
    table = Table(pipe.table(stack, "main"), {"OCD_BEDROCK_URL": "http://127.0.0.1:4001/v1"})
    for targets in table.fallbacks.values():
        for target in targets:
            route = table.find(target)
            assert route is not None and route.way == "hop"
            # The group that it asks for is one of the other proxy's.
            assert route.model in pipe.table(stack, "bedrock")["groups"]


ALL_LITELLM = {
    "callbacks": "litellm_settings: {callbacks: [hook.handler]}",
    "success callbacks": "litellm_settings: {success_callback: [langfuse]}",
    "guardrails": "guardrails: [{guardrail_name: x}]",
    "cache": "litellm_settings: {cache: true}",
    "custom auth": "general_settings: {custom_auth: auth.check}",
    "database": "general_settings: {database_url: postgres://x}",
    "budget": "litellm_settings: {max_budget: 5}",
    "dropped fields": "litellm_settings: {additional_drop_params: [metadata]}",
    "tls off": "litellm_settings: {ssl_verify: false}",
    "pre-call checks": "router_settings: {enable_pre_call_checks: true}",
    "tag routing": "router_settings: {enable_tag_filtering: true}",
    "environment": "environment_variables: {A: b}",
    "something new": "future_section: {a: 1}",
    "something new inside": "general_settings: {future_switch: 1}",
    "tools": "mcp_servers: {x: {url: http://x}}",
}


@pytest.mark.parametrize("name", ALL_LITELLM)
def test_whatever_wants_to_see_requests_sees_all_of_them(made: Any, name: str) -> None:
    stack = made(MAIN + ALL_LITELLM[name] + "\n")
    assert set(ways(stack).values()) == {"litellm"}
    reason, where = pipe.whole(stack)
    section, _, key = ALL_LITELLM[name].partition(": ")
    assert reason.startswith(section) and where[0] == section
    if section.endswith("_settings"):
        assert key.strip("{").partition(":")[0] in reason, "the reason names the key"


@pytest.mark.parametrize(
    "text",
    [
        "litellm_settings: {callbacks: [], cache: false, drop_params: true}",
        "router_settings: {num_retries: 3, retry_policy: {}, fallbacks: []}",
        "general_settings: {master_key: x, database_url: '', custom_auth: null}",
        "guardrails: []",
    ],
)
def test_what_is_off_or_harmless_changes_nothing(made: Any, text: str) -> None:
    assert ways(made(MAIN + text + "\n"))["opus"] == "anthropic"


def test_settings_of_ours_decide_too(made: Any) -> None:
    assert set(ways(made(litellm={"pipe": "off"})).values()) == {"litellm"}
    assert set(ways(made(proxies={"main": {"env": {"DATABASE_URL": "x"}}})).values()) == {"litellm"}
    assert set(ways(made(litellm={"args": ["--add_function_to_prompt"]})).values()) == {"litellm"}
    assert ways(made(litellm={"args": ["--debug"]}))["opus"] == "anthropic"
    moved = made(proxies={"main": {"env": {"ANTHROPIC_BASE_URL": "https://gateway.example/x"}}})
    table = Table(pipe.table(moved, "main"), {"ANTHROPIC_BASE_URL": "https://gateway.example/x"})
    route = table.find("opus")
    assert route is not None and route.origin is not None and route.origin.host == "gateway.example"
    assert route.origin.base == b"/x" and "gateway" not in json.dumps(pipe.table(moved, "main"))


OPUS = "{model: anthropic/claude-opus-9-9"


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ("api_key: sk-x", "api_key"),
        ("rpm: 3", "rpm"),
        ("max_tokens: 9", "max_tokens"),
        ("additional_drop_params: [x]", "additional_drop_params"),
        ("extra_headers: {a: b}", "extra_headers"),
        ("api_base: 'https://u:p@x'", "user name"),
        ("api_base: 'ftp://x'", "address"),
        ("future: 1", "future"),
    ],
)
def test_a_route_that_asks_for_more_goes_through_litellm(made: Any, params: str, reason: str) -> None:
    stack = made(MAIN.replace(OPUS, f"{OPUS}, {params}"))
    (way,) = [one for one in pipe.ways(stack) if one.group == "opus"]
    assert way.way == "litellm" and reason in way.why
    assert ways(stack)["claude-*"] == "anthropic", "the others are not touched"


@pytest.mark.parametrize(
    "params",
    [
        "timeout: 60",
        "num_retries: 2",
        "input_cost_per_token: 1",
        "api_base: 'https://api.anthropic.com/v1/messages'",
    ],
)
def test_a_route_may_say_what_changes_nothing(made: Any, params: str) -> None:
    stack = made(MAIN.replace(OPUS, f"{OPUS}, {params}"))
    assert ways(stack)["opus"] == "anthropic"
    route = Table(pipe.table(stack, "main"), {}).find("opus")
    assert route is not None and route.origin is not None and route.origin.base == b""
    assert route.timeout == (60.0 if "timeout" in params else None)


def test_deployments_that_differ_are_litellms_and_the_same_ones_are_not(made: Any) -> None:
    more = "  - model_name: opus\n    litellm_params: {model: anthropic/MODEL}\n"
    assert ways(made(MAIN + more.replace("MODEL", "claude-opus-9-9")))["opus"] == "anthropic"
    assert ways(made(MAIN + more.replace("MODEL", "claude-opus-9-1")))["opus"] == "litellm"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("api_key: os.environ/OCD_BEDROCK_KEY}", "api_key: sk-other}"),
        ("api_base: os.environ/OCD_BEDROCK_URL", "api_base: http://127.0.0.1:4999/v1"),
        ("api_base: os.environ/OCD_BEDROCK_URL", "api_base: https://elsewhere.example/v1"),
        ("model: openai/qwen-3, ", "model: anthropic/qwen-3, "),
    ],
)
def test_only_what_really_leads_to_the_other_proxy_is_a_hop(made: Any, old: str, new: str) -> None:
    assert ways(made(MAIN.replace(old, new, 1)))["qwen"] != "hop"


def test_the_other_proxy_by_its_port_and_its_literal_key(made: Any) -> None:
    text = MAIN.replace("os.environ/OCD_BEDROCK_URL", "http://localhost:4001/v1")
    assert ways(made(text))["qwen"] == "hop"
    key = "sk-" + "5" * 40
    text = text.replace("os.environ/OCD_BEDROCK_KEY", key)
    assert ways(made(text, BEDROCK.replace("os.environ/OCD_BEDROCK_KEY", key)))["qwen"] == "hop"
    assert key not in json.dumps(pipe.table(made(text), "main"))


def test_aliases_lead_where_their_group_does(made: Any) -> None:
    text = MAIN + "router_settings: {model_group_alias: {fast: qwen, best: {model: opus, hidden: true}}}\n"
    table = Table(pipe.table(made(text), "main"), {"OCD_BEDROCK_URL": "http://127.0.0.1:4001/v1"})
    fast, best = table.find("fast"), table.find("best")
    assert fast is not None and (fast.way, fast.model) == ("hop", "qwen-3")
    assert best is not None and (best.way, best.model, best.group) == ("anthropic", "claude-opus-9-9", "opus")


def test_wildcards_the_most_specific_first(made: Any) -> None:
    more = (
        "  - model_name: claude-haiku-*\n"
        "    litellm_params: {model: openai/qwen-3, api_base: os.environ/OCD_BEDROCK_URL,"
        " api_key: os.environ/OCD_BEDROCK_KEY}\n"
        "  - model_name: 'anthropic/*'\n    litellm_params: {model: 'anthropic/*'}\n"
    )
    table = Table(pipe.table(made(MAIN + more), "main"), {"OCD_BEDROCK_URL": "http://127.0.0.1:4001/v1"})
    for asked, way, model in (
        ("claude-haiku-9-9", "hop", "qwen-3"),
        ("claude-sonnet-9-9", "anthropic", "claude-sonnet-9-9"),
        ("anthropic/claude-x", "anthropic", "claude-x"),
    ):
        route = table.find(asked)
        assert route is not None and (route.way, route.model) == (way, model)


def test_fallbacks_as_litellm_reads_them(made: Any) -> None:
    text = (
        MAIN
        + "litellm_settings: {default_fallbacks: [gpt], fallbacks: [{opus: [gpt]}]}\n"
        + "router_settings: {fallbacks: [{opus: [qwen]}, {'claude-*': [{model: qwen}, 7]}, nonsense]}\n"
    )
    assert pipe.fallbacks(made(text).main) == {"opus": ["qwen"], "claude-*": ["qwen"], "*": ["gpt"]}
    assert pipe.fallbacks(None) == {}


def test_fallbacks_by_an_errors_content_are_litellms(made: Any) -> None:
    text = MAIN + "router_settings: {context_window_fallbacks: [{opus: [gpt]}]}\n"
    assert ways(made(text)) == {"claude-*": "anthropic", "opus": "litellm", "qwen": "hop", "gpt": "litellm"}


def test_an_address_that_cannot_be_used_is_litellms_in_the_guest(made: Any) -> None:
    table = Table(pipe.table(made(), "main"), {})
    route = table.find("qwen")
    assert route is not None and route.way == "litellm", "nobody said where the other proxy is"
    assert Table({}, {}).find("x") is None and Table({"groups": None}, {}).find("x") is None


def test_the_table_is_part_of_the_revision(tmp_path: Path) -> None:
    from ocd.stack import examine
    from ocd.supervisor.supervision import spec

    folders = Folders(*(tmp_path / name for name in ("config", "share", "state", "run", "bin")))
    write_defaults(folders)
    first = examine.examine(folders, load(folders, {}), None)["revisions"]["main"]
    assert spec.pipe_table(Path(first["config"]))["groups"]["claude-*"]["way"] == "anthropic"
    off = examine.examine(folders, load(folders, {"OCD_LITELLM__PIPE": "off"}), None)["revisions"]["main"]
    assert off["id"] != first["id"], "another way is another revision"
    assert spec.pipe_table(Path(off["config"]))["groups"]["claude-*"]["way"] == "litellm"
    assert spec.pipe_table(tmp_path / "nowhere" / "litellm.yaml") == {}
    (Path(first["config"]).parent / pipe.FILE).write_text("[")
    assert spec.pipe_table(Path(first["config"])) == {}


def test_the_retired_switch_is_taken_and_told(tmp_path: Path) -> None:
    folders = Folders(*(tmp_path / name for name in ("config", "share", "state", "run", "bin")))
    write_defaults(folders)
    (folders.config / "ocd.toml").write_text("[litellm]\nfidelity = false\n")
    environ = {"OCD_LITELLM__FIDELITY": "true"}
    settings = load(folders, environ)
    assert settings.litellm.pipe == "auto"
    told = check_all(folders, environ)
    told = [one for one in told if one.code == "setting-ignored"]
    assert {(one.file.rpartition("/")[2], one.line) for one in told} == {
        ("ocd.toml", 2),
        ("OCD_LITELLM__FIDELITY", None),
    }
    assert "pipe" in told[0].what
