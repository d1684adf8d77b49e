"""Reloads models whose processes (Triton's *stubs*) have ended, or answer nothing any more; and what they leave behind.

Measured: a stub that dies is not restarted, the model answers every request with an error and stays ready, and loading
it again does nothing; unloading it first helps. One that hangs, keeps its callers until their time limit. A Triton that
crashes leaves its stubs and its shared memory behind.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from http.client import HTTPException
from typing import NamedTuple

from tollgate_models.stubs import Stub, close_region, end, is_stopped, log, remove_regions, stubs
from tollgate_models.triton_api import Call, Triton

PERIOD = 0.5
"""Seconds between two looks at the stubs: for so long a dead one is not noticed."""
RETRY = 5.0
"""Seconds until a model that cannot be loaded is tried again."""
_ASK = 10.0
"""Seconds, at most, between two looks at what models have answered."""
_MOST_FAILURES = 10
"""Looks that fail one after the other, for a reason that nobody thought of."""
Place = tuple[str, str]
"""Model and version."""
_PROBLEMS = (OSError, HTTPException, ValueError, LookupError)
"""With a Triton that does not answer, or something else."""


class Patience(NamedTuple):
    """Seconds."""

    answer: float = 60.0
    """In which a model must answer something while it is asked: as long as callers wait at Envoy."""
    load: float = 300.0
    """In which a model must be loaded."""


class Watchdog:
    """Of one Triton."""

    def __init__(self, pid: int, triton: Triton, prefix: str, patience: Patience) -> None:
        """`pid`: of Triton, which runs; `prefix`: of its shared memory."""
        self._pid = pid
        self._ended = select.poll()
        self._ended.register(os.pidfd_open(pid), select.POLLIN)
        self._triton, self._prefix, self._patience = triton, prefix, patience
        self._known: set[tuple[str, str, str]] = set()
        self._seen: set[Place] = set()
        """That had a stub."""
        self._away: set[Place] = set()
        """Those that others have unloaded, or that were just loaded: their stubs may end before they are seen."""
        self._failed: dict[str, float] = {}
        """Models that could not be loaded, and when they are tried again."""
        self._loads: dict[str, Call] = {}
        """That go on."""
        self._counts: dict[Place, int] = {}
        self._silent: dict[Place, float] = {}
        """Since when it has done nothing, though it is asked."""
        self._questions: dict[Place, Call] = {}
        self._asks_at = 0.0
        self._regions: set[str] = set()
        self._trouble = ""

    def run(self) -> None:
        """Until Triton has ended, however it did; then nothing of it is left."""
        failures = 0
        while not self._ended.poll(PERIOD * 1000):
            try:
                self.look()
                failures = 0
            except Exception as failure:
                failures += 1
                log(f"a look failed: {failure!r}")
                if failures >= _MOST_FAILURES:
                    raise
        end(self._stubs(), "which a crash had left")
        remove_regions(self._regions)  # and no others: the next Triton may have started

    def look(self) -> None:
        """While Triton starts or stops, nothing is decided."""
        self._end_loads()
        alive = self._alive()
        dead = self._known - alive
        self._known |= alive
        self._seen |= _places(alive)
        self._away = (self._away | _places(dead)) - (_places(alive) - _places(dead))
        due = {model for model, at in self._failed.items() if at <= time.monotonic()}
        try:
            if self._away or due:
                self._mend(dead, due)
            self._look_for_hung({place for place in _places(alive) if place[0] not in self._loads})
        except (ConnectionRefusedError, FileNotFoundError):  # it starts, or stops
            return
        except _PROBLEMS as problem:
            self._complain(f"Triton does not say what it serves: {problem!r}")
        else:
            self._trouble = ""

    def _complain(self, trouble: str) -> None:
        """Once."""
        if trouble != self._trouble:
            self._trouble = trouble
            log(trouble)

    def _stubs(self) -> list[Stub]:
        """Its number alone could be that of a Triton in a container of this machine.

        Their shared memory, through which all requests go, is closed to other users: Triton opens it to everybody.
        """
        found = [stub for stub in stubs() if stub.parent == self._pid and stub.region.startswith(self._prefix)]
        for region in {stub.region for stub in found} - self._regions:
            if close_region(region):
                self._regions.add(region)
        return found

    def _alive(self) -> set[tuple[str, str, str]]:
        return {(stub.model, stub.version, stub.instance) for stub in self._stubs()}

    def _mend(self, dead: set[tuple[str, str, str]], due: set[str]) -> None:
        """Reload what has ended though Triton calls it ready."""
        ready = self._triton.ready()
        self._known -= dead
        started = _places(self._alive()) - _places(dead)  # while the index was asked for
        for model, version in sorted(self._away & ready - started):
            if self._triton.backend(model, version) != "python":  # it has been replaced
                self._seen.discard((model, version))
                continue
            log(f"the process of {model} {version} has ended")
            due.add(model)
        self._away -= ready
        for model in sorted(due - self._loads.keys()):
            self._reload(model)

    def _reload(self, model: str) -> None:
        self._known = {place for place in self._known if place[0] != model}
        self._failed.pop(model, None)
        try:
            if why := self._triton.unload(model):
                return self._fail(model, why)
            log(f"{model} is not ready")
            self._loads[model] = self._triton.load(model)
        except (OSError, HTTPException) as failure:
            self._fail(model, f"Triton does not answer: {failure!r}")
        return None

    def _fail(self, model: str, why: str) -> None:
        self._failed[model] = time.monotonic() + RETRY
        log(f"{model} cannot be loaded, next try in {RETRY:.0f} s: {why}")

    def _end_loads(self) -> None:
        for model, call in [*self._loads.items()]:
            try:
                why = self._triton.outcome(call)
            except (OSError, HTTPException) as failure:
                why = f"Triton does not answer: {failure!r}"
            if why is None:
                self._hurry(model, call.seconds)
                continue
            del self._loads[model]
            if why:
                self._fail(model, why)
            else:
                self._away |= {place for place in self._seen if place[0] == model}
                log(f"{model} is ready again, {call.seconds:.1f} s after that was noticed")

    def _hurry(self, model: str, seconds: float) -> None:
        """Triton, which waits for a process that never came, says nothing about models, and ignores SIGTERM."""
        if seconds < self._patience.load:
            return
        starting = [stub for stub in self._stubs() if stub.model == model]
        end(starting, f"which {self._patience.load:g} s were not enough for to load")
        if not starting and seconds >= self._patience.load + RETRY:
            log(f"{model} is not loaded after {seconds:.0f} s, and no process of it runs: ended Triton")
            os.kill(self._pid, signal.SIGKILL)

    def _look_for_hung(self, places: set[Place]) -> None:
        """Those that do nothing while somebody waits for them: where nobody else does, this asks."""
        for place in [*self._questions]:
            if place not in places or _is_answered(self._questions[place]):
                self._forget(place)
        now = time.monotonic()
        if now < self._asks_at or not places:
            return
        self._asks_at = now + min(_ASK, self._patience.answer / 4)
        counts = self._triton.counts()
        stopped = {(stub.model, stub.version) for stub in self._stubs() if is_stopped(stub.pid)}
        for place in sorted(places & counts.keys()):
            if self._counts.get(place) != counts[place]:
                self._counts[place] = counts[place]
                self._forget(place)
            elif place not in self._questions and place not in stopped:
                self._silent[place] = now
                self._ask(place)
            elif now - self._silent.setdefault(place, now) >= self._patience.answer:
                self._end_hung(place)

    def _ask(self, place: Place) -> None:
        with suppress(*_PROBLEMS):
            if question := self._triton.ask(*place):
                self._questions[place] = question

    def _forget(self, place: Place) -> None:
        self._silent.pop(place, None)
        if question := self._questions.pop(place, None):
            question.close()

    def _end_hung(self, place: Place) -> None:
        """The next look finds that it has ended."""
        hung = [stub for stub in self._stubs() if (stub.model, stub.version) == place]
        end(hung, f"which has not answered for {self._patience.answer:g} s")
        self._forget(place)


def _is_answered(question: Call) -> bool:
    """By the model, however."""
    try:
        answer = question.answer()
    except (OSError, HTTPException):
        return True
    return answer is not None and answer.is_of_model


def _places(stubs: Iterable[tuple[str, str, str]]) -> set[Place]:
    return {place[:2] for place in stubs}
