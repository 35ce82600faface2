"""The tables of a transport stream (ISO/IEC 13818-1, section 2.4.4), as far as needed to find where its
content becomes another."""

from __future__ import annotations

__all__ = ["PACKET", "changed_table"]

PACKET = 188
_SYNC = 0x47


def changed_table(data: bytes) -> int | None:
    """Where the program association table lies that leads to the first program map other than the one before
    it.

    ``data`` begins with a transport packet. Returns a byte offset in it, or None where the map stays what it
    is. Only the first program is looked at, and only tables that fit into one packet: more is not needed for
    what cameras and recorders write.
    """
    association = map_pid = known = None
    for at in range(0, len(data) - PACKET + 1, PACKET):
        packet = data[at : at + PACKET]
        starts_unit, payload_only = packet[1] & 0x40, packet[3] & 0x30 == 0x10
        if packet[0] != _SYNC or not starts_unit or not payload_only:
            continue
        pid = (packet[1] & 0x1F) << 8 | packet[2]
        section = packet[5 + packet[4] :]
        if pid == 0:
            association, map_pid = at, _first_map(section)
        elif pid == map_pid and len(section) > 3:
            program_map = section[: 3 + ((section[1] & 0x0F) << 8 | section[2])]
            if known is not None and program_map != known:
                return association
            known = program_map
    return None


def _first_map(section: bytes) -> int | None:
    """PID of the first program's map in a program association section."""
    for at in range(8, len(section) - 3, 4):
        if section[at] << 8 | section[at + 1]:
            return (section[at + 2] & 0x1F) << 8 | section[at + 3]
    return None
