"""Makes the picture of the live page, from a real run of this very checkout in Debian's Chromium.

    make .venv/.dev
    apt-get install chromium
    .venv/bin/python docs/pictures/live.py

``live.jpg``: the page of one stream of ``edgectl run --view`` while a zone is being drawn. Nothing is drawn by hand.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import httpx
import numpy as np
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

from conftest import free_port
from support.browser import Browser

from edgectl.builder.build import build_bundle
from edgectl.cli.demo.devices import YARD
from edgectl.models import reference
from edgectl.pipelines.tasks import load_task

HERE = Path(__file__).resolve().parent
MAX_BYTES = 150_000
SIZE = (1180, 860)
SOURCE = "synth://yard?seed=3&fps=10&width=1280&height=720"
SECONDS = 20.0  # into the scene: somebody walks by, and there are events


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=HERE / "live.jpg")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        png = shot(Path(name))
        image = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    ok, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 75])
    assert ok
    args.out.write_bytes(data.tobytes())
    print(f"{args.out}: {len(data)} bytes")
    if len(data) > MAX_BYTES:
        sys.exit(f"{MAX_BYTES} are allowed")


def shot(folder: Path) -> bytes:
    ours = reference("yard-detector")
    build_bundle(
        ours.model,
        profiles=["cpu"],
        task=load_task(str(ours.task)),
        calibration="synth://yard?seed=5&paced=0&fps=2&seconds=8",
        out=folder / "bundle",
        minutes=0.02,
        name="yard",
        max_drop=0.5,
    )
    (folder / "gate.yaml").write_text(yaml.safe_dump(YARD, default_flow_style=None, sort_keys=False))
    url = f"http://127.0.0.1:{(port := free_port())}"
    command = [sys.executable, "-m", "edgectl.cli", "run", "surveillance", "-b", str(folder / "bundle")]
    command += ["-s", SOURCE, "-c", str(folder / "gate.yaml"), "--view-at", f"127.0.0.1:{port}"]
    running = subprocess.Popen(command, stdout=sys.stderr)
    try:
        with Browser(folder, SIZE) as browser:
            wait_for(f"{url}/streams/run/picture.jpg", running)
            browser.open(f"{url}/streams/run")
            browser.until("document.querySelector('.frame.sized') !== null")
            time.sleep(SECONDS)
            browser.click("[data-do=edit]")
            browser.until("document.querySelectorAll('.shape').length > 0")
            browser.run("document.querySelector('.shapes li.zone input').focus()")
            browser.run("document.activeElement.blur(); scrollTo(0, 0)")
            time.sleep(1.0)
            browser.picture(folder / "live.png")
        return (folder / "live.png").read_bytes()
    finally:
        running.terminate()
        running.wait(30)


def wait_for(url: str, running: subprocess.Popen[bytes]) -> None:
    while running.poll() is None:
        try:
            if httpx.get(url, timeout=10).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    sys.exit("the run has ended")


if __name__ == "__main__":
    main()
