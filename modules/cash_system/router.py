"""HTTP to service and back; no decisions. Mounted under `/api/v1/cash`."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response

from agent.api.module import Context
from agent.domain.payments import PaymentState
from modules.cash_system import queries
from modules.cash_system.errors import PersonNeeded
from modules.cash_system.schemas import (
    AcceptanceOut,
    ClaimOut,
    DoubtOut,
    LedgerOut,
    NoteOut,
    PaymentIn,
    PaymentOut,
    ReasonIn,
    ResolveIn,
    SnapshotOut,
    UnitOut,
    claim_out,
    doubt_out,
    ledger_out,
    note_out,
    units_out,
)
from modules.cash_system.service import CashService

_REFUSALS = {
    400: "`idempotency_key_missing`.",
    403: "`role_not_allowed`; `person_needed` on the control socket without a login.",
    404: "`not_found`; `no_current_payment`.",
    422: "Malformed input; `idempotency_key_reused`.",
    503: "`acceptance_inhibited`: the kiosk takes no money now, `reasons` says why. `store_error`.",
}
STAFF = ("technician", "collector", "admin")
Limit = Annotated[int, Query(ge=1, le=queries.LIMIT_MAX, description="Most rows of the answer.")]
Before = Annotated[str | None, Query(max_length=64, description="Only rows older than this id.")]


def _refusals(*statuses: int, conflict: str = "") -> dict[int | str, dict[str, Any]]:
    """`responses=` of a route: the codes of its problem documents, by status."""
    told = {status: _REFUSALS[status] for status in statuses} | ({409: conflict} if conflict else {})
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": description, "content": content} for status, description in told.items()}


def make_router(service: CashService, context: Context) -> APIRouter:
    router = APIRouter()
    _payments(router, service, context)
    _verbs(router, service, context)
    _surroundings(router, service, context)
    _staff(router, context)
    _doubts(router, service, context)
    return router


def _payments(router: APIRouter, service: CashService, context: Context) -> None:
    anyone = [Depends(context.require("ui", *STAFF))]

    @router.post(
        "/payments",
        status_code=201,
        response_model=PaymentOut,
        dependencies=anyone,
        responses=_refusals(400, 422, 503, conflict="`payment_in_progress`, `no_acceptor`, `request_in_progress`."),
    )
    async def create_payment(request: Request, payment: PaymentIn) -> Response:
        """Start collecting. One payment at a time: 409 `payment_in_progress` names the open one. 503
        `acceptance_inhibited` and 409 `no_acceptor` say that the kiosk cannot take this money now. Needs
        `Idempotency-Key`."""
        response = await context.once(request, service.creating(payment))
        service.follow()
        return response

    @router.get("/payments", dependencies=[Depends(context.require(*STAFF))])
    async def list_payments(
        limit: Limit = 50, before: Before = None, state: PaymentState | None = None
    ) -> list[PaymentOut]:
        """Newest first. Only for staff: each payment names its claims, whose codes are worth money."""
        return service.payments(limit, before, state)

    @router.get("/payments/current", dependencies=anyone, responses=_refusals(404))
    async def current_payment() -> PaymentOut:
        """The payment that is open now; 404 `no_current_payment` when there is none."""
        return service.current()

    @router.get("/payments/{payment_id}", dependencies=anyone, responses=_refusals(404))
    async def get_payment(payment_id: str) -> PaymentOut:
        return service.payment(payment_id)


def _verbs(router: APIRouter, service: CashService, context: Context) -> None:
    anyone = [Depends(context.require("ui", *STAFF))]

    @router.post(
        "/payments/{payment_id}/cancel",
        response_model=PaymentOut,
        dependencies=anyone,
        responses=_refusals(400, 404, 422, conflict="`amount_reached`, `illegal_transition`, `request_in_progress`."),
    )
    async def cancel_payment(request: Request, payment_id: str, reason: ReasonIn) -> Response:
        """Stop collecting: a note in escrow goes back, notes in the box become a claim. 409 `amount_reached` when the
        last note came first. Needs `Idempotency-Key`."""
        response = await context.once(request, service.cancelling(payment_id, reason))
        await service.settle(payment_id, trace_id=context.trace_id())
        return response

    @router.post(
        "/payments/{payment_id}/finish",
        response_model=PaymentOut,
        dependencies=anyone,
        responses=_refusals(
            400,
            404,
            422,
            conflict="`nothing_collected`, `partial_not_allowed`, `illegal_transition`, `request_in_progress`.",
        ),
    )
    async def finish_payment(request: Request, payment_id: str) -> Response:
        """Settle for less than the amount, where `allow_partial` was given. Needs `Idempotency-Key`."""
        response = await context.once(request, service.finishing(payment_id))
        await service.settle(payment_id, trace_id=context.trace_id())
        return response

    @router.post(
        "/payments/{payment_id}/extend",
        response_model=PaymentOut,
        dependencies=anyone,
        responses=_refusals(400, 404, 422, conflict="`extension_limit`, `illegal_transition`, `request_in_progress`."),
    )
    async def extend_payment(request: Request, payment_id: str) -> Response:
        """Start the payment's time anew; 409 `extension_limit` when that was done too often. Needs
        `Idempotency-Key`."""
        response = await context.once(request, service.extending(payment_id))
        service.follow()
        return response


def _surroundings(router: APIRouter, service: CashService, context: Context) -> None:
    anyone = [Depends(context.require("ui", *STAFF))]

    @router.get("/snapshot", dependencies=anyone)
    async def snapshot() -> SnapshotOut:
        """The open payment, if any, and whether money could be taken: what a page asks for when it opens."""
        with context.store.read() as reader:
            return service.snapshot(reader)

    @router.get("/acceptance", dependencies=anyone)
    async def acceptance() -> AcceptanceOut:
        """Whether a payment could start now, why not, and which notes could be taken."""
        return service.acceptance()

    @router.get("/claims/{code}", dependencies=anyone, responses=_refusals(404))
    def get_claim(code: str) -> ClaimOut:
        """What the code is worth. Knowing the code is what entitles."""
        with context.store.read() as reader:
            return claim_out(queries.claim_by_code(reader, code))


def _staff(router: APIRouter, context: Context) -> None:
    staff = [Depends(context.require(*STAFF))]

    @router.get("/claims", dependencies=staff)
    def list_claims(limit: Limit = 50, before: Before = None) -> list[ClaimOut]:
        """All that the kiosk owes, newest first. Only for staff: each code is worth money."""
        with context.store.read() as reader:
            return [claim_out(row) for row in queries.claims(reader, limit, before)]

    @router.get("/notes", dependencies=staff)
    def list_notes(payment_id: str | None = None, limit: Limit = 100, before: Before = None) -> list[NoteOut]:
        """Every note that reached escrow or the box, newest first."""
        with context.store.read() as reader:
            return [note_out(row) for row in queries.notes(reader, limit, before, payment_id)]

    @router.get("/units", dependencies=staff)
    def list_units() -> list[UnitOut]:
        """What lies in each box, by value, as the journal has it."""
        with context.store.read() as reader:
            return units_out(queries.unit_contents(reader))

    @router.get("/ledger", dependencies=staff)
    def get_ledger() -> LedgerOut:
        """Balances of all accounts; each currency sums to zero."""
        with context.store.read() as reader:
            return ledger_out(queries.balances(reader))


def _doubts(router: APIRouter, service: CashService, context: Context) -> None:
    staff = [Depends(context.require(*STAFF))]

    @router.get("/doubts", dependencies=staff)
    def list_doubts(open_only: bool = True, limit: Limit = 100) -> list[DoubtOut]:
        """Money of which no device can say where it is, each with the last frames as evidence."""
        with context.store.read() as reader:
            return [doubt_out(row) for row in queries.doubts(reader, limit, open_only=open_only)]

    @router.post(
        "/doubts/{doubt_id}/resolve",
        response_model=DoubtOut,
        responses=_refusals(
            400, 403, 404, 422, conflict="`doubt_already_resolved`, `note_already_booked`, `request_in_progress`."
        ),
    )
    async def resolve_doubt(
        request: Request,
        doubt_id: str,
        finding: ResolveIn,
        actor: str = Depends(context.require(*STAFF)),  # not Annotated: FastAPI reads no local names there
    ) -> Response:
        """A person decides; nothing resolves itself. Money found in the box is credited to a payment that still
        collects and becomes a claim of one that is over. 403 `person_needed` on the control socket without a login.
        Needs `Idempotency-Key`."""
        if not actor.startswith("user:"):
            raise PersonNeeded("log in with your name and PIN: a person decides about money in doubt")
        response = await context.once(request, service.resolving(doubt_id, finding))
        service.follow()
        return response
