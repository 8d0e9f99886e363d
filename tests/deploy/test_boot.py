"""`--proof` only: systemd really boots, and the installation steps of systemd/README.md end in a running agent.

A container (systemd-nspawn) over a throw-away overlay of this machine's own root; the network is this machine's, for
the downloads. Needs root, the package systemd-container and a kernel with cgroup2 and overlayfs; about two minutes.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess

import pytest

from tests.deploy.dockerfile import ROOT
from tests.deploy.test_install import LINES

pytestmark = [pytest.mark.proof, pytest.mark.serial, pytest.mark.timeout(900)]
PASSED_ON = ("PIP_", "SSL_CERT_FILE", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "NO_PROXY", "no_proxy")

BOOT = """
set -e
mount -t tmpfs none {folder}
mkdir -p {folder}/upper/etc/systemd/system {folder}/work {folder}/root
cp {given}/proof.* {folder}/upper/etc/systemd/system/
cp {given}/probe.sh {folder}/upper/
mount -t overlay overlay -o lowerdir=/,upperdir={folder}/upper,workdir={folder}/work {folder}/root
umount -R /sys/fs/cgroup
mount -t cgroup2 none /sys/fs/cgroup
mkdir -p /sys/fs/cgroup/kiosk-proof
echo $$ > /sys/fs/cgroup/kiosk-proof/cgroup.procs
systemd-nspawn --quiet --keep-unit --register=no --console=pipe --directory {folder}/root \\
    --boot -- --unit=proof.target < /dev/null > {given}/boot.log 2>&1 || true
cp {folder}/root/probe.log {given}/ 2>/dev/null || true
"""

TARGET = """[Unit]
Requires=basic.target proof.service
After=basic.target
AllowIsolate=yes
"""

SERVICE = """[Unit]
After=basic.target
[Service]
Type=oneshot
{environment}
WorkingDirectory={root}
ExecStart=/bin/sh /probe.sh
StandardOutput=append:/probe.log
StandardError=append:/probe.log
ExecStopPost=/bin/systemctl --no-block --force poweroff
"""

# Each fact is one line `name value`; the watchdog is tried by stopping the process without telling systemd.
PROBE = """
set -e
{install}
echo "active $(systemctl show kiosk-agent -p ActiveState --value)"
pid=$(systemctl show kiosk-agent -p MainPID --value)
echo "uid_is_kiosk $([ $(stat -c %U /proc/$pid) = kiosk ] && echo yes)"
echo "caps $(awk '/^CapBnd/ {{ print $2 }}' /proc/$pid/status)"
echo "seccomp $(awk '/^Seccomp:/ {{ print $2 }}' /proc/$pid/status)"
echo "state_mode $(stat -c %a /var/lib/kiosk)"
echo "ui_mode $(stat -c %a:%G /run/kiosk-ui)"
echo "health $(/opt/kiosk/bin/python -c 'import urllib.request as u; print(u.urlopen("http://127.0.0.1:8005/api/v1/system/health").status)')"
kill -STOP $pid
sleep 40
echo "after_hang $(systemctl show kiosk-agent -p ActiveState -p NRestarts | sort | tr '\\n' ' ')"
systemctl stop kiosk-agent
echo "stopped $(systemctl show kiosk-agent -p Result --value)"
echo "exposure $(systemd-analyze security --no-pager kiosk-agent | tail -1)"
"""


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    if os.geteuid() or shutil.which("systemd-nspawn") is None:
        pytest.fail("this proof needs root and: apt-get install systemd-container")
    given, folder = tmp_path_factory.mktemp("given"), tmp_path_factory.mktemp("container")
    passed_on = {name: value for name, value in os.environ.items() if name.startswith(PASSED_ON)}
    environment = "\n".join(f"Environment={json.dumps(f'{name}={value}')}" for name, value in passed_on.items())
    install = "\n".join(line for line in LINES if not line.startswith("udevadm"))  # there is no udevd in a container
    (given / "proof.target").write_text(TARGET)
    (given / "proof.service").write_text(SERVICE.format(environment=environment, root=ROOT))
    (given / "probe.sh").write_text(PROBE.format(install=install))
    script = BOOT.format(folder=folder, given=given)
    subprocess.run(["unshare", "--mount", "--propagation", "private", "sh", "-c", script], timeout=600, check=True)
    log = (given / "probe.log").read_text() if (given / "probe.log").exists() else (given / "boot.log").read_text()
    found = dict(line.split(" ", 1) for line in log.splitlines() if " " in line)
    assert "exposure" in found, log
    return found


def test_the_agent_runs_as_installed(facts: dict[str, str]) -> None:
    assert (facts["active"], facts["health"]) == ("active", "200")
    assert (facts["uid_is_kiosk"], facts["caps"], facts["seccomp"]) == ("yes", "0" * 16, "2")
    assert (facts["state_mode"], facts["ui_mode"]) == ("700", "2750:kiosk-ui")
    assert " 1.3 OK" in facts["exposure"]


def test_a_hanging_agent_is_killed_and_started_again(facts: dict[str, str]) -> None:
    assert facts["after_hang"].split() == ["ActiveState=active", "NRestarts=1"]


def test_the_stop_is_clean(facts: dict[str, str]) -> None:
    assert facts["stopped"] == "success"
