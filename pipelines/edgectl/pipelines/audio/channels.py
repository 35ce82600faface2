"""Several channels become one: their mean, or one of them. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from edgectl.core.errors import SourceError
from edgectl.pipelines.audio.blocks import Samples

__all__ = ["MAX_CHANNELS", "Channel", "Mixed", "check_channel", "mix"]

MAX_CHANNELS = 64  # FFmpeg's resampler takes no more

Channel = Literal["mean", "left", "right"] | Annotated[int, Field(ge=1, le=MAX_CHANNELS)]
"""``mean`` of all channels, or one of them: ``left`` is number 1, ``right`` number 2."""


@dataclass(frozen=True)
class Mixed:
    data: Samples
    """float32 ``(n,)`` in ±1."""
    unmixed: Samples | None
    """See :class:`~edgectl.pipelines.audio.blocks.AudioBlock`."""
    repaired: int
    """Samples that were no numbers, and became 0."""
    clipped: int
    """Samples that were beyond ±1."""


def channel_index(channel: Channel) -> int | None:
    """Counted from 0; None: the mean of all."""
    if channel == "mean":
        return None
    return {"left": 0, "right": 1}[channel] if isinstance(channel, str) else channel - 1


def check_channel(channel: Channel, channels: int, what: str) -> None:
    """Raises :class:`SourceError` if ``what``, which has so many channels, lacks the one that is wanted."""
    index = channel_index(channel)
    if index is not None and index >= channels:
        have = "one channel" if channels == 1 else f"{channels} channels"
        raise SourceError(
            f"{what} has {have}, so there is no channel {channel!r}",
            hint="leave `channel` out for the mean of all",
        )


def mix(samples: NDArray[Any], channel: Channel) -> Mixed:
    """One channel from float samples ``(n, channels)``.

    The mean never exceeds what the loudest channel has, so alike channels sound as one of them, and nothing
    is scaled by how many there are. Sums of channels, which film mixers use, are up to 3 dB louder for two.
    """
    bad = ~np.isfinite(samples)
    repaired = int(bad.any(axis=1).sum())
    if repaired:
        samples = np.where(bad, 0.0, samples)
    index = channel_index(channel)
    unmixed: Samples | None = None
    if index is not None:
        mono = samples[:, index]
    elif samples.shape[1] == 1:
        mono = samples[:, 0]
    else:
        mono = samples.mean(axis=1, dtype=np.float64)
        # as the mean is: overdriven channels must not look as if they cancelled each other
        heard = np.clip(samples, -1.0, 1.0)
        unmixed = np.asarray(np.square(heard, dtype=np.float64).mean(axis=1) / samples.shape[1], np.float32)
    clipped = int((np.abs(mono) > 1).sum())
    return Mixed(np.asarray(np.clip(mono, -1.0, 1.0), np.float32), unmixed, repaired, clipped)
