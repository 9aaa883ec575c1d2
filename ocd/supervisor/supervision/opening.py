"""Opening a proxy's ports: look first, then have the keeper bind; we never serve beside somebody else."""

import errno
import os
from collections.abc import Callable

from ocd.adapters import ports
from ocd.core import state as core
from ocd.core import step as transitions
from ocd.supervisor.supervision import spec
from ocd.supervisor.supervision.listeners import Listeners, listener_name, port_of


class Opening:
    """``known`` says how the ports of the proxy are now, ``feed`` takes what has come of an attempt."""

    def __init__(
        self,
        name: str,
        listeners: Listeners,
        known: Callable[[], core.Ports],
        feed: Callable[[transitions.Event], None],
    ) -> None:
        self._name = name
        self._listeners = listeners
        self._known = known
        self._feed = feed
        #: listeners that the keeper has been asked for
        self._asked: set[str] = set()

    def ports(self) -> frozenset[int]:
        """The ports that the keeper listens on for the proxy, on IPv4 at least."""
        ending = f":{spec.HOSTS[0]}"
        return frozenset(port_of(name) for name in self._listeners.of(self._name) if name.endswith(ending))

    def open(self, port: int) -> None:
        """Look, then ask the keeper to listen. The answer is an event."""
        if port in self.ports():
            self._feed(transitions.PortOpened(port))
            return
        if any(port_of(name) == port for name in self._asked):
            # The keeper has not answered yet.
            return
        self._asked.clear()
        known = self._known().holder
        if known is not None and ports.busy(port):
            self._feed(transitions.PortBlocked(port, known))
            return
        holder = ports.holder(port)
        if holder is not None:
            self._feed(transitions.PortBlocked(port, holder))
            return
        self._asked = {listener_name(self._name, port, host) for host in spec.HOSTS}
        for host in spec.HOSTS:
            self._listeners.ask(listener_name(self._name, port, host), host=host, port=port)

    def answered(self, name: str, error: int | None, text: str = "") -> None:
        """The keeper's answer (``error``: errno). IPv6 may be missing on this machine; IPv4 may not."""
        port = port_of(name)
        if name not in self._asked:
            if error is None and port not in self._known().open:
                # The attempt that asked for it was given up; kept, it would be the foreign listener of the next one.
                self._listeners.close(name)
            return
        self._asked.discard(name)
        first = listener_name(self._name, port, spec.HOSTS[0])
        if error is not None and name == first:
            self._give_up(port)
            taken = error in (errno.EADDRINUSE, errno.EADDRNOTAVAIL)
            holder = ports.holder(port) if taken else None
            unknown = core.Holder(address=f"port {port}", error="" if taken else text or os.strerror(error))
            self._feed(transitions.PortBlocked(port, holder or unknown))
            return
        if error is not None and first not in self._listeners.sockets and (holder := ports.holder(port)):
            self._give_up(port)
            self._feed(transitions.PortBlocked(port, holder))
            return
        if not self._asked:
            self._feed(transitions.PortOpened(port))

    def _give_up(self, port: int) -> None:
        """Close what this attempt opened. An earlier port keeps serving."""
        self._asked.clear()
        self.close(port)

    def close(self, port: int) -> None:
        """Close every listener of that port."""
        for name in self._listeners.of(self._name):
            if port_of(name) == port:
                self._listeners.close(name)
