"""Float engines near to those of the release before, so that an update takes few bytes.

They are several times as large as the int8 ones. Each weight is rounded to a number whose low bits are those
of the weight before, so that only the high ones travel.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from edgectl.builder.graph import GraphIndex
from edgectl.builder.ingest.pixels import PixelFed
from edgectl.builder.int8.model import QuantizedModel
from edgectl.builder.int8.previous_release import ConstantReader, PreviousRelease
from edgectl.builder.variants.draft import VariantDraft
from edgectl.builder.variants.trial import Trial
from edgectl.core.bundle import SessionSettings
from edgectl.core.delta import make_delta
from edgectl.core.task import ImageInput
from edgectl.engines.finalise.open import open_model

__all__ = ["near", "update_notes", "with_near_floats"]

_KEPT_BITS = 15
"""Of the 23 that a float32's fraction has: a weight is off by at most 2⁻⁹ of itself, all of them together
by 60 dB: 20 dB below int8."""
_NEAR_SHARE = 0.1  # of the accuracy budget: what that may cost


def with_near_floats(
    release: PreviousRelease,
    drafts: Sequence[VariantDraft],
    model: QuantizedModel,
    trial: Trial,
) -> list[VariantDraft]:
    """``drafts``, with the float32 engines that the release has, too, near to those (:func:`near`), where
    that costs at most a tenth of the accuracy budget on the confirmation slice."""
    found, spec = [], model.source.task.input
    for d in drafts:
        old = release.engines.get((d.profile, d.variant))
        plain = d.precision == "float32" and not d.engine_layers
        moved = near(d.model, old) if plain and old is not None else d.model
        if moved == d.model:
            found.append(d)
            continue
        engine = open_model(moved, SessionSettings())
        if d.picture is not None and isinstance(spec, ImageInput):
            engine = PixelFed(engine, spec)
        with contextlib.closing(engine):
            accuracy = trial.judges.confirmation.judge(engine)
        if accuracy.drop > model.max_drop * _NEAR_SHARE:
            trial.monitor.note(
                f"{d.profile}: {d.variant} near to that of {release.name} loses {accuracy.drop:.4f}: it ships as it is"
            )
            found.append(d)
            continue
        recipe = d.recipe.model_copy(update={"passes": (*d.recipe.passes, "near")})
        found.append(
            replace(d, model=moved, recipe=recipe, accuracy=None if d.accuracy is None else accuracy)
        )
    return found


def near(new: bytes, old: bytes) -> bytes:
    """``new`` (an ONNX file) with each float32 weight at the nearest number whose low 15 bits are those of
    its partner in ``old``.

    Partners are the constants of one shape at one input of nodes of one name and kind. Zeros stay zeros, and
    nothing becomes subnormal.
    """
    changed = onnx.load_from_string(new)
    index, was = GraphIndex(changed), ConstantReader(GraphIndex(onnx.load_from_string(old)))
    done: set[str] = set()
    for n in index.nodes:
        for i, name in enumerate(n.input):
            tensor = index.initializers.get(name)
            if tensor is None or name in done or tensor.data_type != onnx.TensorProto.FLOAT:
                continue
            partner = was.tensor(n, i)
            if partner is None or partner.dtype != np.float32 or partner.shape != tuple(tensor.dims):
                continue
            done.add(name)
            value = _on_lattice(numpy_helper.to_array(tensor), partner.astype(np.float32))
            tensor.CopyFrom(numpy_helper.from_array(value, name))
    return bytes(changed.SerializeToString(deterministic=True)) if done else new


def _on_lattice(new: NDArray[np.float32], old: NDArray[np.float32]) -> NDArray[np.float32]:
    a, b = (np.ascontiguousarray(x).view(np.uint32).astype(np.int64) for x in (new, old))
    step = 1 << _KEPT_BITS
    bits = b + np.rint((a - b) / step).astype(np.int64) * step
    found = (bits & 0xFFFFFFFF).astype(np.uint32).view(np.float32)
    usable = np.isfinite(found) & (np.abs(found - new) <= np.abs(new) * 2.0 ** (_KEPT_BITS - 24)) & (new != 0)
    return np.where(usable, found, new)


def update_notes(release: PreviousRelease, drafts: Sequence[VariantDraft]) -> list[str]:
    """What each variant that the release has, too, costs as a difference to it, and what has no successor."""
    notes = []
    for d in drafts:
        old = release.engines.get((d.profile, d.variant))
        made = None if old is None else make_delta(old, d.model)
        if made is not None:
            notes.append(
                f"{d.profile}: {d.variant} takes {len(made):,} bytes as a difference to {release.name}, "
                f"{len(made) / len(d.model):.1%} of {len(d.model):,}"
            )
    for profile, variant in release.engines.keys() - {(d.profile, d.variant) for d in drafts}:
        if profile in {d.profile for d in drafts}:
            notes.append(
                f"{profile}: {variant} of {release.name} has no successor: who runs it fetches another engine whole"
            )
    return sorted(notes)
