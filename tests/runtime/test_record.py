"""Only changes are recorded, across drivers and across restarts."""

from __future__ import annotations

from agent.domain import events as ev
from agent.domain.money import Money
from agent.runtime import record as records
from agent.runtime.record import DeviceRecord
from agent.store.journal import SqliteStore

TABLE = (ev.Denomination(code=2, value=Money(500, "EUR")),)
ONLINE = ev.DeviceOnline(device="v", protocol="ccnet", model="FL", serial="1", firmware="2", table=TABLE)
OFFLINE = ev.DeviceOffline(device="v", reason="unplugged")
FAULT = ev.DeviceFaulted(device="v", code="jam", detail="stacker")
OVER = ev.DeviceRecovered(device="v", code="jam")
NOTE = ev.NoteEscrowed(device="v", note_id="n", value=Money(500, "EUR"), note_code=2)


def test_online_and_offline_are_told_once_each() -> None:
    record = DeviceRecord("v")
    for event, fresh in [(OFFLINE, True), (OFFLINE, False), (ONLINE, True), (ONLINE, False), (OFFLINE, True)]:
        assert bool(record.fresh([event])) is fresh
        record.committed([event], at_us=1)


def test_another_identity_on_the_same_port_is_news() -> None:
    record = DeviceRecord("v")
    record.committed([ONLINE], at_us=1)
    other = ev.DeviceOnline(device="v", protocol="ccnet", model="FL", serial="2", firmware="2", table=TABLE)
    assert record.fresh([ONLINE]) == []
    assert record.fresh([other]) == [other]


def test_a_fault_is_told_once_and_so_is_its_end() -> None:
    record = DeviceRecord("v")
    record.committed(record.fresh([FAULT]), at_us=1)
    assert record.fresh([FAULT]) == []
    assert record.fresh([OVER, OVER]) == [OVER]
    assert record.fresh([ev.DeviceFaulted(device="v", code="jam", detail="elsewhere")]) != []


def test_events_about_money_always_pass() -> None:
    """A repeated reply is the machine's to recognise; this filter must never swallow a note."""
    record = DeviceRecord("v")
    assert record.fresh([NOTE, NOTE]) == [NOTE, NOTE]


def test_looking_changes_nothing() -> None:
    """The commit may fail: the same events must be fresh again."""
    record = DeviceRecord("v")
    assert record.fresh([ONLINE, FAULT]) == record.fresh([ONLINE, FAULT]) == [ONLINE, FAULT]
    assert record.since_us is None


async def test_the_journal_remembers_across_restarts(store: SqliteStore) -> None:
    await store.record([ONLINE, FAULT], actor="device:v")
    with store.read() as reader:
        record = records.load(reader, "v")
    assert (record.online, record.reason, record.faults) == (ONLINE, None, {"jam": "stacker"})
    assert record.fresh([ONLINE, FAULT]) == []
    await store.record([OVER, OFFLINE], actor="device:v")
    with store.read() as reader:
        record = records.load(reader, "v")
        assert records.load(reader, "other") == DeviceRecord("other")
    assert (record.reason, record.faults) == ("unplugged", {})
    assert record.since_us is not None


async def test_the_projection_can_be_rebuilt(store: SqliteStore) -> None:
    await store.record([ONLINE, FAULT, OFFLINE], actor="device:v")
    with store.read() as reader:
        before = reader.all("SELECT * FROM device_status"), reader.all("SELECT * FROM device_faults")
    await store.rebuild()
    with store.read() as reader:
        assert before == (reader.all("SELECT * FROM device_status"), reader.all("SELECT * FROM device_faults"))
