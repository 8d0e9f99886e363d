"""One key, one effect, one answer: repeated, concurrent, reused and after a restart."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from agent.domain import events as ev
from agent.domain.errors import NotFound
from agent.store.idempotency import (
    Answer,
    IdempotencyKeyMissing,
    IdempotencyKeyReused,
    RequestInProgress,
    once,
)
from agent.store.journal import SqliteStore
from agent.store.ports import Transaction
from tests.store.helpers import open_store


def start(tx: Transaction) -> Answer:
    return Answer(201, {"seq": tx.append(ev.AgentStarted(version="1")).seq, "name": "Größe"})


async def call(store: SqliteStore, key: str | None, body: bytes = b"{}", role: str = "ui", route: str = "/x") -> Answer:
    return await once(store, role=role, route=route, key=key, body=body, work=start)


async def test_the_same_key_and_body_give_the_same_answer_and_one_event(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        first = await call(store, "k")
        assert first == Answer(201, {"seq": 2, "name": "Größe"})
        assert await call(store, "k") == Answer(201, first.body, repeated=True)
    async with open_store(tmp_path) as store:
        assert await call(store, "k") == Answer(201, first.body, repeated=True)
        with store.read() as reader:
            assert reader.head()[0] == 2
            (row,) = reader.rows(1, 5)
            assert row.actor == "ui"


async def test_keys_are_apart_by_role_and_route(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        answers = [
            await call(store, "k", role=role, route=route) for role in ("ui", "technician") for route in ("/x", "/y")
        ]
        assert [answer.body["seq"] for answer in answers] == [2, 3, 4, 5]


async def test_another_body_is_refused(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        await call(store, "k")
        with pytest.raises(IdempotencyKeyReused) as caught:
            await call(store, "k", b'{"amount_minor":1}')
        assert (caught.value.code, caught.value.http_status) == ("idempotency_key_reused", 422)


@pytest.mark.parametrize("key", [None, "", "x" * 256])
async def test_a_key_is_required(tmp_path: Path, key: str | None) -> None:
    async with open_store(tmp_path) as store:
        with pytest.raises(IdempotencyKeyMissing):
            await call(store, key)


async def test_while_the_first_call_runs_the_second_is_told_to_come_back(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        gate = threading.Event()
        blocker = asyncio.create_task(store.transact(lambda _tx: gate.wait(10), actor="a"))
        await asyncio.sleep(0.05)
        first = asyncio.create_task(call(store, "k"))
        await asyncio.sleep(0.05)
        with pytest.raises(RequestInProgress) as caught:
            await call(store, "k")
        assert caught.value.details["retry_after_s"] == 1
        gate.set()
        await blocker
        assert (await first).status == 201
        assert (await call(store, "k")).repeated


async def test_a_work_that_fails_keeps_nothing(tmp_path: Path) -> None:
    def fail(tx: Transaction) -> Answer:
        tx.append(ev.AgentStarted(version="never"))
        raise NotFound("no such payment")

    async with open_store(tmp_path) as store:
        with pytest.raises(NotFound):
            await once(store, role="ui", route="/x", key="k", body=b"{}", work=fail)
        assert (await call(store, "k")).body["seq"] == 2
