"""Journal rows as CloudEvents 1.0 in JSON, made once per row and shared by all clients; and who may see which.

`id` is `<journal_id>:<seq>`; extension attributes: `seq`, `actor`, `traceid`, `schemaversion`. `data` is the row's body
with its exact bytes, except where a role must not see a field of it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import msgspec

from agent.api.auth.caller import Role
from agent.domain.chain import JournalRow

SNAPSHOT = "kiosk.snapshot"
STREAM_ENDED = "kiosk.stream.ended"

_SCREEN = (
    *("cash.payment.", "cash.note.", "cash.claim.", "cash.doubt.", "cash.stacker.", "agent.acceptance_"),
    *("device.came_online", "device.went_offline", "device.faulted", "device.recovered", "device.jammed"),
)
_COLLECTOR = ("cash.", "device.", "agent.")
_SECRET_PARTS: dict[str, frozenset[str]] = {"cash.claim.issued": frozenset({"code"})}
_EVIDENCE = frozenset({"evidence", "code_hex"})


def visible(type_: str, role: Role) -> bool:
    """Whether this role gets rows of this type at all."""
    match role:
        case Role.ADMIN:
            return True
        case Role.TECHNICIAN:
            return not type_.startswith("auth.")
        case Role.COLLECTOR:
            return type_.startswith(_COLLECTOR)
        case Role.UI:
            return type_.startswith(_SCREEN)


def hidden_fields(type_: str, role: Role) -> frozenset[str]:
    """Fields of `data` that this role does not get. A claim's code is fetched with its payment, never replayed."""
    match role:
        case Role.ADMIN | Role.TECHNICIAN:
            return frozenset()
        case Role.COLLECTOR:
            return _EVIDENCE
        case Role.UI:
            return _EVIDENCE | _SECRET_PARTS.get(type_, frozenset())


def position(journal_id: UUID, seq: int) -> str:
    return f"{journal_id}:{seq}"


def parse_position(text: str | None) -> tuple[UUID, int] | None:
    """None for anything that is not an id of ours: such a client gets a snapshot."""
    journal, _, seq = (text or "").partition(":")
    try:
        return (UUID(journal), int(seq)) if seq.isascii() and seq.isdigit() and len(seq) < 19 else None
    except ValueError:
        return None


class Message:
    """One row, ready to be sent: JSON by role, made at the first wish."""

    __slots__ = ("_full", "_journal_id", "_reduced", "_row", "id", "seq")

    def __init__(self, journal_id: UUID, row: JournalRow) -> None:
        self.seq = row.seq
        self.id = position(journal_id, row.seq)
        self._journal_id = journal_id
        self._row = row
        self._full: bytes | None = None
        self._reduced: dict[Role, bytes] = {}

    def json(self, role: Role) -> bytes | None:
        """None when this role does not see the row."""
        row = self._row
        if not visible(row.type, role):
            return None
        hidden = hidden_fields(row.type, role)
        if not any(b'"%b"' % name.encode() in row.body for name in hidden):
            if self._full is None:
                self._full = self._envelope(row.body)
            return self._full
        if role not in self._reduced:
            shown = {name: value for name, value in msgspec.json.decode(row.body).items() if name not in hidden}
            self._reduced[role] = self._envelope(msgspec.json.encode(shown))
        return self._reduced[role]

    def _envelope(self, data: bytes) -> bytes:
        row = self._row
        return msgspec.json.encode(
            {
                "specversion": "1.0",
                "id": self.id,
                "source": f"urn:uuid:{self._journal_id}",
                "type": row.type,
                "subject": row.subject,
                "time": datetime.fromtimestamp(row.occurred_at / 1e6, UTC),
                "datacontenttype": "application/json",
                "schemaversion": row.schema,
                "seq": row.seq,
                "actor": row.actor,
                "traceid": row.trace_id,
                "data": msgspec.Raw(data),
            }
        )


def control(type_: str, journal_id: UUID, seq: int, now_us: int, data: object) -> bytes:
    """A message that is no row: the snapshot, the end of a stream."""
    return msgspec.json.encode(
        {
            "specversion": "1.0",
            "id": position(journal_id, seq),
            "source": f"urn:uuid:{journal_id}",
            "type": type_,
            "time": datetime.fromtimestamp(now_us / 1e6, UTC),
            "datacontenttype": "application/json",
            "seq": seq,
            "data": data,
        }
    )
