"""Each known trap of serial converters and scanners has a rule that undoes it, and modems stay modems."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.deploy.udev import Device, apply, parse

RULES = Path(__file__).resolve().parents[2] / "systemd/udev"
MAIN = parse((RULES / "61-kiosk.rules").read_text("utf-8"))
BRLTTY = parse((RULES / "99-kiosk-brltty.rules").read_text("utf-8"))
PATHS = ("pci-0000:00:14.0-usb-0:2:1.0", "pci-0000:00:14.0-usb-0:3:1.0")
CHIPS = {"ftdi_sio": "0403", "cp210x": "10c4", "pl2303": "067b", "ch341-uart": "1a86"}


def usb(vendor: str, **env: str) -> Device:
    attributes = {"idVendor": vendor, "power/control": "auto"}
    return Device("1-2", "usb", attributes=attributes, env={"DEVTYPE": "usb_device", **env})


def converter(driver: str, serial: str = "", path: str = PATHS[0]) -> Device:
    """A ttyUSB as 60-serial.rules leaves it."""
    port = Device("ttyUSB0", "usb-serial", driver=driver, attributes={"port_number": "0"})
    env = {"ID_PATH": path, ".ID_PORT": "0", **({"ID_SERIAL_SHORT": serial} if serial else {})}
    return Device("ttyUSB0", "tty", env=env, parents=[port, usb(CHIPS.get(driver, "12d1"))])


@pytest.mark.parametrize("driver", ["ch341-uart", "pl2303"])
def test_two_converters_without_serial_number_have_two_names(driver: str) -> None:
    """Their by-id name is one and the same, and would swap validator and coin acceptor at some start."""
    links = [apply(MAIN, converter(driver, path=path)).links for path in PATHS]
    assert links == [{f"kiosk/by-path/{path}-port0"} for path in PATHS]


def test_a_serial_number_that_all_have_is_none() -> None:
    assert apply(MAIN, converter("cp210x", "0001")).links == {f"kiosk/by-path/{PATHS[0]}-port0"}


def test_an_adapter_with_a_serial_number_keeps_to_its_by_id_name() -> None:
    assert apply(MAIN, converter("ftdi_sio", "A50285BI")).links == set()


@pytest.mark.parametrize("driver", CHIPS)
def test_ports_belong_to_the_agent_and_not_to_modem_manager(driver: str) -> None:
    tty = apply(MAIN, converter(driver))
    assert (tty.group, tty.mode) == ("kiosk", "0660")
    assert tty.env["ID_MM_PORT_IGNORE"] == "1"
    assert apply(MAIN, usb(CHIPS[driver])).env["ID_MM_DEVICE_IGNORE"] == "1"


@pytest.mark.parametrize("kernel", ["ttyS0", "ttyACM0"])
def test_on_board_and_acm_ports_belong_to_the_agent_too(kernel: str) -> None:
    tty = apply(MAIN, Device(kernel, "tty"))
    assert (tty.group, tty.mode) == ("kiosk", "0660")


def test_consoles_and_pseudo_terminals_are_left_alone() -> None:
    for kernel in ("tty1", "ptmx", "console", "ttyprintk"):
        assert apply(MAIN, Device(kernel, "tty")).group == ""


def test_an_lte_stick_stays_a_modem() -> None:
    """A kiosk's uplink may be one; ModemManager must go on seeing it."""
    stick = apply(MAIN, usb("12d1"))
    assert "ID_MM_DEVICE_IGNORE" not in stick.env
    assert "ID_MM_PORT_IGNORE" not in apply(MAIN, converter("option")).env


def test_ftdi_answers_without_waiting_for_its_timer() -> None:
    for action in ("add", "bind", "change"):
        port = Device("ttyUSB0", "usb-serial", action=action, driver="ftdi_sio", attributes={"latency_timer": "16"})
        assert apply(MAIN, port).attributes["latency_timer"] == "1"
    other = Device("ttyUSB0", "usb-serial", driver="ch341-uart", attributes={})
    assert "latency_timer" not in apply(MAIN, other).attributes


def test_nothing_on_usb_falls_asleep() -> None:
    for vendor in ("0403", "05e0", "1d6b", "12d1"):
        assert apply(MAIN, usb(vendor)).attributes["power/control"] == "on"
    interface = Device("1-2:1.0", "usb", env={"DEVTYPE": "usb_interface"}, attributes={})
    assert "power/control" not in apply(MAIN, interface).attributes


@pytest.mark.parametrize("vendor", ["05e0", "0c2e", "05f9", "1eab"])
def test_scanners_are_open_to_the_agent_and_type_into_nothing(vendor: str) -> None:
    raw = apply(MAIN, Device("hidraw0", "hidraw", parents=[usb(vendor)]))
    keys = apply(MAIN, Device("event5", "input", parents=[usb(vendor)]))
    node = apply(MAIN, usb(vendor))
    assert (raw.group, raw.mode) == ("kiosk", "0660")
    assert (keys.group, keys.mode) == ("kiosk", "0640")
    assert keys.env["LIBINPUT_IGNORE_DEVICE"] == "1", "a passport would be typed into the page"
    assert (node.group, node.mode) == ("kiosk", "0660")


def test_a_keyboard_or_touch_screen_stays_the_screens() -> None:
    keys = apply(MAIN, Device("event5", "input", parents=[usb("046d")]))
    assert (keys.group, keys.env) == ("", {})
    assert apply(MAIN, usb("046d")).group == ""


@pytest.mark.parametrize("vendor", CHIPS.values())
def test_brltty_does_not_get_a_converter(vendor: str) -> None:
    """As its own rules leave the device (85-brltty.rules: driver named, unit wanted)."""
    marked = usb(vendor, BRLTTY_BRAILLE_DRIVER="bm", SYSTEMD_WANTS="brltty-udev.service")
    after = apply(BRLTTY, marked)
    assert (after.env["BRLTTY_BRAILLE_DRIVER"], after.env["SYSTEMD_WANTS"]) == ("", "")


def test_a_true_braille_display_keeps_brltty_and_a_converter_keeps_other_units() -> None:
    display = usb("0904", BRLTTY_BRAILLE_DRIVER="bm", SYSTEMD_WANTS="brltty-udev.service")
    assert apply(BRLTTY, display).env["BRLTTY_BRAILLE_DRIVER"] == "bm"
    other = usb("0403", SYSTEMD_WANTS="gpsd.service")
    assert apply(BRLTTY, other).env["SYSTEMD_WANTS"] == "gpsd.service"


def test_removal_changes_nothing() -> None:
    for rules in (MAIN, BRLTTY):
        gone = usb("1a86", BRLTTY_BRAILLE_DRIVER="bm")
        gone.action = "remove"
        assert apply(rules, gone).attributes["power/control"] == "auto"
        assert gone.env["BRLTTY_BRAILLE_DRIVER"] == "bm"


def test_the_files_run_when_they_have_to() -> None:
    """After 60-serial.rules (ID_PATH), before 77-mm-*; brltty's own rules are 85 and 90."""
    numbers = {path.name: int(path.name[:2]) for path in RULES.glob("*.rules")}
    assert 60 < numbers["61-kiosk.rules"] < 77
    assert numbers["99-kiosk-brltty.rules"] > 90


@pytest.mark.parametrize("bad", ['KERNEL="tty"', 'ATTR=="1"', 'GOTO="nowhere"', 'FOO=="1"', 'KERNEL=="a" GROUP="b"'])
def test_the_reader_refuses_what_udev_would(bad: str) -> None:
    with pytest.raises(ValueError, match=r"rule 1|do not fit"):
        parse(bad)


ASK_UDEV = """
set -e
mkdir -p /run/udev
mount -t tmpfs none /run/udev
mkdir /run/udev/rules.d
cp {rules}/*.rules /run/udev/rules.d/
udevadm --debug test --action=add /sys/class/mem/null 2>&1
"""


@pytest.mark.proof
def test_udev_itself_reads_every_rule() -> None:
    """Not in CI: Debian's udev is a package of its own, and `udevadm verify` came with systemd 254 only."""
    if os.geteuid() or shutil.which("udevadm") is None:
        pytest.fail("this proof needs root and: apt-get install udev")
    script = ASK_UDEV.format(rules=RULES)
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for path in RULES.glob("*.rules"):
        lines = [line for line in said.splitlines() if path.name in line]
        assert f"Reading rules file: /run/udev/rules.d/{path.name}" in lines
        assert [line for line in lines[1:] if "Unknown group 'kiosk'" not in line] == []
