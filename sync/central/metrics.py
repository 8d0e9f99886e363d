"""What Prometheus scrapes at `/metrics`; one registry per application, so that several live side by side in tests."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_BUCKETS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)


class Metrics:
    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.calls = Counter(
            "central_kiosk_calls", "Calls of kiosks by path and outcome", ["path", "outcome"], registry=self._registry
        )
        self.rows = Counter("central_rows", "Journal rows taken in", registry=self._registry)
        self.ingest_seconds = Histogram(
            "central_ingest_seconds", "Time of an accepted batch, body read to commit", buckets=_BUCKETS,
            registry=self._registry,
        )  # fmt: skip
        self.live_views = Gauge("central_live_views", "Open live views of the office", registry=self._registry)

    def text(self) -> bytes:
        return generate_latest(self._registry)
