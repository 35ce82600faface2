"""Two steps of a build: ranges of every tensor (calibrate), and the graphs of each kernel family (quantize)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from edgectl.builder.budget import CALIBRATE, LEAST_SAMPLES, QUANTIZE
from edgectl.builder.ingest.model import IngestedModel
from edgectl.builder.ingest.samples import FeedsView, Slices
from edgectl.builder.int8.basis import QuantizationBasis, prepare_basis
from edgectl.builder.int8.calibrate import CalibrationTable, calibrate
from edgectl.builder.int8.escalate import FamilyGraphs, FineTune, escalate
from edgectl.builder.int8.families import FAMILIES, Family
from edgectl.builder.int8.previous_release import PreviousRelease, with_carried_over
from edgectl.builder.int8.quantizable import NotQuantizable, obstacle_to_int8
from edgectl.builder.int8.quantize import Quantized
from edgectl.builder.judge.accuracy import Accuracy
from edgectl.builder.judge.judges import Judges
from edgectl.builder.monitor import BuildMonitor
from edgectl.core.errors import EngineError
from edgectl.device_profiles.machine import Machine, host_family
from edgectl.engines.base import Feeds

__all__ = ["CalibratedModel", "FineTuning", "QuantizedModel", "calibrate_model", "quantize_families"]

FineTuning = Callable[[Family, QuantizationBasis], FineTune]
"""How int8 graphs of a family are trained."""


_GUIDE = 10.0


@dataclass(frozen=True)
class CalibratedModel:
    """``table``: None where nothing is quantized; ``not_quantizable`` says why."""

    source: IngestedModel
    samples: Slices
    max_drop: float
    """What a variant may lose of the task's metric."""
    table: CalibrationTable | None
    not_quantizable: NotQuantizable | None = None
    labelled: bool = False
    """Whether labels decide about the budget. What float answers then only guides the search."""
    kept: frozenset[str] = field(default=frozenset(), kw_only=True)
    """Nodes that the user keeps in float in every int8 graph."""

    @property
    def limit(self) -> float:
        """``max_drop``, but noise has no accuracy to lose."""
        return 1.0 if self.samples.random else self.max_drop

    @property
    def guide(self) -> float:
        """What a candidate may lose on the search slice: more than :attr:`limit` where labels decide, which forgive
        what float answers otherwise without being more right."""
        return min(1.0, _GUIDE * self.limit) if self.labelled else self.limit


@dataclass(frozen=True)
class QuantizedModel(CalibratedModel):
    """A calibrated model with the int8 graphs that were written from it."""

    families: Mapping[str, FamilyGraphs] = field(default_factory=dict, repr=False)
    """Kernel family → its graphs, for every family that was asked for."""
    bases: Mapping[tuple[bool, str], QuantizationBasis] = field(default_factory=dict, repr=False)

    def recipes(self, family: str | None) -> Mapping[str, Quantized]:
        """The graphs of a family that hold the budget on the search slice; empty where there are none."""
        found = self.families.get(family or "")
        return {} if found is None else found.recipes

    def judged(self, family: str | None) -> Mapping[str, Accuracy]:
        """What every graph of a family loses on the search slice, also of those that do not hold."""
        found = self.families.get(family or "")
        return {} if found is None else found.judged

    def basis_of(self, family: str, name: str, quantized: Quantized) -> QuantizationBasis:
        """What a graph was written from; ``name``: among the family's recipes. Symmetric and asymmetric codes, chains and lone layers want other
        ranges; what is carried over from an older release is never equalised."""
        if quantized.carried_over:
            assert self.table is not None
            assert quantized.ranges is not None
            return QuantizationBasis(self.source.graph, self.table, (), quantized.ranges)
        graphs = self.families.get(family)
        own = None if graphs is None else graphs.bases.get(name)
        return self.bases[_basis_key(FAMILIES[family])] if own is None else own


def calibrate_model(
    model: IngestedModel,
    samples: Slices,
    max_drop: float,
    monitor: BuildMonitor,
    *,
    labelled: bool = False,
    kept: frozenset[str] = frozenset(),
) -> CalibratedModel:
    """Run the calibration samples once. A graph that is already quantized, or has nothing to quantize, is
    not calibrated. ``labelled``: labels will decide about the budget; ``kept``: nodes that stay float."""
    obstacle = obstacle_to_int8(model.graph)
    if obstacle is not None:
        return CalibratedModel(model, samples, max_drop, None, obstacle, labelled, kept=kept)
    total = len(samples.calibration)

    def feeds() -> Iterator[Feeds]:
        for n, sample in enumerate(samples.calibration):
            if n >= LEAST_SAMPLES and monitor.budget.over(
                CALIBRATE, f"calibration samples from the {n + 1}th of {total} on"
            ):
                return
            yield sample.feeds

    table = calibrate(
        model.graph,
        feeds(),
        data_digest=samples.digest,
        progress=lambda n: monitor.tell("calibrate", 0.05 + 0.1 * n / total, f"{n}/{total} samples"),
    )
    return CalibratedModel(model, samples, max_drop, table, labelled=labelled, kept=kept)


def quantize_families(
    calibrated: CalibratedModel,
    families: Sequence[str],
    judges: Judges,
    machine: Machine,
    monitor: BuildMonitor,
    *,
    previous: PreviousRelease | None = None,
    fine_tuning: FineTuning | None = None,
) -> QuantizedModel:
    """The graphs of each of ``families`` that hold the budget on the search slice; none where nothing is
    calibrated.

    Families that take the same ranges share what they are written from. ``previous``: its engines are carried
    over, too.
    """
    found: dict[str, FamilyGraphs] = {}
    bases: dict[tuple[bool, str], QuantizationBasis] = {}
    table = calibrated.table
    for name in families if table is not None else ():
        assert table is not None
        spec, samples = FAMILIES[name], FeedsView(calibrated.samples.calibration)

        def tell(what: str, name: str = name) -> None:
            monitor.tell("quantize", 0.15, f"{name}: {what}")

        key = _basis_key(spec)
        also = [FAMILIES["openvino"]] if "openvino" in machine.runtimes and name.startswith("x86") else []
        try:
            if key not in bases:
                bases[key] = prepare_basis(
                    calibrated.source.graph,
                    table,
                    spec,
                    samples,
                    judges.search,
                    max_drop=calibrated.limit,
                    tell=tell,
                    budget=monitor.budget,
                    kept=calibrated.kept,
                )
            graphs = escalate(
                bases[key],
                spec,
                samples,
                judges.search,
                max_drop=calibrated.limit,
                guide=calibrated.guide,
                timed=name == host_family(machine),
                tell=tell,
                also=also,
                tune=None if fine_tuning is None else fine_tuning(spec, bases[key]),
                budget=monitor.budget,
            )
        except EngineError as e:
            # float runs: the model is no worse for it
            found[name] = FamilyGraphs({}, {}, (), refused={"int8": e.message})
            monitor.note(f"{name}: int8 is left out: {e.message}")
            continue
        if previous is not None and not monitor.budget.over(QUANTIZE, "following the older release"):
            graphs = with_carried_over(
                graphs,
                previous,
                calibrated.source.graph,
                table,
                [spec, *also],
                samples,
                judges.search,
                max_drop=calibrated.limit,
                tell=tell,
                kept=calibrated.kept,
            )
        found[name] = graphs
        monitor.notes += [f"{name}: {note}" for note in graphs.notes]
    return QuantizedModel(
        calibrated.source,
        calibrated.samples,
        calibrated.max_drop,
        table,
        calibrated.not_quantizable,
        calibrated.labelled,
        found,
        bases,
        kept=calibrated.kept,
    )


def _basis_key(family: Family) -> tuple[bool, str]:
    return family.symmetric, family.placement
