"""`/devices`, `/system`, `/metrics`, and the documents about the API."""

import pytest

from agent.api.ports import PartState
from agent.domain.wire import EVENT_TYPES
from tests.api.conftest import Kiosk


async def test_devices_are_listed_for_everybody_and_opened_for_staff(kiosk: Kiosk) -> None:
    screen, technician = await kiosk.as_user("ui"), await kiosk.as_user("technician")
    listed = (await screen.get("/api/v1/devices")).json()
    assert listed == {"devices": [{"name": "cashcode", "protocol": "ccnet", "state": "ready", "fault": ""}]}
    assert (await screen.get("/api/v1/devices/cashcode")).status_code == 403
    shown = (await technician.get("/api/v1/devices/cashcode")).json()
    assert shown["port"] == "/dev/serial/by-id/cashcode"
    assert shown["table"] == [{"code": 2, "amount_minor": 500, "currency": "EUR"}]
    assert (shown["firmware"], shown["counters"]) == ("1.02", {"polls": 12})
    unknown = await technician.get("/api/v1/devices/other")
    assert (unknown.status_code, unknown.json()["code"]) == (404, "not_found")


async def test_the_trace_is_for_technicians(kiosk: Kiosk) -> None:
    technician = await kiosk.as_user("technician")
    frames = (await technician.get("/api/v1/devices/cashcode/trace")).json()["frames"]
    assert frames == [
        {"age_s": 10.0, "direction": "host", "hex": "02 03 06 33 DA 81", "meaning": "POLL", "valid": True}
    ]
    collector = await kiosk.as_user("collector")
    assert (await collector.get("/api/v1/devices/cashcode/trace")).status_code == 403


async def test_health_says_that_it_lives_and_ready_says_whether_it_works(kiosk: Kiosk) -> None:
    async with kiosk.client() as monitor:
        assert (await monitor.get("/api/v1/system/ready")).json() == {"ready": True, "reasons": []}
        kiosk.status.states = [
            PartState("store", ok=True, required=True),
            PartState("disk", ok=False, required=True, code="disk_low", detail="3 MiB left"),
            PartState("sync", ok=False, code="centre_unavailable"),
        ]
        health = await monitor.get("/api/v1/system/health")
        assert (health.status_code, health.json()["ok"]) == (200, False)
        assert [part["code"] for part in health.json()["parts"]] == ["", "disk_low", "centre_unavailable"]
        ready = await monitor.get("/api/v1/system/ready")
        assert (ready.status_code, ready.json()["ready"]) == (503, False)
        assert [part["code"] for part in ready.json()["reasons"]] == ["disk_low"], "offline is normal"


async def test_info_and_metrics(kiosk: Kiosk) -> None:
    screen = await kiosk.as_user("ui")
    kiosk.clock.go(12.5)
    kiosk.board.reasons = ["clock_absurd"]
    info = (await screen.get("/api/v1/system/info")).json()
    assert (info["version"], info["up_s"], info["streams"]) == ("0.0-test", 12.5, 0)
    assert (info["accepting"], info["inhibited_by"]) == (False, ["clock_absurd"])
    assert info["journal_id"] == str(kiosk.store.journal_id)
    async with kiosk.client() as monitor:
        assert (await monitor.get("/api/v1/system/info")).status_code == 401
        metrics = await monitor.get("/metrics")
    assert (metrics.text, metrics.headers["Content-Type"][:10]) == ("kiosk_up 1\n", "text/plain")


async def test_the_page_is_served_with_its_files(kiosk: Kiosk) -> None:
    async with kiosk.client() as browser:
        page = await browser.get("/")
        assert (page.status_code, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
        script = await browser.get("/kiosk.js")
        assert script.headers["Content-Type"].startswith("text/javascript")
        head = await browser.head("/")
        assert (head.status_code, head.content) == (200, b"")
        for source in (page.text, script.text):
            assert "//cdn" not in source


async def test_openapi_describes_every_route_with_problems_and_names(kiosk: Kiosk) -> None:
    async with kiosk.client() as client:
        document = (await client.get("/api/v1/openapi.json")).json()
    operations = [
        (path, method, operation) for path, item in document["paths"].items() for method, operation in item.items()
    ]
    assert len(operations) > 20
    ids = [operation["operationId"] for *_, operation in operations]
    assert len(set(ids)) == len(ids)
    for path, method, operation in operations:
        assert operation.get("description"), (method, path)
        assert operation["tags"], (method, path)
        assert operation["responses"]["default"]["content"].keys() == {"application/problem+json"}
        for status, answer in operation["responses"].items():
            if status.startswith("4"):
                assert answer["content"].keys() == {"application/problem+json"}, (method, path, status)
    assert "HTTPValidationError" not in str(document)
    login = document["paths"]["/api/v1/auth/login"]["post"]
    assert "security" not in login
    assert document["paths"]["/api/v1/auth/me"]["get"]["security"] == [{"APIKeyCookie": []}, {"HTTPBearer": []}]


async def test_asyncapi_knows_every_event_and_who_sees_it(kiosk: Kiosk) -> None:
    async with kiosk.client() as client:
        document = (await client.get("/api/v1/asyncapi.json")).json()
    messages = {each["name"]: each for each in document["components"]["messages"].values()}
    assert set(messages) == {*EVENT_TYPES, "kiosk.snapshot", "kiosk.stream.ended"}
    stacked = messages["cash.note.stacked"]
    assert stacked["payload"]["properties"]["data"]["properties"]["value"]["required"] == ["amount_minor", "currency"]
    assert stacked["description"] == "Sent to: ui, technician, collector, admin."
    assert messages["auth.user.added"]["description"] == "Sent to: admin."
    assert "Without code for ui" in messages["cash.claim.issued"]["description"]
    assert "Without evidence for ui" in messages["cash.doubt.opened"]["description"]
    for channel in document["channels"].values():
        for reference in channel["messages"].values():
            assert reference["$ref"].rpartition("/")[2] in document["components"]["messages"]


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/api/v1/docs", "/openapi.json"])
async def test_no_documentation_page_loads_anything_from_elsewhere(kiosk: Kiosk, path: str) -> None:
    async with kiosk.client() as browser:
        assert (await browser.get(path)).status_code == 404
