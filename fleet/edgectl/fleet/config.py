"""``controller.toml``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from edgectl.core.config_file import read_toml
from edgectl.core.licence import LicencePolicy
from edgectl.core.schema import Config, Name
from edgectl.core.transfer import Rates
from edgectl.fleet.alerts.settings import AlertsConfig
from edgectl.link.config import BrokerConfig

__all__ = [
    "ApiConfig",
    "ControllerConfig",
    "OtlpConfig",
    "TelemetryRetention",
    "TransferConfig",
    "load_controller_config",
]


class ApiConfig(Config):
    """``[api]``. Loopback by default; the token lies in ``<state_dir>/token``."""

    host: str = "127.0.0.1"
    port: int = Field(default=8765, ge=1, le=65535)
    max_blob_mb: int = Field(default=4096, ge=1)
    metrics: Literal["loopback", "token", "off"] = "loopback"
    """Who may read ``/metrics`` without the token: programs on this very machine, or nobody; ``off``: there is none."""


class TransferConfig(Config):
    """``[transfer]``: kB/s (1000 bytes) that the seeder sends at most, and whether devices may help it.
    Without a number: no limit."""

    total_kb_s: int | None = Field(default=None, ge=8)
    site_kb_s: int | None = Field(default=None, ge=8)
    """Into one site; what every device of it receives counts, see ``site_broker``."""
    device_kb_s: int | None = Field(default=None, ge=8)
    """To one device; it may ask for less in its ``agent.toml``."""
    site_broker: bool = False
    """Every site has a broker of its own, bridged to the controller's: a broadcast counts once a site."""
    peers: bool = False
    """Devices whose ``agent.toml`` says ``seed_peers = true`` may seed their site while the controller
    does not."""

    def rates(self) -> Rates:
        total, site, device = (n and n * 1000 for n in (self.total_kb_s, self.site_kb_s, self.device_kb_s))
        return Rates(total=total, site=site, device=device, site_broker=self.site_broker)


class OtlpConfig(Config):
    """``[otlp]``: a collector of OpenTelemetry that the metrics of ``/metrics`` are pushed to."""

    endpoint: str = Field(repr=False, max_length=2048, pattern=r"^https?://[^\s/]+/\S*$")
    """The whole address: ``https://collector.lan:4318/v1/metrics``."""
    headers: dict[str, str] = Field(default={}, repr=False, max_length=32)
    """Sent with each push, e.g. ``authorization``; never printed."""
    period_s: float = Field(default=60.0, ge=1, le=3600)
    temporality: Literal["cumulative", "delta"] = "cumulative"
    """Counters and histograms since the controller began, or since the last push that was taken."""


class TelemetryRetention(Config):
    """``[retention]``: how long what devices measured is kept, and as what."""

    raw_hours: float = Field(default=24.0, ge=1, le=24 * 400)
    """Messages as they came; then histograms of an hour,"""
    hourly_days: float = Field(default=30.0, ge=1, le=4000)
    """and of a day."""
    daily_days: float = Field(default=400.0, ge=1, le=4000)
    telemetry_mb: int = Field(default=1024, ge=1)
    """All of them together (10^6 bytes): where they are more, the oldest move on before their time."""


class ControllerConfig(Config):
    fleet: Name = "home"
    broker: BrokerConfig
    state_dir: Path
    keys: Path
    """Folder with ``online.pem``, ``director.pem``, every ``N.root.json`` and, at first, ``targets.json``
    and delegations."""
    director: tuple[Path, ...] = ()
    """Files or folders with the director's private keys; none: the folder of ``keys``."""
    api: ApiConfig = ApiConfig()
    transfer: TransferConfig = TransferConfig()
    database: str | None = None
    """SQLAlchemy URL; None: SQLite in the state folder."""
    metadata_days: float = Field(default=7.0, gt=0, le=365)
    """Lifetime of snapshot and timestamp; renewed at half of it."""
    licences: LicencePolicy = LicencePolicy()
    """Which weights it delivers."""
    retention: TelemetryRetention = TelemetryRetention()
    alerts: AlertsConfig = AlertsConfig()
    otlp: OtlpConfig | None = None
    tick_s: float = Field(default=0.5, gt=0, le=60)
    states_days: float = Field(default=30.0, gt=0)
    """How long what devices said is kept (`edgectl fleet events`); what operators did is kept for ever."""


def load_controller_config(path: Path) -> ControllerConfig:
    """Read ``controller.toml``; relative paths are relative to it. Raises :class:`UsageError` with the line
    and the setting."""
    config = read_toml(path).validate(ControllerConfig)
    base = path.resolve().parent
    return config.model_copy(
        update={
            "state_dir": base / config.state_dir,
            "keys": base / config.keys,
            "director": tuple(base / p for p in config.director),
            "broker": config.broker.relative_to(base),
            "alerts": config.alerts.relative_to(base),
        }
    )
