"""What rank 0 runs in a world without a script (`mpiframe start`): a client whose hub others attach to."""

from __future__ import annotations

import signal
import sys
from types import FrameType

from mpiframe.client import Client

_INTERRUPTED = 130
_TERMINATED = 143


def main(restart: str = "never") -> int:
    """Serve until a session asks for the end, or a signal does."""

    def terminated(_number: int, _frame: FrameType | None) -> None:
        raise SystemExit(_TERMINATED)

    signal.signal(signal.SIGTERM, terminated)
    client = Client(restart=restart)
    try:
        assert client._hub is not None
        client._hub.serve()
    except KeyboardInterrupt:  # by whoever started it in the foreground, or a batch system: no error of ours
        client.abandon()
        return _INTERRUPTED
    except SystemExit:
        client.abandon()
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
