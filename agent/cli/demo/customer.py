"""What a customer and the page in front of him do, over the agent's HTTP API and the simulated devices."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import httpx

from agent.cli.demo.rig import Rig, RigFailed

POLL_S = 0.02
FINAL = ("completed", "cancelled", "expired", "failed")


class Customer:
    """`async with Customer(rig) as customer:` is logged in as the UI, and the devices are ready.

    Amounts are in minor units of `currency`."""

    def __init__(self, rig: Rig, currency: str = "RUB") -> None:
        self._rig = rig
        self._currency = currency
        origin = rig.agent.url
        self.http = httpx.AsyncClient(base_url=f"{origin}/api/v1", headers={"Origin": origin}, timeout=10.0)

    async def __aenter__(self) -> Customer:
        try:
            await self.log_in()
            await self.until_ready()
        except BaseException:
            await self.http.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.http.aclose()

    async def log_in(self) -> None:
        await self.call("POST", "/auth/ui", {"token": self._rig.ui_token})

    async def call(
        self, method: str, path: str, body: Mapping[str, object] | None = None, *, key: str | None = None
    ) -> dict[str, Any]:
        """The JSON answer. Raises `RigFailed` with the problem document for anything but success."""
        headers = {"Idempotency-Key": key} if key else {}
        answer = await self.http.request(method, path, json=None if body is None else dict(body), headers=headers)
        if not answer.is_success:
            raise RigFailed(f"{method} {path}: {answer.status_code} {answer.text}", status=answer.status_code)
        return dict(answer.json()) if answer.content else {}

    async def until_ready(self, timeout_s: float = 30.0) -> None:
        """Wait until every device could take money. Raises `RigFailed` when one cannot in time."""
        deadline = time.monotonic() + timeout_s
        while True:
            states = {each["name"]: each["state"] for each in (await self.call("GET", "/devices"))["devices"]}
            if set(states.values()) <= {"ready", "active"}:
                return
            if time.monotonic() > deadline:
                raise RigFailed(f"not all devices are ready after {timeout_s:.0f} s: {states}")
            await asyncio.sleep(POLL_S)

    async def open_payment(self, amount_minor: int, *, reference: str = "demo", **options: object) -> dict[str, Any]:
        body = {
            "amount_minor": amount_minor,
            "currency": self._currency,
            "reference": reference,
            "options": options,
        }
        return await self.call("POST", "/cash/payments", body, key=str(uuid.uuid4()))

    async def payment(self, payment_id: str) -> dict[str, Any]:
        return await self.call("GET", f"/cash/payments/{payment_id}")

    async def insert(self, value_major: int) -> None:
        """Push a note into the validator as soon as its slot is open."""
        await self._rig.simulator.insist(f"insert {value_major}", timeout_s=30.0)

    async def until(self, payment_id: str, *states: str, timeout_s: float = 20.0) -> dict[str, Any]:
        """The payment once it is in one of `states` (default: any final one). Raises `RigFailed` when it is late."""
        deadline = time.monotonic() + timeout_s
        while True:
            payment = await self.payment(payment_id)
            if payment["state"] in (states or FINAL):
                return payment
            if time.monotonic() > deadline:
                raise RigFailed(f"payment {payment_id} is still {payment['state']} after {timeout_s:.0f} s")
            await asyncio.sleep(POLL_S)

    async def collected_more(self, before: Mapping[str, Any], timeout_s: float = 20.0) -> dict[str, Any]:
        """The payment once more has been collected than `before` says. Raises `RigFailed` when it is late."""
        deadline = time.monotonic() + timeout_s
        while (payment := await self.payment(str(before["id"])))["collected_minor"] <= before["collected_minor"]:
            if time.monotonic() > deadline:
                raise RigFailed(f"the note for payment {before['id']} was not credited within {timeout_s:.0f} s")
            await asyncio.sleep(POLL_S)
        return payment
