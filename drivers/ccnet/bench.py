"""Text commands of the CCNET simulator: what the customer, the technician and the fault finder do."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from drivers.ccnet import device as dev
from drivers.ccnet.messages import FAILURES, REJECT_REASONS
from drivers.ccnet.paper import Paper
from drivers.simulation import Reply

if TYPE_CHECKING:
    from drivers.ccnet.simulator import CcnetSimulator

HELP = {
    "insert VALUE [CURRENCY] | insert type N | insert unknown": "offer a note at the slot",
    "insert-ticket CODE": "offer a barcode ticket",
    "second-bill": "push another note in behind the first (PAUSE); `clear` takes it out again",
    "pull": "tear the note out (CHEATED)",
    "jam validator|stacker [soft]": "paper stuck; soft ones are cured by RESET, others by `clear`",
    "fail CODE [soft]": "FAILURE with a code in hex or by name",
    "clear": "service: take stuck paper out, end jams, failures and pauses",
    "remove stacker | insert stacker": "take the box out, put it back",
    "fill stacker | empty stacker": "the box is full; somebody collects it",
    "reject REASON": "refuse the next note, reason in hex or by name",
    "busy N": "answer DEVICE BUSY for N x 100 ms",
    "power-cut | power-cut at-byte N [sent|heard]": "lose power now, or after N more bytes (default: sent)",
    "power-on": "power comes back",
    "fault bad-crc [N] | lost-ack [N] | nak [N]": "the next N replies, ACKs of events, commands",
    "fault silence N | silence Nms": "answer nothing to the next N commands, or for N ms",
    "fault noise [N]": "N random bytes before the next reply",
    "fault late N": "the next reply leaves N ms late",
    "fault off": "no more faults of the line",
    "set KEY=VALUE": "change a setting",
    "truth": "where every note is",
    "help": "this list",
}


class Wrong(Exception):
    """The command cannot be carried out; the message says why."""


class Bench:
    """Carries out one line at a time; answers `{"ok": true, …}` or `{"ok": false, "error": …}`."""

    def __init__(self, simulator: CcnetSimulator) -> None:
        self._simulator = simulator
        self._verbs: dict[str, Callable[[list[str], float], Reply]] = {
            "insert": self._insert,
            "insert-ticket": self._insert_ticket,
            "second-bill": self._second_bill,
            "pull": self._pull,
            "jam": self._jam,
            "fail": self._fail,
            "clear": self._clear,
            "remove": self._remove,
            "fill": self._fill,
            "empty": self._empty,
            "reject": self._reject,
            "busy": self._busy,
            "power-cut": self._power_cut,
            "power-on": self._power_on,
            "fault": self._fault,
            "set": self._set,
            "truth": self._truth,
            "help": self._help,
        }

    def command(self, line: str, now: float) -> Reply:
        verb, *words = line.split() or [""]
        action = self._verbs.get(verb)
        if action is None:
            return {"ok": False, "error": f"unknown command {verb!r}; try help"}
        try:
            return {"ok": True, **action(words, now)}
        except (Wrong, ValidationError) as error:
            return {"ok": False, "error": str(error)}

    @property
    def _device(self) -> dev.Device:
        return self._simulator.device

    # --- customer

    def _insert(self, words: list[str], now: float) -> Reply:
        if words == ["stacker"]:
            self._device.insert_stacker(now)
            return {}
        return self._offer(self._note(words), now)

    def _insert_ticket(self, words: list[str], now: float) -> Reply:
        if len(words) != 1 or not 6 <= len(words[0]) <= 18 or not words[0].isascii():
            raise Wrong("insert-ticket wants 6 to 18 characters")
        return self._offer(Paper(dev.TICKET, ticket=words[0]), now)

    def _offer(self, paper: Paper, now: float) -> Reply:
        refused = self._device.insert(paper, now)
        if refused is not None:
            raise Wrong(refused)
        return {"inserted": paper.as_json()}

    def _note(self, words: list[str]) -> Paper:
        entries = self._device.entries()
        match words:
            case ["unknown"]:
                return Paper(None)
            case ["type" | "code", number] if number.isdigit():
                found = [entry for entry in entries if entry.code == int(number)]
                if not found:
                    return Paper(int(number))
            case [value] | [value, _]:
                found = [entry for entry in entries if entry.value == _decimal(value)]
                found = [entry for entry in found if len(words) == 1 or words[1] in (entry.currency, entry.country)]
            case _:
                found = []
        if not found:
            known = ", ".join(f"{entry.value:f} {entry.currency} (type {entry.code})" for entry in entries)
            raise Wrong(f"no such note; this device knows {known}")
        return Paper(found[0].code, found[0].minor, found[0].currency)

    def _second_bill(self, words: list[str], now: float) -> Reply:
        return _done(self._device.second_bill(now), "no note is being taken")

    def _pull(self, words: list[str], now: float) -> Reply:
        return _done(self._device.pull(now), "no note can be reached")

    # --- technician

    def _jam(self, words: list[str], now: float) -> Reply:
        where = {"validator": dev.JAM_VALIDATOR, "stacker": dev.JAM_STACKER}.get(words[0] if words else "")
        if where is None:
            raise Wrong("jam validator or jam stacker")
        return _done(self._device.break_down(where, now, hard="soft" not in words), "not now")

    def _fail(self, words: list[str], now: float) -> Reply:
        code = _code(words[0] if words else "", FAILURES)
        return _done(self._device.break_down(dev.FAILURE, now, code=code, hard="soft" not in words), "not now")

    def _clear(self, words: list[str], now: float) -> Reply:
        self._device.clear(now)
        return {}

    def _remove(self, words: list[str], now: float) -> Reply:
        _only_stacker(words)
        self._device.remove_stacker(now)
        return {}

    def _fill(self, words: list[str], now: float) -> Reply:
        _only_stacker(words)
        self._device.fill(now)
        return {}

    def _empty(self, words: list[str], now: float) -> Reply:
        _only_stacker(words)
        self._device.empty_stacker(now)
        return {}

    def _reject(self, words: list[str], now: float) -> Reply:
        self._device.next_reject = _code(words[0] if words else "", REJECT_REASONS)
        return {}

    def _busy(self, words: list[str], now: float) -> Reply:
        self._simulator.faults.busy_until = now + _number(words, 1) / 10
        return {}

    def _power_cut(self, words: list[str], now: float) -> Reply:
        match words:
            case []:
                self._simulator.power_cut(now)
            case ["at-byte", count]:
                self._simulator.faults.cut_after_sent = _number([count])
            case ["at-byte", count, "sent"]:
                self._simulator.faults.cut_after_sent = _number([count])
            case ["at-byte", count, "heard"]:
                self._simulator.faults.cut_after_heard = _number([count])
            case _:
                raise Wrong("power-cut, or power-cut at-byte N [sent|heard]")
        return {}

    def _power_on(self, words: list[str], now: float) -> Reply:
        self._device.power_on(now)
        return {}

    # --- fault finder

    def _fault(self, words: list[str], now: float) -> Reply:
        faults = self._simulator.faults
        kind, rest = (words[0], words[1:]) if words else ("", [])
        match kind:
            case "bad-crc":
                faults.bad_crc = _number(rest, 1)
            case "lost-ack":
                faults.lost_ack = _number(rest, 1)
            case "nak":
                faults.nak = _number(rest, 1)
            case "noise":
                faults.noise_bytes = _number(rest, 8)
            case "late":
                faults.late_s = _number(rest) / 1000
            case "silence" if rest and rest[0].endswith("ms"):
                faults.silent_until = now + _number([rest[0].removesuffix("ms")]) / 1000
            case "silence":
                faults.silent = _number(rest, 1)
            case "off":
                self._simulator.clear_faults()
            case _:
                raise Wrong(f"unknown fault {kind!r}; try help")
        return {}

    def _set(self, words: list[str], now: float) -> Reply:
        key, equals, value = " ".join(words).partition("=")
        if not equals or key not in type(self._simulator.settings).model_fields:
            raise Wrong(f"set KEY=VALUE with one of {', '.join(type(self._simulator.settings).model_fields)}")
        setattr(self._simulator.settings, key, value)
        return {key: getattr(self._simulator.settings, key)}

    def _truth(self, words: list[str], now: float) -> Reply:
        return self._simulator.truth()

    def _help(self, words: list[str], now: float) -> Reply:
        return {"commands": HELP}


def _done(done: bool, otherwise: str) -> dict[str, Any]:
    if not done:
        raise Wrong(otherwise)
    return {}


def _only_stacker(words: list[str]) -> None:
    if words != ["stacker"]:
        raise Wrong("say which: stacker")


def _number(words: list[str], default: int | None = None) -> int:
    if not words and default is not None:
        return default
    if len(words) != 1 or not words[0].isdigit():
        raise Wrong("a whole number is missing")
    return int(words[0])


def _decimal(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation as error:
        raise Wrong(f"{text!r} is no amount") from error


def _code(text: str, names: dict[int, str]) -> int:
    """A code by its stable name or in hex."""
    for code, name in names.items():
        if text == name:
            return code
    try:
        return int(text, 16) & 0xFF
    except ValueError as error:
        raise Wrong(f"{text!r} is none of {', '.join(names.values())}") from error
