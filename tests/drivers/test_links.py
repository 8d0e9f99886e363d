"""Serial ports over real ptys, TCP over loopback, memory with its faults, and how a port's name is resolved."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.domain.errors import ConfigError, TransportError
from drivers.ccnet.settings import CcnetSettings
from drivers.links import SerialSettings, UsbPort, open_link, resolve
from drivers.links.fd import FdLink
from drivers.links.inbox import INBOX_MAX_BYTES, Inbox
from drivers.links.memory import memory_pair
from drivers.links.pty import PtyLink, open_pty
from drivers.links.tcp import TcpLink, open_tcp, serve_tcp
from drivers.ports import Link


async def read_all(link: Link, count: int) -> bytes:
    data = b""
    async with asyncio.timeout(3):
        while len(data) < count:
            data += await link.read(1.0)
    return data


@pytest.fixture
async def device(tmp_path: Path) -> AsyncIterator[PtyLink]:
    link = open_pty(str(tmp_path / "acceptor"))
    yield link
    await link.close()


async def test_bytes_pass_both_ways_through_a_pty_and_a_serial_port(device: PtyLink) -> None:
    host = await open_link(device.port, settings=SerialSettings())
    await host.write(b"\x02\x03\x06\x00\xff\x0d\x0a\x11\x13")
    assert await read_all(device, 9) == b"\x02\x03\x06\x00\xff\x0d\x0a\x11\x13"
    await device.write(b"\x00\x1a\x04")
    assert await read_all(host, 3) == b"\x00\x1a\x04"
    assert await host.read(0.01) == b""
    assert await host.read(0) == b""
    await host.close()
    await host.close()


async def test_what_came_unasked_is_discarded_also_from_the_kernel(device: PtyLink) -> None:
    host = await open_link(device.port, settings=CcnetSettings())
    await device.write(b"old" * 5000)
    await asyncio.sleep(0.01)
    await host.discard_input()
    await host.discard_input()
    await device.write(b"new")
    assert await read_all(host, 3) == b"new"
    await host.close()


async def test_a_port_is_opened_by_one_process_at_a_time(device: PtyLink) -> None:
    host = await open_link(device.port)
    with pytest.raises(TransportError, match="another process holds it"):
        await open_link(device.port)
    await host.close()
    again = await open_link(device.port)
    await again.close()


async def test_unplugged_is_a_transport_error_while_reading_and_writing(tmp_path: Path) -> None:
    device = open_pty(str(tmp_path / "acceptor"))
    host = await open_link(device.port)
    reading = asyncio.ensure_future(host.read(5))
    await asyncio.sleep(0.01)
    await device.close()
    await device.close()
    with pytest.raises(TransportError, match="is gone"):
        await reading
    with pytest.raises(TransportError):
        await host.write(b"x")
    with pytest.raises(TransportError):
        await host.discard_input()
    await host.close()
    with pytest.raises(TransportError, match="closed"):
        await host.read(0)
    assert not (tmp_path / "acceptor").is_symlink()


async def test_a_port_that_is_not_there_or_no_port_says_so(tmp_path: Path) -> None:
    with pytest.raises(TransportError, match="there is no such port"):
        await open_link(str(tmp_path / "nothing"))
    (tmp_path / "file").write_text("")
    with pytest.raises(TransportError, match="cannot open"):
        await open_link(str(tmp_path / "file"))


async def test_the_host_may_come_and_go_without_the_device_noticing(device: PtyLink) -> None:
    for text in (b"one", b"two"):
        host = await open_link(device.port)
        await host.write(text)
        assert await read_all(device, 3) == text
        await host.close()


async def test_a_pty_replaces_an_old_symlink_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "acceptor"
    path.symlink_to("/nowhere")
    device = open_pty(str(path))
    other = open_pty(str(path))
    await device.close()
    assert path.is_symlink()  # it belongs to the other one now
    await other.close()
    path.write_text("precious")
    with pytest.raises(TransportError, match="not a symlink"):
        open_pty(str(path))
    assert path.read_text() == "precious"


async def test_a_link_that_takes_no_bytes_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drivers.links.fd.WRITE_TIMEOUT_S", 0.05)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.closing(os.fdopen(reader, "rb")):
        link = FdLink.__new__(FdLink)
        link._fd, link._name, link._inbox = writer, "pipe", Inbox()
        link._loop, link._open, link._reading = asyncio.get_running_loop(), True, False
        with pytest.raises(TransportError, match="takes no bytes"):
            await link.write(bytes(1_000_000))
        await link.close()


# --- TCP


async def test_tcp_both_ways_and_hung_up() -> None:
    served: asyncio.Queue[TcpLink] = asyncio.Queue()
    done = asyncio.Event()

    async def serve(link: TcpLink) -> None:
        await served.put(link)
        await done.wait()

    server = await serve_tcp("127.0.0.1", 0, serve)
    port = server.sockets[0].getsockname()[1]
    host = await open_link(f"tcp:127.0.0.1:{port}")
    device = await served.get()
    await host.write(b"ask")
    assert await read_all(device, 3) == b"ask"
    await device.write(b"tell")
    assert await read_all(host, 4) == b"tell"
    await device.write(b"unasked")
    await asyncio.sleep(0.02)
    await host.discard_input()
    done.set()
    with pytest.raises(TransportError, match="is gone"):
        await host.read(2)
    with pytest.raises(TransportError):
        await host.write(b"x")
    await host.close()
    server.close()


async def test_tcp_refusals_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    server = await serve_tcp("127.0.0.1", 0, lambda link: asyncio.sleep(0))
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(TransportError, match="cannot listen"):
        await serve_tcp("127.0.0.1", port, lambda link: asyncio.sleep(0))
    server.close()
    await server.wait_closed()
    with pytest.raises(TransportError, match="cannot connect"):
        await open_tcp("127.0.0.1", port)
    fresh = TcpLink("tcp:nowhere")
    with pytest.raises(TransportError, match="closed"):
        await fresh.write(b"x")
    monkeypatch.setattr("drivers.links.tcp.WRITE_TIMEOUT_S", 0.02)
    silent = await serve_tcp("127.0.0.1", 0, lambda link: asyncio.sleep(1))
    stuck = await open_tcp("127.0.0.1", silent.sockets[0].getsockname()[1])
    stuck.pause_writing()
    with pytest.raises(TransportError, match="takes no bytes"):
        await stuck.write(b"x")
    stuck.resume_writing()
    await stuck.close()
    silent.close()


# --- memory


async def test_memory_faults() -> None:
    host, device = memory_pair()
    device.faults.chunk_bytes = 1
    await device.write(b"abc")
    assert await host.read(1) == b"a"
    assert await read_all(host, 2) == b"bc"
    device.faults.chunk_bytes, device.faults.lose_next = 0, 1
    await device.write(b"lost")
    await device.write(b"kept")
    assert await host.read(1) == b"kept"
    device.faults.delay_s = 0.02
    await device.write(b"late")
    assert await host.read(0.001) == b""
    assert await host.read(1) == b"late"
    device.faults.delay_s, device.faults.mangle = 0.0, lambda data: data[::-1]
    await device.write(b"ab")
    assert await host.read(1) == b"ba"
    host.faults.echo = True
    await host.write(b"x")
    assert await host.read(1) == b"x" == await device.read(1)
    await host.discard_input()
    device.faults.mangle = lambda data: b""
    await device.write(b"nothing")
    assert await host.read(0.001) == b""


async def test_memory_cut_in_the_middle_breaks_both_ends() -> None:
    host, device = memory_pair()
    device.faults.cut_after_bytes = 5
    await device.write(b"abc")
    with pytest.raises(TransportError):
        await device.write(b"defg")
    assert await host.read(1) == b"abcde"
    with pytest.raises(TransportError, match="broke"):
        await host.read(1)
    with pytest.raises(TransportError):
        await host.write(b"x")
    other, end = memory_pair()
    await other.close()
    with pytest.raises(TransportError, match="closed"):
        await end.read(1)


def test_the_inbox_is_bounded() -> None:
    inbox = Inbox()
    inbox.put(b"a" * 10)
    inbox.put(b"b" * INBOX_MAX_BYTES)
    assert asyncio.run(inbox.read(0)) == b"b" * INBOX_MAX_BYTES


# --- names


@dataclass
class Usb:
    device: str
    vid: int | None
    pid: int | None
    serial_number: str | None = None


PORTS = [
    Usb("/dev/ttyUSB0", 0x0403, 0x6001, "A1"),
    Usb("/dev/ttyUSB1", 0x0403, 0x6001, "B2"),
    Usb("/dev/ttyACM0", 0x1A86, 0x7523),
    Usb("/dev/ttyS0", None, None),
]


def ports() -> Iterable[UsbPort]:
    return PORTS


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("usb:1a86:7523", "/dev/ttyACM0"),
        ("usb:0403:6001:B2", "/dev/ttyUSB1"),
        ("usb:0403:6001:A1", "/dev/ttyUSB0"),
        ("/dev/ttyS3", "/dev/ttyS3"),
    ],
)
def test_names_that_resolve(name: str, path: str) -> None:
    assert resolve(name, ports) == path


def test_names_that_do_not(tmp_path: Path) -> None:
    with pytest.raises(TransportError, match="matches 2: /dev/ttyUSB0, /dev/ttyUSB1"):
        resolve("usb:0403:6001", ports)
    with pytest.raises(TransportError, match="no port matches"):
        resolve("usb:dead:beef", ports)
    with pytest.raises(ConfigError, match="neither a path"):
        resolve("COM1", ports)
    for name in ("usb-CashCode-if00", "usb-CashCode-if01"):
        (tmp_path / name).write_text("")
    with pytest.raises(TransportError, match="must match one"):
        resolve(f"{tmp_path}/*CashCode*")
    assert resolve(f"{tmp_path}/*CashCode*00") == f"{tmp_path}/usb-CashCode-if00"
    with pytest.raises(TransportError, match="no port matches"):
        resolve(f"{tmp_path}/*Puloon*")


async def test_settings_reach_the_port_in_every_form(tmp_path: Path) -> None:
    async with _pty(tmp_path) as device:
        for settings in (None, {"baud": 19200}, SerialSettings(baud=19200), CcnetSettings()):
            host = await open_link(device.port, settings=settings)
            await host.close()
        with pytest.raises(TransportError, match="line settings"):
            await open_link(device.port, settings=SerialSettings(parity="even"))  # a pty knows no parity
    made = await open_link(f"pty:{tmp_path}/made")
    assert (tmp_path / "made").is_symlink()
    await made.close()
    with pytest.raises(TransportError, match="no port matches"):
        await open_link("usb:ffff:ffff")


@contextlib.asynccontextmanager
async def _pty(tmp_path: Path) -> AsyncIterator[PtyLink]:
    link = open_pty(str(tmp_path / "port"))
    yield link
    await link.close()
