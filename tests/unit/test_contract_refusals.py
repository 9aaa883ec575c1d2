"""Errors in Anthropic's words, with the status that makes Claude Code do the right thing."""

from __future__ import annotations

import re

import pytest

from ocd.guest.layers.refusals import Refusal, from_upstream, plain, too_long, unknown_model

#: status, AWS's exception, its words → status, type, a word that must be said
AWS = [
    (429, "ThrottlingException", "Too many requests, please wait before trying again.", 429, "rate_limit_error"),
    (400, "ServiceQuotaExceededException", "Your request exceeds the quota.", 429, "rate_limit_error"),
    (403, "AccessDeniedException", "You don't have access to the model with the specified model ID.", 424, ""),
    (403, "ExpiredTokenException", "The security token included in the request is expired", 424, ""),
    (403, "UnrecognizedClientException", "The security token included in the request is invalid.", 424, ""),
    (403, "InvalidSignatureException", "Signature expired: 1 is now earlier than 2", 424, ""),
    (400, "ValidationException", "Malformed input request: #: extraneous key [x]", 400, "invalid_request_error"),
    (400, "ValidationException", "The provided model identifier is invalid.", 424, ""),
    (404, "ResourceNotFoundException", "Could not resolve the foundation model.", 424, ""),
    (429, "ModelNotReadyException", "The model is not ready for inference.", 529, "overloaded_error"),
    (503, "ServiceUnavailableException", "The service isn't currently available.", 529, "overloaded_error"),
    (408, "ModelTimeoutException", "The request took too long to process.", 504, "timeout_error"),
    (424, "ModelErrorException", "The request failed due to an error while processing the model.", 502, "api_error"),
    (500, "InternalServerException", "An internal server error occurred.", 500, "api_error"),
    (500, "modelStreamErrorException", "The model's stream broke.", 502, "api_error"),
    (500, "throttlingException", "Too many requests.", 429, "rate_limit_error"),
    (500, "validationException", "Malformed.", 400, "invalid_request_error"),
    (403, "", "Forbidden", 424, ""),
    (401, "", "Unable to locate credentials", 424, ""),
    (500, "", "The config profile (corp) could not be found", 424, ""),
    (502, "", "Cannot connect to host bedrock-runtime", 502, "api_error"),
    (418, "", "teapot", 418, "invalid_request_error"),
    (200, "", "", 502, "api_error"),
]  # fmt: skip


@pytest.mark.parametrize(("status", "kind", "words", "ours", "typed"), AWS, ids=lambda one: str(one)[:30])
def test_awss_errors(status: int, kind: str, words: str, ours: int, typed: str) -> None:
    found = from_upstream(status, kind, words)
    assert found.status == ours and found.status not in (401, 403)
    assert not typed or found.kind == typed
    assert words.rstrip(".") in found.message
    value = found.value()
    assert value["type"] == "error" and value["error"]["message"] == found.message
    assert ("retry-after" in found.headers) == (ours in (429, 529))
    assert found.headers.get("x-should-retry") == ("false" if ours < 500 and ours != 429 else None)


@pytest.mark.parametrize(
    ("kind", "words", "advice"),
    [
        ("ExpiredTokenException", "The security token included in the request is expired", "occtl aws login"),
        (
            "AccessDeniedException",
            "You don't have access to the model with the specified model ID.",
            "occtl models",
        ),
        (
            "AccessDeniedException",
            "User: x is not authorized to perform: bedrock:InvokeModel",
            "occtl aws status",
        ),
        ("", "Unable to locate credentials", "occtl aws status"),
        ("ValidationException", "The provided model identifier is invalid.", "occtl models"),
    ],
)
def test_a_refusal_of_awss_says_what_to_do(kind: str, words: str, advice: str) -> None:
    assert advice in from_upstream(403, kind, words).message


@pytest.mark.parametrize(
    "words",
    [
        "Input is too long for requested model.",
        "The model returned the following errors: Input is too long for requested model.",
        "The model returned the following errors: prompt is too long: 213462 tokens > 200000 maximum",
        "This model's maximum context length is 131072 tokens. However, you requested 140000 tokens",
        "Too many input tokens. Max input tokens: 128000, request input token count: 140000",
        "The maximum tokens in the input exceed the maximum number of tokens of the context window",
        "Input length exceeds the maximum input tokens of the model",
        "The context window was exceeded",
    ],
)
def test_a_prompt_that_is_too_long_starts_the_compaction(words: str) -> None:
    found = from_upstream(400, "ValidationException", words)
    assert found.status == 400 and found.kind == "invalid_request_error"
    assert re.search(r"capability_rejected: prompt_too_long(?![\w:.-])", found.message)
    assert "prompt is too long" in found.message and words in found.message


def test_the_numbers_are_in_the_form_that_claude_code_reads() -> None:
    found = too_long("prompt is too long: 213462 tokens > 200000 maximum")
    assert re.search(r"prompt is too long[^0-9]*213462\s*tokens?\s*>\s*200000", found.message)
    assert "tokens >" not in too_long("Input is too long.").message


def test_too_many_output_tokens_are_something_else() -> None:
    words = "The maximum tokens you requested exceeds the model limit of 8192. Try again with a maximum tokens value"
    found = from_upstream(400, "ValidationException", words)
    assert (
        found.message.startswith("max_tokens: ")
        and "8192" in found.message
        and "capability" not in found.message
    )


@pytest.mark.parametrize(
    ("wrapped", "words"),
    [
        ('litellm.BadRequestError: BedrockException - {"message":"Malformed."}', "Malformed."),
        ("litellm.RateLimitError: BedrockException: Rate Limit Error - Too many. No fallback model group found for "
         "original model_group=qwen. Fallbacks=[]. Received Model Group=qwen\nAvailable Model Group Fallbacks=None",
         "Rate Limit Error - Too many."),
        ('litellm.ServiceUnavailableError: litellm.APIError: {"error":{"message":"Away."}}', "Away."),
        ("b'{\"message\":\"Plain.\"}'", "Plain."),
        ("Just words.", "Just words."),
        ("", ""),
    ],
)  # fmt: skip
def test_litellms_wrapping_is_taken_off(wrapped: str, words: str) -> None:
    assert plain(wrapped) == words


@pytest.mark.parametrize(
    ("status", "kind", "words", "trouble"),
    [
        (403, "ExpiredTokenException", "expired", "aws-expired"),
        (401, "", "Unable to locate credentials", "aws-expired"),
        (
            403,
            "AccessDeniedException",
            "You don't have access to the model with the specified ID.",
            "model-access",
        ),
        (
            403,
            "AccessDeniedException",
            "User is not authorized to perform: bedrock:InvokeModel",
            "access-denied",
        ),
        (403, "UnrecognizedClientException", "The security token included is invalid.", "access-denied"),
        (404, "ResourceNotFoundException", "Could not resolve the foundation model.", "model-access"),
        (
            404,
            "ResourceNotFoundException",
            "This model version has reached the end of its life.",
            "model-gone",
        ),
        (429, "ThrottlingException", "Too many.", "throttled"),
        (503, "ServiceUnavailableException", "Away.", "overloaded"),
        (400, "ValidationException", "Input is too long for requested model.", "bad-request"),
        (500, "InternalServerException", "Oops.", "upstream-error"),
        (500, "", "litellm.InternalServerError: Connection error", "unreachable"),
    ],
)
def test_our_word_for_the_meter(status: int, kind: str, words: str, trouble: str) -> None:
    assert from_upstream(status, kind, words).trouble == trouble
    assert Refusal(400, "ours").trouble == ""


def test_a_hostile_text_takes_no_time_to_speak_of() -> None:
    for text in (
        " " * 10**6,
        "exceed" * 10**5,
        "litellm." * 10**5,
        "{" * 10**6,
        "1234 " * 10**5,
        "Fallbacks=" * 10**5,
    ):
        assert from_upstream(500, "", text).message


def test_nothing_of_any_length_gets_through() -> None:
    assert len(Refusal(400, "x" * 100_000).message) <= 2000
    assert len(from_upstream(500, "", "{" * 50_000).message) <= 2000


def test_an_unknown_group_is_anthropics_404() -> None:
    found = unknown_model("nope", ["qwen"])
    assert (found.status, found.kind) == (404, "not_found_error")
    assert "model: nope" in found.message and "qwen" in found.message


def test_awss_own_waiting_time_is_kept() -> None:
    assert (
        from_upstream(429, "ThrottlingException", "x", {"retry-after": "17"}).headers["retry-after"] == "17"
    )
    assert (
        from_upstream(429, "ThrottlingException", "x", {"retry-after": "soon"}).headers["retry-after"] == "5"
    )
