"""People: the first admin, users managed by admins, and what the journal and the table keep of them."""

import pytest
from fastapi import APIRouter, Depends

from agent.api.auth.caller import require
from agent.api.auth.users import USERS_MAX
from tests.api.conftest import OWNER, PIN, Kiosk, KioskMaker

AUTH = "/api/v1/auth"


async def test_there_is_no_default_user(kiosk: Kiosk) -> None:
    with kiosk.store.read() as reader:
        assert reader.all("SELECT * FROM users") == []


async def test_the_first_admin_is_made_on_the_control_socket_once(kiosk: Kiosk) -> None:
    body = {"name": "root", "secret": PIN}
    async with kiosk.client() as client:
        assert (await client.post(f"{AUTH}/first-admin", json=body)).status_code == 403
    async with kiosk.client(uid=4711) as stranger:
        assert (await stranger.post(f"{AUTH}/first-admin", json=body)).status_code == 403
        assert (await stranger.get(f"{AUTH}/me")).status_code == 401
    async with kiosk.client(uid=OWNER) as owner:
        made = await owner.post(f"{AUTH}/first-admin", json=body)
        assert (made.status_code, made.json()["role"]) == (201, "admin")
        again = await owner.post(f"{AUTH}/first-admin", json={"name": "other", "secret": PIN})
        assert (again.status_code, again.json()["code"]) == (409, "admin_exists")
        assert (await owner.get(f"{AUTH}/me")).json()["actor"] == f"cli:{OWNER}"


async def test_users_are_managed_by_admins_only(kiosk: Kiosk) -> None:
    admin = await kiosk.as_user("admin")
    body = {"name": "Kim", "role": "technician", "secret": PIN}
    for role in ("ui", "technician", "collector"):
        client = await kiosk.as_user(role)
        assert (await client.get(f"{AUTH}/users")).status_code == 403
        assert (await client.post(f"{AUTH}/users", json=body)).status_code == 403
    async with kiosk.client() as client:
        assert (await client.post(f"{AUTH}/users", json=body)).status_code == 401
    kim = (await admin.post(f"{AUTH}/users", json=body)).json()
    assert (kim["name"], kim["role"]) == ("Kim", "technician")
    assert (await admin.get(f"{AUTH}/users/{kim['id']}")).json() == kim
    twice = await admin.post(f"{AUTH}/users", json={**body, "name": " kIM "})
    assert (twice.status_code, twice.json()["code"]) == (409, "name_taken")
    changed = await admin.patch(f"{AUTH}/users/{kim['id']}", json={"role": "collector"})
    assert changed.json()["role"] == "collector"
    assert (await admin.delete(f"{AUTH}/users/{kim['id']}")).status_code == 204
    assert (await admin.get(f"{AUTH}/users/{kim['id']}")).status_code == 404
    for method, path in (("DELETE", ""), ("POST", "/unlock")):
        assert (await admin.request(method, f"{AUTH}/users/{kim['id']}{path}")).status_code == 404
    wanted = ["auth.user.added", "auth.user.changed", "auth.user.removed"]
    assert [each for each in kiosk.types() if each in wanted][-3:] == wanted


async def test_a_changed_role_or_pin_or_a_removal_ends_the_users_sessions(kiosk: Kiosk) -> None:
    admin = await kiosk.as_user("admin")
    for change in ({"role": "collector"}, {"secret": "913377"}, None):
        name = f"user of {change}"
        client = await kiosk.as_user("technician", name)
        user_id = (await client.get(f"{AUTH}/me")).json()["user_id"]
        path = f"{AUTH}/users/{user_id}"
        answer = await (admin.patch(path, json=change) if change else admin.delete(path))
        assert answer.is_success, answer.text
        assert (await client.get(f"{AUTH}/me")).status_code == 401
        assert (await client.post(f"{AUTH}/refresh")).status_code == 401


async def test_the_last_admin_stays(kiosk: Kiosk) -> None:
    admin = await kiosk.as_user("admin")
    me = (await admin.get(f"{AUTH}/me")).json()["user_id"]
    for answer in (
        await admin.delete(f"{AUTH}/users/{me}"),
        await admin.patch(f"{AUTH}/users/{me}", json={"role": "technician"}),
    ):
        assert (answer.status_code, answer.json()["code"]) == (409, "last_admin")
    assert (await admin.get(f"{AUTH}/me")).status_code == 200, "a refused change ends no session"
    await kiosk.as_user("admin", "second")
    assert (await admin.delete(f"{AUTH}/users/{me}")).status_code == 204


async def test_a_weak_pin_changes_nothing_else_either(kiosk: Kiosk) -> None:
    admin = await kiosk.as_user("admin")
    client = await kiosk.as_user("technician", "Kim")
    kim = (await client.get(f"{AUTH}/me")).json()["user_id"]
    answer = await admin.patch(f"{AUTH}/users/{kim}", json={"role": "admin", "secret": "111111"})
    assert answer.json()["code"] == "weak_secret"
    assert (await client.get(f"{AUTH}/me")).json()["role"] == "technician"


async def test_names_and_secrets_are_in_no_journal_row_and_secrets_not_in_the_file(kiosk: Kiosk) -> None:
    client = await kiosk.as_user("technician", "Annegret", "correct horse battery")
    await client.post(f"{AUTH}/password", json={"current": "correct horse battery", "new": "staple of batteries"})
    with kiosk.store.read() as reader:
        rows = reader.rows(0, 1000)
        users = reader.all("SELECT * FROM users")
    assert not any(b"Annegret" in row.body or "Annegret" in row.actor + row.subject for row in rows)
    assert all(user["secret_hash"].startswith("$argon2id$") for user in users)
    everything = b"".join(path.read_bytes() for path in kiosk.folder.iterdir() if path.is_file())
    for secret in (b"correct horse battery", b"staple of batteries"):
        assert secret not in everything


@pytest.mark.parametrize("name", ["", "   ", "a\x00b", "x" * 65, "line\nbreak", "\u202eevil"])
async def test_names_are_readable(kiosk: Kiosk, name: str) -> None:
    admin = await kiosk.as_user("admin")
    answer = await admin.post(f"{AUTH}/users", json={"name": name, "role": "collector", "secret": PIN})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["at"] == "body.name"


async def test_a_person_is_never_a_ui_and_unknown_fields_are_refused(kiosk: Kiosk) -> None:
    admin = await kiosk.as_user("admin")
    for extra in ({"role": "ui"}, {"role": "collector", "is_admin": True}):
        body = {"name": "x", "secret": PIN, **extra}
        assert (await admin.post(f"{AUTH}/users", json=body)).status_code == 422


async def test_the_number_of_users_is_bounded(kiosk: Kiosk) -> None:
    admin = await kiosk.as_user("admin")
    with kiosk.store.read() as reader:
        row = dict(reader.all("SELECT * FROM users")[0])

    def fill(tx: object) -> None:
        for number in range(USERS_MAX - 1):
            values = {**row, "id": f"id-{number}", "name": f"n{number}", "name_key": f"n{number}"}
            tx.execute(f"INSERT INTO users VALUES ({', '.join('?' * len(values))})", *values.values())  # type: ignore[attr-defined]

    await kiosk.store.transact(fill, actor="test")
    answer = await admin.post(f"{AUTH}/users", json={"name": "one more", "role": "collector", "secret": PIN})
    assert (answer.status_code, answer.json()["code"]) == (409, "too_many_users")


async def test_users_survive_a_rebuild_of_the_projections(kiosk_at: KioskMaker) -> None:
    async with kiosk_at() as kiosk:
        await kiosk.first_admin()
        await kiosk.store.rebuild()
        async with kiosk.client() as client:
            assert (await client.post(f"{AUTH}/login", json={"name": "root", "secret": PIN})).status_code == 200


async def test_what_moves_money_asks_for_a_pin_even_of_root_on_the_control_socket(kiosk_at: KioskMaker) -> None:
    router = APIRouter()

    @router.get("/till")
    def till(actor: str = Depends(require("ui", "technician", pin=True))) -> str:
        return actor

    async with kiosk_at(routers=[router]) as kiosk:
        technician = await kiosk.as_user("technician", "Kim")
        actor = (await technician.get("/api/v1/till")).json()
        assert actor.startswith("user:")
        screen = await kiosk.as_user("ui")
        assert (await screen.get("/api/v1/till")).json() == "ui"
        collector = await kiosk.as_user("collector")
        assert (await collector.get("/api/v1/till")).json()["code"] == "role_not_allowed"
        async with kiosk.client(uid=OWNER) as root:
            refused = await root.get("/api/v1/till")
            assert (refused.status_code, refused.json()["code"]) == (401, "pin_required")
            body = {"name": "Kim", "secret": PIN, "as": "bearer"}
            token = (await root.post(f"{AUTH}/login", json=body)).json()["access_token"]
            answer = await root.get("/api/v1/till", headers={"Authorization": f"Bearer {token}"})
            assert answer.json() == actor


def test_a_role_that_does_not_exist_is_found_at_start() -> None:
    with pytest.raises(ValueError, match="root"):
        require("root")
