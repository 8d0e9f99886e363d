"""The kiosk's side of the road to the office: enrolment, uplink, sealed files. Cheap to import.

`build_edge` is what the runtime calls; `PROJECTIONS` is what it hands to the store; `SyncSettings` is its section.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from agent.domain.clock import Clock
from agent.domain.ids import Randomness
from agent.store.ports import Store
from sync.edge.blob_table import PROJECTIONS
from sync.edge.edge import Edge
from sync.edge.settings import SyncSettings
from sync.edge.status import EdgeStatus

__all__ = ["PROJECTIONS", "Edge", "EdgeStatus", "SyncSettings", "build_edge"]


def build_edge(
    settings: SyncSettings,
    *,
    store: Store,
    store_path: Path,
    state_dir: Path,
    clock: Clock,
    randomness: Randomness,
    agent_version: str,
    devices_info: Callable[[], Mapping[str, str]] = dict,
    on_step: Callable[[str], None] | None = None,
) -> Edge | None:
    """The kiosk's sync, or None when it is switched off. `store` must have been opened with `PROJECTIONS`.

    `store_path` is the SQLite file (for snapshots), `devices_info` gives each device's state for heartbeats, `on_step`
    hears `batch_read`, `batch_sent`, `batch_answered`, `snapshot_sealed`, `snapshot_recorded`, `blob_put` and
    `blob_recorded` (crash tests).
    """
    if not settings.enabled:
        return None
    return Edge(
        settings,
        store=store,
        store_path=store_path,
        state_dir=state_dir,
        clock=clock,
        randomness=randomness,
        agent_version=agent_version,
        devices_info=devices_info,
        on_step=on_step,
    )
