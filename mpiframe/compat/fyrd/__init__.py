"""`mpiframe.compat.cluster` under the name that python-cluster took later."""

import sys

from mpiframe.compat import cluster
from mpiframe.compat.cluster import *  # noqa: F403
from mpiframe.compat.cluster import __all__ as __all__

for _name in ("config_file", "job", "jobqueue", "logme", "options", "queue", "run"):
    sys.modules[f"{__name__}.{_name}"] = getattr(cluster, _name)
