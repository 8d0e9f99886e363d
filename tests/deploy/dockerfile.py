"""Reads a Dockerfile into stages of instructions, and runs a stage's COPY and RUN steps in a folder of its own."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
KNOWN = {
    *("ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "LABEL", "RUN", "STOPSIGNAL", "USER"),
    "WORKDIR",
}


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction, continuation lines joined."""

    name: str
    text: str

    @property
    def words(self) -> list[str]:
        return shlex.split(self.text)


@dataclass(slots=True)
class Stage:
    """From one FROM to the next; `base` has its ARGs filled in."""

    base: str
    name: str
    steps: list[Instruction] = field(default_factory=list)

    def of(self, name: str) -> list[Instruction]:
        return [step for step in self.steps if step.name == name]


def instructions(text: str) -> list[Instruction]:
    """Raises `ValueError` for what this reader, and so the tests, would not understand."""
    plain = "\n".join(line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#"))
    found = []
    for line in plain.replace("\\\n", " ").splitlines():
        name, _, rest = line.strip().partition(" ")
        if name not in KNOWN:
            raise ValueError(f"no such instruction here: {line}")
        found.append(Instruction(name, re.sub(r"\s+", " ", rest).strip()))
    return found


def stages(text: str) -> list[Stage]:
    arguments: dict[str, str] = {}
    found: list[Stage] = []
    for each in instructions(text):
        if each.name == "ARG" and not found:
            key, _, value = each.text.partition("=")
            arguments[key] = value
        elif each.name == "FROM":
            base, *alias = each.text.split()
            found.append(Stage(_filled(base, arguments), alias[1] if alias else str(len(found))))
        else:
            found[-1].steps.append(each)
    return found


def _filled(text: str, values: Mapping[str, str]) -> str:
    return re.sub(r"\$\{(\w+)\}", lambda match: values[match[1]], text)


@dataclass(frozen=True, slots=True)
class Ignore:
    """`.dockerignore`: the last pattern that fits decides; `!` lets in again."""

    patterns: tuple[str, ...]

    @classmethod
    def read(cls, path: Path) -> Ignore:
        lines = (line.strip() for line in path.read_text("utf-8").splitlines())
        return cls(tuple(line for line in lines if line and not line.startswith("#")))

    def leaves_out(self, path: str) -> bool:
        out = False
        for pattern in self.patterns:
            if self._fits(pattern.removeprefix("!"), path):
                out = not pattern.startswith("!")
        return out

    @staticmethod
    def _fits(pattern: str, path: str) -> bool:
        parts = path.split("/")
        ways = ["/".join(parts[: end + 1]) for end in range(len(parts))]
        if pattern.startswith("**/"):
            return any(fnmatch(part, pattern[3:]) for part in parts)
        return any(fnmatch(way, pattern) and way.count("/") == pattern.count("/") for way in ways)


class Runner:
    """Runs a stage's steps below `root` as if it were `/`: the image's absolute paths are moved there, no more."""

    def __init__(self, root: Path, ignore: Ignore, environ: Mapping[str, str]) -> None:
        self._root = root
        self._ignore = ignore
        self._environ = dict(environ)
        self._place = root

    def run(self, stage: Stage) -> None:
        """Raises `CalledProcessError` with the output of the step that failed."""
        for step in stage.steps:
            getattr(self, f"_{step.name.lower()}")(step)

    def _env(self, step: Instruction) -> None:
        for word in step.words:
            name, _, value = word.partition("=")
            self._environ[name] = value

    def _workdir(self, step: Instruction) -> None:
        self._place = self._root / step.text.lstrip("/")
        self._place.mkdir(parents=True, exist_ok=True)

    def _copy(self, step: Instruction) -> None:
        *sources, target = step.words
        for source in sources:
            path, into = ROOT / source, self._place / target
            if path.is_dir():
                shutil.copytree(path, into, ignore=self._left_out, dirs_exist_ok=True)
            else:
                if target.endswith("/"):
                    into.mkdir(parents=True, exist_ok=True)
                if not self._ignore.leaves_out(source):
                    shutil.copy(path, into)

    def _left_out(self, folder: str, names: list[str]) -> set[str]:
        inside = Path(folder).relative_to(ROOT)
        return {name for name in names if self._ignore.leaves_out((inside / name).as_posix())}

    def _run(self, step: Instruction) -> None:
        command = re.sub(r"(?<![\w./])/opt/", f"{self._root}/opt/", step.text)
        environ = {**os.environ, **self._environ}
        done = subprocess.run(
            ["/bin/sh", "-ec", command], cwd=self._place, env=environ, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise subprocess.CalledProcessError(done.returncode, step.text, done.stdout, done.stderr)
