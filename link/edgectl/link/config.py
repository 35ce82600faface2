"""The ``[broker]`` table of every TOML file that needs one."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from edgectl.core.schema import Config
from edgectl.link.mqtt import BrokerOptions, Tls

__all__ = ["BrokerConfig"]


class BrokerConfig(Config):
    """``[broker]``. ``ca`` (with ``tls = true``), ``cert`` and ``key`` are PEM files; relative paths are
    relative to the TOML file."""

    host: str
    port: int = Field(default=1883, ge=1, le=65535)
    username: str | None = None
    password: str | None = Field(default=None, repr=False)
    tls: bool = False
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    def relative_to(self, base: Path) -> BrokerConfig:
        """With relative paths taken from ``base``, the folder of the file."""
        return self.model_copy(
            update={k: base / v for k in ("ca", "cert", "key") if (v := getattr(self, k)) is not None}
        )

    def options(self) -> BrokerOptions:
        tls = Tls(self.ca, self.cert, self.key) if self.tls else None
        return BrokerOptions(self.host, self.port, self.username, self.password, tls)
