"""The overlay: what is set, emptied, merged and refused. Pure, so nothing is mocked."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocd.claude.overlay import EMPTIED, NOT_CAPABLE, PINS, Slots, build
from ocd.client import __main__ as client
from ocd.errors import OcdError
from ocd.wire.messages import LaunchRequest

URL = "http://127.0.0.1:4000"
KEY = "sk-canary-key-71"
SLOTS = Slots("claude-opus-9-9", "claude-sonnet-9-9", "qwen-3-coder")
KNOWN = ["claude-opus-9-9", "claude-sonnet-9-9", "qwen-3-coder", "bedrock-opus"]


def overlay(
    *, env=None, models=None, user=None, extra=None, managed=None, auth="plan", known=KNOWN, slots=SLOTS
):
    request = LaunchRequest(pid=1, cwd="/", env=env or {}, models=models or {})
    return build(
        request,
        user_settings=user or {},
        extra_settings=extra,
        managed=managed or {},
        slots=slots,
        base_url=URL,
        key=KEY,
        auth=auth,
        known_models=known,
    )


def env_of(**given_):
    return overlay(**given_).settings["env"]


def test_the_plain_session():
    made = overlay(known=KNOWN[:3])
    env = made.settings["env"]
    assert {name: value for name, value in env.items() if value} == {
        "ANTHROPIC_BASE_URL": URL,
        "ANTHROPIC_CUSTOM_HEADERS": f"x-litellm-api-key: Bearer {KEY}",
        "ANTHROPIC_DEFAULT_OPUS_MODEL": "claude-opus-9-9",
        "ANTHROPIC_DEFAULT_SONNET_MODEL": "claude-sonnet-9-9",
        "ANTHROPIC_DEFAULT_HAIKU_MODEL": "qwen-3-coder",
        "ANTHROPIC_SMALL_FAST_MODEL": "qwen-3-coder",
        "CLAUDE_CODE_MODEL_CAPABILITIES": "qwen-3-coder=-adaptive_thinking,-effort,-max_effort,"
        "-mid_conv_system,-mid_conv_tool_change,-context_management,-tool_loaded_text",
        "ENABLE_TOOL_SEARCH": "false",
        "NO_PROXY": "127.0.0.1,localhost,::1",
        "no_proxy": "127.0.0.1,localhost,::1",
        "API_TIMEOUT_MS": "600000",
        "API_FORCE_IDLE_TIMEOUT": "0",
    }
    assert {name for name, value in env.items() if value == ""} == {
        "ANTHROPIC_API_KEY",
        "ANTHROPIC_AUTH_TOKEN",
        "ANTHROPIC_MODEL",
        "ANTHROPIC_UNIX_SOCKET",
        "CLAUDE_CODE_SUBAGENT_MODEL",
        *(
            f"CLAUDE_CODE_USE_{name}"
            for name in (
                [
                    "BEDROCK",
                    "VERTEX",
                    "FOUNDRY",
                    "MANTLE",
                    "ANTHROPIC_AWS",
                    "ANTHROPIC_GOOGLE_CLOUD",
                    "GATEWAY",
                ]
            )
        ),
    }
    assert {key: value for key, value in made.settings.items() if key != "env"} == {
        "apiKeyHelper": "",
    }
    assert set(EMPTIED) < set(made.unset)
    assert "ANTHROPIC_BASE_URL" in made.unset
    assert made.set == {"NO_PROXY": "127.0.0.1,localhost,::1", "no_proxy": "127.0.0.1,localhost,::1"}
    assert made.notices == [] and made.args == []


def test_the_key_is_in_no_printed_form():
    assert KEY not in repr(overlay())


def test_the_client_names_every_variable_that_is_set_aside():
    named = {name.decode() for name in client._NAME_ONLY}
    valued = {name.decode() for name in client._WITH_VALUE}
    pins = {name for names in PINS.values() for name in names}
    # a model's name is no secret, and whether main has a route for it decides
    assert named | pins == set(overlay(slots=Slots("a", "b", "c", "d"), known=[]).unset)
    assert pins <= valued and not valued & named


def test_headers_are_merged_by_name_and_ours_cannot_be_replaced():
    made = overlay(
        env={"ANTHROPIC_CUSTOM_HEADERS": "X-Shell: 1\nx-team: shell\r\nno colon\n: empty"},
        user={
            "env": {
                "ANTHROPIC_CUSTOM_HEADERS": "x-team: f\nX-LiteLLM-API-Key: Bearer 2\nAuthorization: Bearer s3"
            }
        },
        extra={"env": {"ANTHROPIC_CUSTOM_HEADERS": "X-Extra: a: b"}},
    )
    assert made.settings["env"]["ANTHROPIC_CUSTOM_HEADERS"].split("\n") == [
        "X-Extra: a: b",
        "x-team: f",
        "X-Shell: 1",
        f"x-litellm-api-key: Bearer {KEY}",
    ]
    assert len(made.notices) == 1 and "Authorization" in made.notices[0] and "s3" not in made.notices[0]


def test_the_users_own_settings_option_is_merged_and_not_changed():
    extra = {
        "env": {"MY": "1", "ANTHROPIC_BASE_URL": "http://else"},
        "permissions": {"allow": ["x"]},
        "model": "haiku",
    }
    before = repr(extra)
    made = overlay(extra=extra | {"apiKeyHelper": "/bin/x", "statusLine": {"type": "command"}})
    assert made.settings["env"]["MY"] == "1"
    assert made.settings["env"]["ANTHROPIC_BASE_URL"] == URL
    assert made.settings["permissions"] == {"allow": ["x"]}
    assert made.settings["statusLine"] == {"type": "command"}
    assert made.settings["apiKeyHelper"] == ""
    assert made.settings["model"] == "haiku"
    assert repr(extra) == before
    assert "statusLine" not in overlay(user={"statusLine": {"type": "command"}}).settings


@pytest.mark.parametrize(
    ("wanted", "model", "notices"),
    [
        (None, None, 0),
        ("", None, 0),
        (7, None, 0),
        ("sonnet", None, 0),
        ("opusplan", None, 0),
        ("claude-opus-9-9", None, 0),
        ("qwen-3-coder", None, 0),
        ("arn:aws:bedrock:us-west-2:1:inference-profile/x", "opus", 1),
        ("us.anthropic.claude-opus-9-9", "opus", 1),
        ("anthropic.claude-v2", "opus", 1),
        ("opus[1m]", None, 0),
        ("claude-opus-9-9[1M]", None, 0),
        ("qwen-3-coder[1m]", "qwen-3-coder", 1),
        ("claude-opus-9-9-20250514", "opus", 1),
        ("litellm@bedrock-opus", "bedrock-opus", 0),
    ],
)
def test_the_model_of_the_users_settings(wanted, model, notices):
    made = overlay(user={} if wanted is None else {"model": wanted})
    assert made.settings.get("model") == model
    assert len(made.notices) == notices


def test_settings_option_decides_the_model_before_the_settings_file():
    assert overlay(user={"model": "arn:x"}, extra={"model": "sonnet"}).settings["model"] == "sonnet"
    assert overlay(user={"model": "sonnet"}, extra={"model": "arn:x"}).settings["model"] == "opus"


def test_proxies_spare_the_loopback():
    made = overlay(env={"NO_PROXY": ".corp, ::1"}, user={"env": {"no_proxy": "10.0.0.0/8"}})
    assert made.set["NO_PROXY"] == ".corp,::1,10.0.0.0/8,127.0.0.1,localhost"
    assert made.settings["env"]["no_proxy"] == made.set["no_proxy"] == made.set["NO_PROXY"]


@pytest.mark.parametrize(
    ("own", "used"),
    [("300000", "600000"), ("900000", "900000"), ("x", "600000"), ("", "600000"), ("1e99", "2147483647"),
     ("inf", "600000"), ("nan", "600000"), ("-1", "600000")],
)  # fmt: skip
def test_timeouts_are_raised_wherever_they_are_set(own, used):
    assert env_of(env={"API_TIMEOUT_MS": own})["API_TIMEOUT_MS"] == used
    assert env_of(user={"env": {"API_TIMEOUT_MS": own}})["API_TIMEOUT_MS"] == used
    assert env_of(extra={"env": {"API_TIMEOUT_MS": own}})["API_TIMEOUT_MS"] == used


def test_further_timeouts():
    raised = env_of(user={"env": {"CLAUDE_STREAM_IDLE_TIMEOUT_MS": 1000, "API_FORCE_IDLE_TIMEOUT": "1"}})
    assert raised["CLAUDE_STREAM_IDLE_TIMEOUT_MS"] == "300000"
    assert raised["API_FORCE_IDLE_TIMEOUT"] == "1"
    assert "CLAUDE_STREAM_IDLE_TIMEOUT_MS" not in env_of()


@pytest.mark.parametrize("prefix", ["litellm@", "ll@", ""])
def test_model_options(prefix):
    made = overlay(models={"model": f"{prefix}bedrock-opus", "haiku": f"{prefix}claude-opus-9-9"})
    assert made.args == ["--model", "bedrock-opus"]
    env = made.settings["env"]
    assert env["ANTHROPIC_DEFAULT_HAIKU_MODEL"] == env["ANTHROPIC_SMALL_FAST_MODEL"] == "claude-opus-9-9"
    assert env["ANTHROPIC_DEFAULT_SONNET_MODEL"] == "claude-sonnet-9-9"
    assert f"bedrock-opus={NOT_CAPABLE}" in env["CLAUDE_CODE_MODEL_CAPABILITIES"].split(";")


def test_default_provider():
    assert overlay(models={"default-provider": "litellm", "model": "sonnet"}).args == ["--model", "sonnet"]
    with pytest.raises(OcdError) as caught:
        overlay(models={"default-provider": "openrouter"})
    assert caught.value.exit_code == 64


@pytest.mark.parametrize("option", ["model", "opus", "sonnet", "haiku"])
def test_an_unknown_group_is_refused_with_the_nearest_names(option):
    with pytest.raises(OcdError) as caught:
        overlay(models={option: "litellm@qwen-coder"})
    assert caught.value.exit_code == 64
    assert "qwen-3-coder" in caught.value.sentence()


@pytest.mark.parametrize("name", ["", "litellm@", "ll@", "openrouter@qwen-3-coder"])
def test_no_name_or_another_provider(name):
    with pytest.raises(OcdError) as caught:
        overlay(models={"opus": name})
    assert caught.value.exit_code == 64


def test_wildcard_groups_and_unknown_groups():
    assert overlay(models={"model": "ll@claude-next"}, known=[*KNOWN, "claude-*"]).args == [
        "--model",
        "claude-next",
    ]
    assert overlay(models={"model": "ll@anything[1m]"}, known=[]).args == ["--model", "anything"]


def test_the_users_own_capabilities_stand_first():
    value = env_of(user={"env": {"CLAUDE_CODE_MODEL_CAPABILITIES": "x=-effort"}})[
        "CLAUDE_CODE_MODEL_CAPABILITIES"
    ]
    assert value.split(";")[:2] == ["x=-effort", f"qwen-3-coder={NOT_CAPABLE}"]


def test_api_key_instead_of_a_plan():
    made = overlay(auth="api-key", env={"ANTHROPIC_API_KEY": "", "ANTHROPIC_AUTH_TOKEN": ""})
    assert "ANTHROPIC_API_KEY" not in made.settings["env"]
    assert "ANTHROPIC_API_KEY" not in made.unset
    assert made.settings["env"]["ANTHROPIC_AUTH_TOKEN"] == ""
    assert made.notices == []
    assert "ANTHROPIC_API_KEY" in overlay(auth="api-key").notices[0]
    own = overlay(auth="api-key", extra={"env": {"ANTHROPIC_API_KEY": "sk-own"}})
    assert own.settings["env"]["ANTHROPIC_API_KEY"] == "sk-own" and own.notices == []


def test_conflicts_are_named_on_request_and_never_shown():
    given_ = {
        "user": {
            "env": {"ANTHROPIC_BASE_URL": "http://canary-url", "ANTHROPIC_MODEL": ""},
            "apiKeyHelper": "canary-cmd",
        },
        "extra": {"env": {"CLAUDE_CODE_USE_BEDROCK": True}},
    }
    assert overlay(**given_, env={"ANTHROPIC_API_KEY": ""}).notices == []
    for off in ("", "0"):
        assert overlay(**given_, env={"ANTHROPIC_API_KEY": "", "OPENCLAUDE_VERBOSE": off}).notices == []
    (line,) = overlay(**given_, env={"ANTHROPIC_API_KEY": "", "OPENCLAUDE_VERBOSE": "1"}).notices
    for part in (
        "ANTHROPIC_API_KEY (environment)",
        "ANTHROPIC_BASE_URL (settings.json)",
        "CLAUDE_CODE_USE_BEDROCK (--settings)",
        "apiKeyHelper (settings.json)",
    ):
        assert part in line
    assert "canary" not in line and "ANTHROPIC_MODEL" not in line
    assert overlay(env={"OPENCLAUDE_VERBOSE": "1"}).notices == []
    kept = overlay(auth="api-key", env={"OPENCLAUDE_VERBOSE": "1", "ANTHROPIC_API_KEY": ""})
    assert kept.notices == []


@pytest.mark.parametrize(
    ("env", "name"),
    [
        ({"ANTHROPIC_BASE_URL": "https://gateway.example"}, "env.ANTHROPIC_BASE_URL"),
        ({"ANTHROPIC_BASE_URL": ""}, "env.ANTHROPIC_BASE_URL"),
        ({"ANTHROPIC_CUSTOM_HEADERS": "X-A: b"}, "env.ANTHROPIC_CUSTOM_HEADERS"),
        ({"ANTHROPIC_UNIX_SOCKET": "/x"}, "env.ANTHROPIC_UNIX_SOCKET"),
        ({"CLAUDE_CODE_USE_BEDROCK": 1}, "env.CLAUDE_CODE_USE_BEDROCK"),
    ],
)
def test_managed_settings_that_defeat_the_session(env, name):
    with pytest.raises(OcdError) as caught:
        overlay(managed={"env": env})
    assert caught.value.exit_code == 78
    assert name in caught.value.sentence() and "gateway" not in caught.value.sentence()


def test_managed_settings_that_change_the_session_are_named():
    managed = {
        "env": {
            "ANTHROPIC_API_KEY": "canary",
            "ANTHROPIC_BASE_URL": f"{URL}/",
            "CLAUDE_CODE_USE_VERTEX": "0",
        },
        "apiKeyHelper": "canary",
        "model": "canary",
        "forceLoginMethod": "console",
        "permissions": {},
    }
    (line,) = overlay(managed=managed).notices
    assert line.endswith("in: env.ANTHROPIC_API_KEY, apiKeyHelper, model, forceLoginMethod")
    assert overlay(managed={"forceLoginMethod": "claudeai", "permissions": {}}).notices == []


_VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_ENV_NAME = st.sampled_from(
    [*EMPTIED, "ANTHROPIC_BASE_URL", "ANTHROPIC_CUSTOM_HEADERS", "API_TIMEOUT_MS", "NO_PROXY"]
)
_SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "env": st.dictionaries(_ENV_NAME | st.text(max_size=5), _VALUE),
        "model": _VALUE,
        "hooks": _VALUE,
    },
)


@given(_SETTINGS, _SETTINGS)
def test_no_settings_of_the_user_defeat_the_overlay(user, extra):
    try:
        env = env_of(user=user, extra=extra)
    except OcdError as error:
        assert error.exit_code == 64  # a model "litellm@…" that is unknown
        return
    assert env["ANTHROPIC_BASE_URL"] == URL
    assert env["ANTHROPIC_CUSTOM_HEADERS"].endswith(f"x-litellm-api-key: Bearer {KEY}")
    assert all(env[name] == "" for name in EMPTIED)
    assert "127.0.0.1" in env["NO_PROXY"].split(",")
    assert int(env["API_TIMEOUT_MS"]) >= 600_000
