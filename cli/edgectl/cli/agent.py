"""``edgectl agent``: the service on a device."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgectl.cli._nouns import Noun
from edgectl.cli._printer import Printer

__all__ = ["app"]

app = Noun("agent")


@app.command("run")
def run(
    config: Annotated[Path, typer.Option("--config", "-c", help="agent.toml, from `edgectl device enroll`.")],
    state: Annotated[
        Path | None, typer.Option(help="Folder to keep state in, instead of `state_dir` of the file.")
    ] = None,
    *,
    out: Printer,
) -> None:
    """Run the agent until interrupted: fetch what the fleet wants, verify it, run it, report. SIGHUP reads the file
    again: streams go on with their new configuration."""
    import logging
    import signal

    from edgectl.agent.config import read_agent_config
    from edgectl.agent.service import run_agent
    from edgectl.agent.streams.config_reload import ConfigReload
    from edgectl.cli._logging import log_to_stderr
    from edgectl.cli._signals import stop_event

    loaded, file = read_agent_config(config)
    reload = ConfigReload(config, loaded, file)
    if state is not None:
        loaded = loaded.model_copy(update={"state_dir": state.resolve()})
    log_to_stderr()
    logging.getLogger(__name__).info(
        "device %s of fleet %s, broker %s:%d",
        loaded.name,
        loaded.fleet,
        loaded.broker.host,
        loaded.broker.port,
    )
    signal.signal(signal.SIGHUP, lambda *_: reload.asked.set())
    run_agent(loaded, stop_event(), reload=reload)
