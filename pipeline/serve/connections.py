"""The connections to clients: how many there may be, and how long each may take."""

import asyncio
import resource
from contextlib import suppress
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

MOST_OPEN_FILES, MOST_CONNECTIONS = 65_536, 1_000
# asyncio accepts several times as many before it closes the first of them, and floods the log if it runs out of files.
MOST_BACKLOG = 100


def connection_limits(requests: int) -> tuple[int, int]:
    """Raise the number of files that this process may open if it is low.

    Args:
        requests: how many are answered at the same time; a further one needs a connection to be refused.

    Returns:
        How many of them may be connections, and how many may be accepted at once.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError):  # macOS states a higher limit than it allows
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, MOST_OPEN_FILES)), hard))
    # The uploads and the model are files, too.
    most = max(min(resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4, max(MOST_CONNECTIONS, 2 * requests)), 4)
    return most, min(most // 4, MOST_BACKLOG)


def limited_connections(seconds: float, most: int) -> type[H11Protocol]:
    """The protocol for uvicorn's option ``http``, which limits the connections, unlike its own options.

    Args:
        seconds: until the head of the next request is complete; the answer may take twice as long.
        most: connections at the same time; a further one is closed at once.
    """

    class LimitedConnection(H11Protocol):
        _timer: asyncio.TimerHandle | None = None
        _timed: Any = None  # the request that is being answered, or None while the next one is awaited

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > most:
                transport.abort()
            else:
                self._restart_timer()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._restart_timer()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._restart_timer()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            self._stop_timer()

        def _restart_timer(self) -> None:
            """Start the time again if another request is being answered than before, or if one has been answered."""
            answered = None if self.cycle is None or self.cycle.response_complete else self.cycle
            if self.transport.is_closing() or (self._timer and answered is self._timed):
                return
            self._stop_timer()
            self._timed = answered
            self._timer = self.loop.call_later(seconds if answered is None else 2 * seconds, self._expire)

        def _expire(self) -> None:
            if self._timed is None and self.transport.get_write_buffer_size():  # the answer is still being sent
                self._timer = self.loop.call_later(2 * seconds, self.transport.abort)
            else:
                self.transport.abort()

        def _stop_timer(self) -> None:
            if self._timer:
                self._timer.cancel()

    return LimitedConnection
