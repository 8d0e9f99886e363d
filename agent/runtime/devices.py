"""All configured devices by their stable names: their supervisors, their acceptors, their state for people."""

from __future__ import annotations

import asyncio
import glob
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from agent.domain.errors import ConfigError, NotFound
from agent.runtime.guard import Guard
from agent.runtime.settings import DeviceSettings
from agent.runtime.supervisor import Supervisor
from drivers.ports import DeviceInfo, DeviceState, NoteAcceptor, TraceItem

_IDLE = (DeviceState.STARTING, DeviceState.READY, DeviceState.FAULTED, DeviceState.OFFLINE)
SETTLE_STEP_S = 0.02


class DeviceManager:
    """`agent.api.module.Devices` for modules, and the board for diagnostics. `start` returns at once: devices come up
    by themselves."""

    def __init__(self, supervisors: Sequence[Supervisor], ports: Mapping[str, str], guard: Guard) -> None:
        self._supervisors = {each.name: each for each in supervisors}
        self._ports = dict(ports)
        self._guard = guard
        self._tasks: list[asyncio.Task[None]] = []
        guard.subscribe(self._apply)

    # --- for modules and the API

    def note_acceptors(self) -> Mapping[str, NoteAcceptor]:
        return {name: each.acceptor for name, each in self._supervisors.items() if each.acceptor}

    def info(self, name: str) -> DeviceInfo:
        return self._supervisor(name).info()

    def accepting_allowed(self) -> bool:
        return self._guard.is_clear()

    def inhibit_reasons(self) -> Sequence[str]:
        return sorted(self._guard.troubles())

    def names(self) -> Sequence[str]:
        return list(self._supervisors)

    def port(self, name: str) -> str:
        self._supervisor(name)
        return self._ports[name]

    def trace(self, name: str) -> Sequence[TraceItem]:
        return self._supervisor(name).trace()

    def since_us(self, name: str) -> int | None:
        """Wall clock (µs UTC) at which the device was last found or lost."""
        return self._supervisor(name).since_us()

    def reopened(self, name: str) -> int:
        """How often the port was given up and opened again in this run."""
        return self._supervisor(name).reopened

    # --- for the agent

    def start(self) -> None:
        self._tasks = [
            asyncio.create_task(each.run(), name=f"supervisor {name}") for name, each in self._supervisors.items()
        ]

    def rebuild(self) -> None:
        """Every machine anew from the journal: the store has come back from a failure."""
        for each in self._supervisors.values():
            each.rebuild()

    def stalled(self) -> list[str]:
        """Names of devices whose loop has not turned for too long."""
        return [name for name, each in self._supervisors.items() if not each.turns()]

    async def settle(self, still_open: Callable[[str], bool]) -> None:
        """Wait until every device has taken its inhibit and has no note on its way. `still_open(name)`: whether the
        journal holds an open record of the device. The caller bounds the wait."""
        while any(self._busy(name, still_open) for name in self._supervisors):  # noqa: ASYNC110 - drivers ring no bell
            await asyncio.sleep(SETTLE_STEP_S)

    async def stop(self) -> None:
        """Leave every driver where it stands and close the ports."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    def _busy(self, name: str, still_open: Callable[[str], bool]) -> bool:
        state = self.info(name).state
        return state not in _IDLE or (state is DeviceState.READY and still_open(name))

    def _apply(self) -> None:
        for each in self._supervisors.values():
            if each.acceptor:
                each.acceptor.apply()

    def _supervisor(self, name: str) -> Supervisor:
        if (found := self._supervisors.get(name)) is None:
            raise NotFound(f"there is no device {name}; configured are: {', '.join(self._supervisors) or 'none'}")
        return found


def check_ports(devices: Mapping[str, DeviceSettings]) -> None:
    """Raises `ConfigError` when two devices claim one port, by the same words or by two names of one file."""
    owners: dict[str, str] = {}
    for name, device in devices.items():
        for port in _names_of(device.port):
            if port in owners:
                raise ConfigError(
                    f"devices.{name}.port: {device.port!r} is not possible: {owners[port]} has {port} already",
                )
        owners.update(dict.fromkeys(_names_of(device.port), name))


def _names_of(port: str) -> set[str]:
    files = {str(Path(found).resolve()) for found in glob.glob(port)} if port.startswith("/dev/") else set()  # noqa: PTH207
    return {port, *files}
