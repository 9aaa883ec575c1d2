"""Every route of a LiteLLM that somebody uses through ocd, asked once: what another version or a smaller environment
must still serve. Runs inside the self-test's private stack, against its stand-ins."""

import json
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import httpx

from ocd.selftest.redirected import Turned
from ocd.selftest.stack import Stack
from ocd.selftest.upstreams import Upstreams

#: (proxy, path): read with the proxy's own key; each answers with a JSON value
READS = (
    ("main", "/v1/models"),
    ("main", "/models"),
    ("main", "/model/info"),
    ("main", "/v1/model/info"),
    ("main", "/model_group/info"),
    ("main", "/health/liveliness"),
    ("main", "/health/readiness"),
    ("main", "/health/readiness/details"),
    ("bedrock", "/v1/models"),
    ("bedrock", "/model/info"),
    ("bedrock", "/health/liveliness"),
    ("bedrock", "/health/readiness/details"),
    ("bedrock", "/health"),
)
#: what only some models can do: asked of one that cannot, the answer must be the route's own, not "there is no such"
REGISTERED = (
    "/v1/embeddings",
    "/v1/completions",
    "/v1/rerank",
    "/v1/moderations",
    "/v1/images/generations",
    "/v1/audio/speech",
)
#: what FastAPI says of a path that is nobody's
_NOBODY = {"detail": "Not Found"}


class Routes:
    """``rows`` is a list of (what was asked, model group, whether it is as it must be, a note for people)."""

    def __init__(self, private: Stack, turned: Turned, up: Upstreams, client: httpx.AsyncClient) -> None:
        self.private = private
        self.up = up
        self.client = client
        groups = [one.group for one in turned.routes if one.to == "bedrock" and "*" not in one.group]
        self.group = groups[0] if groups else ""
        self.rows: list[tuple[str, str, bool, str]] = []

    async def ask(self) -> list[tuple[str, str, bool, str]]:
        for proxy, path in READS:
            await self.row(f"GET {path}, {proxy}", "", self.json_value, partial(self.get, proxy, path))
        if self.group:
            await self.models()
        return self.rows

    async def models(self) -> None:
        """Everything that translates: each kind of API, plain and streamed, both ways to Bedrock."""
        words: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello"}]}
        message = {**words, "max_tokens": 64}
        for proxy in ("main", "bedrock"):
            for path, body in (("/v1/chat/completions", words), ("/v1/messages", message)):
                await self.post(proxy, path, body, self.json_object)
                await self.post(proxy, path, {**body, "stream": True}, self.events)
            await self.post(proxy, "/v1/messages/count_tokens", words, self.counted)
            await self.post(proxy, "/v1/responses", {"input": "Hello"}, self.json_object)
        await self.post("bedrock", "/utils/token_counter", words, self.json_object)
        for path in REGISTERED:
            body = {
                "input": "Hello",
                "prompt": "Hello",
                "query": "Hello",
                "documents": ["a"],
                "voice": "alloy",
            }
            await self.post("bedrock", path, body, self.registered)

    async def post(
        self, proxy: str, path: str, body: dict[str, Any], judge: Callable[[httpx.Response], str]
    ) -> None:
        streamed = ", streamed" if body.get("stream") else ""
        full = {"model": self.group, **body}
        await self.row(
            f"POST {path}, {proxy}{streamed}",
            self.group,
            judge,
            lambda: self.client.post(self.private.url(proxy) + path, json=full, headers=self.headers(proxy)),
        )

    def get(self, proxy: str, path: str) -> Awaitable[httpx.Response]:
        return self.client.get(self.private.url(proxy) + path, headers=self.headers(proxy))

    def headers(self, proxy: str) -> dict[str, str]:
        key = self.private.keys.main if proxy == "main" else self.private.keys.bedrock
        return {"x-litellm-api-key": f"Bearer {key}", "anthropic-version": "2023-06-01"}

    async def row(
        self,
        what: str,
        group: str,
        judge: Callable[[httpx.Response], str],
        send: Callable[[], Awaitable[httpx.Response]],
    ) -> None:
        try:
            wrong = judge(await send())
        except (httpx.HTTPError, ValueError) as error:
            wrong = f"{type(error).__name__}: {error}"
        self.rows.append((what, group, not wrong, wrong))

    # ---- what an answer must be; each returns what is wrong, or nothing

    @staticmethod
    def json_value(answer: httpx.Response) -> str:
        if answer.status_code != 200:
            return f"status {answer.status_code}: {answer.text[:200]}"
        answer.json()
        return ""

    @classmethod
    def json_object(cls, answer: httpx.Response) -> str:
        return cls.json_value(answer) or ("" if isinstance(answer.json(), dict) else "not a JSON object")

    @classmethod
    def counted(cls, answer: httpx.Response) -> str:
        wrong = cls.json_object(answer)
        return wrong or ("" if int(answer.json().get("input_tokens", 0)) > 0 else "no input_tokens in it")

    @staticmethod
    def events(answer: httpx.Response) -> str:
        if answer.status_code != 200:
            return f"status {answer.status_code}: {answer.text[:200]}"
        data = [line[5:].strip() for line in answer.text.splitlines() if line.startswith("data:")]
        values = [json.loads(one) for one in data if one != "[DONE]"]
        if any("error" in one or one.get("type") == "error" for one in values):
            return f"an error in the stream: {answer.text[-200:]}"
        return "" if len(values) > 2 else "no events in the stream"

    @staticmethod
    def registered(answer: httpx.Response) -> str:
        missing = answer.status_code in (405, 501) or (answer.status_code == 404 and answer.json() == _NOBODY)
        return f"status {answer.status_code}: not there" if missing else ""
