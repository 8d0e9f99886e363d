"""`Idempotency-Key` over HTTP: one wish, one effect, one answer."""

import asyncio
import threading
from collections.abc import Callable
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Body, Depends, Request, Response

from agent.api.auth.caller import require
from agent.api.idempotency import Idempotency
from agent.api.module import Parts
from agent.api.router_factory import Mounted
from agent.domain.errors import IllegalTransition
from agent.domain.events import DeviceOffline
from agent.store.ports import Transaction
from tests.api.conftest import PIN, Kiosk, KioskMaker

PAY = "/api/v1/cash/pay"


class Till:
    """Pays by appending an event. `gate` holds the work in the writer thread; `refuse` makes it fail."""

    def __init__(self) -> None:
        self.router = APIRouter()
        self.gate = threading.Event()
        self.gate.set()
        self.refuse = False
        self.once: Idempotency | None = None

        @self.router.post("/pay/{where}", dependencies=[Depends(require("ui", "technician"))])
        async def pay(where: str, request: Request, amount_minor: Annotated[int, Body(embed=True)]) -> Response:
            assert self.once is not None
            return await self.once.once(request, self.work(where, amount_minor))

    def work(self, where: str, amount_minor: int) -> Callable[[Transaction], tuple[int, dict[str, Any]]]:
        def work(tx: Transaction) -> tuple[int, dict[str, Any]]:
            self.gate.wait(10)
            row = tx.append(DeviceOffline(device=where, reason=str(amount_minor)))
            if self.refuse:
                raise IllegalTransition("not now")
            return 201, {"seq": row.seq, "paid": amount_minor}

        return work


@pytest.fixture
async def till(kiosk_at: KioskMaker) -> Any:
    till = Till()
    async with kiosk_at(modules=[Mounted("cash_system", "cash", Parts(router=till.router))]) as kiosk:
        till.once = Idempotency(kiosk.store)
        yield till, kiosk


async def pay(client: Any, key: str | None, amount: int = 100, where: str = "a") -> Any:
    headers = {} if key is None else {"Idempotency-Key": key}
    return await client.post(f"{PAY}/{where}", json={"amount_minor": amount}, headers=headers)


def paid(kiosk: Kiosk) -> int:
    return kiosk.types().count("device.went_offline")


async def test_the_same_key_and_body_get_the_same_answer_and_one_effect(till: Any) -> None:
    _, kiosk = till
    screen = await kiosk.as_user("ui")
    first, second = await pay(screen, "k1"), await pay(screen, "k1")
    assert (first.status_code, first.json()) == (second.status_code, second.json())
    assert (first.headers.get("Idempotency-Replayed"), second.headers["Idempotency-Replayed"]) == (None, "true")
    assert paid(kiosk) == 1
    with kiosk.store.read() as reader:
        row = reader.rows(first.json()["seq"] - 1, 1)[0]
    assert (row.actor, row.trace_id) == ("ui", first.headers["X-Trace-Id"])


async def test_another_body_under_the_same_key_is_an_error_of_the_caller(till: Any) -> None:
    _, kiosk = till
    screen = await kiosk.as_user("ui")
    await pay(screen, "k1")
    answer = await pay(screen, "k1", amount=200)
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")
    assert paid(kiosk) == 1


@pytest.mark.parametrize("key", [None, "", "x" * 256, "with space"])
async def test_without_a_sound_key_nothing_moves(till: Any, key: str | None) -> None:
    _, kiosk = till
    screen = await kiosk.as_user("ui")
    answer = await pay(screen, key)
    assert (answer.status_code, answer.json()["code"]) == (400, "idempotency_key_missing")
    assert paid(kiosk) == 0


async def test_while_the_first_runs_the_second_is_told_to_wait(till: Any) -> None:
    shop, kiosk = till
    screen = await kiosk.as_user("ui")
    shop.gate.clear()
    first = asyncio.create_task(pay(screen, "k1"))
    await asyncio.sleep(0.05)
    second = await pay(screen, "k1")
    assert (second.status_code, second.json()["code"]) == (409, "request_in_progress")
    assert second.headers["Retry-After"] == "1"
    shop.gate.set()
    assert (await first).status_code == 201
    assert (await pay(screen, "k1")).json() == (await first).json()


async def test_a_refused_wish_leaves_its_key_free(till: Any) -> None:
    shop, kiosk = till
    screen = await kiosk.as_user("ui")
    shop.refuse = True
    assert (await pay(screen, "k1")).status_code == 409
    assert paid(kiosk) == 0
    shop.refuse = False
    assert (await pay(screen, "k1")).status_code == 201


async def test_a_key_belongs_to_role_and_path_with_its_ids(till: Any) -> None:
    """A key that is used again for another payment must not get the first one's answer."""
    _, kiosk = till
    screen, technician = await kiosk.as_user("ui"), await kiosk.as_user("technician")
    seqs = {(await pay(*call)).json()["seq"] for call in ((screen, "k"), (technician, "k"))}
    seqs.add((await pay(screen, "k", where="b")).json()["seq"])
    assert len(seqs) == 3 == paid(kiosk)


async def test_the_answer_outlives_a_restart(kiosk_at: KioskMaker) -> None:
    answers = []
    for _ in range(2):
        shop = Till()
        async with kiosk_at(modules=[Mounted("cash_system", "cash", Parts(router=shop.router))]) as kiosk:
            shop.once = Idempotency(kiosk.store)
            technician = await kiosk.as_user("technician", "Kim", PIN)
            answers.append(await pay(technician, "k1"))
            assert paid(kiosk) == 1
    assert answers[0].json() == answers[1].json()
