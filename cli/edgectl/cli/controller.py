"""``edgectl controller``: the service that knows the fleet."""

from __future__ import annotations

from json import dumps
from os.path import relpath
from pathlib import Path
from typing import Annotated

import typer

from edgectl.cli._controller import ControllerOptions
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
        f"controller of fleet {loaded.fleet}: API and dashboard on http://{loaded.api.host}:{loaded.api.port}, token in {loaded.state_dir / 'token'}"
    )
    run_controller(loaded, stop_event(), KeyRing(ask=ask_file))


_CONFIG = Annotated[Path, typer.Option("--config", "-c", help="controller.toml")]


@app.command("backup")
def backup(
    file: Annotated[Path, typer.Argument(help="The file to write, e.g. fleet-2026-11-30.tar.")],
    config: _CONFIG = Path("controller.toml"),
    *,
    out: Printer,
) -> None:
    """Write what the controller remembers to a file, also while it runs. Keys and blobs are not in it."""
    from edgectl.fleet.config import load_controller_config
    from edgectl.fleet.store.backup import back_up

    loaded = load_controller_config(config)
    made = back_up(loaded.state_dir, loaded.database, loaded.fleet, file)
    rows = {name: t.rows for name, t in made.tables.items()}
    out.result(
        {"file": file, "fleet": made.fleet, "revision": made.revision, "rows": rows},
        f"{file}: {rows.get('devices', 0)} devices, {rows.get('rollouts', 0)} rollouts, {rows.get('events', 0)} events\n"
        f"not in it: {loaded.keys}, and trust/ and blobs/ in {loaded.state_dir}",
    )


@app.command("restore")
def restore(
    file: Annotated[Path, typer.Argument(help="What `controller backup` wrote.")],
    config: _CONFIG = Path("controller.toml"),
    replace: Annotated[bool, typer.Option("--replace", help="Give up what the store has now.")] = False,
    *,
    out: Printer,
) -> None:
    """Bring a backup back. Devices keep what they have; rollouts that were under way are paused."""
    from edgectl.fleet.config import load_controller_config
    from edgectl.fleet.store import restore as store

    loaded = load_controller_config(config)
    found, paused = store.restore(file, loaded.state_dir, loaded.database, loaded.fleet, replace=replace)
    rows = {name: t.rows for name, t in found.tables.items()}
    lines = [
        f"restored {rows.get('devices', 0)} devices and {rows.get('rollouts', 0)} rollouts of fleet {found.fleet}",
        "devices keep what they have: what is wanted of them goes on from what the broker retains and they report",
    ]
    if paused:
        lines.append(
            f"paused: {', '.join(paused)}; `edgectl rollout resume ID` goes on, `rollout abort ID` takes it back"
        )
    out.result(
        {"fleet": found.fleet, "made_s": found.made_s, "rows": rows, "paused": paused}, "\n".join(lines)
    )


@app.command("open")
def open_dashboard(
    browser: Annotated[
        bool, typer.Option("--browser", help="Open it in the browser of this machine, too.")
    ] = False,
    *,
    controller: ControllerOptions,
    out: Printer,
) -> None:
    """Print a link to the dashboard that signs a browser in. It works once, within a minute."""
    with controller.client() as fleet:
        link = fleet.dashboard_link()
    out.result({"url": link}, link)
    if browser:
        import webbrowser

        if not webbrowser.open(link):
            out.say("no browser could be started here: copy the link into one")
