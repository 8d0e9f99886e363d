"""What each poll status means for us: one table that every rule reads. Source: MAN_CCNET rev 2.4.3, 5.4 and 4.x."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from drivers.ccnet.messages import Status as S


@dataclass(frozen=True, slots=True)
class Trait:
    """`inside`: a note is somewhere in the device, so no RESET and no set-up now.
    `proves_ack`: a BILL STACKED before this was acknowledged, the device will not repeat it.
    `gone`: whatever was in escrow before is not there any more.
    `idle`: nothing is inside; with a note unaccounted for, its outcome is not going to come.
    `setup`: identification and bill table may be asked.
    `fresh`: the device (re)initialises; its masks are cleared.
    `fault`: our stable name of what is wrong."""

    inside: bool = False
    proves_ack: bool = False
    gone: bool = False
    idle: bool = False
    setup: bool = False
    fresh: bool = False
    fault: str = ""


STATES: Mapping[S, Trait] = {
    S.POWER_UP: Trait(fresh=True, gone=True),
    S.POWER_UP_WITH_BILL_IN_VALIDATOR: Trait(fresh=True, gone=True),
    S.POWER_UP_WITH_BILL_IN_STACKER: Trait(fresh=True, gone=True),
    S.INITIALIZE: Trait(fresh=True, gone=True, setup=True),
    S.IDLING: Trait(proves_ack=True, gone=True, idle=True),
    S.ACCEPTING: Trait(inside=True, proves_ack=True, gone=True, idle=True),  # a new note: the one before has left
    S.STACKING: Trait(inside=True, proves_ack=True, gone=True),
    S.RETURNING: Trait(inside=True, proves_ack=True, gone=True),
    S.UNIT_DISABLED: Trait(proves_ack=True, gone=True, idle=True, setup=True),
    S.HOLDING: Trait(inside=True, proves_ack=True),
    S.DEVICE_BUSY: Trait(),
    S.REJECTING: Trait(inside=True, proves_ack=True, gone=True),
    S.DISPENSING: Trait(inside=True),
    S.UNLOADING: Trait(inside=True),
    S.CUSTOM_RETURNING: Trait(inside=True),
    S.RECYCLING_UNLOADING: Trait(inside=True),
    S.SETTING_CASSETTE_TYPE: Trait(inside=True),
    S.DISPENSED: Trait(),
    S.UNLOADED: Trait(),
    S.CUSTOM_BILLS_RETURNED: Trait(),
    S.INVALID_BILL_NUMBER: Trait(),
    S.CASSETTE_TYPE_SET: Trait(),
    S.ILLEGAL_COMMAND: Trait(),
    S.DROP_CASSETTE_FULL: Trait(proves_ack=True, setup=True, fault="stacker_full"),
    S.DROP_CASSETTE_OUT_OF_POSITION: Trait(proves_ack=True, setup=True, fault="stacker_removed"),
    S.VALIDATOR_JAMMED: Trait(proves_ack=True, setup=True, fault="validator_jammed"),
    S.DROP_CASSETTE_JAMMED: Trait(proves_ack=True, setup=True, fault="stacker_jammed"),
    S.CHEATED: Trait(proves_ack=True),
    S.PAUSE: Trait(proves_ack=True, fault="paused_second_note"),
    S.FAILURE: Trait(proves_ack=True, setup=True, fault="failure"),
    S.UNIT_JAMMED: Trait(proves_ack=True, setup=True, fault="unit_jammed"),
    S.ESCROW_POSITION: Trait(inside=True, proves_ack=True),
    S.BILL_STACKED: Trait(inside=True, gone=True),
    S.BILL_RETURNED: Trait(inside=True, proves_ack=True, gone=True),
}

UNKNOWN = Trait()
"""A status that no manual lists: the device is not ready, and nothing follows from it."""

WAITS_FOR_RESET = frozenset(
    {S.POWER_UP, S.POWER_UP_WITH_BILL_IN_VALIDATOR, S.POWER_UP_WITH_BILL_IN_STACKER},
)
TAKES_NOTE_COMMANDS = frozenset({S.ESCROW_POSITION, S.HOLDING})
CLEARED_BY_RESET = frozenset({S.VALIDATOR_JAMMED, S.DROP_CASSETTE_JAMMED, S.FAILURE, S.UNIT_JAMMED, S.PAUSE})
