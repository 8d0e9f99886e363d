"""What the cash API refuses, each with a stable code."""

from __future__ import annotations

from agent.domain.errors import DomainError, KioskError


class PaymentInProgress(DomainError):
    """One kiosk collects one payment at a time; `details['payment_id']` names the open one."""

    code = "payment_in_progress"


class AcceptanceInhibited(KioskError):
    """The kiosk must not take money now; `details['reasons']` says why. It recovers by itself."""

    code = "acceptance_inhibited"
    http_status = 503
    retryable = True


class NoAcceptor(DomainError):
    """No acceptor for this currency is ready."""

    code = "no_acceptor"


class NoCurrentPayment(DomainError):
    code = "no_current_payment"
    http_status = 404


class AmountTooLarge(DomainError):
    code = "amount_too_large"
    http_status = 422


class TimeoutTooLong(DomainError):
    code = "timeout_too_long"
    http_status = 422


class AmountReached(DomainError):
    """The last note came first: the payment completes and cannot be cancelled any more."""

    code = "amount_reached"


class PartialNotAllowed(DomainError):
    code = "partial_not_allowed"


class NothingCollected(DomainError):
    code = "nothing_collected"


class ExtensionLimit(DomainError):
    code = "extension_limit"


class DoubtAlreadyResolved(DomainError):
    code = "doubt_already_resolved"


class NoteAlreadyBooked(DomainError):
    """The device has reported this note as stacked after all: it must not be booked twice."""

    code = "note_already_booked"


class AmountNeeded(DomainError):
    """The doubt names no amount, so the person must."""

    code = "amount_needed"
    http_status = 422


class AmountDiffers(DomainError):
    code = "amount_differs"
    http_status = 422


class ExplanationInvalid(DomainError):
    """`explained_by_seq` must be the journal row of a note stacked by the same device."""

    code = "explanation_invalid"
    http_status = 422


class PersonNeeded(KioskError):
    """Deciding about money takes a person who has logged in, not an account of the machine."""

    code = "person_needed"
    http_status = 403
