"""Threads that take turns: only one runs at a time, each stops before every AWS call, and a seed decides who goes on.

The same seed gives the same order of calls, so that a failing one can be looked at again and again.
"""

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

TURN_SECONDS = 60.0


class Killed(BaseException):
    """The function is gone at this call; no `except Exception` may catch it, as none catches a SIGKILL."""


@dataclass
class Actor:
    """One function, or one person, at work in a thread of its own.

    Attributes:
        dies_at: the number of the call, from 0, at which it is killed; -1: never.
        after: it is killed when the call is done, and not before.
        skew: how far its clock is ahead of the others', in seconds.
    """

    name: str
    work: Callable[[], None]
    dies_at: int = -1
    after: bool = False
    skew: float = 0.0
    calls: int = 0
    ended: bool = False
    killed: bool = False
    error: BaseException | None = None
    turn: threading.Event = field(default_factory=threading.Event)


class Interleaving:
    """Runs actors in the order that `random_` draws."""

    def __init__(self, random_: random.Random) -> None:
        self._random = random_
        self._actors: list[Actor] = []
        self._here = threading.local()
        self._back = threading.Event()
        self.trace: list[str] = []

    def add(self, actor: Actor) -> None:
        """Let one more take part, from now on."""
        self._actors.append(actor)
        threading.Thread(target=self._live, args=(actor,), daemon=True, name=actor.name).start()

    def current(self) -> Actor | None:
        """The actor whose thread this is, if it is one's."""
        return getattr(self._here, "actor", None)

    def before(self, operation: str) -> None:
        """Stop before an AWS call until it is this actor's turn."""
        actor = self.current()
        if actor is None:
            return
        self._wait(actor)
        self.trace.append(f"{actor.name}: {operation}")
        if actor.calls == actor.dies_at and not actor.after:
            self._kill(actor)

    def after(self, operation: str) -> None:
        """An AWS call of this actor is done."""
        actor = self.current()
        if actor is None:
            return
        actor.calls += 1
        if actor.calls == actor.dies_at + 1 and actor.after:
            self._kill(actor)

    def run(self, check: Callable[[], None]) -> None:
        """Give turns until all have ended; call `check` after each.

        Raises what an actor raised, being killed excepted.
        """
        while waiting := [actor for actor in self._actors if not actor.ended]:
            actor = self._random.choice(waiting)
            self._back.clear()
            actor.turn.set()
            assert self._back.wait(TURN_SECONDS), f"{actor.name} does not come back: {self.trace[-5:]}"
            if actor.error is not None:
                raise actor.error
            check()

    def _kill(self, actor: Actor) -> None:
        actor.killed = True
        self.trace.append(f"{actor.name}: killed")
        raise Killed

    def _live(self, actor: Actor) -> None:
        self._here.actor = actor
        actor.turn.wait()
        actor.turn.clear()
        try:
            actor.work()
        except Killed:
            pass
        except BaseException as error:  # noqa: BLE001 - it is raised again in the test's own thread
            actor.error = error
        finally:
            actor.ended = True
            self._back.set()

    def _wait(self, actor: Actor) -> None:
        self._back.set()
        actor.turn.wait()
        actor.turn.clear()
