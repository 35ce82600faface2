"""The demo's services: none of them outlives the process that started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil

PARENT = """
import sys, time
from pathlib import Path
from edgectl.cli.demo.processes import Processes, free_port, wait_for_port
with Processes(Path(sys.argv[1])) as processes:
    port = free_port()
    child = processes.start("broker", "broker", "run", "--port", str(port))
    wait_for_port(port, processes)
    print(child.pid, flush=True)
    time.sleep(100)
"""


def test_services_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert parent.stdout is not None
    broker = psutil.Process(int(parent.stdout.readline()))
    parent.send_signal(signal.SIGKILL)
    parent.wait(10)
    parent.stdout.close()
    psutil.wait_procs([broker], timeout=20)
    assert not broker.is_running()
