"""The image's steps, run outside of Docker, end in an office that starts from nothing but what the lock names.

In CI the two downloads of locked packages are replaced by links to the development environment's copies of exactly the
packages that the lock names, at its versions; everything else runs as written. `--proof` runs all of it, downloads too.
Not run anywhere here: the final stage's own RUN (it takes pip out of the base image and makes an account).
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import yaml

from tests.deploy.dockerfile import ROOT, Ignore, Instruction, Runner, Stage, instructions, stages

IGNORE = Ignore.read(ROOT / ".dockerignore")
BUILD, FINAL = stages((ROOT / "Dockerfile").read_text("utf-8"))
INSTALLS = "--require-hashes"


def pins(lock: Path) -> dict[str, str]:
    """Name → version of each package in a lock, as far as its marker fits this machine."""
    from packaging.requirements import Requirement

    found = {}
    for line in lock.read_text("utf-8").splitlines():
        if re.match(r"[a-z0-9]", line):
            requirement = Requirement(line.rstrip("\\ "))
            if requirement.marker is None or requirement.marker.evaluate():
                found[requirement.name] = next(iter(requirement.specifier)).version
    return found


def link(wanted: dict[str, str], environment: Path) -> None:
    """Make those packages importable in a venv, and no others."""
    (site,) = environment.glob("lib/python3*/site-packages")
    for name, version in wanted.items():
        package = metadata.distribution(name)
        assert package.version == version, f"{name}: the lock has {version}, the environment {package.version}"
        base = Path(str(package.locate_file("")))
        for top in {file.parts[0] for file in package.files or () if file.parts[0] not in {"..", "__pycache__"}}:
            target = site / top
            if not target.exists():
                target.symlink_to(base / top)


class Linked(Runner):
    """Downloads nothing."""

    def _run(self, step: Instruction) -> None:
        if INSTALLS not in step.text:
            super()._run(step)
            return
        words = step.words
        environment = Path(words[words.index("--python") + 1]).parents[1].relative_to("/")
        link(pins(self._place / words[words.index("-r") + 1]), self._root / environment)


@pytest.fixture(scope="module")
def image(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("image")
    runner = Runner if request.config.getoption("--proof") else Linked
    try:
        runner(root, IGNORE, {"PYTHONWARNINGS": "", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}).run(
            BUILD
        )
    except subprocess.CalledProcessError as error:
        pytest.fail(f"{error.cmd}\n{error.stdout}\n{error.stderr}")
    return root


def run(image: Path, *command: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """A program of the image, with nothing of this tree or environment in its way."""
    program, *arguments = command
    bare = {"PATH": f"{image}/opt/kiosk/bin:/usr/bin:/bin", "HOME": str(image), "LANG": "C.UTF-8", **environ}
    return subprocess.run(
        [image / "opt/kiosk/bin" / program, *arguments],
        cwd=image, env=bare, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_the_office_comes_out_of_the_image_and_not_out_of_this_tree(image: Path) -> None:
    done = run(image, "python", "-c", "import sync.central.main as m, config; print(m.__file__, config.__file__)")
    assert done.returncode == 0, done.stderr
    assert all(name.startswith(f"{image}/opt/kiosk/lib/") for name in done.stdout.split())
    done = run(image, "python", "-c", "import sync.central.app, sync.central.office, alembic, psycopg, redis")
    assert done.returncode == 0, done.stderr


def test_every_command_that_docker_starts_is_there(image: Path) -> None:
    """The entry point, and what docker-compose.yml puts behind it; the options of CMD are options it has."""
    (entry,), (cmd,) = FINAL.of("ENTRYPOINT"), FINAL.of("CMD")
    assert json.loads(entry.text) == ["kiosk", "central"]
    done = run(image, "kiosk", "central", "--help")
    assert done.returncode == 0, done.stderr
    plain = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout)
    assert all(option in plain for option in json.loads(cmd.text) if option.startswith("--"))
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))["services"].values()
    behind = {each["command"][0] for each in services if "build" in each and "command" in each}
    readme = (ROOT / "config/README.md").read_text("utf-8")
    told = set(re.findall(r"(?:exec central kiosk central|kiosk-central:\S+) ([a-z-]+)", readme))
    assert behind == {"migrate"} and told == {"keys", "init", "doctor", "enroll-code"}
    listed = set(re.findall(r"^\W*([a-z-]+) {2,}", plain.partition("Commands")[2], re.M))
    assert behind | told <= listed


def test_a_start_without_settings_says_what_is_missing(image: Path) -> None:
    done = run(image, "kiosk", "central", CENTRAL_CONFIG=str(image / "src/config/central.toml"))
    assert done.returncode != 0
    assert re.search(r"(missing|cannot be read)", done.stderr), done.stderr


def test_the_age_keys_are_made_as_the_readme_says(image: Path, tmp_path: Path) -> None:
    text = (ROOT / "config/README.md").read_text("utf-8")
    given = dict(re.findall(r"--env (CENTRAL_KEYS__\w+)=/age(/\S+)", text))
    environ = {name: f"{tmp_path}{path}" for name, path in given.items()}
    done = run(image, "kiosk", "central", "keys", CENTRAL_CONFIG=str(image / "src/config/central.toml"), **environ)
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "recipients.txt").read_text().split()) == 2
    assert {path.name for path in tmp_path.iterdir()} == {"office.key", "recovery.key", "recipients.txt"}


def test_what_is_not_python_is_in_the_image_too(image: Path) -> None:
    (site,) = (image / "opt/kiosk").glob("lib/python3*/site-packages")
    for folder in ("sync", "agent", "modules", "drivers"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in {".sql", ".html", ".css", ".js", ".mako", ".json"} and path.is_file():
                assert (site / path.relative_to(ROOT)).is_file(), path.relative_to(ROOT)


def test_the_final_image_has_no_root_no_build_tools_and_a_health_check() -> None:
    assert BUILD.base == FINAL.base, "a venv belongs to the interpreter it was made with"
    users = [each.text for each in FINAL.of("USER")]
    assert users == ["10001:10001"]
    order = [step.name for step in FINAL.steps]
    assert order.index("USER") > max(index for index, name in enumerate(order) if name in {"RUN", "COPY"})
    (only,) = FINAL.of("RUN")
    assert not re.search(r"pip install|apt|curl|wget|gcc", only.text)
    assert "pip uninstall" in only.text
    assert FINAL.of("COPY")[0].words == ["--from=build", "/opt/kiosk", "/opt/kiosk"]
    (health,) = FINAL.of("HEALTHCHECK")
    (port,), (cmd,) = FINAL.of("EXPOSE"), FINAL.of("CMD")
    path = re.search(rf"http://127\.0\.0\.1:{port.text}(/\w+)'", health.text)
    assert path and json.loads(cmd.text)[-1] == port.text
    assert f'add_api_route("{path[1]}"' in (ROOT / "sync/central/app.py").read_text("utf-8")


def test_everything_that_is_installed_is_locked() -> None:
    for step in BUILD.of("RUN"):
        if " install " in step.text:
            assert INSTALLS in step.text or ("--no-index" in step.text and "--no-deps" in step.text), step.text
            assert INSTALLS not in step.text or "--only-binary :all:" in step.text, step.text


def test_the_image_runs_the_python_that_the_lock_is_made_for() -> None:
    image = re.fullmatch(r"python:(\d+\.\d+)\.\d+-slim-[a-z]+", BUILD.base)
    lock = re.search(r"--python-version (\S+)", (ROOT / "Makefile").read_text("utf-8"))
    assert image and lock and image[1] == lock[1]


@pytest.mark.parametrize(
    "path", [".env", ".git", ".venv", "age", "secrets", "tests", "config/.env", "sync/__pycache__", "sync/office.key"]
)
def test_what_must_not_be_in_an_image_does_not_reach_the_build(path: str) -> None:
    assert IGNORE.leaves_out(path)


def test_what_is_copied_reaches_the_build() -> None:
    copies = [step for stage in (BUILD, FINAL) for step in stage.of("COPY") if "--from" not in step.text]
    sources = [word for step in copies for word in step.words[:-1]]
    assert sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert not IGNORE.leaves_out(source), source


def test_the_reader_knows_what_it_reads() -> None:
    with pytest.raises(ValueError, match="no such instruction"):
        instructions("FORM python:3.11")
    stage = stages("ARG A=x:1\nFROM ${A} AS one\nRUN a \\\n    && b  # no comment\nCOPY a b/\n")[0]
    assert stage == Stage("x:1", "one", [Instruction("RUN", "a && b # no comment"), Instruction("COPY", "a b/")])
