"""Log lines: JSON for machines with bound fields, short for people; libraries' records go the same way."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from loguru import logger

from agent.logs import LoggingSettings, configure


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Handlers and levels of the process as they were."""
    root, names = logging.getLogger(), ("uvicorn", "uvicorn.access", "httpx", "httpcore", "apscheduler", "asyncio")
    before, level = list(root.handlers), root.level
    levels = {name: logging.getLogger(name).level for name in names}
    yield
    root.handlers[:], root.level = before, level
    for name, value in levels.items():
        logging.getLogger(name).setLevel(value)
    logger.remove()


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_fact_is_one_json_line_with_its_fields() -> None:
    stream = io.StringIO()
    configure(LoggingSettings(), stream)
    logger.bind(device="validator", seq=7, trace_id="t", empty="").info("cash.note.stacked")
    [line] = lines(stream)
    assert list(line) == ["ts", "level", "event", "device", "seq", "trace_id"]
    assert (line["level"], line["event"], line["seq"]) == ("INFO", "cash.note.stacked", 7)
    assert line["ts"][10] == "T"


def test_an_exception_stays_on_its_line_and_shows_no_values() -> None:
    """Local values may hold what nobody may read in a log."""
    stream = io.StringIO()
    configure(LoggingSettings(), stream)

    def fails(secret: str) -> None:
        raise ValueError("broken {x} <y>")

    try:
        fails("hunter2")
    except ValueError as error:
        logger.opt(exception=error).error("died of {error}", error="it")
    [line] = lines(stream)
    assert line["error"] == "ValueError: broken {x} <y>"
    assert line["at"].startswith("test_logs.py:")
    assert "hunter2" not in stream.getvalue()


def test_braces_and_markup_in_fields_do_no_harm() -> None:
    for form in ("json", "human"):
        stream = io.StringIO()
        configure(LoggingSettings.model_validate({"format": form}), stream)
        logger.bind(reason="{0} {x} <red>").warning("it says {text}", text="</b> {y}")
        assert "</b> {y}" in stream.getvalue()
        assert "{0} {x} <red>" in stream.getvalue()


def test_libraries_go_the_same_way_and_stay_quiet() -> None:
    stream = io.StringIO()
    configure(LoggingSettings(), stream)
    logging.getLogger("uvicorn.error").info("started %d", 1)
    logging.getLogger("uvicorn.access").info("GET /")
    logging.getLogger("httpx").info("request")
    assert [(line["event"], line["logger"]) for line in lines(stream)] == [("started 1", "uvicorn.error")]


def test_a_terminal_gets_the_short_form_and_a_file_does_not() -> None:
    terminal = Terminal()
    configure(LoggingSettings(), terminal)
    logger.bind(device="validator").info("device back")
    assert "device back" in terminal.getvalue()
    assert not terminal.getvalue().startswith("{")
    stream = io.StringIO()
    configure(LoggingSettings(format="human"), stream)
    logger.info("plain")
    assert "\x1b" not in stream.getvalue()


def test_a_file_takes_json_lines_and_rotates(tmp_path: Path) -> None:
    path = tmp_path / "log" / "agent.log"
    configure(LoggingSettings(file=path, rotate_mib=1, keep_files=2, level="DEBUG"), Terminal())
    for _ in range(30):
        logger.debug("x" * 100_000)
    logger.remove()
    assert json.loads(path.read_text().splitlines()[-1])["level"] == "DEBUG"
    assert 2 <= len(list(path.parent.iterdir())) <= 3


def test_quieter_lines_are_dropped() -> None:
    stream = io.StringIO()
    configure(LoggingSettings(level="WARNING"), stream)
    logger.info("no")
    logging.getLogger("x").info("no")
    logger.warning("yes")
    assert [line["event"] for line in lines(stream)] == ["yes"]
