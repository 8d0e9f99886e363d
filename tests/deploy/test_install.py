"""The installation steps of systemd/README.md, line by line, in a folder that stands for `/`.

As in test_dockerfile.py the two downloads become links to the development environment's copies of exactly the locked
packages, unless `--proof` asks for the downloads. What needs a running systemd or udev (`systemctl`, `udevadm`) is
checked for its place in the order only.
"""

from __future__ import annotations

import os
import re
import shlex
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy.dockerfile import ROOT
from tests.deploy.test_dockerfile import link, pins

BLOCK = re.search(r"```sh\n(.*?)```", (ROOT / "systemd/README.md").read_text("utf-8"), re.S)
LINES = [line.split("#")[0].strip() for line in BLOCK[1].splitlines() if line.strip()] if BLOCK else []
LIVE = ("systemctl", "udevadm")  # talk to the running system


class Machine:
    """Runs lines with their absolute targets moved below `root`."""

    def __init__(self, root: Path, download: bool) -> None:
        self.root = root
        self._download = download

    def run(self, line: str) -> None:
        words = shlex.split(line)
        if words[0] in LIVE or (words[0] == "systemd-tmpfiles" and os.geteuid()):  # only root gives files away
            return
        if not self._download and words[:3] == ["python3", "-m", "venv"]:
            self._venv(self._below(words[3]))
        elif not self._download and "--require-hashes" in words:
            lock = Path(words[words.index("-r") + 1])
            link(pins(self._below(lock) if lock.is_absolute() else ROOT / lock), self._below(words[0]).parents[1])
        else:
            self._shell(line)

    def _venv(self, environment: Path) -> None:
        """Without the minute that ensurepip takes; `pip` is ours, working there."""
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
        pip = environment / "bin/pip"
        pip.write_text(f'#!/bin/sh\nexec {sys.executable} -m pip --python {environment}/bin/python "$@"\n')
        pip.chmod(0o755)

    def _below(self, path: str | Path) -> Path:
        return self.root / str(path).lstrip("/")

    def _shell(self, line: str) -> None:
        line = re.sub(r"(?<=[\s=])/(?=opt|etc|tmp|usr)", f"{self.root}/", f" {line}")
        line = re.sub(r"^ (systemd-(?:sysusers|tmpfiles)) ", rf" \1 --root={self.root} ", line)
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        done = subprocess.run(
            ["/bin/sh", "-ec", line], cwd=ROOT, capture_output=True, text=True, check=False,
            env={**os.environ, "PATH": path, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        )  # fmt: skip
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"


@pytest.fixture(scope="module")
def machine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("machine")
    for folder in ("opt", "etc", "tmp", "usr/local/bin", "run", "var/lib"):
        (root / folder).mkdir(parents=True)
    one = Machine(root, bool(request.config.getoption("--proof")))
    for line in LINES:
        one.run(line)
    return root


def test_the_agent_starts_from_its_own_lock_and_likes_its_settings(machine: Path) -> None:
    """Nothing that only the centre's lock has is imported on the way."""
    done = subprocess.run(
        [machine / "opt/kiosk/bin/kiosk", "agent", "--check"],
        cwd=machine, capture_output=True, text=True, timeout=60, check=False,
        env={"PATH": "/usr/bin:/bin", "KIOSK_CONFIG": str(machine / "etc/kiosk/agent.toml"), "LANG": "C.UTF-8"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "sound" in done.stdout
    assert (machine / "usr/local/bin/kiosk").readlink() == machine / "opt/kiosk/bin/kiosk"


def test_every_shipped_file_is_installed_where_its_reader_looks(machine: Path) -> None:
    places = {
        "systemd/sysusers.d/kiosk.conf": "etc/sysusers.d",
        "systemd/tmpfiles.d/kiosk.conf": "etc/tmpfiles.d",
        "systemd/modules-load.d/kiosk.conf": "etc/modules-load.d",
        "systemd/udev/61-kiosk.rules": "etc/udev/rules.d",
        "systemd/udev/99-kiosk-brltty.rules": "etc/udev/rules.d",
        "systemd/kiosk-agent.service": "etc/systemd/system",
        "config/agent.toml": "etc/kiosk",
    }
    shipped = {path.relative_to(ROOT).as_posix() for path in (ROOT / "systemd").rglob("*") if path.is_file()}
    assert shipped - {"systemd/README.md"} == set(places) - {"config/agent.toml"}
    for source, folder in places.items():
        assert (machine / folder / Path(source).name).read_bytes() == (ROOT / source).read_bytes()


def test_the_accounts_are_made_and_nobody_is_in_the_agents_group(machine: Path) -> None:
    accounts = {line.split(":")[0]: line.split(":") for line in (machine / "etc/passwd").read_text().splitlines()}
    groups = {line.split(":")[0]: line.split(":") for line in (machine / "etc/group").read_text().splitlines()}
    assert accounts["kiosk"][5:] == ["/var/lib/kiosk", "/usr/sbin/nologin"]
    assert 0 < int(accounts["kiosk"][2]) < 1000
    assert accounts["kiosk"][3] == groups["kiosk"][2]
    assert groups["kiosk"][3] == groups["kiosk-ui"][3] == ""


def test_directories_have_their_modes_and_owners(machine: Path) -> None:
    if os.geteuid():
        assert not (machine / "run/kiosk-ui").exists(), "who is not root cannot have made it"
        return
    modes = {name: (machine / name).stat() for name in ("run/kiosk-ui", "var/lib/kiosk", "etc/kiosk")}
    assert {name: oct(stat.S_IMODE(each.st_mode)) for name, each in modes.items()} == {
        "run/kiosk-ui": "0o2750",
        "var/lib/kiosk": "0o700",
        "etc/kiosk": "0o750",
    }
    assert stat.S_IMODE((machine / "etc/kiosk/agent.toml").stat().st_mode) == 0o640
    groups = dict(line.split(":")[:3:2] for line in (machine / "etc/group").read_text().splitlines())
    assert modes["run/kiosk-ui"].st_gid == int(groups["kiosk-ui"]), "handed on to the launch page"
    assert modes["etc/kiosk"].st_gid == int(groups["kiosk"])


def test_the_order_is_the_one_that_works() -> None:
    def place(start: str) -> int:
        (found,) = [index for index, line in enumerate(LINES) if line.startswith(start)]
        return found

    assert place("systemd-sysusers") < place("udevadm control") < place("udevadm trigger")
    assert place("systemd-sysusers") < place("systemd-tmpfiles")
    assert place("systemctl restart systemd-modules-load") < place("systemctl enable")
    assert place("systemctl daemon-reload") < place("systemctl enable")


def test_an_installed_configuration_is_never_overwritten(machine: Path) -> None:
    config = machine / "etc/kiosk/agent.toml"
    before = config.read_bytes()
    try:
        config.write_text("# ours\n")
        (line,) = [line for line in LINES if "agent.toml" in line]
        Machine(machine, download=False).run(line)
        assert config.read_text() == "# ours\n"
    finally:
        config.write_bytes(before)


def test_every_line_is_of_a_known_kind() -> None:
    assert len(LINES) > 15
    kinds = {shlex.split(line)[0] for line in LINES}
    known = {"python3", "awk", "install", "test", "ln", "systemd-sysusers", "systemd-tmpfiles", *LIVE}
    assert kinds - known == {"/opt/kiosk/bin/pip", "/tmp/backend/bin/pip"}
