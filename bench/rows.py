"""The measurements. Each returns rows: what, figure, target, whether it is met, and what it stands beside."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from bench import alternatives, hook
from tests.helpers.daemon import ROOT, Daemon, eventually
from tests.helpers.load import steady

#: the shipped policy; only that nothing goes to sleep in the middle of a measurement
CALM = "[supervision]\nidle_minutes = 0\n"
#: what one runs to look, and waits for
LOOKS = ("status", "version", "sessions", "logs", "config path")
NO_SPARES = "[proxies.main]\nspare = false\n[proxies.bedrock]\nspare = false\n"


@dataclass
class Row:
    """One line of the table. ``ok`` is None where nothing was promised."""

    what: str
    figure: str
    target: str = ""
    ok: bool | None = None
    beside: str = ""


@dataclass
class Run:
    """What the measurements share."""

    upstreams: dict[str, str]
    control: str
    tools: Path
    quick: bool
    rows: list[Row] = field(default_factory=list)

    def behave(self, *behaviours: dict[str, Any]) -> None:
        answer = httpx.post(self.control, json={"behaviours": list(behaviours)}, trust_env=False)
        answer.raise_for_status()

    def times(self, full: int, quick: int) -> int:
        return quick if self.quick else full


def ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def p99(values: list[float]) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * 0.99))]


# ------------------------------------------------------------------------------------------------- launch


def launch(run: Run) -> Iterator[Row]:
    """openclaude to exec, warm daemon; a bare interpreter and the seeds' launcher beside it."""
    with Daemon(upstreams=run.upstreams) as d:
        d.start()
        python = sys.executable
        script = d.prefix / "openclaude"
        site = str(ROOT)
        script.write_text(
            f"#!{python} -IS\n# ocd.client\nimport sys\nsys.path.insert(0, {site!r})\n"
            "from ocd.client.__main__ import main\nsys.exit(main())\n"
        )
        script.chmod(0o755)
        seeds = d.prefix / "openClaude"
        settings = d.prefix / "settings.json"
        settings.write_text('{"env": {"A": "b"}}')
        jq = (
            "jq" if subprocess.run(["sh", "-c", "command -v jq"], capture_output=True).returncode == 0 else ""
        )
        merge = f"jq '.model=\"opus\"' {settings}" if jq else f"{python} -c 'import json'"
        seeds.write_text(
            f"#!/bin/bash\ncurl -s http://127.0.0.1:{d.port}/health/liveliness >/dev/null\n"
            f"curl -s http://127.0.0.1:{d.port + 1}/health/liveliness >/dev/null\n"
            f"{merge} > {settings}.new\nexec /bin/true\n"
        )
        seeds.chmod(0o755)
        line = d.prefix / "occtl"
        line.write_text(
            f"#!{python} -I\nimport sys\nsys.path.insert(0, {site!r})\n"
            "from ocd.ctl.__main__ import main\nsys.exit(main())\n"
        )
        line.chmod(0o755)
        env = {**d.env, "OPENCLAUDE_CLAUDE": "/bin/true"}
        commands = {
            "openclaude": [str(script), "-p", "x"],
            "bare python": [python, "-c", "pass"],
            "seeds' launcher": [str(seeds)],
            "statusline": [str(line), "statusline"],
            **{verb: [str(line), *verb.split()] for verb in LOOKS},
            "completion": [str(line)],
        }
        asking = {"_OCCTL_COMPLETE": "bash_complete", "COMP_WORDS": "occtl restart ", "COMP_CWORD": "2"}
        times: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(run.times(32, 12)):
            for name, argv in commands.items():
                began = time.perf_counter()
                more = asking if name == "completion" else {}
                subprocess.run(argv, env=env | more, check=True, capture_output=True, input=b"{}")
                times[name].append(time.perf_counter() - began)
        median = {name: statistics.median(values[2:]) for name, values in times.items()}
        ratio = median["openclaude"] / median["bare python"]
        seeds_median = median["seeds' launcher"]
        yield Row(
            "openclaude to exec, warm daemon (median)",
            f"{ms(median['openclaude'])}, {ratio:.2f} x bare python",
            "<= 2 x bare python, ahead of the seeds' launcher",
            ratio <= 2 and median["openclaude"] < seeds_median,
            f"bare python {ms(median['bare python'])}, seeds' launcher {ms(seeds_median)}"
            + ("" if jq else " (without jq)"),
        )
        yield Row(
            "`occtl statusline`, warm daemon (median)",
            ms(median["statusline"]),
            "< 25 ms",
            median["statusline"] < 0.025,
            f"bare python {ms(median['bare python'])}",
        )
        slowest = max(LOOKS, key=lambda verb: median[verb])
        yield Row(
            f"`occtl {'`, `'.join(LOOKS)}` (median)",
            ", ".join(ms(median[verb]) for verb in LOOKS),
            "<= 60 ms each",
            median[slowest] <= 0.06,
            f"bare python {ms(median['bare python'])}",
        )
        yield Row(
            "`occtl`, a completion (median)",
            ms(median["completion"]),
            "<= 50 ms",
            median["completion"] <= 0.05,
        )


def cold(run: Run) -> Iterator[Row]:
    """From nothing to both proxies serving, against one bare litellm to its first good answer; then a first prompt."""
    ours, bare = [], []
    first: dict[str, list[float]] = {"ours": [], "bare": []}
    for _ in range(run.times(5, 2)):
        with Daemon(upstreams=run.upstreams, settings=CALM) as d:
            began = time.monotonic()
            d.start(wait=False)
            # Answers, not states: both ports are asked until they answer.
            for port in (d.port, d.port + 1):
                alternatives.wait_alive(port)
            ours.append(time.monotonic() - began)
            d.wait_ready()
            first["ours"].append(_request(d.port, d.keys()["main"]))
        began = time.monotonic()
        with alternatives.bare(run.upstreams) as one:
            bare.append(time.monotonic() - began)
            # As long as ours had for its spare: both have had their time.
            time.sleep(2)
            first["bare"].append(_request(one.port, alternatives.KEY))
    ratio = statistics.median(ours) / statistics.median(bare)
    yield Row(
        "both proxies ready from cold (median)",
        f"{ms(statistics.median(ours))}, {ratio:.2f} x one bare litellm",
        "<= 1.15 x",
        ratio <= 1.15,
        f"one bare litellm {ms(statistics.median(bare))}",
    )
    median = {name: statistics.median(times) for name, times in first.items()}
    yield Row(
        "the first prompt after a start (median)",
        f"{ms(median['ours'])}, {median['ours'] / median['bare']:.2f} x one bare litellm",
        beside=f"one bare litellm {ms(median['bare'])}",
    )


def cpu(pids: list[int]) -> float:
    """Processor seconds that these processes have used: to the nanosecond where the kernel says so, else to 10 ms."""
    total = 0.0
    for pid in pids:
        if tasks := list(Path(f"/proc/{pid}/task").glob("*/schedstat")):
            for task in tasks:
                with contextlib.suppress(OSError):  # a thread that has just ended
                    total += int(task.read_text().split()[0]) / 1e9
            continue
        with contextlib.suppress(psutil.Error):
            times = psutil.Process(pid).cpu_times()
            total += times.user + times.system
    return total


def pss(pids: list[int]) -> float:
    """Proportional memory, MB (shared pages are divided among those who share them)."""
    total = 0
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            total += psutil.Process(pid).memory_full_info().pss
    return total / 1e6


def rest(run: Run) -> Iterator[Row]:
    with Daemon(upstreams=run.upstreams) as d:
        d.start()
        d.ask()
        supervisor = d.supervisor_pid()
        time.sleep(5)
        before, began = cpu([supervisor, d.keeper]), time.monotonic()
        time.sleep(run.times(60, 15))
        share = (cpu([supervisor, d.keeper]) - before) / (time.monotonic() - began) * 100
        rss = {n: psutil.Process(p).memory_info().rss / 1e6 for n, p in (("s", supervisor), ("k", d.keeper))}
        yield Row("supervisor at rest, RSS", f"{rss['s']:.1f} MB", "<= 50 MB", rss["s"] <= 50)
        yield Row("keeper at rest, RSS", f"{rss['k']:.1f} MB", "<= 15 MB", rss["k"] <= 15)
        yield Row("supervisor and keeper at rest, CPU", f"{share:.3f} % of a core", "< 0.2 %", share < 0.2)


# -------------------------------------------------------------------------------------------------- crash


def outage(port: int, kill: Callable[[], None], limit: float = 60.0) -> tuple[int, float]:
    """Kill, then knock every 10 ms: how many connections were refused, and when the next good answer came."""
    kill()
    began = time.monotonic()
    refused = 0
    while time.monotonic() - began < limit:
        knocked = time.monotonic()
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=limit)
            connection.request("GET", "/health/liveliness")
            good = connection.getresponse().status == 200
            connection.close()
            if good:
                return refused, time.monotonic() - began
        except ConnectionRefusedError:
            refused += 1
        except (OSError, http.client.HTTPException):
            pass
        time.sleep(max(0.0, 0.01 - (time.monotonic() - knocked)))
    return refused, limit


def crash(run: Run) -> Iterator[Row]:
    """SIGKILL of the serving process: ocd with and without a spare, supervisord, pm2, a shell loop."""
    figures: dict[str, tuple[int, float, float]] = {}
    for name, settings in (("ocd with a spare", CALM), ("ocd without a spare", CALM + NO_SPARES)):
        with Daemon(upstreams=run.upstreams, settings=settings) as d:
            d.start()
            total, gaps = 0, []
            for _ in range(run.times(20, 5)):
                d.wait_ready()
                # One that has served: a start at most once a second is the policy, and has a row of its own.
                time.sleep(1.2)
                pid = d.proxy()["pid"]
                refused, gap = outage(d.port, lambda pid=pid: os.kill(pid, signal.SIGKILL))
                total += refused
                gaps.append(gap)
                eventually(lambda pid=pid: d.proxy()["pid"] not in (pid, None), 60)
            figures[name] = total, statistics.median(gaps), max(gaps)
    others: list[tuple[str, Any]] = [
        ("supervisord", lambda: alternatives.supervisord(run.upstreams, run.tools)),
        ("pm2", lambda: alternatives.pm2(run.upstreams, run.tools)),
        ("a shell loop", lambda: alternatives.shell_loop(run.upstreams)),
    ]
    for name, make in others:
        try:
            with make() as bench:
                refused, gaps = 0, []
                for _ in range(run.times(5, 2)):
                    pid = bench.serving_pid()
                    more, gap = outage(bench.port, lambda pid=pid: os.kill(pid, signal.SIGKILL))
                    refused += more
                    gaps.append(gap)
                    alternatives.wait_alive(bench.port)
                figures[name] = refused // len(gaps), statistics.median(gaps), max(gaps)
        except (OSError, RuntimeError, subprocess.CalledProcessError) as error:
            yield Row(f"{name}", f"not available: {error}")
    beside = "; ".join(
        f"{n}: {f[0]} refused, {ms(f[1])}" for n, f in figures.items() if not n.startswith("ocd")
    )
    best = figures.get("supervisord", (0, 6.0, 6.0))[1]
    for name, limit in (("ocd with a spare", 0.10), ("ocd without a spare", 0.6)):
        refused, gap, worst = figures[name]
        need = f"0 refused, <= {limit:g} s" + (", >= 50 x ahead of supervisord" if limit < 0.5 else "")
        ok = refused == 0 and gap <= limit and (limit > 0.5 or best / gap >= 50)
        yield Row(
            f"SIGKILL of a serving proxy, {name}",
            f"{refused} refused, next good answer {ms(gap)} (worst {ms(worst)}), {best / gap:.0f} x ahead",
            need,
            ok,
            beside,
        )


def kills(run: Run) -> Iterator[Row]:
    """SIGKILL of the serving main proxy each second, under 20 requests a second, on the shipped policy."""
    with Daemon(upstreams=run.upstreams, settings=CALM) as d:
        d.start()
        d.wait_ready()
        seconds, killed = run.times(60, 10), 0
        with steady(d.port, d.headers(), rate=20) as load:
            for _ in range(seconds):
                due = time.monotonic() + 1.0
                pid = eventually(lambda: d.proxy()["pid"], 30)
                os.kill(pid, signal.SIGKILL)
                killed += 1
                eventually(lambda pid=pid: d.proxy()["pid"] not in (pid, None), 30)
                time.sleep(max(0.0, due - time.monotonic()))
        other = [one for one in load.failed if "status" in one or "refused" in one.lower()]
        yield Row(
            f"SIGKILL of main each second for {seconds} s: requests answered other than 200",
            f"{len(other)} of {load.sent} ({killed} kills; {len(load.failed) - len(other)} were on the killed process)",
            "0",
            not other,
        )


#: Blocks the event loop of the process that a file in the configuration folder names, for as long as it says, once.
STALLING = """
import os, pathlib, time
from litellm.integrations.custom_logger import CustomLogger
class Stalling(CustomLogger):
    done = ""
    async def async_pre_call_hook(self, user_api_key_dict, cache, data, call_type):
        file = pathlib.Path.cwd() / "stall"
        text = file.read_text() if file.exists() else ""
        if text != self.done and text.split()[0] == str(os.getpid()):
            self.done = text
            time.sleep(float(text.split()[1]))
        return data
handler = Stalling()
"""


def stall(run: Run) -> Iterator[Row]:
    """A callback that blocks main's event loop for six seconds while streams run."""
    run.behave({"model": "sonnet", "chunks": 120, "delay": 0.1})
    with Daemon(upstreams=run.upstreams, settings=CALM) as d:
        d.write("stalling.py", STALLING)
        text = d.read("litellm.yaml")
        d.write(
            "litellm.yaml",
            text.replace("settings: {drop", "settings: {callbacks: [stalling.handler], drop", 1),
        )
        d.start()
        d.wait_ready()
        rounds, streams, cut = run.times(5, 1), 0, []
        for _ in range(rounds):
            with steady(d.port, d.headers(), rate=5, streams=3) as load:
                eventually(lambda: load.sent > 5, 30)
                (d.config / "stall").write_text(f"{d.proxy()['pid']} 6")
                eventually(lambda: load.streams == 3, 120)
            streams += load.streams
            cut += [*load.cut, *load.failed]
        ended = d.kinds().count("hang-ended")
        yield Row(
            "six-second stall in a callback: streams cut, requests failed",
            f"{len(cut)} of {streams} streams ({rounds} stalls, {ended} processes ended)",
            "0",
            not cut,
        )
    run.behave()


# --------------------------------------------------------------------------------------------------- load


def under_load(run: Run) -> Iterator[Row]:
    """Reloads, and SIGKILL of everything that does not serve, under 20 requests a second with 10 long streams."""
    run.behave({"model": "sonnet", "chunks": 100, "delay": 0.3})
    with Daemon(upstreams=run.upstreams, settings=CALM) as d:
        d.start()
        good = d.read("litellm.yaml")
        total = failed = streams = cut = reloads = 0
        longest = 0.0
        notes: list[str] = []
        rounds = run.times(14, 1)
        for number in range(rounds):
            with steady(d.port, d.headers(), rate=20, streams=10) as load:
                end = time.monotonic() + 36
                while time.monotonic() < end:
                    d.write("litellm.yaml", good + f"\n# {number} {reloads}\n")
                    assert d.post("/v1/reload")["ok"]
                    reloads += 1
                    time.sleep(2)
            total, failed = total + load.sent, failed + len(load.failed)
            streams, cut, longest = streams + load.streams, cut + len(load.cut), max(longest, load.longest)
            notes += load.failed[:2] + load.cut[:2]
        enough = run.quick or total >= 10_000
        yield Row(
            "reload under load",
            f"{total} requests, {failed} failed; {streams} streams of 30 s, {cut} cut; {reloads} reloads",
            "0 failed, 0 cut, >= 10,000 requests",
            failed == 0 and cut == 0 and enough,
            f"longest request {ms(longest)}" + (f"; {notes[0][:120]}" if notes else ""),
        )
        d.write("litellm.yaml", good)
        d.post("/v1/reload")
        for victim in ("supervisor", "forkserver", "spare"):
            d.wait_ready()
            find = {"supervisor": d.supervisor_pid, "forkserver": d.host_pid, "spare": d.spare_pid}[victim]
            with steady(d.port, d.headers(), rate=20, streams=10) as load:
                for _ in range(run.times(5, 2)):
                    pid = eventually(find, 60)
                    os.kill(pid, signal.SIGKILL)
                    eventually(lambda pid=pid, find=find: find() != pid, 60)
                    time.sleep(1)
            yield Row(
                f"SIGKILL of the {victim} under the same load",
                f"{load.sent} requests, {len(load.failed)} failed; {load.streams} streams, {len(load.cut)} cut",
                "0 failed, 0 cut",
                not load.failed and not load.cut,
            )
    run.behave()


def transitions(run: Run) -> Iterator[Row]:
    """How long status takes while everything moves."""
    times: list[float] = []
    with Daemon(upstreams=run.upstreams, settings=CALM) as d:
        d.start()
        good = d.read("litellm.yaml")
        stop = threading.Event()

        def ask() -> None:
            with d.client() as client:
                while not stop.is_set():
                    began = time.perf_counter()
                    with contextlib.suppress(httpx.HTTPError):
                        client.get("/v1/status")
                        times.append(time.perf_counter() - began)
                    stop.wait(0.02)

        thread = threading.Thread(target=ask)
        thread.start()
        for number in range(run.times(8, 3)):
            d.post("/v1/proxies/main/restart")
            d.write("litellm.yaml", good + f"\n# {number}\n")
            d.post("/v1/reload")
            os.kill(d.proxy()["pid"], signal.SIGKILL)
            d.post("/v1/proxies/bedrock/stop")
            d.post("/v1/proxies/bedrock/start")
        stop.set()
        thread.join()
    yield Row(
        "status during restarts, reloads, crashes, stops (p99)",
        f"{ms(p99(times))} of {len(times)} calls (median {ms(statistics.median(times))})",
        "<= 50 ms",
        p99(times) <= 0.05,
    )


def hang(run: Run) -> Iterator[Row]:
    with Daemon(upstreams=run.upstreams, settings=CALM) as d:
        d.start()
        gaps = []
        for _ in range(run.times(5, 2)):
            d.wait_ready()
            pid = d.proxy()["pid"]
            os.kill(pid, signal.SIGSTOP)
            began = time.monotonic()
            with socket.create_connection(("127.0.0.1", d.port), 30) as sock:
                # The kernel may hand this connection to nobody but the hung one: a new one then asks.
                sock.close()
            eventually(lambda pid=pid: d.proxy()["pid"] not in (pid, None), 60)
            d.ask()
            gaps.append(time.monotonic() - began)
        yield Row(
            "hang (SIGSTOP) to the next served connection, worst",
            ms(max(gaps)),
            "<= 10 s",
            max(gaps) <= 10,
            f"median {ms(statistics.median(gaps))}",
        )


# ------------------------------------------------------------------------------------------------- figures


def _request(port: int, key: str) -> float:
    body = json.dumps(
        {"model": "claude-opus-9-9", "max_tokens": 8, "messages": [{"role": "user", "content": "ok?"}]}
    )
    headers = {
        "content-type": "application/json",
        "x-litellm-api-key": f"Bearer {key}",
        "authorization": "Bearer sk-ant-oat01-canary",
    }
    began = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("POST", "/v1/messages?beta=true", body, headers)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    if answer.status != 200:
        raise RuntimeError(f"status {answer.status}")
    return time.perf_counter() - began


def latency(run: Run) -> Iterator[Row]:
    """The same request through ocd's main proxy and through a bare litellm, in turn.

    Two processes of the same program differ by two or three per cent for as long as they live (where their memory
    happens to lie): several of each are started, and all their times count together.
    """
    ours: list[float] = []
    bare: list[float] = []
    for _ in range(run.times(6, 1)):
        with Daemon(upstreams=run.upstreams, settings=CALM) as d, alternatives.bare(run.upstreams) as bench:
            d.start()
            both = [(d.port, d.keys()["main"], ours), (bench.port, alternatives.KEY, bare)]
            for number in range(run.times(1500, 300) + 50):
                for port, key, times in both if number % 2 else both[::-1]:
                    seconds = _request(port, key)
                    if number >= 50:
                        times.append(seconds)
    middle = statistics.median(ours) / statistics.median(bare)
    tail = p99(ours) / p99(bare)
    yield Row(
        "request latency against a bare litellm",
        f"{middle:.3f} at the median, {tail:.3f} at the 99th percentile",
        "<= 1.03 at both",
        middle <= 1.03 and tail <= 1.03,
        f"ours {ms(statistics.median(ours))} / {ms(p99(ours))}, "
        f"bare {ms(statistics.median(bare))} / {ms(p99(bare))}",
    )
    with Daemon(upstreams=run.upstreams, settings=CALM) as d:
        d.start()
        # A short answer of a fast model: forty pieces of text, a hundred a second.
        run.behave({"chunks": hook.TEXTS, "delay": 0.01})
        headers = {
            "x-litellm-api-key": f"Bearer {d.keys()['main']}",
            "authorization": "Bearer sk-ant-oat01-canary",
        }
        streams = []
        with httpx.Client(headers=headers, trust_env=False, timeout=30) as client:
            for _ in range(run.times(20, 5)):
                began = time.perf_counter()
                client.post(f"http://127.0.0.1:{d.port}/v1/messages", content=hook.BODY).raise_for_status()
                streams.append(time.perf_counter() - began)
        run.behave()
        whole = statistics.median(streams)
        plain = hook.seconds()
        yield Row(
            "the meter's own time in a request",
            f"{plain / whole:.2%}",
            "below 1 %",
            plain / whole < 0.01,
            f"{plain * 1e6:.0f} us of {ms(whole)}, a stream of {hook.TEXTS} texts",
        )


def asked(port: int, headers: dict[str, str], *models: str) -> None:
    """Ten requests for each model, half of them streams."""
    for model in models:
        for number in range(10):
            body = {"model": model, "max_tokens": 20, "stream": bool(number % 2)}
            body["messages"] = [{"role": "user", "content": "hello"}]
            url = f"http://127.0.0.1:{port}/v1/messages"
            httpx.post(url, headers=headers, json=body, timeout=60, trust_env=False).raise_for_status()


def memory(run: Run) -> Iterator[Row]:
    """Proportional memory of everything of ours, against two bare processes; measured idle and after requests."""
    with alternatives.bare(run.upstreams) as one, alternatives.bare(run.upstreams) as two:
        time.sleep(3)
        pids = [
            p.pid
            for bench in (one, two)
            for s in bench.started
            for p in [psutil.Process(s.pid), *psutil.Process(s.pid).children(recursive=True)]
        ]
        bare = pss(pids)
        for bench in (one, two):
            headers = {
                "x-litellm-api-key": f"Bearer {alternatives.KEY}",
                "authorization": "Bearer sk-ant-oat01-x",
            }
            asked(bench.port, headers, "claude-opus-9-9")
        bare_used = pss(pids)
    one_spare = "[proxies.bedrock]\nspare = false\n"
    for name, settings, limit in (("with one spare", one_spare, 0.90), ("without spares", NO_SPARES, 0.75)):
        with Daemon(upstreams=run.upstreams, settings=CALM + settings) as d:
            d.start()
            time.sleep(12)
            tree = [d.keeper, *(p.pid for p in psutil.Process(d.keeper).children(recursive=True))]
            ours = pss(tree)
            asked(d.port, d.headers(), "claude-opus-9-9", "qwen-3-coder")
            time.sleep(1)
            used = pss(tree)
        yield Row(
            f"memory (PSS) of two proxies and all of ours, {name}",
            f"{ours:.0f} MB, {ours / bare:.2f} x two bare litellm",
            f"<= {limit:.2f} x",
            ours / bare <= limit,
            f"two bare litellm {bare:.0f} MB",
        )
        yield Row(
            f"the same after requests through both, {name}",
            f"{used:.0f} MB, {used / bare_used:.2f} x two bare litellm",
            beside=f"two bare litellm after ten requests each {bare_used:.0f} MB",
        )


def idle(run: Run) -> Iterator[Row]:
    with Daemon(upstreams=run.upstreams, settings="[supervision]\nidle_minutes = 0.05\n") as d:
        d.start(wait=False)
        eventually(lambda: all(p["state"] == "idle" for p in d.status()["proxies"].values()), 120)
        eventually(lambda: len(psutil.Process(d.keeper).children()) == 1, 60)
        supervisor = d.supervisor_pid()
        time.sleep(2)
        before, began = cpu([supervisor, d.keeper]), time.monotonic()
        time.sleep(run.times(30, 10))
        share = (cpu([supervisor, d.keeper]) - before) / (time.monotonic() - began) * 100
        total = sum(psutil.Process(p).memory_info().rss for p in (supervisor, d.keeper)) / 1e6
        began = time.monotonic()
        alternatives.wait_alive(d.port)
        woken = time.monotonic() - began
        yield Row("in idle: memory in all (RSS)", f"{total:.1f} MB", "<= 65 MB", total <= 65)
        yield Row(
            "in idle: CPU", f"{share:.3f} % of a core", "<= 0.2 %", share <= 0.2, f"woken in {ms(woken)}"
        )


def workers(run: Run) -> Iterator[Row]:
    """Throughput with four processes on one socket, against litellm's own."""

    def throughput(port: int, key: str) -> float:
        done = [0] * 16
        end = time.monotonic() + run.times(12, 5)

        def ask(slot: int) -> None:
            while time.monotonic() < end:
                with contextlib.suppress(OSError, http.client.HTTPException, RuntimeError):
                    _request(port, key)
                    done[slot] += 1

        threads = [threading.Thread(target=ask, args=(slot,)) for slot in range(16)]
        began = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(done) / (time.monotonic() - began)

    settings = CALM + "[proxies.main]\nworkers = 4\nspare = false\n[proxies.bedrock]\nspare = false\n"
    with Daemon(upstreams=run.upstreams, settings=settings) as d:
        d.start()
        eventually(lambda: len([m for m in d.proxy()["members"] if m["role"] == "serving"]) == 4, 60)
        throughput(d.port, d.keys()["main"])
        ours = throughput(d.port, d.keys()["main"])
    with alternatives.bare(run.upstreams, "--num_workers", "4") as bench:
        throughput(bench.port, alternatives.KEY)
        theirs = throughput(bench.port, alternatives.KEY)
    yield Row(
        "workers = 4, throughput",
        f"{ours:.0f} requests/s, {ours / theirs:.2f} x litellm --num_workers 4",
        "",
        None,
        f"litellm --num_workers 4: {theirs:.0f} requests/s; {os.cpu_count()} cores, stand-in upstream on the same",
    )


ALL: dict[str, Callable[[Run], Iterator[Row]]] = {
    "launch": launch,
    "cold": cold,
    "rest": rest,
    "crash": crash,
    "kills": kills,
    "stall": stall,
    "transitions": transitions,
    "hang": hang,
    "latency": latency,
    "memory": memory,
    "idle": idle,
    "workers": workers,
    "load": under_load,
}
