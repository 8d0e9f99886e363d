"""Who is calling: nonces and access tokens, both stateless, so that any process of the office can check them.

A nonce is `expiry | randomness | HMAC` bound to the kiosk; the kiosk signs it with its Ed25519 key (compact JWS) and
gets a short-lived access token (HS256 JWT). Only the office's clock is asked. Revocation does not wait for the token's
end: every call looks at the kiosk's row as well.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import warnings
from collections.abc import Callable
from uuid import UUID

from joserfc import jwt
from joserfc.errors import JoseError, SecurityWarning
from joserfc.jwk import OctKey, OKPKey

from agent.domain.ids import Randomness
from sync.central.problems import Refused
from sync.envelope import Refusal

AUDIENCE = "kiosk"
NONCE_RANDOM_BYTES = 16
_MAC_BYTES = 32


def derived(secret: bytes, purpose: str) -> bytes:
    """A key for one purpose, so that what is made for one never passes for another."""
    return hmac.digest(secret, f"kiosk-central/{purpose}/v1".encode(), "sha256")


class Tokens:
    """`now` gives seconds since 1970 by the office's clock."""

    def __init__(
        self, secret: bytes, *, token_ttl_s: int, nonce_ttl_s: int, now: Callable[[], float], randomness: Randomness
    ) -> None:
        self.token_ttl_s = token_ttl_s
        self.nonce_ttl_s = nonce_ttl_s
        self._now = now
        self._randomness = randomness
        self._nonce_key = derived(secret, "nonce")
        self._token_key = OctKey.import_key(derived(secret, "token"))

    def nonce(self, kiosk_id: UUID) -> str:
        expires = int(self._now()) + self.nonce_ttl_s
        body = expires.to_bytes(8, "big") + self._randomness(NONCE_RANDOM_BYTES)
        return base64.urlsafe_b64encode(body + self._mac(kiosk_id, body)).decode().rstrip("=")

    def check_assertion(self, kiosk_id: UUID, assertion: str, public_key: bytes) -> None:
        """Raises `Refused` unless `assertion` is this kiosk's signature over a nonce of ours that still lives."""
        key = OKPKey.import_key({"kty": "OKP", "crv": "Ed25519", "x": _unpadded(public_key)})
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", SecurityWarning)  # RFC 9864 renamed EdDSA; the contract says EdDSA
                claims = jwt.decode(assertion, key, algorithms=["EdDSA", "Ed25519"]).claims
        except (JoseError, ValueError) as error:
            raise _invalid("the assertion is not signed with this kiosk's key") from error
        if claims.get("sub") != str(kiosk_id):
            raise _invalid("the assertion names another kiosk")
        self._check_nonce(kiosk_id, claims.get("nonce"))

    def issue(self, kiosk_id: UUID) -> str:
        now = int(self._now())
        claims = {"sub": str(kiosk_id), "aud": AUDIENCE, "iat": now, "exp": now + self.token_ttl_s}
        return jwt.encode({"alg": "HS256"}, claims, self._token_key)

    def kiosk_of(self, authorization: str) -> UUID:
        """The kiosk that an `Authorization` header proves. Raises `Refused`."""
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise _invalid("a bearer token is needed")
        try:
            claims = jwt.decode(token.strip(), self._token_key, algorithms=["HS256"]).claims
            expires, audience, kiosk_id = claims["exp"], claims["aud"], UUID(claims["sub"])
        except (JoseError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise _invalid("the token is not one of ours") from error
        if audience != AUDIENCE or not isinstance(expires, int) or expires <= self._now():
            raise _invalid("the token has expired")
        return kiosk_id

    def _check_nonce(self, kiosk_id: UUID, nonce: object) -> None:
        try:
            raw = base64.urlsafe_b64decode(f"{nonce}==") if isinstance(nonce, str) else b""
        except (binascii.Error, ValueError):
            raw = b""
        body, mac = raw[:-_MAC_BYTES], raw[-_MAC_BYTES:]
        if len(body) != 8 + NONCE_RANDOM_BYTES or not hmac.compare_digest(mac, self._mac(kiosk_id, body)):
            raise _invalid("the nonce is not one of ours")
        if int.from_bytes(body[:8], "big") <= self._now():
            raise _invalid("the nonce has expired")

    def _mac(self, kiosk_id: UUID, body: bytes) -> bytes:
        return hmac.digest(self._nonce_key, kiosk_id.bytes + body, "sha256")


def _unpadded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _invalid(text: str) -> Refused:
    return Refused(Refusal.TOKEN_INVALID, text)
