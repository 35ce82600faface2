"""What the configuration of a stream says of one part of its second stage."""

from __future__ import annotations

from pydantic import Field

from edgectl.core.schema import Config, Name

__all__ = ["SecondStageConfig", "still_config"]


class SecondStageConfig(Config):
    part: Name
    """What the attribute is called, and the part that has the engine: `--bundle gear=PATH`, or `gear` under `slots`."""
    classes: tuple[str, ...] = ()
    """Labels whose tracks are looked at; empty: all."""
    min_height_px: float = Field(default=48.0, ge=4, le=8192)
    """A box that is less high is not looked at."""
    margin: float = Field(default=0.0, ge=0, le=2)
    """Of the box's size, how much more than the box the crop shows on each side."""
    votes: int = Field(default=5, ge=1, le=64)
    """So many answers, the last ones, decide. Before there are as many the attribute is undecided."""
    agree: float = Field(default=0.6, gt=0.5, le=1)
    """How much of the weight of these votes a value needs; a vote weighs its score. Where none has it, what was
    decided before stays."""
    score: float | None = Field(default=None, ge=0, le=1)
    """An answer below is no vote. none: what the model's task says (`decode.score`)."""
    every_s: float = Field(default=0.2, ge=0, le=3600)
    """A track is looked at at most so often until it is decided."""
    again_s: float | None = Field(default=2.0, ge=0, le=86400)
    """The same once it is decided. none: never again."""
    within_s: float = Field(default=1.0, gt=0, le=60)
    """A crop of a camera that waited longer for the engine is dropped."""


def still_config(config: SecondStageConfig) -> SecondStageConfig:
    """For still pictures, each of which is one answer."""
    return config.model_copy(update={"votes": 1, "every_s": 0.0})
