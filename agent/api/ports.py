"""What the API needs from the runtime, as Protocols of a few verbs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from agent.api.module import Devices
from drivers.ports import TraceItem


class DeviceBoard(Devices, Protocol):
    """All configured devices, for diagnostics. Unknown names raise `NotFound`."""

    def names(self) -> Sequence[str]: ...

    def port(self, name: str) -> str:
        """The port string of the configuration."""
        ...

    def trace(self, name: str) -> Sequence[TraceItem]: ...


@dataclass(frozen=True, slots=True)
class PartState:
    """One part of the agent (`store`, `device:cashcode`, `module:cash_system`, `sync`, `disk`, …) as it is now.

    `required`: the kiosk is not ready while this part is not ok. `code` is stable (`disk_low`), `detail` for people."""

    name: str
    ok: bool
    required: bool = False
    code: str = ""
    detail: str = ""


class AgentStatus(Protocol):
    def parts(self) -> Sequence[PartState]:
        """Every part, quickly and without I/O; called on the event loop."""
        ...


Metrics = Callable[[], bytes]
"""The Prometheus text of the whole agent (`prometheus_client.generate_latest(registry)`)."""
