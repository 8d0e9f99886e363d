"""The note that waits in escrow: STACK, RETURN, HOLD and EXTRACT BARCODE DATA at the right moment (sheet 7, 8, 12)."""

from __future__ import annotations

from collections.abc import Callable

from agent.domain import events as ev
from drivers.ccnet.codec import Frame
from drivers.ccnet.messages import ACK, ILLEGAL, NAK, TYPE_TICKET, Command, Status
from drivers.ccnet.notes import Note
from drivers.ccnet.requests import Request
from drivers.ccnet.settings import CcnetSettings
from drivers.ccnet.states import TAKES_NOTE_COMMANDS

AGAIN_S = 1.0  # a STACK or RETURN that was acknowledged and still shows no effect is repeated after this
NOTE_COMMANDS = frozenset({Command.STACK, Command.RETURN, Command.HOLD, Command.EXTRACT_BARCODE_DATA})


class Escrow:
    """Timers and commands of one note. The rules of what a status proves are in `notes.py`."""

    def __init__(self, device: str, settings: CcnetSettings) -> None:
        self._device = device
        self._settings = settings

    def request(self, note: Note, status: Status | None, now: float) -> Request | None:
        """What to send for `note` while it lies in escrow; `status` must be newer than the last note command."""
        if status not in TAKES_NOTE_COMMANDS:
            return None
        if note.code == TYPE_TICKET and note.barcode is None:
            return Request(Command.EXTRACT_BARCODE_DATA)
        if note.stack_wanted or note.return_wanted:
            if note.accepted_at is not None and now - note.accepted_at < AGAIN_S:
                return None  # acknowledged: give the motor its moment
            return Request(Command.STACK if note.stack_wanted else Command.RETURN)
        if note.held_at is None or now - note.held_at >= self._settings.hold_interval_s:
            return Request(Command.HOLD)
        return None

    def done(self, note: Note, command: Command, reply: Frame | None, now: float) -> None:
        """`command` was sent; `reply` None when nothing was heard: then it may have been carried out."""
        refused = reply is not None and reply.control in (NAK, ILLEGAL)
        match command:
            case Command.STACK:
                note.stack_possible = note.stack_possible or not refused
            case Command.RETURN:
                note.return_sent = note.return_sent or not refused
            case Command.HOLD:
                note.held_at = now  # also when refused: some models know no HOLD
                return
            case Command.EXTRACT_BARCODE_DATA:
                note.barcode = _barcode(reply)
                return
            case _:
                return
        if note.commanded_at is None:
            note.commanded_at = now
        note.accepted_at = now if reply is not None and reply.control == ACK else None

    def tick(
        self, note: Note, status: Status | None, now: float, evidence: Callable[[], tuple[str, ...]]
    ) -> list[ev.Event]:
        """Time passes: a note that nobody decides on goes back; a command without outcome becomes an alarm."""
        if status in TAKES_NOTE_COMMANDS and note.waits_since is None:
            note.waits_since = now
            if not note.recalled:
                note.held_at = now  # the device's ten seconds start with the escrow; after a restart they are running
        undecided = not (note.stack_wanted or note.return_wanted)
        if undecided and note.waits_since is not None and now - note.waits_since >= self._settings.hold_limit_s:
            note.return_wanted = True
            return [ev.ReturnRequested(device=self._device, note_id=note.note_id, reason="undecided")]
        overdue = note.commanded_at is not None and now - note.commanded_at >= self._settings.stack_timeout_s
        if overdue and not note.alarmed:
            note.alarmed = True
            code = "stack_timeout" if note.stack_possible else "return_timeout"
            detail = f"no outcome for {self._settings.stack_timeout_s:g} s after the command"
            return [ev.DeviceAlarmed(device=self._device, code=code, detail=detail, evidence=evidence())]
        return []


def _barcode(reply: Frame | None) -> str:
    """The ticket's characters; empty when the device has none."""
    if reply is None or len(reply.data) < 6:
        return ""
    return "".join(chr(each) for each in reply.data if 0x20 <= each < 0x7F)
