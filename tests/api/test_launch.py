"""The per-boot launch file: the kiosk's own page gets a session, nobody else does."""

import re
import stat
from pathlib import Path

import pytest

from agent.domain.errors import ConfigError
from tests.api.conftest import Kiosk, KioskMaker

LAUNCH = "/api/v1/auth/launch"


def code_of(path: Path) -> str:
    found = re.search(r'location\.replace\("http://127\.0\.0\.1:8005/#launch=([\w-]{43})"\)', path.read_text())
    assert found
    return found[1]


async def test_the_code_works_once_and_a_restarted_browser_finds_a_new_one(kiosk: Kiosk) -> None:
    path = kiosk.folder / "launch.html"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    first = code_of(path)
    async with kiosk.client() as page:
        answer = await page.post(LAUNCH, json={"code": first})
        assert (answer.status_code, answer.json()["role"]) == (200, "ui")
        assert (await page.get("/api/v1/auth/me")).json()["actor"] == "ui"
    second = code_of(path)
    assert second != first
    async with kiosk.client() as page:
        used = await page.post(LAUNCH, json={"code": first})
        assert (used.status_code, used.json()["code"]) == (401, "launch_code_invalid")
        assert (await page.post(LAUNCH, json={"code": ""})).status_code == 401
        assert (await page.post(LAUNCH, json={"code": "ключ"})).status_code == 401
        assert (await page.post(LAUNCH, json={"code": second})).status_code == 200


async def test_every_boot_has_its_own_code_and_a_stopped_agent_leaves_none(kiosk_at: KioskMaker) -> None:
    codes = []
    for _ in range(2):
        async with kiosk_at() as kiosk:
            codes.append(code_of(kiosk.folder / "launch.html"))
        assert not (kiosk.folder / "launch.html").exists()
    assert len(set(codes)) == 2


@pytest.mark.parametrize("origin", ["null", "file://", "http://evil.example"])
async def test_the_origin_of_a_local_file_is_not_accepted(kiosk: Kiosk, origin: str) -> None:
    """That is why the file hands over a fragment instead of posting a form itself."""
    code = code_of(kiosk.folder / "launch.html")
    async with kiosk.client(Origin=origin) as page:
        assert (await page.post(LAUNCH, json={"code": code})).status_code == 403
    assert code_of(kiosk.folder / "launch.html") == code, "nothing was used up"


async def test_a_planted_link_is_not_written_through(kiosk_at: KioskMaker, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    (tmp_path / ".launch.html.new").symlink_to(victim)
    (tmp_path / "launch.html").symlink_to(victim)
    async with kiosk_at() as kiosk:
        assert code_of(kiosk.folder / "launch.html")
        assert not (kiosk.folder / "launch.html").is_symlink()
    assert victim.read_text() == "untouched"


@pytest.mark.parametrize("settings", [{"launch_group": "no-such-group"}, {"launch_file": "/nonexistent/launch.html"}])
async def test_a_launch_file_that_cannot_be_written_stops_the_start(
    kiosk_at: KioskMaker, settings: dict[str, str]
) -> None:
    with pytest.raises(ConfigError, match=r"api\.launch_file"):
        async with kiosk_at(**settings):
            pass


async def test_the_browsers_group_may_read_it(kiosk_at: KioskMaker, tmp_path: Path) -> None:
    import grp
    import os

    group = grp.getgrgid(os.getgid()).gr_name
    async with kiosk_at(launch_group=group, launch_file=tmp_path / "page.html"):
        assert stat.S_IMODE((tmp_path / "page.html").stat().st_mode) == 0o640


@pytest.mark.parametrize("group", [None, "kiosk-ui-of-another-machine"])
async def test_a_set_group_id_directory_hands_its_group_on(
    kiosk_at: KioskMaker, tmp_path: Path, group: str | None
) -> None:
    """Under systemd the agent may not chown: tmpfiles make the directory, and nothing else is needed."""
    folder = tmp_path / "kiosk-ui"
    folder.mkdir()
    folder.chmod(0o2750)
    async with kiosk_at(launch_group=group, launch_file=folder / "page.html"):
        made = (folder / "page.html").stat()
    assert (made.st_mode & 0o777, made.st_gid) == (0o640, folder.stat().st_gid)
