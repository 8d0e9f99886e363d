"""Runs a program under what a unit's hardening does to its system calls, without systemd as process 1.

`python -m tests.deploy.sandbox UNIT PROGRAM [ARGUMENT…]` applies SystemCallFilter, SystemCallErrorNumber,
RestrictAddressFamilies, MemoryDenyWriteExecute, CapabilityBoundingSet (as empty) and NoNewPrivileges as systemd 252
does (seccomp by libseccomp; src/shared/seccomp-util.c), then executes the program. Groups of calls are asked of the
machine's own `systemd-analyze syscall-filter`. What concerns files, devices and namespaces is not applied.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

ALLOW = 0x7FFF0000
ERRNO = 0x00050000
_EQUAL, _MASKED, _GREATER = 4, 7, 6  # SCMP_CMP_EQ, SCMP_CMP_MASKED_EQ, SCMP_CMP_GT
_PROT_WRITE, _PROT_EXEC, _SHM_EXEC = 2, 4, 0o100000
_CAPBSET_DROP, _SET_NO_NEW_PRIVS, _CAP_LAST = 24, 38, 40


class _Argument(ctypes.Structure):
    _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


def values(unit: str, key: str) -> list[str]:
    return re.findall(rf"^{key}=(.*)$", unit, re.M)


def groups() -> dict[str, list[str]]:
    """Name of each group of system calls → its members, groups among them."""
    text = subprocess.run(
        ["systemd-analyze", "syscall-filter", "--no-pager"], capture_output=True, text=True, check=True
    )
    found: dict[str, list[str]] = {}
    name = ""
    for line in re.sub(r"\x1b\[[0-9;]*m", "", text.stdout).splitlines():
        if line.startswith("@"):
            name = line.strip()
            found[name] = []
        elif name and line.startswith("    ") and not line.strip().startswith("#"):
            found[name].append(line.strip())
    return found


def allowed(unit: str) -> set[str]:
    """The calls that the unit's filters let through: the first list allows, those with ~ take away."""
    known, result = groups(), set[str]()

    def expand(names: Iterable[str]) -> Iterator[str]:
        for name in names:
            yield from expand(known[name]) if name.startswith("@") else [name]

    for value in values(unit, "SystemCallFilter"):
        if value.startswith("~"):
            result -= set(expand(value[1:].split()))
        else:
            result |= set(expand([*value.split(), "@default"]))
    return result


class Filter:
    """A seccomp filter under construction; `load` puts it on this process and its children, for good."""

    def __init__(self, otherwise: int) -> None:
        self._library = ctypes.CDLL("libseccomp.so.2", use_errno=True)
        self._library.seccomp_init.restype = ctypes.c_void_p
        self._context = ctypes.c_void_p(self._library.seccomp_init(otherwise))

    def rule(self, action: int, call: str, *arguments: _Argument) -> None:
        number = self._library.seccomp_syscall_resolve_name(call.encode())
        if number < 0 and number > -100:  # not known to this libseccomp; below that: not on this architecture
            return
        array = (_Argument * len(arguments))(*arguments)
        result = self._library.seccomp_rule_add_array(self._context, action, number, len(arguments), array)
        if result not in {0, -errno.EDOM}:
            raise OSError(-result, f"seccomp rule for {call}")

    def load(self) -> None:
        if result := self._library.seccomp_load(self._context):
            raise OSError(-result, "seccomp_load")


def calls(unit: str) -> Filter:
    number = getattr(errno, (values(unit, "SystemCallErrorNumber") or ["EPERM"])[-1])
    one = Filter(ERRNO | number)
    for name in sorted(allowed(unit)):
        one.rule(ALLOW, name)
    return one


def memory() -> Filter:
    """MemoryDenyWriteExecute: no page is ever both written and executed."""
    one = Filter(ALLOW)
    both = _PROT_WRITE | _PROT_EXEC
    one.rule(ERRNO | errno.EPERM, "mmap", _Argument(2, _MASKED, both, both))
    for name in ("mprotect", "pkey_mprotect"):
        one.rule(ERRNO | errno.EPERM, name, _Argument(2, _MASKED, _PROT_EXEC, _PROT_EXEC))
    one.rule(ERRNO | errno.EPERM, "shmat", _Argument(2, _MASKED, _SHM_EXEC, _SHM_EXEC))
    return one


def families(unit: str) -> Filter:
    wanted = {getattr(socket, name) for value in values(unit, "RestrictAddressFamilies") for name in value.split()}
    one = Filter(ALLOW)
    for family in range(max(wanted) + 1):
        if family not in wanted:
            one.rule(ERRNO | errno.EAFNOSUPPORT, "socket", _Argument(0, _EQUAL, family, 0))
    one.rule(ERRNO | errno.EAFNOSUPPORT, "socket", _Argument(0, _GREATER, max(wanted), 0))
    return one


def confine(unit: str) -> None:
    """Raises `OSError` when the kernel refuses."""
    libc = ctypes.CDLL(None, use_errno=True)
    if os.geteuid() == 0:
        for capability in range(_CAP_LAST + 1):
            libc.prctl(_CAPBSET_DROP, capability, 0, 0, 0)
    built = [memory(), families(unit), calls(unit)]  # all made before the first forbids something
    if libc.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "PR_SET_NO_NEW_PRIVS")
    for each in built:
        each.load()


if __name__ == "__main__":
    confine(Path(sys.argv[1]).read_text("utf-8"))
    os.execvp(sys.argv[2], sys.argv[2:])
