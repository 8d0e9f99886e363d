"""Bodies: every event type there and back, and a reader that stops at nothing."""

from __future__ import annotations

import json
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.domain import events as ev
from agent.domain.chain import JournalRow
from agent.domain.events import Event
from agent.domain.money import Money
from agent.domain.wire import EVENT_TYPES, Unreadable, decode, encode, event_of
from tests.domain.strategies import ANY_EVENT, events_of


@given(ANY_EVENT)
def test_every_event_comes_back_as_it_was(event: Event) -> None:
    body = encode(event)
    assert decode(event.TYPE, body) == event
    assert body == json.dumps(json.loads(body), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


@pytest.mark.parametrize("kind", EVENT_TYPES.values(), ids=EVENT_TYPES)
def test_every_type_has_a_dotted_name_a_subject_and_a_record_or_none(kind: type[Event]) -> None:
    @given(events_of(kind))
    def check(event: Event) -> None:
        assert kind.TYPE.count(".") in (1, 2)
        assert event.subject() == "agent" or "/" in event.subject()
        assert isinstance(event.closes_record(), bool)
        assert event.record() is None or isinstance(event.record(), str)

    check()


def test_the_names_on_the_wire_are_part_of_the_contract() -> None:
    """Added, never renamed: an office of tomorrow reads the rows of today."""
    for name in ("cash.note.stacked", "cash.payment.completed", "device.faulted", "blob.stored", "journal.opened"):
        assert name in EVENT_TYPES


def test_a_golden_body() -> None:
    event = ev.NoteStacked(device="v", note_id="n", value=Money(500, "EUR"), note_code=3, payment_id=None)
    assert encode(event) == (
        b'{"device":"v","note_code":3,"note_id":"n","payment_id":null,"value":{"amount_minor":500,"currency":"EUR"}}'
    )


def test_unknown_fields_are_ignored_and_missing_ones_take_their_default() -> None:
    assert decode("agent.started", b'{"version":"1","mood":"good"}') == ev.AgentStarted(version="1")
    assert decode("device.faulted", b'{"device":"v","code":"jam"}') == ev.DeviceFaulted(device="v", code="jam")


STACKED = {"device": "v", "note_id": "n", "value": {"amount_minor": 5, "currency": "EUR"}, "note_code": 3}


@pytest.mark.parametrize(
    ("type_", "body", "reason"),
    [
        ("scan.code.read", b"{}", "unknown type"),
        ("agent.started", b"", "Expecting value"),
        ("agent.started", b"\xff", "decode"),
        ("agent.started", b"[]", "not a JSON object"),
        ("agent.started", b"{}", "field version is missing"),
        ("agent.started", b'{"version":1}', "must be of type str"),
        ("agent.started", b'{"version":null}', "must be of type str"),
        ("agent.started", b"[" * 100_000, ""),
        ("cash.note.stacked", json.dumps(STACKED | {"value": 5, "payment_id": None}).encode(), "with its currency"),
        ("cash.note.stacked", json.dumps(STACKED | {"value": {}, "payment_id": None}).encode(), "amount_minor"),
        (
            "cash.note.stacked",
            json.dumps(STACKED | {"value": {"amount_minor": 5.0, "currency": "EUR"}, "payment_id": None}).encode(),
            "whole number",
        ),
        ("cash.note.stacked", json.dumps(STACKED | {"note_code": True, "payment_id": None}).encode(), "type int"),
        ("device.alarmed", b'{"device":"v","code":"c","evidence":"x"}', "must be a list"),
        ("device.came_online", b'{"device":"v","protocol":"ccnet","table":[5]}', "must be an object"),
    ],
)
def test_what_cannot_be_read_is_named_and_never_raises(type_: str, body: bytes, reason: str) -> None:
    event = decode(type_, body)
    assert isinstance(event, Unreadable)
    assert event.type == type_
    assert reason in event.reason


@given(st.sampled_from(sorted(EVENT_TYPES)), st.binary(max_size=60))
def test_any_bytes_can_be_looked_at(type_: str, body: bytes) -> None:
    assert isinstance(decode(type_, body), Event)


@given(
    st.sampled_from(sorted(EVENT_TYPES)),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["device", "value", "note_id", "table", "amount_minor"]), inner, max_size=4
            )
        ),
        max_leaves=8,
    ),
)
def test_any_json_can_be_looked_at(type_: str, value: object) -> None:
    assert isinstance(decode(type_, json.dumps(value).encode()), Event)


def test_the_event_of_a_row() -> None:
    row = JournalRow(
        1, UUID(int=1), "agent.started", 1, 0, UUID(int=2), 0, "", "agent", "agent", b'{"version":"1"}', b"", b""
    )
    assert event_of(row) == ev.AgentStarted(version="1")
