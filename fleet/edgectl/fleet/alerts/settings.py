"""``[alerts]`` of ``controller.toml``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from edgectl.core.schema import Config

__all__ = ["AlertsConfig", "RuleName"]


RuleName = Literal[
    "deadline", "silence", "stream", "data_quality", "certificate", "metadata", "disk", "broker"
]
"""The keys of the table of rules."""


class AlertsConfig(Config):
    """``[alerts]``: what somebody is told of, and where."""

    off: tuple[RuleName, ...] = ()
    """Rules that do not look."""
    mqtt: bool = True
    """Each alert that fires is a retained message on ``edgectl/1/FLEET/alert/RULE/SITE``, until it ends."""
    webhook: str | None = Field(default=None, repr=False, max_length=2048)
    """``https://…`` or ``http://…`` that each change is sent to."""
    webhook_secret: Path | None = None
    """File with the key by which the body is signed (HMAC-SHA256)."""
    slo: float = Field(default=0.99, gt=0, lt=1)
    """Share of frames that is to be within its budget."""
    silent_windows: float = Field(default=3.0, ge=2, le=100)
    """Periods of telemetry without a message after which a device is silent; three minutes at least."""
    expiry_days: float = Field(default=14.0, gt=0, le=365)
    """How long before a certificate ends."""
    disk_free_mb: float = Field(default=500.0, ge=0)

    def relative_to(self, base: Path) -> AlertsConfig:
        """With a relative path taken from ``base``, the folder of the file."""
        secret = None if self.webhook_secret is None else base / self.webhook_secret
        return self.model_copy(update={"webhook_secret": secret})

    @field_validator("webhook")
    @classmethod
    def _is_an_address(cls, url: str | None) -> str | None:
        if url is None:
            return None
        try:
            parts = urlsplit(url)
            good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
        except ValueError:
            good = False
        if not good or not url.isascii() or any(c.isspace() for c in url):
            raise ValueError("it must be an address that begins with https:// or http://")
        return url

    @model_validator(mode="after")
    def _signs(self) -> AlertsConfig:
        if self.webhook is not None and self.webhook_secret is None:
            raise ValueError(
                "webhook_secret names no file: whoever receives alerts has to know that they are ours"
            )
        return self
