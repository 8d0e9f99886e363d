"""The protocols this build knows, each a folder below `drivers/` that is imported when it is first used.

A new protocol is a folder with `driver.make_driver`, `settings` (a pydantic model), `probe.probe`, `tools.decode`,
`tools.replay`, `simulator.make_simulator`, and one line here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from pydantic import BaseModel, ValidationError

from agent.domain.clock import Clock
from agent.domain.errors import ConfigError
from agent.domain.events import Event
from agent.domain.ids import Randomness
from drivers.links import open_link
from drivers.ports import DeviceInfo, Driver, Emit, Link
from drivers.simulation import Simulator, make_simulator


@dataclass(frozen=True, slots=True)
class Protocol:
    """One protocol. `kind`: what its driver is besides a `Driver` (`note_acceptor`, …)."""

    name: str
    kind: str
    settings_class: str

    @property
    def settings(self) -> type[BaseModel]:
        """The settings model of one device of this protocol."""
        model: type[BaseModel] = self._get("settings", self.settings_class)
        return model

    def parse_settings(self, settings: Mapping[str, Any] | BaseModel) -> BaseModel:
        """Checked settings. Raises `ConfigError` naming the key and what is wrong."""
        if isinstance(settings, BaseModel):
            return settings
        try:
            return self.settings.model_validate(dict(settings))
        except ValidationError as error:
            what = "; ".join(
                f"{'.'.join(str(part) for part in each['loc'])}: {each['msg']} (got {each['input']!r})"
                for each in error.errors()
            )
            raise ConfigError(f"settings of a {self.name} device: {what}") from error

    async def open_link(self, port: str, settings: Mapping[str, Any] | BaseModel) -> Link:
        """Open `port` with this device's line settings."""
        return await open_link(port, settings=self.parse_settings(settings))

    def driver(
        self,
        link: Link,
        *,
        name: str,
        clock: Clock,
        randomness: Randomness,
        emit: Emit,
        settings: Mapping[str, Any] | BaseModel,
        history: Sequence[Event] = (),
    ) -> Driver:
        """A driver on an opened link. `history`: the events of the device's open records, oldest first; also its last
        `DeviceOnline` and the standing `DeviceFaulted`, when known."""
        make: Callable[..., Driver] = self._get("driver", "make_driver")
        return make(
            link,
            name=name,
            clock=clock,
            randomness=randomness,
            emit=emit,
            settings=self.parse_settings(settings),
            history=history,
        )

    async def probe(self, link: Link, *, clock: Clock, settings: Mapping[str, Any] | BaseModel) -> DeviceInfo | None:
        """Who of this protocol answers on `link`, or None. Nothing moves, nothing is reset, no event forgotten."""
        ask: Callable[..., Awaitable[DeviceInfo | None]] = self._get("probe", "probe")
        return await ask(link, clock=clock, settings=self.parse_settings(settings))

    def decode(self, lines: Iterable[str], direction: str | None = None) -> Iterator[dict[str, Any]]:
        """One JSON-able object per line of hex; `direction` `host` or `device`, else guessed."""
        found: Iterator[dict[str, Any]] = self._get("tools", "decode")(lines, direction)
        return found

    def replay(self, lines: Iterable[str], table: str | None = None) -> Iterator[dict[str, Any]]:
        """Domain events of a recorded conversation, and the credited sums last. `table`: text of a value file."""
        found: Iterator[dict[str, Any]] = self._get("tools", "replay")(lines, table)
        return found

    def simulator(self, settings: Mapping[str, Any]) -> Simulator:
        """A simulated device. Raises `ConfigError` for impossible settings."""
        return make_simulator(self.name, settings)

    def _get(self, module: str, name: str) -> Any:
        return getattr(import_module(f"drivers.{self.name}.{module}"), name)


PROTOCOLS: dict[str, Protocol] = {
    each.name: each for each in (Protocol(name="ccnet", kind="note_acceptor", settings_class="CcnetSettings"),)
}


def protocol_of(name: str, known: Mapping[str, Protocol] = PROTOCOLS) -> Protocol:
    """The protocol of that name. Raises `ConfigError` that lists what there is."""
    if name not in known:
        raise ConfigError(f"unknown protocol {name!r}; this build knows {', '.join(sorted(known))}")
    return known[name]
