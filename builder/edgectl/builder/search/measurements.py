"""Candidates opened, judged and timed on a machine; what the tuning log knows already is not measured again.
Decides nothing."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Protocol

import numpy as np

from edgectl.builder.judge.accuracy import Accuracy
from edgectl.builder.search.candidates import Candidate
from edgectl.builder.search.elsewhere import TimesElsewhere
from edgectl.builder.search.machine import TimingMachine
from edgectl.builder.search.tuning_log import Line, TuningLog
from edgectl.core.errors import EdgectlError
from edgectl.engines.base import Engine, Feeds
from edgectl.engines.measure.processes import ProcessTimes
from edgectl.engines.timing import LEAST_ROUNDS, LONG_ROUND_S, Samples, interleave

__all__ = ["Judging", "Measurements"]


class Judging(Protocol):
    """What the search asks of :class:`edgectl.builder.judge.accuracy.Judge`."""

    digest: str

    def judge(self, candidate: Engine, *, limit: float | None = None) -> Accuracy: ...


class Measurements:
    def __init__(self, machine: TimingMachine, log: TuningLog) -> None:
        self._machine = machine
        self._log = log
        self._engines: dict[str, Engine] = {}
        self._feeds = _digest(machine.feeds)

    @property
    def machine(self) -> str:
        return self._machine.summary

    def close(self) -> None:
        for engine in self._engines.values():
            engine.close()

    def drop(self, c: Candidate) -> None:
        """Free the memory of a candidate; it is opened again if it is asked for."""
        if (engine := self._engines.pop(c.name, None)) is not None:
            engine.close()

    def verdict(
        self, what: Literal["judged", "confirmed"], c: Candidate, judge: Judging, limit: float
    ) -> Accuracy:
        """Of what a candidate computes, whatever its other settings. Raises :class:`EdgectlError` for a candidate
        that does not run."""
        label = "/".join(filter(None, c.arithmetic))
        key = self._log.key(
            what, c.graph.digest, c.runtime, *filter(None, [c.lower_float]), judge.digest, limit
        )
        line = self._log.find(key).get(label)
        if line is not None and line.accuracy is not None:
            return line.accuracy
        accuracy = judge.judge(self._opened(c), limit=limit)
        self._log.add(key, what, label, self._machine.conditions(), accuracy=accuracy)
        return accuracy

    def times(
        self,
        index: int,
        candidates: Sequence[Candidate],
        seconds: float,
        fewest: int,
        most: int,
        settled: Callable[[Mapping[str, Samples]], bool],
    ) -> tuple[dict[str, Line], dict[str, str]]:
        """One line each for those that run, and why the others do not: from the log if the whole round is
        there, measured otherwise. ``seconds`` 0: ``fewest`` calls, however long they take."""
        key = self._round_key(index, candidates, seconds, fewest, most)
        lines, failed = self._log.find(key), {}
        if isinstance(self._machine, TimesElsewhere) and not _whole(lines, candidates):
            return self._timed_elsewhere(self._machine, index, candidates, seconds, fewest, most)
        if not _whole(lines, candidates):
            for c in candidates:
                try:
                    self._opened(c)
                except EdgectlError as e:
                    failed[c.name] = e.message
            candidates = [c for c in candidates if c.name not in failed]
            key = self._round_key(index, candidates, seconds, fewest, most)
            lines = self._log.find(key)
        if candidates and not _whole(lines, candidates):
            lines = self._measured(key, index, candidates, seconds, fewest, most, settled)
        return {c.name: lines[c.name] for c in candidates}, failed

    def fresh(self, contenders: Sequence[Candidate], *, again: bool = False) -> dict[str, ProcessTimes]:
        """In processes of their own, in turn. ``again``: what was measured on a busy machine does not
        count."""
        key = self._log.key(
            "fresh", [c.digest for c in contenders], self._feeds, *(["again"] if again else [])
        )
        lines = self._log.find(key)
        if not all(c.name in lines and lines[c.name].fresh is not None for c in contenders):
            found = self._machine.fresh(contenders)
            conditions = self._machine.conditions()
            lines = {n: self._log.add(key, "fresh", n, conditions, fresh=times) for n, times in found.items()}
        return {n: line.fresh for n, line in lines.items() if line.fresh is not None}

    def _measured(
        self,
        key: str,
        index: int,
        candidates: Sequence[Candidate],
        seconds: float,
        fewest: int,
        most: int,
        settled: Callable[[Mapping[str, Samples]], bool],
    ) -> dict[str, Line]:
        runs = {c.name: self._caller(c, i) for i, c in enumerate(candidates)}
        times = interleave(
            runs,
            seconds=seconds,
            min_rounds=fewest,
            max_rounds=most,
            long_s=LONG_ROUND_S if seconds > 0 else math.inf,
            clock=self._machine.clock,
            settled=settled,
        )
        conditions = self._machine.conditions()
        return {
            n: self._log.add(
                key,
                "timed",
                n,
                conditions,
                round=index,
                ms=tuple(round(float(x), 5) for x in t),
                runtime=self._engines[n].runtime,
            )
            for n, t in times.items()
        }

    def _timed_elsewhere(
        self,
        machine: TimesElsewhere,
        index: int,
        candidates: Sequence[Candidate],
        seconds: float,
        fewest: int,
        most: int,
    ) -> tuple[dict[str, Line], dict[str, str]]:
        found = machine.timed(candidates, seconds, fewest, most)
        alive = [c for c in candidates if c.name in found.ms]
        key, conditions = (
            self._round_key(index, alive, seconds, fewest, most),
            machine.conditions(),
        )
        lines = {
            c.name: self._log.add(
                key,
                "timed",
                c.name,
                conditions,
                round=index,
                ms=found.ms[c.name],
                runtime=found.runtimes[c.name],
            )
            for c in alive
        }
        return lines, dict(found.failed)

    def _round_key(self, index: int, candidates: Sequence[Candidate], *settings: float) -> str:
        return self._log.key("timed", index, settings, sorted(c.digest for c in candidates), self._feeds)

    def _opened(self, c: Candidate) -> Engine:
        """Open a candidate and run it once. Raises :class:`EdgectlError`."""
        if c.name not in self._engines:
            engine = self._machine.open(c)
            try:
                engine.run(self._machine.feeds[0])
            except EdgectlError:
                engine.close()
                raise
            self._engines[c.name] = engine
        return self._engines[c.name]

    def _caller(self, c: Candidate, start: int) -> Callable[[], object]:
        turn, engine, feeds = itertools.count(start), self._opened(c), self._machine.feeds
        return lambda: engine.run(feeds[next(turn) % len(feeds)])


def _whole(lines: Mapping[str, Line], candidates: Sequence[Candidate]) -> bool:
    """Whether a round is there for every candidate, pair by pair."""
    counts = {len(lines[c.name].ms or ()) if c.name in lines else 0 for c in candidates}
    return len(counts) == 1 and counts.pop() >= LEAST_ROUNDS


def _digest(feeds: Sequence[Feeds]) -> str:
    sha = hashlib.sha256()
    for f in feeds:
        for name in sorted(f):
            sha.update(name.encode() + np.ascontiguousarray(f[name]).tobytes())
    return sha.hexdigest()
