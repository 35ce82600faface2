"""Who is to ship, as far as is known before processes of their own were tried. Decides by the rules alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from edgectl.builder.search.candidates import CandidateOutcome
from edgectl.builder.search.rules import choose, eligible, fastest, frugal, is_accurate, may_be_faster, rank

__all__ = ["First", "Shortlist", "shortlist"]

First = Callable[[Iterable[CandidateOutcome], Callable[[CandidateOutcome], bool]], "CandidateOutcome | None"]
"""The first of an order that fits and holds the accuracy budget."""


@dataclass(frozen=True)
class Shortlist:
    fast: CandidateOutcome
    accurate: CandidateOutcome
    reference: CandidateOutcome
    """The fastest float one, whatever it takes: who is to ship is compared with it."""
    plain: CandidateOutcome | None
    """The best quantized one that ONNX Runtime alone can run, if ``fast`` is not in it."""
    lean: CandidateOutcome | None
    """The fastest that takes one thread: who may be the low-power one."""
    fallback: CandidateOutcome | None
    """The best float one in ONNX Runtime."""
    rival: CandidateOutcome | None = None
    """Where float is the fastest: the best quantized one that the search ruled out, and not by far. It is
    measured like those that ship."""

    @property
    def shown(self) -> CandidateOutcome:
        """What the figures of the bundle are told against."""
        return self.fallback or self.reference

    def to_prove(self) -> list[CandidateOutcome]:
        return [*self.all(), *((self.rival,) if self.rival is not None else ())]

    def all(self) -> list[CandidateOutcome]:
        each = (self.fast, self.accurate, self.reference, self.plain, self.lean, self.fallback)
        return list({o.candidate.name: o for o in each if o is not None}.values())


def shortlist(
    possible: Sequence[CandidateOutcome], min_speedup: float, max_drop: float, first: First, last_round: int
) -> Shortlist:
    """Of candidates that nothing but speed speaks against, at least one of them float."""
    ranking = choose(possible, min_speedup=min_speedup)
    fast = first(ranking, lambda o: True)
    accurate = first(ranking, lambda o: is_accurate(o, max_drop))
    assert fast is not None  # the ranking ends with float, which holds
    assert accurate is not None
    plain = first(ranking, _in_ort_int8) if fast.candidate.runtime != "onnxruntime" else None
    lean = [o for o in possible if eligible(o, min_speedup) and frugal(o.candidate)]
    floats = [o for o in possible if o.candidate.is_float]
    fallback = min((o for o in floats if o.candidate.runtime == "onnxruntime"), key=rank, default=None)
    near = (
        [o for o in possible if not o.candidate.is_float and may_be_faster(o)]
        if fast.candidate.is_float
        else []
    )
    rival = min(near, key=rank, default=None)
    if rival is not None and not rival.reached(last_round):
        rival = None
    lean_first = first(sorted(lean, key=rank), lambda o: True)
    return Shortlist(fast, accurate, fastest(floats), plain, lean_first, fallback, rival)


def _in_ort_int8(o: CandidateOutcome) -> bool:
    return o.candidate.runtime == "onnxruntime" and not o.candidate.is_float
