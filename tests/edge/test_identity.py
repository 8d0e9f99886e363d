"""The kiosk's identity file: written whole or not at all, for the agent's eyes only, and clear words when it is bad."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path

import pytest
from joserfc import jwt
from joserfc.errors import SecurityWarning
from joserfc.jwk import OKPKey

from sync.edge import identity as files
from sync.edge.identity import AlreadyEnrolled, Identity, IdentityInvalid, InsecureAddress, checked_url

KEY = bytes(range(32))
IDENTITY = Identity("k-1", "lobby", "https://office.example", KEY, ("age1office", "age1recovery"))


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    path = files.save(IDENTITY, tmp_path)
    assert files.load(tmp_path) == IDENTITY
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_kiosk_that_is_not_enrolled_has_none(tmp_path: Path) -> None:
    assert files.load(tmp_path) is None


def test_the_key_is_in_no_log_line() -> None:
    assert KEY.hex() not in repr(IDENTITY) and "private" not in repr(IDENTITY)


def test_nobody_is_enrolled_anew_by_accident(tmp_path: Path) -> None:
    files.save(IDENTITY, tmp_path)
    other = Identity("k-2", "bar", "https://office.example", KEY, ("age1office",))
    with pytest.raises(AlreadyEnrolled, match="--replace"):
        files.save(other, tmp_path)
    files.save(other, tmp_path, replace=True)
    assert files.load(tmp_path) == other


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666, 0o610])
def test_a_file_that_others_may_read_is_refused_with_the_cure(tmp_path: Path, mode: int) -> None:
    files.save(IDENTITY, tmp_path).chmod(mode)
    with pytest.raises(IdentityInvalid, match=r"--replace.*chmod 600"):
        files.load(tmp_path)


def test_a_link_is_refused(tmp_path: Path) -> None:
    """Another user of the machine must not point the agent at a file of his."""
    (tmp_path / "elsewhere").mkdir()
    files.save(IDENTITY, tmp_path / "elsewhere")
    (tmp_path / files.FILE_NAME).symlink_to(tmp_path / "elsewhere" / files.FILE_NAME)
    with pytest.raises(IdentityInvalid, match="cannot be opened"):
        files.load(tmp_path)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / files.FILE_NAME).mkdir(mode=0o700)
    with pytest.raises(IdentityInvalid, match="not a regular file"):
        files.load(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"private_key": "AAAA"},
        {"private_key": "no base64 at all ü"},
        {"private_key": 7},
        {"recipients": "age1office"},
        {"recipients": [1]},
        {"kiosk_id": None, "private_key": None},
    ],
)
def test_a_damaged_file_is_named_with_the_cure(tmp_path: Path, change: dict[str, object]) -> None:
    path = files.save(IDENTITY, tmp_path)
    files.write_private(path, {**json.loads(path.read_text()), **change})
    with pytest.raises(IdentityInvalid, match=r"identity\.json"):
        files.load(tmp_path)


@pytest.mark.parametrize("cut", [0, 1, 40, -2, -9])
def test_a_torn_file_is_never_taken_for_an_identity(tmp_path: Path, cut: int) -> None:
    path = files.save(IDENTITY, tmp_path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(IdentityInvalid, match="damaged"):
        files.load(tmp_path)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = files.save(IDENTITY, tmp_path)

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        files.save(Identity("k-2", "bar", "https://office.example", KEY, ()), tmp_path, replace=True)
    assert files.load(tmp_path) == IDENTITY
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "url, kept",
    [
        ("https://office.example", "https://office.example"),
        ("https://office.example/", "https://office.example"),
        (" https://office.example:8443/kiosks/ ", "https://office.example:8443/kiosks"),
        ("http://127.0.0.1:8006", "http://127.0.0.1:8006"),
        ("http://localhost:8006/", "http://localhost:8006"),
        ("http://[::1]:8006", "http://[::1]:8006"),
        ("http://127.8.9.10", "http://127.8.9.10"),
    ],
)
def test_addresses_that_are_safe(url: str, kept: str) -> None:
    assert checked_url(url) == kept


@pytest.mark.parametrize(
    "url",
    [
        "http://office.example",
        "http://10.0.0.5:8006",
        "http://localhost.evil.example",
        "http://127.0.0.1.nip.io",
        "http://0.0.0.0:8006",
        "ftp://office.example",
        "office.example",
        "https://",
        "https://user:secret@office.example",
        "https://office.example?x=1",
        "https://office.example#top",
        "",
    ],
)
def test_addresses_that_would_tell_the_world(url: str, tmp_path: Path) -> None:
    with pytest.raises(InsecureAddress) as caught:
        checked_url(url)
    assert "secret" not in caught.value.message
    path = files.save(IDENTITY, tmp_path)
    files.write_private(path, {**json.loads(path.read_text()), "central_url": url})
    with pytest.raises(InsecureAddress):
        files.load(tmp_path)


def test_the_assertion_is_a_signed_jwt_of_the_contract() -> None:
    """Written by hand to save memory; a library that knows better reads it."""
    key = OKPKey.import_key({"kty": "OKP", "crv": "Ed25519", "x": IDENTITY.public_key})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SecurityWarning)
        token = jwt.decode(IDENTITY.assertion("the nonce"), key, algorithms=["EdDSA"])
    assert token.claims == {"sub": "k-1", "nonce": "the nonce"}
    assert token.header == {"alg": "EdDSA", "typ": "JWT"}


def test_fresh_keys_differ() -> None:
    assert files.new_private_key() != files.new_private_key()


def test_a_pending_enrolment_that_cannot_be_read_is_no_obstacle(tmp_path: Path) -> None:
    assert files.load_pending(tmp_path) is None
    (tmp_path / files.PENDING_NAME).write_text("{")
    assert files.load_pending(tmp_path) is None  # also open to others
    (tmp_path / files.PENDING_NAME).chmod(0o600)
    assert files.load_pending(tmp_path) is None
    (tmp_path / files.PENDING_NAME).write_text("[]")
    assert files.load_pending(tmp_path) is None
