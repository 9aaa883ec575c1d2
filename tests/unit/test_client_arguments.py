"""What openclaude takes out of the arguments, and that it takes nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocd.client.arguments import split
from ocd.errors import OcdError


@pytest.mark.parametrize(
    ("given_", "rest", "settings", "models"),
    [
        ([], [], None, {}),
        ([b"-p", b"hi"], [b"-p", b"hi"], None, {}),
        ([b"--settings", b"a.json", b"mcp", b"list"], [b"mcp", b"list"], b"a.json", {}),
        ([b"--settings=a=b.json"], [], b"a=b.json", {}),
        ([b"--settings", b"a", b"--settings", b"b"], [], b"b", {}),
        ([b"--settings"], [b"--settings"], None, {}),
        ([b"--", b"--settings", b"a"], [b"--", b"--settings", b"a"], None, {}),
        ([b"--model", b"opus"], [b"--model", b"opus"], None, {}),
        ([b"--model"], [b"--model"], None, {}),
        ([b"--model", b"litellm@q", b"hi"], [b"hi"], None, {"model": b"litellm@q"}),
        ([b"--model=ll@q"], [], None, {"model": b"ll@q"}),
        ([b"--model", b"opus", b"--model", b"ll@q"], [], None, {"model": b"ll@q"}),
        ([b"--model", b"ll@q", b"--model", b"opus"], [b"--model", b"opus"], None, {}),
        (
            [b"--default-provider", b"litellm", b"--model", b"bedrock-opus", b"Say ok only"],
            [b"Say ok only"],
            None,
            {"default-provider": b"litellm", "model": b"bedrock-opus"},
        ),
        (
            [b"--model", b"q", b"--default-provider=litellm"],
            [],
            None,
            {"default-provider": b"litellm", "model": b"q"},
        ),
        ([b"--model", b"q", b"--default-provider=x"], [b"--model", b"q"], None, {"default-provider": b"x"}),
        (
            [b"--model-opus", b"litellm@a", b"--model-sonnet=ll@b", b"--model-haiku", b"litellm@c", b"x"],
            [b"x"],
            None,
            {"opus": b"litellm@a", "sonnet": b"ll@b", "haiku": b"litellm@c"},
        ),
        ([b"--fallback-model", b"--models", b"--setting-sources", b"user"],) * 2 + (None, {}),
        ([b"\xff\xfe", b"--x=\xff"], [b"\xff\xfe", b"--x=\xff"], None, {}),
        ([b"--account", b"work", b"-p", b"hi"], [b"-p", b"hi"], None, {"account": b"work"}),
        ([b"auth", b"login", b"--account=work"], [b"auth", b"login"], None, {"account": b"work"}),
        ([b"hi", b"--profile", b"a", b"--profile=b"], [b"hi"], None, {"profile": b"b"}),
        ([b"--", b"--account", b"work"], [b"--", b"--account", b"work"], None, {}),
        (
            [b"--account", b"work", b"mcp", b"add", b"x", b"cmd", b"--profile", b"y"],
            [b"mcp", b"add", b"x", b"cmd", b"--profile", b"y"],
            None,
            {"account": b"work"},
        ),
    ],
)
def test_examples(given_, rest, settings, models):
    assert split(given_) == (rest, settings, models)


def test_own_option_without_value_is_an_error():
    with pytest.raises(OcdError) as caught:
        split([b"--model-haiku"])
    for option in (b"--account", b"--profile"):
        with pytest.raises(OcdError, match="needs a value"):
            split([option])
    assert caught.value.exit_code == 64


_FOREIGN = st.binary(max_size=12).filter(
    lambda text: text != b"--" and not text.startswith((b"--settings", b"--model", b"--default-provider"))
)
_OURS = st.sampled_from(
    [
        [b"--settings", b"f"],
        [b"--settings=f"],
        [b"--model", b"ll@a"],
        [b"--model=litellm@b"],
        [b"--model-opus", b"litellm@c"],
        [b"--model-haiku=ll@d"],
        [b"--default-provider", b"litellm"],
    ]
)


@given(st.lists(st.one_of(_FOREIGN.map(lambda text: [text]), _OURS)), st.lists(st.binary(max_size=8)))
def test_everything_else_survives_in_order(groups, tail):
    ours = [
        group for group in groups if group[0].startswith((b"--settings", b"--model", b"--default-provider"))
    ]
    foreign = [group[0] for group in groups if group not in ours]
    rest, settings, models = split([part for group in groups for part in group] + [b"--", *tail])
    assert rest == [*foreign, b"--", *tail]
    assert (settings is not None) == any(group[0].startswith(b"--settings") for group in ours)
    assert ("model" in models) == any(group[0].split(b"=")[0] == b"--model" for group in ours)
