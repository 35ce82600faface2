"""``edgectl broker``: the embedded MQTT broker."""

from __future__ import annotations

from typing import Annotated

import typer

from edgectl.cli._output import Json, Output

app = typer.Typer(name="broker", help="An MQTT broker for one machine or a small site.", no_args_is_help=True)


@app.command("run")
def run(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 1883,
    json: Json = False,
) -> None:
    """Run the embedded broker (amqtt, MQTT 3.1.1) until interrupted. For production use Mosquitto, EMQX or RabbitMQ."""
    out = Output(json)
    from edgectl.cli._signals import stop_event
    from edgectl.fleet.broker import run_broker

    out.say(f"broker on {host}:{port}; stop it with Ctrl-C")
    run_broker(host, port, stop_event())
