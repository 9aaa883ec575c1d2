"""Answered requests, as the hooks inside the proxies tell of them: the latest, who follows them, and what troubles.

Everything here is in memory and bounded; what is kept for longer is ``ocd.supervisor.observation.usage``'s. A request
costs one validated message and a few dictionary look-ups, whoever listens.
"""

import collections
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from ocd.stack import families
from ocd.supervisor.observation.numbers import Numbers
from ocd.wire.messages import Exchange, Trouble

#: the latest requests that are kept
KEPT = 500
#: sessions whose figures are kept; the ones that asked least lately go first
KEPT_SESSIONS = 200
#: seconds: a trouble that nobody ran into for so long is old news
FORGOTTEN = 24 * 3600.0
#: seconds in which the same trouble is not announced twice
QUIET = 60.0
#: model groups and upstreams that troubles are kept of (names come from requests: they must not grow for ever)
KEPT_TROUBLES = 50

#: model groups that figures are kept of; the rest is ``OTHER``
KEPT_NAMES = 60
LONGEST_NAME = 120
OTHER = "other"

#: word → what it means for the user, and the next step. Only what is the upstream's, and lasts, is in here.
MEANINGS: dict[str, tuple[str, str]] = {
    "login-expired": (
        "{host} refuses the login (401)",
        "Run `/login` inside an openclaude session, or `claude /login`; `occtl explain {model}` names the credential",
    ),
    "plan-limit": (
        "the plan's limit is reached (429)",
        "Wait until it is renewed, or change to another slot with `/model`; `occtl usage` shows what was used",
    ),
    "overloaded": (
        "{host} is overloaded",
        "Nothing to do here: it passes; `/model` changes to another slot meanwhile",
    ),
    "access-denied": (
        "AWS does not allow it",
        "Run `occtl aws policy` and give the profile what it prints",
    ),
    "model-access": (
        "the AWS account has no access to the model",
        "Ask for access under Model access in the Bedrock console, then check with `occtl models`",
    ),
    "aws-expired": ("the AWS login has expired, or there is none", "Run `occtl aws login`"),
    "throttled": (
        "Bedrock throttles the account (429)",
        "Wait a little; the quota is in the AWS console under Service Quotas",
    ),
    "unreachable": ("{host} cannot be reached", "Look at the network, then at `occtl explain {model}`"),
    "model-gone": (
        "{host} has no model {model}: it was retired, or never was (404)",
        "Choose another with `occtl model set`, or give the route in the LiteLLM file another model",
    ),
}
#: the next step when the model is one that Claude Code itself chose, or was asked for by name
_NOT_PINNED = "Update Claude Code, or choose another model with `/model`"
_PINNED = "Run `occtl model unpin {slot}`, so that Claude Code chooses, or `occtl model set {slot} MODEL`"
#: troubles of a credential or a host: whatever that host answers well ends them for every model
_OF_THE_HOST = frozenset({"login-expired", "aws-expired", "unreachable", "plan-limit"})
#: troubles that no time mends: they stay until the model answers, or slots or routes are others
_LASTING = frozenset({"model-gone"})

_FIELDS = frozenset(Exchange.model_fields)
_Key = TypeVar("_Key", int, str)


class Tally:
    """What one session asked for so far."""

    __slots__ = ("cost", "fallback", "last", "latest", "requests", "tokens")

    def __init__(self) -> None:
        self.requests = 0
        self.tokens = 0
        #: US dollars at list price for what did not go to Anthropic: the plan is paid for
        self.cost = 0.0
        self.last = 0.0
        self.latest: Exchange | None = None
        #: the latest fallback and when it was taken
        self.fallback: tuple[float, str] = (0.0, "")


class _Trouble:
    __slots__ = ("announced", "count", "first", "host", "last", "model", "slot")

    def __init__(self, exchange: Exchange) -> None:
        self.first = self.last = exchange.time
        self.count = 0
        self.host = exchange.upstream
        self.model = exchange.model
        self.slot = exchange.slot
        self.announced = False


class Exchanges:
    """``event`` records an event of the daemon; ``slots`` says which model group serves which slot now.

    ``listeners`` are called with each Exchange, ``followers`` with its JSON line.
    """

    def __init__(self, event: Callable[..., None], slots: Callable[[], dict[str, str]]) -> None:
        self.event = event
        self.slots = slots
        #: groups that only sessions with a profile have in a slot → that slot
        self.of_profiles: Callable[[], Mapping[str, str]] = dict
        #: as JSON lines: a quarter of the memory, and what whoever asks gets
        self.ring: collections.deque[str] = collections.deque(maxlen=KEPT)
        self.listeners: list[Callable[[Exchange], None]] = []
        self.followers: list[Callable[[str], None]] = []
        self.sessions: collections.OrderedDict[int, Tally] = collections.OrderedDict()
        #: Claude Code's id of a session → its process's pid, as far as they are known
        self.owner: Callable[[str], int | None] = lambda identity: None
        #: figures of sessions whose process is not known yet
        self.unclaimed: collections.OrderedDict[str, Tally] = collections.OrderedDict()
        #: requests that are being answered: proxy → generation → how many, where the guest says so
        self.in_flight: dict[str, dict[int, int]] = {}
        #: which reports were taken
        self.numbers = Numbers()
        #: what a guest sent that was no Exchange
        self.misunderstood = 0
        #: model groups that figures are kept of; see ``label``
        self.names: set[str] = set()
        self._news = False
        self._troubles: dict[tuple[str, str, str], _Trouble] = {}
        self._announced: dict[tuple[str, str, str], float] = {}

    # ------------------------------------------------------------------------------------------------- in

    def take(self, proxy: str, generation: int, message: dict[str, Any]) -> Exchange | None:
        """A guest's ``{"ev": "request", …}``; anything but an Exchange is counted and dropped, as is what was taken
        before."""
        number = message.get("number", 0)
        if number and not self.numbers.first(proxy, generation, number):
            return None
        fields = {name: value for name, value in message.items() if name in _FIELDS}
        fields |= {"proxy": proxy, "generation": generation, "slot": self.slot(str(fields.get("model", "")))}
        if fields.get("session") is None and isinstance(fields.get("session_id"), str):
            fields["session"] = self.owner(fields["session_id"])
        try:
            exchange = Exchange.model_validate(fields)
        except ValidationError:
            self.misunderstood += 1
            return None
        self.add(exchange)
        return exchange

    def add(self, exchange: Exchange) -> None:
        """Keep one answered request, and tell everybody who listens."""
        line = exchange.model_dump_json()
        self.ring.append(line)
        self._news = True
        if not exchange.hop:
            self._tally(exchange)
        self._watch_trouble(exchange)
        for listener in list(self.listeners):
            listener(exchange)
        for follower in list(self.followers):
            follower(line)

    def slot(self, model: str) -> str:
        """Which of Claude Code's slots a request for the model is one of; empty: none."""
        found = families.slot_of(model, self.slots())
        return found or self.of_profiles().get(families.without_1m(model), "")

    def label(self, exchange: Exchange) -> str:
        """The model group as figures name it: what only wrong requests ask for, or comes after ``KEPT_NAMES`` others,
        is ``other``. A name comes from a request, and figures must not grow with every idea of a client."""
        name = exchange.model
        if name in self.names:
            return name
        bare = families.without_1m(name)
        pinned = bare in self.slots().values() or bare in self.of_profiles()
        asked = exchange.upstream and exchange.trouble != "model-gone"
        proven = pinned or asked or exchange.status < 400
        if not proven or len(self.names) >= KEPT_NAMES or len(name) > LONGEST_NAME or not name.isprintable():
            return OTHER
        self.names.add(name)
        return name

    def _tally(self, exchange: Exchange) -> None:
        # Claude Code counts a context in twenty questions at a time; nothing is used up by them.
        if exchange.path.endswith("/count_tokens"):
            return
        if exchange.session is not None:
            tally = _latest(self.sessions, exchange.session)
        elif exchange.session_id:
            tally = _latest(self.unclaimed, exchange.session_id)
        else:
            return
        tally.requests += 1
        tally.tokens += exchange.input_tokens + exchange.output_tokens
        if exchange.provider not in ("", "anthropic"):
            tally.cost += exchange.cost or 0.0
        tally.last = exchange.time
        tally.latest = exchange
        if exchange.fallback:
            tally.fallback = (exchange.time, exchange.fallback)

    # ------------------------------------------------------------------------------------------------ out

    def last(self, lines: int) -> list[str]:
        """The latest requests as JSON lines, oldest first."""
        if lines <= 0:
            return []
        return list(self.ring)[-lines:]

    def news(self) -> bool:
        """Whether there was a request since this was asked last."""
        news, self._news = self._news, False
        return news

    def claim(self, identity: str, pid: int) -> None:
        """The session of that id is this process's: what it asked before counts."""
        early = self.unclaimed.pop(identity, None)
        if early is None:
            return
        tally = _latest(self.sessions, pid)
        tally.requests += early.requests
        tally.tokens += early.tokens
        tally.cost += early.cost
        if early.last >= tally.last:
            tally.last, tally.latest = early.last, early.latest
        tally.fallback = max(tally.fallback, early.fallback)

    def forget_session(self, pid: int) -> None:
        """A session ended; its pid may be another's soon."""
        self.sessions.pop(pid, None)

    def on_guest_status(self, proxy: str, generation: int, message: dict[str, Any]) -> None:
        """What a guest says of the requests that it is answering now."""
        value = message.get("in_flight")
        if isinstance(value, int):
            self.in_flight.setdefault(proxy, {})[generation] = value

    def on_guest_end(self, proxy: str, generation: int) -> None:
        self.in_flight.get(proxy, {}).pop(generation, None)
        self.numbers.forget(proxy, generation)

    # ------------------------------------------------------------------------------------------- troubles

    def _watch_trouble(self, exchange: Exchange) -> None:
        if exchange.probe and exchange.trouble == "login-expired":
            # That a made-up login is refused says nothing of the user's own.
            return
        # What the second proxy answers to the first is the first one's trouble too, and shown there.
        if exchange.trouble in MEANINGS and not exchange.hop:
            self._begin(exchange)
        elif self._troubles and not exchange.trouble and exchange.status < 400 and not exchange.fallback:
            self._pass(exchange)

    def _begin(self, exchange: Exchange) -> None:
        key = (exchange.proxy, exchange.model, exchange.trouble)
        for other in [one for one in self._troubles if one[:2] == key[:2] and one != key]:
            # It fails for another reason now: the earlier one is not what is wrong.
            del self._troubles[other]
        found = self._troubles.get(key)
        if found is None:
            if len(self._troubles) >= KEPT_TROUBLES:
                self._troubles.pop(min(self._troubles, key=lambda one: self._troubles[one].last))
            found = self._troubles[key] = _Trouble(exchange)
        found.count += 1
        found.last = exchange.time
        found.host = exchange.upstream or found.host
        if found.announced or time.monotonic() - self._announced.get(key, -QUIET) < QUIET:
            return
        found.announced = True
        if len(self._announced) > KEPT_TROUBLES:
            self._announced.clear()
        self._announced[key] = time.monotonic()
        what, step = self._words(exchange.trouble, found)
        self.event(
            "upstream-trouble",
            exchange.proxy,
            exchange.generation,
            f"{_who(exchange.slot, exchange.model)}: {what}",
            trouble=exchange.trouble,
            model=exchange.model,
            slot=exchange.slot,
            status=exchange.status,
            next=step,
        )

    def _pass(self, exchange: Exchange) -> None:
        for key, found in list(self._troubles.items()):
            proxy, model, kind = key
            same_host = kind in _OF_THE_HOST and exchange.upstream and exchange.upstream == found.host
            if proxy != exchange.proxy or not (model == exchange.model or same_host):
                continue
            del self._troubles[key]
            if found.announced:
                self.event(
                    "upstream-ok",
                    proxy,
                    exchange.generation,
                    f"{_who(found.slot, model)}: answered again",
                    trouble=kind,
                    model=model,
                    slot=found.slot,
                )

    def clear_troubles(self, proxy: str, hop: bool = False, kinds: frozenset[str] | None = None) -> None:
        """The cause may be gone (another configuration, another login): what is still wrong will show itself again.

        ``hop``: only of what went on to the second proxy; ``kinds``: only these.
        """
        aws = frozenset({"access-denied", "model-access", "aws-expired", "throttled", "unreachable"})
        for key in list(self._troubles):
            if key[0] == proxy and (kinds is None or key[2] in kinds) and (not hop or key[2] in aws):
                del self._troubles[key]

    def troubles(self, proxy: str) -> list[Trouble]:
        """What of a proxy's upstreams is not well now, the latest first."""
        oldest = time.time() - FORGOTTEN
        for key in [k for k, one in self._troubles.items() if one.last < oldest and k[2] not in _LASTING]:
            del self._troubles[key]
        mine = [(key[2], found) for key, found in self._troubles.items() if key[0] == proxy]
        return [self._message(kind, found) for kind, found in sorted(mine, key=lambda one: -one[1].last)]

    def routes_changed(self, proxy: str) -> None:
        """The slots or a proxy's routes are others now: a model that was gone may be another one's name."""
        for key in [key for key in self._troubles if key[0] == proxy and key[2] in _LASTING]:
            del self._troubles[key]

    def _message(self, kind: str, found: _Trouble) -> Trouble:
        what, step = self._words(kind, found)
        return Trouble(
            kind=kind,
            slot=found.slot,
            model=found.model,
            what=what,
            next=step,
            since=found.first,
            last=found.last,
            count=found.count,
        )

    def _words(self, kind: str, found: _Trouble) -> tuple[str, str]:
        """What happened and the next step. Names come from requests: they are put in, never interpreted."""
        what, step = MEANINGS[kind]
        if kind == "model-gone" and found.slot:
            pinned = self.slots().get(found.slot, "")
            step = _PINNED if pinned and families.without_1m(found.model) in pinned else _NOT_PINNED
        return (
            what.replace("{host}", found.host or "the upstream").replace("{model}", found.model or "MODEL"),
            step.replace("{slot}", found.slot).replace("{model}", found.model or "MODEL"),
        )

    # ------------------------------------------------------------------------------------------- hand-over

    def notes(self) -> dict[str, Any]:
        """What a successor needs: the sessions' figures and the troubles. The ring itself is lost."""
        return {
            "sessions": [
                [pid, t.requests, t.tokens, t.latest.model_dump(exclude_defaults=True) if t.latest else None]
                for pid, t in self.sessions.items()
            ],
            "costs": [[pid, t.cost] for pid, t in self.sessions.items() if t.cost],
            "troubles": [
                [*key, t.slot, t.host, t.first, t.last, t.count, t.announced]
                for key, t in self._troubles.items()
            ],
            "numbers": self.numbers.notes(),
        }

    def restore(self, notes: dict[str, Any]) -> None:
        """Take over from a former supervisor; notes of another form are left out."""
        try:
            self.numbers.restore(notes.get("numbers", []))
            for pid, requests, tokens, latest in notes.get("sessions", []):
                tally = Tally()
                tally.requests, tally.tokens = int(requests), int(tokens)
                if latest is not None:
                    tally.latest = Exchange.model_validate(latest)
                    tally.last = tally.latest.time
                    if tally.latest.fallback:
                        tally.fallback = (tally.last, tally.latest.fallback)
                self.sessions[int(pid)] = tally
            for pid, cost in notes.get("costs", []):
                if int(pid) in self.sessions:
                    self.sessions[int(pid)].cost = float(cost)
            for proxy, model, kind, slot, host, first, last, count, announced in notes.get("troubles", []):
                if kind not in MEANINGS:
                    continue
                found = _Trouble(_bare(proxy, model, slot, host, float(first)))
                found.last, found.count, found.announced = float(last), int(count), bool(announced)
                self._troubles[(str(proxy), str(model), str(kind))] = found
        except (TypeError, ValueError, AttributeError):
            # ValidationError is a ValueError: another version's notes.
            self.misunderstood += 1


def _latest(tallies: "collections.OrderedDict[_Key, Tally]", key: _Key) -> Tally:
    """The tally of a session that asks now; the one that asked least lately makes room."""
    tally = tallies.setdefault(key, Tally())
    tallies.move_to_end(key)
    while len(tallies) > KEPT_SESSIONS:
        tallies.popitem(last=False)
    return tally


def _bare(proxy: str, model: str, slot: str, host: str, moment: float) -> Exchange:
    return Exchange(
        time=moment,
        proxy=proxy,
        generation=0,
        path="",
        model=model,
        slot=slot,
        upstream=host,
        status=0,
        seconds=0.0,
    )


def _who(slot: str, model: str) -> str:
    if slot and model and slot != model:
        return f"{slot} ({model})"
    return slot or model or "a request"
