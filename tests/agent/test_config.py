from __future__ import annotations

from pathlib import Path

import pytest

from edgectl.agent.config import load_agent_config
from edgectl.core.errors import UsageError
from edgectl.fleet.keys.enroll import write_enrolment


def test_lighter_variants_are_for_slots_that_there_are(tmp_path: Path) -> None:
    path = write_enrolment(
        tmp_path,
        "gate-1",
        root=b"{}",
        fleet="home",
        broker={"host": "broker.example"},
        pipelines={"yard": {"kind": "surveillance", "source": "synth://yard", "slots": {"detector": "gate"}}},
    )
    text = path.read_text()
    path.write_text(text + '\n[lighter]\ngate = ["low-power", "small-input"]\n')
    assert load_agent_config(path).lighter == {"gate": ("low-power", "small-input")}
    path.write_text(text + '\n[lighter]\nyard = ["low-power"]\n')
    with pytest.raises(UsageError, match="the slot 'yard', which no pipeline uses: there are gate"):
        load_agent_config(path)
    path.write_text(text + '\n[lighter]\ngate = ["fast"]\n')
    with pytest.raises(UsageError, match=r"lighter\.gate"):
        load_agent_config(path)


def test_enrolment_writes_what_the_agent_reads(tmp_path: Path) -> None:
    path = write_enrolment(
        tmp_path,
        "gate-1",
        root=b"{}",
        fleet="home",
        broker={"host": "broker.example", "port": 8883, "tls": True, "ca": "ca.pem"},
        labels={"site": 'yard "north" \\ ü'},
        pipelines={
            "yard": {
                "kind": "surveillance",
                "source": "rtsp://user:pä$$@cam/1",
                "slots": {"detector": "gate-detector"},
                "config": {"zones": [{"name": "door", "points": [[0.0, 1], [1, 1.5]]}], "flip": True},
            }
        },
        telemetry_s=2.5,
    )
    config = load_agent_config(path)
    assert config.labels == {"site": 'yard "north" \\ ü'}
    assert config.pipelines["yard"].config == {
        "zones": [{"name": "door", "points": [[0.0, 1], [1, 1.5]]}],
        "flip": True,
    }
    assert config.pipelines["yard"].source == "rtsp://user:pä$$@cam/1"
    assert config.slots == ("gate-detector",)
    assert config.state_dir == tmp_path / "state"
    assert config.root.read_bytes() == b"{}"
    assert config.telemetry_s == 2.5
    assert config.broker.options().tls is not None
    assert path.stat().st_mode & 0o077 == 0, "it may hold a password"


SMALL = "name = 'a'\nstate_dir = 's'\n[broker]\nhost = 'x'\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name = 'a'", "broker"),
        ("name = 'A b'\nstate_dir = 's'\n[broker]\nhost = 'x'", "is not a name"),
        ("name = 'a'\nstate_dir = 's'\ncolour = 1\n[broker]\nhost = 'x'", "colour"),
        ("\nname = ", r"a\.toml:2: this is not TOML"),
        ("name = 'a'\n\n[broker]\nport = 1", r"a\.toml:3: broker\.host: it is missing"),
        (b"name = '\xff'", r"a\.toml:1: this is not UTF-8"),
        (f"name = {'9' * 5000}", "not TOML"),
        (
            f"{SMALL}[view]\nlisten = '0.0.0.0:8088'",
            r"others can reach 0\.0\.0\.0: the page needs a token_file",
        ),
        (f"{SMALL}[view]\nlisten = ':::'", "no address for the page"),
        (f"name = {'[' * 5000}", "not TOML"),
        (
            "name = 'a'\nstate_dir = 's'\n[broker]\nhost = 'x'\n"
            "[pipelines.yard]\nkind = 'cooking'\nsource = 's'\nslots = {detector = 'd'}",
            r"a\.toml:6: pipelines\.yard\.kind: there is no kind of pipeline 'cooking': there are: surveillance, driving, speech",
        ),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str | bytes, words: str) -> None:
    (tmp_path / "a.toml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UsageError, match=words):
        load_agent_config(tmp_path / "a.toml")


def test_absent_file_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as e:
        load_agent_config(tmp_path / "absent.toml")
    assert "enroll" in (e.value.hint or "")


def test_bad_device_name_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        write_enrolment(tmp_path, "../x", root=b"", fleet="home", broker={"host": "x"})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("listen", "address"),
    [
        ("127.0.0.1:9000", ("127.0.0.1", 9000)),
        ("localhost", ("localhost", 8088)),
        ("[::1]:9000", ("::1", 9000)),
    ],
)
def test_page_on_this_machine_needs_no_token(tmp_path: Path, listen: str, address: tuple[str, int]) -> None:
    (tmp_path / "a.toml").write_text(f"{SMALL}[view]\nlisten = '{listen}'")
    view = load_agent_config(tmp_path / "a.toml").view
    assert view is not None
    assert (view.address, view.token_file) == (address, None)


def test_token_of_the_page_lies_beside_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(f"{SMALL}[view]\nlisten = '0.0.0.0:1'\ntoken_file = 'view.token'")
    view = load_agent_config(tmp_path / "a.toml").view
    assert view is not None
    assert view.token_file == tmp_path / "view.token"


def _two(gate: str, yard: str) -> str:
    stream = "kind = 'surveillance'\nsource = 'rtsp://cam/1'\nslots = {detector = 'd'}\n"
    return f"{SMALL}[pipelines.gate]\n{stream}{gate}\n[pipelines.yard]\n{stream}{yard}\n"


@pytest.mark.parametrize(
    ("gate", "yard", "told"),
    [
        (
            "config = {restream = 'rtsp://me:secret@server/x'}",
            "config = {restream = {url = 'rtsp://server:554/x'}}",
            "a.toml:14: pipelines.yard.config.restream: the streams 'gate' and 'yard' would both send to "
            "rtsp://server:554/x: each needs a place of its own",
        ),
        (
            "out = 'files'",
            "out = './files'",
            "a.toml:14: pipelines.yard.out: the streams 'gate' and 'yard' would both write their files into files: "
            "each needs a place of its own",
        ),
        (
            "config = {mqtt = {url = 'mqtt://b', topic = 'a/b', home_assistant = true}}",
            "config = {mqtt = {url = 'mqtt://b', topic = 'a_b', home_assistant = true}}",
            "a.toml:14: pipelines.yard.config.mqtt: the streams 'gate' and 'yard' would both be Home Assistant's "
            "device 'a_b': each needs a place of its own",
        ),
    ],
)
def test_two_streams_with_one_place_are_named_with_the_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gate: str, yard: str, told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.toml").write_text(_two(gate, yard))
    with pytest.raises(UsageError) as caught:
        load_agent_config(Path("a.toml"))
    assert caught.value.message == told
    Path("a.toml").write_text(_two(gate, ""))
    load_agent_config(Path("a.toml"))


CAMERA = """
[pipelines.{name}]
kind = "{kind}"
source = "synth://yard"
slots = {{detector = "gate"}}
config_slot = "{config_slot}"
"""


@pytest.mark.parametrize(
    ("streams", "why"),
    [
        (
            [("yard", "surveillance", "gate")],
            "slot gate holds an engine: a configuration needs a slot of its own",
        ),
        (
            [("yard", "surveillance", "rules"), ("road", "driving", "rules")],
            "slot rules holds the configuration of a surveillance stream, this is a driving stream",
        ),
    ],
)
def test_configuration_has_a_slot_of_its_own_and_of_its_kind(
    tmp_path: Path, streams: list[tuple[str, str, str]], why: str
) -> None:
    text = 'name = "a"\nstate_dir = "state"\n[broker]\nhost = "nas"\n'
    for name, kind, slot in streams:
        text += CAMERA.format(name=name, kind=kind, config_slot=slot)
    (tmp_path / "agent.toml").write_text(text)
    with pytest.raises(UsageError, match=why):
        load_agent_config(tmp_path / "agent.toml")


def test_streams_of_one_kind_may_share_a_configuration(tmp_path: Path) -> None:
    text = 'name = "a"\nstate_dir = "state"\n[broker]\nhost = "nas"\n'
    text += "".join(CAMERA.format(name=n, kind="surveillance", config_slot="rules") for n in ("yard", "door"))
    (tmp_path / "agent.toml").write_text(text)
    config = load_agent_config(tmp_path / "agent.toml")
    assert (config.slots, config.config_slots) == (("gate",), ("rules",))
