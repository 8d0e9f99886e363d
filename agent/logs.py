"""Logging: one line per fact with bound fields. JSON lines for machines, a short form for a person at a terminal.

Every line has `ts`, `level` and `event`; bound fields (`device`, `seq`, `trace_id`, …) follow under their own names, so
that one trace id leads from a frame to its row. No personal data and no secrets are ever passed to a logger.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO

from loguru import logger
from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from loguru import Record

Level = Literal["DEBUG", "INFO", "WARNING", "ERROR"]
_STDLIB_OWN = ("uvicorn", "uvicorn.error", "uvicorn.access")  # bring handlers of their own
_STDLIB_QUIET = ("uvicorn.access", "httpx", "httpcore", "asyncio")  # heard from WARNING upwards only


class LoggingSettings(BaseModel):
    """Where log lines go and how they look."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    level: Level = Field(default="INFO", description="Quieter lines are dropped: DEBUG, INFO, WARNING or ERROR.")
    format: Literal["auto", "json", "human"] = Field(
        default="auto",
        description="json: one object a line; human: for a terminal; auto: human on a terminal, else json.",
    )
    file: Path | None = Field(default=None, description="Write there instead of to stderr.")
    rotate_mib: int = Field(default=10, ge=1, le=1024, description="A new file is begun at this size.")
    keep_files: int = Field(default=10, ge=1, le=1000, description="Older files are deleted.")


class _FromStdlib(logging.Handler):
    """Hands records of `logging` (uvicorn, apscheduler, …) on to loguru."""

    def emit(self, record: logging.LogRecord) -> None:
        level: str | int = record.levelname if record.levelname in logging.getLevelNamesMapping() else record.levelno
        logger.opt(exception=record.exc_info).bind(logger=record.name).log(level, "{}", record.getMessage())


def configure(settings: LoggingSettings, stream: TextIO | None = None) -> None:
    """Everything that is logged in this process goes to `settings.file`, or to `stream` (stderr)."""
    target = sys.stderr if stream is None else stream
    human = settings.format == "human" or (settings.format == "auto" and settings.file is None and target.isatty())
    logger.remove()
    if settings.file is not None:
        logger.add(
            settings.file,
            level=settings.level,
            format=_human if human else _json,
            rotation=settings.rotate_mib << 20,
            retention=settings.keep_files,
            catch=True,
            diagnose=False,
        )
    else:
        form = _human if human else _json
        logger.add(
            target, level=settings.level, format=form, colorize=human and target.isatty(), catch=True, diagnose=False
        )
    logging.basicConfig(handlers=[_FromStdlib()], level=logging.getLevelName(settings.level), force=True)
    for name in _STDLIB_OWN:
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    for name in _STDLIB_QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("apscheduler").setLevel(logging.ERROR)  # a check that takes longer than its interval is no news


def _json(record: Record) -> str:
    record["extra"]["_line"] = line_of(record)
    return "{extra[_line]}\n"


def line_of(record: Record) -> str:
    """The record as one JSON line, in the order a person reads it."""
    fields: dict[str, Any] = {
        "ts": record["time"].isoformat(timespec="milliseconds"),
        "level": record["level"].name,
        "event": record["message"],
    }
    fields |= {key: value for key, value in record["extra"].items() if not key.startswith("_") and value != ""}
    if (exception := record["exception"]) is not None and exception.value is not None:
        fields["error"] = f"{type(exception.value).__name__}: {exception.value}"
        fields["at"] = _innermost(exception.value)
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"), default=str)


def _innermost(error: BaseException) -> str:
    """`file:line` of the frame that raised, outermost caller first: enough to find a defect, and one line."""
    frames: list[str] = []
    trace = error.__traceback__
    while trace is not None:
        frames.append(f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}")
        trace = trace.tb_next
    return " < ".join(reversed(frames))


def _human(record: Record) -> str:
    extra = " ".join(f"{key}={value}" for key, value in record["extra"].items() if key[:1] != "_" and value != "")
    record["extra"]["_extra"] = extra
    return "<dim>{time:HH:mm:ss.SSS}</dim> <level>{level: <7}</level> {message} <dim>{extra[_extra]}</dim>\n{exception}"
