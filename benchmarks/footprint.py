"""What the agent costs while it starts and while it waits: time to ready, memory and CPU, against a bare import.

The baseline is a process that imports fastapi, uvicorn and sqlmodel and nothing else, measured in turn in the same run.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from agent.cli.demo.customer import Customer
from agent.cli.demo.rig import Rig, SimulatedDevice, off_loop
from agent.domain.events import NoteRejected
from agent.main import open_store
from agent.settings import load
from benchmarks.pairs import Figure, Pair, figure, interleaved

BARE_IMPORT = "import fastapi, uvicorn, sqlmodel"
FOUR_DEVICES = tuple(SimulatedDevice(f"validator_{n}", "ccnet", {"serial": f"SN{n}"}) for n in range(1, 5))
UNSENT = 100_000
GROUP = 500
START_RATIO, PSS_RATIO, CPU_PERCENT = 2.0, 1.5, 3.0
IDLE_S = 20.0


async def measure(directory: Path, pairs: int) -> list[Figure]:
    async with Rig(directory, devices=FOUR_DEVICES, fast=False) as rig:
        async with Customer(rig):  # returns when all four are ready
            pass
        idle = await asyncio.to_thread(_idle, _pid(rig), pairs)
        await off_loop(rig.agent.stop)
        await off_loop(rig.central.stop)  # so that they stay unsent
        await asyncio.to_thread(_fill, rig)
        starts = await asyncio.to_thread(
            interleaved, lambda: _start_s(rig), lambda: _bare_import_s(rig.directory), pairs
        )
    return [
        figure(
            "start to ready with 100,000 unsent rows ÷ bare import",
            starts,
            START_RATIO,
            at_least=False,
            start_s=round(starts[0].measured, 2),
            import_s=round(starts[0].baseline, 2),
        ),
        *idle,
    ]


def _pid(rig: Rig) -> int:
    if rig.agent.pid is None:
        raise RuntimeError("the agent does not run")
    return rig.agent.pid


def _idle(pid: int, pairs: int) -> list[Figure]:
    time.sleep(5.0)  # what belongs to the start is over
    memory = [Pair(_pss_mib(pid), _bare_pss_mib()) for _ in range(pairs)]
    before, started = _cpu_s(pid), time.monotonic()
    time.sleep(IDLE_S)
    percent = 100 * (_cpu_s(pid) - before) / (time.monotonic() - started)
    return [
        figure(
            "PSS idle with four devices ÷ bare import",
            memory,
            PSS_RATIO,
            at_least=False,
            pss_mib=round(memory[0].measured, 1),
            import_mib=round(memory[0].baseline, 1),
        ),
        Figure("CPU idle with four devices", percent, percent, CPU_PERCENT, at_least=False, unit="%"),
    ]


def _fill(rig: Rig) -> None:
    """Rows that the office has not seen, through the agent's own store; the log is left as it is."""
    settings = load({"KIOSK_CONFIG": str(rig.agent_config)})
    store = open_store(settings)
    event = NoteRejected(device="validator_1", reason="insertion")
    try:
        for _ in range(UNSENT // GROUP):
            store.transact_now(lambda tx: [tx.append(event) for _ in range(GROUP)], actor="device:validator_1")
    finally:
        store.close_now()


def _start_s(rig: Rig) -> float:
    """exec → READY=1, which comes when the API listens and the devices are polled; then it is killed."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        path = rig.directory / "notify.sock"
        path.unlink(missing_ok=True)
        notify.bind(str(path))
        notify.settimeout(60.0)
        rig.agent.environment["NOTIFY_SOCKET"] = str(path)
        rig.agent.settle_start = False
        started = time.perf_counter()
        rig.agent.start()
        try:
            while b"READY=1" not in notify.recv(4096):
                pass
            return time.perf_counter() - started
        finally:
            rig.agent.kill()  # the next start finds a dirty log


def _bare_import_s(folder: Path) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", BARE_IMPORT], check=True, cwd=folder)
    return time.perf_counter() - started


def _bare_pss_mib() -> float:
    code = f"{BARE_IMPORT}; import sys; print('ready', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        size = _pss_mib(process.pid)
        process.stdin.close()
    return size


def _pss_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"no Pss of process {pid}")


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
