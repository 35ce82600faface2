"""The controller of a fleet: inventory, rollouts and their gates, keys, broker and HTTP interface."""

from typing import TYPE_CHECKING

from edgectl.core.lazy import lazy_names

__all__ = [
    "Controller",
    "ControllerConfig",
    "DeviceView",
    "FleetClient",
    "RolloutProgress",
    "RolloutRequest",
    "RolloutSpec",
    "decide",
    "load_controller_config",
    "publish_bundle",
    "run_controller",
]

if TYPE_CHECKING:
    from edgectl.fleet.client.client import FleetClient
    from edgectl.fleet.client.publish import publish_bundle
    from edgectl.fleet.config import ControllerConfig, load_controller_config
    from edgectl.fleet.control.controller import Controller
    from edgectl.fleet.rollouts.planner import decide
    from edgectl.fleet.rollouts.values import DeviceView, RolloutProgress, RolloutRequest, RolloutSpec
    from edgectl.fleet.service import run_controller
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "edgectl.fleet.client.client": ("FleetClient",),
            "edgectl.fleet.client.publish": ("publish_bundle",),
            "edgectl.fleet.config": ("ControllerConfig", "load_controller_config"),
            "edgectl.fleet.control.controller": ("Controller",),
            "edgectl.fleet.rollouts.planner": ("decide",),
            "edgectl.fleet.rollouts.values": (
                "DeviceView",
                "RolloutProgress",
                "RolloutRequest",
                "RolloutSpec",
            ),
            "edgectl.fleet.service": ("run_controller",),
        },
    )
