"""What every test may ask for: its size (`proof`, `scale`), quiet (`serial`), and a session that hides nothing.

Long forms run under `--proof`. Under pytest-xdist a test marked `serial` waits until all workers are between tests and
runs alone. The time of each part of the tree is printed at the end.
"""

import fcntl
import os
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import hypothesis
import pytest

TURN = "KIOSK_TESTS_TURN"  # names the folder with the locks, for the workers
TESTS = Path(__file__).parent

hypothesis.settings.register_profile("kiosk", deadline=None, print_blob=True)
hypothesis.settings.load_profile("kiosk")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--proof", action="store_true", help="run the long forms")
    parser.addoption("--no-skips", action="store_true", help="a skipped test fails the session")


@pytest.fixture
def proof(request: pytest.FixtureRequest) -> bool:
    """Whether the long forms are asked for."""
    return bool(request.config.getoption("--proof"))


@pytest.fixture
def scale(proof: bool) -> Callable[[int, int], int]:
    """`scale(short, long)`: the size of a test, by whether it runs in CI or as a proof."""
    return lambda short, long: long if proof else short


def pytest_configure(config: pytest.Config) -> None:
    for name in [name for name in os.environ if name.startswith("KIOSK_") and name != TURN]:
        del os.environ[name]  # the settings of whoever runs the tests are not theirs
    if not hasattr(config, "workerinput"):
        os.environ[TURN] = tempfile.mkdtemp(prefix="kiosk-tests-")
        config.pluginmanager.register(PartTimes(), "part-times")
        config.add_cleanup(lambda: shutil.rmtree(os.environ.pop(TURN)))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--proof"):
        return
    long_only = [item for item in items if item.get_closest_marker("proof")]
    if long_only:
        config.hook.pytest_deselected(items=long_only)
        items[:] = [item for item in items if item not in set(long_only)]


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    with _turn(alone=item.get_closest_marker("serial") is not None):
        return (yield)


@contextmanager
def _turn(alone: bool) -> Iterator[None]:
    """Many tests at once, or one alone. Whoever wants to be alone keeps the door shut while the others finish."""
    folder = Path(os.environ[TURN])
    with (folder / "door").open("w") as door, (folder / "room").open("w") as room:
        _lock(door, fcntl.LOCK_EX)
        _lock(room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        _lock(door, fcntl.LOCK_UN)
        yield


def _lock(file: TextIO, operation: int) -> None:
    fcntl.flock(file.fileno(), operation)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if _skipped(session.config) and session.config.getoption("--no-skips"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if config.getoption("--no-skips") and (skipped := _skipped(config)):
        terminalreporter.write_line(f"--no-skips: {skipped} skipped, so this session fails", red=True)


def _skipped(config: pytest.Config) -> int:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    return len(reporter.stats.get("skipped", [])) if reporter else 0


class PartTimes:
    """Adds up what the tests of each folder under `tests/` take, all workers together."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = defaultdict(float)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        parts = Path(report.nodeid.partition("::")[0]).parts
        self._seconds[parts[1] if len(parts) > 2 else "(top)"] += report.duration

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if len(self._seconds) > 1:
            terminalreporter.section("seconds by part, summed over the workers")
            for part, seconds in sorted(self._seconds.items()):
                terminalreporter.write_line(f"{seconds:9.1f}  {part}")
