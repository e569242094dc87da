"""Real CASA tasks and tools on two servers: the examples of the document, and what casatasks does itself."""

from __future__ import annotations

import importlib.metadata
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# Four worlds of importing casatasks on three ranks and using it: a minute each at the most.
pytestmark = pytest.mark.timeout(300)

RunScript = Callable[..., Any]


@pytest.fixture
def run_script(launcher: Any, casa_environment: dict[str, str]) -> RunScript:
    """Runs an unchanged script on a client and two servers."""

    def run(script: str | list[str], status: int = 0, env: dict[str, str] | None = None) -> Any:
        environment = casa_environment | (env or {})
        return launcher.run(script, 3, seconds=240, options=("--casampi",), env=environment).expect(status)

    return run


def test_example_1_of_the_document(
    run_script: RunScript, make_ms: Callable[..., None], tmp_path: Path
) -> None:
    # As it is written there but for typographic quotes and `{vis=...}`, which Python has never known.
    make_ms(tmp_path / "X54.ms", seed=1, spws=8, wvr=True)
    run_script(
        f"""
        import os
        os.chdir({str(tmp_path)!r})
        from mpi4casa.MPICommandClient import MPICommandClient
        client = MPICommandClient()
        client.set_log_mode('redirect')
        client.start_services()
        client.push_command_request("os.chdir({str(tmp_path)!r})", True, [1, 2])

        # Example of full command including parameters
        cmd1 = "wvrgcal(vis='X54.ms',caltable='cal-wvr_X54',spw=[1,3,5,7])"
        cmdId1 = client.push_command_request(cmd1,block=False)
        # Example of command with separated parameter list
        cmd2 = "wvrgcal()"
        params2={{'vis':'X54.ms','caltable':'cal-wvr_X54_2','spw':[1,3,5,7]}}
        cmdId2 = client.push_command_request(cmd2,block=False,parameters=params2)
        # Retrieve results
        resultList = client.get_command_response([cmdId1,cmdId2],block=True)

        assert [r['successful'] for r in resultList] == [True, True], resultList
        assert {{r['server'] for r in resultList}} == {{1, 2}}
        first, second = (r['ret'] for r in resultList)
        assert first['success'] and second['success'], (first, second)
        assert len(first['Name']) == 7 and all(first['WVR'])
        # The simulated path differs by 0.1 mm.
        assert 60 < min(first['RMS_um']) and max(first['RMS_um']) < 160, first['RMS_um']
        assert list(first['RMS_um']) == list(second['RMS_um'])
        assert os.path.isdir('cal-wvr_X54') and os.path.isdir('cal-wvr_X54_2')
        """
    )


def test_example_2_of_the_document(
    run_script: RunScript, make_ms: Callable[..., None], tmp_path: Path
) -> None:
    # As it is written there but for typographic quotes, a quote that was left out, and what is not true (any
    # more): the tool `ms` has no getcell, `tb` has; medfilt takes no complex numbers; open() is for reading.
    # So a stand-in of the name `ms` gives the real parts of what `tb` has.
    make_ms(tmp_path / "x54.ms", seed=1)
    make_ms(tmp_path / "x220.ms", seed=2)
    run_script(
        f"""
        import os
        from mpi4casa.MPICommandClient import MPICommandClient
        client = MPICommandClient()
        client.start_services()
        client.push_command_request("os.chdir({str(tmp_path)!r})", target_server=[1, 2])
        client.push_command_request(
            "class ms: getcell = staticmethod(lambda column, row: tb.getcell(column, row).real)",
            target_server=[1, 2])
        # Open MSs
        client.push_command_request("tb.open('x54.ms', nomodify=False)",target_server=1)
        client.push_command_request("tb.open('x220.ms', nomodify=False)",target_server=2)
        # Apply median filter
        client.push_command_request("data=ms.getcell('DATA',1)",target_server=[1,2])
        client.push_command_request("from scipy import signal",target_server=[1,2])
        client.push_command_request("filt_data=signal.medfilt(data, [1, 3])",target_server=[1,2])
        # Put filter data back in the MSs
        client.push_command_request("tb.putcell('DATA',1,filt_data)",target_server=[1,2])
        # Close MSs
        last = client.push_command_request("tb.close()",target_server=[1,2],block=True)
        assert [r['successful'] for r in last] == [True, True], last
        assert all(r['successful'] for r in client.get_command_response_list().values())

        import numpy as np
        from casatools import table
        from scipy import signal
        before = client.push_command_request("data", True, [1, 2])
        assert not np.array_equal(before[0]['ret'], before[1]['ret'])
        for name, response in zip(('x54.ms', 'x220.ms'), before):
            tb = table()
            tb.open(os.path.join({str(tmp_path)!r}, name))
            assert np.array_equal(tb.getcell('DATA', 1), signal.medfilt(response['ret'], [1, 3])), name
            tb.close()
        """
    )


def test_two_servers_calibrate_two_measurement_sets_at_once(
    run_script: RunScript, make_ms: Callable[..., None], tmp_path: Path
) -> None:
    for seed in (1, 2):
        make_ms(tmp_path / f"{seed}.ms", seed=seed, times=30, channels=32)
    run_script(
        f"""
        import os, sys
        os.chdir({str(tmp_path)!r})
        from casampi.MPICommandClient import MPICommandClient
        client = MPICommandClient()
        client.start_services()
        P = client.push_command_request
        ids = []
        for n in (1, 2):
            vis = {{'vis': f'{{n}}.ms'}}
            P("os.chdir({str(tmp_path)!r})", False, n)
            ids += P("flagdata()", False, n, {{**vis, 'mode': 'manual', 'antenna': 'DA43', 'scan': '2'}})
            ids += P("gaincal()", False, n, {{**vis, 'caltable': f'{{n}}.G', 'solint': 'inf',
                                              'combine': 'scan', 'refant': 'DA41', 'calmode': 'ap'}})
            ids += P("applycal()", False, n, {{**vis, 'gaintable': [f'{{n}}.G']}})
            ids += P("visstat()", False, n, {{**vis, 'axis': 'amplitude', 'datacolumn': 'corrected'}})
        answers = client.get_command_response(ids, True)
        assert all(r['successful'] for r in answers), [r['traceback'] for r in answers]
        by_server = {{n: [r for r in answers if r['server'] == n] for n in (1, 2)}}
        # They worked at the same time.
        starts = {{n: rows[0]['command_start_time'] for n, rows in by_server.items()}}
        stops = {{n: rows[-1]['command_stop_time'] for n, rows in by_server.items()}}
        assert max(starts.values()) < min(stops.values()), (starts, stops)

        import numpy as np
        from casatools import table
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from simulate import FLUX, gains
        for n in (1, 2):
            stat = by_server[n][-1]['ret']['DATA_DESC_ID=0']
            assert abs(stat['mean'] - 1) < 0.01, stat  # gaincal takes every source for one of 1 Jy
            tb = table()
            tb.open(f'{{n}}.G')
            solved = tb.getcol('CPARAM')[0, 0]
            tb.close()
            true = gains(n, 7)
            true = true * np.exp(-1j * np.angle(true[0])) * np.sqrt(FLUX)
            assert np.abs(solved - true).max() < 0.05, (solved, true)
        """
    )


def test_casatasks_spreads_a_multi_ms_over_our_servers(
    run_script: RunScript, make_ms: Callable[..., None], tmp_path: Path
) -> None:
    make_ms(tmp_path / "whole.ms", seed=1, spws=4)
    run_script(
        f"""
        import os
        os.chdir({str(tmp_path)!r})
        from casatasks import flagdata, partition
        from casampi.MPICommandClient import MPICommandClient
        from casampi.MPIEnvironment import MPIEnvironment
        assert MPIEnvironment.is_mpi_enabled
        client = MPICommandClient()
        client.start_services()
        client.push_command_request("os.chdir({str(tmp_path)!r})", True, [1, 2])
        partition(vis='whole.ms', outputvis='parts.mms', separationaxis='spw', numsubms=4)
        assert len(os.listdir('parts.mms/SUBMSS')) == 4
        before = set(client.get_command_response_list())
        summary = flagdata(vis='parts.mms', mode='summary')
        made = [r for id, r in client.get_command_response_list().items() if id not in before]
        assert summary['total'] == 4 * 3360 and summary['flagged'] == 0, summary
        parts = [r for r in made if 'flagdata' in r['command']]
        assert len(parts) == 4, [r['command'] for r in made]
        assert {{r['server'] for r in parts}} == {{1, 2}}
        flagdata(vis='parts.mms', mode='manual', antenna='DA43', flagbackup=False)
        assert flagdata(vis='parts.mms', mode='summary')['flagged'] == 4 * 960
        """
    )


def test_parallel_imaging_by_casatasks(
    run_script: RunScript, make_ms: Callable[..., None], tmp_path: Path
) -> None:
    make_ms(tmp_path / "whole.ms", seed=1, channels=4, times=20)
    run_script(
        f"""
        import os
        os.chdir({str(tmp_path)!r})
        from casatasks import gaincal, applycal, imstat, setjy, tclean
        from casampi.MPIInterface import MPIInterface
        setjy('whole.ms', standard='manual', fluxdensity=[2, 0, 0, 0], usescratch=True)
        gaincal('whole.ms', 'G', solint='inf', combine='scan', refant='DA41', calmode='ap')
        applycal('whole.ms', gaintable=['G'])
        cluster = MPIInterface.getCluster()
        cluster._cluster.pgc("os.chdir({str(tmp_path)!r})")
        before = len(cluster._cluster.get_command_request_list())
        found = tclean('whole.ms', imagename='image', imsize=64, cell='0.1arcsec', datacolumn='corrected',
                       niter=20, threshold='0.05Jy', parallel=True)
        assert len(cluster._cluster.get_command_request_list()) > before  # the servers imaged
        peak = imstat('image.image')
        assert abs(peak['max'][0] - 2) < 0.05 and list(peak['maxpos'][:2]) == [32, 32], peak
        """
    )


@pytest.mark.parametrize("mode", ["unified", "separated", "redirect"])
def test_the_logs_of_casa_go_where_the_log_mode_says(
    run_script: RunScript, tmp_path: Path, mode: str
) -> None:
    ended = run_script(
        f"""
        import os
        os.chdir({str(tmp_path)!r})
        from casampi.MPICommandClient import MPICommandClient
        from casatasks import casalog
        client = MPICommandClient()
        client.set_log_mode({mode!r})
        client.start_services()
        casalog.post('said by the client')
        say = "casalog.post('said by ' + str(MPIEnvironment.mpi_processor_rank))"
        client.push_command_request(say, True, [1, 2])
        print('FILE', casalog.logfile())
        client.stop_services()
        """
    )
    path = Path(next(line.split()[1] for line in ended.stdout.splitlines() if line.startswith("FILE")))
    whole = path.read_text()
    assert "said by the client" in whole
    for rank in (1, 2):
        line = f"MPIServer-{rank}\tsaid by {rank}"
        own = Path(f"{path}-server-{rank}")
        if mode == "separated":
            assert line in own.read_text()
            assert line not in whole
        else:
            assert line in whole
            assert not own.exists()
        assert (line in ended.said) == (mode == "redirect")


@pytest.mark.parametrize(
    "part",
    ["test_0_MPICommandClient", "test_0_MPIInterface", "test_mpi_runtime_settings", "test_MPICommandServer"],
)
def test_the_original_package_s_own_tests(run_script: RunScript, tmp_path: Path, part: str) -> None:
    """Its classes that need no data of the observatory, against ours, with time-outs a tenth of theirs."""
    theirs = next(
        file for file in importlib.metadata.files("casampi") or () if file.name == "test_casampi.py"
    )
    shutil.copy(theirs.locate(), tmp_path / "test_theirs.py")
    (tmp_path / "conftest.py").write_text(
        "from casampi.MPIEnvironment import MPIEnvironment\n"
        "MPIEnvironment.mpi_monitor_status_service_heartbeat = 0.5\n"
        "MPIEnvironment.mpi_monitor_status_service_timeout = 4\n"
    )
    # One of them leaves a server in a computation without end, so that run ends by force.
    status = 1 if part == "test_MPICommandServer" else 0
    ended = run_script(
        [
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            str(tmp_path),
            "-k",
            part,
            "--rootdir",
            str(tmp_path),
        ],
        status,
    )
    assert " passed" in ended.stdout
    assert " failed" not in ended.stdout
    assert " error" not in ended.stdout
