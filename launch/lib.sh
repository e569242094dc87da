# Shared by the scripts here; sourced, not run. Sets `root`, the checkout, and goes there.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"

say() { printf '\033[1m== %s\033[0m\n' "$*" | if [ -t 1 ]; then cat; else sed 's/\x1b\[[0-9]*m//g'; fi; }

die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# as_root COMMAND...: runs it as root, or returns 1 where that cannot be done without asking.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
        sudo -n "$@"
    else
        return 1
    fi
}

# apt_install PACKAGE...: returns 1 where there is no apt-get, or no right to use it.
apt_install() {
    command -v apt-get >/dev/null && as_root true || return 1
    # The list of packages may be missing or old; try without fetching it first.
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "$@" >/dev/null 2>&1 ||
        { as_root apt-get update -qq && as_root env DEBIAN_FRONTEND=noninteractive \
            apt-get install -qq -y --no-install-recommends "$@" >/dev/null; }
}

# npm_tool FOLDER PACKAGE@VERSION PROGRAM: prints the program's path, installed below the checkout if need be;
# returns 1 where there is no npm, and none to be had.
npm_tool() {
    local folder=$root/$1 program=$root/$1/node_modules/.bin/$3
    if [ "$(cat "$folder/.package" 2>/dev/null)" != "$2" ] || ! [ -x "$program" ]; then
        command -v npm >/dev/null || apt_install nodejs npm || return 1
        say "installing $2 into $1" >&2
        mkdir -p "$folder"
        # What its packages would run at their installation is for fetching and compiling; it works without.
        # Node.js trusts the system's certificates only where it is told to; and it would try for half an hour.
        local roots=/etc/ssl/certs/ca-certificates.crt
        [ -n "${NODE_EXTRA_CA_CERTS:-}" ] || ! [ -e $roots ] || export NODE_EXTRA_CA_CERTS=$roots
        timeout 300 npm install --prefix "$folder" --ignore-scripts --no-audit --no-fund --loglevel=error \
            --fetch-retries=1 "$2" >&2 && [ -x "$program" ] || return 1
        echo "$2" >"$folder/.package"
    fi
    echo "$program"
}

# install_arc: the distribution's ARC computing element, which the tests start for themselves.
install_arc() {
    local packages="nordugrid-arc-arex nordugrid-arc-client nordugrid-arc-plugins-arcrest"
    packages+=" nordugrid-arc-plugins-needed nordugrid-arc-plugins-internal openssl iproute2"
    dpkg -s $packages >/dev/null 2>&1 && return
    say "installing the distribution's ARC"
    # Its own services are not for us: they listen on all addresses, and would be started at once.
    [ -e /usr/sbin/policy-rc.d ] || { printf '#!/bin/sh\nexit 101\n' | as_root tee /usr/sbin/policy-rc.d >/dev/null &&
        as_root chmod 755 /usr/sbin/policy-rc.d && local made=yes; } || die "that takes root"
    local failed=0
    apt_install $packages || failed=1
    [ "${made:-}" != yes ] || as_root rm -f /usr/sbin/policy-rc.d
    [ $failed = 0 ] || die "that takes apt-get and root"
}

# find_python: prints the path of a Python that will do; MPIFRAME_PYTHON names one.
find_python() {
    local name
    for name in ${MPIFRAME_PYTHON:-python3 python3.13 python3.12 python3.11 python3.10}; do
        "$name" -c '
import sys
if not (3, 10) <= sys.version_info < (3, 14):
    sys.exit(1)
print(sys.executable)' 2>/dev/null && return
    done
    die "needs Python 3.10 to 3.13; found none of ${MPIFRAME_PYTHON:-them on PATH (MPIFRAME_PYTHON can name one)}"
}

# make_venv FOLDER EXTRAS: a virtual environment in the checkout with mpiframe[EXTRAS] in it, editable.
# A stamp says what was installed, so that a second call only compares.
make_venv() {
    local venv=$root/$1 extras=$2 python base stamp wanted
    python=$(find_python)
    base=$("$python" -c 'import sys; print(sys.version, sys.base_prefix, sys.platform)')
    stamp=$venv/.mpiframe-${extras//,/-}
    wanted=$({ echo "$base $root $extras"; cat setup.py pyproject.toml; } | cksum)
    [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && return
    if ! [ -x "$venv/bin/python" ] || [ "$(cat "$venv/.mpiframe-base" 2>/dev/null)" != "$base $root" ]; then
        say "making the virtual environment $1 ($("$python" --version))"
        # Debian's Python comes without the part that makes virtual environments.
        "$python" -m venv --clear "$venv" >/dev/null 2>&1 ||
            { apt_install python3-venv && "$python" -m venv --clear "$venv"; } ||
            die "cannot make a virtual environment with $python; on Debian: apt-get install python3-venv"
        echo "$base $root" >"$venv/.mpiframe-base"
    fi
    say "installing mpiframe${extras:+[$extras]} into $1"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -e ".${extras:+[$extras]}"
    echo "$wanted" >"$stamp"
}

# install_schedulers: Debian's Slurm and Grid Engine, which nothing starts; returns 1 where that cannot be done.
install_schedulers() {
    # srun --mpi=pmix opens PMIx under the name that only its -dev package has.
    local packages="slurmctld slurmd slurm-client slurm-wlm-basic-plugins munge libpmix-dev"
    packages+=" gridengine-master gridengine-exec gridengine-client"
    dpkg -s $packages >/dev/null 2>&1 && return
    say "installing the distribution's Slurm and Grid Engine"
    apt_install $packages
}

# unpack_torque_wrappers FOLDER: Slurm's imitation of Torque, which cannot be installed beside Grid Engine's client.
unpack_torque_wrappers() {
    say "fetching the imitation of Torque"
    local folder packages package
    folder=$(mktemp -d)
    chmod 755 "$folder"
    (
        cd "$folder"
        packages="slurm-wlm-torque libslurm-perl libslurmdb-perl libswitch-perl"
        apt-get download $packages >/dev/null 2>&1 || { as_root apt-get update -qq && apt-get download $packages >/dev/null 2>&1; }
        mkdir -p "$1"
        for package in *.deb; do dpkg -x "$package" "$1"; done
    ) || die "apt-get download does not bring slurm-wlm-torque"
    rm -r "$folder"
}
