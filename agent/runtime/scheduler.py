"""Periodic work. APScheduler only rings the bell: a job is a plain function, tested without it."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from loguru import logger

Job = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Every:
    """`job` every `seconds`; a run that is late or overlaps is not made up for."""

    name: str
    seconds: float
    job: Job


class Scheduler:
    """Its library is imported in a thread once the agent is ready: the start waits for nothing that can come later."""

    def __init__(self, jobs: Sequence[Every]) -> None:
        self._jobs = jobs
        self._scheduler: Any = None

    async def start(self) -> None:
        module = await asyncio.to_thread(importlib.import_module, "apscheduler.schedulers.asyncio")
        defaults = {"coalesce": True, "misfire_grace_time": None, "max_instances": 1}
        self._scheduler = module.AsyncIOScheduler(job_defaults=defaults)
        for each in self._jobs:
            self._scheduler.add_job(_told(each.name, each.job), "interval", seconds=each.seconds, id=each.name)
        self._scheduler.start()

    async def stop(self) -> None:
        if self._scheduler is not None:
            self._scheduler.shutdown(wait=False)
            self._scheduler = None


def _told(name: str, job: Job) -> Job:
    """A job that fails is logged once until it works again; the next turn comes regardless."""
    failing = False

    async def run() -> None:
        nonlocal failing
        try:
            await job()
        except Exception as error:  # noqa: BLE001 - the bell must ring again, whatever became of this run
            if not failing:
                logger.bind(job=name).opt(exception=error).error("job failed: {error}", error=repr(error))
            failing = True
        else:
            if failing:
                logger.bind(job=name).info("job works again")
            failing = False

    return run
