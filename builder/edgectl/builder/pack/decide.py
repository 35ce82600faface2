"""``edgectl bench DIR --decide``: which variant comes first is decided again, from what was measured on this
machine while it was quiet.

:func:`decide` is pure. :func:`rewrite` writes the whole bundle anew beside its place and renames it, so that
  it is the old one or the new one, and valid,
whatever happens; its digest changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgectl.builder.pack.bench import BenchReport, BenchRow
from edgectl.builder.pack.package import VariantContent, write_bundle
from edgectl.builder.pack.report import SearchReport, read_report
from edgectl.builder.search.candidates import Cause
from edgectl.core.bundle import (
    LAYER_REPORT,
    LAYER_WEIGHTS,
    PREFERENCES,
    Bundle,
    Preference,
    Variant,
    VariantConfig,
)
from edgectl.core.errors import BusyError
from edgectl.core.files import hex_of
from edgectl.core.measured import Context, Standing

__all__ = ["Decision", "Placed", "decide", "rewrite"]


@dataclass(frozen=True)
class Placed:
    """A variant (profile, name) of the bundle as it will be, in its order, and what it is best at then."""

    profile: str
    variant: str
    preferences: tuple[Preference, ...]


@dataclass(frozen=True)
class Decision:
    """What comes of a measurement. ``undecided``: why nothing can be said; then ``order`` is empty and
    nothing is written."""

    order: tuple[Placed, ...]
    sentences: tuple[str, ...]
    """What was decided, a profile each."""
    undecided: tuple[str, ...] = ()
    changed: bool = False


def decide(configs: Sequence[VariantConfig], report: BenchReport) -> Decision:
    """The order and preferences of the variants. In each profile whose float and quantized engines both ran here
    the fastest quantized one that is faster than float comes first; one that is not leaves the bundle, and
    what comes first takes over its preferences (float: that of the accurate one). All others stay as they are.
    """
    rows = {(r.profile, r.variant): r for r in report.rows if r.skipped is None}
    if report.busy_because:
        return Decision((), (), report.busy_because)
    order: list[Placed] = []
    sentences: list[str] = []
    for profile in dict.fromkeys(c.profile for c in configs):
        own = [c for c in configs if c.profile == profile]
        placed, said = _of_profile(own, rows)
        order += placed
        sentences += said
    before = [Placed(c.profile, c.variant, c.preferences) for c in configs]
    return Decision(tuple(order), tuple(sentences), changed=order != before)


def rewrite(root: Path, decision: Decision, report: BenchReport) -> str:
    """Write the bundle as it was decided, with what was measured; every blob is checked first. Returns its
    digest.

    Raises :class:`IntegrityError` for a damaged bundle, :class:`BusyError` for one that is no longer what was
    measured, and
    :class:`StorageError` for a full disk; the bundle is then as it was.
    """
    bundle = Bundle(root)
    if bundle.digest != report.digest:
        raise BusyError(
            f"{root} was written anew while it was measured, and stays as it is", hint="try again"
        )
    bundle.verify()
    if not decision.order:
        return bundle.digest
    rows = {(r.profile, r.variant): r for r in report.rows}
    by_name = {(v.config.profile, v.config.variant): v for v in bundle.variants}
    contents = []
    for p in decision.order:
        v = by_name[p.profile, p.variant]
        config = _measured_again(
            v.config.model_copy(update={"preferences": p.preferences}), rows.get((p.profile, p.variant))
        )
        contents.append(VariantContent(config, tuple(_layers(v, decision))))
    return write_bundle(root, contents, name=bundle.name, version=bundle.version)


def _of_profile(
    own: Sequence[VariantConfig], rows: Mapping[tuple[str, str], BenchRow]
) -> tuple[list[Placed], list[str]]:
    kept = [Placed(c.profile, c.variant, c.preferences) for c in own]
    known = {
        c.variant: rows[c.profile, c.variant]
        for c in own
        if (c.profile, c.variant) in rows and c.measured is not None
    }
    floats = [c for c in own if c.variant in known and c.recipe.precision == "float32"]
    quantized = [
        c
        for c in own
        if c.variant in known
        and c.recipe.precision != "float32"
        and "small-input" not in c.preferences
        and known[c.variant].standing is not None
    ]
    # nothing was told against a float of this profile
    if not quantized or all(known[c.variant].standing is not None for c in floats):
        return kept, []
    profile = own[0].profile
    open_ = [c.variant for c in quantized if known[c.variant].standing is Standing.UNDECIDED]
    if open_:
        return kept, [
            f"{profile}: stays as it was: too few calls of {', '.join(open_)} to tell; give more --seconds"
        ]
    faster = [c for c in quantized if known[c.variant].standing is Standing.FASTER]
    lead = min(faster, key=lambda c: (_ratio(known[c.variant]), c.variant)) if faster else floats[0]
    gone = {c.variant for c in quantized if c not in faster}
    freed = {preference for c in quantized if c.variant in gone for preference in c.preferences}
    first_in_runtime = [
        c for c in faster if "fast" in c.preferences and c.runtime != lead.runtime
    ]  # for devices that lack the other runtime

    def preferences(c: VariantConfig) -> tuple[Preference, ...]:
        wanted = set(c.preferences)
        if c is lead:
            wanted |= {"fast", *(freed - {"accurate"})}
        elif c.variant in known and c not in first_in_runtime:
            wanted -= {"fast"}
        # the lead may lose more than what was the accurate one
        if c is floats[0] and "accurate" in freed:
            wanted |= {"accurate"}
        return tuple(r for r in PREFERENCES if r in wanted)

    stay = [c for c in own if c.variant not in gone]
    stay = [lead, *(c for c in stay if c is not lead)] if not lead.fallback else stay
    sentences = [
        f"{profile}: {lead.variant} comes first"
        + (
            f": {_figures(known[lead.variant])} the time of {_name_of_float(floats)}"
            if faster
            else ": no quantized engine is faster"
        )
    ]
    sentences += [
        f"{profile}: {v} leaves the bundle: {_standing(known[v])} ({_figures(known[v])} float)"
        for v in sorted(gone)
    ]
    sentences += [
        f"{profile}: {c.variant} did not run here and stays as it was" for c in stay if _unknown(c, known)
    ]
    return [Placed(c.profile, c.variant, preferences(c)) for c in stay], sentences


def _unknown(c: VariantConfig, known: Mapping[str, BenchRow]) -> bool:
    """Whether a variant was measured by the build, and could not be here."""
    return c.measured is not None and c.variant not in known


def _name_of_float(floats: Sequence[VariantConfig]) -> str:
    return next((c.variant for c in floats if c.fallback), floats[0].variant)


def _standing(row: BenchRow) -> str:
    return "slower than float" if row.standing is Standing.SLOWER else "equal to float"


def _figures(row: BenchRow) -> str:
    of = [c for c in row.contexts if c.context is not Context.BESIDE and c.ratio is not None]
    return ", ".join(f"{c.ratio:.2f} × {c.context.value} [{c.low:.2f}, {c.high:.2f}]" for c in of)


def _ratio(row: BenchRow) -> float:
    return row.ratio.median if row.ratio is not None else float("inf")


def _measured_again(config: VariantConfig, row: BenchRow | None) -> VariantConfig:
    """With what was measured now, where it was."""
    if row is None or row.fresh is None or config.measured is None:
        return config
    alone = next((c.ratio for c in row.contexts if c.context is Context.ALONE), None)
    ratio = config.measured.ratio_to_float if row.standing is None else alone
    update = {"fresh": row.fresh, "standing": row.standing, "ratio_to_float": ratio}
    again: dict[str, object] = {"measured": config.measured.model_copy(update=update)}
    if config.expected_rss_mb is not None:
        again["expected_rss_mb"] = row.fresh.rss_mb
    if config.batch == 1 and row.fresh.memory is not None:
        again["memory"] = row.fresh.memory  # with a batch it is that of calls of many
    return config.model_copy(update=again)


def _layers(v: Variant, decision: Decision) -> list[tuple[str, bytes | Path]]:
    """The layers as they are, but for what the report says of the decision."""
    found: list[tuple[str, bytes | Path]] = []
    for d in v.manifest.layers:
        blob = v.blobs / hex_of(d.digest)
        data: bytes | Path = blob if d.mediaType == LAYER_WEIGHTS else blob.read_bytes()
        if d.mediaType == LAYER_REPORT and (report := read_report(v)) is not None:
            data = _decided(report, decision).model_dump_json(exclude_none=True).encode()
        found.append((d.mediaType, data))
    return found


def _decided(report: SearchReport, decision: Decision) -> SearchReport:
    causes = {
        g: tuple(c for c in why if c.cause != Cause.UNDECIDED.value) for g, why in report.causes.items()
    }
    return report.model_copy(
        update={"causes": {g: why for g, why in causes.items() if why}, "decided": decision.sentences}
    )
