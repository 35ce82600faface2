"""``edgectl controller``: the service that knows the fleet."""

from __future__ import annotations

from json import dumps
from os.path import relpath
from pathlib import Path
from typing import Annotated

import typer

from edgectl.cli._nouns import Noun
from edgectl.cli._printer import Printer
from edgectl.core.errors import UsageError

__all__ = ["app"]

app = Noun("controller")


@app.command("init")
def init(
    out: Annotated[Path, typer.Option("--out", "-o", help="The configuration file to write.")] = Path(
        "controller.toml"
    ),
    keys: Annotated[Path, typer.Option(help="Folder that `edgectl keys init` made.")] = Path("keys"),
    fleet: Annotated[str, typer.Option(help="Name of the fleet.")] = "home",
    broker: Annotated[
        str, typer.Option(help="HOST or HOST:PORT of the MQTT broker, as devices reach it.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the API, on loopback.")] = 8765,
    ca: Annotated[
        Path | None,
        typer.Option(help="Folder that `edgectl broker ca` made: TLS, with a certificate of its own."),
    ] = None,
    *,
    output: Printer,
) -> None:
    """Write a configuration to start from."""
    from edgectl.core.files import atomic_write

    host, _, broker_port = broker.partition(":")
    if broker_port and not broker_port.isdigit():
        raise UsageError(f"--broker {broker!r} is not HOST:PORT")
    if out.exists():
        raise UsageError(f"{out} is there already", hint="edit it, or give another --out")
    tls = ""
    if ca is not None:
        from edgectl.cli._passphrase import ask
        from edgectl.fleet.keys.ca import CONTROLLER, FleetCa

        FleetCa(ca, ask).issue_client(CONTROLLER).write(out.parent, "controller")
        tls = 'tls = true\nca = "ca.crt"\ncert = "controller.crt"\nkey = "controller.key"\n'
    text = (
        f'fleet = "{fleet}"\nstate_dir = "controller"\nkeys = {dumps(relpath(keys, out.parent))}\n\n'
        f'[broker]\nhost = "{host}"\nport = {broker_port or (8883 if tls else 1883)}\n{tls}\n[api]\nport = {port}\n'
    )
    atomic_write(out, text.encode(), mode=0o600)  # the broker's password goes into it
    output.result({"config": out}, f"{out}\nnext: edgectl controller run --config {out}")


@app.command("run")
def run(
    config: Annotated[Path, typer.Option("--config", "-c", help="controller.toml")],
    state: Annotated[
        Path | None, typer.Option(help="Folder to keep state in, instead of `state_dir` of the file.")
    ] = None,
    *,
    out: Printer,
) -> None:
    """Run the controller until interrupted."""
    from edgectl.cli._logging import log_to_stderr
    from edgectl.cli._passphrase import ask_file
    from edgectl.cli._signals import stop_event
    from edgectl.fleet.config import load_controller_config
    from edgectl.fleet.keys.keyring import KeyRing
    from edgectl.fleet.service import run_controller

    loaded = load_controller_config(config)
    if state is not None:
        loaded = loaded.model_copy(update={"state_dir": state.resolve()})
    log_to_stderr()
    out.say(
        f"controller of fleet {loaded.fleet}: API on http://{loaded.api.host}:{loaded.api.port}, token in {loaded.state_dir / 'token'}"
    )
    run_controller(loaded, stop_event(), KeyRing(ask=ask_file))
