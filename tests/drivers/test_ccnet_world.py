"""Random conversations, restarts and power cuts: what is credited is what lies in the box."""

import random
from collections.abc import Callable

import pytest

from agent.domain import events as ev
from tests.drivers.world import Crash, World, spoiler

NOTES = ("insert 10", "insert 50", "insert 100", "insert 500", "insert 1000", "insert unknown")
MISHAPS = (
    "pull",
    "jam validator soft",
    "jam stacker soft",
    "jam validator",
    "fail stack_motor soft",
    "second-bill",
    "clear",
    "remove stacker",
    "insert stacker",
    "fill stacker",
    "empty stacker",
    "reject inhibit",
    "busy 5",
    "power-cut",
    "power-on",
    "power-cut at-byte 3",
    "power-cut at-byte 9 heard",
    "fault bad-crc 2",
    "fault lost-ack 2",
    "fault silence 3",
    "fault noise 9",
    "fault nak 2",
)


def random_world(seed: int, *, remembers: bool) -> World:
    dice = random.Random(seed)

    def crash_at(point: str) -> None:
        if dice.random() < 0.02:
            raise Crash

    world = World(
        {"remembers_event": remembers, "seed": seed, "speed": dice.choice((1, 5, 30))},
        decide=lambda note: dice.choice(("stack", "stack", "stack", "return", "wait")),
        crash_at=crash_at,
        spoil=spoiler(dice, dice.choice((0.0, 0.02, 0.2))),
    )
    for _ in range(dice.randrange(5, 40)):
        world.do(dice.choice(NOTES))
        if dice.random() < 0.35:
            world.do(dice.choice(MISHAPS))
        if dice.random() < 0.05:
            world.restart()
        for _ in range(dice.randrange(1, 40)):
            world.turn()
    world.settle()
    return world


@pytest.mark.parametrize("remembers", [True, False])
def test_random_histories_credit_what_lies_in_the_box(remembers: bool, scale: Callable[[int, int], int]) -> None:
    for seed in range(scale(60, 20_000)):
        try:
            random_world(seed, remembers=remembers).check()
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, remembers={remembers}: {error}") from error


def test_a_note_is_taken_and_credited_once() -> None:
    world = World()
    world.insert()
    world.until(lambda: bool(world.of(ev.CreditAcknowledged)))
    world.check()
    assert [type(each) for each in world.journal if isinstance(each, ev.NoteEvent)] == [
        ev.NoteEscrowed,
        ev.StackRequested,
        ev.NoteStacked,
        ev.CreditAcknowledged,
    ]


@pytest.mark.parametrize("remembers", [True, False], ids=["remembers", "forgets"])
@pytest.mark.parametrize("side", ["sent", "heard"])
@pytest.mark.parametrize("state", ["ACCEPTING", "ESCROW POSITION", "STACKING", "BILL STACKED"])
def test_power_cut_at_every_byte(state: str, side: str, remembers: bool, scale: Callable[[int, int], int]) -> None:
    """One poll, its reply and our ACK are 19 bytes: the cut falls into each of them, and into STACK and its answer."""
    for count in range(1, scale(20, 80)):
        world = World({"remembers_event": remembers, "speed": 2})
        world.insert()
        world.until(lambda: world.simulator.truth()["state"] == state)  # noqa: B023 - run at once
        world.do(f"power-cut at-byte {count} {side}")
        world.until(lambda: not world.simulator.truth()["powered"])  # noqa: B023
        world.run(1.0)
        world.settle()
        world.check()
        assert world.stacked.total() + len(world.simulator.truth()["returned"]) == 1


@pytest.mark.parametrize("point", ["before_commit", "after_commit", "after_ack"])
@pytest.mark.parametrize("both", [False, True], ids=["agent", "agent and device"])
def test_crash_at_every_commit_and_ack(point: str, both: bool) -> None:
    """The agent dies at the nth passing of each named point, alone or together with the device's power."""
    for nth in range(1, 25):
        left = nth

        def crash_at(passed: str) -> None:
            nonlocal left
            left -= passed == point
            if passed == point and left == 0:
                if both:
                    world.do("power-cut")  # noqa: B023
                    world.do("power-on")  # noqa: B023
                raise Crash

        world = World({"speed": 2}, crash_at=crash_at)
        for _ in range(2):
            world.insert()
            world.run(3.0)
        world.settle()
        world.check()
