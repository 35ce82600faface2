"""What a sink is, and what it is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from edgectl.core.schema import Config
from edgectl.pipelines.places import OwnPlace
from edgectl.pipelines.sinks.files import OutFiles
from edgectl.pipelines.sources.media.ring import PacketRing
from edgectl.pipelines.stream.events import Event
from edgectl.pipelines.stream.frame import Stamp
from edgectl.pipelines.video.hidden_log import HiddenLog
from edgectl.pipelines.video.keypoints import KeypointLayout
from edgectl.pipelines.video.shown import ShownFrame
from edgectl.pipelines.video.tracker import Tracks

__all__ = ["Record", "Sink", "SinkContext", "SinkOptions", "SinkType", "StreamControl", "StreamOutput"]

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class StreamOutput:
    """What one processed frame (or stretch of audio) gave, without what nobody may see."""

    records: tuple[Record, ...]
    frame: ShownFrame | None = None
    tracks: Tracks | None = None
    stamp: Stamp | None = None
    """When ``tracks`` were taken."""
    age_ms: float | None = None
    """From the moment the frame was available to its events."""
    switched: Mapping[str, Any] | None = None
    """Other zones and rules took over with this frame: ``rules``, and what a replay needs to do the same."""
    blind: str | None = None
    """What is wrong with what the camera sees."""


class StreamControl:
    """What a sink may ask of its stream. Usable from any thread."""

    detect = True
    """False: frames are dropped as `paused`, before the detector."""

    def __init__(
        self,
        armed: Callable[[], Mapping[str, bool]] = dict,
        arm: Callable[[str, bool], None] = lambda name, on: None,
    ) -> None:
        """``armed``: id → whether it is, of the rules that can be switched; ``arm`` switches one. An event ``switch`` tells
        once it has."""
        self.armed = armed
        self.arm = arm


class Sink:
    """A sink has a thread and a queue of its own: whatever it does, the stream and the other sinks go on. All methods
    are called by that thread.

    Raising :class:`~edgectl.core.errors.EdgectlError` closes it for good, unless the error says ``retryable``: then
    it is left alone for a while, and tried again with what comes then.
    """

    name = "sink"
    pictures = False
    """Whether it needs frames."""
    tracks = False
    """Whether it needs the tracks of every frame. With neither it is called for events alone."""
    path: Path | None = None
    """The file that it writes, if it is one."""
    stuck_s: float | None = 10.0
    """A call that gets on no further for so long is told as an event, and the stream waits for this sink no more. None: it
    may take as long as it likes."""

    beat_s: float | None = None
    """So often :meth:`beat` is called while there is nothing to write; None: never."""

    hurried = False
    """The stream is to stop now: :meth:`close` writes what is at hand, and waits for nobody."""
    cause: str | None = None
    """A code for what :meth:`trouble` says, where there is one: ``refused``, ``timeout``, ``unreachable``, ``auth``,
    ``not_found``, ``tls``, ``ended``, ``invalid``."""

    def write(self, output: StreamOutput) -> None:
        """Raises :class:`EdgectlError`."""
        raise NotImplementedError

    def beat(self) -> None:
        """Some time has gone by without anything to write. Raises :class:`EdgectlError`."""

    def finish(self) -> Sequence[Callable[[float], Event]]:
        """The stream has ended: what is to be told of it yet, as events from the time of now. Called once, after the last
        ``write`` but one: the events follow. Raises :class:`EdgectlError`."""
        return ()

    def close(self) -> None:
        """Finish files. Called once, after the last ``write``."""

    def trouble(self) -> str | None:
        """What it waits for, where it cannot do its work now: told as an event once it lasts. Called by another thread,
        often: it returns at once."""
        return None

    def progress(self) -> int:
        """A number that is another one when a call that takes long has got on. Called by another thread, often: it returns
        at once."""
        return 0

    def file_of(self, record: Record) -> dict[str, str]:
        """What an event says of the files that this sink will write for it (``{"snapshot": "snapshots/….jpg"}``). Called by
        the stream's thread, before the event is given out: decides, writes nothing."""
        return {}


class SinkOptions(Config):
    """What the configuration says about a sink."""

    hides: ClassVar[bool] = False
    """Whether nothing that :attr:`SinkContext.hidden` names is in what it makes of the source's packets. Where something is,
    it is refused together with privacy."""

    def event_names(self) -> tuple[str, ...]:
        """Ids of rules and zones that it names: they must exist."""
        return ()

    def own_places(self, stream: str) -> tuple[OwnPlace, ...]:
        """Where, outside of its stream's folder, it writes as the only one; none: others may write there, too."""
        return ()

    def packet_seconds(self) -> float:
        """How much of the source's own packets must be kept for it; 0: nothing."""
        return 0.0


@dataclass(frozen=True)
class SinkContext:
    """What a sink may know of its stream when it is made."""

    stream: str
    out: Path | None = None
    """Folder for files."""
    fps: float | None = None
    """Of the frames; None for sound."""
    labels: tuple[str, ...] = ()
    """``labels[i]`` names class ``i`` of the tracks."""
    zones: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()
    """Ids of the rules that count crossings of a line."""
    control: StreamControl | None = None
    """None: this kind of pipeline has nothing to switch."""
    kind: str = ""
    rules: Mapping[str, Any] = field(default_factory=dict)
    """The configuration of zones and rules, as JSON values."""
    attributes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Part of a second stage → the values that it can decide for; none: any text."""
    scenes: tuple[str, ...] = ()
    """Parts that look at the whole picture."""
    packets: PacketRing | None = None
    """The last seconds of the source as they came, where an option asks for them (:meth:`SinkOptions.packet_seconds`)."""
    hidden: HiddenLog | None = None
    """What of those seconds must not be seen. None: everything may."""
    files: OutFiles | None = None
    """What was written into ``out``: a sink that makes many files says so, and they are deleted when they are old."""
    say: Callable[[Callable[[float], Event]], None] | None = None
    """Makes an event of the stream, from the time of now. It goes to every sink, in order with the others."""
    keypoints: KeypointLayout | None = None
    """Of the tracks; None: the model finds none."""
    inside: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    """Zone → track → label, of who is in it when the sink begins: it may begin in the middle of a stream."""
    counted: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Line → direction → how many crossed it before the sink began."""
    endless: bool = False
    """Whether the source is a camera or a microphone: what was told of it before goes on, and is not begun anew."""


@dataclass(frozen=True)
class SinkType:
    make: Callable[[Any, SinkContext], Sink | None]
    """From its options and the stream's context. None: these options want nothing written."""
    doc: str
    """One line: what it writes, and where."""
    options: type[SinkOptions] = SinkOptions
    default: bool = False
    """Whether it is used where the configuration does not name it."""
    files: bool = False
    """Whether it writes into the folder for files, and is left out where there is none."""
    pictures: bool = False
    """Whether it needs frames or tracks. It is refused in a kind of pipeline that has none."""
    begins_anew: bool = False
    """Whether a file that it writes begins anew each time it is opened: other options need a new start of the stream."""
    names_zones: bool = False
    """Whether it tells others which zones and rules there are: it is opened anew when these change."""
