"""Every error is one problem document; nothing of the inside shows."""

from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Body, HTTPException
from loguru import logger

from agent.domain.errors import DeviceFault, IllegalTransition, StoreError
from tests.api.conftest import Kiosk, KioskMaker


def failing() -> APIRouter:
    router = APIRouter(prefix="/fail")
    errors = {
        "domain": IllegalTransition("The payment is completed.", state="completed"),
        "store": StoreError("The disk is full.", retry_after_s=2),
        "device": DeviceFault("jammed"),
        "http": HTTPException(418, "short and stout"),
        "bug": RuntimeError("secret path /var/lib/kiosk"),
        "sneaky": IllegalTransition("x", code="other", status=200, detail="y", type="z", trace_id="w"),
    }

    @router.get("/{kind}")
    async def fail(kind: str) -> None:
        raise errors[kind]

    @router.post("/body")
    async def body(amount_minor: Annotated[int, Body(embed=True, gt=0)]) -> dict[str, int]:
        return {"amount_minor": amount_minor}

    return router


async def ask(kiosk: Kiosk, path: str, method: str = "GET", **more: Any) -> tuple[int, dict[str, Any], Any]:
    async with kiosk.client() as client:
        answer = await client.request(method, f"/api/v1{path}", **more)
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == answer.status_code
    assert problem["type"] == f"urn:kiosk:problem:{problem['code']}"
    assert problem["trace_id"] == answer.headers["X-Trace-Id"]
    assert {"title", "detail", "retryable"} <= set(problem)
    return answer.status_code, problem, answer.headers


async def test_our_errors_keep_code_details_and_retry_after(kiosk_at: KioskMaker) -> None:
    async with kiosk_at(routers=[failing()]) as kiosk:
        status, problem, _ = await ask(kiosk, "/fail/domain")
        assert (status, problem["code"], problem["state"]) == (409, "illegal_transition", "completed")
        assert problem["retryable"] is False
        status, problem, headers = await ask(kiosk, "/fail/store")
        assert (status, problem["retryable"], headers["Retry-After"]) == (503, True, "2")
        assert (await ask(kiosk, "/fail/device"))[0] == 502
        assert (await ask(kiosk, "/fail/http"))[1]["detail"] == "short and stout"
        status, problem, _ = await ask(kiosk, "/fail/sneaky")
        assert (status, problem["code"], problem["detail"]) == (409, "illegal_transition", "x"), "details never win"


async def test_a_defect_is_500_with_its_trace_id_in_the_log_and_nothing_of_the_inside(kiosk_at: KioskMaker) -> None:
    lines: list[Any] = []
    sink = logger.add(lambda message: lines.append(message.record), level="ERROR")
    try:
        async with kiosk_at(routers=[failing()]) as kiosk:
            status, problem, headers = await ask(kiosk, "/fail/bug", headers={"X-Trace-Id": "page-0001-abcd"})
    finally:
        logger.remove(sink)
    assert (status, problem["code"]) == (500, "internal_error")
    assert "secret path" not in str(problem)
    assert headers["X-Trace-Id"] == "page-0001-abcd"
    [record] = lines
    assert record["extra"]["trace_id"] == "page-0001-abcd"
    assert "secret path" in str(record["exception"].value)


async def test_invalid_input_names_its_fields(kiosk_at: KioskMaker) -> None:
    async with kiosk_at(routers=[failing()]) as kiosk:
        status, problem, _ = await ask(kiosk, "/fail/body", "POST", json={"amount_minor": -1})
        assert (status, problem["code"]) == (422, "invalid_request")
        assert problem["errors"] == [{"at": "body.amount_minor", "message": "Input should be greater than 0"}]
        headers = {"Content-Type": "application/json"}
        status, problem, _ = await ask(kiosk, "/fail/body", "POST", content=b'{"amount', headers=headers)
        assert (status, problem["errors"][0]["at"][:4]) == (422, "body")
        status, problem, _ = await ask(kiosk, "/fail/body", "POST", content=b"\xff\xfe", headers=headers)
        assert status in {400, 422}


async def test_a_refused_secret_is_not_repeated_in_the_answer(kiosk: Kiosk) -> None:
    _, problem, _ = await ask(kiosk, "/auth/login", "POST", json={"name": "anna", "secret": "x" * 200})
    assert "xxx" not in str(problem)


async def test_unknown_paths_and_methods(kiosk: Kiosk) -> None:
    assert (await ask(kiosk, "/nothing"))[1]["code"] == "not_found"
    status, problem, headers = await ask(kiosk, "/system/health", "DELETE")
    assert (status, problem["code"], headers["Allow"]) == (405, "method_not_allowed", "GET")
    async with kiosk.client() as client:
        answer = await client.post("/", json={})
    assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed")


@pytest.mark.parametrize("given", ["short", "x" * 65, "with space!", "a;b,c=d:e/f"])
async def test_an_odd_trace_id_is_replaced(kiosk: Kiosk, given: str) -> None:
    _, problem, _ = await ask(kiosk, "/nothing", headers={"X-Trace-Id": given})
    assert problem["trace_id"] != given
    assert len(problem["trace_id"]) == 32
