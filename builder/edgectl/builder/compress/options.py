"""What the user asked for: ``--prune channel:0.3``, ``--prune magnitude:0.5``, ``--prune 2:4``,
``--cluster 32``, ``--recover 5``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from edgectl.core.errors import UsageError

__all__ = ["CompressOptions", "Importance", "parse_options"]

Importance = Literal["magnitude", "activation", "taylor", "hessian"]


@dataclass(frozen=True)
class CompressOptions:
    """``channel`` and ``magnitude`` are the shares to remove (0..0.95), 0: not at all."""

    channel: float = 0.0
    channel_step: int | None = None
    """Channels that are kept come in multiples of this; None: found by a micro-benchmark."""
    magnitude: float = 0.0
    two_of_four: bool = False
    cluster: int = 0
    """Distinct values a weight tensor may have, 0: any."""
    importance: Importance = "magnitude"
    recover_minutes: float = 0.0
    """Of training what pruning left; as many again for int8 that loses accuracy, per kernel family."""
    teach: str | None = None
    """Further unlabelled data for that training."""
    recover_steps: int | None = None
    """Instead of minutes, for figures that do not depend on the machine."""

    def __bool__(self) -> bool:
        """Whether the float graph is changed."""
        return bool(self.channel or self.magnitude or self.two_of_four or self.cluster)


def parse_options(
    prune: Sequence[str] = (),
    *,
    cluster: int = 0,
    importance: str = "magnitude",
    recover_minutes: float = 0.0,
    teach: str | None = None,
) -> CompressOptions:
    """Options from the command line. Raises :class:`UsageError` for what is no option or makes no sense
    together."""
    found: dict[str, object] = {}
    for text in prune:
        kind, _, rest = text.partition(":")
        if text == "2:4":
            found["two_of_four"] = True
        elif kind == "channel":
            share, _, step = rest.partition("/")
            found["channel"] = _share(text, share)
            if step:
                if not step.isdigit() or not 1 <= int(step) <= 64:
                    raise UsageError(f"--prune {text}: the step after / is a number of channels from 1 to 64")
                found["channel_step"] = int(step)
        elif kind == "magnitude":
            found["magnitude"] = _share(text, rest)
        else:
            raise UsageError(
                f"--prune {text} is not known", hint="channel:0.3, channel:0.3/16, magnitude:0.5 or 2:4"
            )
    if "two_of_four" in found and "magnitude" in found:
        raise UsageError(
            "--prune 2:4 and --prune magnitude exclude each other",
            hint="2:4 already removes half of the weights",
        )
    if importance not in get_args(Importance):
        raise UsageError(f"importance {importance!r} is not known", hint=", ".join(get_args(Importance)))
    if cluster and not 2 <= cluster <= 256:
        raise UsageError("--cluster is the number of values of a weight tensor, from 2 to 256")
    if teach is not None and not recover_minutes:
        raise UsageError(
            "--teach is more data for --recover, which was not asked for", hint="give --recover MINUTES"
        )
    return CompressOptions(
        cluster=cluster,
        importance=importance,  # type: ignore[arg-type]
        recover_minutes=recover_minutes,
        teach=teach,
        **found,  # type: ignore[arg-type]
    )


def _share(text: str, number: str) -> float:
    try:
        share = float(number)
    except ValueError:
        share = -1.0
    if not 0.0 < share <= 0.95:
        raise UsageError(f"--prune {text}: the share to remove is a number above 0, at most 0.95")
    return share
