"""A snapshot is one whole file of one moment, made beside a working writer."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path

import pytest

from agent.domain import events as ev
from agent.store.connection import query
from agent.store.errors import StorageFailed
from agent.store.inspect import inspecting
from agent.store.reader import reading
from agent.store.snapshot import copy_to
from agent.store.verify import verify
from tests.store.helpers import open_store


async def test_a_snapshot_verifies_and_ends_where_it_says(tmp_path: Path) -> None:
    async with open_store(tmp_path / "state") as store:
        await store.record([ev.AgentStarted(version=str(number)) for number in range(50)], actor="a")
        (tmp_path / "copy").mkdir()
        target = tmp_path / "copy" / "journal.db"
        taking = asyncio.create_task(asyncio.to_thread(store.snapshot, target))
        await asyncio.gather(*(store.record([ev.AgentStarted(version="x")], actor="a") for _ in range(20)))
        journal_id, seq, hash_ = await taking
        assert (journal_id, stat.S_IMODE(target.stat().st_mode)) == (store.journal_id, 0o600)
        with inspecting(tmp_path / "copy") as connection, reading(connection) as reader:
            assert reader.head() == (seq, hash_)
            assert verify(reader, None).damages == ()
            assert query(connection, "PRAGMA journal_mode") == [("delete",)]
        with pytest.raises(FileExistsError):
            store.snapshot(target)


async def test_a_snapshot_that_fails_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from agent.store import snapshot

    async with open_store(tmp_path / "state") as store:
        target = tmp_path / "copy.db"
        monkeypatch.setattr(snapshot, "query", _refuse)
        with store.read() as reader, pytest.raises(StorageFailed, match="no snapshot"):
            copy_to(reader, target)
        assert not target.exists()


def _refuse(*_arguments: object) -> None:
    import apsw

    raise apsw.FullError("disk full")
