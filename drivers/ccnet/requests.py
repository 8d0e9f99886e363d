"""What the host may ask of a validator, which answers fit, and the set-up that follows every start and RESET."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from drivers.ccnet.codec import Frame
from drivers.ccnet.messages import ACK, ILLEGAL, NAK, Command, mask_of
from drivers.ccnet.settings import CcnetSettings

_ANSWERED_BY_DATA = frozenset(
    {
        Command.POLL,
        Command.GET_STATUS,
        Command.IDENTIFICATION,
        Command.GET_BILL_TABLE,
        Command.GET_CRC32_OF_THE_CODE,
        Command.EXTRACT_BARCODE_DATA,
        Command.REQUEST_STATISTICS,
    }
)
_SLOW = frozenset({Command.IDENTIFICATION, Command.GET_BILL_TABLE, Command.GET_CRC32_OF_THE_CODE})
_BARCODE_INTERLEAVED_2_OF_5 = 0x01
_POLL_REPLY_MAX = 3  # Bill-to-Bill pads to three; more cannot be a status


@dataclass(frozen=True, slots=True)
class Request:
    command: Command
    data: bytes = b""

    def frame(self, address: int) -> Frame:
        return Frame(address, bytes([self.command]) + self.data)

    def timeout_s(self, settings: CcnetSettings) -> float:
        return (settings.long_reply_timeout_ms if self.command in _SLOW else settings.reply_timeout_ms) / 1000

    def fits(self, reply: Frame) -> bool:
        """Whether `reply` has the shape of an answer to this: a late answer to something else must not pass for it."""
        if reply.control in (NAK, ILLEGAL):
            return True
        if self.command not in _ANSWERED_BY_DATA:
            return reply.control == ACK
        size = len(reply.data)
        match self.command:
            case Command.POLL:
                return reply.control != ACK and size <= _POLL_REPLY_MAX
            case Command.GET_STATUS:
                return size in (6, 9)
            case Command.IDENTIFICATION:
                return size >= 15
            case Command.GET_BILL_TABLE:
                return size % 5 == 0
            case Command.GET_CRC32_OF_THE_CODE:
                return size == 4
            case Command.EXTRACT_BARCODE_DATA:
                return 6 <= size <= 18
            case _:
                return reply.control != ACK


def answers_with_data(command: Command) -> bool:
    return command in _ANSWERED_BY_DATA


def enable(types: Iterable[int]) -> Request:
    """ENABLE BILL TYPES with escrow on for every type: at most one credit per STACK that we send."""
    mask = mask_of(types)
    return Request(Command.ENABLE_BILL_TYPES, mask + mask)


class Setup:
    """The questions after a start or RESET, in the manual's order. Only the bill table must be answered."""

    ATTEMPTS_MAX = 3

    def __init__(self, settings: CcnetSettings) -> None:
        self._pending = [Request(Command.GET_STATUS), Request(Command.GET_BILL_TABLE)]
        if settings.high_security_types:
            self._pending.append(Request(Command.SET_SECURITY, mask_of(settings.high_security_types)))
        self._pending += [Request(Command.IDENTIFICATION), Request(Command.GET_CRC32_OF_THE_CODE)]
        if settings.ticket_digits is not None:
            parameters = bytes([_BARCODE_INTERLEAVED_2_OF_5, settings.ticket_digits])
            self._pending.append(Request(Command.SET_BARCODE_PARAMETERS, parameters))
        self._attempts = 0

    @property
    def next(self) -> Request | None:
        return self._pending[0] if self._pending else None

    @property
    def complete(self) -> bool:
        return not self._pending

    def answered(self, command: Command) -> None:
        """`command` need not be asked any more."""
        self._pending = [each for each in self._pending if each.command is not command]
        self._attempts = 0

    def failed(self) -> bool:
        """No or no good answer. Optional questions are dropped after a few; True when the bill table is overdue."""
        self._attempts += 1
        if self._attempts < self.ATTEMPTS_MAX:
            return False
        if self._pending[0].command is Command.GET_BILL_TABLE:
            return True
        self.answered(self._pending[0].command)
        return False
