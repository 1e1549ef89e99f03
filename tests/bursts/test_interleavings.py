"""A thousand interleavings of everyone who works on a dataset, with clocks that are wrong and functions that die.

What the handlers do is the deployed code; each stops before every AWS call, and a seed decides who goes on
(interleaving.py). A failing seed shows every call in its order.
"""

import random
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from tests.bursts.aws_in_process import InProcessAws
from tests.bursts.world import Clock, Event, World

SEEDS = 1000
PARTS = 10

pytestmark = pytest.mark.slow


def worlds(aws: InProcessAws, clock: Clock, s3: object, pair: int, part: int) -> Iterator[World]:
    """A dataset of its own for each seed of one of the four pairs."""
    for seed in range(SEEDS):
        if seed % 4 == pair and seed // 4 % PARTS == part:
            yield World(aws, clock, f"seed-{seed}", random.Random(seed), s3)


def begin(world: World, *, sealed: bool = False) -> str:
    """Upload a first image and let its run begin, and seal; returns the run."""
    world.hold = {"settle", "finish"}
    world.announce(world.put("cat/first.jpg", b"first"))
    if world.random.random() < 0.5:
        # No quiet time passes then: the seal comes moments after the lock.
        world.announce(world.put("_READY", b""))
    world.go_on()
    (run,) = world.started
    if sealed:
        world.add_run(run)
        world.go_on()
        assert world.sealed[run] == world.content()
    return run


def end(world: World) -> None:
    """Let everything go on to its end, and see that nothing is left, or lost."""
    world.hold = set()
    for run in world.running():
        world.add_run(run)
    world.go_on()
    assert not world.running(), world.trace()
    item = world.item()
    assert "run" not in item, world.trace()
    assert item["sealed_hash"] == world.content(), f"an upload is lost\n{world.trace()}"
    # What is announced once more, after all is answered, starts nothing.
    world.deliver(*world.told)
    assert not world.running(), world.trace()


@pytest.mark.parametrize("part", range(PARTS))
def test_upload_and_upload(aws: InProcessAws, clock: Clock, s3: object, part: int) -> None:
    for world in worlds(aws, clock, s3, 0, part):
        # GIVEN some uploads
        world.hold = {"settle"}
        events = [world.put(f"cat/{number}.jpg", b"cat") for number in range(world.random.randint(2, 6))]
        world.announce(*events)
        # WHEN two functions, and more when they die, handle them at once
        world.go_on()
        # THEN one run began, and each upload is counted once
        assert len(world.started) == 1, world.trace()
        assert world.item()["uploads"] == len(events), world.trace()
        assert world.item()["run"] == world.started[0], world.trace()


@pytest.mark.parametrize("part", range(PARTS))
def test_upload_and_settle(aws: InProcessAws, clock: Clock, s3: object, part: int) -> None:
    for world in worlds(aws, clock, s3, 1, part):
        # GIVEN a run that is about to seal
        first = begin(world)
        # WHEN it does, while more is uploaded
        world.add_run(first)
        changes = world.random.randint(1, 3)
        world.add_person(*(partial(world.put, f"dog/{number}.jpg", b"dog") for number in range(changes)))
        world.go_on()
        # THEN what came too late for the seal has one follow-up, and what is in it has none
        late = world.sealed[first] != world.content()
        end(world)
        assert len(world.started) == (2 if late else 1), world.trace()
        assert all(verdict == "promoted" for verdict in world.verdicts.values()), world.trace()


@pytest.mark.parametrize("part", range(PARTS))
def test_upload_and_finish(aws: InProcessAws, clock: Clock, s3: object, part: int) -> None:
    for world in worlds(aws, clock, s3, 2, part):
        # GIVEN a run that has sealed, and later uploads: new ones, or the same again
        first = begin(world, sealed=True)
        changed = world.random.random() < 0.7
        if changed:
            world.announce(*(world.put(f"dog/{number}.jpg", b"dog") for number in range(world.random.randint(1, 3))))
        else:
            world.announce(world.put("cat/first.jpg", b"first"))
        # WHEN the run ends while they are counted
        world.add_run(first)
        world.go_on()
        # THEN a change has exactly one follow-up; the same again has none, or one that says so
        end(world)
        if changed:
            assert list(world.verdicts.values()) == ["promoted", "promoted"], world.trace()
        else:
            assert list(world.verdicts.values())[1:] in ([], ["unchanged"]), world.trace()


@pytest.mark.parametrize("part", range(PARTS))
def test_everything_at_once(aws: InProcessAws, clock: Clock, s3: object, part: int) -> None:
    for world in worlds(aws, clock, s3, 3, part):
        # GIVEN people who upload, overwrite and delete while runs go on, some of which fail
        world.failures = 0.2
        keys = [f"cat/{number}.jpg" for number in range(3)]
        people = world.random.randint(1, 2)
        changes = [world.random.randint(1, 4) for _ in range(people)]
        for count in changes:
            world.add_person(*(change(world, world.random.choice(keys)) for _ in range(count)))
        # WHEN all work at once THEN no two runs overlap, all comes to an end, and nothing is lost
        world.go_on()
        end(world)
        assert 1 <= len(world.started) <= sum(changes), world.trace()


def change(world: World, path: str) -> Callable[[], Event]:
    """An upload of new content, of the usual one, or a deletion."""
    draw = world.random.random()
    if draw < 0.3:
        return partial(world.delete, path)
    body = b"usual" if draw < 0.6 else world.random.randbytes(4)
    return partial(world.put, path, body)
