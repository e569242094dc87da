"""mpi4casa (the package `casampi`) over mpiframe: its scripts run by changing one import.

    from mpiframe.compat.casampi.MPICommandClient import MPICommandClient    # was: from casampi. ...

    client = MPICommandClient()
    client.start_services()
    client.push_command_request("tclean()", block=True, parameters={"vis": "X54.ms", "imagename": "x54"})

Under a plain `mpiexec -n 4 python script.py` the servers stop at that import and serve; what follows is
rank 0's alone. A script that must not be touched is run by `mpiframe run -n 4 --casampi script.py`.

From here on `import casampi` and `import mpi4casa` mean this package too, so that casatasks, which looks
for casampi by itself, spreads its work over our servers.

    MPICommandClient, MPIInterface   what scripts use; late, because on a server rank they do not return
    MPIEnvironment                   who we are; starts MPI
    private                          the modules that tests and tools of others import
    _session, _books, _monitor       what is behind: life, requests and responses, time-outs
    _on_server                       what runs there
"""

from mpiframe.compat.casampi import _alias

_alias.install()
