"""PINs and passwords: which are too weak, and argon2id off the event loop in a bounded number of threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import ClassVar, TypeVar

from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher

from agent.domain.errors import KioskError

T = TypeVar("T")
PIN_MIN = 6
PASSWORD_MIN = 8
SECRET_MAX = 128
_DIGITS = "0123456789"


class WeakSecret(KioskError):
    code: ClassVar[str] = "weak_secret"
    http_status: ClassVar[int] = 422


class TooBusy(KioskError):
    code: ClassVar[str] = "too_busy"
    http_status: ClassVar[int] = 503
    retryable: ClassVar[bool] = True


def check_secret(secret: str, name: str) -> None:
    """Raises `WeakSecret`. Digits alone are a PIN: lock-out guards it, so length and no pattern are enough."""
    if len(secret) > SECRET_MAX:
        raise WeakSecret(f"At most {SECRET_MAX} characters.")
    if secret.isascii() and secret.isdigit():
        if len(secret) < PIN_MIN:
            raise WeakSecret(f"A PIN has at least {PIN_MIN} digits.")
        doubled = _DIGITS * (len(secret) // 10 + 2)
        if len(set(secret)) < 3 or secret in doubled or secret in doubled[::-1]:
            raise WeakSecret("This PIN is one of the first that people try.")
    elif len(secret) < PASSWORD_MIN:
        raise WeakSecret(f"A password has at least {PASSWORD_MIN} characters (a PIN of digits at least {PIN_MIN}).")
    if name.casefold() in secret.casefold():
        raise WeakSecret("The name must not be part of the secret.")


@dataclass(frozen=True, slots=True)
class Cost:
    """Argon2id parameters. Measured on the development VM: about 0.1 s a hash; a weak kiosk PC needs about 0.5 s."""

    memory_kib: int = 65_536
    passes: int = 3
    lanes: int = 1


DEFAULT_COST = Cost()


class Secrets:
    """`waiting_max` bounds the queue: guessing in masses is answered `too_busy` and never fills the memory."""

    def __init__(self, cost: Cost, threads: int = 2, waiting_max: int = 16) -> None:
        hasher = Argon2Hasher(time_cost=cost.passes, memory_cost=cost.memory_kib, parallelism=cost.lanes)
        self._hash = PasswordHash((hasher,))
        head = f"$argon2id$v=19$m={cost.memory_kib},t={cost.passes},p={cost.lanes}$"
        self._nobody = f"{head}{'A' * 22}${'A' * 43}"  # verifying takes as long as with a real hash
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="argon2")
        self._waiting = 0
        self._waiting_max = waiting_max

    async def hash(self, secret: str) -> str:
        return await self._run(lambda: self._hash.hash(secret))

    async def verify(self, secret: str, stored: str | None) -> bool:
        """Whether `secret` is the one of `stored`; takes the same time for None, which is nobody's."""
        right = await self._run(lambda: self._hash.verify(secret, stored or self._nobody))
        return right and stored is not None

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _run(self, work: Callable[[], T]) -> T:
        if self._waiting >= self._waiting_max:
            raise TooBusy("Too many logins at once; try again in a moment.", retry_after_s=1)
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self._waiting -= 1
