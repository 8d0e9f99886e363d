"""What `RouterFactory` finds: the cash module's name, tables, settings and how to build it."""

from __future__ import annotations

from agent.api.module import Context, Module, Parts
from agent.domain import events as ev
from modules.cash_system.projections import CashProjection
from modules.cash_system.router import make_router
from modules.cash_system.service import CashService
from modules.cash_system.settings import CashSettings


def build(context: Context, settings: CashSettings) -> Parts:
    service = CashService(context.store, context.clock, context.randomness, context.devices, settings)
    return Parts(
        router=make_router(service, context),
        handlers={
            ev.NoteEscrowed: service.on_note_escrowed,
            ev.NoteStacked: service.on_note_outcome,
            ev.NoteReturned: service.on_note_returned,
            ev.DoubtOpened: service.on_note_outcome,
            ev.DoubtResolved: service.on_note_outcome,
            ev.DeviceOnline: service.on_device_change,
            ev.DeviceOffline: service.on_device_change,
            ev.DeviceFaulted: service.on_device_change,
            ev.DeviceRecovered: service.on_device_change,
        },
        start=service.start,
        stop=service.stop,
        snapshot=lambda reader: service.snapshot(reader).model_dump(mode="json"),
    )


MODULE = Module(name="cash_system", prefix="cash", settings=CashSettings, build=build, projections=(CashProjection(),))
