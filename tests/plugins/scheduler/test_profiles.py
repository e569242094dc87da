"""Profiles and defaults in a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from mpiframe.plugins.scheduler import Job, OptionError, Queue, config_file


def test_profiles_and_defaults(room: Path) -> None:
    queue = Queue("local")
    assert Job("true", queue=queue).options.cores == 1
    config_file.set_profile(None, {"cores": 2, "memory": "1GB"})
    config_file.set_profile("large", {"cores": 16, "walltime": "1-00:00:00", "modules": ["gcc", "mpi"]})
    assert config_file.profiles() == ["large"]
    assert config_file.get_profile("large") == {"cores": 16, "time": 86400, "modules": ("gcc", "mpi")}
    assert (Job("true", queue=queue).options.cores, Job("true", queue=queue).options.mem) == (2, 1024)
    job = Job("true", queue=queue, profile="large", cores=4)
    assert (job.options.cores, job.options.time, job.options.mem) == (4, 86400, None)
    with pytest.raises(OptionError, match=r"no profile 'huge'.*large"):
        Job("true", queue=queue, profile="huge")
    config_file.delete_profile("large")
    assert config_file.profiles() == []
    with pytest.raises(OptionError):
        config_file.delete_profile("large")


def test_a_file_that_is_wrong(room: Path) -> None:
    Path(config_file.path()).write_text("[default]\ncoers = 4\n")
    with pytest.raises(OptionError, match="did you mean 'cores'"):
        Job("true", queue=Queue("local"))
    Path(config_file.path()).write_text("cores = 4\n")
    with pytest.raises(OptionError, match="cannot be read"):
        config_file.get_profile()
    with pytest.raises(OptionError, match="mem"):
        config_file.set_profile("x", {"mem": "lots"})
    Path(config_file.path()).write_text("[default]\npartition = 50%_off\n")
    assert config_file.get_profile() == {"partition": "50%_off"}
