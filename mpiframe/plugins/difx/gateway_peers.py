"""Who is at the other end of a connection on the loopback: Linux says whose socket it is."""

from __future__ import annotations

import os
import socket
import struct

_TABLES = {socket.AF_INET: "/proc/net/tcp", socket.AF_INET6: "/proc/net/tcp6"}


def owner_of_peer(connection: socket.socket) -> int | None:
    """The user that has the other end of a connection within this machine, None if that is not known.

    Nor is it of an end that was closed: Linux shows all of these, which have no inode, as root's.
    """
    if connection.family not in _TABLES:
        return None
    try:
        ends = connection.getpeername(), connection.getsockname()
    except OSError:  # gone already
        return None
    wanted = tuple(_shown(connection.family, one) for one in ends)
    try:
        with open(_TABLES[connection.family], encoding="ascii") as table:
            for line in table:
                fields = line.split()
                if len(fields) > 9 and (fields[1], fields[2]) == wanted:
                    return int(fields[7]) if int(fields[9]) else None
    except OSError:
        pass
    return None


def may_connect(connection: socket.socket) -> bool:
    """Whether the other end belongs to our own user, or to root."""
    return owner_of_peer(connection) in (os.getuid(), 0)


def _shown(family: int, address: tuple[str, int]) -> str:
    """An address as the kernel's table has it: words in the machine's own order."""
    packed = socket.inet_pton(family, address[0])
    words = struct.unpack(f"={len(packed) // 4}I", packed)
    return "".join(f"{word:08X}" for word in words) + f":{address[1]:04X}"
