"""The one thread that writes: group commits, checkpoints, cursors, witness, space; the way back after a failure."""

from __future__ import annotations

import asyncio
import threading
from collections import defaultdict, deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from loguru import logger

from agent.domain.errors import StoreError
from agent.store.connection import PAGE_SIZE_BYTES
from agent.store.cursors import Cursors
from agent.store.engine import Engine, Outcome, Work
from agent.store.errors import StorageFailed, StoreClosed
from agent.store.opening import MIB, OpenFile
from agent.store.reader import ReaderPool
from agent.store.settings import StoreSettings
from agent.store.space import SpaceGuard, SpaceMarks

if TYPE_CHECKING:
    from agent.store.journal import Callbacks

TICK_S = 1.0  # cursors, witness, disk space and idle checkpoints are at most this late
RETRY_FIRST_S, RETRY_MAX_S = 0.1, 30.0
RECENT_COMMITS = 64


@dataclass(slots=True, eq=False)
class Job:
    """A work for a group commit, or a task that has the engine to itself; and where the answer goes."""

    work: Work | None = None
    task: Callable[[Engine], Any] | None = None
    loop: asyncio.AbstractEventLoop | None = None
    future: asyncio.Future[Any] | None = None
    result: Future[Any] | None = None


@dataclass(slots=True)
class Numbers:
    """Written by the writer thread only."""

    commits: int = 0
    works: int = 0
    last_commit_s: float = 0.0
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT_COMMITS))


class Writer:
    """`put` from any thread. While `failure` is set every job is refused at once."""

    def __init__(self, file: OpenFile, settings: StoreSettings, callbacks: Callbacks, readers: ReaderPool) -> None:
        self.cursors = Cursors()
        self.numbers = Numbers()
        self.failure: StorageFailed | None = None
        self.space = SpaceGuard(
            file.disk,
            file.folder,
            SpaceMarks(
                low=int(settings.disk_low_mib * MIB),
                resume=int(settings.disk_resume_mib * MIB),
                critical=int(settings.disk_critical_mib * MIB),
                reserve=int(settings.reserve_mib * MIB),
            ),
            callbacks.on_space,
        )
        self._file = file
        self._callbacks = callbacks
        self._readers = readers
        self._group_max = settings.group_max
        self._log_pages_max = int(settings.wal_size_mib * MIB) // (PAGE_SIZE_BYTES + 24)
        self._monotonic = file.clock.monotonic
        self._wake = threading.Condition()
        self._jobs: deque[Job] = deque()
        self._stopping = False
        self._subscribers: dict[object, Callable[[int], None]] = {}
        self._next_tick = 0.0
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)

    def start(self) -> None:
        self.cursors.reload(self._file.engine)
        self.space.look()
        self._next_tick = self._monotonic() + TICK_S
        self._thread.start()

    # --- from other threads ----------------------------------------------------------------------------------------

    def put(self, jobs: list[Job]) -> None:
        """Queue them; answers come through their futures, refusals too."""
        with self._wake:
            refusal: StoreError | None = self.failure
            if self._stopping:
                refusal = StoreClosed("the store is closed")
            if refusal is None:
                self._jobs.extend(jobs)
                self._wake.notify()
        if refusal is not None:
            deliver([(job, Outcome(error=refusal)) for job in jobs])

    def waiting(self) -> int:
        return len(self._jobs)

    def refuse_when_failed(self) -> None:
        if self.failure is not None:
            raise self.failure

    def subscribe(self, wake: Callable[[int], None]) -> Callable[[], None]:
        ticket = object()
        self._subscribers = {**self._subscribers, ticket: wake}

        def unsubscribe() -> None:
            self._subscribers = {key: value for key, value in self._subscribers.items() if key is not ticket}

        return unsubscribe

    def stop(self) -> None:
        """Finish what waits, then end the thread. The file stays open."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join()

    # --- the thread ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            jobs = self._take()
            try:
                self._serve(jobs)
                if self._monotonic() >= self._next_tick:
                    self._tick(idle=not jobs)
                if not jobs and self._stopping:
                    self._finish()
                    return
            except StorageFailed as failure:
                if not self._recover(failure):
                    return

    def _take(self) -> list[Job]:
        """The next group; empty when the tick is due or the end has come."""
        with self._wake:
            if not self._jobs and not self._stopping:
                self._wake.wait(max(0.0, self._next_tick - self._monotonic()))
            if self._jobs and self._jobs[0].task is not None:
                return [self._jobs.popleft()]
            group: list[Job] = []
            while self._jobs and self._jobs[0].task is None and len(group) < self._group_max:
                group.append(self._jobs.popleft())
            return group

    def _serve(self, jobs: list[Job]) -> None:
        """Commit and answer. On `StorageFailed` all of them are answered with it before it goes on."""
        if not jobs:
            return
        head = self._file.engine.head()
        try:
            outcomes = self._task(jobs[0]) if jobs[0].task is not None else self._commit(jobs)
        except StorageFailed as failure:
            self._fail(failure, jobs)
            raise
        deliver(list(zip(jobs, outcomes, strict=True)))
        if self._file.engine.head() != head:
            self._tell()
        if self._file.engine.wal_pages >= self._log_pages_max:
            self._file.engine.checkpoint()

    def _commit(self, jobs: list[Job]) -> list[Outcome]:
        due = self._monotonic() >= self._next_tick
        taken = self.cursors.take() if due else {}
        started = self._monotonic()
        try:
            outcomes = self._file.engine.commit([job.work for job in jobs if job.work is not None], taken)
        except StorageFailed:
            self.cursors.put_back(taken)
            raise
        numbers = self.numbers
        numbers.last_commit_s = self._monotonic() - started
        numbers.recent.append(numbers.last_commit_s)
        numbers.commits += 1
        numbers.works += len(jobs)
        return outcomes

    def _task(self, job: Job) -> list[Outcome]:
        assert job.task is not None  # noqa: S101 - narrows for the type checker
        try:
            return [Outcome(job.task(self._file.engine))]
        except StorageFailed:
            raise
        except Exception as error:
            if self._file.engine.writer.failure is not None:
                raise self._file.engine.writer.failure from error
            return [Outcome(error=error)]

    def _tell(self) -> None:
        seq, _ = self._file.engine.head()
        for wake in tuple(self._subscribers.values()):
            try:
                wake(seq)
            except Exception as error:  # noqa: BLE001 - a subscriber must not stop the writer
                logger.opt(exception=error).warning("a journal subscriber could not be woken")

    def _tick(self, *, idle: bool) -> None:
        """What is worth doing once a second."""
        self._next_tick = self._monotonic() + TICK_S
        engine = self._file.engine
        if idle:
            self._write_cursors()
            if engine.wal_pages:
                engine.checkpoint()
        self._note_head()
        self.space.look()

    def _write_cursors(self) -> None:
        taken = self.cursors.take()
        if taken:
            try:
                self._file.engine.commit([], taken)
            except StorageFailed:
                self.cursors.put_back(taken)
                raise

    def _note_head(self) -> None:
        try:
            self._file.note_head()
        except OSError as error:
            raise StorageFailed(f"the witness cannot be written: {error}") from error

    def _finish(self) -> None:
        self._write_cursors()
        self._file.engine.checkpoint()
        self._note_head()

    # --- failure and the way back ------------------------------------------------------------------------------------

    def _fail(self, failure: StorageFailed, jobs: list[Job]) -> None:
        """From here every verb refuses; those who waited are answered after that is so."""
        with self._wake:
            first = self.failure is None
            self.failure = failure
            waiting = [*jobs, *self._jobs]
            self._jobs.clear()
        if first:
            logger.error("the store failed: {}", failure.message)
            self._callbacks.on_failure(failure)
        deliver([(job, Outcome(error=failure)) for job in waiting])

    def _recover(self, failure: StorageFailed) -> bool:
        """Reopen until it works or the store is closed (False). Nothing is lost that was acknowledged."""
        self._fail(failure, [])
        pause_s = RETRY_FIRST_S
        while True:
            with self._wake:
                if self._wake.wait_for(lambda: self._stopping, timeout=pause_s):
                    return False
            pause_s = min(RETRY_MAX_S, 2 * pause_s)
            self._readers.renew()
            try:
                self._file.reopen()
                self.cursors.reload(self._file.engine)
            except StoreError as error:
                logger.warning("the store is still failed: {}", error.message)
                continue
            break
        self.space.look()
        self._next_tick = self._monotonic() + TICK_S
        with self._wake:
            self.failure = None
        logger.info("the store works again, at row {}", self._file.engine.head()[0])
        self._callbacks.on_recovered()
        self._tell()
        return True


def deliver(answers: list[tuple[Job, Outcome]]) -> None:
    """Give each caller its answer; one call into each event loop."""
    by_loop: defaultdict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], Outcome]]] = defaultdict(list)
    for job, outcome in answers:
        if job.loop is not None and job.future is not None:
            by_loop[job.loop].append((job.future, outcome))
        elif job.result is not None:
            _resolve(job.result, outcome)
    for loop, futures in by_loop.items():
        try:
            loop.call_soon_threadsafe(_resolve_all, futures)
        except RuntimeError:
            logger.warning("{} answers of the store came after the end of their event loop", len(futures))


def _resolve_all(futures: list[tuple[asyncio.Future[Any], Outcome]]) -> None:
    for future, outcome in futures:
        if not future.done():
            _resolve(future, outcome)


def _resolve(future: asyncio.Future[Any] | Future[Any], outcome: Outcome) -> None:
    if outcome.error is not None:
        future.set_exception(outcome.error)
    else:
        future.set_result(outcome.value)
