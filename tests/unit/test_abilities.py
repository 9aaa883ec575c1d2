"""What each model can do: from LiteLLM's table, and from the user's model_info, which wins."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ocd.guest.layers.requests import Facts
from ocd.settings.folders import Folders
from ocd.settings.load import load
from ocd.stack.abilities import EFFORTS, FILE, bare_id, contract, efforts_of, family_of
from ocd.stack.defaults import write_defaults
from ocd.stack.examine import examine
from ocd.stack.litellm_file import load_litellm
from ocd.stack.models import load_table
from ocd.supervisor import spec

TABLE: dict[str, Any] = {
    "qwen.qwen3-next": {
        "max_input_tokens": 256000,
        "max_output_tokens": 8000,
        "supports_function_calling": True,
    },
    "anthropic.claude-haiku": {
        "max_output_tokens": 64000,
        "supports_prompt_caching": True,
        "supports_reasoning": True,
        "supports_vision": True,
        "supports_pdf_input": True,
    },
    "us.amazon.nova-pro": {
        "max_output_tokens": 10000,
        "supports_prompt_caching": True,
        "supports_vision": True,
    },
    "openai.gpt-oss-120b-1:0": {"max_output_tokens": 16384, "supports_reasoning": True},
    "moonshotai.kimi": {"supports_prompt_caching": True, "supports_prompt_cache_breakpoint": False},
    "deepseek.r1-v1:0": {"supports_reasoning": True, "supports_function_calling": False},
    "meta.llama4-scout": {"max_output_tokens": 8192},
}


def facts(tmp_path: Path, *rows: str, more: str = "", table: dict[str, Any] = TABLE) -> dict[str, Any]:
    path = tmp_path / "bedrock.yaml"
    path.write_text("model_list:\n" + "".join(f"  - {row}\n" for row in rows) + more)
    return contract(load_litellm(path), table)


def one(tmp_path: Path, model: str, info: str = "{}", table: dict[str, Any] = TABLE) -> Facts:
    row = f'{{model_name: g, litellm_params: {{model: "{model}"}}, model_info: {info}}}'
    return Facts.of(facts(tmp_path, row, table=table)["groups"]["g"])


def test_a_model_is_what_its_table_says(tmp_path: Path) -> None:
    qwen = one(tmp_path, "bedrock/converse/qwen.qwen3-next")
    assert (qwen.family, qwen.max_output_tokens, qwen.caching, qwen.thinking) == ("qwen", 8000, False, "")
    assert not qwen.vision and not qwen.documents and qwen.tools and not qwen.stop_sequences
    claude = one(tmp_path, "bedrock/us-east-1/us.anthropic.claude-haiku")
    assert (claude.family, claude.caching, claude.thinking) == ("claude", True, "claude")
    assert claude.vision and claude.documents
    nova = one(tmp_path, "bedrock/us.amazon.nova-pro")
    assert (nova.family, nova.caching, nova.vision) == ("nova", False, True), "LiteLLM drops its marks"
    nova = one(tmp_path, "bedrock/converse/arn:aws:bedrock:us-west-2::foundation-model/us.amazon.nova-pro")
    assert (nova.family, nova.caching, nova.max_output_tokens, nova.thinking) == ("nova", True, 10000, "")
    gpt = one(tmp_path, "bedrock/converse/openai.gpt-oss-120b-1:0")
    assert gpt.thinking == "effort" and not gpt.stop_sequences
    assert one(tmp_path, "bedrock/moonshotai.kimi").caching is False
    deepseek = one(tmp_path, "bedrock/us.deepseek.r1-v1:0")
    assert deepseek.thinking == "" and not deepseek.tools
    assert one(tmp_path, "bedrock/meta.llama4-scout").vision, "the table has a gap"


def test_the_users_own_word_wins(tmp_path: Path) -> None:
    found = one(tmp_path, "bedrock/qwen.qwen3-next", "{max_output_tokens: 99, supports_vision: true}")
    assert (found.max_output_tokens, found.vision) == (99, True)
    assert not one(tmp_path, "bedrock/anthropic.claude-haiku", "{supports_prompt_caching: false}").caching
    assert one(tmp_path, "bedrock/anthropic.claude-new", "{supports_prompt_caching: true}").caching
    assert one(tmp_path, "bedrock/anthropic.claude-haiku", "{supports_reasoning: false}").thinking == ""
    assert one(tmp_path, "bedrock/arn:aws:x", "{base_model: bedrock/qwen.qwen3-next}").family == "qwen"
    assert not one(tmp_path, "bedrock/qwen.qwen3-next", "{supports_function_calling: false}").tools


def test_a_model_that_nobody_knows_is_asked(tmp_path: Path) -> None:
    found = one(tmp_path, "bedrock/newmaker.model-9")
    assert (found.family, found.max_output_tokens, found.caching, found.thinking) == ("", None, False, "")
    assert found.vision and found.documents and found.tools and not found.stop_sequences
    arn = "bedrock/arn:aws:bedrock:us-east-1:111122223333:application-inference-profile/abc"
    assert one(tmp_path, arn).family == "claude" and one(tmp_path, arn).caching


@pytest.mark.parametrize(
    ("model", "takes"),
    [
        ("us.anthropic.claude-haiku", True),
        ("us.amazon.nova-pro", True),
        ("meta.llama4-scout", True),
        ("mistral.mistral-large-3", True),
        ("us.deepseek.r1-v1:0", True),
        ("deepseek.v3-v1:0", False),
        ("deepseek.v3.2", False),
        ("qwen.qwen3-coder-480b-a35b-v1:0", False),
        ("openai.gpt-oss-20b-1:0", False),
        ("us.openai.gpt-6-sol", False),
        ("moonshotai.kimi-k3", False),
        ("zai.glm-5", False),
    ],
)
def test_stop_sequences_go_where_they_are_known_to_be_taken(tmp_path: Path, model: str, takes: bool) -> None:
    assert one(tmp_path, f"bedrock/converse/{model}").stop_sequences is takes
    said = "{supports_stop_sequences: " + str(not takes).lower() + "}"
    assert one(tmp_path, f"bedrock/converse/{model}", said).stop_sequences is not takes


def test_who_is_asked_to_think_by_an_effort(tmp_path: Path) -> None:
    names = ("openai.gpt-6-sol", "deepseek.v3.2", "qwen.qwen3-32b", "zai.glm-5", "amazon.nova-2-lite-v1:0")
    table = {name: {"supports_reasoning": True} for name in names}
    found = {name: one(tmp_path, f"bedrock/{name}", table=table).thinking for name in table}
    efforts = [name for name, how in found.items() if how == "effort"]
    assert efforts == ["openai.gpt-6-sol", "deepseek.v3.2", "amazon.nova-2-lite-v1:0"]
    arn = "arn:aws:bedrock:us-west-2::foundation-model/amazon.nova-2-lite-v1:0"
    assert one(tmp_path, f"bedrock/converse/{arn}", table=table).thinking == ""


def test_an_older_litellm_is_asked_for_no_effort_that_it_gives_in_claudes_form(tmp_path: Path) -> None:
    source = tmp_path / "litellm/llms/bedrock/chat/converse_transformation.py"
    source.parent.mkdir(parents=True)
    source.write_text('if "gpt-oss" in model: pass\nelif self._is_nova_2_model(model): pass\n')
    known = efforts_of(tmp_path)
    assert known == {"gpt-oss", "nova"} and efforts_of(None) == efforts_of(tmp_path / "nothing") == EFFORTS
    path = tmp_path / "bedrock.yaml"
    path.write_text("model_list: [{model_name: g, litellm_params: {model: bedrock/deepseek.v3.2}}]\n")
    table = {"deepseek.v3.2": {"supports_reasoning": True}}
    for efforts, how in ((known, ""), (EFFORTS, "effort")):
        assert contract(load_litellm(path), table, efforts)["groups"]["g"]["thinking"] == how


def test_a_group_can_do_what_all_its_deployments_can(tmp_path: Path) -> None:
    rows = [f"{{model_name: g, litellm_params: {{model: bedrock/{name}}}}}" for name in TABLE]
    found = Facts.of(facts(tmp_path, *rows)["groups"]["g"])
    assert found.max_output_tokens == 8000 and not found.vision and not found.tools
    assert (found.family, found.caching, found.thinking) == ("", False, "")


def test_names_and_who_wants_to_see_answers(tmp_path: Path) -> None:
    row = "{model_name: g, litellm_params: {model: bedrock/qwen.qwen3-next}}"
    found = facts(
        tmp_path, row, more="router_settings: {model_group_alias: {h: g, i: {model: g}, k: missing}}\n"
    )
    assert set(found["groups"]) == {"g", "h", "i"} and not found["open"] and found["direct"]
    star = '{model_name: "b/*", litellm_params: {model: "bedrock/*"}}'
    assert facts(tmp_path, row, star)["open"] and set(facts(tmp_path, row, star)["groups"]) == {"g"}
    assert facts(tmp_path, row, more="general_settings: {store_model_in_db: true}\n")["open"]
    assert facts(tmp_path, row, more="litellm_settings: {success_callback: [langfuse]}\n")["direct"]
    for more in (
        "litellm_settings: {callbacks: [x.y]}",
        "guardrails: [{guardrail_name: x}]",
        "litellm_settings: {cache: true}",
    ):
        assert not facts(tmp_path, row, more=more + "\n")["direct"]


@pytest.mark.parametrize(
    ("model", "bare", "family"),
    [
        ("bedrock/converse/us.anthropic.claude-x", "us.anthropic.claude-x", "claude"),
        ("bedrock/us-gov-west-1/anthropic.claude-x", "anthropic.claude-x", "claude"),
        ("converse/global.amazon.nova-2-lite-v1:0", "global.amazon.nova-2-lite-v1:0", "nova"),
        ("bedrock/invoke/mistral.large", "mistral.large", "mistral"),
        ("openai/gpt", "openai/gpt", ""),
    ],
)
def test_ids(model: str, bare: str, family: str) -> None:
    assert (bare_id(model), family_of(bare)) == (bare, family)


def test_whatever_stands_in_the_file(tmp_path: Path) -> None:
    found = facts(
        tmp_path,
        "{model_name: g, litellm_params: {model: x}, model_info: [1]}",
        "7",
        more="router_settings: 1\n",
    )
    assert set(found["groups"]) == {"g"}
    assert (
        contract(load_litellm(tmp_path / "bedrock.yaml"), {"x": 1})["groups"]["g"]["max_output_tokens"]
        is None
    )


def test_the_facts_are_part_of_the_revision_and_of_the_boot_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    folders = Folders(
        tmp_path / "config", tmp_path / "share", tmp_path / "state", tmp_path / "run", tmp_path / "bin"
    )
    write_defaults(folders)
    site = tmp_path / "site"
    table = site / "litellm" / "model_prices_and_context_window_backup.json"
    table.parent.mkdir(parents=True)

    def revision(limit: int) -> dict[str, str]:
        table.write_text(json.dumps({"qwen.qwen3-next-80b-a3b": {"max_output_tokens": limit}}))
        assert load_table(site)
        return dict(examine(folders, load(folders, {}), site)["revisions"]["bedrock"])

    first, same, other = revision(8000), revision(8000), revision(9000)
    assert first == same and first["id"] != other["id"]
    config = Path(other["config"])
    told = spec.contract(config)
    assert told["direct"] and [one["max_output_tokens"] for one in told["groups"].values()] == [9000]
    (config.parent / FILE).unlink()
    assert spec.contract(config) == {"groups": {}, "open": True, "direct": False}
