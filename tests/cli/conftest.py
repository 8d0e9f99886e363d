"""A configured kiosk in a temporary folder, and the command line in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from loguru import logger

from agent.cli.main import main


@dataclass(frozen=True, slots=True)
class Said:
    """What a command left behind."""

    status: int
    out: str
    err: str


Run = Callable[..., Said]


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "agent.toml"
    path.write_text(
        f"""
        [store]
        directory = "{tmp_path}/state"
        wal_size_mib = 1
        reserve_mib = 0
        disk_low_mib = 2
        disk_resume_mib = 3
        disk_critical_mib = 1
        [devices.validator]
        protocol = "ccnet"
        port = "{tmp_path}/validator"
        """
    )
    monkeypatch.setenv("KIOSK_CONFIG", str(path))
    return path


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """`run("devices", "--json")`."""

    def call(*arguments: str) -> Said:
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main(list(arguments))
        out, err = capsys.readouterr()
        return Said(int(left.value.code or 0), out, err)

    yield call
    logger.remove()
