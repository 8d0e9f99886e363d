"""Enrolment, nonces, tokens: who may speak, for how long, and that nobody gets two kiosks out of one code."""

import asyncio
import os
from datetime import timedelta
from uuid import UUID, uuid4

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from joserfc import jwt
from joserfc.jwk import OctKey

from sync import envelope as wire
from sync.central import enrolment
from sync.central.problems import Refused
from sync.central.tokens import Tokens, derived
from tests.central.kiosks import Journal, Kiosk, enroll, unpadded
from tests.central.test_ingest import code_of
from tests.servers import Centre

SECRET = b"s" * 40


class Time:
    now = 1_790_000_000.0


def tokens(time: Time, secret: bytes = SECRET) -> Tokens:
    return Tokens(secret, token_ttl_s=600, nonce_ttl_s=60, now=lambda: time.now, randomness=os.urandom)


def test_a_token_ends_and_only_the_offices_clock_counts() -> None:
    time, kiosk_id = Time(), uuid4()
    issuer = tokens(time)
    token = f"Bearer {issuer.issue(kiosk_id)}"
    time.now += 599
    assert issuer.kiosk_of(token) == kiosk_id
    time.now += 1
    with pytest.raises(Refused, match="expired"):
        issuer.kiosk_of(token)


def test_forged_tokens_are_refused() -> None:
    time, kiosk_id = Time(), uuid4()
    issuer = tokens(time)
    claims = {"sub": str(kiosk_id), "aud": "kiosk", "exp": int(time.now) + 60}
    right = OctKey.import_key(derived(SECRET, "token"))
    bad = [
        tokens(time, b"other" * 8).issue(kiosk_id),
        jwt.encode({"alg": "HS256"}, claims, OctKey.import_key(derived(SECRET, "nonce"))),
        jwt.encode({"alg": "HS256"}, {**claims, "aud": "office"}, right),
        jwt.encode({"alg": "HS256"}, {**claims, "exp": "later"}, right),
        jwt.encode({"alg": "HS256"}, {**claims, "sub": "nobody"}, right),
        jwt.encode({"alg": "HS256"}, {"sub": str(kiosk_id)}, right),
        unpadded(b'{"alg":"none"}') + "." + unpadded(b'{"sub":"x"}') + ".",
        "a.b.c",
        "é" * 10,
    ]
    for header in ["", "Bearer", "Bearer ", f"Basic {issuer.issue(kiosk_id)}", *(f"Bearer {each}" for each in bad)]:
        with pytest.raises(Refused):
            issuer.kiosk_of(header)


def test_a_nonce_is_bound_to_its_kiosk_and_its_minute() -> None:
    time, key = Time(), Ed25519PrivateKey.generate()
    issuer, kiosk = tokens(time), Kiosk(httpx.AsyncClient(), key, str(uuid4()))
    kiosk_id, public = UUID(kiosk.kiosk_id), key.public_key().public_bytes_raw()
    nonce = issuer.nonce(kiosk_id)
    issuer.check_assertion(kiosk_id, kiosk.assertion(nonce), public)
    refused = [
        kiosk.assertion(issuer.nonce(uuid4())),  # another kiosk's nonce
        kiosk.assertion(tokens(time, b"other" * 8).nonce(kiosk_id)),  # another office's
        kiosk.assertion(nonce, key=Ed25519PrivateKey.generate()),
        kiosk.assertion(nonce, sub=str(uuid4())),
        kiosk.assertion(nonce[:-2]),
        kiosk.assertion(""),
        kiosk.assertion("é!"),
        nonce,
        "",
    ]
    for assertion in refused:
        with pytest.raises(Refused):
            issuer.check_assertion(kiosk_id, assertion, public)
    time.now += 60
    with pytest.raises(Refused, match="nonce has expired"):
        issuer.check_assertion(kiosk_id, kiosk.assertion(nonce), public)


async def test_a_code_enrols_one_kiosk_even_when_many_race(centre: Centre, client: httpx.AsyncClient) -> None:
    code = await centre.code("Lobby")
    keys = [Ed25519PrivateKey.generate() for _ in range(12)]
    answers = await asyncio.gather(*(enroll(client, code, key) for key in keys))
    assert sorted(answer.status_code for answer in answers) == [200] + [403] * 11
    assert {code_of(answer) for answer in answers if answer.status_code == 403} == {"enrolment_refused"}
    assert await centre.all("SELECT name FROM kiosks") == [("Lobby",)]


async def test_the_same_code_and_key_again_is_the_same_answer(centre: Centre, client: httpx.AsyncClient) -> None:
    """The first answer may have been lost on its way."""
    code, key = await centre.code("Bar"), Ed25519PrivateKey.generate()
    first = await enroll(client, code.lower().replace("-", " "), key)
    assert first.json() == (await enroll(client, code, key)).json()
    assert (first.json()["name"], len(first.json()["recipients"])) == ("Bar", 2)


async def test_wrong_used_and_expired_codes(centre: Centre, client: httpx.AsyncClient) -> None:
    key = Ed25519PrivateKey.generate()
    assert code_of(await enroll(client, "ABCD-EFGH-JKMN", key)) == "enrolment_refused"
    async with centre.pool.connection() as connection:
        late, _, _ = await enrolment.make_code(connection, "x", timedelta(seconds=-1), os.urandom)
    assert code_of(await enroll(client, late, key)) == "enrolment_refused"
    code = await centre.code()
    for public in ("", "zz", unpadded(bytes(31)), "é"):
        body = {"code": code, "public_key": public, "agent_version": "1"}
        assert code_of(await client.post(wire.PATH_ENROLL, json=body)) == "enrolment_refused"
    assert (await enroll(client, code, key)).status_code == 200
    assert await centre.one("SELECT count(*) FROM enrolment_codes WHERE code_hash = %s", code.encode()) == 0


async def test_a_token_that_the_office_does_not_know_is_401(centre: Centre, kiosk: Kiosk) -> None:
    journal = Journal.opened()
    kiosk.token = Tokens(b"x" * 40, token_ttl_s=60, nonce_ttl_s=60, now=lambda: 0, randomness=os.urandom).issue(uuid4())
    refused = await kiosk.send(journal)
    assert (code_of(refused), refused.status_code) == ("token_invalid", 401)
    await kiosk.login()
    assert (await kiosk.send(journal)).status_code == 200
    assert code_of(await kiosk.ask_token("nonsense")) == "token_invalid"


async def test_ids_that_are_none_are_unknown_kiosks(client: httpx.AsyncClient) -> None:
    answer = await client.post(wire.PATH_CHALLENGE, json={"kiosk_id": "x"})
    assert code_of(answer) == "unknown_kiosk"
