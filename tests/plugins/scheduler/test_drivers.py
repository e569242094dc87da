"""What batch systems printed, as recorded, is read; what is sent to them is built."""

from __future__ import annotations

import json
import os
import shlex
from collections import Counter
from pathlib import Path

import pytest

from mpiframe.plugins.scheduler.drivers import Dependency, Submission, plain_name
from mpiframe.plugins.scheduler.errors import OptionError
from mpiframe.plugins.scheduler.gridengine import GridEngine
from mpiframe.plugins.scheduler.options import make_options
from mpiframe.plugins.scheduler.pbs import OpenPbs, Torque
from mpiframe.plugins.scheduler.slurm import _ACCOUNT_FIELDS, Slurm, expand
from mpiframe.plugins.scheduler.states import JobStatus, State, from_wait_status, whole

DATA = Path(__file__).parent / "data"


def sample(name: str) -> str:
    return (DATA / name).read_text()


def ends(found: list[JobStatus]) -> dict[tuple[str, int | None], tuple[State, int | None, int | None]]:
    return {(one.job, one.task): (one.state, one.exit_code, one.signal) for one in found}


# -- outputs --------------------------------------------------------------------------------------


def test_sacct() -> None:
    head, *lines = sample("slurm22.05_sacct.txt").splitlines()
    columns = head.split("|")
    order = [columns.index(name) for name in _ACCOUNT_FIELDS.split(",")]
    text = "\n".join("|".join(line.split("|")[i] for i in order) for line in lines)
    found = Slurm().parse_accounting(text)
    by = ends(found)
    assert len(by) == len(found) == 1220
    assert by["21", None] == (State.FAILED, 1, None)
    assert [by["20", task] for task in range(4)] == [
        (State.COMPLETED, 0, None),
        (State.FAILED, 1, None),
        (State.FAILED, 2, None),
        (State.FAILED, 3, None),
    ]
    counted = Counter((one.state, one.exit_code, one.signal) for one in found)
    assert counted[State.COMPLETED, 0, None] == 1181
    assert counted[State.FAILED, None, 9] == 4
    assert sum(number for (state, _, _), number in counted.items() if state is State.CANCELLED) == 4


def test_squeue_agrees_with_its_json() -> None:
    """The recorded JSON, written as the columns that the driver asks for."""
    lines, wanted = [], Counter()
    for job in json.loads(sample("slurm22.05_squeue.json"))["jobs"]:
        number = str(job["job_id"])
        if job["array_job_id"]:
            tasks = job["array_task_string"]
            number = f"{job['array_job_id']}_[{tasks}]" if tasks else f"{number}_{job['array_task_id']}"
        row = [number, job["job_state"], str(job["exit_code"]), job["state_reason"], job["nodes"]]
        row += [job["user_name"], job["partition"], str(job["cpus"]), job["name"]]
        lines.append("|".join(row) + "|")
        wanted[job["job_state"]] += 1
    found = Slurm().parse_status("\n".join(lines))
    assert {one.name for one in found} >= {"wrap", "sbatch"}
    states = Counter(one.state for one in found)
    assert states[State.COMPLETED] == wanted["COMPLETED"] == 36
    assert [(one.exit_code, one.signal) for one in found if one.state is State.FAILED] == [(3, None)]
    assert [one.signal for one in found if one.state is State.CANCELLED] == [15]
    held = [one for one in found if one.state is State.HELD]
    assert {one.reason for one in held} == {"DependencyNeverSatisfied"}
    assert sorted(one.task for one in found if one.task is not None) == [0, 1, 2]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("7|RUNNING|0|None|n1|u|p|2|a|b|", [JobStatus("7", State.RUNNING, host="n1", name="a|b", cores=2)]),
        ("7_3|PENDING|0|JobHeldUser||u|p|1|x|", [JobStatus("7", State.HELD, 3, reason="JobHeldUser")]),
        ("7|FAILED|9|JobLaunchFailure||u|p|1|x|", [JobStatus("7", State.FAILED, None, None, 9)]),
        ("7|TIMEOUT|0|TimeLimit||u|p|1|x|", [JobStatus("7", State.TIMEOUT, exit_code=0)]),
        ("7|OUT_OF_MEMORY|125|x||u|p|1|x|", [JobStatus("7", State.OUT_OF_MEMORY, None, None, 9)]),
        ("7|NODE_FAIL|0|x||u|p|1|x|", [JobStatus("7", State.NODE_FAILURE)]),
        ("7|BOGUS|0|||u|p|1|x|", [JobStatus("7", State.UNKNOWN)]),
    ],
)
def test_lines_of_squeue(line: str, expected: list[JobStatus]) -> None:
    (found,), (wanted,) = Slurm().parse_status(line), expected
    assert (found.job, found.task, found.state) == (wanted.job, wanted.task, wanted.state)
    if wanted.name:
        assert (found.name, found.host, found.cores) == (wanted.name, wanted.host, wanted.cores)
    if wanted.signal:
        assert (found.exit_code, found.signal) == (None, wanted.signal)


@pytest.mark.parametrize("text", ["nonsense", "1|2", "x|RUNNING|0|||u|p|1|n|", "1|RUNNING|zero|||u|p|1|n|"])
def test_what_is_no_line_of_squeue_is_an_error(text: str) -> None:
    with pytest.raises(ValueError):
        Slurm().parse_status(text)


def test_openpbs_history() -> None:
    by = ends(OpenPbs().parse_status(sample("openpbs23.06_qstat_hist.json")))
    ended = Counter(value for value in by.values())
    assert ended[State.COMPLETED, 0, None] == 7
    assert ended[State.FAILED, 3, None] == 1
    assert ended[State.FAILED, 5, None] == 1
    # One by qdel (its exit status says 0), one that never ran for its dependency's sake.
    assert ended[State.CANCELLED, None, None] == 2
    assert by["12.pbshost", None][0] is State.RUNNING
    assert by["13.pbshost", None][0] is State.HELD


def test_openpbs_arrays_and_text() -> None:
    found = OpenPbs().parse_status(sample("openpbs23.06_qstat_array.json"))
    assert {one.job for one in found} == {"14[].pbshost"}
    assert {one.task: one.state for one in found} == {
        None: State.RUNNING, 0: State.RUNNING, 1: State.PENDING, 2: State.PENDING, 3: State.PENDING,
    }  # fmt: skip
    text, table = sample("openpbs23.06_qstat_f.txt"), sample("openpbs23.06_qstat.json")
    assert ends(OpenPbs().parse_status(text)) == ends(OpenPbs().parse_status(table))
    assert len(OpenPbs().parse_status(text)) == 3


def test_torque() -> None:
    by = ends(Torque().parse_status(sample("torque_qstat_t.xml")))
    assert by["0.torquehost", None] == (State.FAILED, 3, None)
    assert by["1.torquehost", None] == (State.COMPLETED, 0, None)
    assert [by["3[].torquehost", task] for task in range(3)] == [
        (State.COMPLETED, 0, None),
        (State.FAILED, 1, None),
        (State.FAILED, 2, None),
    ]
    assert by["4.torquehost", None] == (State.CANCELLED, None, 15)
    assert by["6.torquehost", None] == (State.CANCELLED, None, None)  # for the sake of job 5
    assert by["11.torquehost", None][0] is State.RUNNING
    assert [by["13[].torquehost", task][0] for task in range(4)] == [
        State.PENDING,
        State.RUNNING,
        State.HELD,
        State.HELD,
    ]


def test_torque_text_says_what_its_xml_says() -> None:
    text = Torque().parse_status(sample("torque_qstat_f.txt"))
    table = Torque().parse_status(sample("torque_qstat.xml"))
    assert len(text) == 12
    assert {key: value[0] for key, value in ends(text).items()} == {
        key: value[0] for key, value in ends(table).items()
    }
    broken = [one for one in text if one.job == "7.torquehost"]
    assert broken[0].name == "efc35400-23fd-4c89-af63-d354ba7db1e1.job"  # two lines there


@pytest.mark.parametrize(
    ("status", "used", "expected"),
    [(271, "00:05:01", State.TIMEOUT), (271, "00:00:09", State.CANCELLED), (265, "00:00:09", State.FAILED)],
)
def test_torque_tells_a_time_out_by_the_time(status: int, used: str, expected: State) -> None:
    text = (
        f"<Data><Job><Job_Id>1.h</Job_Id><job_state>C</job_state><exit_status>{status}</exit_status>"
        f"<resources_used><walltime>{used}</walltime></resources_used>"
        "<Resource_List><walltime>00:05:00</walltime></Resource_List></Job></Data>"
    )
    assert Torque().parse_status(text)[0].state is expected


@pytest.mark.parametrize(
    ("status", "expected"), [(-29, State.TIMEOUT), (-27, State.OUT_OF_MEMORY), (-3, State.FAILED)]
)
def test_openpbs_says_what_it_killed_a_job_for(status: int, expected: State) -> None:
    job = {"job_state": "F", "substate": 93, "Exit_status": status}
    assert OpenPbs().parse_status(json.dumps({"Jobs": {"1.h": job}}))[0].state is expected


def test_empty_outputs_hold_no_jobs() -> None:
    assert Slurm().parse_status("") == OpenPbs().parse_status("") == Torque().parse_status("") == []
    assert Torque().parse_status("<Data></Data>") == GridEngine().parse_status("") == []


def test_grid_engine() -> None:
    found = GridEngine().parse_status(sample("sge8.1.9_qstat.xml"))
    assert found == GridEngine().parse_status(sample("sge8.1.9_qstat_r.xml"))
    assert {(one.job, one.task): one.state for one in found} == {
        ("6", None): State.RUNNING,
        ("8", 2): State.RUNNING,  # the third: theirs are counted from 1
        ("9", None): State.PENDING,
        ("7", None): State.HELD,
    }
    assert (found[0].host, found[0].queue, found[0].cores) == ("vm", "all.q", 1)
    (done,) = GridEngine().parse_accounting(sample("sge8.1.9_qacct.txt"))
    assert (done.job, done.task, done.state, done.exit_code) == ("6", None, State.COMPLETED, 0)


@pytest.mark.parametrize(
    ("failed", "status", "expected"),
    [
        ("0    ", "3", (State.FAILED, 3, None)),
        ("100 : assumedly after job", "137 ", (State.FAILED, None, 9)),
        ("37  : qmaster enforced h_rt limit", "137", (State.TIMEOUT, None, 9)),
    ],
)
def test_qacct(failed: str, status: str, expected: tuple[State, int | None, int | None]) -> None:
    text = sample("sge8.1.9_qacct.txt").replace("failed       0    ", f"failed       {failed}")
    text = text.replace("exit_status  0", f"exit_status  {status}").replace(
        "taskid       undefined", "taskid 4"
    )
    assert ends(GridEngine().parse_accounting(text)) == {("6", 3): expected}


def test_a_job_in_error_state_has_ended() -> None:
    text = sample("sge8.1.9_qstat.xml").replace("<state>qw<", "<state>Eqw<")
    (stuck,) = [one for one in GridEngine().parse_status(text) if one.job == "9"]
    assert stuck.state is State.FAILED
    assert "Eqw" in stuck.reason


@pytest.mark.parametrize(
    ("driver", "name"),
    [(Slurm(), "slurm22.05_err_partition.txt"), (OpenPbs(), "openpbs_err.txt"), (Torque(), "torque_err.txt"),
     (GridEngine(), "sge_err.txt")],
)  # fmt: skip
def test_the_messages_about_unknown_ids_are_known(driver: Slurm, name: str) -> None:
    lines = sample(name).splitlines()
    told = [line for line in lines if driver.unknown_id.search(line)]
    assert told
    assert not driver.unknown_id.search("slurm_load_jobs error: Unable to contact slurm controller")
    assert not any("partition" in line or "time" in line for line in told)


# -- ids ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("driver", "text", "expected"),
    [
        (Slurm(), "123\n", "123"),
        (Slurm(), "Welcome to the cluster\n123;big-one\n", "123"),
        (OpenPbs(), "12.pbshost\n", "12.pbshost"),
        (OpenPbs(), "14[].pbshost\n", "14[].pbshost"),
        (Torque(), "3[].torquehost\n", "3[].torquehost"),
        (GridEngine(), "6\n", "6"),
        (GridEngine(), "8.1-4:1\n", "8"),
    ],
)
def test_ids(driver: Slurm, text: str, expected: str) -> None:
    assert driver.parse_submit(text) == expected
    with pytest.raises(ValueError, match="no job id"):
        driver.parse_submit("sorry\n")


def test_ranges() -> None:
    assert expand("0-3,7,10-20:5") == [0, 1, 2, 3, 7, 10, 15, 20]
    assert from_wait_status(768) == (3, None)
    assert from_wait_status(9) == (None, 9)
    assert whole([State.COMPLETED, State.FAILED]) is State.FAILED
    assert whole([State.COMPLETED, State.PENDING]) is State.PENDING
    assert whole([]) is State.UNKNOWN


# -- commands -------------------------------------------------------------------------------------


def submission(count: int | None = None, limit: int | None = None, **options: object) -> Submission:
    return Submission(
        "a name; rm -rf /", make_options(options), "/d/50%", "/d/x.sh", "/d/50%/o", "/d/e", "/d/l",
        count=count, limit=limit,
    )  # fmt: skip


FULL = {
    "cores": 2, "nodes": 3, "mem": "2GB", "time": "1:30:00", "partition": "long one", "account": "a",
    "qos": "q", "features": ["big", "new"], "export": "A=1",
}  # fmt: skip


def test_slurm_header() -> None:
    lines = Slurm().header(submission(20, 4, **FULL, extra=["--comment=hi"]))
    assert lines == [
        "--job-name='a name; rm -rf /'", "--chdir=/d/50%", "--output=/d/50%%/o.%a", "--error=/d/e.%a",
        "--ntasks=3", "--cpus-per-task=2", "--nodes=3", "--mem=2048M", "--time=01:30:00", "--array=0-19%4",
        "--partition='long one'", "--account=a", "--qos=q", "--constraint='big&new'", "--export=A=1",
        "--comment=hi",
    ]  # fmt: skip


def test_pbs_headers() -> None:
    lines = OpenPbs().header(submission(20, 4, **FULL))
    assert "-l select=3:ncpus=2:mem=2048mb:big=True:new=True" in lines
    assert {"-N a_name__rm_-rf__", "-J 0-19%4", "-q 'long one'", "-v A=1"} <= set(lines)
    lines = Torque().header(submission(20, 4, **FULL))
    assert {"-l nodes=3:ppn=2:big:new", "-l mem=6144mb", "-t 0-19%4"} <= set(lines)
    assert not [line for line in OpenPbs().header(submission(1)) if line.startswith("-J")]
    assert "-l select=2:ncpus=4:mpiprocs=4" in OpenPbs().header(submission(nodes=2, mpi=8))


def test_grid_engine_header() -> None:
    lines = GridEngine().header(submission(20, 4, cores=2, mem="2GB", time=60, features="gpu"))
    assert {"-pe smp 2", "-l h_vmem=1024M", "-l h_rt=00:01:00", "-l gpu", "-t 1-20", "-tc 4"} <= set(lines)
    with pytest.raises(OptionError, match="pe="):
        GridEngine().header(submission(nodes=2))


def test_every_header_line_reads_back_as_one_command_line() -> None:
    for driver in (Slurm(), OpenPbs(), Torque(), GridEngine()):
        for line in driver.header(submission(cores=2, partition="it's", account='say "x"')):
            assert line.startswith("-")
            assert "\n" not in line
            assert shlex.split(line)


def test_dependencies() -> None:
    waits = [Dependency("1"), Dependency("2", "afterany"), Dependency("3"), Dependency("1")]
    assert Slurm().submit_argv("s", waits) == [
        "sbatch", "--parsable", "--dependency=afterok:1:3,afterany:2", "--kill-on-invalid-dep=yes", "s",
    ]  # fmt: skip
    assert OpenPbs().submit_argv("s", waits) == ["qsub", "-W", "depend=afterok:1:3,afterany:2", "s"]
    assert Torque().submit_argv("s", [Dependency("3[].h")]) == [
        "qsub",
        "-W",
        "depend=afterokarray:3[].h",
        "s",
    ]
    assert GridEngine().submit_argv("s", waits) == ["qsub", "-terse", "-hold_jid", "1,2,3", "s"]
    assert Slurm().submit_argv("s", []) == ["sbatch", "--parsable", "s"]


def test_the_other_commands() -> None:
    assert Slurm().status_argv(["1", "2"], "u")[:7] == ["squeue", "-h", "-r", "-t", "all", "-j", "1,2"]
    assert Slurm().status_argv(None, "u")[5:7] == ["-u", "u"]
    assert OpenPbs().status_argv(["1.h"], "u") == ["qstat", "-x", "-t", "-f", "-F", "json", "1.h"]
    assert Torque().status_argv(["1.h"], "u") == ["qstat", "-x", "-t", "1.h"]
    assert Slurm().cancel_argv(["1", "2"]) == ["scancel", "1", "2"]
    assert GridEngine().accounting_argv(["6"]) == ["qacct", "-j", "6"]
    assert plain_name("1 é/x", 4) == "j1__"


def test_the_samples_are_all_read() -> None:
    text = Path(__file__).read_text()
    unread = {name for name in os.listdir(DATA) if name not in text}
    assert unread == set()
