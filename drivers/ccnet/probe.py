"""Is there a CCNET validator on this line? Asks only what changes nothing: POLL and IDENTIFICATION, never RESET."""

from __future__ import annotations

from agent.domain.clock import Clock
from drivers.ccnet.codec import Decoder, Direction, Frame
from drivers.ccnet.messages import ILLEGAL, NAK, Command, Identification, Status, model_of
from drivers.ccnet.requests import Request
from drivers.ccnet.settings import CcnetSettings
from drivers.ports import DeviceInfo, DeviceState, Link

ATTEMPTS = 2


async def probe(link: Link, *, clock: Clock, settings: CcnetSettings) -> DeviceInfo | None:
    """Who answers, or None. Replies are not acknowledged, so the device forgets nothing: an event that waits for its
    ACK is said again to the driver. Identification is only known in some states, so model and serial may be empty.
    """
    status = await _ask(link, Request(Command.POLL), clock, settings)
    if status is None:
        return None
    who = await _ask(link, Request(Command.IDENTIFICATION), clock, settings)
    known = Identification.parse(who.data) if who is not None and who.control is None else Identification("", "", "")
    names = {each.value: each.label for each in Status}
    return DeviceInfo(
        DeviceState.STARTING,
        "ccnet",
        model=model_of(known.part_number),
        serial=known.serial,
        detail=names.get(status.data[0], f"status {status.data[0]:02X}"),
    )


async def _ask(link: Link, request: Request, clock: Clock, settings: CcnetSettings) -> Frame | None:
    """The first sound answer to `request`; a refusal counts as an answer, our own echo does not."""
    frame = request.frame(settings.address)
    for _ in range(ATTEMPTS):
        decoder = Decoder(Direction.DEVICE, settings.address)
        await link.discard_input()
        await link.write(frame.encode(Direction.HOST))
        deadline = clock.monotonic() + settings.reply_timeout_ms / 1000
        while (left := deadline - clock.monotonic()) > 0:
            data = await link.read(min(left, settings.gap_ms / 1000) if decoder.buffered else left)
            for item in decoder.feed(data) if data else decoder.flush():
                if isinstance(item, Frame) and item != frame and request.fits(item):
                    if item.control in (NAK, ILLEGAL) and request.command is Command.POLL:
                        continue  # something speaks, but no status: not proof enough
                    return item
    return None
