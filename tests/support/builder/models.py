"""A model as the steps of a build hand it on, made without running them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnx import ModelProto

from edgectl.builder.budget import Budget
from edgectl.builder.ingest.model import IngestedModel
from edgectl.builder.ingest.samples import Sample, Slices
from edgectl.builder.int8.calibrate import CalibrationTable
from edgectl.builder.int8.escalate import FamilyGraphs
from edgectl.builder.int8.model import QuantizedModel
from edgectl.builder.int8.quantizable import NotQuantizable
from edgectl.builder.judge.judges import Judges
from edgectl.builder.monitor import BuildMonitor
from edgectl.builder.variants.restriction import UNRESTRICTED, Restriction
from edgectl.builder.variants.trial import Trial
from edgectl.core.task import TaskSpec, TensorInput
from edgectl.device_profiles.machine import Machine, probe

__all__ = ["quantized_model", "trial_of"]


def quantized_model(
    graph: ModelProto,
    task: TaskSpec | None = None,
    samples: Sequence[Sample] = (),
    *,
    random: bool = False,
    table: CalibrationTable | None = None,
    not_quantizable: NotQuantizable | None = None,
    families: Mapping[str, FamilyGraphs] | None = None,
) -> QuantizedModel:
    """The same ``samples`` in all three slices."""
    source = IngestedModel(graph, (), task or TaskSpec(name="t", input=TensorInput()))
    slices = Slices(samples, samples, samples, "sha256:" + "0" * 64, random=random)
    return QuantizedModel(source, slices, 0.01, table, not_quantizable, families=families or {})


def trial_of(
    model: QuantizedModel, machine: Machine | None = None, restriction: Restriction = UNRESTRICTED
) -> Trial:
    """On this machine, with all the time there is; nothing is kept on disk."""
    monitor = BuildMonitor(Budget())
    judges = Judges(model.source.task, model.samples, model.source.graph, monitor)
    return Trial(judges, machine or probe(), monitor, restriction=restriction)
