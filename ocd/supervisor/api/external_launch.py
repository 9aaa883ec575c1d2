"""A session that goes to a LiteLLM server that somebody else runs (``[external]``)."""

import asyncio
import os
import time
from collections.abc import Callable

from ocd.adapters import external
from ocd.claude import launch, profiles
from ocd.claude.overlay import Slots
from ocd.errors import EX_CONFIG, EX_NOPERM, EX_UNAVAILABLE, OcdError
from ocd.settings.folders import Folders
from ocd.settings.schema import Settings
from ocd.settings.stored_key import EXTERNAL
from ocd.supervisor.observation.sessions import Sessions
from ocd.wire.messages import LaunchReply, LaunchRequest

#: how long one question may take, how long a good answer holds (seconds)
IDENTITY_TIMEOUT = 5.0
IDENTITY_SECONDS = 30.0


class ExternalLaunch:
    """``overlays_folder`` is where the sessions' settings files are."""

    def __init__(
        self, folders: Folders, settings: Callable[[], Settings], sessions: Sessions, overlays_folder: str
    ) -> None:
        self._folders = folders
        self._settings = settings
        self._sessions = sessions
        self._overlays_folder = overlays_folder
        self._known: tuple[tuple[str, int], float, list[str]] | None = None

    async def prepare(self, order: LaunchRequest) -> LaunchReply:
        """Be sure that it is a LiteLLM and takes our key, then say how Claude Code goes there. Raises OcdError."""
        settings = self._settings()
        key = EXTERNAL.load(self._folders, os.environ)
        url = settings.external.base_url
        if not url:
            raise OcdError(
                "There is no address of the external LiteLLM server",
                "base_url under [external] in ocd.toml is empty",
                "Run `LITELLM_BASE_URL=https://… occtl init --preset external`",
                exit_code=EX_CONFIG,
                code="no-external-address",
            )
        try:
            known = await asyncio.to_thread(self._identity, url, key)
        except external.KeyRefused as error:
            raise OcdError(
                f"The LiteLLM at {url} refuses the key",
                str(error),
                f"Run `{EXTERNAL.variable}=… occtl init --preset external` with the right one",
                exit_code=EX_NOPERM,
                code="external-key-refused",
            ) from None
        except external.NotLiteLLM as error:
            raise OcdError(
                f"What answers at {url} is not a LiteLLM server",
                str(error),
                "Correct base_url under [external] in ocd.toml, then `occtl reload`",
                exit_code=EX_CONFIG,
                code="external-not-litellm",
            ) from None
        except external.NotThere as error:
            raise OcdError(
                f"No LiteLLM answers at {url}",
                str(error),
                "Start it there, or correct base_url under [external] in ocd.toml",
                exit_code=EX_UNAVAILABLE,
                code="external-not-there",
            ) from None
        self._sessions.add(order.pid, order.cwd)
        reply = await asyncio.to_thread(
            launch.prepare,
            order,
            folder=self._overlays_folder,
            served=launch.Served(
                Slots(**settings.slots.model_dump()),
                url,
                key,
                settings.auth,
                known,
                profiles=profiles.named(settings),
            ),
            isolation=settings.isolation,
            state=self._folders.state,
        )
        notices = []
        if settings.auth != "none":
            notices.append(f"this session's login goes to {url}: only send it to a LiteLLM that is yours")
        if url.startswith("http://") and not external.is_loopback(url):
            notices.append(f"{url} is not encrypted: others on the way can read key and conversation")
        reply.notices = [*notices, *reply.notices]
        return reply

    def _identity(self, url: str, key: str) -> list[str]:
        """Its model groups; asked again when the last good answer is older than IDENTITY_SECONDS."""
        now = time.monotonic()
        asked = (url, hash(key))
        if self._known is None or self._known[0] != asked or self._known[1] < now:
            found = external.identify(url, key, IDENTITY_TIMEOUT)
            self._known = (asked, now + IDENTITY_SECONDS, list(found.models))
        return self._known[2]
