"""The exec plan: what the daemon writes is what openclaude reads; and the request that openclaude writes."""

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocd.claude.plan import encode_plan, encode_problem, encode_progress
from ocd.client.__main__ import ACCEPT, _not_ready, decode, request_body
from ocd.client.failure import explain
from ocd.client.variables import NAME_ONLY
from ocd.errors import OcdError
from ocd.wire.messages import LaunchReply, LaunchRequest

_TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
_NAME = st.text(st.characters(exclude_characters="\0=", exclude_categories=["Cs"]), min_size=1)


@given(st.dictionaries(_NAME, _TEXT), st.lists(_NAME), st.lists(_TEXT), st.lists(_TEXT))
def test_plan_round_trip(set_, unset, args, notices):
    body = encode_plan(LaunchReply(ready=True, set=set_, unset=unset, args=args, notices=notices))
    read = decode(body)

    def values(wanted):
        return [value.decode() for verb, value in read if verb == wanted]

    assert dict(value.split("=", 1) for value in values(b"set")) == set_
    assert values(b"unset") == unset
    assert values(b"arg") == args
    assert len(values(b"notice")) == len(notices)
    assert all(value.isprintable() for value in values(b"notice"))
    # Unset comes first: a name in both ends up set.
    assert [verb for verb, _ in read if verb in (b"set", b"unset")] == [b"unset"] * len(unset) + [
        b"set"
    ] * len(set_)


@pytest.mark.parametrize(
    "reply",
    [
        LaunchReply(ready=True, args=["a\0b"]),
        LaunchReply(ready=True, set={"A=B": "x"}),
        LaunchReply(ready=True, set={"": "x"}),
        LaunchReply(ready=True, unset=["A\0"]),
    ],
)
def test_what_an_environment_cannot_hold_is_refused(reply):
    with pytest.raises(ValueError):
        encode_plan(reply)


def test_progress_and_problem():
    assert (
        _not_ready(503, ACCEPT, encode_plan(LaunchReply(ready=False, progress="main\nboots"))) == "main boots"
    )
    assert _not_ready(503, f"{ACCEPT}; charset=utf-8", encode_progress("x")) == "x"
    with pytest.raises(OcdError) as caught:
        _not_ready(409, ACCEPT, encode_problem(69, "Port 4000 is taken by \x1b[2Jnginx."))
    assert caught.value.exit_code == 69
    assert caught.value.sentence() == "Port 4000 is taken by  [2Jnginx."
    for bad in (0, 256):
        with pytest.raises(ValueError):
            encode_problem(bad, "x")


@pytest.mark.parametrize(
    "answer", [b"", b"set A=1", b"progress x\0", b"problem x y\0", b"junk\0", b"other 1\0"]
)
def test_strange_refusals_are_protocol_errors(answer):
    with pytest.raises(OcdError) as caught:
        _not_ready(409, ACCEPT, answer)
    assert caught.value.exit_code == 76


def test_errors_in_json_are_understood():
    body = b'{"error": {"code": "x", "what": "No", "why": "because", "next": "Do it", "exit": 78}}'
    with pytest.raises(OcdError) as caught:
        _not_ready(400, "application/json", body)
    assert (caught.value.sentence(), caught.value.exit_code) == ("No: because. Do it.", 78)


@pytest.mark.parametrize(
    "answer", [b"", b"[]", b"{}", b'{"error": 1}', b'{"error": {}}', b"\xff", b"[" * 100000]
)
def test_errors_that_are_no_problem_message(answer):
    assert explain(500, answer).exit_code == 76


def test_request_is_what_the_message_class_expects():
    environ = {
        b"HOME": b"/home/x",
        b"NO_PROXY": b'a"b\\c\n',
        b"HTTP_PROXY": b"http://user:secret@proxy",
        b"PATH": b"/bin",
        b"CLAUDE_CONFIG_DIR": b"\xff",
        b"API_TIMEOUT_MS": b"",
    }
    body = request_body(environ, '{"model": "ä"}'.encode(), {"opus": b"litellm@\xff"}, 1.0)
    request = LaunchRequest.model_validate_json(body)
    assert request.pid == os.getpid()
    assert request.cwd == os.getcwd()
    assert request.env == {"HOME": "/home/x", "NO_PROXY": 'a"b\\c\n', "CLAUDE_CONFIG_DIR": "\ufffd"}
    assert request.settings == '{"model": "ä"}'
    assert request.models == {"opus": "litellm@\ufffd"}
    assert LaunchRequest.model_validate_json(request_body({}, None, {}, 5.0)).settings is None


def test_no_value_of_a_conflicting_variable_is_in_the_request():
    canary = b"canary-3f9c"
    environ = dict.fromkeys(NAME_ONLY, canary) | {
        b"CLAUDE_CODE_OAUTH_TOKEN": canary,
        b"AWS_SECRET_ACCESS_KEY": canary,
    }
    body = request_body(environ, None, {}, 1.0)
    assert canary not in body
    assert json.loads(body)["env"] == {name.decode(): "" for name in NAME_ONLY}


def test_settings_from_a_pipe_are_sent_as_text():
    reading, writing = os.pipe()
    os.write(writing, b' {"model": "opus"}\n')
    os.close(writing)
    try:
        body = request_body({}, f"/dev/fd/{reading}".encode(), {}, 1.0)
    finally:
        os.close(reading)
    assert json.loads(body)["settings"] == '{"model": "opus"}'


def test_settings_path_that_is_not_utf8():
    with pytest.raises(OcdError) as caught:
        request_body({}, b"\xff.json", {}, 1.0)
    assert caught.value.exit_code == 64
