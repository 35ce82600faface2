"""Makes the pictures of the README from a real run of this very checkout.

    make .venv/.demo
    .venv/bin/python docs/pictures/make.py

``demo.svg``: what ``edgectl demo`` writes to a terminal, its standard output going through a pseudo-terminal.
``frames.jpg``: two frames of annotated videos of ``edgectl run`` with the bundles that the demo built.
Nothing is drawn by hand.
"""

from __future__ import annotations

import argparse
import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import tempfile
import termios
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import yaml
from numpy.typing import NDArray
from rich.console import CONSOLE_SVG_FORMAT, Console
from rich.text import Text

from edgectl.cli.demo.devices import ROAD, YARD

HERE = Path(__file__).resolve().parent
ROWS = 100  # of the terminal
MAX_BYTES = 300_000  # of all pictures together
EDGECTL = str(Path(sys.executable).with_name("edgectl"))

# Rich's frame without the font that it loads from the network: pages that show an SVG do not allow that.
SVG = (
    re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.S)
    .replace("Fira Code, ", "")
    .replace("arial", "sans-serif")
)


@dataclass(frozen=True)
class Shot:
    """The frame of an annotated video at ``at_s`` seconds."""

    kind: str
    bundle: str
    source: str
    config: dict[str, Any]
    at_s: float


SHOTS = (
    Shot("surveillance", "gate-1.0.0", "synth://yard?seed=3&seconds=21&paced=0", YARD, 18.5),
    Shot("driving", "dash-1.0.0", "synth://road?seed=5&seconds=13&paced=0", ROAD, 12.0),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--columns", type=int, default=126, help="width of the terminal")
    parser.add_argument("--out", type=Path, default=HERE, help="folder for the pictures")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        demo = Path(scratch) / "edgectl-demo"
        written = run_in_terminal([EDGECTL, "demo"], args.columns, demo.parent)
        shots = [annotated(s, demo / "bundles" / s.bundle, Path(scratch) / s.kind) for s in SHOTS]
    args.out.mkdir(parents=True, exist_ok=True)
    made = args.out / "demo.svg", args.out / "frames.jpg"
    made[0].write_text(svg(written, args.columns, "make demo"), "utf-8")
    cv2.imwrite(str(made[1]), np.hstack(shots), [cv2.IMWRITE_JPEG_QUALITY, 85])
    sizes = {path.name: path.stat().st_size for path in made}
    print(sizes)
    if sum(sizes.values()) > MAX_BYTES:
        sys.exit(f"the pictures have {sum(sizes.values())} bytes, {MAX_BYTES} are allowed")


def run_in_terminal(command: list[str], columns: int, folder: Path) -> str:
    """What ``command``, run in ``folder``, writes to a terminal of so many columns, colours included. Only its
    standard output goes there: messages and the live view go to this script's standard error."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, columns, 0, 0))
    environ = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "NO_COLOR")}
    environ["TERM"] = "xterm-256color"
    written = bytearray()
    with subprocess.Popen(command, cwd=folder, stdout=theirs, env=environ) as process:
        os.close(theirs)
        while data := _read(ours):
            written += data
    os.close(ours)
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}")
    return written.decode().replace("\r\n", "\n")


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # Linux says EIO when nobody has the other end open any more
        return b""


def svg(written: str, columns: int, title: str) -> str:
    """The screen, without the empty lines above and below. What is longer than a line goes on in the next one,
    as in a terminal."""
    console = Console(record=True, width=columns, file=io.StringIO(), force_terminal=True)
    for line in Text.from_ansi(written.strip("\n")).split("\n", allow_blank=True):
        for part in line.divide(range(columns, len(line), columns)):
            console.print(part, no_wrap=True)
    return console.export_svg(title=title, code_format=SVG, unique_id="demo")


def annotated(shot: Shot, bundle: Path, folder: Path) -> NDArray[Any]:
    """The shot (BGR), from a run of its own."""
    folder.mkdir()
    config, out = folder / "pipeline.yaml", folder / "out"
    config.write_text(yaml.safe_dump(shot.config | {"annotate": {"video": True}}))
    command = [EDGECTL, "run", shot.kind, "--bundle", str(bundle), "--source", shot.source]
    subprocess.run([*command, "--config", str(config), "--out", str(out)], check=True, stdout=sys.stderr)
    with av.open(str(out / "annotated.mp4")) as video:
        nearest = min(video.decode(video=0), key=lambda frame: abs(frame.time - shot.at_s))
        return nearest.to_ndarray(format="bgr24")


if __name__ == "__main__":
    main()
