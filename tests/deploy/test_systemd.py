"""The agent's unit is closed as far as it can be, and starts after what it needs."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

from agent.api.settings import ApiSettings
from agent.runtime.settings import RuntimeSettings

UNITS = Path(__file__).resolve().parents[2] / "systemd"
SERVICE = UNITS / "kiosk-agent.service"
EXPOSURE_MAX = 1.5
DRIVERS = {  # device class of DeviceAllow: module whose loading makes it known to the kernel
    "char-ttyUSB": "usbserial",
    "char-ttyACM": "cdc_acm",
    "char-hidraw": "usbhid",
    "char-ttyS": None,  # in the kernel of every distribution, as are the next two
    "char-usb_device": None,
    "char-input": None,
}


class Unit:
    """Section → key → values in the order they stand; an empty value forgets those before it."""

    def __init__(self, text: str) -> None:
        self._values: dict[tuple[str, str], list[str]] = {}
        section = ""
        for line in text.splitlines():
            if re.fullmatch(r"\[\w+\]", line):
                section = line[1:-1]
            elif line and not line.startswith(("#", ";")):
                key, _, value = line.partition("=")
                held = self._values.setdefault((section, key), [])
                held.append(value)

    def all(self, key: str, section: str = "Service") -> list[str]:
        return self._values.get((section, key), [])

    def one(self, key: str, section: str = "Service") -> str:
        (value,) = self.all(key, section)
        return value


UNIT = Unit(SERVICE.read_text("utf-8"))


def seconds(text: str) -> float:
    return float(text.removesuffix("s"))


def analyze(*options: str) -> subprocess.CompletedProcess[str]:
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", *options, str(SERVICE)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_exposure_is_low() -> None:
    done = analyze(f"--threshold={EXPOSURE_MAX * 10:.0f}")
    found = re.search(r"Overall exposure level for kiosk-agent.service: ([\d.]+)", done.stdout)
    assert found, done.stdout + done.stderr
    assert done.returncode == 0 and float(found[1]) <= EXPOSURE_MAX, done.stdout


def test_what_is_left_open_is_what_the_readme_says() -> None:
    """A new hole has to be argued for: here, and in the unit."""
    done = analyze("--json=short")
    open_ = {each["json_field"] for each in json.loads(done.stdout) if not each["set"] and float(each["exposure"] or 0)}
    assert open_ <= {
        "RootDirectoryOrRootImage",
        "PrivateDevices",
        "DeviceAllow",
        "PrivateNetwork",
        "IPAddressDeny",
        "RestrictAddressFamilies_AF_NETLINK",
        "RestrictAddressFamilies_AF_UNIX",
        "RestrictAddressFamilies_AF_INET_INET6",
    }


def test_systemd_understands_every_line(tmp_path: Path) -> None:
    """An unknown key is a warning at start that nobody reads, and a protection that is not there."""
    copy = tmp_path / SERVICE.name
    text = SERVICE.read_text("utf-8").replace("/opt/kiosk/bin/kiosk", "/bin/true")
    copy.write_text(re.sub(r"^Documentation=.*\n", "", text, flags=re.M), "utf-8")
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", copy], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    copy.write_text(text.replace("ProtectClock=", "ProtektClock="), "utf-8")
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", copy], capture_output=True, text=True, check=False)
    assert "ProtektClock" in done.stderr, "verify would not have noticed"


def test_a_device_class_is_known_to_the_kernel_before_the_unit_starts() -> None:
    classes = [each.split()[0] for each in UNIT.all("DeviceAllow")]
    assert set(classes) == set(DRIVERS)
    text = (UNITS / "modules-load.d/kiosk.conf").read_text("utf-8")
    loaded = {line for line in text.splitlines() if line and not line.startswith("#")}
    assert {module for module in DRIVERS.values() if module} <= loaded
    assert {"usbserial", "ftdi_sio", "cp210x", "pl2303", "ch341", "cdc_acm"} <= loaded
    assert "systemd-modules-load.service" in UNIT.one("After", "Unit").split()
    assert UNIT.one("DevicePolicy") == "closed"


def test_hot_plug_and_the_centre_can_be_heard() -> None:
    families = UNIT.one("RestrictAddressFamilies").split()
    assert set(families) == {"AF_UNIX", "AF_INET", "AF_INET6", "AF_NETLINK"}
    assert UNIT.all("PrivateNetwork") == [] and UNIT.all("IPAddressDeny") == []


def test_the_api_may_listen_where_it_does() -> None:
    port = ApiSettings().port
    assert UNIT.all("SocketBindAllow") == [f"ipv4:tcp:{port}", f"ipv6:tcp:{port}"]
    assert UNIT.one("SocketBindDeny") == "any"


def test_it_comes_back_for_ever_and_is_told_when_it_hangs() -> None:
    assert (UNIT.one("Type"), UNIT.one("NotifyAccess")) == ("notify", "main")
    assert UNIT.one("Restart") == "always"
    assert UNIT.one("StartLimitIntervalSec", "Unit") == "0"
    assert 0 < seconds(UNIT.one("RestartSec")) <= 5
    assert 10 <= seconds(UNIT.one("WatchdogSec")) <= 60
    assert (UNIT.one("WatchdogSignal"), UNIT.one("LimitCORE")) == ("SIGKILL", "0")


def test_the_stop_waits_longer_than_the_agent_needs() -> None:
    """Killed while a note is being settled would be a doubt that a second more had spared."""
    needed_s = RuntimeSettings().settle_timeout_ms / 1000
    assert seconds(UNIT.one("TimeoutStopSec")) >= 2 * needed_s + 10


def test_the_account_is_fixed_and_owns_nothing_but_its_own() -> None:
    assert (UNIT.one("User"), UNIT.one("Group")) == ("kiosk", "kiosk")
    assert UNIT.all("DynamicUser") == [] and UNIT.all("SupplementaryGroups") == []
    assert (UNIT.one("StateDirectory"), UNIT.one("StateDirectoryMode")) == ("kiosk", "0700")
    assert UNIT.one("CapabilityBoundingSet") == "" and UNIT.one("AmbientCapabilities") == ""


def test_the_readme_tells_the_score_that_is_measured() -> None:
    score = re.search(r"exposure level for \S+: ([\d.]+)", analyze().stdout)
    told = re.search(r"says ([\d.]+) \(OK\)", (UNITS / "README.md").read_text("utf-8"))
    assert score and told
    version = subprocess.run(["systemd-analyze", "--version"], capture_output=True, text=True, check=True).stdout
    if version.startswith("systemd 252 "):  # other versions weigh differently
        assert score[1] == told[1]
