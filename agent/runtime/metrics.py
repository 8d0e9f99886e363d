"""Prometheus text of the whole agent, gathered when asked for: nothing is counted twice, nothing is kept in step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from agent.domain.errors import StoreError
from agent.runtime.bus import Bus
from agent.runtime.devices import DeviceManager
from agent.runtime.guard import REASONS, Guard
from agent.store.journal import StoreHealth
from drivers.ports import DeviceState
from sync.edge import EdgeStatus


class Gatherer(Collector):
    """`edge` gives the road's status, None when sync is switched off; it may raise `StoreError`."""

    def __init__(
        self,
        devices: DeviceManager,
        bus: Bus,
        guard: Guard,
        health: Callable[[], StoreHealth],
        edge: Callable[[], EdgeStatus | None],
    ) -> None:
        self._devices = devices
        self._bus = bus
        self._guard = guard
        self._health = health
        self._edge = edge

    def collect(self) -> Iterable[Metric]:
        yield from self._of_store()
        yield from self._of_devices()
        yield from self._of_bus()
        troubles = self._guard.troubles()
        inhibited = GaugeMetricFamily(
            "kiosk_acceptance_inhibited", "1 while this reason forbids money", labels=["reason"]
        )
        for reason in REASONS:
            inhibited.add_metric([reason], int(reason in troubles))
        yield inhibited
        yield from self._of_sync()

    def _of_store(self) -> Iterator[Metric]:
        health = self._health()
        yield CounterMetricFamily("kiosk_journal_commits", "Commits on the disk since the start", value=health.commits)
        yield CounterMetricFamily("kiosk_journal_works", "Transactions merged into them", value=health.works)
        yield _gauge("kiosk_journal_commit_seconds", "The last commit, fsync included", health.last_commit_s)
        yield _gauge("kiosk_journal_commit_seconds_worst", "The slowest of the last 64", health.slowest_commit_s)
        yield _gauge("kiosk_journal_waiting", "Transactions that wait for the writer", health.waiting)
        yield _gauge("kiosk_journal_log_pages", "Pages in the write-ahead log", health.log_pages)
        yield _gauge("kiosk_store_failed", "1 while the journal cannot be written", int(health.failed is not None))
        yield _gauge("kiosk_disk_free_bytes", "Free space on the state directory's disk", health.free_bytes)

    def _of_devices(self) -> Iterator[Metric]:
        state = GaugeMetricFamily("kiosk_device_state", "1 for the state a device is in", labels=["device", "state"])
        events = CounterMetricFamily("kiosk_device_events", "Counters of a driver's run", labels=["device", "counter"])
        reopened = CounterMetricFamily("kiosk_device_reopened", "Ports opened again", labels=["device"])
        for name in self._devices.names():
            info = self._devices.info(name)
            for each in DeviceState:
                state.add_metric([name, each.value], int(each is info.state))
            for counter, value in info.counters.items():
                events.add_metric([name, counter], value)
            reopened.add_metric([name], self._devices.reopened(name))
        yield from (state, events, reopened)

    def _of_bus(self) -> Iterator[Metric]:
        head = self._bus.head()
        yield _gauge("kiosk_journal_head_seq", "Seq of the last row", head)
        lag = GaugeMetricFamily("kiosk_handler_lag_rows", "Rows a subscriber has not seen", labels=["subscriber"])
        failing = GaugeMetricFamily("kiosk_handler_failing", "1 while a row is tried again", labels=["subscriber"])
        parked = CounterMetricFamily("kiosk_handler_parked_rows", "Unreadable rows passed over", labels=["subscriber"])
        for name, position in self._bus.positions().items():
            lag.add_metric([name], max(0, head - position.seq))
            failing.add_metric([name], int(bool(position.failing)))
            parked.add_metric([name], position.parked)
        yield from (lag, failing, parked)

    def _of_sync(self) -> Iterator[Metric]:
        try:
            status = self._edge()
        except StoreError:
            return
        if status is None:
            return
        yield _gauge("kiosk_sync_enrolled", "1 when an office is known", int(status.enrolled))
        yield _gauge("kiosk_sync_online", "1 when the office answered last time", int(status.online))
        yield _gauge("kiosk_sync_alarm", "1 while a refusal wants a person", int(status.alarm is not None))
        yield _gauge("kiosk_sync_blobs_pending", "Sealed files not confirmed", status.blobs_pending)
        yield _gauge("kiosk_sync_blobs_pending_bytes", "Their size", status.blobs_pending_bytes)
        if status.lag_rows is not None:
            yield _gauge("kiosk_sync_lag_rows", "Rows the office does not have", status.lag_rows)
            yield _gauge(
                "kiosk_sync_oldest_unsent_seconds", "Age of the first of them", status.oldest_unsent_age_s or 0.0
            )


def _gauge(name: str, help_: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, help_, value=value)


def renderer(gatherer: Gatherer) -> Callable[[], bytes]:
    """What `/metrics` answers with."""
    registry = CollectorRegistry()
    registry.register(gatherer)
    return lambda: generate_latest(registry)
