"""`kiosk cash`: what lies where, payments, claims, and money in doubt. From the daemon while it runs; when it is
stopped, from the kiosk's file under its lock. Deciding about money takes a person's name and PIN either way."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agent.cli.client import Daemon, daemon, is_running, offline_store, settings
from agent.domain.errors import NotFound

if TYPE_CHECKING:
    from agent.domain.clock import Clock
    from agent.store.journal import SqliteStore
    from agent.store.ports import Reader
    from drivers.ports import DeviceInfo, NoteAcceptor
    from modules.cash_system.schemas import ResolveIn

app = typer.Typer(add_completion=False, no_args_is_help=True, help="What lies where, payments, claims, doubts.")
in_doubt = typer.Typer(add_completion=False, invoke_without_command=True)
app.add_typer(in_doubt, name="in-doubt")

Json = Annotated[bool, typer.Option("--json", help="JSON instead of words.")]
Limit = Annotated[int, typer.Option("--lines", "-n", min=1, max=500, help="How many of the newest.")]
STACKER = "stacker:"
WORDS_OF_ACCOUNTS = {
    "sales": ("sold", -1),
    "owed": ("owed to customers", -1),
    "unattributed": ("of nobody yet", -1),
    "customer": ("held for the open payment", -1),
    "in_doubt": ("in doubt", 1),
}
"""What an account is called, and which sign shows it as people count."""


@app.command()
def status(as_json: Json = False) -> None:
    """What lies in each box, the open payment, what is owed and what is in doubt.

    Example: kiosk cash status
    """
    found = _ask(_status_from_daemon, _status_from_file)
    _say(found, as_json, _status_words)


@app.command()
def payments(limit: Limit = 20, as_json: Json = False) -> None:
    """The newest payments with what became of their money.

    Example: kiosk cash payments -n 5 --json
    """

    def offline(reader: Reader) -> Any:
        from modules.cash_system import queries
        from modules.cash_system.schemas import payment_out

        rows = queries.payments(reader, limit)
        made = [
            payment_out(row, queries.claims_of(reader, row["id"]), remaining_s=None, warn_s=0, extensions_max=0)
            for row in rows
        ]
        return [each.model_dump(mode="json") for each in made]

    found = _ask(lambda kiosk: kiosk.get("/cash/payments", limit=limit), offline)
    _say(found, as_json, _payments_words)


@app.command()
def claims(limit: Limit = 50, as_json: Json = False) -> None:
    """What the kiosk owes, newest first; whoever shows a code gets its amount from staff.

    Example: kiosk cash claims --json
    """

    def offline(reader: Reader) -> Any:
        from modules.cash_system import queries
        from modules.cash_system.schemas import claim_out

        return [claim_out(row).model_dump(mode="json") for row in queries.claims(reader, limit)]

    found = _ask(lambda kiosk: kiosk.get("/cash/claims", limit=limit), offline)
    _say(found, as_json, _claims_words)


@in_doubt.callback(help="Money of which no device can say where it is. Example: kiosk cash in-doubt --json")
def doubts(
    context: typer.Context,
    everything: Annotated[bool, typer.Option("--all", help="Resolved ones too.")] = False,
    as_json: Json = False,
) -> None:
    if context.invoked_subcommand is None:
        list_doubts(everything, as_json)


@in_doubt.command("list")
def list_doubts(
    everything: Annotated[bool, typer.Option("--all", help="Resolved ones too.")] = False, as_json: Json = False
) -> None:
    """The open doubts with their evidence.

    Example: kiosk cash in-doubt list --all
    """

    def offline(reader: Reader) -> Any:
        from modules.cash_system import queries
        from modules.cash_system.schemas import doubt_out

        rows = queries.doubts(reader, 100, open_only=not everything)
        return [doubt_out(row).model_dump(mode="json") for row in rows]

    found = _ask(lambda kiosk: kiosk.get("/cash/doubts", open_only=not everything), offline)
    _say(found, as_json, _doubts_words)


@in_doubt.command()
def resolve(
    *,
    doubt_id: Annotated[str, typer.Argument(help="Id of the doubt, as `in-doubt list` shows it.")],
    outcome: Annotated[str, typer.Option(help="stacked (it lies in the box), returned (customer has it), explained.")],
    reason: Annotated[str, typer.Option(help="What was found, for the books. No names.")],
    user: Annotated[str, typer.Option(help="Your name at this kiosk; the PIN is asked for.")],
    amount_minor: Annotated[int | None, typer.Option(help="With stacked, when the doubt names no amount.")] = None,
    currency: Annotated[str | None, typer.Option(help="The same.")] = None,
    explained_by_seq: Annotated[int | None, typer.Option(help="With explained: the row that booked it.")] = None,
    pin_stdin: Annotated[bool, typer.Option("--pin-stdin", help="Read the PIN from standard input.")] = False,
    as_json: Json = False,
) -> None:
    """Decide where money in doubt is, as a person: it is booked in your name.

    Example: kiosk cash in-doubt resolve 0199c1d2-… --outcome stacked --reason "counted at collection" --user anna
    """
    finding = _finding(outcome, reason, amount_minor, currency, explained_by_seq)
    pin = sys.stdin.readline().rstrip("\n") if pin_stdin else typer.prompt("PIN", hide_input=True)
    config = settings()
    if is_running(config):
        with daemon(config) as kiosk:
            kiosk.log_in(kiosk.post("/auth/login", {"name": user, "secret": pin, "as": "bearer"})["access_token"])
            found = kiosk.post(f"/cash/doubts/{doubt_id}/resolve", finding.model_dump(mode="json", exclude_none=True))
            kiosk.call("POST", "/auth/logout", {})
    else:
        with offline_store(config) as store:
            found = asyncio.run(_resolve_offline(store, doubt_id, finding, name=user, pin=pin))
    _say([found], as_json, _doubts_words)


def _finding(
    outcome: str, reason: str, amount_minor: int | None, currency: str | None, explained_by_seq: int | None
) -> ResolveIn:
    from pydantic import ValidationError

    from modules.cash_system.schemas import ResolveIn

    given = {"outcome": outcome, "reason": reason, "amount_minor": amount_minor, "currency": currency}
    try:
        return ResolveIn.model_validate({**given, "explained_by_seq": explained_by_seq})
    except ValidationError as error:
        first = error.errors()[0]
        raise typer.BadParameter(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error


class _NoDevices:
    """The daemon is stopped: nothing hangs on this process."""

    def note_acceptors(self) -> Mapping[str, NoteAcceptor]:
        return {}

    def info(self, name: str) -> DeviceInfo:
        raise NotFound(f"there is no device {name} while the daemon is stopped")

    def accepting_allowed(self) -> bool:
        return False

    def inhibit_reasons(self) -> Sequence[str]:
        return ("daemon_stopped",)


async def _resolve_offline(
    store: SqliteStore, doubt_id: str, finding: ResolveIn, *, name: str, pin: str
) -> Mapping[str, Any]:
    """The daemon's own decision on the file itself: the person is verified, then one transaction in their name."""
    import os

    from agent.runtime.clock import SystemClock
    from modules.cash_system.service import CashService
    from modules.cash_system.settings import CashSettings

    clock = SystemClock()
    user_id = await _verified(store, clock, name, pin)
    service = CashService(store, clock, os.urandom, _NoDevices(), CashSettings())
    _, body = await store.transact(service.resolving(doubt_id, finding), actor=f"user:{user_id}")
    return body


async def _verified(store: SqliteStore, clock: Clock, name: str, pin: str) -> str:
    """The id of the user with this name and PIN; failures count towards the lock-out as they do at the daemon."""
    import os

    from agent.api.auth.people import People
    from agent.api.auth.secrets import DEFAULT_COST, Secrets

    secrets = Secrets(DEFAULT_COST)
    try:
        return str((await People(store, clock, os.urandom, secrets).verified(name, pin)).id)
    finally:
        secrets.close()


def _ask(running: Callable[[Daemon], Any], stopped: Callable[[Reader], Any]) -> Any:
    """From the daemon when it runs, else from the file."""
    config = settings()
    if is_running(config):
        with daemon(config) as kiosk:
            return running(kiosk)
    with offline_store(config) as store, store.read() as reader:
        return stopped(reader)


def _status_from_daemon(kiosk: Daemon) -> dict[str, Any]:
    return {
        "units": kiosk.get("/cash/units"),
        "payment": next(iter(kiosk.get("/cash/payments", limit=1)), None),
        "acceptance": kiosk.get("/cash/acceptance"),
        "in_doubt": kiosk.get("/cash/doubts"),
        "ledger": kiosk.get("/cash/ledger"),
    }


def _status_from_file(reader: Reader) -> dict[str, Any]:
    from modules.cash_system import queries
    from modules.cash_system import schemas as made

    row = next(iter(queries.payments(reader, 1)), None)
    claims_of = [] if row is None else queries.claims_of(reader, row["id"])
    last = None if row is None else made.payment_out(row, claims_of, remaining_s=None, warn_s=0, extensions_max=0)
    return {
        "units": [each.model_dump(mode="json") for each in made.units_out(queries.unit_contents(reader))],
        "payment": None if last is None else last.model_dump(mode="json"),
        "acceptance": {"accepting": False, "reasons": ["daemon_stopped"], "currencies": {}},
        "in_doubt": [
            made.doubt_out(each).model_dump(mode="json") for each in queries.doubts(reader, 100, open_only=True)
        ],
        "ledger": made.ledger_out(queries.balances(reader)).model_dump(mode="json"),
    }


def _say(found: Any, as_json: bool, words: Callable[[Any], Iterable[str]]) -> None:
    typer.echo(json.dumps(found, ensure_ascii=False) if as_json else "\n".join(words(found)))


def _money(minor: int | None, currency: str | None) -> str:
    from agent.domain.money import Money

    return "unknown amount" if minor is None or currency is None else str(Money(minor, currency))


def _status_words(found: dict[str, Any]) -> Iterable[str]:
    reasons = ", ".join(found["acceptance"]["reasons"])
    yield "takes money" if found["acceptance"]["accepting"] else f"takes no money: {reasons}"
    for unit in found["units"]:
        yield f"{unit['unit']}: {unit['count']} notes, {_money(unit['total_minor'], unit['currency'])}"
        for line in unit["contents"]:
            yield f"  {line['count']:>6} × {_money(line['value_minor'], unit['currency'])}"
    for balance in found["ledger"]["balances"]:
        account, currency = balance["account"], balance["currency"]
        if not account.startswith(STACKER) and (balance["posted_minor"] or balance["pending_minor"]):
            pending = f", pending {_money(balance['pending_minor'], currency)}" if balance["pending_minor"] else ""
            name, sign = WORDS_OF_ACCOUNTS.get(account, (account, 1))
            yield f"{name}: {_money(sign * balance['posted_minor'], currency)}{pending}"
    if not found["ledger"]["balanced"]:
        yield "THE LEDGER DOES NOT SUM TO ZERO: run kiosk journal verify"
    if found["payment"] is not None:
        yield f"last payment: {next(iter(_payments_words([found['payment']])))}"
    if found["in_doubt"]:
        yield f"{len(found['in_doubt'])} in doubt: kiosk cash in-doubt list"


def _payments_words(found: list[dict[str, Any]]) -> Iterable[str]:
    for each in found:
        due, got = (_money(each[name], each["currency"]) for name in ("amount_minor", "collected_minor"))
        more = [
            f"claim {claim['code']}: {_money(claim['amount_minor'], claim['currency'])}" for claim in each["claims"]
        ]
        if each["in_doubt_minor"]:
            more.append(f"in doubt {_money(each['in_doubt_minor'], each['currency'])}")
        yield "  ".join([each["created_at"], each["id"], each["state"], f"{got} of {due}", each["reference"], *more])
    if not found:
        yield "no payments"


def _claims_words(found: list[dict[str, Any]]) -> Iterable[str]:
    for each in found:
        amount, payment = _money(each["amount_minor"], each["currency"]), f"payment {each['payment_id'] or '-'}"
        yield f"{each['issued_at']}  {each['code']}  {amount:>14}  {each['reason']}  {payment}"
    if not found:
        yield "no claims"


def _doubts_words(found: list[dict[str, Any]]) -> Iterable[str]:
    for each in found:
        amount = _money(each["amount_minor"], each["currency"])
        payment = f"payment {each['payment_id'] or '-'}"
        yield f"{each['opened_at']}  {each['id']}  {amount}  {each['device']}  {each['reason']}  {payment}"
        if each["open"]:
            yield from (f"    {line}" for line in each["evidence"])
        else:
            yield f"    {each['outcome']} by {each['resolved_by']} at {each['resolved_at']}: {each['resolution']}"
    if not found:
        yield "nothing is in doubt"
