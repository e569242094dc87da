"""A real ARC computing element for tests: Debian's A-REX with its web service, in one folder.

The programs are Debian's (nordugrid-arc-arex and what belongs to it), run as root; `launch/test --arc`
installs them. The service listens on all addresses and cannot be told not to, so it lives in a network
namespace of its own that has only a loopback; `Relay` carries connections from ours into it. Processes and
mounts are its own too: when the first of its processes ends, the kernel ends the rest, jobs included.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from tests.plugins.grid.arc.authority import Authority

START = "/usr/share/arc/arc-arex-start"
START_WS = "/usr/share/arc/arc-arex-ws-start"
_INSIDE = 20443
_STORE = 20444
STORE = f"https://localhost:{_STORE}"
"""As seen by the element: files of `store`, for whoever has a certificate or a proxy of the authority."""
ISSUER = f"{STORE}/issuer"
_START_SECONDS = 60.0
_CLEAN = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
"""Jobs inherit what the element was started with."""
_CLONE_NEWNET = 0x40000000

_CONF = """\
[common]
hostname = localhost
x509_host_cert = {host_cert}
x509_host_key = {host_key}
x509_cert_dir = {certificates}

[authgroup:tests]
subject = {subject}

[authgroup:tokens]
authtokens = user {issuer} * * *

[mapping]
map_to_user = tests nobody:nogroup
map_to_user = tokens nobody:nogroup

[authtokens]

[lrms]
lrms = fork
defaultmemory = 512

[arex]
controldir = {folder}/control
sessiondir = {folder}/session
runtimedir = {folder}/rte
pidfile = {folder}/run/arex.pid
logfile = {folder}/log/arex.log
joblog = {folder}/log/jobs.log
delegationdb = sqlite
wakeupperiod = 2
watchdog = no
tmpdir = {folder}/tmp

[arex/data-staging]
logfile = {folder}/log/staging.log
maxtransfertries = 1

[arex/ws]
wsurl = https://localhost:{port}/arex
pidfile = {folder}/run/arex-ws.pid
logfile = {folder}/log/arex-ws.log

[arex/ws/jobs]
allowaccess = tests
allowaccess = tokens

[infosys]
logfile = {folder}/log/infosys.log

[infosys/glue2]

[infosys/cluster]

[queue:fork]
"""

_BOX = """\
set -e
ip link set lo up
mount -t tmpfs tmpfs /run
# It looks up issuers of tokens with the machine's authorities, whatever is configured.
for place in /etc/grid-security/certificates /etc/ssl/certs; do
    mount --bind {folder}/ca/certificates $place
done
export ARC_CONFIG={folder}/arc.conf TMPDIR={folder}/tmp
cd {folder}/store
{python} {store} {store_port} {host_cert} {host_key} {authority} </dev/null >>{folder}/log/store.out 2>&1 &
{start} -f </dev/null >>{folder}/log/arex.out 2>&1 &
{start_ws} -f </dev/null >>{folder}/log/arex-ws.out 2>&1 &
wait -n
echo "one of the services has ended" >>{folder}/log/arex.out
"""


class ComputingElement:
    """Started by `start`, ended by `stop`; `url` is where it is, `authority` signs who may use it."""

    def __init__(self) -> None:
        missing = [program for program in (START, START_WS) if not os.access(program, os.X_OK)]
        missing += [program for program in ("unshare", "ip", "openssl") if shutil.which(program) is None]
        assert not missing, f"not installed: {', '.join(missing)}; launch/test --arc does that"
        self.folder = Path(tempfile.mkdtemp(prefix="mf-arc-", dir="/tmp"))
        self.authority = Authority(self.folder / "ca")
        self.relay = Relay(_INSIDE)
        self.url = f"https://localhost:{self.relay.port}/arex"
        self._box: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Both services, until the web service answers."""
        folder = self.folder
        folder.chmod(0o755)
        for name in ("control", "session", "rte", "run", "log", "tmp", "store"):
            (folder / name).mkdir()
        (folder / "tmp").chmod(0o1777)
        host_cert, host_key = self.authority.host()
        self.certificate, self.key = self.authority.user()
        self.authority.issuer(folder / "store" / "issuer", ISSUER)
        (folder / "arc.conf").write_text(
            _CONF.format(
                folder=folder,
                host_cert=host_cert,
                host_key=host_key,
                certificates=self.authority.make_folder(),
                subject=self.authority.subject_of("user"),
                port=_INSIDE,
                issuer=ISSUER,
            )
        )
        # Without it the service computes one of 4096 bits, which takes a core for minutes.
        subprocess.run(
            ["openssl", "genpkey", "-genparam", "-algorithm", "DH", "-pkeyopt", "group:ffdhe2048",
             "-out", str(folder / "control" / "dhparam.pem")],
            check=True, capture_output=True, timeout=30,
        )  # fmt: skip
        script = _BOX.format(
            folder=folder,
            start=START,
            start_ws=START_WS,
            python=sys.executable,
            store=Path(__file__).with_name("store.py"),
            store_port=_STORE,
            host_cert=host_cert,
            host_key=host_key,
            authority=self.authority.file,
        )
        box = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        self._box = subprocess.Popen(
            [*box, "bash", "-c", script],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            cwd=folder,
            env=_CLEAN,
        )
        self.relay.enter(self._inner())
        self._await_answer()

    def _inner(self) -> int:
        """The process id of the first process inside, once it is there."""
        assert self._box is not None
        deadline = time.monotonic() + _START_SECONDS
        path = Path(f"/proc/{self._box.pid}/task/{self._box.pid}/children")
        while not (children := path.read_text().split()):
            assert time.monotonic() < deadline, "unshare did not start"
            assert self._box.poll() is None, "unshare failed: these tests want root"
            time.sleep(0.01)
        return int(children[0])

    def _await_answer(self) -> None:
        assert self._box is not None
        context = ssl.create_default_context(cafile=str(self.authority.file))
        context.load_cert_chain(self.certificate, self.key)
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                with (
                    socket.create_connection(("127.0.0.1", self.relay.port), 5) as plain,
                    context.wrap_socket(plain, server_hostname="localhost"),
                ):
                    return
            except OSError:
                if time.monotonic() > deadline or self._box.poll() is not None:
                    raise AssertionError(f"no answer\n{self.logs()}") from None
                time.sleep(0.05)

    def logs(self) -> str:
        """The ends of what the services wrote."""
        parts = []
        for path in sorted((self.folder / "log").glob("*")):
            if path.is_file():
                parts.append(f"-- {path.name}\n{path.read_text(errors='replace')[-2000:]}")
        return "\n".join(parts)

    def stop(self) -> None:
        """End everything. Raises AssertionError if a process is left."""
        self.relay.close()
        if self._box is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._box.pid, signal.SIGKILL)
            self._box.wait(30)
        left = self._left()
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)
        assert not left, f"left behind: {left}"

    def _left(self) -> dict[int, str]:
        deadline = time.monotonic() + 10
        while True:
            found = {}
            for entry in Path("/proc").glob("[0-9]*"):
                with contextlib.suppress(OSError):
                    words = (entry / "cmdline").read_text().replace("\0", " ")
                    if str(self.folder) in words and int(entry.name) != os.getpid():
                        found[int(entry.name)] = words
            if not found or time.monotonic() > deadline:
                return found
            time.sleep(0.05)


class Relay:
    """Listens on a free port of our loopback, and carries each connection to a port of another's."""

    def __init__(self, inside: int) -> None:
        self._inside = inside
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._namespace = -1

    def enter(self, pid: int) -> None:
        """Begin, with the network namespace of this process."""
        self._namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        threading.Thread(target=self._accept, name="relay", daemon=True).start()

    def close(self) -> None:
        """No more connections."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        # Only this thread moves; the sockets it makes belong there, whoever uses them.
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(self._namespace, _CLONE_NEWNET) != 0:
            self._listener.close()
            return
        os.close(self._namespace)
        while True:
            try:
                outer, _ = self._listener.accept()
            except OSError:
                return
            try:
                inner = socket.create_connection(("127.0.0.1", self._inside), 5)
            except OSError:
                outer.close()
                continue
            inner.settimeout(None)
            threading.Thread(target=_carry, args=(outer, inner), daemon=True).start()


def _carry(outer: socket.socket, inner: socket.socket) -> None:
    """Both ways, until one side ends."""
    with outer, inner:
        back = threading.Thread(target=_copy, args=(inner, outer), daemon=True)
        back.start()
        _copy(outer, inner)
        back.join()


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while block := source.recv(1 << 16):
            sink.sendall(block)
    for one in (source, sink):
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
