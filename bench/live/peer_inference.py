"""What bench/live/peer.py runs in the peer's interpreter: Roboflow's InferencePipeline on a paced clip.

It prints one JSON object. Nothing of edgectl is imported.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

os.environ |= {"TELEMETRY_OPT_OUT": "True", "METRICS_ENABLED": "False", "OFFLINE_MODE": "True"}
# nothing is asked of the vendor's servers
os.environ["API_BASE_URL"] = "http://127.0.0.1:9"
# with more, frames of a file are decoded before they are due, and those of a camera come a period later
os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = "threads;1"
sys.path.insert(0, str(Path(__file__).resolve().parent))

import cv2
import numpy as np
import onnxruntime as ort
import supervision as sv
from inference.core.interfaces.camera.entities import SourceProperties, VideoFrameProducer
from inference.core.interfaces.stream.inference_pipeline import InferencePipeline
from ten_objects import TenObjects

SIZE = 352
WARM = 30


class Paced(VideoFrameProducer):
    """A clip as a camera sends it, as edgectl's own paced source does: a frame is decoded when it is due."""

    def __init__(self, clip: str, fps: float, frames: int) -> None:
        self._video = cv2.VideoCapture(clip)
        self._clip, self._fps, self._frames = clip, fps, frames
        self._start: float | None = None
        self._n = 0
        self.due: list[float] = []
        self.ended = threading.Event()

    def grab(self) -> bool:
        if self._n >= self._frames:
            # a live source that ends would be opened anew for ever
            self.ended.set()
            time.sleep(1)
            return False
        now = time.monotonic()
        self._start = self._start or now
        due = self._start + self._n / self._fps
        time.sleep(max(0.0, due - now))
        self.due.append(due)
        self._n += 1
        if not self._video.grab():
            self._video = cv2.VideoCapture(self._clip)
            return self._video.grab()
        return True

    def retrieve(self) -> tuple[bool, Any]:
        return self._video.retrieve()

    def release(self) -> None:
        self._video.release()

    def isOpened(self) -> bool:
        return True

    def discover_source_properties(self) -> SourceProperties:
        width, height = (
            int(self._video.get(p)) for p in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
        )
        return SourceProperties(width, height, -1, False, self._fps)


class Session:
    def __init__(self, model: str) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.inputs, self.outputs, self.runtime = (
            self._session.get_inputs(),
            self._session.get_outputs(),
            "ort",
        )

    def run(self, feeds: Any) -> dict[str, Any]:
        names = [o.name for o in self.outputs]
        return dict(zip(names, self._session.run(names, feeds), strict=True))

    def close(self) -> None:
        """Nothing to do."""


def detect(engine: TenObjects, image: Any) -> sv.Detections:
    """FastestDet as its author's example for ONNX Runtime does it, on arrays."""
    small = cv2.resize(image, (SIZE, SIZE)).astype(np.float32).transpose(2, 0, 1)[None] / 255
    (out,) = engine.run({engine.inputs[0].name: small}).values()
    _, rows, columns = out[0].shape
    score = out[0, 0] ** 0.6 * out[0, 5:].max(axis=0) ** 0.4
    row, column = np.nonzero(score >= 0.35)
    found = out[0][:, row, column]
    height, width = image.shape[:2]
    x, y = (column + np.tanh(found[1])) / columns * width, (row + np.tanh(found[2])) / rows * height
    w, h = width / (1 + np.exp(-found[3])), height / (1 + np.exp(-found[4]))
    boxes = np.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], axis=1)
    return sv.Detections(boxes, confidence=score[row, column], class_id=found[5:].argmax(axis=0)).with_nms(
        0.45
    )


class Users:
    """What people write behind it: ByteTrack, two zones, a line, a JSON line for each frame."""

    def __init__(self) -> None:
        self.tracker = sv.ByteTrack(frame_rate=30)
        halves = ((96, 108, 960, 1026), (960, 108, 1824, 1026))
        corners = [np.array([(a, b), (c, b), (c, d), (a, d)]) for a, b, c, d in halves]
        self.zones = [sv.PolygonZone(polygon, (sv.Position.BOTTOM_CENTER,)) for polygon in corners]
        self.line = sv.LineZone(sv.Point(960, 0), sv.Point(960, 1080))

    def __call__(self, found: sv.Detections) -> str:
        tracked = self.tracker.update_with_detections(found)
        inside = [int(zone.trigger(tracked).sum()) for zone in self.zones]
        self.line.trigger(tracked)
        return json.dumps({"in": inside, "crossed": self.line.in_count, "ids": tracked.tracker_id.tolist()})


def main() -> None:
    model, clip, fps, seconds, rules = sys.argv[1:]
    engine = TenObjects(Session(model))
    source = Paced(clip, float(fps), WARM + round(float(fps) * float(seconds)))
    users = Users() if rules == "rules" else None
    times: dict[int, float] = {}

    def on_frames(frames: list[Any]) -> list[Any]:
        return [detect(engine, frame.image) for frame in frames]

    def on_prediction(prediction: Any, frame: Any) -> None:
        if isinstance(prediction, list):
            ((prediction, frame),) = zip(prediction, frame, strict=True)
        if users is not None:
            users(prediction)
        times[frame.frame_id] = time.monotonic()

    pipeline = InferencePipeline.init_with_custom_logic(
        video_reference=lambda: source, on_video_frame=on_frames, on_prediction=on_prediction
    )
    cpu = time.process_time()
    pipeline.start(use_main_thread=False)
    source.ended.wait()
    cpu = time.process_time() - cpu
    # the pipeline numbers its frames from 1
    late = [1000 * (at - source.due[n - 1]) for n, at in sorted(times.items()) if n > WARM]
    pss = next(
        int(row.split()[1]) * 1024 / 1e6
        for row in Path("/proc/self/smaps_rollup").read_text().splitlines()
        if row.startswith("Pss:")
    )
    frames = len(source.due)
    print(
        json.dumps({"late_ms": late, "pss_mb": pss, "frames": frames, "cpu_ms": 1000 * cpu / frames}),
        flush=True,
    )
    # its threads look for the source for ever
    os._exit(0)


if __name__ == "__main__":
    main()
