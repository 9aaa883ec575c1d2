"""Which way do requests take, and is that what the file wants?"""

from collections.abc import Iterator

from ocd.settings.findings import Finding
from ocd.stack import pipe
from ocd.stack.stack import Stack, found, routes, serves


def _not_piped(stack: Stack) -> Iterator[Finding]:
    """What goes through LiteLLM though it could pass untouched, and what in the file decides that."""
    file = stack.main
    if file is None:
        return
    reason, where = pipe.whole(stack)
    if reason:
        if where or stack.settings.litellm.pipe != "off":
            what = f"everything goes through LiteLLM, nothing passes untouched: {reason}"
            yield found("note", "not-piped", file, where or ("model_list",), what)
        return
    for way in pipe.ways(stack):
        if way.way != pipe.LITELLM:
            continue
        served = [route for route in routes(file) if route.name == way.group]
        if any(route.provider == "anthropic" or pipe.is_own_hop(stack, route) for route in served):
            what = f"requests for {way.group} go through LiteLLM, they do not pass untouched: {way.why}"
            yield found("note", "not-piped", file, way.where or ("model_list",), what)


def _unfiltered(stack: Stack) -> Iterator[Finding]:
    """Fallbacks of groups that LiteLLM routes itself: ocd decides about them too, and tells LiteLLM not to.

    One that cannot be told falls back on every error, so such a file is not served.
    """
    file = stack.main
    listed = pipe.fallbacks(file)
    if file is None or not listed or _can_be_told(stack):
        return
    for way in pipe.ways(stack):
        if way.way != pipe.LITELLM or not any(
            source == "*" or serves([source], way.group) or serves([way.group], source) for source in listed
        ):
            continue
        section = (
            "router_settings" if file.section("router_settings").get("fallbacks") else "litellm_settings"
        )
        what = (
            f"LiteLLM routes {way.group} itself ({way.why}), and this version falls back on every error: an "
            "expired login or a wrong request would be answered, and billed, by another upstream"
        )
        fix = f"Remove the fallbacks of {way.group}, or what keeps it from passing beside LiteLLM"
        yield found("error", "fallback-unfiltered", file, (section, "fallbacks"), what, fix)


def _can_be_told(stack: Stack) -> bool:
    """Whether this LiteLLM knows the request's ``disable_fallbacks`` (1.90.7 to 1.106.2 do, in their router)."""
    if stack.site is None:
        return True
    router = stack.site / "litellm" / "router.py"
    sources = [router, *sorted((stack.site / "litellm" / "router_utils").glob("*.py"))]
    try:
        return not router.exists() or any(b"disable_fallbacks" in one.read_bytes() for one in sources)
    except OSError:
        return True


def _searching(stack: Stack) -> Iterator[Finding]:
    """[search] names a model that cannot search."""
    slot = stack.settings.search.slot
    _name, trouble = pipe.search(stack)
    if trouble:
        what = f"search.slot is {slot!r}, and {trouble}: requests with a web search stay refused on AWS"
        fix = "Name a slot or model group that goes to Anthropic with the session's login (occtl models)"
        yield Finding("warning", "search-slot", str(stack.toml), None, "search.slot", what, fix)


RULES = (_not_piped, _unfiltered, _searching)
