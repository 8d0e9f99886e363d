"""Named steps on the road from escrow to the central row, so that a crash test can end the process at one of them.

Inert in production: `KIOSK_FAULT_POINT` is not set there and `quiet` is what the parts get. With `NAME` or `NAME:N` the
process kills itself (SIGKILL, as a power cut would) when it reaches that step for the N-th time.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping, Sequence

from agent.domain.errors import ConfigError
from agent.domain.events import CreditAcknowledged, Event, NoteEscrowed, NoteReturned, NoteStacked

OnStep = Callable[[str], None]
VARIABLE = "KIOSK_FAULT_POINT"
STEPS = (
    "escrow_received",  # the escrow event is decoded, not yet committed
    "escrow_recorded",
    "stack_requested",  # the intent is committed, the driver told
    "stack_sent",  # the command has left for the device
    "stacked_received",  # the credit event is decoded, not yet committed
    "stacked_committed",
    "acked",  # the device may forget
    "closed",  # the device has moved on and that is committed
    "returned_committed",
    "batch_read",
    "batch_sent",
    "batch_answered",
    "snapshot_sealed",
    "snapshot_recorded",
    "blob_put",
    "blob_recorded",
)
_BEFORE: dict[type[Event], str] = {NoteEscrowed: "escrow_received", NoteStacked: "stacked_received"}
_AFTER: dict[type[Event], str] = {
    NoteEscrowed: "escrow_recorded",
    NoteStacked: "stacked_committed",
    NoteReturned: "returned_committed",
    CreditAcknowledged: "closed",
}


def quiet(step: str) -> None:
    """What production does at every step: nothing."""


def from_environment(environ: Mapping[str, str]) -> OnStep:
    """`quiet`, or the end of this process at the step that `KIOSK_FAULT_POINT` names. Raises `ConfigError`."""
    given = environ.get(VARIABLE)
    if not given:
        return quiet
    name, _, count = given.partition(":")
    if name not in STEPS or not (count or "1").isdecimal() or int(count or 1) < 1:
        raise ConfigError(f"environment: {VARIABLE}: {given!r} is not possible: NAME or NAME:N with {'|'.join(STEPS)}")
    left = int(count or 1)

    def on_step(step: str) -> None:
        nonlocal left
        if step == name:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    return on_step


def before_commit(on_step: OnStep, events: Sequence[Event]) -> None:
    _tell(on_step, events, _BEFORE)


def after_commit(on_step: OnStep, events: Sequence[Event]) -> None:
    _tell(on_step, events, _AFTER)


def _tell(on_step: OnStep, events: Sequence[Event], names: Mapping[type[Event], str]) -> None:
    for event in events:
        if step := names.get(type(event)):
            on_step(step)
