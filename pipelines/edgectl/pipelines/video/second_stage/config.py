"""What the configuration of a stream says of a further model: one that looks at crops of tracks, or at the whole
picture."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from edgectl.core.schema import Config, Name

__all__ = ["SceneConfig", "SecondStageConfig", "still_config"]


class SecondStageConfig(Config):
    part: Name
    """What the attribute is called, and the part that has the engine: `--bundle gear=FOLDER`, or `gear` under `slots`."""
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
    """An answer of a classifier below is no vote; a detector confirms from here on. none: what the model's task says
    (`decode.score`)."""
    every_s: float = Field(default=0.2, ge=0, le=3600)
    """A track is looked at at most so often until it is decided."""
    again_s: float | None = Field(default=2.0, ge=0, le=86400)
    """The same once it is decided. none: never again."""
    share: dict[str, Annotated[float, Field(gt=0, le=1)]] = Field(default={}, max_length=64)
    """Of a model that says what each pixel is: label → how much of the crop makes it the value; the first that takes so
    much. Where none does it is the label that takes most."""
    within_s: float = Field(default=1.0, gt=0, le=60)
    """A crop of a camera that waited longer for the engine is dropped."""


class SceneConfig(Config):
    part: Name
    """What the state is called, and the part that has the engine: `--bundle gate=PATH`, or `gate` under `slots`."""
    region: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    """Left, top, right and bottom of the rectangle that is looked at, relative to the frame."""
    every_s: float = Field(default=0.5, ge=0, le=86400)
    """It is looked at at most so often."""
    votes: int = Field(default=5, ge=1, le=64)
    """So many answers, the last ones, decide. Before there are as many the state is undecided."""
    agree: float = Field(default=0.6, gt=0.5, le=1)
    """How much of the weight of these votes a state needs; a vote weighs its score. Where none has it, the state
    stays."""
    score: float | None = Field(default=None, ge=0, le=1)
    """An answer below is no vote. none: what the model's task says (`decode.score`)."""
    share: dict[str, Annotated[float, Field(gt=0, le=1)]] = Field(default={}, max_length=64)
    """Of a model that says what each pixel is: label → how much of the region makes it the state; the first that takes so
    much. Where none does it is the label that takes most."""
    within_s: float = Field(default=1.0, gt=0, le=60)
    """A picture of a camera that waited longer for the engine is dropped."""

    @model_validator(mode="after")
    def _has_a_size(self) -> SceneConfig:
        left, top, right, bottom = self.region
        if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
            raise ValueError("region must be left, top, right, bottom, each within 0..1, and have a size")
        return self

    def stage(self) -> SecondStageConfig:
        """The same, as if the region were the box of a track."""
        return SecondStageConfig(
            part=self.part,
            min_height_px=4,
            votes=self.votes,
            agree=self.agree,
            score=self.score,
            share=self.share,
            every_s=self.every_s,
            again_s=self.every_s,
            within_s=self.within_s,
        )


def still_config(config: SecondStageConfig) -> SecondStageConfig:
    """For still pictures, each of which is one answer."""
    return config.model_copy(update={"votes": 1, "every_s": 0.0})
