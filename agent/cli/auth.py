"""`kiosk auth`: the first admin, and who may log in. Over the control socket while the daemon runs; when it is stopped,
on the kiosk's file under its lock. Both are for root and the agent's own account, which own that file."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Iterable
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agent.cli.client import Daemon, daemon, is_running, offline_store, settings
from agent.domain.errors import KioskError, NotFound

if TYPE_CHECKING:
    from agent.api.auth.people import People

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Users of this kiosk; make the first admin.")

Json = Annotated[bool, typer.Option("--json", help="JSON instead of words.")]
PinStdin = Annotated[bool, typer.Option("--pin-stdin", help="Read the PIN or password from standard input.")]
Name = Annotated[str, typer.Argument(help="Name to log in with.")]


class StaffRole(Enum):
    TECHNICIAN = "technician"
    COLLECTOR = "collector"
    ADMIN = "admin"


class PinsDiffer(KioskError):
    code = "pins_differ"


@app.command()
def init(name: Name = "admin", pin_stdin: PinStdin = False, as_json: Json = False) -> None:
    """Make the first admin; refused when there is one. There is no default password.

    Example: kiosk auth init anna
    """
    secret = _secret(name, pin_stdin)
    user = _ask(
        lambda kiosk: kiosk.post("/auth/first-admin", {"name": name, "secret": secret}),
        lambda people: _made(people, lambda actor: people.add_first_admin(name, secret, actor=actor)),
    )
    _say(user, as_json, [f"{user['name']} is the first admin"])


@app.command(name="list")
def list_users(as_json: Json = False) -> None:
    """Everybody who may log in at this kiosk.

    Example: kiosk auth list --json
    """
    users = _ask(lambda kiosk: kiosk.get("/auth/users")["users"], _listed)
    _say(users, as_json, map(_line, users) if users else ["nobody yet: kiosk auth init"])


@app.command()
def add(
    name: Name,
    role: Annotated[StaffRole, typer.Option(help="What they may do.")],
    pin_stdin: PinStdin = False,
    as_json: Json = False,
) -> None:
    """Add a user.

    Example: kiosk auth add kim --role technician
    """
    from agent.api.auth.caller import Role

    secret = _secret(name, pin_stdin)
    body = {"name": name, "role": role.value, "secret": secret}
    user = _ask(
        lambda kiosk: kiosk.post("/auth/users", body),
        lambda people: _made(people, lambda actor: people.add(name, Role(role.value), secret, actor=actor)),
    )
    _say(user, as_json, [f"{user['name']} is a {user['role']} now"])


@app.command()
def unlock(name: Name, as_json: Json = False) -> None:
    """Forget the failed logins of a user, so that they may try again at once.

    Example: kiosk auth unlock kim
    """

    def running(kiosk: Daemon) -> Any:
        user = _named(name, kiosk.get("/auth/users")["users"])
        kiosk.post(f"/auth/users/{user['id']}/unlock")
        return user

    async def stopped(people: People) -> Any:
        user = _named(name, await _listed(people))
        await people.unlock(user["id"], actor=_actor())
        return user

    user = _ask(running, stopped)
    _say({**user, "locked_for_s": 0}, as_json, [f"{user['name']} may log in again"])


def _ask(running: Callable[[Daemon], Any], stopped: Callable[[People], Awaitable[Any]]) -> Any:
    config = settings()
    if is_running(config):
        with daemon(config) as kiosk:
            return running(kiosk)
    import os

    from agent.api.auth.people import People
    from agent.api.auth.secrets import DEFAULT_COST, Secrets
    from agent.runtime.clock import SystemClock

    async def work(people: People) -> Any:
        return await stopped(people)

    with offline_store(config) as store:
        secrets = Secrets(DEFAULT_COST)
        try:
            return asyncio.run(work(People(store, SystemClock(), os.urandom, secrets)))
        finally:
            secrets.close()


async def _made(people: People, make: Callable[[str], Awaitable[Any]]) -> Any:
    made = await make(_actor())
    return _plain(people.one(made.id))


async def _listed(people: People) -> list[Any]:
    return [_plain(each) for each in people.everybody()]


def _plain(listed: Any) -> Any:
    from agent.api.auth.schemas import UserOut

    return UserOut.of(listed).model_dump(mode="json")


def _actor() -> str:
    import os

    return f"cli:{os.getuid()}"


def _named(name: str, users: Iterable[Any]) -> Any:
    from agent.api.auth.lockout import name_key

    for user in users:
        if name_key(user["name"]) == name_key(name):
            return user
    raise NotFound(f"there is no user {name}")


def _secret(name: str, from_stdin: bool) -> str:
    """Typed twice on a terminal, or one line of standard input; never an argument, which other users could read."""
    from agent.api.auth.secrets import check_secret

    if from_stdin:
        secret = sys.stdin.readline().rstrip("\r\n")
    else:
        secret = str(typer.prompt(f"PIN or password for {name}", hide_input=True))
        check_secret(secret, name)
        if typer.prompt("Once more", hide_input=True) != secret:
            raise PinsDiffer("the two entries differ; nothing was changed")
    check_secret(secret, name)
    return secret


def _line(user: Any) -> str:
    locked = f", locked for {user['locked_for_s']} s" if user["locked_for_s"] else ""
    return f"{user['name']}: {user['role']}{locked}"


def _say(found: Any, as_json: bool, words: Iterable[str]) -> None:
    typer.echo(json.dumps(found, ensure_ascii=False) if as_json else "\n".join(words))
