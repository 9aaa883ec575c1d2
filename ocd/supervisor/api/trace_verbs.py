"""Have whole exchanges kept for a while, or no longer."""

from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response

from ocd.supervisor.api.http import json_response, message_of
from ocd.supervisor.observation.trace import Trace
from ocd.wire.messages import Outcome, TraceRequest


class TraceVerbs:
    """``changed`` is called when it is on or off now and was not before."""

    def __init__(self, trace: Trace, changed: Callable[[], None]) -> None:
        self._trace = trace
        self._changed = changed

    async def trace(self, request: Request) -> Response:
        """``POST /v1/trace``"""
        order = await message_of(request, TraceRequest)
        if order.seconds:
            self._trace.on(order.seconds, order.slot)
            changed = True
        else:
            changed = self._trace.off("`occtl trace off`")
        self._changed()
        return json_response(Outcome(ok=True, changed=changed))
