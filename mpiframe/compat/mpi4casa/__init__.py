"""The package of `mpiframe.compat.casampi` under the name it had in CASA 4 and 5, module by module.

from mpiframe.compat.mpi4casa.MPICommandClient import MPICommandClient
"""

from mpiframe.compat.casampi import _alias

_alias.install()
