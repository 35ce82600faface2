"""Open an engine and run it: one file per runtime, the finaliser, the golden check, and measurement.

Importing this package imports no runtime; opening the first engine does.
"""

from typing import TYPE_CHECKING

from edgectl.core.lazy import lazy_names

__all__ = [
    "Engine",
    "Feeds",
    "GoldenResult",
    "Outputs",
    "WarmReport",
    "check_golden",
    "open_engine",
    "open_model",
    "warm_up",
]

if TYPE_CHECKING:
    from edgectl.engines.base import Engine, Feeds, Outputs
    from edgectl.engines.finalise.golden import GoldenResult, check_golden
    from edgectl.engines.finalise.open import open_engine, open_model
    from edgectl.engines.finalise.trial import WarmReport, warm_up
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "edgectl.engines.base": ("Engine", "Feeds", "Outputs"),
            "edgectl.engines.finalise.golden": ("GoldenResult", "check_golden"),
            "edgectl.engines.finalise.open": ("open_engine", "open_model"),
            "edgectl.engines.finalise.trial": ("WarmReport", "warm_up"),
        },
    )
