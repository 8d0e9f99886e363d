"""Identifiers: UUIDv7 (RFC 9562, section 5.7), time-ordered; randomness and time are arguments."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

Randomness = Callable[[int], bytes]
"""Gives that many unpredictable bytes: `os.urandom` in production, a seeded generator in tests."""


_VERSION_7 = 0x7 << 76 | 0x2 << 62  # version and variant
_RANDOM = (1 << 80) - 1 & ~(0xF << 76) & ~(0x3 << 62)


def uuid7(unix_ms: int, random_bytes: bytes) -> UUID:
    """`unix_ms` milliseconds since 1970 UTC (clamped to 48 bits), `random_bytes` exactly 10 bytes."""
    if len(random_bytes) != 10:
        raise ValueError(f"uuid7 needs 10 random bytes, got {len(random_bytes)}")
    stamp = max(0, min(unix_ms, 2**48 - 1))
    return UUID(int=stamp << 80 | int.from_bytes(random_bytes, "big") & _RANDOM | _VERSION_7)


_CODE_ALPHABET = "23456789ABCDEFGHJKMNPQRSTUVWXYZ"  # no 0/O, 1/I/L: read aloud and typed by people


def claim_code(randomness: Randomness, length: int = 10) -> str:
    """A random code of `length` characters, ≈ 49.5 bits at 10; unbiased (rejection sampling)."""
    limit = 256 - 256 % len(_CODE_ALPHABET)
    code = ""
    while len(code) < length:
        code += "".join(_CODE_ALPHABET[byte % len(_CODE_ALPHABET)] for byte in randomness(length) if byte < limit)
    return code[:length]
