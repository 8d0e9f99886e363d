"""The cash API over HTTP: roles, idempotency keys, refusals with stable codes, and shapes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from agent.domain import events as ev
from tests.modules.rig import OWNER, UI_TOKEN, Rig, rig

PIN = "270415"
ASK = {"amount_minor": 3000, "currency": "EUR", "reference": "room 214", "options": {"timeout_s": 120}}


@asynccontextmanager
async def page(r: Rig) -> AsyncIterator[httpx.AsyncClient]:
    """A browser with the UI's session."""
    async with r.http() as client:
        assert (await client.post("/auth/ui", json={"token": UI_TOKEN})).status_code == 200
        yield client


@asynccontextmanager
async def person(r: Rig, role: str = "technician") -> AsyncIterator[httpx.AsyncClient]:
    """A browser with a logged-in person of this role."""
    async with r.http(peer_uid=OWNER) as owner:
        body = {"name": role, "role": role, "secret": PIN}
        assert (await owner.post("/auth/users", json=body)).status_code == 201
    async with r.http() as client:
        assert (await client.post("/auth/login", json={"name": role, "secret": PIN})).status_code == 200
        yield client


async def post(client: httpx.AsyncClient, path: str, body: Any = None, key: str = "k1") -> httpx.Response:
    return await client.post(f"/cash{path}", json=body or {}, headers={"Idempotency-Key": key})


def problem(answer: httpx.Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.status_code, answer.json()["code"]


async def test_a_payment_from_the_first_request_to_the_claim(tmp_path: Path) -> None:
    async with rig(tmp_path) as r, page(r) as ui:
        assert problem(await ui.get("/cash/payments/current")) == (404, "no_current_payment")
        made = await post(ui, "/payments", ASK)
        assert made.status_code == 201
        body = made.json()
        assert (body["state"], body["missing_minor"], body["reference"]) == ("collecting", 3000, "room 214")
        assert body["remaining_s"] == pytest.approx(120, abs=1)
        assert (await ui.get("/cash/payments/current")).json()["id"] == body["id"]
        await r.pump()
        await r.pay(5000)
        done = (await ui.get(f"/cash/payments/{body['id']}")).json()
        assert (done["state"], done["paid_minor"], done["remaining_s"]) == ("completed", 3000, None)
        (claim,) = done["claims"]
        assert (claim["amount_minor"], claim["reason"], len(claim["code"])) == (2000, "overpaid", 10)
        typed = f"{claim['code'][:5]} {claim['code'][5:]}".lower()
        assert (await ui.get(f"/cash/claims/{typed}")).json() == claim
        assert problem(await ui.get("/cash/claims/AAAAAAAAAA")) == (404, "not_found")


async def test_a_repeated_request_starts_nothing_anew(tmp_path: Path) -> None:
    """The line broke before the answer came: the same key gets the same answer, another body none."""
    async with rig(tmp_path) as r, page(r) as ui:
        first = await post(ui, "/payments", ASK)
        again = await post(ui, "/payments", ASK)
        assert (again.status_code, again.json()) == (201, first.json())
        assert again.headers["idempotency-replayed"] == "true"
        assert problem(await post(ui, "/payments", {**ASK, "amount_minor": 1})) == (422, "idempotency_key_reused")
        assert problem(await ui.post("/cash/payments", json=ASK)) == (400, "idempotency_key_missing")
        assert len(r.events(ev.PaymentCreated)) == 1
        path = f"/payments/{first.json()['id']}"
        assert (await post(ui, f"{path}/cancel")).json()["state"] == "cancelling"
        assert (await post(ui, f"{path}/cancel")).json()["state"] == "cancelling"
        assert (await post(ui, f"{path}/cancel", key="k2")).json()["state"] == "cancelled"
        assert len(r.events(ev.PaymentCancelRequested)) == 1


async def test_a_second_payment_is_told_of_the_first(tmp_path: Path) -> None:
    async with rig(tmp_path) as r, page(r) as ui:
        answers = await asyncio.gather(*(post(ui, "/payments", ASK, key=f"k{n}") for n in range(4)))
        made = [answer for answer in answers if answer.status_code == 201]
        refused = [answer for answer in answers if answer.status_code == 409]
        assert (len(made), len(refused)) == (1, 3)
        assert {problem(answer) for answer in refused} == {(409, "payment_in_progress")}
        assert {answer.json()["payment_id"] for answer in refused} == {made[0].json()["id"]}


async def test_refusals_say_what_is_wrong(tmp_path: Path) -> None:
    async with rig(tmp_path) as r, page(r) as ui:
        for change in (
            {"amount_minor": 0},
            {"amount_minor": -5},
            {"amount_minor": 10.5},
            {"amount_minor": "1000"},
            {"amount_minor": 2**60},
            {"currency": "eur"},
            {"currency": "EURO"},
            {"reference": "x" * 65},
            {"options": {"timeout_s": 1}},
            {"options": {"allowed_minor": [0]}},
            {"options": {"max_overpay_minor": -1}},
            {"options": {"unknown": 1}},
            {"unknown": 1},
        ):
            assert (await post(ui, "/payments", {**ASK, **change})).status_code == 422, change
        r.devices.reasons = ["disk_low"]
        answer = await post(ui, "/payments", ASK)
        assert (problem(answer), answer.json()["reasons"]) == ((503, "acceptance_inhibited"), ["disk_low"])
        r.devices.reasons = []
        assert problem(await post(ui, "/payments", {**ASK, "currency": "USD"})) == (409, "no_acceptor")
        assert (await post(ui, "/payments", ASK)).status_code == 201  # a refusal leaves the key free
        assert problem(await post(ui, "/payments/none/cancel")) == (404, "not_found")


async def test_finish_and_extend(tmp_path: Path) -> None:
    async with rig(tmp_path, extensions_max=1) as r, page(r) as ui:
        path = f"/payments/{(await post(ui, '/payments', ASK)).json()['id']}"
        await r.pump()
        assert problem(await post(ui, f"{path}/finish")) == (409, "nothing_collected")
        await r.pay(1000)
        assert problem(await post(ui, f"{path}/finish")) == (409, "partial_not_allowed")
        await r.wait(30)
        extended = await post(ui, f"{path}/extend")
        assert extended.json()["remaining_s"] == pytest.approx(120, abs=1)
        assert problem(await post(ui, f"{path}/extend", key="k2")) == (409, "extension_limit")
        await post(ui, f"{path}/cancel")
        assert problem(await post(ui, f"{path}/finish", key="k2")) == (409, "illegal_transition")


async def test_what_a_page_asks_for_when_it_opens(tmp_path: Path) -> None:
    async with rig(tmp_path) as r, page(r) as ui:
        empty = (await ui.get("/cash/snapshot")).json()
        assert empty["payment"] is None
        assert empty["acceptance"] == (await ui.get("/cash/acceptance")).json()
        assert empty["acceptance"]["currencies"] == {"EUR": [500, 1000, 2000, 5000, 10000]}
        made = (await post(ui, "/payments", ASK)).json()
        with r.store.read() as reader:
            told = r.parts.snapshot(reader) if r.parts.snapshot else {}
        assert told["payment"]["id"] == (await ui.get("/cash/snapshot")).json()["payment"]["id"] == made["id"]


STAFF_ONLY = ("/payments", "/claims", "/notes", "/units", "/ledger", "/doubts")


async def test_who_may_see_what(tmp_path: Path) -> None:
    """Claim codes are worth money, so that lists of them are for staff; nothing is for strangers."""
    async with rig(tmp_path) as r, page(r) as ui, person(r) as staff, r.http() as stranger:
        for path in STAFF_ONLY:
            assert problem(await ui.get(f"/cash{path}")) == (403, "role_not_allowed"), path
            assert (await staff.get(f"/cash{path}")).status_code == 200, path
        everything = (*STAFF_ONLY, "/payments/current", "/payments/x", "/snapshot", "/acceptance", "/claims/x")
        for path in everything:
            assert (await stranger.get(f"/cash{path}")).status_code == 401, path
        for path in (
            "/payments",
            "/payments/x/cancel",
            "/payments/x/finish",
            "/payments/x/extend",
            "/doubts/x/resolve",
        ):
            assert (await post(stranger, path, ASK)).status_code == 401, path
        assert problem(await post(ui, "/doubts/x/resolve", {"outcome": "returned", "reason": "x"}))[0] == 403


async def test_staff_sees_every_note_unit_claim_and_balance(tmp_path: Path) -> None:
    async with rig(tmp_path) as r, person(r, "collector") as staff:
        payment = await r.create(1500)
        await r.pay(2000)
        other = await r.create(5000)
        await r.pay(1000)
        await r.cancel(other)
        notes = (await staff.get("/cash/notes", params={"payment_id": payment})).json()
        assert [(note["state"], note["value_minor"]) for note in notes] == [("stacked", 2000)]
        assert len((await staff.get("/cash/notes")).json()) == 2
        newest, oldest = (await staff.get("/cash/payments")).json()
        assert (newest["id"], oldest["id"]) == (other, payment)
        assert [each["id"] for each in (await staff.get("/cash/payments", params={"before": other})).json()] == [
            payment
        ]
        assert (await staff.get("/cash/payments", params={"state": "cancelled"})).json() == [newest]
        assert [claim["amount_minor"] for claim in (await staff.get("/cash/claims")).json()] == [1000, 500]
        (unit,) = (await staff.get("/cash/units")).json()
        assert (unit["unit"], unit["count"], unit["total_minor"]) == ("stacker:cashcode", 2, 3000)
        assert unit["contents"] == [{"value_minor": 1000, "count": 1}, {"value_minor": 2000, "count": 1}]
        ledger = (await staff.get("/cash/ledger")).json()
        assert ledger["balanced"] is True
        posted = {each["account"]: each["posted_minor"] for each in ledger["balances"]}
        assert posted == {"customer": 0, "owed": -1500, "sales": -1500, "stacker:cashcode": 3000}


async def test_a_person_decides_about_a_doubt_in_their_name(tmp_path: Path) -> None:
    async with rig(tmp_path) as r, person(r, "admin") as admin, r.http(peer_uid=OWNER) as machine:
        payment = await r.create(5000)
        await r.insert(2000)
        doubt = await r.doubt()
        await r.cancel(payment)
        (row,) = (await admin.get("/cash/doubts")).json()
        assert (row["id"], row["amount_minor"], row["evidence"][0]) == (doubt, 2000, "host 02 STACK")
        finding = {"outcome": "stacked", "reason": "counted at the collection"}
        path = f"/doubts/{doubt}/resolve"
        assert problem(await post(machine, path, finding)) == (403, "person_needed")
        assert problem(await post(admin, path, {"outcome": "explained", "reason": "x"})) == (422, "explanation_invalid")
        done = await post(admin, path, finding)
        assert (done.status_code, done.json()["open"]) == (200, False)
        assert done.json()["resolved_by"].startswith("user:")
        assert (await post(admin, path, finding)).json() == done.json()
        assert problem(await post(admin, path, finding, key="k2")) == (409, "doubt_already_resolved")
        assert (await admin.get("/cash/doubts")).json() == []
        assert len((await admin.get("/cash/doubts", params={"open_only": False})).json()) == 1
        assert r.claims(payment) == [(2000, "EUR", "doubt_resolved")]


async def test_the_description_names_every_route_with_words(tmp_path: Path) -> None:
    async with rig(tmp_path) as r, person(r) as staff:
        document = (await staff.get("/openapi.json")).json()
        routes = {path: verbs for path, verbs in document["paths"].items() if path.startswith("/api/v1/cash/")}
        assert len(routes) == 15
        for path, verbs in routes.items():
            for verb, described in verbs.items():
                assert described.get("description") or described.get("summary"), (verb, path)
