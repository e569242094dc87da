"""GRID_LRT's Sandbox on `mpiframe.plugins.grid.sandbox`: built, packed and uploaded in one go or in steps.

What differs: the current folder is never changed; the archive is fetched, checked and packed as a whole by
`build_sandbox`; a failed upload is an error; nothing goes by scp to a host of one person.
"""

from __future__ import annotations

import shutil
import sys
from typing import Any

from mpiframe.plugins.grid import sandbox as sandboxes
from mpiframe.plugins.grid.credentials import Secret
from mpiframe.plugins.grid.gfal import Gfal
from mpiframe.plugins.grid.sandbox_config import SandboxConfig, read_config
from mpiframe.plugins.grid.storage_errors import ConfigError, NoSuchFile


class Sandbox:
    """A sandbox of a YAML or JSON configuration. sbxtarfile, sbxloc: its archive here, and there."""

    def __init__(self, cfgfile: str | None = None) -> None:
        self.sbx_def: SandboxConfig | None = None
        self.sbxtarfile: str | None = None
        self.sbxloc: str | None = None
        self._sandbox: sandboxes.Sandbox | None = None
        if cfgfile is not None:
            self.parseconfig(cfgfile)

    def parseconfig(self, yamlfile: str) -> None:
        """Read the configuration. Raises ConfigError naming the line, NoSuchFile."""
        self.cleanup()
        self.sbx_def = read_config(yamlfile)
        self._sandbox = sandboxes.Sandbox(self.sbx_def)

    def build_sandbox(self, sbx_config: str | None = None) -> None:
        """Fetch the repositories and pack them. Raises StorageError."""
        if sbx_config is not None:
            self.parseconfig(sbx_config)
        self.sbxtarfile = self._configured().build().path

    def zip_sbx(self, zipname: str | None = None) -> str:
        """The archive, built if it is not yet; copied to `zipname` if that is given."""
        if self.sbxtarfile is None:
            self.build_sandbox()
        assert self.sbxtarfile is not None
        if zipname is not None:
            shutil.copyfile(self.sbxtarfile, zipname)
        return zipname or self.sbxtarfile

    def upload_sandbox(self, upload_name: str | None = None) -> str:
        """Upload to where GRID_LRT keeps sandboxes; its url."""
        return self.upload_gsi_sbx(None, upload_name)

    def upload_gsi_sbx(
        self, loc: str | None = None, upload_name: str | None = None, token: Secret | None = None
    ) -> str:
        """Upload below the folder `loc` of a storage; its url. An older one of the same name is replaced."""
        sandbox = self._configured()
        if sandbox.built is None:
            self.build_sandbox()
        where = sandbox.upload(loc or sandboxes.SANDBOXES, token=token, name=upload_name, keep=True)
        self.sbxloc = sandbox.sbxloc_as(upload_name)
        print(f"Uploaded sandbox to {where}")
        return where

    def sandbox_exists(self, sbxfile: str) -> bool:
        """Whether there is such a file in the storage; its folder has to be there."""
        with Gfal() as gfal:
            try:
                gfal.size(sbxfile)
            except NoSuchFile:
                return False
        return True

    def delete_gsi_sandbox(self, sbxfile: str) -> None:
        """Delete a file of the storage. Raises StorageError."""
        with Gfal() as gfal:
            gfal.remove(sbxfile)

    def make_tokvar_dict(self) -> dict[str, Any]:
        """What tokvar.cfg tells: which fields of a token become which shell variables."""
        return dict(self._configured().config.variables)

    def check_token(self, token: dict[str, Any]) -> list[str]:
        """The fields that the sandbox wants of a token, and that it does not have."""
        attachments = token.get("_attachments", {})
        wanted = self.make_tokvar_dict()
        missing = [name for name in wanted if name != "_attachments" and name not in token]
        return missing + [name for name in wanted.get("_attachments", {}) if name not in attachments]

    def cleanup(self) -> None:
        """Remove what was made here."""
        if self._sandbox is not None:
            self._sandbox.close()
        self.sbxtarfile = None

    delete_sbx_folder = cleanup

    def _configured(self) -> sandboxes.Sandbox:
        if self._sandbox is None:
            raise ConfigError("there is no configuration yet; call parseconfig")
        return self._sandbox


if __name__ == "__main__":
    _sandbox = Sandbox()
    _sandbox.build_sandbox(sys.argv[1])
    _sandbox.upload_sandbox()
