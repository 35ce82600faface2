"""Words and rules that every component shares: errors, digests, task and bundle schemas, wire messages,
histograms.

No threads and no sockets here; files are read and written, nothing is kept open. Importing any part of
edgectl imports this package first, so this is where runtimes are told to keep quiet
(:mod:`edgectl.core.privacy`).
"""

from typing import TYPE_CHECKING

from edgectl.core.lazy import lazy_names
from edgectl.core.privacy import opt_out

__all__ = [
    "Bundle",
    "Descriptor",
    "Desired",
    "DesiredSlot",
    "EdgectlError",
    "Histogram",
    "HistogramData",
    "Preference",
    "Reported",
    "State",
    "TaskSpec",
    "Telemetry",
    "Topics",
    "Variant",
    "select",
]

opt_out()

if TYPE_CHECKING:
    from edgectl.core.bundle import Bundle, Descriptor, Preference, Variant, select
    from edgectl.core.errors import EdgectlError
    from edgectl.core.histogram import Histogram, HistogramData
    from edgectl.core.states import State
    from edgectl.core.task import TaskSpec
    from edgectl.core.wire import Desired, DesiredSlot, Reported, Telemetry, Topics
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "edgectl.core.bundle": ("Bundle", "Descriptor", "Preference", "Variant", "select"),
            "edgectl.core.errors": ("EdgectlError",),
            "edgectl.core.histogram": ("Histogram", "HistogramData"),
            "edgectl.core.states": ("State",),
            "edgectl.core.task": ("TaskSpec",),
            "edgectl.core.wire": ("Desired", "DesiredSlot", "Reported", "Telemetry", "Topics"),
        },
    )
