"""Every error of the product: a stable `code`, what HTTP status it maps to, and whether trying again can help.

The message says what was wrong and what to do. Codes are part of the API: add, never rename.
"""

from __future__ import annotations

from typing import ClassVar


class KioskError(Exception):
    """Base of all our errors. `details` holds JSON-able facts for the problem document; never secrets."""

    code: ClassVar[str] = "internal_error"
    http_status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, **details: object) -> None:
        super().__init__(message)
        self.message = message
        self.details = details


class DomainError(KioskError):
    """A rule of the product was asked to bend."""

    code = "domain_error"
    http_status = 409


class InvalidMoney(DomainError):
    code = "invalid_money"
    http_status = 422


class CurrencyMismatch(DomainError):
    code = "currency_mismatch"
    http_status = 422


class UnbalancedEntries(DomainError):
    """Ledger entries of one event do not sum to zero per currency: a defect of ours, never of the input."""

    code = "unbalanced_entries"
    http_status = 500


class IllegalTransition(DomainError):
    """A payment (or claim, or doubt) is not in a state in which this can happen."""

    code = "illegal_transition"


class NotFound(DomainError):
    code = "not_found"
    http_status = 404


class StoreError(KioskError):
    """The kiosk's own file cannot be trusted or written; acceptors are inhibited until it can."""

    code = "store_error"
    http_status = 503
    retryable = True


class DeviceError(KioskError):
    code = "device_error"
    http_status = 502
    retryable = True


class TransportError(DeviceError):
    """The port could not be opened, was unplugged, or failed while reading or writing."""

    code = "device_transport"


class ProtocolError(DeviceError):
    """What answers on the port does not speak the configured protocol."""

    code = "device_protocol"


class DeviceFault(DeviceError):
    """The device reports that it cannot work (jam, motor, cassette out, …)."""

    code = "device_fault"


class OutcomeUnknown(DeviceError):
    """The device was told to move money and cannot say what it did. Never repeat; a person decides."""

    code = "outcome_unknown"
    retryable = False


class SyncError(KioskError):
    code = "sync_error"
    http_status = 502
    retryable = True


class CentreUnavailable(SyncError):
    """The office did not answer, or answered 5xx/429; try again later with back-off."""

    code = "centre_unavailable"
    http_status = 503


class BatchRefused(SyncError):
    """The office refused a batch and says why in `details['reason']`; the same bytes would be refused again."""

    code = "batch_refused"
    retryable = False


class ConfigError(KioskError):
    """A setting is unknown or impossible; the start stops with a line that says which and why."""

    code = "config_invalid"
