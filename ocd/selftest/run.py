"""The self-test: which slot reaches which upstream with which credential, and where the canary was seen."""

import asyncio
import os
import secrets
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from ocd.errors import OcdError
from ocd.selftest import answers, stack, streams
from ocd.selftest.redirected import Turned, turn
from ocd.selftest.routes import Routes
from ocd.selftest.stack import Stack
from ocd.selftest.upstreams import NAMES, Behaviour, Seen, Upstreams
from ocd.settings.folders import Folders
from ocd.settings.schema import Settings
from ocd.stack.check import check
from ocd.stack.families import SLOTS, group_of, made_up
from ocd.stack.models import site_packages

_TITLES = {"anthropic": "Anthropic", "bedrock": "Bedrock"}
#: slot, upstream's status, its name in the table
_FAILURES = (
    ("opus", 401, "expired login (401)"),
    ("opus", 529, "overloaded (529)"),
    ("haiku", 429, "throttled (429)"),
)
#: seconds for one answer
PATIENCE = 60.0
#: model groups beside the slots' that are asked
MOST_GROUPS = 20
#: bytes of one file that are searched for the canary
LARGEST = 64 * 1024 * 1024


@dataclass(slots=True)
class Row:
    """One line of the table; ``upstream`` and ``credential`` are what the stand-ins saw."""

    check: str
    model: str = ""
    upstream: str = ""
    credential: str = ""
    ok: bool = False
    note: str = ""


@dataclass(slots=True)
class Report:
    """``problems`` are sentences for people; none of the texts holds the canary or a key."""

    ok: bool
    rows: list[Row] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    litellm: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


async def run(
    folders: Folders,
    settings: Settings,
    *,
    litellm_python: str = "",
    routes: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Report:
    """Boot a private second stack from the user's LiteLLM files, send requests, look where they arrived.

    ``litellm_python`` is the interpreter that has LiteLLM, by default the daemon's; with ``routes`` every other
    route of LiteLLM's is asked too; ``progress`` is told what happens. A mistake in the files or a stack that does
    not boot is not raised but reported. A live daemon is not touched.
    """
    tell = progress or (lambda _text: None)
    try:
        return await _run(folders, settings, litellm_python, routes, tell)
    except OcdError as error:
        return Report(False, problems=[error.sentence()])


async def _run(
    folders: Folders, settings: Settings, litellm_python: str, routes: bool, tell: Callable[[str], None]
) -> Report:
    if not litellm_python:
        from ocd.supervisor.supervision import litellm_env

        litellm_python = litellm_env.python(settings, folders)
    if settings.external.enabled:
        what = f"the LiteLLM at {settings.external.base_url} is not ours: there is no stack of ours to test"
        return Report(False, problems=[f"{what}. `occtl init --preset mixed` sets one up."])
    mistakes = await asyncio.to_thread(check, folders, settings, site_packages(litellm_python))
    problems = [one.sentence() for one in mistakes if one.severity == "error"]
    if problems:
        # The daemon would not serve these files either; here they still have their names and lines.
        return Report(False, problems=problems)
    with stack.private_folders() as private:
        async with Upstreams() as up:
            config = private.folders.config
            turned = turn(folders, settings, config, up.anthropic, up.bedrock, private.ports)
            profiles = turned.profiles | ({settings.aws_profile} if settings.aws_profile else set())
            home = stack.write_aws(private, profiles, settings.aws_region)
            stack.write_settings(private, settings, litellm_python)
            tell("Booting a private stack")
            async with stack.running(private, home):
                version = await stack.wait_ready(private)
                tell("Sending requests")
                checks = _Check(private, settings, up, turned)
                await checks.requests(routes)
            # Now that it has ended, its logs are complete.
            rows = await checks.finish()
    return Report(all(row.ok for row in rows) and not turned.problems, rows, turned.problems, version)


class _Check:
    """Every request of the self-test, one after the other, so that what arrives belongs to what was sent."""

    def __init__(self, private: Stack, settings: Settings, up: Upstreams, turned: Turned) -> None:
        self.private = private
        self.settings = settings
        self.up = up
        self.turned = turned
        self.secret = f"canary-{secrets.token_hex(16)}"
        plan = settings.auth == "plan"
        self.canary = f"sk-ant-{'oat01' if plan else 'api03'}-{self.secret}"
        self.expected = "plan token" if plan else "API key"
        self.login = {"authorization": f"Bearer {self.canary}"} if plan else {"x-api-key": self.canary}
        self.rows: list[Row] = []
        self.slots = dict(self.asked())

    def asked(self) -> Iterator[tuple[str, str]]:
        """Each slot, and the name that is asked for in it: a made-up one where Claude Code chooses."""
        known = [route.group for route in self.turned.routes]
        for slot in SLOTS:
            pinned = group_of(slot, getattr(self.settings.slots, slot), known)
            # A slot that is not pinned and has no route is nobody's; opus and haiku have more tests.
            if pinned or slot != "fable" or self.turned.route(made_up(slot)):
                yield slot, pinned or made_up(slot)

    async def requests(self, routes: bool) -> None:
        """Everything that needs the running stack."""
        # The secret part alone: whatever is put before or around it, it is the canary.
        self.up.watch("canary", self.secret)
        async with httpx.AsyncClient(timeout=PATIENCE, trust_env=False) as client:
            self.client = client
            for slot in self.slots:
                for streaming in (False, True):
                    self.rows.append(await self.slot(slot, self.slots[slot], streaming))
            for group in self.further():
                for streaming in (False, True):
                    self.rows.append(await self.slot(group, group, streaming))
            self.rows.append(await self.token_count())
            for slot, status, title in _FAILURES:
                self.rows.append(await self.failure(slot, status, title))
            self.rows.append(await self.without_key())
            self.rows.append(await self.credential_at_bedrock())
            if routes:
                asked = await Routes(self.private, self.turned, self.up, client).ask()
                self.rows += [Row(what, group, ok=ok, note=note) for what, group, ok, note in asked]
        self.processes = await asyncio.to_thread(self.in_processes)

    async def finish(self) -> list[Row]:
        """The rows, with what is left when the stack has ended: where the canary was seen."""
        files = await asyncio.to_thread(self.in_files)
        return [*self.rows, self.at_anthropic(), self.elsewhere(), files, self.processes]

    def further(self) -> list[str]:
        """The model groups that no slot has: those of fallbacks, those that are asked for by name."""
        of_slots = set(self.slots.values())
        groups = [one.group for one in self.turned.routes if one.to in NAMES and "*" not in one.group]
        return [group for group in dict.fromkeys(groups) if group not in of_slots][:MOST_GROUPS]

    async def token_count(self) -> Row:
        """Counting tokens is a route of its own: LiteLLM estimates, or asks Anthropic with the login."""
        row = Row("opus, counting tokens", self.slots["opus"])
        path = "/v1/messages/count_tokens?beta=true"
        answer, seen = await self.watched(
            lambda: self.send(self.private.url("main"), row.model, "Hello", False, path=path)
        )
        row.upstream = ", ".join(sorted({_TITLES[one.upstream] for one in seen})) or "none"
        row.credential = ", ".join(sorted({one.credential for one in seen}))
        if isinstance(answer, str):
            row.note = answer
        elif any(one.upstream != "anthropic" and one.where(self.secret) for one in seen):
            row.note = "the login went along to Bedrock"
        elif answer.status_code != 200:
            row.note = f"status {answer.status_code}: {_message(answer)}"
        else:
            row.ok = True
            row.note = "" if seen else "estimated by LiteLLM"
        return row

    async def slot(self, slot: str, group: str, streaming: bool) -> Row:
        """One request as Claude Code sends it; streamed ones ask for a tool's call."""
        row = Row(f"{slot}, {'streaming' if streaming else 'plain'}", group)
        route = self.turned.route(group)
        if route is None:
            row.note = f"litellm.yaml has no model group {group}"
            return row
        if route.to == "other":
            row.note = f"{route.model} is neither at Anthropic nor at Bedrock: not tested"
            return row
        text = answers.TOOL_WORDS if streaming else "Hello"
        answer, seen = await self.watched(lambda: self.send(self.private.url("main"), group, text, streaming))
        row.upstream = ", ".join(sorted({_TITLES[one.upstream] for one in seen})) or "none"
        row.credential = ", ".join(sorted({one.credential for one in seen}))
        wanted = self.expected if route.to == "anthropic" else "AWS signature"
        wrong = []
        if isinstance(answer, str):
            wrong.append(answer)
        elif answer.status_code != 200:
            wrong.append(f"status {answer.status_code}: {_message(answer)}")
        else:
            wrong += self.form(answer, streaming)
        if row.upstream != _TITLES[route.to]:
            wrong.append(f"expected at {_TITLES[route.to]}")
        elif row.credential != wanted:
            wrong.append(f"expected {wanted}")
        if route.to != "anthropic" and any(one.where(self.secret) for one in seen):
            wrong.append("the login went along")
        row.ok = not wrong
        row.note = "; ".join(wrong)
        return row

    async def failure(self, slot: str, status: int, title: str) -> Row:
        """An upstream that fails: the error comes back, or a fallback answers without the login."""
        row = Row(f"{slot}, {title}", self.slots[slot])
        to = self.leads_to(slot)
        if to not in NAMES:
            row.note = "no tested route"
            return row
        self.up.behave(Behaviour(upstream=to, status=status))
        answer, seen = await self.watched(
            lambda: self.send(self.private.url("main"), row.model, "Hello", streaming=True)
        )
        self.up.behave()
        row.upstream = ", ".join(sorted({_TITLES[one.upstream] for one in seen})) or "none"
        row.credential = ", ".join(sorted({one.credential for one in seen}))
        fell_back = {one.upstream for one in seen} > {to}
        if isinstance(answer, str):
            row.note = answer
        elif any(one.upstream != "anthropic" and one.where(self.secret) for one in seen):
            row.note = "the login went along to Bedrock"
        elif to not in {one.upstream for one in seen}:
            row.note = f"expected at {_TITLES[to]}"
        elif fell_back and status == 401:
            row.note = "an expired login is answered by Bedrock: billed to AWS without a word"
        elif answer.status_code == 200 and not fell_back and "event: error" not in answer.text:
            row.note = "the error did not come back"
        else:
            row.ok = True
            row.note = "answered by a fallback" if fell_back else f"came back as {answer.status_code}"
        return row

    def form(self, answer: httpx.Response, streaming: bool) -> list[str]:
        if not streaming:
            try:
                blocks, wrong = streams.check_plain(answer.json())
            except ValueError:
                return ["the answer is no JSON"]
            return wrong + ([] if "text" in blocks else ["no text in the answer"])
        blocks, wrong = streams.check_stream(answer.text)
        return wrong + [
            f"no {kind} block in the answer" for kind in ("text", "tool_use") if kind not in blocks
        ]

    async def without_key(self) -> Row:
        row = Row("a request without our key", self.slots["opus"])
        answer, seen = await self.watched(
            lambda: self.send(self.private.url("main"), row.model, "Hello", False, key="")
        )
        return self.refusal(row, answer, seen)

    async def credential_at_bedrock(self) -> Row:
        """The login, sent to the bedrock proxy with that proxy's own key beside it: our boundary's case."""
        row = Row("the login, sent to the bedrock proxy", self.slots["haiku"])
        key = self.private.keys.bedrock
        answer, seen = await self.watched(
            lambda: self.send(self.private.url("bedrock"), row.model, "Hello", False, key=key)
        )
        return self.refusal(row, answer, seen)

    def refusal(self, row: Row, answer: httpx.Response | str, seen: list[Seen]) -> Row:
        """Refused by us (never with 401, which would make Claude Code refresh the login), and nothing went out."""
        row.upstream = ", ".join(sorted({_TITLES[one.upstream] for one in seen})) or "none"
        if isinstance(answer, str):
            row.note = answer
        elif answer.status_code not in (403, 424) or not _message(answer).startswith("ocd:"):
            row.note = f"expected a refusal with 403 or 424, got {answer.status_code}: {_message(answer)}"
        elif seen:
            row.note = "refused, but something reached an upstream"
        else:
            row.ok = True
            row.note = f"refused with {answer.status_code}"
        return row

    def at_anthropic(self) -> Row:
        """Requests on Anthropic routes carried the login, in its own header and nowhere else."""
        row = Row("canary at Anthropic", upstream="Anthropic")
        due = [slot for slot in self.slots if self.leads_to(slot) == "anthropic"]
        requests = self.up.seen("anthropic")
        places = {place for one in requests for place in one.where(self.secret)}
        wanted = {f"header {next(iter(self.login))}"}
        with_it = sum(bool(one.where(self.secret)) for one in requests)
        row.note = f"in {with_it} of {len(requests)} requests"
        row.ok = (places == wanted and with_it == len(requests)) if due else not places
        if not due:
            row.note += " (no slot leads there)"
        elif places - wanted:
            row.note += f", also in: {', '.join(sorted(places - wanted))}"
        return row

    def elsewhere(self) -> Row:
        row = Row("canary at Bedrock", upstream="Bedrock")
        requests = self.up.seen("bedrock")
        places = sorted({place for one in requests for place in one.where(self.secret)})
        keys = sorted(
            {
                f"{name} key in {place}"
                for name, key in (("main", self.private.keys.main), ("bedrock", self.private.keys.bedrock))
                for upstream in NAMES
                for one in self.up.seen(upstream)
                for place in one.where(key)
            }
        )
        # Bedrock sees the access key's name in the signature; the secret leaves this machine nowhere.
        pairs = [
            ("AWS secret", self.private.aws_secret, NAMES),
            ("AWS key", self.private.aws_key, ("anthropic",)),
        ]
        aws = sorted(
            {
                f"{what} at {_TITLES[upstream]} in {place}"
                for what, text, upstreams in pairs
                for upstream in upstreams
                for one in self.up.seen(upstream)
                for place in one.where(text)
            }
        )
        row.ok = not places and not keys and not aws
        row.note = ", ".join(places + keys + aws) or f"in none of {len(requests)} requests"
        return row

    def in_files(self) -> Row:
        """Logs, state, sockets' folder: every file that the private stack wrote."""
        row = Row("canary in files and logs")
        needle, aws = self.secret.encode(), self.private.aws_secret.encode()
        own = self.private.root / "home" / ".aws" / "credentials"
        count, found = 0, []
        for file in _files(self.private.root):
            try:
                with open(file, "rb") as opened:
                    data = opened.read(LARGEST)
            except OSError:
                continue
            count += 1
            if needle in data or (aws in data and file != own):
                found.append(str(file.relative_to(self.private.root)))
        row.ok = not found and count > 0
        row.note = ", ".join(sorted(found)) or f"in none of {count} files"
        return row

    def in_processes(self) -> Row:
        """Arguments and environment of the stack's processes; those that may not be read are not counted."""
        row = Row("canary in processes")
        secrets_of = {
            "canary": self.secret,
            "main key": self.private.keys.main,
            "bedrock key": self.private.keys.bedrock,
            "AWS secret": self.private.aws_secret,
        }
        count, found = 0, []
        for process in self.private.processes():
            try:
                texts = [
                    *process.cmdline(),
                    *(f"{name}={value}" for name, value in process.environ().items()),
                ]
                name = process.name()
            except psutil.Error:
                continue
            count += 1
            found += [
                f"{what} in {name}" for what, text in secrets_of.items() if any(text in one for one in texts)
            ]
        row.ok = not found and count > 0
        row.note = ", ".join(sorted(set(found))) or f"in none of {count} processes, keys neither"
        return row

    def leads_to(self, slot: str) -> str:
        route = self.turned.route(self.slots[slot])
        return route.to if route else ""

    # ---- sending

    async def watched(
        self, send: Callable[[], Awaitable[httpx.Response]]
    ) -> tuple[httpx.Response | str, list[Seen]]:
        """What ``send`` got, or why it got nothing, and what arrived at the stand-ins meanwhile."""
        before = len(self.up.seen())
        answer: httpx.Response | str
        try:
            answer = await send()
        except httpx.HTTPError as error:
            answer = f"no answer: {type(error).__name__}"
        return answer, self.up.seen()[before:]

    async def send(
        self,
        url: str,
        model: str,
        text: str,
        streaming: bool,
        key: str | None = None,
        path: str = "/v1/messages?beta=true",
    ) -> httpx.Response:
        key = self.private.keys.main if key is None else key
        headers = {
            **self.login,
            "anthropic-version": "2023-06-01",
            "anthropic-beta": "claude-code-20250219,oauth-2025-04-20",
            "user-agent": "ocd-selftest",
            "x-app": "cli",
        }
        if key:
            headers["x-litellm-api-key"] = f"Bearer {key}"
        schema = {"type": "object", "properties": {"value": {"type": "string"}}, "required": ["value"]}
        body = {
            "model": model,
            "max_tokens": 1024,
            "stream": streaming,
            "system": [{"type": "text", "text": "You are a test.", "cache_control": {"type": "ephemeral"}}],
            "messages": [{"role": "user", "content": [{"type": "text", "text": text}]}],
            "tools": [{"name": "read_value", "description": "Reads a value.", "input_schema": schema}],
            "metadata": {"user_id": "user_selftest"},
        }
        if "count_tokens" in path:
            body = {name: body[name] for name in ("model", "system", "messages", "tools")}
        return await self.client.post(url + path, json=body, headers=headers)


def _message(answer: httpx.Response) -> str:
    """An error's own sentence, cut short."""
    try:
        error = answer.json()["error"]
        text = str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, KeyError, TypeError):
        text = answer.text
    return " ".join(text.split())[:200]


def _files(root: Path) -> list[Path]:
    found = []
    for folder, _folders, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            if path.is_file() and not path.is_symlink():
                found.append(path)
    return found
