"""Journal rows on their way to the office: strictly in order, from the office's watermark on, for as long as it takes.

The kiosk keeps no position of its own. It asks the office for its watermark at the start and after any error, and
compares the watermark's hash with its own row before it sends what follows. Nothing is ever skipped or dropped; what
the office refuses is an alarm and is offered again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from uuid import UUID

from loguru import logger

from agent.domain.chain import JournalRow, genesis_hash
from agent.domain.clock import Clock
from agent.domain.errors import BatchRefused, CentreUnavailable, StoreError, SyncError
from agent.domain.ids import Randomness
from agent.store.ports import Store
from sync import envelope as wire
from sync.edge.backoff import Backoff, Bell, told_s
from sync.edge.chapters import Chapter, past
from sync.edge.client import Office
from sync.edge.fork import common_seq
from sync.edge.identity import Identity
from sync.edge.settings import SyncSettings
from sync.edge.status import Progress

READ_AT_ONCE = 200
HEARTBEAT_BOUNDS_S = (5.0, 600.0)
SPLITS = frozenset({wire.Refusal.BATCH_TOO_LARGE, wire.Refusal.MALFORMED_BATCH, wire.Refusal.CHAIN_BROKEN})
"""Refusals of a batch's contents: halves are offered until the row that is meant stands alone."""
PASSING = frozenset({wire.Refusal.GAP, wire.Refusal.FORK, wire.Refusal.TOKEN_INVALID})
"""Refusals that a fresh watermark (which finds a true fork) or a fresh token cures; no alarm unless they stay."""
PASSING_MAX = 3
GIVE_UP = frozenset({wire.Refusal.FORK, wire.Refusal.JOURNAL_SUPERSEDED})
"""Refusals of a past journal's rows: it was continued by a clone of ours; the present journal goes on."""
ROW_TOO_LARGE = "row_too_large"
JOURNAL_DAMAGED = "journal_damaged"


@dataclass(frozen=True, slots=True)
class Position:
    """What the office has of a journal, as it said itself last."""

    chapter: Chapter
    seq: int
    hash: bytes

    def named_by(self, mark: wire.Watermark) -> bool:
        return (mark.journal_id, mark.seq, mark.hash) == (str(self.chapter.journal_id), self.seq, self.hash.hex())


@dataclass(frozen=True, slots=True)
class Load:
    """A batch ready to leave."""

    first_seq: int
    last: Position
    count: int
    body: bytes
    signature: bytes
    trace_id: str


class Uplink:
    """One kiosk's road. `run` never returns; `progress` is what it shows. `accepted` is called after rows arrived."""

    def __init__(
        self,
        store: Store,
        office: Office,
        identity: Identity,
        *,
        settings: SyncSettings,
        clock: Clock,
        randomness: Randomness,
        progress: Progress,
        agent_version: str,
        devices_info: Callable[[], Mapping[str, str]] = dict,
        free_bytes: Callable[[], int] = lambda: 0,
        accepted: Callable[[], None] = lambda: None,
        on_step: Callable[[str], None] | None = None,
    ) -> None:
        self._store, self._office, self._identity = store, office, identity
        self._settings, self._clock, self._progress = settings, clock, progress
        self._version, self._devices_info, self._free_bytes = agent_version, devices_info, free_bytes
        self._accepted, self._on_step = accepted, on_step
        self._away = Backoff(settings.retry_min_s, settings.retry_max_s, randomness)
        self._refusals = Backoff(settings.refused_retry_min_s, settings.refused_retry_max_s, randomness)
        self._commits = Bell(clock)
        self._position: Position | None = None
        self._offered: Load | None = None
        self._given_up: set[UUID] = set()
        self._rows_max = settings.batch_rows
        self._forked_in_vain = False
        self._beat_at = clock.monotonic()
        self._urged = False
        self._turned = asyncio.Event()

    async def run(self) -> None:
        self._position = None
        unsubscribe = self._store.subscribe(lambda seq: self._commits.ring())
        try:
            while True:
                await self._pause(await self._turn())
        finally:
            unsubscribe()
            self._progress.online = False

    def urge(self) -> None:
        """Somebody wants it now: the present wait ends."""
        self._urged = True
        self._commits.ring()

    async def turned(self) -> None:
        """Return when the turn after this call has come to its end: caught up, or failed."""
        self._turned.clear()
        await self._turned.wait()

    async def _turn(self) -> float:
        """Send until there is nothing left or something fails; returns for how long nothing but an urge is heard.

        0: idle, a commit starts the next turn.
        """
        self._progress.retry_at = None
        wait_s = 0.0
        try:
            while await self._send_next():
                await self._beat_if_due()
            await self._beat_if_due()
        except (SyncError, StoreError) as error:
            self._position = None
            wait_s = await self._failed(error)
        self._progress.retry_at = self._clock.monotonic() + wait_s if wait_s else None
        self._turned.set()
        return wait_s

    async def _pause(self, wait_s: float) -> None:
        """Idle: until a commit or the next heartbeat. After a failure: the whole wait, whatever is committed."""
        if wait_s == 0:
            await self._commits.wait(self._beat_at)
            self._urged = False
            return
        until = self._clock.monotonic() + wait_s
        while self._clock.monotonic() < until and not self._urged:
            await self._commits.wait(until)
        self._urged = False

    # --- sending -----------------------------------------------------------------------------------------------------

    async def _send_next(self) -> bool:
        """One batch; False when the office has everything."""
        self._offered = None
        if self._position is None:
            self._position = await self._agree()
        load = self._offered = await asyncio.to_thread(self._load, self._position)
        if load is None and self._position.chapter.epoch is not None:
            self._position = None  # a past journal is whole at the office: look again what is next
            return True
        if load is None:
            self._caught_up()
            return False
        self._step("batch_read")
        sent = (lambda: self._step("batch_sent")) if self._on_step else None
        answer = await self._office.ingest(load.body, load.signature, trace_id=load.trace_id, sent=sent)
        self._step("batch_answered")
        self._position = load.last if load.last.named_by(answer.watermark) else None
        self._arrived(load, answer)
        return True

    def _load(self, position: Position) -> Load | None:
        """Rows after `position`, packed and signed; None when there are none. Runs off the event loop."""
        rows = self._read(position)
        if not rows:
            return None
        if rows[0].prev_hash != position.hash or rows[0].seq != position.seq + 1:
            raise BatchRefused(
                f"row {position.seq + 1} does not continue row {position.seq}; run `kiosk journal verify`",
                reason=JOURNAL_DAMAGED,
            )
        chapter, kiosk_id = position.chapter, self._identity.kiosk_id
        body = wire.pack(kiosk_id, chapter.journal_id, rows)
        while len(body) > wire.COMPRESSED_BYTES_MAX and len(rows) > 1:
            rows = rows[: len(rows) // 2]
            body = wire.pack(kiosk_id, chapter.journal_id, rows)
        last = Position(chapter, rows[-1].seq, rows[-1].hash)
        signature = self._identity.sign(wire.SIGNATURE_CONTEXT + body)
        return Load(rows[0].seq, last, len(rows), body, signature, rows[-1].trace_id)

    def _read(self, position: Position) -> list[JournalRow]:
        """Consecutive rows within the row and byte budgets, but always one."""
        rows: list[JournalRow] = []
        size = 0
        with self._store.read() as reader:
            while len(rows) < self._rows_max:
                wanted = min(READ_AT_ONCE, self._rows_max - len(rows))
                chunk = position.chapter.rows(reader, position.seq + len(rows), wanted)
                for row in chunk:
                    size += _plain_bytes(row)
                    if rows and size > self._settings.batch_kib * 1024:
                        return rows
                    rows.append(row)
                if len(chunk) < wanted:
                    break
        return rows

    def _arrived(self, load: Load, answer: wire.IngestAnswer) -> None:
        self._rows_max = min(self._settings.batch_rows, 2 * self._rows_max)
        self._progress.contact(self._clock.monotonic())
        self._progress.recovered()
        self._away.reset()
        self._refusals.reset()
        self._forked_in_vain = False
        if load.last.chapter.epoch is None:
            self._progress.watermark_seq = load.last.seq if self._position else None
        logger.bind(seq=load.last.seq, rows=load.count, new=answer.accepted).debug("rows arrived at the office")
        self._accepted()

    def _caught_up(self) -> None:
        if self._progress.error_code:
            logger.info("the office is reached again and has every row")
        self._progress.recovered()
        self._away.reset()
        self._refusals.reset()

    # --- agreeing ----------------------------------------------------------------------------------------------------

    async def _agree(self) -> Position:
        """Where to go on, in a journal that the office's history is the beginning of. May fork."""
        present = Chapter(self._store.journal_id)
        self._progress.watermark_seq = None  # until both agree, the office's number says nothing about our rows
        mark = await self._mark(present)
        if mark.seq == 0:
            self._progress.watermark_seq = 0
            return await self._missing_past() or Position(present, 0, genesis_hash(present.journal_id))
        own = await asyncio.to_thread(self._own_hash, present, mark.seq)
        if own is not None and own.hex() == mark.hash:
            self._progress.watermark_seq = mark.seq
            return Position(present, mark.seq, own)
        why = "the office has another history of this journal" if own else "the office is ahead of us"
        await self._fork(why, below=mark.seq)
        return await self._agree()

    async def _missing_past(self) -> Position | None:
        """Where to begin in a past journal whose end the office lacks (it was put back to a backup); None: it has all.

        A past journal of which the office has another history is left alone: its alarms are the office's own.
        """
        missing = None
        for chapter in reversed(await asyncio.to_thread(self._past)):
            mark = await self._mark(chapter)
            if mark.seq >= (chapter.last_seq or 0):
                break
            own = await asyncio.to_thread(self._own_hash, chapter, mark.seq)
            if chapter.journal_id in self._given_up or own is None or own.hex() != mark.hash:
                break
            missing = Position(chapter, mark.seq, own)
            if mark.seq > 0:
                break
        return missing

    async def _mark(self, chapter: Chapter) -> wire.Watermark:
        mark = await self._office.watermark(chapter.journal_id)
        self._progress.contact(self._clock.monotonic())
        if mark.journal_id != str(chapter.journal_id):
            raise CentreUnavailable(f"asked about journal {chapter.journal_id}, the office answered about another")
        return mark

    def _past(self) -> list[Chapter]:
        with self._store.read() as reader:
            return past(reader)

    def _own_hash(self, chapter: Chapter, seq: int) -> bytes | None:
        with self._store.read() as reader:
            return chapter.hash_at(reader, seq)

    async def _fork(self, why: str, *, below: int | None = None) -> None:
        """Go on in a new journal after the last row that the office's history and ours share: an alarm, not a loss.

        Happens to a disk image put back, to one of two clones, to a disk that lost what it had confirmed. Once only,
        until the office takes a row of the new journal: an office gone mad must not make us copy our journal for ever.
        `below`: a row of the office's that we do not share.
        """
        if self._forked_in_vain:
            raise BatchRefused(f"{why}, though the journal was forked already", reason=wire.Refusal.FORK)
        journal_id = self._store.journal_id
        with self._store.read() as reader:
            head, _ = reader.head()
        common = await common_seq(self._store, self._office, journal_id, head)
        if below is not None and common >= below:
            raise CentreUnavailable(f"the office contradicts itself about row {below}")
        new = await self._store.fork(common)
        self._forked_in_vain = True
        self._progress.forked_from, self._progress.watermark_seq = str(journal_id), None
        logger.bind(journal=str(journal_id), common_seq=common, head_seq=head, new_journal=str(new)).error(
            "journal forked: {}", why
        )

    # --- failing -----------------------------------------------------------------------------------------------------

    async def _failed(self, error: SyncError | StoreError) -> float:
        """What an error means for the next try; returns how long to wait for it."""
        if isinstance(error, BatchRefused):
            self._progress.contact(self._clock.monotonic())
            return await self._refused(error)
        if self._progress.online or self._progress.error_code is None:
            logger.bind(code=error.code).warning("no sync: {}", error.message)
        self._progress.online = self._progress.online and isinstance(error, StoreError)
        self._progress.failed(error.code, error.message, alarm=False)
        return self._away.next_s(told_s(error))

    async def _refused(self, error: BatchRefused) -> float:
        reason, offered = str(error.details.get("reason", "")), self._offered
        if offered and offered.last.chapter.epoch is not None and reason in GIVE_UP:
            self._given_up.add(offered.last.chapter.journal_id)
            logger.bind(code=reason, journal=str(offered.last.chapter.journal_id)).error(
                "the end of a past journal is not taken: {}", error.message
            )
            return self._settings.retry_min_s
        if reason in SPLITS and offered and offered.count > 1:
            self._rows_max = offered.count // 2
            return self._settings.retry_min_s
        if reason == wire.Refusal.JOURNAL_SUPERSEDED and not self._forked_in_vain:
            try:
                await self._fork("it was continued elsewhere; is there a clone of this kiosk?")
            except (SyncError, StoreError) as failure:
                return await self._failed(failure)
            return self._settings.retry_min_s
        if reason == wire.Refusal.BATCH_TOO_LARGE:
            reason = ROW_TOO_LARGE
        return self._alarmed(reason, error.message)

    def _alarmed(self, reason: str, message: str) -> float:
        passing = reason in PASSING and self._refusals.failures < PASSING_MAX
        text = f"rows {self._offered.first_seq} to {self._offered.last.seq}: {message}" if self._offered else message
        if not passing and self._progress.alarm != reason:
            logger.bind(code=reason).error("the office refuses: {}", text)
        self._progress.failed(reason, text, alarm=not passing)
        wait_s = self._refusals.next_s()
        return min(wait_s, self._settings.refused_retry_min_s) if passing else wait_s

    # --- telling -----------------------------------------------------------------------------------------------------

    async def _beat_if_due(self) -> None:
        """Telemetry and the office's own view of the watermark. Rows do not depend on it: its failure is only noted."""
        now = self._clock.monotonic()
        if now < self._beat_at:
            return
        self._beat_at = now + self._settings.heartbeat_interval_s
        before = self._position
        try:
            devices = dict(self._devices_info())
            answer = await self._office.heartbeat(await asyncio.to_thread(self._beat, before, devices))
        except BatchRefused as error:
            logger.bind(code=error.details.get("reason")).warning("heartbeat refused: {}", error.message)
            return
        low, high = HEARTBEAT_BOUNDS_S
        self._beat_at = now + min(max(answer.next_in_s, low), high)
        self._progress.contact(self._clock.monotonic())
        if (
            before and before.chapter.epoch is None and not before.named_by(answer.watermark)
        ):  # put back from a backup while we were idle
            self._position = None
            self._commits.ring()

    def _beat(self, position: Position | None, devices: dict[str, str]) -> wire.Heartbeat:
        with self._store.read() as reader:
            head, _ = reader.head()
            unsent = position.chapter.rows(reader, position.seq, 1) if position else []
        return wire.Heartbeat(
            str(self._store.journal_id),
            head,
            self._version,
            devices,
            self._free_bytes(),
            unsent[0].occurred_at if unsent else None,
        )

    def _step(self, name: str) -> None:
        if self._on_step:
            self._on_step(name)


def _plain_bytes(row: JournalRow) -> int:
    texts = len(row.type) + len(row.trace_id) + len(row.actor) + len(row.subject)
    return 80 + 4 * texts + len(row.body)  # at most four UTF-8 bytes a character; 80 for ids, numbers and framing
