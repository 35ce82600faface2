"""The service on a device: it installs signed releases, runs the workers, watches them, and reports."""

from typing import TYPE_CHECKING

from edgectl.core.lazy import lazy_names

__all__ = [
    "AgentConfig",
    "AgentDependencies",
    "StreamConfig",
    "default_dependencies",
    "load_agent_config",
    "run_agent",
]

if TYPE_CHECKING:
    from edgectl.agent.config import AgentConfig, StreamConfig, load_agent_config
    from edgectl.agent.dependencies import AgentDependencies, default_dependencies
    from edgectl.agent.service import run_agent
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "edgectl.agent.config": ("AgentConfig", "StreamConfig", "load_agent_config"),
            "edgectl.agent.dependencies": ("AgentDependencies", "default_dependencies"),
            "edgectl.agent.service": ("run_agent",),
        },
    )
