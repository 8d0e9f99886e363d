"""The road's last stop: a batch is written once, whatever the network, the processes and Postgres do meanwhile."""

import asyncio
import socket
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import httpx
import msgspec
import pytest
import zstandard
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import SecretStr

from agent.domain import events as ev
from agent.domain.chain import JournalRow, row_hash
from agent.domain.money import Money
from sync import envelope as wire
from sync.central.embedded import EmbeddedServers
from sync.central.settings import RedisSettings
from tests.central.kiosks import Journal, Kiosk
from tests.servers import Centre, central_settings, running_centre

TOTALS = "SELECT payment_id, state, amount_minor, collected_minor, claimed_minor, in_doubt_minor FROM transactions"


def code_of(answer: httpx.Response) -> str:
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    problem = answer.json()
    assert problem["status"] == answer.status_code == wire.REFUSAL_STATUS.get(problem["code"], answer.status_code)
    return str(problem["code"])


async def alarms(centre: Centre) -> list[str]:
    return [row[0] for row in await centre.all("SELECT code FROM alarms ORDER BY first_at, code")]


async def test_rows_arrive_with_their_exact_bytes_and_the_watermark_follows(centre: Centre, kiosk: Kiosk) -> None:
    journal = Journal.opened()
    journal.pay("p1", 500, 500)
    answer = await kiosk.send(journal)
    assert answer.status_code == 200, answer.text
    assert answer.json()["accepted"] == len(journal.rows)
    assert answer.headers["kiosk-trace-id"] == "0123"
    mark = await kiosk.watermark(journal)
    assert mark == wire.Watermark(str(journal.journal_id), len(journal.rows), journal.head.hex())
    stored = await centre.all("SELECT seq, id, type, body, hash, trace_id, occurred_us FROM events ORDER BY seq")
    assert stored == [(r.seq, r.id, r.type, r.body, r.hash, r.trace_id, r.occurred_at) for r in journal.rows]
    assert await centre.all(TOTALS) == [("p1", "completed", 1000, 1000, 0, 0)]
    notes = await centre.all("SELECT note_id, payment_id, value_minor, stacked_seq FROM transaction_notes ORDER BY 1")
    assert notes == [("p1-0", "p1", 500, 3), ("p1-1", "p1", 500, 4)]


async def test_the_same_batch_twice_is_written_once(centre: Centre, kiosk: Kiosk) -> None:
    journal = Journal.opened()
    journal.pay("p1", 2000)
    packed = kiosk.packed(journal)
    first, second = await kiosk.post(packed), await kiosk.post(packed)
    assert (first.json()["accepted"], second.json()["accepted"]) == (len(journal.rows), 0)
    assert first.json()["watermark"] == second.json()["watermark"]
    assert await centre.all(TOTALS) == [("p1", "completed", 1000, 2000, 1000, 0)]
    assert await centre.one("SELECT count(*) FROM events") == len(journal.rows)


async def test_batches_out_of_order_are_refused_as_a_gap_with_the_watermark(centre: Centre, kiosk: Kiosk) -> None:
    journal = Journal.opened()
    journal.pay("p1", 500, 500)
    late = await kiosk.send(journal, 4)
    assert code_of(late) == "gap"
    assert late.json()["watermark"]["seq"] == 0
    assert (await kiosk.send(journal, 1, 2)).status_code == 200
    again = await kiosk.send(journal, 4)
    assert (code_of(again), again.json()["watermark"]["seq"]) == ("gap", 2)
    assert (await kiosk.send(journal, 3)).status_code == 200
    assert await centre.one("SELECT count(*) FROM events") == len(journal.rows)


async def test_any_overlap_is_compared_by_one_hash_and_only_the_rest_is_new(centre: Centre, kiosk: Kiosk) -> None:
    journal = Journal.opened()
    journal.pay("p1", 500, 500)
    last = len(journal.rows)
    await kiosk.send(journal, 1, 3)
    answers = [(await kiosk.send(journal, first, end)).json()["accepted"] for first, end in ((2, 4), (1, 2), (4, last))]
    assert answers == [1, 0, last - 4]
    assert await centre.one("SELECT count(*) FROM events") == last


async def test_two_processes_of_the_office_take_one_kiosk_at_once(
    centre: Centre, kiosk: Kiosk, scale: Callable[[int, int], int]
) -> None:
    """Each row once, whoever wins: the others see it as known."""
    journal = Journal.opened()
    for number in range(scale(10, 60)):
        journal.pay(f"p{number}", 1000)
    async with running_centre(centre.settings) as second, second.client() as other:
        twin = Kiosk(other, kiosk.key, kiosk.kiosk_id, kiosk.token)
        pieces = [kiosk.packed(journal, journal.rows[:end]) for end in range(1, len(journal.rows) + 1, 3)]
        pieces.append(kiosk.packed(journal))
        answers = await asyncio.gather(
            *(sender.post(piece) for piece in pieces for sender in (kiosk, twin)), return_exceptions=False
        )
    assert {answer.status_code for answer in answers} == {200}
    assert sum(answer.json()["accepted"] for answer in answers) == len(journal.rows)
    assert await centre.one("SELECT count(*) FROM events") == len(journal.rows)
    assert await centre.one("SELECT sum(collected_minor) FROM transactions") == scale(10, 60) * 1000


async def test_postgres_restarted_in_mid_batch_loses_and_doubles_nothing(
    servers: EmbeddedServers, centre: Centre, kiosk: Kiosk, scale: Callable[[int, int], int]
) -> None:
    journal = Journal.opened()
    for number in range(scale(120, 600)):
        journal.pay(f"p{number}", 500, 500)
    restart = asyncio.create_task(asyncio.to_thread(servers.postgres.restart))
    sent, refusals = 0, 0
    while sent < len(journal.rows):
        answer = await kiosk.send(journal, sent + 1, sent + 20)
        if answer.status_code == 200:
            sent = answer.json()["watermark"]["seq"]
        else:
            assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")
            assert answer.headers["retry-after"]
            refusals += 1
            await asyncio.sleep(0.05)
    await restart
    assert await centre.one("SELECT count(*) FROM events") == len(journal.rows)
    assert await centre.one("SELECT sum(collected_minor) FROM transactions") == scale(120, 600) * 1000


async def test_an_answer_lost_after_the_commit_costs_nothing(centre: Centre, kiosk: Kiosk) -> None:
    """The connection is cut while the office works; the kiosk asks for the watermark and sends again."""
    journal = Journal.opened()
    journal.pay("p1", 1000)
    packed = kiosk.packed(journal)
    blocker = await centre.pool.getconn()
    await blocker.execute("SELECT 1 FROM kiosks FOR UPDATE")
    with pytest.raises(httpx.ReadTimeout):
        async with httpx.AsyncClient(base_url=centre.url, timeout=0.3) as impatient:
            await Kiosk(impatient, kiosk.key, kiosk.kiosk_id, kiosk.token).post(packed)
    await blocker.rollback()
    await centre.pool.putconn(blocker)
    for _ in range(100):
        if (await kiosk.watermark(journal)).seq == len(journal.rows):
            break
        await asyncio.sleep(0.02)
    assert (await kiosk.post(packed)).json()["accepted"] == 0
    assert await centre.all(TOTALS) == [("p1", "completed", 1000, 1000, 0, 0)]


TAMPER: dict[str, Any] = {
    "id": uuid4(),
    "type": "cash.note.returned",
    "schema": 2,
    "occurred_at": 5,
    "boot_id": uuid4(),
    "monotonic_us": 1,
    "trace_id": "other",
    "actor": "ui",
    "subject": "note/other",
    "body": b"{}",
}


async def test_a_row_changed_in_any_field_breaks_the_chain(centre: Centre, kiosk: Kiosk) -> None:
    """Even with a right signature: the hashes of the kiosk's own journal say otherwise."""
    journal = Journal.opened()
    journal.pay("p1", 1000)
    for field, value in TAMPER.items():
        rows = [replace(row, **{field: value}) if row.seq == 3 else row for row in journal.rows]
        assert code_of(await kiosk.post(kiosk.packed(journal, rows))) == "chain_broken", field
    assert await centre.all("SELECT code, count FROM alarms") == [("chain_broken", len(TAMPER))]
    assert await centre.one("SELECT count(*) FROM events") == 0


async def test_rows_dropped_swapped_or_inserted_break_the_chain(kiosk: Kiosk) -> None:
    journal = Journal.opened()
    journal.pay("p1", 500, 500)
    rows = journal.rows
    for changed in (
        rows[:2] + rows[3:],
        [*rows[:2], rows[3], rows[2], *rows[4:]],
        [*rows[:3], replace(rows[2], id=uuid4()), *rows[3:]],
    ):
        dense = [replace(row, seq=number + 1) for number, row in enumerate(changed)]
        dense[-1] = replace(dense[-1], hash=journal.head)
        assert code_of(await kiosk.post(kiosk.packed(journal, dense))) == "chain_broken"


async def test_a_first_row_must_follow_the_genesis_hash(kiosk: Kiosk) -> None:
    """Rows of one journal under another journal's id."""
    journal, other = Journal.opened(), Journal()
    stolen = wire.pack(kiosk.kiosk_id, other.journal_id, journal.rows)
    assert code_of(await kiosk.post(stolen)) == "chain_broken"


async def test_a_journal_must_begin_by_being_opened(kiosk: Kiosk) -> None:
    journal = Journal()
    journal.append(ev.AgentStarted(version="1"))
    assert code_of(await kiosk.send(journal)) == "malformed_batch"


async def test_every_wrong_signature_is_refused_and_rings_an_alarm(centre: Centre, kiosk: Kiosk) -> None:
    journal = Journal.opened()
    packed = kiosk.packed(journal)
    other = Ed25519PrivateKey.generate()
    assert code_of(await kiosk.post(packed, key=other)) == "wrong_signature"
    assert code_of(await kiosk.post(packed, signature=b"")) == "wrong_signature"
    assert code_of(await kiosk.post(packed, headers={wire.SIGNATURE_HEADER: "not base64 !"})) == "wrong_signature"
    assert code_of(await kiosk.post(packed, signature=kiosk.key.sign(packed))) == "wrong_signature"  # no context
    cut = kiosk.packed(journal)[:-1]
    assert (
        code_of(await kiosk.post(cut, signature=kiosk.key.sign(wire.SIGNATURE_CONTEXT + packed))) == "wrong_signature"
    )
    assert await centre.all("SELECT code, severity, count FROM alarms") == [("wrong_signature", "critical", 5)]
    assert (await kiosk.post(packed)).status_code == 200


async def test_one_kiosk_cannot_write_as_another(centre: Centre, client: httpx.AsyncClient, kiosk: Kiosk) -> None:
    other = await Kiosk.enrolled(client, await centre.code("Bar"))
    journal = Journal.opened()
    as_other = wire.pack(other.kiosk_id, journal.journal_id, journal.rows)
    assert code_of(await kiosk.post(as_other)) == "wrong_signature"  # own token, own key, other name
    assert code_of(await kiosk.post(as_other, key=other.key)) == "wrong_signature"
    borrowed = Kiosk(client, kiosk.key, other.kiosk_id, other.token)
    assert code_of(await borrowed.send(journal)) == "wrong_signature"  # stolen token, own key
    assert await centre.one("SELECT count(*) FROM events") == 0
    await kiosk.send(journal)
    assert (await other.watermark(journal)).seq == 0  # nor read it


async def test_a_revoked_kiosk_is_refused_at_once_though_its_token_lives(centre: Centre, kiosk: Kiosk) -> None:
    journal = Journal.opened()
    journal.pay("p1", 1000)
    await kiosk.send(journal, 1, 2)
    async with centre.pool.connection() as connection:
        await connection.execute("UPDATE kiosks SET revoked_at = now()")
    assert code_of(await kiosk.send(journal, 3)) == "kiosk_revoked"
    beat = wire.Heartbeat(str(journal.journal_id), 3, "0.1.0")
    assert code_of(await kiosk.call(wire.PATH_HEARTBEAT, beat)) == "kiosk_revoked"
    assert code_of(await kiosk.call(wire.PATH_UPLOAD_GRANT, wire.GrantRequest("b"))) == "kiosk_revoked"
    assert code_of(await kiosk.ask_token(kiosk.assertion(await kiosk.nonce()))) == "kiosk_revoked"


async def test_a_kiosk_that_the_office_does_not_know(centre: Centre, kiosk: Kiosk) -> None:
    """Its token is ours, yet the office was restored from before its enrolment."""
    journal = Journal.opened()
    await kiosk.send(journal)
    async with centre.pool.connection() as connection:
        await connection.execute("DELETE FROM kiosks")
    journal.append(ev.AgentStarted(version="1"))
    assert code_of(await kiosk.send(journal, 2)) == "unknown_kiosk"
    stranger = replace(kiosk, kiosk_id=str(uuid4()))
    assert code_of(await stranger.ask_token(stranger.assertion(await stranger.nonce()))) == "unknown_kiosk"


def squeezed(value: Any, level: int = 19) -> bytes:
    return zstandard.ZstdCompressor(level=level).compress(msgspec.msgpack.encode(value))


async def test_bombs_and_oversized_batches(centre: Centre, kiosk: Kiosk) -> None:
    """8 MiB unpacked and 1 MiB on the wire are the end; nothing beyond is ever held."""
    bomb = zstandard.ZstdCompressor(level=19).compress(b"\xc1" * (256 << 20))
    assert len(bomb) < 100_000
    assert code_of(await kiosk.post(bomb)) == "batch_too_large"
    assert code_of(await kiosk.post(b"x" * (wire.COMPRESSED_BYTES_MAX + 1))) == "batch_too_large"
    journal = Journal.opened()
    row = wire.wire_row(journal.rows[0])
    many = [msgspec.structs.replace(row, seq=number) for number in range(1, wire.ROWS_MAX + 2)]
    batch = wire.Batch(kiosk.kiosk_id, journal.journal_id.bytes, bytes(32), bytes(32), many)
    assert code_of(await kiosk.post(squeezed(batch))) == "batch_too_large"
    window = zstandard.ZstdCompressionParameters.from_level(1, window_log=27)
    wide = zstandard.ZstdCompressor(compression_params=window).compress(b"\x90" + b"\x00" * (32 << 20))
    assert code_of(await kiosk.post(wide)) in {"batch_too_large", "malformed_batch"}
    assert (await kiosk.send(journal)).status_code == 200


async def test_a_body_longer_than_it_says_or_without_length_is_bounded(centre: Centre, kiosk: Kiosk) -> None:
    async def endless() -> Any:
        for _ in range(64):
            yield b"x" * (64 << 10)

    headers = {"Authorization": f"Bearer {kiosk.token}"}
    async with centre.client() as client:
        try:
            answer = await client.post(wire.PATH_INGEST, content=endless(), headers=headers)
        except httpx.NetworkError:
            return  # cut off while still sending
    assert code_of(answer) == "batch_too_large"


MALFORMED: list[dict[str, Any]] = [
    {"seq": 0},
    {"seq": 2**63},
    {"schema": -1},
    {"schema": 2**31},
    {"monotonic_us": -1},
    {"monotonic_us": 2**63},
    {"occurred_at": 2**63},
    {"id": b"short"},
    {"boot_id": b""},
    {"trace_id": 5},
    {"body": "text"},
]


async def test_rows_out_of_shape_are_malformed(kiosk: Kiosk) -> None:
    journal = Journal.opened()
    for change in MALFORMED:
        row = msgspec.structs.replace(wire.wire_row(journal.rows[0]), **change)
        batch = wire.Batch(kiosk.kiosk_id, journal.journal_id.bytes, journal.rows[0].prev_hash, journal.head, [row])
        assert code_of(await kiosk.post(squeezed(batch))) == "malformed_batch", change


async def test_bytes_that_are_no_batch_are_malformed(kiosk: Kiosk) -> None:
    for raw in (b"", b"nothing packed", squeezed([1, 2]), squeezed({"a": 1}), squeezed([])):
        assert code_of(await kiosk.post(raw)) == "malformed_batch", raw


async def test_a_poisoned_row_is_stored_parked_and_reported_and_the_others_go_on(centre: Centre, kiosk: Kiosk) -> None:
    journal = Journal.opened()
    journal.append_raw("cash.note.stacked", b'{"device":"acceptor"}')
    journal.append_raw("cash.note.stacked", b"\xff not json")
    journal.append_raw("cash.future.happened", b"{}")
    journal.append(ev.PaymentExtended(payment_id="p\x00q", deadline_us=1))
    journal.append(ev.PaymentExtended(payment_id="p" * 3000, deadline_us=1))
    journal.append(ev.PaymentExtended(payment_id="p0", deadline_us=2**70))
    journal.append(ev.BlobCaptured(blob_id="../../other", kind="snapshot", sha256="00" * 32, size_bytes=1))
    journal.append(ev.BlobCaptured(blob_id="b1", kind="snapshot", sha256="nohex", size_bytes=1))
    journal.append(ev.BlobCaptured(blob_id="b2", kind="snapshot", sha256="00", size_bytes=1))
    journal.append(ev.BlobCaptured(blob_id="b3", kind="snapshot", sha256="00" * 32, size_bytes=-1))
    journal.append(ev.BlobCaptured(blob_id="b4", kind="snapshot", sha256="00" * 32, size_bytes=1), occurred_at=2**62)
    parked = len(journal.rows) - 1
    journal.pay("p1", 1000)
    answer = await kiosk.send(journal)
    assert answer.json()["accepted"] == len(journal.rows), answer.text
    assert await centre.one("SELECT count(*) FROM events") == len(journal.rows)
    assert await centre.all("SELECT seq FROM parked_events ORDER BY seq") == [(2 + n,) for n in range(parked)]
    assert await centre.all(TOTALS) == [("p1", "completed", 1000, 1000, 0, 0)]
    assert set(await alarms(centre)) == {"event_parked"}
    assert (await kiosk.send(journal)).json()["accepted"] == 0


async def test_a_row_that_only_postgres_refuses_is_parked_alone(
    centre: Centre, kiosk: Kiosk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The savepoint: should `digest` let something through, the batch is taken row by row."""
    async with centre.pool.connection() as connection:
        await connection.execute("ALTER TABLE transaction_notes ADD CHECK (value_minor <> 666)")
    journal = Journal.opened()
    journal.pay("p1", 500, complete=False)
    journal.stack("evil", 666, "p1")
    journal.stack("good", 500, "p1")
    assert (await kiosk.send(journal)).json()["accepted"] == len(journal.rows)
    assert await centre.all("SELECT seq FROM parked_events") == [(4,)]
    assert await centre.all(TOTALS) == [("p1", "collecting", 1000, 1000, 0, 0)]


async def test_texts_that_postgres_cannot_hold_are_kept_exactly_beside(centre: Centre, kiosk: Kiosk) -> None:
    journal = Journal.opened()
    row = journal.append(ev.AgentStarted(version="a\x00b"), trace_id="t\x00race", actor="x" * 50_000)
    assert (await kiosk.send(journal)).status_code == 200
    trace, packed, body = (await centre.all("SELECT trace_id, wire, body FROM events WHERE seq = 2"))[0]
    assert trace == "t\N{SYMBOL FOR NULL}race"
    kept = msgspec.msgpack.decode(packed, type=wire.WireRow)
    assert kept == wire.wire_row(row)
    assert body == row.body


async def test_the_stored_events_hash_to_the_watermark(centre: Centre, kiosk: Kiosk) -> None:
    """Tampering inside Postgres shows: the chain is recomputed from the table alone."""
    journal = Journal.opened()
    journal.pay("p1", 500, 500)
    await kiosk.send(journal)
    columns = "seq, id, type, schema_number, occurred_us, boot_id, monotonic_us, trace_id, actor, subject, body"
    names = [RENAMED.get(name, name) for name in columns.split(", ")]
    hash_ = journal.rows[0].prev_hash
    for values in await centre.all(f"SELECT {columns} FROM events ORDER BY seq"):
        hash_ = row_hash(**dict(zip(names, values, strict=True)), prev_hash=hash_)
    assert hash_.hex() == (await kiosk.watermark(journal)).hash


RENAMED = {"schema_number": "schema", "occurred_us": "occurred_at"}


async def test_doubts_claims_and_foreign_notes_in_the_sums(centre: Centre, kiosk: Kiosk) -> None:
    journal = Journal.opened()
    journal.pay("p1", 500, complete=False)
    journal.stack("foreign", 2000, "p1", currency="USD")
    journal.stack("nobodys", 5000)
    doubt: dict[str, Any] = {"device": "acceptor", "payment_id": "p1", "reason": "silence"}
    for name in ("d1", "d2", "d3"):
        evidence = ("host 02", "device \x00")
        journal.append(ev.DoubtOpened(doubt_id=name, amount=Money(700, "EUR"), evidence=evidence, **doubt))
    await kiosk.send(journal)
    assert await centre.all(TOTALS) == [("p1", "collecting", 1000, 500, 0, 2100)]
    resolved: dict[str, Any] = {
        "device": "acceptor",
        "doubted": Money(700, "EUR"),
        "payment_id": "p1",
        "reason": "seen",
    }
    first = len(journal.rows) + 1
    journal.append(ev.DoubtResolved(doubt_id="d1", outcome="stacked", amount=Money(700, "EUR"), **resolved))
    journal.append(ev.DoubtResolved(doubt_id="d2", outcome="returned", amount=None, **resolved))
    joined = Money(5000, "EUR")  # what was nobody's is the payment's now
    journal.append(ev.DoubtResolved(doubt_id="d3", outcome="explained", amount=joined, **resolved))
    journal.claim("c1", 200, "p1")
    await kiosk.send(journal, first)
    assert await centre.all(TOTALS) == [("p1", "collecting", 1000, 6200, 200, 0)]
    assert await centre.all("SELECT doubt_id, outcome, found_minor FROM doubts ORDER BY 1") == [
        ("d1", "stacked", 700),
        ("d2", "returned", None),
        ("d3", "explained", 5000),
    ]


async def test_common_prefix_finds_the_last_row_that_both_have(kiosk: Kiosk) -> None:
    journal = Journal.opened()
    journal.pay("p1", 500, 500)
    await kiosk.send(journal)
    other = journal.copy(3)
    other.pay("p2", 500)

    async def ask(rows: list[JournalRow], journal_id: UUID = journal.journal_id) -> httpx.Response:
        hashes = [(row.seq, row.hash.hex()) for row in rows]
        return await kiosk.call(wire.PATH_COMMON_PREFIX, wire.CommonPrefixRequest(str(journal_id), hashes))

    assert (await ask(other.rows)).json() == {"seq": 3}
    assert (await ask([])).json() == {"seq": 0}
    assert (await ask(other.rows, uuid4())).json() == {"seq": 0}
    assert code_of(await ask(other.rows * 200)) == "malformed_batch"
    bad = wire.CommonPrefixRequest(str(journal.journal_id), [(1, "zz")])
    assert code_of(await kiosk.call(wire.PATH_COMMON_PREFIX, bad)) == "malformed_batch"


async def test_a_heartbeat_tells_the_lag_and_never_waits_for_the_lock(centre: Centre, kiosk: Kiosk) -> None:
    journal = Journal.opened()
    await kiosk.send(journal)
    beat = wire.Heartbeat(
        str(journal.journal_id), 70, "0.1.0", {"acceptor": "online\x00"}, disk_free_bytes=2**80, oldest_unsent_at=5
    )
    async with centre.pool.connection() as blocker:
        await blocker.execute("SELECT 1 FROM kiosks FOR UPDATE")
        answer = await kiosk.call(wire.PATH_HEARTBEAT, beat)
    assert answer.status_code == 200, answer.text
    assert answer.json()["watermark"]["seq"] == 1
    status = await centre.all("SELECT head_seq, devices, disk_free_bytes, oldest_unsent_us FROM kiosk_status")
    assert status == [(70, {"acceptor": "online"}, 2**63 - 1, 5)]


async def test_a_redis_that_does_not_answer_delays_nothing(servers: EmbeddedServers, database: str) -> None:
    """A socket that takes connections and stays silent, and a patience of ten seconds: nobody waits for it."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = SecretStr(f"redis://127.0.0.1:{silent.getsockname()[1]}/0")
        settings = central_settings(servers, database, redis=RedisSettings(url=url, timeout_ms=10_000))
        async with running_centre(settings) as centre, centre.client() as client, asyncio.timeout(9):
            kiosk = await Kiosk.enrolled(client, await centre.code())
            journal = Journal.opened()
            for number in range(10):
                journal.pay(f"p{number}", 1000)
                first = 1 if number == 0 else len(journal.rows) - 3
                assert (await kiosk.send(journal, first)).status_code == 200


async def test_wrong_methods_and_queries_are_answered_as_problems(client: httpx.AsyncClient, kiosk: Kiosk) -> None:
    answer = await client.get(wire.PATH_INGEST)
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert code_of(await client.get(wire.PATH_WATERMARK, headers=kiosk.bearer)) == "malformed_batch"
    assert code_of(await client.post(wire.PATH_ENROLL, content=b"{")) == "malformed_batch"
    health = await client.get("/health")
    assert health.json()["status"] == "ok"
    scraped = (await client.get("/metrics")).text
    assert 'central_kiosk_calls_total{outcome="405",path="/api/v1/ingest"} 1.0' in scraped
