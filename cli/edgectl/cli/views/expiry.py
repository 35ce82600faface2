"""When signed metadata end."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from rich.table import Table
from rich.text import Text

from edgectl.cli._printer import table
from edgectl.core.clock import clock_says

__all__ = ["expired_text", "expiry_table", "left_text"]

_SOON_S = {"root": 60 * 86400.0}
_SOON_DEFAULT_S = 21 * 86400.0


def expiry_table(roles: list[dict[str, Any]]) -> Table:
    """Rows of :class:`edgectl.fleet.keys.trust.Expiry` as dictionaries."""
    now = datetime.now(timezone.utc).timestamp()
    t = table("metadata", ">version", "expires in")
    for r in roles:
        t.add_row(r["role"], str(r["version"]), left_text(r["role"], r["expires_s"] - now))
    return t


def expired_text(roles: list[dict[str, Any]]) -> str | None:
    """What of the controller's metadata is over, the clock first: it may be what is wrong. None: nothing
    is."""
    now = datetime.now(timezone.utc).timestamp()
    over = [
        f"{r['role']} ended {datetime.fromtimestamp(r['expires_s'], timezone.utc):%Y-%m-%d}"
        for r in roles
        if r["expires_s"] <= now
    ]
    return f"{clock_says(now)}, and by it signed metadata is expired: {', '.join(over)}" if over else None


def left_text(role: str, left_s: float | None) -> Text:
    """``83 days``, yellow when it is time to renew, red when it is over."""
    if left_s is None:
        return Text("-")
    if left_s <= 0:
        return Text("expired", "red")
    soon = role not in ("snapshot", "timestamp") and left_s < _SOON_S.get(role, _SOON_DEFAULT_S)
    days = f"{left_s / 86400:.0f} days" if left_s >= 2 * 86400 else f"{left_s / 3600:.0f} hours"
    return Text(f"{days}, renew it" if soon else days, "yellow" if soon else "")
