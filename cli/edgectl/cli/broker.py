"""``edgectl broker``: the embedded MQTT broker, and the files of one for production."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path, PurePosixPath
from typing import Annotated

import typer

from edgectl.cli._ca import CA, CaFolder
from edgectl.cli._keys import NewPassphrase, new_passphrase
from edgectl.cli._nouns import Noun
from edgectl.cli._printer import Printer
from edgectl.core.errors import UsageError

__all__ = ["app"]

app = Noun("broker")


@app.command("run")
def run(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 1883,
    *,
    out: Printer,
) -> None:
    """Run the embedded broker (amqtt, MQTT 3.1.1) until interrupted. For production use Mosquitto, EMQX or
    RabbitMQ."""
    from edgectl.cli._signals import stop_event
    from edgectl.fleet.broker.embedded import run_broker

    out.say(f"broker on {host}:{port}; stop it with Ctrl-C")
    run_broker(host, port, stop_event())


@app.command("ca")
def ca(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the CA; ca.key stays there.")] = CA,
    fleet: Annotated[str, typer.Option(help="Name of the fleet.")] = "home",
    passphrase: NewPassphrase = False,
    *,
    output: Printer,
) -> None:
    """Make the certificate authority of a fleet: it says who may connect to the broker, and as whom."""
    from edgectl.fleet.keys.ca import FleetCa

    FleetCa.create(out, _name(fleet), new_passphrase(passphrase))
    output.result(
        {"ca": out},
        f"{out}: ca.key stays here, keep a copy offline\nnext: edgectl broker config mosquitto --host NAME",
    )


@app.command("config")
def config(
    kind: Annotated[str, typer.Argument(help="mosquitto, emqx or rabbitmq.")],
    host: Annotated[
        list[str], typer.Option(help="Name or address by which clients reach the broker; may be repeated.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the files.")] = Path("broker"),
    ca: CaFolder = CA,
    fleet: Annotated[str, typer.Option(help="Name of the fleet.")] = "home",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8883,
    listen: Annotated[str | None, typer.Option(help="Address to listen on; default: all.")] = None,
    install: Annotated[
        str | None, typer.Option(help="Folder of these files on the broker's machine. Default: --out.")
    ] = None,
    state: Annotated[str, typer.Option(help="Where Mosquitto keeps its state.")] = "/var/lib/mosquitto",
    memory_mb: Annotated[int, typer.Option(min=64, help="Memory that the broker may take, MiB.")] = 512,
    peer_seeding: Annotated[
        bool, typer.Option("--peer-seeding", help="Devices may send chunks to each other, too.")
    ] = False,
    *,
    output: Printer,
) -> None:
    """Write listener, TLS, access rules and limits of a production broker, with its certificate."""
    from edgectl.cli._passphrase import ask
    from edgectl.core.files import atomic_write
    from edgectl.fleet.broker.mosquitto import BrokerSettings, broker_files
    from edgectl.fleet.keys.ca import FleetCa

    folder = PurePosixPath(install or str(out.resolve()))
    plan = BrokerSettings(_name(fleet), folder, port, listen, peer_seeding, memory_mb, state)
    authority = FleetCa(ca, ask)
    files = broker_files(kind, plan, authority.clients())
    for name, text in files.items():
        atomic_write(out / name, text.encode())
    if not (out / "server.key").exists():
        _, _, key = authority.issue_server(host).write(out, "server")
        _give_to_group(key, kind)
    atomic_write(out / "crl.pem", authority.crl)
    told = {
        "mosquitto": f"mosquitto -c {folder}/mosquitto.conf (as root it becomes the user mosquitto, who has to be able to read server.key)",
        "emqx": f"include {folder}/emqx.conf in EMQX's own",
        "rabbitmq": f"RABBITMQ_CONFIG_FILE={folder}/rabbitmq.conf RABBITMQ_ENABLED_PLUGINS_FILE={folder}/enabled_plugins",
    }[kind]
    written = sorted(p for p in out.iterdir() if p.is_file())
    output.result({"files": written}, "\n".join([*(str(p) for p in written), f"next: {told}"]))


def _give_to_group(key: Path, group: str) -> None:
    """Let the broker read its key where that can be done here: as root, with the broker installed. Its
    group is called as it is."""
    if os.getuid() == 0:
        with contextlib.suppress(LookupError, OSError):
            shutil.chown(key, group=group)
            key.chmod(0o640)


def _name(fleet: str) -> str:
    from edgectl.core.files import check_name

    try:
        return check_name(fleet)
    except ValueError as e:
        raise UsageError(f"--fleet {e}") from e
