"""schemathesis over the OpenAPI document, the cash module included: no input makes a 500, all answers documented."""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import hypothesis
import requests
import schemathesis
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from agent.runtime.clock import SystemClock
from tests.api.conftest import OWNER, PIN, Kiosk, KioskMaker, served

CHECKS: list[Any] = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
ENDLESS = "/api/v1/events"
SERVER_ERRORS_THAT_ARE_MEANT = {503}  # not ready, inhibited, too busy: states, not defects


async def token_of(kiosk: Kiosk, role: str, number: int) -> str:
    """A session of its own for each operation: some of them end it."""
    if role == "ui":
        return str((await kiosk.as_user("ui")).cookies["kiosk_session"])
    name = f"fuzzer {number}"
    async with kiosk.client(uid=OWNER) as owner, kiosk.client() as client:
        await owner.post("/api/v1/auth/users", json={"name": name, "role": role, "secret": PIN})
        answer = await client.post("/api/v1/auth/login", json={"name": name, "secret": PIN, "as": "bearer"})
    return str(answer.json()["access_token"])


def attack(operation: Any, origin: str, token: str, examples: int, seen: Counter[int]) -> None:
    session = requests.Session()
    headers = {"Origin": origin, "Authorization": f"Bearer {token}"}

    @hypothesis.settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
    )
    @hypothesis.given(case=operation.as_strategy())
    def run(case: Any) -> None:
        case.headers = {name: value for name, value in (case.headers or {}).items() if name not in headers}
        case.cookies = {}
        answer = case.call(base_url=origin, session=session, headers=headers, timeout=10)
        seen[answer.status_code] += 1
        meant = answer.status_code in SERVER_ERRORS_THAT_ARE_MEANT
        case.validate_response(answer, checks=CHECKS[1:] if meant else CHECKS)

    try:
        run()
    finally:
        session.close()


async def test_no_input_makes_a_500_and_every_answer_is_as_documented(
    kiosk_at: KioskMaker, scale: Callable[[int, int], int]
) -> None:
    settings = {"streams_max": 1, "session_ttl_s": 86_400}
    seen: Counter[int] = Counter()
    async with kiosk_at(SystemClock(), real_modules=["cash_system"], **settings) as kiosk, served(kiosk.app) as port:
        kiosk.origin = f"http://127.0.0.1:{port}"
        async with kiosk.client() as client:
            document = (await client.get("/api/v1/openapi.json")).json()
        del document["paths"][ENDLESS]["get"]
        schema = schemathesis.openapi.from_dict(document)
        operations = [each.ok() for each in schema.get_all_operations() if isinstance(each, Ok)]
        assert len(operations) > 25
        for number, operation in enumerate(operations):
            for role in ("admin", "ui"):
                token = await token_of(kiosk, role, number)
                await asyncio.to_thread(attack, operation, kiosk.origin, token, scale(3, 300), seen)
        await kiosk.app.state.streams.close()
    assert seen.keys() >= {200, 403, 404, 422}, seen
