"""Device profiles: what a kind of device can do, the catalogue of them, and what this very machine is."""

from typing import TYPE_CHECKING

from edgectl.core.lazy import lazy_names

__all__ = [
    "DeviceProfile",
    "Machine",
    "best_profile",
    "load_profile",
    "missing_facts",
    "probe",
    "profile_names",
]

if TYPE_CHECKING:
    from edgectl.device_profiles.catalogue import load_profile, profile_names
    from edgectl.device_profiles.machine import Machine, best_profile, missing_facts, probe
    from edgectl.device_profiles.schema import DeviceProfile
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "edgectl.device_profiles.catalogue": ("load_profile", "profile_names"),
            "edgectl.device_profiles.machine": ("Machine", "best_profile", "missing_facts", "probe"),
            "edgectl.device_profiles.schema": ("DeviceProfile",),
        },
    )
