"""The one MQTT adapter: it reconnects with back-off, bounds what is on its way, and leaves a last will. It
knows topics only as strings. Beside it: the sender of blobs, and what systemd is told."""

from typing import TYPE_CHECKING

from edgectl.core.lazy import lazy_names

__all__ = [
    "BlobSeeder",
    "Blobs",
    "BrokerConfig",
    "BrokerOptions",
    "Handle",
    "Link",
    "Spool",
    "SpoolSender",
    "Tls",
    "Watchdog",
]

if TYPE_CHECKING:
    from edgectl.link.config import BrokerConfig
    from edgectl.link.mqtt import BrokerOptions, Handle, Link, Tls
    from edgectl.link.notify import Watchdog
    from edgectl.link.seeder import Blobs, BlobSeeder
    from edgectl.link.spool import Spool, SpoolSender
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "edgectl.link.config": ("BrokerConfig",),
            "edgectl.link.mqtt": ("BrokerOptions", "Handle", "Link", "Tls"),
            "edgectl.link.notify": ("Watchdog",),
            "edgectl.link.seeder": ("Blobs", "BlobSeeder"),
            "edgectl.link.spool": ("Spool", "SpoolSender"),
        },
    )
