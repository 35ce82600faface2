"""What NVIDIA's own compiler said to a graph."""

from __future__ import annotations

from pydantic import Field

from edgectl.core.schema import Config

__all__ = ["Acceptance"]


class Acceptance(Config):
    """Whether TensorRT-RTX's parser and builder take a graph with its types and its Q/DQ placement. Not that it ran, nor
    how fast, nor how another TensorRT fuses it."""

    compiler: str = Field(max_length=100)
    """With its version: ``TensorRT-RTX 1.7.1.116``."""
    sm: tuple[str, ...] = Field(max_length=16)
    """Compute capabilities that it compiled for."""
    accepted: bool
    sentence: str = Field(default="", max_length=1000)
    """Why it refuses, in the vendor's words."""
    node: str = Field(default="", max_length=500)
    """Of the graph, where the vendor names one."""
    warnings: tuple[str, ...] = Field(default=(), max_length=32)
    layers: int = Field(default=0, ge=0)
    """Of the network that the parser made."""
    engine_bytes: int = Field(default=0, ge=0)
    activation_bytes: int = Field(default=0, ge=0)
    """Device memory for what is computed in between."""
    weight_bytes: int = Field(default=0, ge=0)

    def told(self) -> str:
        """For people, in a sentence without its end."""
        sms = ", ".join(self.sm)
        if self.accepted:
            return f"accepted by {self.compiler} for SM {sms}"
        where = f" at {self.node}" if self.node else ""
        return f"refused by {self.compiler} for SM {sms}{where}: {self.sentence}"
