"""When may a request move to another model group? On overload, rate limit, 5xx and lost connections only.

LiteLLM falls back on every error, so that an expired login (401) would silently be served, and billed, by AWS; it has
no filter by status (1.106.2). All its ways into a fallback go through one method of its router,
``Router.async_function_with_fallbacks_common_utils(e, disable_fallbacks, …)``: here it raises ``e`` itself when a
fallback is not due. Every fallback that is taken passes ``run_async_fallback`` in the same module, and is reported.
Both are in 1.99.4, 1.106.2 and 1.109.1. A LiteLLM without them serves all the same, and says so
(``fallback-unfiltered``).

Loaded by path inside a guest: imports LiteLLM, and nothing of ocd.
"""

import fnmatch
import functools
import inspect
from collections.abc import Callable
from typing import Any

Report = Callable[[dict[str, Any]], None]

_METHOD = "async_function_with_fallbacks_common_utils"
_TAKEN = "run_async_fallback"
#: who looks fallbacks up, and the module in which that is done
_LOOKUP, _EVENTS = "get_fallback_model_group", "litellm.router_utils.fallback_event_handlers"
#: of the statuses below 500: took too long, and too many requests
_PASSING = (408, 429)
#: errors without a status that mean a lost connection; named, since their libraries may be missing
_LOST = ("httpx.TransportError", "aiohttp.ClientError", "builtins.ConnectionError", "builtins.TimeoutError")
#: model groups whose failures are remembered
_MOST = 1000


def install(report: Report, config: str = "") -> bool:
    """Put the filter into the LiteLLM of this process; ``config`` is the file that it serves.

    Returns whether it could be done; if not and the file speaks of fallbacks, that is reported. Never raises.
    """
    try:
        from litellm import router

        policy = _Policy(report)
        method = getattr(router.Router, _METHOD)
        # Where the method looks the name up: since 1.109 that is another module than litellm.router.
        names = inspect.unwrap(method).__globals__
        taken, filtered = names[_TAKEN], policy.filtered(method)
        setattr(router.Router, _METHOD, filtered)
        if getattr(router.Router, _METHOD) is not filtered:
            raise AttributeError(f"{_METHOD} cannot be replaced")
        names[_TAKEN] = policy.reported(taken)
        _understand_patterns(names)
    except Exception as error:
        if _mentions_fallbacks(config):
            report({"kind": "fallback-unfiltered", "where": f"{type(error).__name__}: {error}"})
        return False
    return True


def _understand_patterns(names: dict[str, Any]) -> None:
    """``fallbacks: [{"claude-opus-*": [NAME]}]`` counts for every model that the pattern matches.

    LiteLLM routes by patterns, but looks fallbacks up by the name that was asked for: exactly, or ``*``. A version
    without the function keeps its own rules: then nothing falls back by a pattern.
    """
    import sys

    places = [names, getattr(sys.modules.get(_EVENTS), "__dict__", {})]
    for place in places:
        found = place.get(_LOOKUP)
        if callable(found) and not hasattr(found, "__wrapped__"):
            place[_LOOKUP] = by_pattern(found)


def by_pattern(lookup: Callable[..., Any]) -> Callable[..., Any]:
    """LiteLLM's ``get_fallback_model_group(fallbacks, model_group)`` → (targets or None, index of ``*`` or None)."""

    @functools.wraps(lookup)
    def found(fallbacks: list[Any], model_group: str) -> Any:
        answer = lookup(fallbacks=fallbacks, model_group=model_group)
        targets, general = answer
        if targets is not None and (general is None or targets is not fallbacks[general].get("*")):
            return answer
        best = ""
        for entry in fallbacks:
            for pattern, listed in entry.items() if isinstance(entry, dict) else ():
                # A target of its own list may match too, and must not fall back to itself.
                if len(best) < len(str(pattern)) > 1 and _matches(str(pattern), model_group, listed):
                    best, targets = str(pattern), listed
        return (targets, general)

    return found


def _matches(pattern: str, group: str, listed: Any) -> bool:
    own = isinstance(listed, list) and group in [_target(one) for one in listed]
    return "*" in pattern and not own and fnmatch.fnmatchcase(group, pattern.replace("[", "[[]"))


def _mentions_fallbacks(config: str) -> bool:
    try:
        with open(config, "rb") as file:
            return b"fallbacks" in file.read()
    except OSError:
        # An include that cannot be seen from here may have them.
        return bool(config)


class _Policy:
    """``refused``: model groups whose last failure was one that no fallback is for."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self.refused: set[str] = set()

    def filtered(self, method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        async def common_utils(router: Any, *args: Any, **kwargs: Any) -> Any:
            error = kwargs["e"] if "e" in kwargs else args[0]
            if not self.due(router, error, _group(args, kwargs)):
                raise error
            return await method(router, *args, **kwargs)

        return common_utils

    def due(self, router: Any, error: BaseException, group: str) -> bool:
        """Whether ``error`` of the model group is one that another group may answer instead."""
        if self._has_own_list(router, error):
            return True
        if type(unwrapped(error)).__name__ in ("RouterRateLimitError", "RouterRateLimitErrorBasic"):
            # "No deployments available": a cooldown, the consequence of the failure before.
            return group not in self.refused
        if passes(error):
            self.refused.discard(group)
            return True
        if len(self.refused) < _MOST:
            self.refused.add(group)
        return False

    def _has_own_list(self, router: Any, error: BaseException) -> bool:
        """Whoever wrote ``context_window_fallbacks`` or ``content_policy_fallbacks`` means these errors."""
        lists = {
            "ContextWindowExceededError": "context_window_fallbacks",
            "ContentPolicyViolationError": "content_policy_fallbacks",
        }
        wanted = lists.get(type(unwrapped(error)).__name__)
        return bool(wanted and getattr(router, wanted, None))

    def reported(self, taken: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(taken)
        async def run(*args: Any, **kwargs: Any) -> Any:
            source = str(kwargs.get("original_model_group", ""))[:200]
            targets = kwargs.get("fallback_model_group")
            names = [_target(one)[:200] for one in (targets if isinstance(targets, list) else [targets])]
            why = reason(kwargs.get("original_exception"))
            try:
                answer = await taken(*args, **kwargs)
            except Exception:
                self._tell(source, names, why, "failed")
                raise
            self._tell(source, names, why, "answered")
            return answer

        return run

    def _tell(self, source: str, names: list[str], why: str, outcome: str) -> None:
        where = f"{source} to {' or '.join(names)} ({why}): {outcome}"
        self.report(
            {"kind": "fallback", "where": where, "from": source, "to": names, "why": why, "outcome": outcome}
        )


def _target(one: Any) -> str:
    """A target's name; one that is a mapping may hold anything else too, which is nobody's business."""
    return str(one.get("model", "")) if isinstance(one, dict) else str(one)


def _group(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    found = kwargs.get("model_group", args[5] if len(args) > 5 else "")
    return found if isinstance(found, str) else ""


def unwrapped(error: BaseException) -> BaseException:
    """The error itself: one that ends a stream comes inside a MidStreamFallbackError."""
    inner = getattr(error, "original_exception", None)
    if type(error).__name__ == "MidStreamFallbackError" and isinstance(inner, BaseException):
        return inner
    return error


def passes(error: BaseException) -> bool:
    """Whether this is overload, a rate limit, a server's own fault or a lost connection."""
    error = unwrapped(error)
    status = status_of(error)
    if status:
        return status >= 500 or status in _PASSING
    kinds = {f"{kind.__module__.partition('.')[0]}.{kind.__name__}" for kind in type(error).__mro__}
    return not kinds.isdisjoint(_LOST)


def status_of(error: BaseException) -> int:
    """The HTTP status that the error stands for, 0 when it has none."""
    try:
        return int(getattr(error, "status_code", 0) or 0)
    except (TypeError, ValueError):
        return 0


def reason(error: Any) -> str:
    """The status, or the kind of error: never its message, which may quote anything."""
    if not isinstance(error, BaseException):
        return "unknown"
    error = unwrapped(error)
    status = status_of(error)
    return f"{status} {type(error).__name__}" if status else type(error).__name__
