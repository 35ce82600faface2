"""Logs of the services: one line each on stderr, which is what journald and the demo's log files take."""

from __future__ import annotations

import logging
import sys

from edgectl.core.uri import RedactingFormatter

__all__ = ["log_inside", "log_to_stderr"]


def log_to_stderr(level: int = logging.INFO) -> None:
    """Send every logger's records to stderr as ``LEVEL name: message``; the journal adds the time."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(RedactingFormatter("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=level, handlers=[handler], force=True)


def log_inside() -> None:
    """What ``--debug`` asks for: our own records of every level, too."""
    log_to_stderr()
    logging.getLogger("edgectl").setLevel(logging.DEBUG)
