"""Every check with a file that triggers it and one that does not; fixes; the seeds; hostile input."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ocd.settings.findings import Finding
from ocd.settings.folders import Folders
from ocd.settings.load import load
from ocd.stack import rules
from ocd.stack.check import check, check_all
from ocd.stack.defaults import template, write_defaults
from ocd.stack.fix import fix, fix_all

SEEDS = Path(__file__).parent / "seeds_configs"
BEDROCK = template("litellm-bedrock.yaml")
#: the shipped file with two Claude models by name, as people have it who pin their slots
MAIN = template("litellm.yaml").replace(
    "model_list:\n",
    "model_list:\n"
    "  - model_name: claude-opus-9-9\n    litellm_params:\n      model: anthropic/claude-opus-9-9\n\n"
    "  - model_name: claude-sonnet-9-9\n    litellm_params:\n      model: anthropic/claude-sonnet-9-9\n\n",
    1,
)

Change = tuple[str, str, str]


def main(old: str, new: str) -> Change:
    return ("litellm.yaml", old, new)


def bedrock(old: str, new: str) -> Change:
    return ("litellm-bedrock.yaml", old, new)


def ocd(text: str) -> Change:
    return ("ocd.toml", "", text)


def module(text: str) -> Change:
    return ("hook.py", "", text)


OPUS = "      model: anthropic/claude-opus-9-9\n"
SONNET = "      model: anthropic/claude-sonnet-9-9\n"
HOP = "      model: openai/qwen-3-coder\n"
URL = "      api_base: os.environ/OCD_BEDROCK_URL\n"
KEY = "      api_key: os.environ/OCD_BEDROCK_KEY\n"
QWEN = "      model: bedrock/converse/qwen.qwen3-next-80b-a3b\n"
SETTINGS = "litellm_settings:\n"
GENERAL = "general_settings:\n"
ROUTER = "router_settings:\n"
MAIN_KEY = "  master_key: os.environ/OCD_MAIN_KEY\n"
BEDROCK_KEY = "  master_key: os.environ/OCD_BEDROCK_KEY\n"
STRONG = "sk-" + "5" * 40
HOOK = main(SETTINGS, SETTINGS + "  callbacks: [hook.handler]\n")
FALLBACK = "  fallbacks: [{claude-opus-9-9: [qwen-3-coder]}]\n"

#: code, severity, file in which it is found, what breaks the shipped files
BROKEN: list[tuple[str, str, str, tuple[Change, ...]]] = [
    ("master-key-missing", "error", "litellm.yaml", (main(MAIN_KEY, ""),)),
    ("master-key-missing", "error", "litellm-bedrock.yaml", (bedrock(BEDROCK_KEY, "  master_key: ''\n"),)),
    ("master-key-weak", "error", "litellm.yaml", (main(MAIN_KEY, "  master_key: sk-1234\n"),)),
    ("master-key-not-ours", "error", "litellm.yaml", (main(MAIN_KEY, f"  master_key: {STRONG}\n"),)),
    ("master-key-not-ours", "error", "litellm-bedrock.yaml", (bedrock("/OCD_BEDROCK_KEY", "/OTHER"),)),
    ("master-key-literal", "warning", "litellm-bedrock.yaml", (bedrock(BEDROCK_KEY, f"  master_key: {STRONG}\n"),)),
    (
        "weak-key-permitted", "warning", "litellm.yaml",
        (main(GENERAL, GENERAL + "  dangerously_permit_weak_or_unset_master_key: true\n"),),
    ),
    ("key-header-renamed", "error", "litellm.yaml", (main(GENERAL, GENERAL + "  litellm_key_header_name: x-k\n"),)),
    ("api-key-on-forwarding-route", "warning", "litellm.yaml", (main(OPUS, OPUS + "      api_key: sk-x\n"),)),
    (
        "provider-auth-forwarded", "error", "litellm.yaml",
        (main(GENERAL, GENERAL + "  forward_llm_provider_auth_headers: true\n"),),
    ),
    (
        "provider-auth-forwarded", "error", "litellm-bedrock.yaml",
        (bedrock(SETTINGS, SETTINGS + "  forward_llm_provider_auth_headers: true\n"),),
    ),
    (
        "pass-through-closed", "note", "litellm.yaml",
        (main(GENERAL, GENERAL + "  pass_through_endpoints:\n    - path: /a\n      forward_headers: true\n"
              "      target: https://api.anthropic.com/v1/messages\n"),),
    ),
    (
        "pass-through-leaks", "error", "litellm.yaml",
        (main(GENERAL, GENERAL + "  pass_through_endpoints:\n    - path: /a\n      forward_headers: true\n"
              "      target: https://example.com/x\n"),),
    ),
    ("aws-secret-literal", "warning", "litellm-bedrock.yaml",
     (bedrock(QWEN, QWEN + "      aws_secret_access_key: hush\n"),)),
    ("api-base-v1", "error", "litellm.yaml", (main(OPUS, OPUS + "      api_base: https://api.anthropic.com/v1\n"),)),
    ("anthropic-elsewhere", "error", "litellm.yaml", (main(OPUS, OPUS + "      api_base: https://example.com\n"),)),
    ("anthropic-elsewhere", "warning", "litellm.yaml", (main(OPUS, OPUS + "      api_base: http://[::1]:9\n"),)),
    ("bedrock-route-in-main", "error", "litellm.yaml",
     (main(HOP + URL + KEY, QWEN + "      aws_region_name: us-west-2\n"),)),
    ("anthropic-route-in-bedrock", "error", "litellm-bedrock.yaml", (bedrock(QWEN, OPUS),)),
    ("one-m-suffix", "error", "litellm.yaml", (main(OPUS, OPUS.replace("9-9", "9-9[1m]")),)),
    ("one-m-suffix", "warning", "litellm.yaml", (main("name: claude-opus-9-9", 'name: "claude-opus-9-9[1m]"'),)),
    ("model-id-dated", "error", "litellm.yaml", (main(OPUS, OPUS.replace("9-9", "9-9-20250514")),)),
    ("model-id-unknown", "warning", "litellm.yaml", (main(OPUS, OPUS.replace("opus", "opsu")),)),
    ("model-id-unknown", "warning", "litellm-bedrock.yaml", (bedrock("qwen.qwen3-next-80b-a3b", "qwen.qwen9"),)),
    ("streaming-permission", "note", "litellm-bedrock.yaml", (bedrock("InvokeModelWithResponseStream", "it"),)),
    ("not-piped", "note", "litellm.yaml", (main(OPUS, OPUS + "      rpm: 3\n"),)),
    ("not-piped", "note", "litellm.yaml", (main(SETTINGS, SETTINGS + "  cache: true\n"),)),
    (
        "fallback-unfiltered", "error", "litellm.yaml",
        (main(OPUS, OPUS + "      rpm: 3\n"), main(ROUTER, ROUTER + FALLBACK),
         ("../lib/python3.11/site-packages/litellm/router.py", "", "# an early version\n")),
    ),
    ("hop-with-login", "error", "litellm.yaml", (main(HOP, HOP.replace("openai", "anthropic")),)),
    ("hop-to-nowhere", "error", "litellm.yaml", (ocd("[proxies.bedrock]\nenabled = false\n"),)),
    ("hop-wrong-port", "error", "litellm.yaml", (main(URL, ""),)),
    ("hop-wrong-port", "error", "litellm.yaml", (main(URL, "      api_base: http://localhost:4002/v1\n"),)),
    ("hop-wrong-port", "error", "litellm.yaml",
     (main(URL, "      api_base: http://127.0.0.1:4001/v1\n"), ocd("port = 5000\n"))),
    ("hop-wrong-port", "error", "litellm.yaml", (main(URL, "      api_base: https://example.com/v1\n"),)),
    ("hop-without-key", "error", "litellm.yaml", (main(URL + KEY, URL),)),
    ("hop-wrong-key", "error", "litellm.yaml", (main(URL + KEY, URL + "      api_key: sk-other\n"),)),
    ("hop-key-literal", "warning", "litellm.yaml",
     (main(URL + KEY, URL + f"      api_key: {STRONG}\n"), bedrock(BEDROCK_KEY, f"  master_key: {STRONG}\n"))),
    ("hop-model-missing", "error", "litellm.yaml", (main(HOP, HOP.replace("qwen-3", "qwen-4")),)),
    ("hop-not-chat-completions", "warning", "litellm.yaml",
     (main("  use_chat_completions_url_for_anthropic_messages: true\n", ""),)),
    ("forwarding-misplaced", "warning", "litellm.yaml",
     (main(OPUS, OPUS + "      forward_client_headers_to_llm_api: true\n"),)),
    ("forwarding-misplaced", "warning", "litellm.yaml",
     (main(SETTINGS, SETTINGS + "  forward_client_headers_to_llm_api: true\n"),)),
    ("forwarding-not-set", "note", "litellm.yaml", (main("  forward_client_headers_to_llm_api: false\n", ""),)),
    ("forwarding-everywhere", "note", "litellm.yaml", (main("llm_api: false", "llm_api: true"),)),
    ("drop-params-missing", "warning", "litellm.yaml", (main("  drop_params: true\n", ""),)),
    ("drop-params-missing", "warning", "litellm-bedrock.yaml", (bedrock("drop_params: true", "drop_params: no"),)),
    ("modify-params", "warning", "litellm.yaml", (main(SETTINGS, SETTINGS + "  modify_params: true\n"),)),
    ("retries-twice", "note", "litellm.yaml", (main("num_retries: 0", "num_retries: 3"),)),
    ("cooldowns", "warning", "litellm-bedrock.yaml", (bedrock("  disable_cooldowns: true\n", ""),)),
    ("debug-logs-prompts", "warning", "litellm.yaml", (main(SETTINGS, SETTINGS + "  set_verbose: true\n"),)),
    ("debug-logs-prompts", "warning", "ocd.toml", (ocd('[litellm]\nargs = ["--detailed_debug"]\n'),)),
    ("option-is-ours", "error", "ocd.toml", (ocd('[litellm]\nargs = ["--port=4000"]\n'),)),
    ("search-slot", "warning", "ocd.toml", (ocd('[search]\nslot = "haiku"\n'),)),
    ("profile-without-route", "warning", "ocd.toml", (ocd('[profiles.work]\nhaiku = "qwen-4"\n'),)),
    ("profile-without-aws-route", "warning", "ocd.toml", (ocd('[profiles.work]\naws_profile = "work"\n'),)),
    ("fallback-wrong-form", "error", "litellm.yaml", (main(ROUTER, ROUTER + "  fallbacks: {a: [b]}\n"),)),
    ("fallback-unknown", "warning", "litellm.yaml",
     (main(ROUTER, ROUTER + "  fallbacks: [{claude-opus-9-9: [qwen-9]}]\n"),)),
    ("fallback-unknown", "warning", "litellm.yaml", (main(ROUTER, ROUTER + "  default_fallbacks: [qwen-9]\n"),)),
    ("fallback-unknown", "warning", "litellm-bedrock.yaml",
     (bedrock(ROUTER, ROUTER + "  context_window_fallbacks: [{nobody: [qwen-3-coder]}]\n"),)),
    ("fallback-bills", "note", "litellm.yaml", (main(ROUTER, ROUTER + FALLBACK),)),
    ("callbacks-not-a-list", "warning", "litellm.yaml",
     (main(SETTINGS, SETTINGS + "  callbacks: hook.handler\n"), module("handler = object()\n"))),
    ("callbacks-not-a-list", "error", "litellm.yaml", (main(SETTINGS, SETTINGS + "  success_callback: langfuse\n"),)),
    ("callback-not-found", "error", "litellm.yaml", (main(SETTINGS, SETTINGS + "  callbacks: [gone.handler]\n"),)),
    ("callback-not-found", "error", "litellm.yaml", (main(GENERAL, GENERAL + "  custom_auth: gone.check\n"),)),
    ("callback-broken", "error", "hook.py", (HOOK, module("handler = (\n"))),
    ("callback-no-instance", "error", "litellm.yaml", (HOOK, module("class Handler: ...\n"))),
    ("callback-no-instance", "error", "litellm.yaml", (HOOK, module("class handler: ...\n"))),
    ("callback-import", "error", "hook.py", (HOOK, module("import not_installed_here\nhandler = object()\n"))),
    ("callback-sets-api-key", "error", "hook.py",
     (HOOK, module("def handler(data, token):\n    data['api_key'] = token\n"))),
    ("callback-sets-api-key", "warning", "hook.py",
     (HOOK, module("def handler(data, token):\n    if token:\n        data.update(api_key=token)\n"))),
    ("callback-sets-api-key", "warning", "hook.py",
     (HOOK, module("def handler(data, token):\n    data.setdefault('anthropic_api_key', token)\n"))),
    ("slot-without-route", "error", "litellm.yaml", (ocd('[slots]\nhaiku = "llama"\n'),)),
    ("model-retires", "warning", "litellm-bedrock.yaml",
     (bedrock("qwen.qwen3-next-80b-a3b", "anthropic.claude-9-1-sonnet-gone"),)),
    ("no-claude-wildcard", "warning", "litellm.yaml", (main('"claude-*"', '"opus-*"'),)),
    ("section-unknown", "warning", "litellm.yaml", (main(ROUTER, "routers_settings:\n"),)),
    ("section-wrong-kind", "error", "litellm.yaml", (main(ROUTER, "router_settings: []\nx:\n"),)),
    ("no-models", "error", "litellm-bedrock.yaml", (bedrock("model_list:", "model_list: []\nx:"),)),
    ("entry-incomplete", "error", "litellm.yaml", (main(OPUS, "      other: 1\n"),)),
    ("entry-incomplete", "error", "litellm.yaml", (main("model_name: claude-opus-9-9", "name: claude-opus-9-9"),)),
    ("entry-incomplete", "error", "litellm.yaml", (main("model_list:\n", "model_list:\n  - 3\n"),)),
    ("model-duplicate", "warning", "litellm.yaml",
     (main("model_list:\n", "model_list:\n  - model_name: claude-opus-9-9\n    litellm_params:\n" + OPUS),)),
    ("model-duplicate", "warning", "litellm.yaml", (main("name: claude-sonnet-9-9", "name: claude-opus-9-9"),)),
    ("variable-not-set", "warning", "litellm-bedrock.yaml", (bedrock("/OCD_AWS_REGION", "/AWS_REGION"),)),
    ("duplicate-key", "warning", "litellm.yaml", (main("num_retries: 0\n", "num_retries: 0\n  num_retries: 0\n"),)),
    ("include-missing", "error", "litellm.yaml", (main("model_list:", "include: [gone.yaml]\nmodel_list:"),)),
    ("include-not-a-list", "error", "litellm.yaml", (main("model_list:", "include: hook.py\nmodel_list:"),
                                                    module("a: 1\n"))),
    ("include-replaces", "warning", "hook.py", (main("model_list:", "include: [hook.py]\nmodel_list:"),
                                               module("router_settings: {num_retries: 0}\n"))),
    ("yaml-syntax", "error", "litellm.yaml", (main("model_list:", "model_list: ["),)),
    ("yaml-too-deep", "error", "litellm.yaml", (main(MAIN, "a: " + "[" * 600),)),
    ("yaml-too-much", "error", "litellm.yaml", (main(MAIN, "a: &a [*a]\n"),)),
    ("file-empty", "error", "litellm.yaml", (main(MAIN, "# nothing\n"),)),
    ("not-a-mapping", "error", "litellm.yaml", (main(MAIN, "- a\n"),)),
    ("file-not-utf8", "error", "litellm.yaml", (main(OPUS, OPUS + "# \udce9\n"),)),
    ("file-too-large", "error", "litellm.yaml", (main(MAIN, "#" * (10 << 20)),)),
]  # fmt: skip


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A LiteLLM environment, as far as the check looks at it."""
    folder = tmp_path / "lib" / "python3.11" / "site-packages"
    (folder / "litellm").mkdir(parents=True)
    known = {
        # the made-up ones are this file's, the others those of the seeds' configurations
        "anthropic": ("claude-opus-9-9", "claude-sonnet-9-9", "claude-opus-4-6", "claude-sonnet-4-5",
                      "claude-sonnet-4-5-20250929",
                      "claude-opus-4-5-20251101"),
        "bedrock_converse": ("qwen.qwen3-next-80b-a3b", "anthropic.claude-opus-4-7",
                             "anthropic.claude-opus-4-5-20251101-v1:0"),
    }  # fmt: skip
    table = {name: {"litellm_provider": provider} for provider, ids in known.items() for name in ids}
    ended = {"litellm_provider": "bedrock_converse", "deprecation_date": "2020-01-31"}
    table["anthropic.claude-9-1-sonnet-gone"] = ended
    (folder / "litellm" / "model_prices_and_context_window_backup.json").write_text(json.dumps(table))
    return folder


def folders_in(path: Path) -> Folders:
    found = Folders(path / "config", path / "share", path / "state", path / "run", path / "bin")
    write_defaults(found)
    (found.config / "litellm.yaml").write_text(MAIN)
    return found


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return folders_in(tmp_path)


def change(folders: Folders, changes: tuple[Change, ...]) -> None:
    for name, old, new in changes:
        path = folders.config / name
        text = path.read_text() if path.exists() else ""
        assert old in text, f"the shipped {name} changed; this test has to follow"
        after = text.replace(old, new, 1) if old else new
        path.write_bytes(after.encode(errors="surrogateescape"))


def codes(found: list[Finding]) -> set[str]:
    return {finding.code for finding in found}


def test_the_shipped_files_pass_without_a_word(folders: Folders, site: Path) -> None:
    assert check(folders, load(folders, {}), site) == []


@pytest.mark.parametrize(
    ("code", "severity", "file", "changes"), BROKEN, ids=[f"{n}-{b[0]}" for n, b in enumerate(BROKEN)]
)
def test_a_broken_file_is_explained(
    folders: Folders, site: Path, code: str, severity: str, file: str, changes: tuple[Change, ...]
) -> None:
    change(folders, changes)
    settings_ = load(folders, {})
    found = [f for f in check(folders, settings_, site) if f.code == code and Path(f.file).name == file]
    assert found, codes(check(folders, settings_, site))
    assert {f.severity for f in found} == {severity}
    for finding in found:
        assert finding.what and not finding.what.endswith(".")
        assert "hush" not in finding.sentence() and STRONG not in finding.sentence()
        assert finding.fixable == bool(finding.edits)
        json.dumps(finding.as_dict())


@pytest.mark.parametrize(
    ("code", "severity", "file", "changes"), BROKEN, ids=[f"{n}-{b[0]}" for n, b in enumerate(BROKEN)]
)
def test_what_is_mechanical_is_fixed_and_the_rest_left_alone(
    folders: Folders, site: Path, code: str, severity: str, file: str, changes: tuple[Change, ...]
) -> None:
    change(folders, changes)
    settings_ = load(folders, {})
    before = check(folders, settings_, site)
    comments = {
        p.name: re.findall(r"#.*", p.read_text(errors="replace")) for p in folders.config.glob("*.yaml")
    }
    mended = fix_all(folders, settings_, site)
    for path, text in mended.items():
        path.write_text(text)
        assert [c for c in comments.get(path.name, []) if c not in text] == []
    after = check(folders, settings_, site)
    assert not [f for f in after if f.fixable], "what can be mended is mended"
    if all(f.fixable for f in before):
        assert after == []
    if not any(f.fixable for f in before):
        assert mended == {}
    if code not in codes([f for f in before if not f.fixable]):
        assert code not in codes(after)


def test_every_code_of_the_rules_has_a_broken_file_here() -> None:
    text = "".join(p.read_text() for p in Path(rules.__file__).parent.glob("*.py"))
    text += (Path(rules.__file__).parents[1] / "litellm_file.py").read_text()
    named = set(re.findall(r'"(?:error|warning|note)",\s*"([a-z0-9-]+)"', text))
    named |= set(re.findall(r'_refuse\(\s*\w+, "([a-z-]+)"', text)) - {"include-too-many", "file-missing"}
    named |= set(re.findall(r'else "warning",\s*"([a-z0-9-]+)"', text))
    assert len(named) > 40
    assert named - {b[0] for b in BROKEN} == {"open-to-all"}, "that one is no text in a file: see below"


@pytest.mark.parametrize("place", [".", "litellm.yaml", ".."])
def test_what_every_user_may_write_to_does_not_serve(folders: Folders, site: Path, place: str) -> None:
    opened = (folders.config / place).resolve()
    opened.chmod(0o777)
    (finding,) = [one for one in check(folders, load(folders, {}), site) if one.code == "open-to-all"]
    assert finding.severity == "error" and f"chmod o-w {opened}" in finding.fix
    opened.chmod(0o1777 if opened.is_dir() else 0o664)
    assert check(folders, load(folders, {}), site) == [], "in a sticky folder nobody can replace what is ours"


def test_a_finding_stands_on_the_line_it_speaks_of(folders: Folders, site: Path) -> None:
    change(folders, (main(OPUS, OPUS.replace("9-9", "9-9-20250514")),))
    (finding,) = check(folders, load(folders, {}), site)
    line = (folders.config / "litellm.yaml").read_text().splitlines()[(finding.line or 0) - 1]
    assert "20250514" in line and finding.key == "model_list[0].litellm_params.model"


def test_an_included_file_is_part_of_it_and_gets_its_own_lines(folders: Folders, site: Path) -> None:
    route = "  - model_name: extra\n    litellm_params:\n      model: anthropic/claude-opus-9-9-20250514\n"
    (folders.config / "more.yaml").write_text("# mine\nmodel_list:\n" + route)
    change(folders, (main("model_list:", "include: [more.yaml]\nmodel_list:"),))
    settings_ = load(folders, {})
    (finding,) = check(folders, settings_, site)
    assert (Path(finding.file).name, finding.line) == ("more.yaml", 5)
    text = fix(folders.config / "more.yaml", [finding])
    assert text == "# mine\nmodel_list:\n" + route.replace("-20250514", "")
    assert fix(folders.config / "litellm.yaml", [finding]) == (folders.config / "litellm.yaml").read_text()


def test_a_fix_changes_nothing_but_its_place(folders: Folders, site: Path) -> None:
    odd = "  master_key:   'sk-1234'   # mine: keep\r\n"
    change(folders, (main(MAIN_KEY, odd),))
    path = folders.config / "litellm.yaml"
    before = path.read_bytes().decode()
    after = fix(path, check(folders, load(folders, {}), site))
    assert after == before.replace("'sk-1234'", "os.environ/OCD_MAIN_KEY")


def test_what_stands_behind_an_anchor_is_left_alone(folders: Folders, site: Path) -> None:
    named = "name: claude-opus-9-9\n    litellm_params:"
    change(folders, (main(f"{named}\n", f"{named} &p\n"),
                     main("    litellm_params:\n" + SONNET, "    litellm_params: *p\n"),
                     main(OPUS, OPUS + "      modify: 1\n      api_key: sk-x\n")))  # fmt: skip
    path = folders.config / "litellm.yaml"
    after = fix(path, check(folders, load(folders, {}), site))
    assert after.count("api_key: sk-x") <= 1 and "*p" in after


@pytest.mark.parametrize(
    "flow", ["{model: claude-opus-9-9, api_base: 'https://api.anthropic.com/v1'}", "{model: x/y}"]
)
def test_braces_are_mended_too(folders: Folders, site: Path, flow: str) -> None:
    text = f"model_list: [{{model_name: '*', litellm_params: {flow}}}]\ngeneral_settings: {{}}\n"
    (folders.config / "litellm.yaml").write_text(text)
    settings_ = load(folders, {})
    for path, mended in fix_all(folders, settings_, site).items():
        path.write_text(mended)
    assert check(folders, settings_, site) == []


def test_without_a_litellm_environment_the_rest_is_checked(folders: Folders) -> None:
    change(folders, (main(OPUS, OPUS.replace("9-9", "9-9-20250514")), main(MAIN_KEY, "")))
    assert codes(check(folders, load(folders, {}), None)) == {"master-key-missing"}


def test_a_mistake_in_ocd_toml_is_told_alone(folders: Folders) -> None:
    (folders.config / "ocd.toml").write_text("prot = 1\n")
    assert codes(check_all(folders, {})) == {"setting-unknown"}


def test_a_plain_working_litellm_file_has_no_errors(folders: Folders, site: Path) -> None:
    (folders.config / "litellm.yaml").write_text(
        "model_list:\n"
        "- {model_name: '*', litellm_params: {model: anthropic/*}}\n"
        "- {model_name: local, litellm_params: {model: ollama/llama3, api_base: 'http://localhost:11434'}}\n"
        "- {model_name: gpt, litellm_params: {model: openai/gpt-x, api_base: 'http://localhost:1234/v1'}}\n"
        "litellm_settings: {success_callback: [langfuse], callbacks: [prometheus], cache: yes}\n"
        "router_settings: {routing_strategy: simple-shuffle, fallbacks: [{'*': [local]}]}\n"
        "general_settings: {master_key: os.environ/OCD_MAIN_KEY}\n"
        "my_own_section: 1\n"
    )
    assert not [f for f in check(folders, load(folders, {}), site) if f.severity == "error"]


# --- the seeds


def seeded(folders: Folders, first: str, second: str | None) -> None:
    (folders.config / "litellm.yaml").write_text((SEEDS / first).read_text())
    if second:
        (folders.config / "litellm-bedrock.yaml").write_text((SEEDS / second).read_text())


SEEDED = {
    "mixed": ("mixed.yaml", None, {"master-key-missing", "model-id-dated", "bedrock-route-in-main",
                                   "forwarding-misplaced"}, set()),
    "dual": ("dual-main.yaml", "dual-bedrock.yaml",
             {"master-key-weak", "api-base-v1", "hop-without-key", "drop-params-missing", "forwarding-misplaced",
              "hop-not-chat-completions"}, {"streaming-permission"}),
    "bedrock-opus": ("bedrock-opus.yaml", None, {"bedrock-route-in-main", "master-key-missing",
                                                 "slot-without-route", "variable-not-set"}, set()),
    "fallback": ("fallback.yaml", None, {"callbacks-not-a-list", "callback-not-found", "bedrock-route-in-main",
                                         "fallback-bills"}, {"callback-not-found", "fallback-bills", "not-piped"}),
}  # fmt: skip


@pytest.mark.parametrize("name", SEEDED)
def test_the_seeds_configurations_are_explained_and_fixed(folders: Folders, site: Path, name: str) -> None:
    first, second, expected, left = SEEDED[name]
    seeded(folders, first, second)
    settings_ = load(folders, {})
    assert expected <= codes(check(folders, settings_, site))
    for path, text in fix_all(folders, settings_, site).items():
        path.write_text(text)
    assert codes(check(folders, settings_, site)) == left


def test_the_seeds_callback_is_found_out_and_without_it_nothing_is_left(folders: Folders, site: Path) -> None:
    seeded(folders, "fallback.yaml", None)
    (folders.config / "oauth_passthrough.py").write_text(
        "class Handler:\n    async def async_pre_call_hook(self, user, cache, data, kind):\n"
        "        data['api_key'] = user.metadata['raw_token']\n        return data\n\n"
        "proxy_handler_instance = Handler()\n"
    )
    (folders.config / "custom_auth.py").write_text("async def user_api_key_auth(request, api_key): ...\n")
    found = [f for f in check(folders, load(folders, {}), site) if f.code.startswith("callback-")]
    assert [(f.code, f.severity, f.line) for f in found] == [("callback-sets-api-key", "error", 3)]


# --- hostile input

PIECES = [line + "\n" for line in (MAIN + BEDROCK).splitlines() if line.strip()] + [
    "*a: &a\n", "  <<: *a\n", "- [\n", "? x\n", "model_list: {}\n", "include: [litellm.yaml, '.', '/', \"\\0\"]\n",
    "include: litellm.yaml\n", "router_settings:\n  fallbacks: [{1: 2}, {a: {b: c}}, 3]\n", "\t\n", "%TAG ! x\n",
    "litellm_settings: {callbacks: [hook.x, ..., a.b.c, 'x' , 3], success_callback: {a: b}}\n", "--- |\n", "\x85\n",
    "  - model_name: [1]\n    litellm_params: {model: {}}\n", "  - model_name: x\n    litellm_params: {model: '/'}\n",
    "    litellm_params: {model: bedrock/x, api_base: 'http://[', api_key: 7}\n", "general_settings: {1: 2, ~: 3}\n",
    "general_settings: {pass_through_endpoints: [{forward_headers: 1, target: [x]}, 3]}\n", "!!set {a, b}\n",
    "  - {model_name: q, litellm_params: {model: 'openai/q', api_base: 'http://localhost:99999', base_url: 3}}\n",
]  # fmt: skip


def mutated(draw: Callable[[st.SearchStrategy[object]], object], text: str) -> str:
    lines = text.splitlines(keepends=True)
    for _ in range(draw(st.integers(0, 6))):  # type: ignore[call-overload]
        at = draw(st.integers(0, len(lines)))
        match draw(st.integers(0, 4)):
            case 0:
                del lines[at : at + 1]  # type: ignore[misc, operator]
            case 1:
                lines.insert(at, draw(st.sampled_from(PIECES)))  # type: ignore[arg-type]
            case 2:
                lines[at : at + 1] = [line + draw(st.text(max_size=4)) for line in lines[at : at + 1]]  # type: ignore
            case 3:
                lines[at : at + 1] = [line[draw(st.integers(0, 5)) :] for line in lines[at : at + 1]]  # type: ignore
            case _:
                other = draw(st.integers(0, len(lines)))
                lines[at:at] = lines[other : other + 3]  # type: ignore[misc, operator]
    return "".join(lines)


@st.composite
def configurations(draw: Callable[[st.SearchStrategy[object]], object]) -> tuple[str, str]:
    texts = [MAIN, *[(SEEDS / n).read_text() for n in ("mixed.yaml", "dual-main.yaml", "fallback.yaml")]]
    first = mutated(draw, draw(st.sampled_from(texts)))  # type: ignore[arg-type]
    return first, mutated(draw, BEDROCK)


@pytest.mark.slow
@settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
@given(configurations())
def test_mutated_configurations_end_in_findings(folders: Folders, site: Path, texts: tuple[str, str]) -> None:
    for name, text in zip(("litellm.yaml", "litellm-bedrock.yaml"), texts, strict=True):
        (folders.config / name).write_bytes(text.encode(errors="surrogatepass"))
    settings_ = load(folders, {})
    found = check(folders, settings_, site)
    assert "check-failed" not in codes(found), found
    for path, text in fix_all(folders, settings_, site, rounds=1).items():
        assert text != path.read_text()


def run_check(folders: Folders) -> tuple[int, list[dict[str, object]]]:
    environ = {"OCD_PREFIX": str(folders.config.parent), "PATH": os.environ["PATH"]}
    command = [sys.executable, "-m", "ocd.stack.check", "--json"]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, env=environ, cwd=root, capture_output=True, timeout=120, check=False)
    assert done.stderr == b""
    return done.returncode, json.loads(done.stdout)


def test_as_a_program_it_says_the_same_and_the_exit_code_tells(folders: Folders) -> None:
    assert run_check(folders) == (0, [])
    (folders.config / "litellm.yaml").write_text("a: [")
    code, found = run_check(folders)
    assert code == 78 and found[0]["code"] == "yaml-syntax" and found[0]["line"] == 1


def test_an_anchor_bomb_ends_in_a_finding(folders: Folders) -> None:
    levels = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30))
    (folders.config / "litellm.yaml").write_text("a0: &a0 [x, x]\n" + levels)
    code, found = run_check(folders)
    assert code == 78 and "yaml-too-much" in {f["code"] for f in found}
