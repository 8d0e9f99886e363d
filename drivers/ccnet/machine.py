"""The conversation with a CCNET bill validator, without I/O: `step(reply, now)` gives events, ACK and the next frame.

Source: MAN_CCNET rev 2.4.3, sections 2-5, and the project's sheet (sections 3, 6, 7, 8, 12) with its rulings. What a
status means stands in `states.py`, money rules in `notes.py`; commands for the note in escrow in `escrow.py`, enabling
in `acceptance.py`, set-up in `identity.py`, RESET and silence in `recovery.py`, faults in `health.py`.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from agent.domain import events as ev
from agent.domain.money import Money
from drivers.ccnet.acceptance import Acceptance
from drivers.ccnet.codec import Direction, Frame
from drivers.ccnet.describe import meaning
from drivers.ccnet.escrow import NOTE_COMMANDS, Escrow
from drivers.ccnet.health import Health
from drivers.ccnet.identity import Identity
from drivers.ccnet.messages import ACK, ILLEGAL, NAK, Command, Status
from drivers.ccnet.notes import Notes, Seen
from drivers.ccnet.recovery import Recovery
from drivers.ccnet.requests import Request
from drivers.ccnet.settings import CcnetSettings
from drivers.ccnet.states import STATES, UNKNOWN, Trait
from drivers.ports import DeviceInfo, DeviceState

OFFLINE_POLL_S = 1.0
NAKS_MAX = 3
EVIDENCE_FRAMES = 12
ILLEGAL_POLLS_MAX = 10
_POLL = Request(Command.POLL)
_COMMANDS = frozenset(Command)


@dataclass(frozen=True, slots=True)
class Step:
    """Commit `events`, then write `ack`, then at `not_before` send `send` and wait `timeout_s` for its answer.

    When a verb is called meanwhile, ask `replan` for a new step, but not before `wake_from`.
    """

    events: tuple[ev.Event, ...]
    ack: Frame | None
    send: Frame
    not_before: float
    wake_from: float
    timeout_s: float


class CcnetMachine:
    """One validator. `history`: the events of its open records, oldest first, and, if known, its last `DeviceOnline`
    and the `DeviceFaulted` that still stand. `new_id` makes note ids. Times are `Clock.monotonic()` seconds."""

    def __init__(
        self, name: str, settings: CcnetSettings, new_id: Callable[[], str], history: Iterable[ev.Event] = ()
    ) -> None:
        past = list(history)
        self._name = name
        self._settings = settings
        self._notes = Notes(name, new_id, past)
        self._health = Health(name, settings.address, settings.reject_jam_s, past)
        self._identity = Identity(name, settings, self._health, past)
        self._acceptance = Acceptance(tickets=settings.ticket_digits is not None)
        self._escrow = Escrow(name, settings)
        self._recovery = Recovery(settings)
        self._status: Status | None = None
        self._current = False  # `_status` is an answer to POLL younger than our last command that may change it
        self._sent: Request | None = None
        self._again: Request | None = None
        self._naks = 0
        self._illegal_polls = 0
        self._noise_bytes = 0
        self._busy_until = 0.0
        self._last_poll = float("-inf")
        self._answered_ever = self._offline = False
        self._heard: deque[tuple[Direction, Frame, Command]] = deque(maxlen=EVIDENCE_FRAMES)
        self.counters: Counter[str] = Counter()

    # --- verbs

    def enable(self, notes: frozenset[Money] | None) -> None:
        self._acceptance.want(notes)

    def inhibit(self) -> None:
        self._acceptance.want(frozenset())

    def stack(self, note_id: str, payment_id: str | None) -> None:
        """Ignored once RETURN has left, for a note that is not known, or settled."""
        note = self._notes.find(note_id)
        if note is not None:
            note.payment_id = payment_id
            note.stack_wanted, note.return_wanted = not note.return_sent, note.return_sent

    def return_note(self, note_id: str) -> None:
        """Ignored once STACK may have been carried out."""
        note = self._notes.find(note_id)
        if note is not None and not note.stack_possible:
            note.stack_wanted, note.return_wanted = False, True

    def hold(self, note_id: str) -> None:
        """The limit after which an undecided note goes back counts from now on."""
        note = self._notes.find(note_id)
        if note is not None:
            note.waits_since = None

    # --- the conversation

    def is_reply(self, frame: Frame) -> bool:
        """Whether `frame` answers what was sent last: our device, not our own echo, and of the right shape."""
        sent, address = self._sent, self._settings.address
        return sent is not None and frame.address == address and frame != sent.frame(address) and sent.fits(frame)

    def noise(self, count_bytes: int) -> None:
        """Bytes that made no frame were heard."""
        self._noise_bytes += count_bytes
        self.counters["noise_bytes"] += count_bytes

    def step(self, reply: Frame | None, now: float) -> Step:
        """`reply` answers the frame of the step before (None: nothing was heard; at the first call: nothing sent)."""
        sent, self._sent = self._sent, None
        if sent is None:
            return self._plan(now)
        self._remember(Direction.HOST, sent.frame(self._settings.address), sent.command)
        if reply is not None:
            self._remember(Direction.DEVICE, reply, sent.command)
        events = self._exchanged(sent, reply, now)
        if (note := self._notes.waiting) is not None:
            events += self._escrow.tick(note, self._status, now, self._evidence)
        data = reply is not None and reply.control not in (ACK, NAK, ILLEGAL)
        ack = Frame(self._settings.address, bytes([ACK])) if data else None
        return self._plan(now, events, ack)

    def replan(self, now: float) -> Step:
        """Choose again what to send: a verb was called before the last step's frame went out. The bus is free now."""
        self._sent = None
        return self._plan(now, free_after_s=0.0)

    def observe(self, direction: Direction, frame: Frame, now: float) -> list[ev.Event]:
        """Follow a recorded conversation: host frames are taken as sent; a reply without a question answers POLL."""
        if direction is Direction.DEVICE:
            sent, self._sent = self._sent or _POLL, None
            self._remember(direction, frame, sent.command)
            return self._exchanged(sent, frame, now) if sent.fits(frame) else []
        if frame.control in (ACK, NAK) or frame.data[0] not in _COMMANDS:
            return []
        events = [] if self._sent is None else self._exchanged(self._sent, None, now)
        self._sent = Request(Command(frame.data[0]), frame.data[1:])
        self._remember(direction, frame, self._sent.command)
        return events + self._taken_as_wanted(self._sent.command)

    def know(self, table_event: ev.DeviceOnline) -> None:
        """Use this table for values, as if the device had told it before (for replay)."""
        self._identity.assume(table_event)

    def lost(self, reason: str) -> list[ev.Event]:
        """The device cannot be reached any more; told once until it is back."""
        if self._offline:
            return []
        self._offline = True
        self._identity.offline()
        self._acceptance.forget()
        return [ev.DeviceOffline(device=self._name, reason=reason)]

    def info(self) -> DeviceInfo:
        current = self._identity.current
        faults = self._health.faults
        return DeviceInfo(
            state=self._state(),
            protocol="ccnet",
            model=current.model,
            serial=current.serial,
            firmware=current.firmware,
            fault=next(iter(faults), ""),
            detail="; ".join(f"{code}: {detail}" for code, detail in faults.items()) or self._label(),
            table=current.table,
            counters=dict(self.counters),
        )

    # --- what was heard

    def _exchanged(self, sent: Request, reply: Frame | None, now: float) -> list[ev.Event]:
        """Everything that follows from one question and its answer."""
        note = self._notes.waiting
        if note is not None and sent.command in NOTE_COMMANDS:
            self._escrow.done(note, sent.command, reply, now)
        if sent.command is Command.RESET:
            self._recovery.reset_sent(self._status, now)
            self._start_over()
        if sent.command is Command.POLL:
            self._last_poll = now
        self._current = self._current and sent.command not in (*NOTE_COMMANDS, Command.RESET)
        self.counters[sent.command.name.lower()] += 1
        if reply is None:
            return self._silence(sent, now)
        self._answered_ever, self._noise_bytes = True, 0
        self._recovery.heard()
        if reply.control == NAK:
            return self._refused_line(sent)
        self._naks = 0
        if sent.command is Command.POLL:
            return self._polled(reply, now)
        return self._answered(sent, reply, now)

    def _silence(self, sent: Request, now: float) -> list[ev.Event]:
        self.counters["timeouts"] += 1
        self._current = False  # whatever we wanted, first ask how things stand
        events = self._identity.refused(sent.command, self._status, now)
        if sent.command is Command.ENABLE_BILL_TYPES:
            self._acceptance.done(sent, now, accepted=False)
        if not self._recovery.silent(now):
            return events
        self._status = None
        return events + self.lost("garbled" if self._noise_bytes else "no_answer")

    def _refused_line(self, sent: Request) -> list[ev.Event]:
        """NAK: our frame arrived damaged and nothing was done; the same again, a few times."""
        self.counters["naks"] += 1
        self._naks += 1
        self._again = sent if self._naks < NAKS_MAX and sent.command is not Command.POLL else None
        return []

    def _answered(self, sent: Request, reply: Frame, now: float) -> list[ev.Event]:
        refused = reply.control == ILLEGAL
        self.counters["illegal"] += refused
        if sent.command is Command.ENABLE_BILL_TYPES:
            self._acceptance.done(sent, now, accepted=not refused)
            return []
        if refused:
            if sent.command is Command.GET_STATUS:
                self._acceptance.unverified = False
            return self._identity.refused(sent.command, self._status, now)
        events = self._identity.answer(sent.command, reply, notes_open=self._notes.open)
        if sent.command is Command.GET_STATUS and self._acceptance.unverified:
            events += self._acceptance.check(self._name, reply.data, self._identity.table)
        return events + self._identity.tell(notes_open=self._notes.open)

    def _polled(self, reply: Frame, now: float) -> list[ev.Event]:
        status = _status_of(reply.data[0])
        if status is Status.ILLEGAL_COMMAND:
            return self._poll_refused()
        self._illegal_polls = 0
        if status is Status.DEVICE_BUSY:
            count = reply.data[1] if len(reply.data) > 1 else 0
            self._busy_until = now + count / 10
            self._recovery.seen(status)
            return []
        before, self._status = self._trait, status
        self._current = True
        self._recovery.seen(status)
        if self._trait.fresh and not before.fresh:
            self._start_over()
        self._offline = False
        waiting = self._notes.waiting
        events: list[ev.Event] = []
        if status is not None:
            code = reply.data[1] if len(reply.data) > 1 else None
            events += self._notes.seen(Seen(status, code, self._identity.table, self._evidence))
        events += self._health.clear("poll_refused")
        events += self._health.seen(status, reply.data, now, waiting.note_id if waiting else None)
        return events + self._identity.tell(notes_open=self._notes.open)

    def _poll_refused(self) -> list[ev.Event]:
        self._current = False
        self._illegal_polls += 1
        if self._illegal_polls < ILLEGAL_POLLS_MAX:
            return []
        return self._health.raise_fault("poll_refused", "the device answers ILLEGAL COMMAND to every POLL")

    def _start_over(self) -> None:
        """The device forgot its masks, and may have become another: enable and ask again."""
        self._acceptance.forget()
        self._identity.start_over()

    def _taken_as_wanted(self, command: Command) -> list[ev.Event]:
        """A recorded host did it, so somebody wanted it."""
        note = self._notes.waiting
        if note is None:
            return []
        if command is Command.STACK and not note.stack_wanted:
            note.stack_wanted = True
            return [ev.StackRequested(device=self._name, note_id=note.note_id, payment_id=note.payment_id)]
        if command is Command.RETURN and not note.return_wanted:
            note.return_wanted = True
            return [ev.ReturnRequested(device=self._name, note_id=note.note_id, reason="recorded")]
        return []

    # --- what to send

    def _plan(
        self,
        now: float,
        events: Iterable[ev.Event] = (),
        ack: Frame | None = None,
        free_after_s: float | None = None,
    ) -> Step:
        request, self._again = self._again or self._choose(now), None
        free_after_s = self._settings.bus_free_ms / 1000 if free_after_s is None else free_after_s
        wake_from = max(now + free_after_s, self._busy_until)
        not_before = wake_from
        if request.command is Command.POLL:
            not_before = max(wake_from, self._last_poll + self._poll_interval_s())
        self._sent = request
        return Step(
            events=tuple(events),
            ack=ack,
            send=request.frame(self._settings.address),
            not_before=not_before,
            wake_from=wake_from,
            timeout_s=request.timeout_s(self._settings),
        )

    def _choose(self, now: float) -> Request:
        if self._offline:
            probe = self._recovery.wants_reset(None, now, notes_open=self._notes.open)
            return Request(Command.RESET) if probe else _POLL
        if not self._current:
            return _POLL
        note = self._notes.waiting
        if note is not None and (request := self._escrow.request(note, self._status, now)):
            return request
        if now - self._last_poll >= self._poll_interval_s():
            return _POLL
        return self._service(now) or _POLL

    def _service(self, now: float) -> Request | None:
        """RESET, set-up and enabling: between polls, when no note needs us."""
        if self._recovery.wants_reset(self._status, now, notes_open=self._notes.open):
            return Request(Command.RESET)
        if question := self._identity.question(self._status, now):
            return question
        types = self._acceptance.types(self._identity.table if self._identity.ready else None)
        if request := self._acceptance.request(self._status, types, now):
            return request
        return Request(Command.GET_STATUS) if self._acceptance.unverified and not self._trait.inside else None

    def _poll_interval_s(self) -> float:
        if self._offline:
            return OFFLINE_POLL_S
        lively = self._trait.inside or self._trait.fresh or self._acceptance.asked or self._notes.open
        return (self._settings.poll_interval_ms if lively else self._settings.poll_idle_ms) / 1000

    # --- small things

    @property
    def _trait(self) -> Trait:
        return UNKNOWN if self._status is None else STATES[self._status]

    def _label(self) -> str:
        return "" if self._status is None else self._status.label

    def _state(self) -> DeviceState:
        if self._offline:
            return DeviceState.OFFLINE
        if self._health.faults:
            return DeviceState.FAULTED
        if not self._answered_ever or not self._identity.ready:
            return DeviceState.STARTING
        return DeviceState.ACTIVE if self._acceptance.enabled else DeviceState.READY

    def _remember(self, direction: Direction, frame: Frame, command: Command) -> None:
        self._heard.append((direction, frame, command))

    def _evidence(self) -> tuple[str, ...]:
        """The last frames, oldest first, as doubts and alarms show them."""
        return tuple(
            f"{direction.value} {frame.encode(direction).hex().upper()} {meaning(direction, frame, command)}"
            for direction, frame, command in self._heard
        )


def _status_of(z1: int) -> Status | None:
    try:
        return Status(z1)
    except ValueError:
        return None
