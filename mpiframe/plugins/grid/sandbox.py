"""Sandboxes: the scripts that a token's processing needs, as an archive in the storage.

with Sandbox.from_file("pref_cal1.cfg") as sandbox:
    sandbox.build()
    where = sandbox.upload("gsiftp://gridftp.grid.sara.nl:2811/pnfs/grid.sara.nl/data/lofar/user/sksp/sandbox")
token["SBXloc"] = sandbox.sbxloc

fetch(where, "sandbox")     # on the node
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, replace
from typing import Any

from mpiframe.launcher.environment import scrub_environment
from mpiframe.plugins.grid import archives, transfer
from mpiframe.plugins.grid.credentials import Secret
from mpiframe.plugins.grid.sandbox_config import GitSource, SandboxConfig, config_of, read_config
from mpiframe.plugins.grid.storage_errors import (
    AccessDenied,
    ArchiveError,
    DiskFull,
    MissingTool,
    NoSuchFile,
    StorageDown,
    StorageError,
    StorageTimeout,
    of_disk,
    shown,
)

GIT_SECONDS = 600.0
SANDBOXES = "gsiftp://gridftp.grid.sara.nl:2811/pnfs/grid.sara.nl/data/lofar/user/sksp/sandbox"
"""Where GRID_LRT keeps sandboxes."""
TOKVAR = "tokvar.cfg"
_TOLD = 500
_SAID: dict[str, type[StorageError]] = {
    "not found": NoSuchFile,
    "does not exist": NoSuchFile,
    "does not appear to be a git repository": NoSuchFile,
    "Authentication failed": AccessDenied,
    "could not read Username": AccessDenied,
    "Permission denied": AccessDenied,
    "Could not resolve host": StorageDown,
    "Failed to connect": StorageDown,
    "No space left": DiskFull,
}
"""What git says, and what that is here."""


@dataclass(frozen=True)
class Built:
    """A sandbox's archive. commits: of each folder's repository. sha256, size: of the archive, in bytes."""

    path: str
    names: tuple[str, ...]
    commits: dict[str, str]
    size: int
    sha256: str


class Sandbox:
    """Builds and uploads one sandbox. `close` removes what it has made here; so does leaving the `with`.

    config: a SandboxConfig, or the parsed text of a configuration. git_seconds: for each repository.
    """

    def __init__(self, config: SandboxConfig | dict[str, Any], *, git_seconds: float = GIT_SECONDS) -> None:
        self.config = config if isinstance(config, SandboxConfig) else config_of(config, "sandbox")
        self.built: Built | None = None
        self._seconds = git_seconds
        self._folder: str | None = None

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], name: str | None = None) -> Sandbox:
        """A sandbox of a YAML or JSON file. Raises ConfigError, NoSuchFile."""
        return cls(read_config(path, name))

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the archive and what it was made of."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None
        self.built = None

    @property
    def sbxloc(self) -> str:
        """What a token says of where its sandbox is: `location/name.tar`."""
        return self.sbxloc_as(None)

    def sbxloc_as(self, name: str | None) -> str:
        """The same for an archive uploaded as `name`."""
        named = replace(self.config, name=name.removesuffix(".tar")) if name else self.config
        return named.sbxloc

    def build(self, folder: str | os.PathLike[str] | None = None) -> Built:
        """Fetch the repositories and make the archive, in a folder of its own or in `folder`.

        Raises MissingTool where there is no git, StorageError for what git says, ArchiveError, DiskFull.
        """
        self.close()
        try:
            self._folder = tempfile.mkdtemp(prefix="sandbox-")
        except OSError as error:
            raise of_disk(error, tempfile.gettempdir()) from None
        tree = os.path.join(self._folder, "tree")
        commits: dict[str, str] = {}
        times = [0]
        try:
            os.mkdir(tree)
            sources = ([self.config.base] if self.config.base else []) + list(self.config.scripts)
            for source in sorted(
                sources, key=lambda one: one.checkout_dir.count("/") + bool(one.checkout_dir)
            ):
                commit, made_at = self._clone(source, tree)
                commits[source.checkout_dir or "."] = commit
                times.append(made_at)
            if self.config.variables:
                with open(os.path.join(tree, TOKVAR), "w", encoding="utf-8") as file:
                    file.write(_yaml(self.config.variables))
            path = os.path.join(os.fspath(folder) if folder else self._folder, f"{self.config.name}.tar")
            names = archives.pack(tree, path, modified=max(times))
            with open(path, "rb") as archive:
                digest = hashlib.sha256()
                while data := archive.read(1 << 20):
                    digest.update(data)
            shutil.rmtree(tree)
        except OSError as error:
            self.close()
            if isinstance(error, StorageError):
                raise
            raise of_disk(error, error.filename or self.config.name) from None
        except BaseException:
            self.close()
            raise
        self.built = Built(path, tuple(names), commits, os.path.getsize(path), digest.hexdigest())
        return self.built

    def upload(
        self,
        to: str = SANDBOXES,
        *,
        name: str | None = None,
        token: Secret | None = None,
        overwrite: bool = True,
        keep: bool = False,
        **options: Any,
    ) -> str:
        """Upload the archive below the folder `to` of a storage, building it first if need be; its url.

        name: of the archive there, if it is to be another. keep: the archive here, even if the configuration
        says remove_when_done. The rest as for `transfer.upload`. Raises as that does.
        """
        built = self.built or self.build()
        base, question, query = to.partition("?")
        url = f"{base.rstrip('/')}/{self.sbxloc_as(name)}"
        transfer.upload(built.path, url + question + query, token=token, overwrite=overwrite, **options)
        if self.config.remove_when_done and not keep:
            self.close()
        return url

    # -- git -------------------------------------------------------------------------------------

    def _clone(self, source: GitSource, tree: str) -> tuple[str, int]:
        """Put a repository's files into the tree, without its history: (commit, its time)."""
        target = os.path.join(tree, source.checkout_dir)
        assert self._folder is not None
        clone = tempfile.mkdtemp(prefix="git-", dir=self._folder)
        words = ["clone", "--quiet", "--no-tags", "--template="]
        if source.branch is not None:
            words += ["--branch", source.branch, "--single-branch"]
        if source.commit is None:
            words += ["--depth", "1"]
        # A path is copied as a repository elsewhere would be: with all checks, and without hard links.
        url = f"file://{source.url}" if source.url.startswith("/") else source.url
        self._git([*words, "--no-checkout", "--", url, clone], source)
        wanted = f"{source.commit}^{{commit}}" if source.commit else "HEAD"
        try:
            found = self._git(
                ["-C", clone, "rev-parse", "--verify", "--quiet", "--end-of-options", wanted], source
            )
        except StorageError:
            raise NoSuchFile(f"{shown(source.url)} has no commit {source.commit}") from None
        commit = found.split()[-1]
        self._git(["-C", clone, "checkout", "--quiet", "--detach", commit, "--"], source)
        made_at = int(
            self._git(["-C", clone, "show", "--no-patch", "--format=%ct", commit, "--"], source).split()[-1]
        )
        shutil.rmtree(os.path.join(clone, ".git"))
        if source.checkout_dir:
            if os.path.lexists(target):
                raise ArchiveError(f"{source.checkout_dir} of {shown(source.url)} is in the sandbox already")
            os.makedirs(os.path.dirname(target), exist_ok=True)
        else:
            os.rmdir(target)
        os.rename(clone, target)
        return commit, made_at

    def _git(self, words: list[str], source: GitSource) -> str:
        program = shutil.which("git")
        if program is None:
            raise MissingTool("there is no git on PATH. On Debian: apt-get install git")
        env = scrub_environment(os.environ, purpose="child") | {
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ALLOW_PROTOCOL": "file:git:http:https:ssh",
            "GIT_SSH_COMMAND": os.environ.get("GIT_SSH_COMMAND", "ssh -o BatchMode=yes"),
            "LC_ALL": "C",
        }
        for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):  # of a hook that runs this
            env.pop(name, None)
        safe = [
            "-c",
            "core.hooksPath=/dev/null",
            "-c",
            "core.fsmonitor=false",
            "-c",
            "advice.detachedHead=false",
        ]
        try:
            return _run([program, *safe, *words], self._seconds, env)
        except subprocess.TimeoutExpired:
            raise StorageTimeout(
                f"{shown(source.url)}: git did not end within {self._seconds:g} s; it has been ended"
            ) from None
        except subprocess.CalledProcessError as error:
            text = re.sub(r"(?<=://)[^/\s@]*@", "", " ".join(str(error.stderr).split())[-_TOLD:])
            kind: type[StorageError] = StorageError
            for words_of_git, found in _SAID.items():
                if words_of_git in text:
                    kind = found
            raise kind(f"{shown(source.url)}: git says: {text or error.returncode}") from None


def _depth(source: GitSource) -> int:
    """How far down in the sandbox: what is above has to be there first."""
    return len(source.checkout_dir.split("/")) if source.checkout_dir else 0


def fetch(
    url: str,
    folder: str | os.PathLike[str],
    *,
    token: Secret | None = None,
    size: int | None = None,
    max_bytes: int = archives.MAX_BYTES,
    **options: Any,
) -> list[str]:
    """Download a sandbox and unpack it into a folder that is new or empty; the names of its files.

    size: of the archive, where it is known. max_bytes: of the archive, and of what it holds. Raises
    SandboxEmpty for an archive of no bytes (ErrorCode.SANDBOX_EMPTY), and as `transfer.download` and
    `archives.extract` do.
    """
    parent = os.path.dirname(os.path.abspath(os.fspath(folder)))
    try:
        os.makedirs(parent, exist_ok=True)
        room = tempfile.mkdtemp(prefix=".sandbox-", dir=parent)
    except OSError as error:
        raise of_disk(error, parent) from None
    try:
        path = os.path.join(room, "archive")
        transfer.download(url, path, token=token, size=size, max_bytes=max_bytes, **options)
        return archives.extract(path, folder, max_bytes=max_bytes)
    except ArchiveError as error:
        raise type(error)(str(error).replace(os.path.join(room, "archive"), shown(url))) from None
    finally:
        shutil.rmtree(room, ignore_errors=True)


def _run(words: list[str], seconds: float, env: dict[str, str]) -> str:
    """Run a program; what it wrote. Ends it, and what it has started, after `seconds`."""
    with subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env=env,
        start_new_session=True,
    ) as process:
        try:
            out, said = process.communicate(timeout=seconds)
        finally:
            transfer.end(process)
    if process.returncode != 0:
        raise subprocess.CalledProcessError(process.returncode, words[0], out, said)
    return out


def _yaml(value: Any) -> str:
    try:
        import yaml
    except ImportError:
        return json.dumps(value, indent=2) + "\n"  # which is YAML too
    return str(yaml.safe_dump(json.loads(json.dumps(value)), default_flow_style=False))
