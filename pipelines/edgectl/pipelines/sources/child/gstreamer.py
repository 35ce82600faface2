"""A grabber of what GStreamer reads: a pipeline that ends in an ``appsink``. Run by a Python that has GStreamer's
bindings; nothing of ours is imported."""

from __future__ import annotations

import functools
import importlib
from typing import Any

__all__ = ["grab"]

_SINK = "appsink name=edgectl sync=false max-buffers=1 drop=true"
_CAPS = "video/x-raw,format=I420"
_LOOK_NS = 200_000_000
_MATRICES = {"BT709": "bt709", "FCC": "fcc", "SMPTE240M": "smpte240m", "BT2020": "bt2020"}


def grab(argument: dict[str, Any], out: Any) -> None:
    """``argument``: ``pipeline``, as for ``gst-launch-1.0``, up to the sink that is added here."""
    Gst = _bindings("Gst")
    GstVideo = _bindings("GstVideo")
    _bindings("GstApp")  # gives the sink its methods
    Gst.init(None)
    try:
        pipeline = Gst.parse_launch(f"{argument['pipeline']} ! {_CAPS} ! {_SINK}")
    except Exception as e:  # GLib.Error: an element that is not there, a property that is none
        out.failed("invalid", f"GStreamer does not take the pipeline: {_said(e)}")
        return
    sink = pipeline.get_by_name("edgectl")
    bus = pipeline.get_bus()
    pipeline.set_state(Gst.State.PLAYING)
    try:
        opened = False
        while True:
            sample = sink.try_pull_sample(_LOOK_NS)
            if sample is not None:
                info = GstVideo.VideoInfo.new_from_caps(sample.get_caps())
                if not opened:
                    opened = True
                    out.opened(
                        info.width,
                        info.height,
                        info.fps_n / info.fps_d if info.fps_n and info.fps_d else None,
                    )
                if not _hand_over(sample.get_buffer(), info, out):
                    return
            message = bus.pop_filtered(Gst.MessageType.ERROR | Gst.MessageType.EOS)
            if message is None and not (sample is None and sink.is_eos()):
                continue
            if message is not None and message.type == Gst.MessageType.ERROR:
                error, _ = message.parse_error()
                out.failed(_reason(error), f"GStreamer: {error.message}")
            return
    finally:
        pipeline.set_state(Gst.State.NULL)


@functools.cache
def _bindings(name: str) -> Any:
    """They have no types, and belong to another Python than the one that checks ours."""
    importlib.import_module("gi").require_version(name, "1.0")
    return importlib.import_module(f"gi.repository.{name}")


def _hand_over(buffer: Any, info: Any, out: Any) -> bool:
    Gst, GstVideo = _bindings("Gst"), _bindings("GstVideo")
    width, height = info.width, info.height
    shapes = [(height, width), ((height + 1) // 2, (width + 1) // 2), ((height + 1) // 2, (width + 1) // 2)]
    meta = GstVideo.buffer_get_video_meta(buffer)
    strides = list(meta.stride if meta is not None else info.stride)
    offsets = list(meta.offset if meta is not None else info.offset)
    ok, mapped = buffer.map(Gst.MapFlags.READ)
    if not ok:
        out.failed("invalid", "GStreamer does not hand out its frames as memory")
        return False

    def fill(view: memoryview) -> None:
        data, at = memoryview(mapped.data), 0
        for (rows, columns), stride, offset in zip(shapes, strides[:3], offsets[:3], strict=True):
            if stride == columns:
                view[at : at + rows * columns] = data[offset : offset + rows * columns]
                at += rows * columns
                continue
            for row in range(rows):
                start = offset + row * stride
                view[at : at + columns] = data[start : start + columns]
                at += columns

    colour = [
        _MATRICES.get(info.colorimetry.matrix.value_nick.upper().replace("-", ""), "bt601"),
        info.colorimetry.range == GstVideo.VideoColorRange(1),  # GST_VIDEO_COLOR_RANGE_0_255
    ]
    pts = None if buffer.pts == Gst.CLOCK_TIME_NONE else buffer.pts
    try:
        taken: bool = out.frame(shapes, fill, {"fmt": "I420", "colour": colour, "pts_ns": pts})
    finally:
        buffer.unmap(mapped)
    return taken


def _reason(error: Any) -> str:
    Gst = _bindings("Gst")
    if error.matches(Gst.ResourceError.quark(), Gst.ResourceError.NOT_FOUND):
        return "not_found"
    if error.matches(Gst.ResourceError.quark(), Gst.ResourceError.NOT_AUTHORIZED):
        return "auth"
    return "invalid"


def _said(e: BaseException) -> str:
    return str(getattr(e, "message", None) or e)
