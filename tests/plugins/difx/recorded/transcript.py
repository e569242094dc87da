"""The recorded packets, with lengths that fit their texts again, and paths below another folder."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from mpiframe.plugins.difx.protocol import Id, read_int, write_counted, write_int

FOLDER = Path(__file__).parent.parent / "data" / "transcripts"


@dataclass(frozen=True)
class Recorded:
    """A packet. data: as in the packet; channel: -1 for none."""

    from_client: bool
    id: int
    data: bytes
    channel: int = -1

    @property
    def packet_data(self) -> bytes:
        return self.data if self.channel < 0 else write_int(self.channel) + self.data


def read(name: str, root: str) -> list[Recorded]:
    """A recording, whose /data and /nonexistent are below `root`."""
    rows = [json.loads(line) for line in (FOLDER / f"{name}.jsonl").read_text().splitlines()]
    made = []
    for place, row in enumerate(rows):
        data = bytes.fromhex(row["hex"]) if "hex" in row else row["text"].encode("latin-1")
        data = re.sub(rb"(?<![\w.])/(data|nonexistent)/", root.encode() + rb"/\1/", data)
        channel = row.get("channel", -1)
        if row["id"] == Id.CHANNEL_CONNECTION:
            channel, data = -1, write_int(row["channel"])
        elif row["id"] == Id.JOB_STATUS:
            found = re.fullmatch(rb"(....)....(.*)\0\0\0\t127\.0\.0\.1(....)", data, re.DOTALL)
            assert found is not None
            data = found[1] + write_counted(found[2]) + write_counted(b"127.0.0.1") + found[3]
        elif channel >= 0 and len(data) == 4 and "hex" in row:
            after = next((one for one in rows[place + 1 :] if one.get("channel") == channel), None)
            if after and "text" in after and after["len"] - 4 == read_int(data):
                text = re.sub(r"(?<![\w.])/(data|nonexistent)/", root + r"/\1/", after["text"])
                data = write_int(len(text.encode("latin-1")))
        made.append(Recorded(row["dir"] == "C>S", row["id"], data, channel))
    return made
