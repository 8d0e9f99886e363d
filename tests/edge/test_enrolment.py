"""Pairing: the key is made here, an answer may get lost, a code works once, and nothing is sent in the clear."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from agent.domain.errors import CentreUnavailable
from sync.edge import identity as files
from sync.edge.enrolment import EnrolmentRefused, enrol
from sync.edge.identity import AlreadyEnrolled, Identity, InsecureAddress
from sync.edge.settings import SyncSettings
from tests.edge import office_double as double
from tests.edge.clock import FakeClock
from tests.edge.office_double import URL, OfficeDouble


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def enrolled(folder: Path, office: OfficeDouble, code: str, url: str = URL, *, replace: bool = False) -> Identity:
    return await enrol(
        url,
        code,
        state_dir=folder,
        settings=SyncSettings(),
        clock=FakeClock(),
        agent_version="1",
        replace=replace,
        transport=office,
    )


async def test_a_code_becomes_an_identity(tmp_path: Path, office: OfficeDouble) -> None:
    identity = await enrolled(tmp_path, office, office.invite())
    assert files.load(tmp_path) == identity
    assert office.kiosks[identity.kiosk_id].key == double.unpadded(identity.public_key)
    assert list(identity.recipients) == office.recipients
    assert names(tmp_path) == [files.FILE_NAME]


async def test_a_lost_answer_costs_nothing(tmp_path: Path, office: OfficeDouble) -> None:
    """The code is used up at the office, but the key is on the kiosk's disk: the same command again gets the answer."""
    code = office.invite()
    office.faults.append(double.lost_answer)
    with pytest.raises(CentreUnavailable):
        await enrolled(tmp_path, office, code)
    assert files.load(tmp_path) is None
    identity = await enrolled(tmp_path, office, code)
    assert files.load(tmp_path) == identity
    assert len(office.kiosks) == 1


async def test_another_code_gets_another_key(tmp_path: Path, office: OfficeDouble) -> None:
    office.faults.append(double.away)
    with pytest.raises(CentreUnavailable):
        await enrolled(tmp_path, office, office.invite("A"))
    pending = files.load_pending(tmp_path)
    identity = await enrolled(tmp_path, office, office.invite("B"))
    assert pending is not None
    assert files.unpadded(identity.private_key) != pending["private_key"]


async def test_a_used_or_wrong_code_is_refused_in_words(tmp_path: Path, office: OfficeDouble) -> None:
    code = office.invite()
    await enrolled(tmp_path, office, code)
    (tmp_path / "other").mkdir()
    for wrong in (code, "NO-SUCH"):
        with pytest.raises(EnrolmentRefused, match="refused the code"):
            await enrolled(tmp_path / "other", office, wrong)
    assert files.load(tmp_path / "other") is None


async def test_an_enrolled_kiosk_stays_what_it_is_unless_told(tmp_path: Path, office: OfficeDouble) -> None:
    first = await enrolled(tmp_path, office, office.invite("A"))
    asked = len(office.requests)
    with pytest.raises(AlreadyEnrolled):
        await enrolled(tmp_path, office, office.invite("B"))
    assert len(office.requests) == asked  # the code was not used up
    second = await enrolled(tmp_path, office, "B", replace=True)
    assert files.load(tmp_path) == second != first


async def test_nothing_is_sent_to_an_address_in_the_clear(tmp_path: Path, office: OfficeDouble) -> None:
    with pytest.raises(InsecureAddress):
        await enrolled(tmp_path, office, office.invite(), "http://office.test")
    assert office.requests == []
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "answer",
    [
        {"kiosk_id": "", "name": "n", "recipients": ["age1x"]},
        {"kiosk_id": "k", "name": "n", "recipients": []},
        {"kiosk_id": "k", "name": "n", "recipients": ["ssh-ed25519 AAAA"]},
        {"name": "n"},
    ],
)
async def test_an_office_that_is_none_is_not_pinned(
    tmp_path: Path, office: OfficeDouble, answer: dict[str, object]
) -> None:
    office.always = lambda office, request: httpx.Response(200, json=answer)
    with pytest.raises(CentreUnavailable):
        await enrolled(tmp_path, office, office.invite())
    assert files.load(tmp_path) is None
