"""What is put back into a request and an answer, and what is left as it is."""

from __future__ import annotations

import contextlib
import json
import sys
import types
from typing import Any

import pytest

from ocd.guest import fidelity


def put_back(theirs: dict[str, Any], ours: dict[str, Any], untouched: frozenset[str] = frozenset()) -> Any:
    keeping = fidelity.Fidelity(untouched)
    return json.loads(keeping._body(json.dumps(theirs).encode(), json.dumps(ours).encode()))


def test_fields_that_were_lost_or_rewritten_are_the_clients_again() -> None:
    theirs = {"model": "opus", "thinking": {"budget_tokens": 31999}, "x_future": [1], "temperature": 1}
    ours = {"model": "claude-opus-9-9", "thinking": {"budget_tokens": 1024}, "temperature": 0.5}
    assert put_back(theirs, ours) == {
        "model": "claude-opus-9-9",
        "thinking": {"budget_tokens": 31999},
        "x_future": [1],
        "temperature": 0.5,
    }


def test_what_litellm_makes_up_goes_unless_the_configuration_wants_it() -> None:
    ours = {"output_config": {"effort": "high"}, "temperature": 1}
    assert put_back({"model": "m"}, ours) == {"temperature": 1}
    assert put_back({"model": "m"}, ours, frozenset({"output_config"})) == ours


def test_what_the_configuration_decides_and_what_is_meant_for_litellm_stays() -> None:
    theirs = {
        "thinking": {"a": 1},
        "x": 1,
        "litellm_metadata": {},
        "fallbacks": [],
        "api_key": "k",
        "mock_response": 1,
    }
    assert put_back(theirs, {}, frozenset({"thinking", "x"})) == {}


@pytest.mark.parametrize("asked", [b"", b"[]", b"{", b"\xff", b'{"a": NaN}', b'{"a": 1e999}'])
def test_a_body_that_is_none_goes_out_as_it_was(asked: bytes) -> None:
    with contextlib.suppress(ValueError):  # then the caller sends what LiteLLM made
        assert fidelity.Fidelity(frozenset())._body(asked, b'{"b":1}')


def test_betas_keep_the_clients_order_and_litellms_own() -> None:
    assert fidelity._joined("b, a", "a,c,b") == "b,a,c"
    assert fidelity._joined("b", "") == "b"


@pytest.mark.parametrize(
    ("path", "sent", "ours"),
    [
        ("/v1/messages", {"authorization": "Bearer plan"}, True),
        ("/proxy/v1/messages", {"authorization": "Bearer plan"}, True),
        ("/v1/messages", {"x-api-key": "mine"}, True),
        ("/v1/messages", {"x-api-key": "the configuration's"}, False),
        ("/v1/messages", {}, False),
        ("/v1/chat/completions", {"authorization": "Bearer plan"}, False),
        ("/model/x/converse", {"authorization": "AWS4-HMAC-SHA256 plan"}, False),
    ],
)
def test_only_requests_with_the_clients_own_credential_are_touched(
    path: str, sent: dict[str, str], ours: bool
) -> None:
    asked = fidelity.Asked([(b"authorization", b"Bearer plan"), (b"x-api-key", b"mine")], b"beta=true")
    request = types.SimpleNamespace(url=types.SimpleNamespace(path=path), method="POST", headers=sent)
    assert fidelity.Fidelity.is_ours(asked, request) is ours


def test_the_files_own_fields_are_found_and_a_broken_file_has_none(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # JSON is YAML, and LiteLLM's library for it is not here.
    monkeypatch.setitem(sys.modules, "yaml", types.SimpleNamespace(safe_load=json.load))
    path = tmp_path / "litellm.yaml"
    params = {"model": "x", "thinking": {}, "additional_drop_params": ["top_k"]}
    path.write_text(json.dumps({"model_list": [{"model_name": "a", "litellm_params": params}]}))
    assert {"thinking", "top_k"} <= fidelity.untouched(str(path))
    for text in ("{", "[]", '{"model_list": 1}', ""):
        path.write_text(text)
        assert fidelity.untouched(str(path)) == frozenset()


def test_an_error_is_the_upstreams_own_and_a_success_only_gets_headers() -> None:
    keeping = fidelity.Fidelity(frozenset())
    headers = {"retry-after": "7", "content-type": "application/json", "server": "x"}
    headers["anthropic-ratelimit-unified-status"] = "rejected"
    kept = keeping.answered(529, headers, b'{"type":"error"}')
    message: dict[str, Any] = {
        "status": 500,
        "headers": [(b"content-length", b"999"), (b"content-type", b"text/x")],
    }
    assert keeping.begin(kept, message) == b'{"type":"error"}'
    assert message["status"] == 529 and dict(message["headers"])[b"content-length"] == b"16"
    assert dict(message["headers"])[b"retry-after"] == b"7" and b"server" not in dict(message["headers"])
    message = {"status": 200, "headers": []}
    assert keeping.begin(kept, message) is None and message == {"status": 200, "headers": []}, (
        "another answered"
    )
    good = keeping.answered(200, headers, b"")
    assert keeping.begin(good, message) is None
    assert dict(message["headers"])[b"anthropic-ratelimit-unified-status"] == b"rejected"


def test_what_an_upstream_sends_beyond_an_error_is_not_kept() -> None:
    keeping = fidelity.Fidelity(frozenset())
    assert keeping.answered(500, {}, b"x" * 1_000_000)[2] is None
