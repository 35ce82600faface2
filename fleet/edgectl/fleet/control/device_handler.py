"""Handlers for what devices publish: whoever may publish may publish anything."""

from __future__ import annotations

import logging
from collections.abc import Callable

from edgectl.core.errors import EdgectlError
from edgectl.core.files import check_name
from edgectl.core.wire import Topics
from edgectl.link.mqtt import Handler

__all__ = ["from_device"]

log = logging.getLogger(__name__)


def from_device(topics: Topics, handle: Callable[[str, bytes], None], *, empty: bool = False) -> Handler:
    """A handler for topics of devices that calls ``handle(device, payload)``, and logs the
    :class:`EdgectlError` of what makes no sense.

    ``empty``: also for an empty payload, with which a retained message is deleted.
    """

    def handler(topic: str, payload: bytes) -> None:
        levels = topics.parse(topic)
        if levels is None or not (payload or empty):
            return
        try:
            # who is called otherwise could not be answered: names become topics
            handle(check_name(levels[1]), payload)
        except ValueError as e:
            log.warning("%s: %s", topic, e)
        except EdgectlError as e:
            log.warning("%s: %s", topic, e.message)

    return handler
