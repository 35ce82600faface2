"""Which variant of a bundle a machine runs. Pure: what the machine has comes in."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field

from edgectl.core.bundle.schema import PREFERENCES, LighterPreference, Preference
from edgectl.core.bundle.variant import Variant
from edgectl.core.errors import AdmissionError, BundleError, UsageError

__all__ = ["Selected", "Unfit", "requirement_met", "runnable", "select", "select_fitting", "select_lighter"]

Unfit = Callable[[Variant], str | None]
"""Why a variant that could run must not, e.g. for want of memory; None: nothing speaks against it."""


@dataclass(frozen=True)
class Selected:
    """The variant that a machine runs, and those before it that it passed over: ``profile/variant`` → why."""

    variant: Variant
    passed_over: dict[str, str] = field(default_factory=dict)


def select(
    variants: Iterable[Variant],
    facts: frozenset[str],
    *,
    profile: str | None,
    runtimes: Iterable[str],
    prefer: Preference | None = None,
) -> Variant:
    """The first variant whose runtime is there and whose ``requires`` the machine's ``facts`` cover. See :func:`runnable`."""
    return runnable(variants, facts, profile=profile, runtimes=runtimes, prefer=prefer)[0]


def select_fitting(
    variants: Iterable[Variant],
    facts: frozenset[str],
    *,
    profile: str | None,
    runtimes: Iterable[str],
    prefer: Preference | None = None,
    unfit: Unfit,
) -> Selected:
    """Like :func:`select`, but one that is ``unfit`` is passed over. Raises :class:`AdmissionError`, with the reason of
    each, where all that could run are."""
    passed: dict[str, str] = {}
    for v in runnable(variants, facts, profile=profile, runtimes=runtimes, prefer=prefer):
        if (why := unfit(v)) is None:
            return Selected(v, passed)
        passed[f"{v.config.profile}/{v.config.variant}"] = why
    raise AdmissionError(
        "; ".join(f"{name} {why}" for name, why in passed.items()),
        hint="stop what else runs, prefer a smaller variant (small-input, low-power), or raise the limit",
    )


def runnable(
    variants: Iterable[Variant],
    facts: frozenset[str],
    *,
    profile: str | None,
    runtimes: Iterable[str],
    prefer: Preference | None = None,
) -> list[Variant]:
    """All variants whose runtime is there and whose ``requires`` the machine's ``facts`` cover, the best first; at least
    one.

    A variant of ``profile`` that has the ``prefer`` goes first, even if it is the fallback; where none has it
    (nothing was measured for that profile), the preference says nothing. Then variants of ``profile`` are
    preferred; a ``fallback`` variant of another profile is taken last. ``small-input`` variants have an
    accuracy budget of their own: nobody gets one who did not ask for it. Raises :class:`BundleError` naming
    what each variant lacks, and :class:`UsageError` for a preference that there is not.
    """
    if prefer is not None and prefer not in PREFERENCES:
        raise UsageError(f"there is no preference {prefer!r}", hint=f"there are: {', '.join(PREFERENCES)}")
    known = [v for v in variants if prefer == "small-input" or "small-input" not in v.config.preferences]
    have = set(runtimes)

    def rank(v: Variant) -> tuple[bool, bool, bool]:
        elsewhere = profile is not None and v.config.profile != profile
        return (
            prefer is not None and (elsewhere or prefer not in v.config.preferences),
            v.config.fallback,
            elsewhere,
        )

    ranked = sorted(known, key=rank)
    found, lacks = [], []
    for v in ranked:
        missing = [r for r in v.config.requires if not requirement_met(r, facts)]
        if v.config.runtime not in have:
            missing.append(f"runtime:{v.config.runtime}")
        if not missing:
            found.append(v)
            continue
        lacks.append(f"{v.config.profile}/{v.config.variant} needs {', '.join(missing)}")
    if found:
        return found
    raise BundleError(
        f"no variant of this bundle runs on this machine ({platform.machine()}): {'; '.join(lacks)}",
        hint="build it with a profile that fits: `edgectl profiles probe` names one",
    )


def select_lighter(
    variants: Sequence[Variant],
    chosen: Variant,
    facts: frozenset[str],
    *,
    runtimes: Collection[str],
    names: Iterable[LighterPreference],
) -> dict[LighterPreference, Variant]:
    """Of the profile of ``chosen``, another variant for each of the names that the bundle has one for and the machine
    can run: for less work."""
    found: dict[LighterPreference, Variant] = {}
    for name in names:
        with contextlib.suppress(BundleError):
            other = select(variants, facts, profile=chosen.config.profile, runtimes=runtimes, prefer=name)
            if name in other.config.preferences and other.digest != chosen.digest:
                found[name] = other
    return found


def requirement_met(requirement: str, facts: frozenset[str]) -> bool:
    """Whether a machine's facts (``arch:x86_64``, ``isa:avx2``, …) cover one requirement; ``a|b`` means
    either."""
    return any(alternative in facts for alternative in requirement.split("|"))
