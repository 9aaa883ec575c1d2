"""Claude Code's requests for a model on Bedrock: what the model can take stays, what it cannot is said or left out.

Pure: a Messages request and the facts about its model in, a Messages request for LiteLLM out, or a ``Refusal``. Claude
Code sends its full set whatever stands behind the address (docs/architecture.md). What LiteLLM does not know it drops
in silence, or hands to Bedrock as a field of the model's own, which refuses the whole request: so the fields that pass
are listed here (``FIELDS``), with Bedrock's Converse API as the reason, and nothing else is.

Sources: Anthropic's API reference (Messages, Tools, Tool search); Amazon Bedrock's API reference (Converse, Tool
specification); requests of Claude Code 2.1.197 and 2.1.332 as recorded.
"""

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from . import refusals, server_tools

Json = dict[str, Any]

#: What Converse has a place for. ``stream`` is LiteLLM's own; ``thinking`` and ``output_config`` pass where the model
#: takes them. Everything else would be refused by Bedrock or acted upon by LiteLLM: ``fallbacks`` and ``tags`` choose
#: another model, ``context_management`` makes it ask a model for a summary, in the middle of the request.
FIELDS = (
    *("model", "messages", "system", "max_tokens", "stream", "temperature", "top_p", "top_k"),
    *("stop_sequences", "tools", "tool_choice", "thinking", "output_config"),
)
#: Tools that the client runs and Anthropic defines: a model that was not trained on them needs the schema, which
#: Anthropic publishes (API reference: Bash tool, Text editor tool, Memory tool). ``computer`` has none: it needs a
#: model that was trained on screens.
_STRING: Json = {"type": "string"}
_RANGE: Json = {"type": "array", "items": {"type": "integer"}}
CLIENT_TOOLS: dict[str, tuple[str, Json]] = {
    "bash": (
        "Run a command in a persistent bash session.",
        {
            "type": "object",
            "properties": {
                "command": {**_STRING, "description": "The command to run."},
                "restart": {"type": "boolean", "description": "True restarts the session."},
            },
        },
    ),
    "text_editor": (
        "View, create and edit text files.",
        {
            "type": "object",
            "properties": {
                "command": {**_STRING, "enum": ["view", "create", "str_replace", "insert"]},
                "path": _STRING,
                "file_text": _STRING,
                "old_str": _STRING,
                "new_str": _STRING,
                "insert_line": {"type": "integer"},
                "insert_text": _STRING,
                "view_range": _RANGE,
            },
            "required": ["command", "path"],
        },
    ),
    "memory": (
        "Keep notes in files below /memories, across conversations.",
        {
            "type": "object",
            "properties": {
                "command": {
                    **_STRING,
                    "enum": ["view", "create", "str_replace", "insert", "delete", "rename"],
                },
                "path": _STRING,
                "view_range": _RANGE,
                "file_text": _STRING,
                "old_str": _STRING,
                "new_str": _STRING,
                "insert_line": {"type": "integer"},
                "insert_text": _STRING,
                "old_path": _STRING,
                "new_path": _STRING,
            },
            "required": ["command"],
        },
    ),
}
_VERSION = re.compile(r"_2\d{7}$")
#: Converse's pattern of a tool's name and of the id of its use
_NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9_-]{0,63}\Z")
_IDENTITY = re.compile(r"[a-zA-Z0-9_-]{1,64}\Z")
_TOOL_FIELDS = ("name", "description", "input_schema")
#: Claude Code's note to Anthropic's accounting; to a model of somebody else it is noise that changes
_ACCOUNTING = "x-anthropic-billing-header:"
#: LiteLLM's name for the tool by which a model without structured output gives JSON
JSON_TOOL = "json_tool_call"
#: marks in one request that Bedrock accepts (prompt caching, Claude's models)
_MOST_MARKS = 4
_EFFORTS = {
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "high",
    "max": "high",
}
_BUDGETS = {"low": 2048, "medium": 8192, "high": 16384}
_LEAST_BUDGET = 1024


@dataclass(frozen=True, slots=True)
class Facts:
    """What a group's model can do. ``None`` and empty: not known, or not at all; see ``ocd.stack.abilities``."""

    model: str = ""
    family: str = ""
    max_input_tokens: int | None = None
    max_output_tokens: int | None = None
    #: cache_control becomes Bedrock's cachePoint on the way
    caching: bool = False
    #: "claude": Anthropic's own field; "effort": low, medium, high; "": none
    thinking: str = ""
    adaptive: bool = False
    effort: bool = False
    vision: bool = True
    documents: bool = True
    tools: bool = True
    stop_sequences: bool = True

    @classmethod
    def of(cls, given: Json) -> "Facts":
        """From the boot message; a name that this version does not know is passed over."""
        return cls(**{name: value for name, value in given.items() if name in cls.__slots__})


@dataclass(slots=True)
class Rewritten:
    """A request for LiteLLM, and what its answer needs: ``names`` gives shortened tool names back."""

    body: Json
    names: dict[str, str] = field(default_factory=dict)
    stops: tuple[str, ...] = ()
    json_tool: str = ""

    def restore(self, name: str) -> str:
        return self.names.get(name, name)


def rewrite(asked: Json, facts: Facts) -> Rewritten:
    """``asked`` as this model can take it. ``asked`` itself is left as it is. Raises Refusal."""
    _check(asked)
    return _Rewriting(asked, facts).done()


def _check(asked: Json) -> None:
    if not isinstance(asked.get("model"), str) or not asked["model"]:
        raise refusals.invalid("model: Field required")
    if not isinstance(asked.get("messages"), list) or not asked["messages"]:
        raise refusals.invalid("messages: at least one message is required")
    limit = asked.get("max_tokens")
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
        raise refusals.invalid("max_tokens: a whole number above 0 is required")
    if "safeguards" in asked:
        # Claude Code then asks again without, and classifies by itself.
        raise refusals.invalid(
            "safeguards: Extra inputs are not permitted (this model runs on Amazon Bedrock)"
        )


class _Rewriting:
    def __init__(self, asked: Json, facts: Facts) -> None:
        self.asked = asked
        self.facts = facts
        self.names: dict[str, str] = {}
        self.marks = 0
        self.claude = facts.family == "claude"

    def done(self) -> Rewritten:
        asked, facts = self.asked, self.facts
        loaded, added, removed = _loaded(asked["messages"])
        tools = self.tools(_dicts(asked.get("tools")) + added, loaded, removed)
        choice = _dict(asked.get("tool_choice"))
        if choice.get("type") == "none":
            tools = []
        system = self.system(asked.get("system"))
        messages = self.messages(asked["messages"], system, with_tools=bool(tools))
        # By value, not by mention: Anthropic's own fields may be null.
        body: Json = {name: value for name, value in asked.items() if name in FIELDS and value is not None}
        if not self.claude:
            body.pop("top_k", None)
        for name in ("system", "tools", "tool_choice", "thinking", "output_config", "stop_sequences"):
            body.pop(name, None)
        body["messages"] = messages
        if "stream" in body:
            body["stream"] = bool(body["stream"])
        body["max_tokens"] = self.max_tokens()
        if system:
            body["system"] = system
        if tools:
            body["tools"] = tools
            if chosen := self.tool_choice(choice):
                body["tool_choice"] = chosen
        stops = [one for one in asked.get("stop_sequences") or [] if isinstance(one, str) and one.strip()]
        if stops and facts.stop_sequences:
            body["stop_sequences"] = stops
        self.think(body)
        json_tool = self.output(body, tools)
        restore = {short: long for long, short in self.names.items() if short != long}
        return Rewritten(body, restore, tuple(stops), json_tool)

    # ---- numbers and thinking

    def max_tokens(self) -> int:
        limit = self.facts.max_output_tokens
        wanted = int(self.asked["max_tokens"])
        return min(wanted, limit) if limit else wanted

    def think(self, body: Json) -> None:
        thinking = _dict(self.asked.get("thinking"))
        kind = thinking.get("type")
        if kind not in ("enabled", "adaptive") or not self.facts.thinking:
            return
        wanted = str(_dict(self.asked.get("output_config")).get("effort") or "medium")
        effort = _EFFORTS.get(wanted, "medium")
        if self.facts.thinking == "effort":
            if kind == "enabled":
                budget = thinking.get("budget_tokens")
                effort = _effort(budget if isinstance(budget, int) else 0)
            # Amazon's models take no limit of tokens together with the highest effort.
            body["reasoning_effort"] = (
                "medium" if effort == "high" and self.facts.family == "nova" else effort
            )
            return
        if kind == "adaptive" and self.facts.adaptive:
            body["thinking"] = {"type": "adaptive"}
        else:
            budget = thinking.get("budget_tokens")
            budget = budget if isinstance(budget, int) else _BUDGETS[effort]
            # A part of max_tokens, which our own limit may have lowered.
            budget = min(max(budget, _LEAST_BUDGET), body["max_tokens"] - 1)
            if budget < _LEAST_BUDGET or _tools_without_thinking(body["messages"]):
                return
            body["thinking"] = {"type": "enabled", "budget_tokens": budget}
        for name in ("temperature", "top_p", "top_k"):
            body.pop(name, None)

    def output(self, body: Json, tools: list[Json]) -> str:
        """Structured output and effort; returns the name of LiteLLM's tool for JSON where it may use one."""
        given = _dict(self.asked.get("output_config"))
        form = given.get("format") or self.asked.get("output_format")
        config: Json = {}
        if (
            isinstance(form, dict)
            and form.get("type") == "json_schema"
            and isinstance(form.get("schema"), dict)
        ):
            config["format"] = form
        if self.claude and self.facts.effort and isinstance(given.get("effort"), str):
            config["effort"] = given["effort"]
        if config:
            body["output_config"] = config
        own = {str(tool.get("name")) for tool in tools}
        return JSON_TOOL if "format" in config and JSON_TOOL not in own else ""

    # ---- tools

    def tools(self, given: list[Json], loaded: set[str], removed: set[str]) -> list[Json]:
        kept: list[Json] = []
        for tool in given:
            name = str(tool.get("name") or "")
            if name in removed:
                continue
            if tool.get("defer_loading") and name not in loaded:
                # Not to be shown before a search found it (Anthropic: Tool search); placeholders never are.
                continue
            kept.append(self.tool(tool, name))
        if kept and not self.facts.tools:
            raise refusals.invalid(
                f"{self.asked['model']} ({self.facts.model}) cannot call tools: choose another model for this slot "
                "(occtl models), or set supports_function_calling in the file's model_info if it can"
            )
        return kept

    def tool(self, tool: Json, name: str) -> Json:
        kind = str(tool.get("type") or "custom")
        schema = tool.get("input_schema")
        if kind not in ("custom", "function") and not isinstance(schema, dict):
            base = _VERSION.sub("", kind)
            if purpose := server_tools.purpose(tool):
                raise _not_here(kind, purpose)
            if self.claude and base in (*CLIENT_TOOLS, "computer"):
                return {
                    key: value for key, value in tool.items() if key not in ("defer_loading", "cache_control")
                }
            if base not in CLIENT_TOOLS:
                raise _not_here(kind, "what this type stands for")
            description, schema = CLIENT_TOOLS[base]
            tool = {"name": name or base, "description": description}
        kept: Json = {key: tool[key] for key in _TOOL_FIELDS if tool.get(key)}
        kept["name"] = self.name(name or "tool")
        schema = schema if isinstance(schema, dict) else {}
        kept["input_schema"] = schema if schema.get("type") == "object" else {**schema, "type": "object"}
        kept.setdefault("description", name)
        if self.claude:
            # Amazon's own models cache what is said, not what can be called.
            self.mark(tool, kept)
        return kept

    def name(self, name: str) -> str:
        """A tool's name as Converse takes it; ``names`` has the way back."""
        if name not in self.names:
            short = name
            if not _NAME.match(name):
                digest = hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()[:8]
                short = f"{re.sub(r'[^a-zA-Z0-9_-]', '_', name)[:54]}_{digest}"
                short = short if short[0].isascii() and short[0].isalpha() else f"t{short}"[:64]
            self.names[name] = short
        return self.names[name]

    def tool_choice(self, choice: Json) -> Json:
        kind = choice.get("type")
        if kind == "tool":
            chosen: Json = {"type": "tool", "name": self.name(str(choice.get("name") or ""))}
        elif kind in ("any", "auto"):
            chosen = {"type": kind}
        else:
            return {}
        if self.claude and choice.get("disable_parallel_tool_use"):
            chosen["disable_parallel_tool_use"] = True
        return chosen

    # ---- text

    def system(self, given: Any) -> list[Json]:
        blocks = [{"type": "text", "text": given}] if isinstance(given, str) else _dicts(given)
        kept = []
        for block in blocks:
            text = block.get("text")
            if isinstance(text, str) and text.strip() and not text.startswith(_ACCOUNTING):
                kept.append(self.mark(block, {"type": "text", "text": text}))
        return kept

    def messages(self, given: list[Any], system: list[Json], *, with_tools: bool) -> list[Json]:
        turns: list[tuple[str, list[Json]]] = []
        for number, message in enumerate(given):
            if not isinstance(message, dict) or message.get("role") not in ("user", "assistant", "system"):
                raise refusals.invalid(f"messages.{number}.role: Input should be 'user' or 'assistant'")
            content = message.get("content")
            blocks = [{"type": "text", "text": content}] if isinstance(content, str) else _dicts(content)
            role = str(message["role"])
            if role == "system":
                told = self.told(blocks)
                if not turns:
                    system += told
                    continue
                role, kept = "user", [_reminder(one) for one in told]
            else:
                kept = [one for block in blocks for one in self.block(block, role, with_tools)]
            if not kept:
                continue
            if turns and turns[-1][0] == role:
                turns[-1][1].extend(kept)
            else:
                turns.append((role, kept))
        if not turns:
            raise refusals.invalid("messages: text content blocks must be non-empty")
        # Results first: Converse wants them before anything else that is said in the same turn.
        return [
            {"role": role, "content": sorted(blocks, key=lambda one: one["type"] != "tool_result")}
            for role, blocks in turns
        ]

    def told(self, blocks: list[Json]) -> list[Json]:
        """The text of a system turn. Tools that it adds or removes are seen to elsewhere."""
        return [
            self.mark(block, {"type": "text", "text": block["text"]})
            for block in blocks
            if block.get("type") == "text" and isinstance(block.get("text"), str) and block["text"].strip()
        ]

    def block(self, block: Json, role: str, with_tools: bool) -> Iterable[Json]:
        """One block of a turn as this model can take it: itself, something in its place, or nothing."""
        kind = block.get("type")
        if kind == "text":
            text = block.get("text")
            if isinstance(text, str) and text.strip():
                yield self.mark(block, {"type": "text", "text": text})
        elif kind == "tool_use":
            yield self.tool_use(block, with_tools)
        elif kind == "tool_result":
            yield self.tool_result(block, with_tools)
        elif kind in ("thinking", "redacted_thinking"):
            # Only the model that it came from can read it, and Bedrock wants its signature back.
            if self.facts.thinking == "claude" and (block.get("signature") or block.get("data")):
                yield {key: block[key] for key in ("type", "thinking", "signature", "data") if key in block}
        else:
            yield from (self.mark(block, one) for one in self.thing(block))

    def tool_use(self, block: Json, with_tools: bool) -> Json:
        name, given = str(block.get("name") or ""), block.get("input")
        if not with_tools:
            return _text(f"[called the tool {name} with {json.dumps(given, ensure_ascii=False)}]")
        identity = _identity(str(block.get("id") or ""))
        given = _narrow(given) if isinstance(given, dict) else {}
        return self.mark(block, {"type": "tool_use", "id": identity, "name": self.name(name), "input": given})

    def tool_result(self, block: Json, with_tools: bool) -> Json:
        content = block.get("content")
        given = [{"type": "text", "text": content}] if isinstance(content, str) else _dicts(content)
        names = [
            str(one.get("tool_name") or one.get("name") or "")
            for one in given
            if one.get("type") == "tool_reference"
        ]
        blocks = [one for part in given for one in self.thing(part) if part.get("type") != "tool_reference"]
        if names:
            blocks.insert(0, _text(f"Found and loaded, they can be called now: {', '.join(names)}"))
        if not blocks:
            blocks = [_text("(no output)")]
        if block.get("is_error") and not re.match(
            r"\W*(?:\w+ ){0,2}(?:\w*error|exit code|failed)", _words(blocks), re.IGNORECASE
        ):
            # LiteLLM has no place for it, and the model should know.
            blocks.insert(0, _text("Error:"))
        if not with_tools:
            return _text(f"[the tool answered: {_words(blocks)}]")
        result = {
            "type": "tool_result",
            "tool_use_id": _identity(str(block.get("tool_use_id") or "")),
            "content": blocks,
        }
        return self.mark(block, result)

    def thing(self, block: Json) -> Iterable[Json]:
        """What may stand in a turn and in a tool's result alike."""
        kind = block.get("type")
        source = _dict(block.get("source"))
        if kind == "text":
            text = block.get("text")
            if isinstance(text, str) and text.strip():
                yield _text(text)
        elif kind == "image":
            if self.facts.vision and source.get("type") in ("base64", "url"):
                yield {"type": "image", "source": source}
            else:
                yield _text(f"[an image was left out: {self.facts.model or 'this model'} cannot see images]")
        elif kind == "document":
            yield from self.document(block, source)
        elif kind == "search_result":
            parts = [
                str(block.get("title") or ""),
                str(block.get("source") or ""),
                _words(_dicts(block.get("content"))),
            ]
            yield _text("\n".join(part for part in parts if part))
        elif kind == "server_tool_use":
            yield _text(f"[used {block.get('name')}: {json.dumps(block.get('input'), ensure_ascii=False)}]")
        elif isinstance(kind, str) and kind.endswith("_tool_result"):
            yield _text(f"[{kind}: {_found(block.get('content'))}]")
        elif isinstance(block.get("text"), str) and block["text"].strip():
            yield _text(block["text"])

    def document(self, block: Json, source: Json) -> Iterable[Json]:
        title = str(block.get("title") or "")
        kind = source.get("type")
        if kind == "text" and isinstance(source.get("data"), str):
            yield _text(f"{title}\n{source['data']}".strip() or "(an empty document)")
        elif kind == "content":
            inside = source.get("content")
            parts = [{"type": "text", "text": inside}] if isinstance(inside, str) else _dicts(inside)
            yield from ([_text(title)] if title else [])
            for part in parts:
                yield from self.thing(part)
        elif self.facts.documents and kind in ("base64", "url"):
            yield {"type": "document", "source": source}
        else:
            name = f" ({title})" if title else ""
            yield _text(
                f"[a document{name} was left out: {self.facts.model or 'this model'} cannot read such files]"
            )

    def mark(self, given: Json, kept: Json) -> Json:
        """Pass a cache mark on where the model has prompt caching."""
        mark = _dict(given.get("cache_control"))
        if mark.get("type") == "ephemeral" and self.facts.caching and self.marks < _MOST_MARKS:
            self.marks += 1
            kept["cache_control"] = {"type": "ephemeral"}
            if self.claude and mark.get("ttl") in ("5m", "1h"):
                kept["cache_control"]["ttl"] = mark["ttl"]
        return kept


def _loaded(messages: list[Any]) -> tuple[set[str], list[Json], set[str]]:
    """Names of deferred tools that were found or used, tools that a system turn added, names that one removed."""
    loaded: set[str] = set()
    added: dict[str, Json] = {}
    removed: set[str] = set()
    for message in messages:
        content = message.get("content") if isinstance(message, dict) else None
        for block in _dicts(content):
            kind = block.get("type")
            if kind == "tool_use":
                loaded.add(str(block.get("name")))
            elif kind == "tool_result":
                for one in _dicts(block.get("content")):
                    if one.get("type") == "tool_reference":
                        loaded.add(str(one.get("tool_name") or one.get("name")))
            elif kind in ("tool_addition", "tool_removal"):
                tool = _dict(block.get("tool"))
                definition = _dict(tool.get("definition"))
                name = str(tool.get("name") or definition.get("name") or "")
                if kind == "tool_removal":
                    removed.add(name)
                    added.pop(name, None)
                    continue
                removed.discard(name)
                loaded.add(name)
                if definition:
                    added[name] = definition
    return loaded, list(added.values()), removed


def _not_here(kind: str, purpose: str) -> refusals.Refusal:
    return refusals.invalid(
        f"The tool {kind} ({purpose}) runs on Anthropic's servers; this model runs on Amazon Bedrock, which cannot run "
        f"it (capability_rejected: server_tool:{kind}). No result was made up. Tell the user that it is not available "
        "with this model, and that it works with a model of the Claude plan ([search] in ocd.toml sends it there)."
    )


def _reminder(block: Json) -> Json:
    """A system turn in the middle of a conversation, in the form that Claude Code itself uses where there are none."""
    return {**block, "text": f"<system-reminder>\n{block['text']}\n</system-reminder>"}


def _tools_without_thinking(messages: list[Json]) -> bool:
    """Whether a tool loop is under way whose call came without thinking: Claude's models refuse to think then."""
    for message in reversed(messages):
        if message["role"] == "assistant":
            kinds = [block["type"] for block in message["content"]]
            return "tool_use" in kinds and not {"thinking", "redacted_thinking"} & set(kinds)
    return False


def _effort(budget: int) -> str:
    return next((name for name, least in (("high", 16000), ("medium", 4000)) if budget >= least), "low")


def _narrow(value: Any) -> Any:
    """Whole numbers beyond 64 bits as text: LiteLLM's parser would make floating point of them."""
    if isinstance(value, dict):
        return {key: _narrow(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_narrow(inner) for inner in value]
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return str(value)
    return value


def _identity(identity: str) -> str:
    if _IDENTITY.match(identity):
        return identity
    return f"tooluse_{hashlib.sha256(identity.encode('utf-8', 'replace')).hexdigest()[:32]}"


def _found(content: Any) -> str:
    """What a server tool of Anthropic's found, as text."""
    lines = []
    for one in [content] if isinstance(content, dict) else _dicts(content):
        text = str(
            one.get("title")
            or one.get("tool_name")
            or one.get("stdout")
            or one.get("error_code")
            or one.get("text")
            or ""
        )
        lines.append(f"{text} {one.get('url') or ''}".strip())
    return "\n".join(line for line in lines if line) or "nothing that can be shown here"


def _words(blocks: list[Json]) -> str:
    return "\n".join(str(one["text"]) for one in blocks if isinstance(one.get("text"), str))


def _text(text: str) -> Json:
    return {"type": "text", "text": text}


def _dict(value: Any) -> Json:
    return value if isinstance(value, dict) else {}


def _dicts(value: Any) -> list[Json]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


# ---- counting

#: tokens of an image when nothing is known of it (Anthropic: Vision, an image of 1092 × 1092)
_IMAGE = 1600
#: a text beyond this many characters is a file: four to a token, and no closer look
_LONG = 100_000
_PIECE = re.compile(r"[A-Za-z]+|\d|[^\sA-Za-z\d]")


def estimate(body: Json) -> int:
    """About how many tokens a request's input has. An estimate: every model cuts text in its own way.

    A word is a token for each six letters, a digit and a sign one for each two, a letter of another script one: that
    is within a fifth of Claude's and Qwen's own counts for English, code and JSON.
    """
    total = 0.0
    for text in _texts([body.get("system"), body.get("messages"), body.get("tools")]):
        if text is None:
            total += _IMAGE
            continue
        if len(text) > _LONG:
            total += len(text) / 4
            continue
        for piece in _PIECE.findall(text):
            if piece[0].isascii():
                total += (len(piece) + 5) // 6 if piece.isalpha() else 0.55
            else:
                total += 0.9
    return max(1, round(total))


def _texts(value: Any) -> Iterable[str | None]:
    """Every text in a request, its keys too; None for an image or a document."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        if value.get("type") in ("image", "document"):
            yield None
            return
        for key, inner in value.items():
            if key in ("cache_control", "signature"):
                continue
            yield str(key)
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)
    elif isinstance(value, (int, float)):
        yield str(value)
