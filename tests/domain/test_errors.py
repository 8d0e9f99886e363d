"""Errors are part of the API: each has its own stable code, an HTTP status and a message with details."""

from collections.abc import Iterator

from agent.domain import errors
from agent.domain.errors import KioskError


def every(kind: type[KioskError]) -> Iterator[type[KioskError]]:
    yield kind
    for sub in kind.__subclasses__():
        yield from every(sub)


def test_codes_are_unique_snake_case_and_statuses_are_errors() -> None:
    ours = {kind for kind in every(KioskError) if kind.__module__ == errors.__name__}
    assert len({kind.code for kind in ours}) == len(ours)
    for kind in ours:
        assert kind.code == kind.code.lower()
        assert 400 <= kind.http_status <= 599


def test_an_error_carries_its_message_and_its_facts() -> None:
    error = errors.NotFound("there is no payment 7", payment_id="7")
    assert (str(error), error.message, error.details) == (error.message, "there is no payment 7", {"payment_id": "7"})
