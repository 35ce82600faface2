"""What every profile of one build starts from, and what the ladder gave for each kernel family: worked out
once, when it is first needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from onnx import ModelProto

from edgectl.builder.budget import QUANTIZE, Budget
from edgectl.builder.ingest.samples import Sample, Slices
from edgectl.builder.ingest.source_precision import AS_RECEIVED
from edgectl.builder.int8.calibrate import CalibrationTable
from edgectl.builder.int8.escalate import (
    FamilyGraphs,
    FineTune,
    QuantizationBasis,
    escalate,
    float_report,
    prepare_basis,
)
from edgectl.builder.int8.families import FAMILIES, Family
from edgectl.builder.int8.previous_release import PREFIX, PreviousRelease, with_carried_over
from edgectl.builder.int8.quantize import Quantized
from edgectl.builder.judge.accuracy import Accuracy, Judge
from edgectl.builder.judge.significance import (
    BudgetVerdict,
    affordable,
    budget_verdict,
    explain_unknown,
    pooled,
    samples_in_all,
    samples_needed,
)
from edgectl.builder.passes.base import PassLog
from edgectl.builder.search.float_first import Reason
from edgectl.core.bundle import LayerReport, Precision, Recipe, SessionSettings
from edgectl.core.errors import EdgectlError, ModelError
from edgectl.core.task import TaskSpec
from edgectl.device_profiles.probe import Machine, host_family
from edgectl.device_profiles.schema import DeviceProfile
from edgectl.engines.base import Feeds
from edgectl.engines.open import open_model

__all__ = [
    "Work",
    "basis_of",
    "float_layers",
    "limit_of",
    "numerically_best",
    "recipe_as_is",
    "recipe_of",
    "recipes_of",
    "rungs_of",
    "say_interval",
]


@dataclass(frozen=True)
class Work:
    """What every profile of one build starts from."""

    model: ModelProto
    table: CalibrationTable | None
    slices: Slices
    task: TaskSpec
    machine: Machine
    log: PassLog
    max_drop: float
    notes: list[str]
    tell: Callable[[str, float, str, str], None]
    bases: dict[tuple[bool, str], QuantizationBasis] = field(default_factory=dict)
    """The prepared graph of families that take the same ranges; filled as they come up (:func:`basis_of`)."""
    rungs: dict[str, FamilyGraphs] = field(default_factory=dict)
    """Kernel family → what the ladder gave; filled as families come up."""
    tuning: Path | None = None
    """Where measurements are kept until the bundle is whole; None: nowhere."""
    judge_cache: dict[str, Judge] = field(default_factory=dict)
    original: ModelProto | None = None
    """The graph before compression: what every candidate is judged against. None: ``model`` itself."""
    recover_minutes: float = 0.0
    """How long each family's int8 graph may be fine-tuned."""
    precision: Precision = "float32"
    """Of ``model``. ``int8``: it came quantized, and ships as it is."""
    given: bytes | None = field(default=None, repr=False)
    """A float16 model as it came, behind inputs and outputs of float32; None for any other."""
    release: PreviousRelease | None = None
    """The release that this one fine-tunes: its engines are carried over. None: there is none, or it does not
    matter."""
    budget: Budget = field(default_factory=Budget)
    """What is left of the time for the whole build."""
    barred: Reason | None = None
    """Why nothing of this model is quantized; None if something may be."""

    def judge(self, which: Literal["search", "confirmation"]) -> Judge:
        """The judge of a slice; made when it is first needed."""
        if which not in self.judge_cache:
            self.tell("judge", 0.15, f"float outputs of the {which} slice", "")
            reference = open_model(
                (self.original or self.model).SerializeToString(), SessionSettings(threads=2)
            )
            samples = self.slices.search if which == "search" else self.slices.confirmation
            self.judge_cache[which] = Judge(self.task, samples, reference)
            reference.close()
        return self.judge_cache[which]

    @cached_property
    def float_bytes(self) -> bytes:
        return bytes(self.model.SerializeToString(deterministic=True))


def rungs_of(work: Work, family: str) -> FamilyGraphs | None:
    """What the ladder gave for a family; None where there is nothing to quantize. Each family is climbed
    once."""
    if work.table is None:
        return None
    if family not in work.rungs:
        spec = FAMILIES[family]
        calibration = _Feeds(work.slices.calibration)

        def tell(what: str) -> None:
            work.tell("quantize", 0.15, f"{family}: {what}", "")

        key = (spec.symmetric, spec.placement)
        if key not in work.bases:
            work.bases[key] = prepare_basis(
                work.model,
                work.table,
                spec,
                calibration,
                work.judge("search"),
                max_drop=limit_of(work),
                tell=tell,
                budget=work.budget,
            )
        also = (
            [FAMILIES["openvino"]] if "openvino" in work.machine.runtimes and family.startswith("x86") else []
        )
        rungs = escalate(
            work.bases[key],
            spec,
            calibration,
            work.judge("search"),
            max_drop=limit_of(work),
            timed=family == host_family(work.machine),
            tell=tell,
            also=also,
            tune=_tune(work, spec, tell),
            budget=work.budget,
        )
        if work.release is not None and not work.budget.over(QUANTIZE, "following the older release"):
            rungs = with_carried_over(
                rungs,
                work.release,
                work.model,
                work.table,
                [spec, *also],
                calibration,
                work.judge("search"),
                max_drop=limit_of(work),
                tell=tell,
            )
        work.rungs[family] = rungs
        work.notes.extend(f"{family}: {note}" for note in work.rungs[family].notes)
    return work.rungs[family]


def _tune(work: Work, family: Family, tell: Callable[[str], None]) -> FineTune | None:
    """Fine-tuning of int8 for the minutes that were allowed; None if none were."""
    if not work.recover_minutes:
        return None
    # torch is there: compression asked for it before anything was measured
    from edgectl.builder.compress.qat import fine_tune

    def tune(q: Quantized) -> Quantized:
        work.budget.extend(work.recover_minutes * 60)
        samples = [s.feeds for s in work.slices.calibration]
        taught, lesson = fine_tune(
            q,
            basis_of(work, family.name, q).model,
            samples,
            weight_max=family.weight_max,
            seconds=work.recover_minutes * 60,
            decode=work.task.decode,
            progress=lambda share, error: tell(f"fine-tuning, {share:.0%}: error {error:.4f}"),
        )
        work.notes.append(
            f"{family.name}: int8 fine-tuned in {lesson.steps} steps, held-back loss {lesson.before:.4f} → {lesson.after:.4f}"
        )
        return taught

    return tune


def recipes_of(work: Work, family: str) -> dict[str, Quantized]:
    rungs = rungs_of(work, family)
    return {} if rungs is None else rungs.recipes


def limit_of(work: Work) -> float:
    """Noise has no accuracy to lose."""
    return 1.0 if work.slices.random else work.max_drop


def float_layers(work: Work, family: str | None) -> tuple[LayerReport, ...]:
    """Why each layer is float, for the families that were climbed. Nothing for a model that came
    quantized: its layers are its maker's."""
    if work.precision != "float32":
        return ()
    if work.table is None:
        return float_report(work.model, None, work.max_drop, "float: see the notes of the build")
    return float_report(work.model, work.rungs.get(family or ""), work.max_drop, "")


def numerically_best(work: Work, family: str, p: DeviceProfile) -> tuple[str, Quantized, Accuracy] | None:
    """The int8 graph of a family that keeps least in float and affordable the budget on the confirmation
    slice, too.

    Run in ONNX Runtime without graph optimisation: the arithmetic of the Q/DQ nodes themselves, whatever this
    machine is.
    """
    rungs = rungs_of(work, family)
    if rungs is None or not rungs.judged:
        return None
    limit, lost = limit_of(work), min(a.drop for a in rungs.judged.values())
    simulated = SessionSettings(optimization="disabled", threads=min(2, work.machine.cores))
    order = sorted(
        rungs.recipes.items(),
        key=lambda r: (
            r[1].ranges is None,
            len(r[1].placement.reasons),
            not r[1].carried_over,
            rungs.judged[r[0]].drop,
        ),
    )
    for name, quantized in order:
        work.tell("confirm", 0.15, f"{family}: {name}", "")
        data = quantized.model.SerializeToString(deterministic=True)
        try:
            engine = open_model(data, simulated)
            try:
                confirmed = work.judge("confirmation").judge(engine, limit=limit)
            finally:
                engine.close()
        except EdgectlError as e:
            raise ModelError(f"the {family} graph ({name}) does not run in ONNX Runtime: {e.message}") from e
        if affordable(confirmed, limit) and affordable(pooled(rungs.judged[name], confirmed), limit):
            say_interval(work, p, f"{family} int8 ({name})", confirmed)
            return name, quantized, confirmed
        lost = confirmed.drop
    work.notes.append(f"{p.name}: {family} int8 loses {lost:.4f}, more than {work.max_drop:g}: float instead")
    return None


def say_interval(work: Work, p: DeviceProfile, what: str, accuracy: Accuracy) -> None:
    """A budget that lies inside the interval is met as far as these samples can tell: the user hears it."""
    if work.slices.random:
        return
    if budget_verdict(accuracy, work.max_drop) is BudgetVerdict.UNDECIDED:
        work.notes.append(f"{p.name}: {explain_unknown(what, accuracy, work.max_drop)}")
    elif accuracy.high > work.max_drop:
        enough = samples_needed(work.max_drop)
        more = (
            f"about {samples_in_all(work.max_drop)} samples in all would tell it"
            if 0 < accuracy.units < enough
            else "more data would tell it"
        )
        work.notes.append(
            f"{p.name}: {what} loses {accuracy.drop:.4f} on {accuracy.samples} samples, 95 % interval "
            f"{accuracy.low:.4f} … {accuracy.high:.4f}: {more} from the budget of {work.max_drop:g}"
        )


def basis_of(work: Work, family: str, quantized: Quantized) -> QuantizationBasis:
    """What a graph of a family that was climbed is written from. Symmetric and asymmetric codes, chains
    and lone layers want other ranges; what follows an older release is never equalised."""
    if quantized.carried_over:
        assert work.table is not None
        assert quantized.ranges is not None
        return QuantizationBasis(work.model, work.table, (), quantized.ranges)
    spec = FAMILIES[family]
    return work.bases[spec.symmetric, spec.placement]


def recipe_as_is(work: Work) -> Recipe:
    """Of the model itself, with what the passes did to it."""
    family = "float" if work.precision == "float32" else AS_RECEIVED
    return Recipe(family=family, passes=tuple(work.log.ran), precision=work.precision)


def recipe_of(work: Work, family: str, name: str, quantized: Quantized) -> Recipe:
    """``family``: the one that was climbed; a candidate of another runtime's form shares its basis."""
    spec = quantized.family
    basis = basis_of(work, family, quantized)
    codes = ("follow",) if quantized.carried_over else ("reconstruct",) if quantized.rebuilt else ()
    return Recipe(
        family=spec.name,
        passes=(*work.log.ran, *basis.passes, f"quantize:{name.removeprefix(PREFIX)}", *codes),
        precision="int8",
        activations=spec.activation,
        weights={127: "int8", 63: "int8 (7 bit)", 7: "int4"}[spec.weight_max],
        excluded=tuple(sorted(quantized.placement.reasons)),
        method=quantized.ranges,
        **(
            {}
            if quantized.ranges is None
            else {"calibration": basis.table.digest, "samples": basis.table.samples}
        ),
    )


@dataclass(frozen=True)
class _Feeds(Sequence[Feeds]):
    samples: Sequence[Sample]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: Any) -> Any:
        picked = self.samples[index]
        return [s.feeds for s in picked] if isinstance(index, slice) else picked.feeds
