"""What the README says of pilots is run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mpiframe.plugins.grid import Database

README = Path(__file__).parents[3] / "README.md"


def test_the_pilots_of_the_readme(launcher: Any, couch: Any, database: Database) -> None:
    section = README.read_text(encoding="utf-8").partition("## Grid")[2]
    (example, *_) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    env = {"PICAS_URL": couch.host_url, "PICAS_DB": database.name}
    env |= {"PICAS_USR": couch.user, "PICAS_USR_PWD": couch.password}
    ended = launcher.run(example, 3, env=env).expect(0)
    assert "'done': 20" in ended.stdout, ended.said
