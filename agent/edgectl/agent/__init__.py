"""The service on a device: it installs signed releases, runs the workers, watches them, and reports."""

from typing import TYPE_CHECKING

from edgectl.core.lazy import lazy_names

__all__ = [
    "AgentConfig",
    "AgentParts",
    "StreamConfig",
    "default_parts",
    "load_agent_config",
    "run_agent",
]

if TYPE_CHECKING:
    from edgectl.agent.config import AgentConfig, StreamConfig, load_agent_config
    from edgectl.agent.service import AgentParts, default_parts, run_agent
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "edgectl.agent.config": ("AgentConfig", "StreamConfig", "load_agent_config"),
            "edgectl.agent.service": ("AgentParts", "default_parts", "run_agent"),
        },
    )
