"""Who may see the page. Pure apart from chance and the clock that it is given.

A link is good for one use and one minute. Whoever uses it gets two secrets, each useless without the other: a cookie
(``HttpOnly``, ``SameSite=Strict``) and a word that only the page keeps (``sessionStorage``) and sends in a header. A
cookie goes to every port of 127.0.0.1, so to other users' servers as well: the word does not, and no page of another
origin can send that header.
"""

import hmac
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

#: seconds in which a link can be used
LINK_SECONDS = 60.0
#: seconds after which a visitor needs another link
VISIT_SECONDS = 12 * 3600.0
#: links that wait to be used, and visitors, at most: the oldest go first
MOST_LINKS, MOST_VISITORS = 5, 20
#: with the port behind it: browsers do not tell the ports of a host apart
COOKIE = "ocd-dashboard"
HEADER = b"x-ocd-page"
NAMES = ("127.0.0.1", "localhost")


class Visitor(NamedTuple):
    cookie: str
    word: str
    until: float


def _secret() -> str:
    return secrets.token_urlsafe(32)


@dataclass
class Access:
    """``clock`` in seconds, going forward only; ``secret`` makes a new one."""

    clock: Callable[[], float] = time.monotonic
    secret: Callable[[], str] = _secret
    _links: dict[str, float] = field(default_factory=dict)
    _visitors: list[Visitor] = field(default_factory=list)

    def link(self) -> str:
        """A word that is good for one visit."""
        now = self.clock()
        self._links = {word: until for word, until in self._links.items() if until > now}
        while len(self._links) >= MOST_LINKS:
            del self._links[next(iter(self._links))]
        word = self.secret()
        self._links[word] = now + LINK_SECONDS
        return word

    def waiting(self) -> bool:
        """Whether a link could still be used."""
        now = self.clock()
        return any(until > now for until in self._links.values())

    def redeem(self, word: str) -> Visitor | None:
        """The visitor that a link makes; None: it was never given, is used already, or too old."""
        known = next((link for link in self._links if same(link, word)), None)
        if known is None or self._links.pop(known) <= self.clock():
            return None
        visitor = Visitor(self.secret(), self.secret(), self.clock() + VISIT_SECONDS)
        self._visitors = [*self._visitors[-MOST_VISITORS + 1 :], visitor]
        return visitor

    def may_load(self, cookie: str) -> bool:
        """Whether the page's own files are for whoever has that cookie: there is nothing in them."""
        return self._find(cookie) is not None

    def may_ask(self, cookie: str, word: str) -> bool:
        """Whether data and actions are for whoever has both."""
        visitor = self._find(cookie)
        return visitor is not None and same(visitor.word, word)

    def _find(self, cookie: str) -> Visitor | None:
        now = self.clock()
        return next((one for one in self._visitors if one.until > now and same(one.cookie, cookie)), None)

    def forget(self) -> None:
        """Nobody may see anything any more."""
        self._links.clear()
        self._visitors.clear()


def same(one: str, other: str) -> bool:
    """Compared in a time that says nothing; an empty text is never right."""
    return bool(one) and hmac.compare_digest(one.encode(), other.encode("utf-8", "replace"))


def is_ours(host: str, port: int) -> bool:
    """Whether a Host header names us: a page whose name was made to lead here has another (DNS rebinding)."""
    return host in {f"{name}:{port}" for name in NAMES}


def refusal(method: str, headers: Mapping[bytes, bytes], port: int, opening: bool = False) -> str:
    """Why a request is refused for where it comes from; empty: it is not.

    ``opening``: it brings a link, which a file of ours or a terminal handed out, so its origin says nothing.
    """
    host = headers.get(b"host", b"").decode("latin-1")
    if not is_ours(host, port):
        return "this address is not ours"
    if opening:
        return ""
    origin = headers.get(b"origin")
    if origin is not None and origin.decode("latin-1") != f"http://{host}":
        return "another page asked"
    if headers.get(b"sec-fetch-site", b"same-origin") not in (b"same-origin", b"none"):
        return "another page asked"
    if method not in ("GET", "HEAD") and origin is None:
        return "a page says where it comes from"
    return ""


def cookie_name(port: int) -> str:
    """The name of the cookie of the page on ``port``."""
    return f"{COOKIE}-{port}"


def cookie_of(headers: Mapping[bytes, bytes], port: int) -> str:
    """The value of our cookie; empty when there is none."""
    for part in headers.get(b"cookie", b"").decode("latin-1").split(";"):
        name, _, value = part.strip().partition("=")
        if name == cookie_name(port):
            return value
    return ""
