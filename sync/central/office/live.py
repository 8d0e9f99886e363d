"""Live transactions over SSE. Redis (or this process) says "look again", else the clock does; Postgres has the truth.

Each look reads what changed within a window longer than any ingest transaction may last, and sends what this viewer has
not had in that version: nothing is missed when a commit becomes visible late, and nothing is sent twice.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from uuid import UUID

from sse_starlette import ServerSentEvent
from starlette.requests import Request

from sync.central.database import UNAVAILABLE
from sync.central.office import queries
from sync.central.office.queries import Row
from sync.central.services import Services

IDLE_LOOK_S = 10.0  # with Redis there, a look without a wake only catches a lost message
CHECK_S = 15.0
Render = Callable[[Row], str]


async def changes(
    services: Services,
    request: Request,
    render: Render,
    allowed: Callable[[], Awaitable[bool]],
    kiosk_id: UUID | None = None,
) -> AsyncIterator[ServerSentEvent]:
    """`transaction` events with what `render` makes of each; `state` events tell `live` or `away` (Postgres). Ends when
    the viewer leaves or `allowed` (asked every few seconds) says no."""
    window_s = 2 * services.settings.database.statement_timeout_ms / 1000 + 5
    sent: dict[tuple[UUID, str], int] = {}
    checked, state = time.monotonic(), ""
    services.metrics.live_views.inc()
    try:
        while not await request.is_disconnected():
            seen = services.presence.changes
            try:
                async with services.pool.connection() as connection:
                    rows = await queries.changed(connection, window_s, kiosk_id)
                if time.monotonic() - checked > CHECK_S:
                    checked = time.monotonic()
                    if not await allowed():
                        return
            except UNAVAILABLE:
                now, rows = "away", []
            else:
                now = "live"
            if now != state:
                state = now
                yield ServerSentEvent(data=state, event="state")
            for row in rows:
                key = row["kiosk_id"], row["payment_id"]
                if sent.get(key) != row["version"]:
                    yield ServerSentEvent(data=render(row), event="transaction")
            if now == "live":  # versions are needed only as long as the window shows them
                sent = {(row["kiosk_id"], row["payment_id"]): row["version"] for row in rows}
            quiet = services.presence.available and now == "live"
            await services.presence.wait_change(seen, IDLE_LOOK_S if quiet else services.settings.office.live_poll_s)
    finally:
        services.metrics.live_views.dec()
