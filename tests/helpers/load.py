"""A steady load: plain requests on connections of their own, and long streams, each answer checked."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Load:
    """What came of it. ``failed`` holds one line for each request that did not end as it should."""

    sent: int = 0
    failed: list[str] = field(default_factory=list)
    cut: list[str] = field(default_factory=list)
    longest: float = 0.0
    times: list[float] = field(default_factory=list)
    streams: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, seconds: float, failure: str = "") -> None:
        with self.lock:
            self.sent += 1
            self.longest = max(self.longest, seconds)
            self.times.append(seconds)
            if failure:
                self.failed.append(failure)


def one(port: int, headers: dict[str, str], model: str, load: Load) -> None:
    """One plain request."""
    began = time.monotonic()
    failure = ""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        body = json.dumps({"model": model, "max_tokens": 8, "messages": [{"role": "user", "content": "ok?"}]})
        connection.request(
            "POST", "/v1/messages?beta=true", body, {**headers, "content-type": "application/json"}
        )
        answer = connection.getresponse()
        text = answer.read()
        if answer.status != 200 or b'"content"' not in text:
            failure = f"status {answer.status}: {text[:200]!r}"
    except (OSError, http.client.HTTPException) as error:
        failure = repr(error)
    finally:
        connection.close()
    load.note(time.monotonic() - began, failure)


def stream(port: int, headers: dict[str, str], model: str, load: Load) -> None:
    """One streamed answer, read to its protocol's own end."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        body = json.dumps(
            {
                "model": model,
                "max_tokens": 8,
                "stream": True,
                "messages": [{"role": "user", "content": "ok?"}],
            }
        )
        connection.request(
            "POST", "/v1/messages?beta=true", body, {**headers, "content-type": "application/json"}
        )
        answer = connection.getresponse()
        text = answer.read()
        ended = answer.status == 200 and b"message_stop" in text and b"event: error" not in text
        failure = "" if ended else f"status {answer.status}, ends with {text[-200:]!r}"
    except (OSError, http.client.HTTPException) as error:
        failure = repr(error)
    finally:
        connection.close()
    with load.lock:
        load.streams += 1
        if failure:
            load.cut.append(failure)


@contextmanager
def steady(
    port: int, headers: dict[str, str], model: str = "claude-opus-9-9", rate: float = 20.0, streams: int = 0
) -> Iterator[Load]:
    """Requests at ``rate`` a second while the block runs; all answers are awaited at its end.

    ``streams`` long streams (of the model ``claude-sonnet-9-9``) are opened at the start.
    """
    load = Load()
    stop = threading.Event()
    threads: list[threading.Thread] = []

    def ticker() -> None:
        due = time.monotonic()
        while not stop.wait(max(0.0, due - time.monotonic())):
            due += 1.0 / rate
            thread = threading.Thread(target=one, args=(port, headers, model, load))
            thread.start()
            threads.append(thread)

    for _ in range(streams):
        thread = threading.Thread(target=stream, args=(port, headers, "claude-sonnet-9-9", load))
        thread.start()
        threads.append(thread)
    beat = threading.Thread(target=ticker)
    beat.start()
    try:
        yield load
    finally:
        stop.set()
        beat.join()
        for thread in list(threads):
            thread.join(130)
