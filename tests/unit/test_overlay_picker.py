"""The picker tells the truth: slots as they are routed, groups by their names, windows; and nothing is frozen."""

import pytest

from ocd.claude.overlay import Slots, build
from ocd.settings.schema import Settings
from ocd.stack import picker
from ocd.stack.litellm_file import load_litellm
from ocd.stack.stack import Stack
from ocd.wire.messages import LaunchRequest

TABLE = {
    "claude-haiku-9": {"max_input_tokens": 200000},
    "claude-haiku-10-5": {"max_input_tokens": 200000},
    "claude-haiku-3": {"max_input_tokens": 900000},
    "claude-haiku-9-20990101": {"max_input_tokens": 1},
    "qwen.qwen3-next-80b-a3b": {"max_input_tokens": 262144, "supports_function_calling": True},
    "us.anthropic.claude-opus-4-6-v1": {"max_input_tokens": 1000000},
    "gpt-small": {"max_input_tokens": 128000},
}
MAIN = """
model_list:
  - {model_name: "claude-*", litellm_params: {model: "anthropic/claude-*"}}
  - model_name: qwen-3-coder
    litellm_params: {model: openai/qwen-3-coder, api_key: os.environ/OCD_BEDROCK_KEY}
  - model_name: bedrock-opus
    litellm_params: {model: openai/bedrock-opus, api_key: os.environ/OCD_BEDROCK_KEY}
  - model_name: mine
    litellm_params: {model: openai/gpt-small, api_base: "http://gpu.example:8000/v1", api_key: x}
    model_info: {display_name: "The office's model", max_input_tokens: 32768}
  - model_name: lost
    litellm_params: {model: openai/lost, api_key: os.environ/OCD_BEDROCK_KEY}
"""
BEDROCK = """
model_list:
  - {model_name: qwen-3-coder, litellm_params: {model: bedrock/converse/qwen.qwen3-next-80b-a3b}}
  - {model_name: bedrock-opus, litellm_params: {model: bedrock/converse/us.anthropic.claude-opus-4-6-v1}}
"""


@pytest.fixture
def rows(tmp_path):
    for name, text in (("litellm.yaml", MAIN), ("litellm-bedrock.yaml", BEDROCK)):
        (tmp_path / name).write_text(text)
    main, bedrock = (load_litellm(tmp_path / name) for name in ("litellm.yaml", "litellm-bedrock.yaml"))
    return picker.rows(Stack(Settings(), main, bedrock, tmp_path / "ocd.toml", None, None), TABLE)


def overlay(rows, *, slots=None, user=None, env=None, auth="plan"):
    return build(
        LaunchRequest(pid=1, cwd="/", env=env or {}),
        user_settings=user or {},
        extra_settings=None,
        managed={},
        slots=slots or Slots("", "", "qwen-3-coder"),
        base_url="http://127.0.0.1:4000",
        key="k",
        auth=auth,
        known_models=["claude-*", "qwen-3-coder", "bedrock-opus", "mine"],
        rows=rows,
    ).settings


def test_a_row_for_each_group_that_leads_somewhere(rows):
    assert [(row["model"], row["label"], row["description"], row["window"], row["like"]) for row in rows] == [
        ("qwen-3-coder", "Qwen3 Next 80B A3B", "Bedrock, your AWS account, 262k", 262144, "claude-haiku-9"),
        ("bedrock-opus", "Claude Opus 4.6", "Bedrock, your AWS account, 1M", 1000000, "claude-opus-4-6"),
        ("mine", "The office's model", "gpu.example:8000, 32k", 32768, ""),
    ]


@pytest.mark.parametrize(
    ("model", "title"),
    [
        ("bedrock/converse/us.amazon.nova-pro-v1:0", "Nova Pro"),
        ("anthropic/claude-sonnet-4-5-20250929", "Claude Sonnet 4.5"),
        ("bedrock/us.meta.llama4-maverick-17b-instruct-v1:0", "Llama4 Maverick 17B Instruct"),
        ("openai/gpt-oss-120b", "Gpt Oss 120B"),
        ("", ""),
    ],
)
def test_names_that_a_person_reads(model, title):
    assert picker.title(model) == title


def test_the_slots_as_they_are_routed(rows):
    made = overlay(rows)["modelPicker"]
    assert made["replaceBuiltInOptions"] is True
    slots = {one["model"]: one for one in made["options"][:4]}
    assert list(slots) == ["opus", "fable", "sonnet", "haiku"]
    assert slots["haiku"]["label"] == "Haiku: Qwen3 Next 80B A3B"
    assert slots["haiku"]["description"] == "Bedrock, your AWS account, 262k"
    # What Claude Code chooses may be another tomorrow: no version stands in its row.
    for slot in ("opus", "fable", "sonnet"):
        assert not any(letter.isdigit() for letter in slots[slot]["label"] + slots[slot]["description"])
        assert "your plan" in slots[slot]["description"] and "behavesAs" not in slots[slot]
    assert [one["model"] for one in made["options"][4:]] == ["qwen-3-coder", "bedrock-opus", "mine"]


def test_a_model_is_taken_for_one_that_has_no_larger_window(rows):
    known = {one["model"]: one.get("behavesAs") for one in overlay(rows)["modelPicker"]["options"][4:]}
    assert known == {"qwen-3-coder": "claude-haiku-9", "bedrock-opus": "claude-opus-4-6", "mine": None}
    env = overlay(rows)["env"]
    assert env["CLAUDE_CODE_MAX_CONTEXT_TOKENS"] == "32768", "the smallest holds for all that are not known"
    assert (
        "mine=" in env["CLAUDE_CODE_MODEL_CAPABILITIES"]
        and "qwen" not in env["CLAUDE_CODE_MODEL_CAPABILITIES"]
    )


def test_the_users_own_window_stays(rows):
    own = overlay(rows, user={"env": {"CLAUDE_CODE_MAX_CONTEXT_TOKENS": 9000}})["env"]
    assert "CLAUDE_CODE_MAX_CONTEXT_TOKENS" not in own
    unknown = [{**rows[0], "window": None}]
    assert "CLAUDE_CODE_MAX_CONTEXT_TOKENS" not in overlay(unknown)["env"]


def test_no_slot_is_pinned_claude_codes_own_picker_stays(rows):
    made = overlay(rows, slots=Slots("", "", ""))["modelPicker"]
    assert "replaceBuiltInOptions" not in made and len(made["options"]) == 3
    assert "modelPicker" not in overlay([])


def test_a_pinned_claude_is_named(rows):
    options = overlay(rows, slots=Slots("bedrock-opus", "claude-sonnet-9", ""))["modelPicker"]["options"]
    by_slot = {one["model"]: one for one in options}
    assert by_slot["opus"]["label"] == "Opus: Claude Opus 4.6"
    assert by_slot["sonnet"]["label"] == "Sonnet: claude-sonnet-9"


def test_the_users_own_picker_stays(rows):
    own = {"options": [{"model": "mine", "label": "M"}], "replaceBuiltInOptions": True}
    made = overlay(rows, user={"modelPicker": own})["modelPicker"]
    assert made["options"][0] == own["options"][0] and made["replaceBuiltInOptions"] is True
    assert [one["model"] for one in made["options"]] == ["mine", "qwen-3-coder", "bedrock-opus"]


def test_the_plainest_model_is_the_tables_own():
    assert picker.plainest(200000, TABLE) == "claude-haiku-9"
    assert picker.plainest(1000000, TABLE) == "claude-haiku-3"
    assert picker.plainest(128000, TABLE) == picker.plainest(None, TABLE) == picker.plainest(200000, {}) == ""


def test_what_the_file_says_fits_on_a_line():
    assert picker.tokens(262144) == "262k" and picker.tokens(1_000_000) == "1M" and picker.tokens(None) == ""
    assert picker._shown("a\x1b[31m\nb" + "c" * 200) == "a [31m b" + "c" * 72
