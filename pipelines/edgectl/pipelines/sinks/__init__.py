"""Where events and pictures go: one file per kind of sink, one thread for all of a stream's."""

from edgectl.pipelines.sinks.base import Output, Record, Sink, SinkPool
from edgectl.pipelines.sinks.jsonl import CallbackSink, JsonlSink
from edgectl.pipelines.sinks.mqtt import MqttSink
from edgectl.pipelines.sinks.snapshot import SnapshotSink, snapshot_name
from edgectl.pipelines.sinks.tracklog import TrackLog, read_tracks
from edgectl.pipelines.sinks.video import VideoSink

__all__ = [
    "CallbackSink",
    "JsonlSink",
    "MqttSink",
    "Output",
    "Record",
    "Sink",
    "SinkPool",
    "SnapshotSink",
    "TrackLog",
    "VideoSink",
    "read_tracks",
    "snapshot_name",
]
