"""From vex2difx to the history of jobs: the snippets of the documentation's second half, in its order."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

from tests.plugins.difx.snippets.here import SECONDS, Here, processes, snippet, until


def made(here: Here) -> list[str]:
    """The jobs that are complete, and models that are there."""
    return sorted(one.name for one in here.root.iterdir() if one.suffix in (".input", ".im"))


@snippet("Running vex2difx")
def making_jobs(here: Here) -> None:
    here.schedule("jobName")
    said = here.run(
        """
        from mpiframe.compat import DiFXvex2difx

        difx = DiFXvex2difx.Client()
        difx.connect( ( "localhost", 50401 ) )
        difx.monitor()

        difx.passPath( "/data/correlator/newExperiment" )
        difx.v2dFile( "jobName" )

        difx.runVex2Difx()
        print( "vex2difx and calc complete" )
        difx.close()
        """
    )
    assert said == "vex2difx and calc complete\n"
    assert made(here) == ["jobName_1.im", "jobName_1.input"]


def experiment(here: Here, name: str) -> Any:
    """A client that has been given what comes before `runVex2Difx`."""
    difx = here.client("DiFXvex2difx")
    here.schedule(name)
    difx.passPath(str(here.root))
    difx.v2dFile(name)
    return difx


@snippet("Running vex2difx")
def making_jobs_in_the_background(here: Here) -> None:
    difx = experiment(here, "jobName")
    ended = threading.Event()
    difx.finalCallback(ended.set)
    said = here.run(
        """
        ...

        difx.runVex2Difx( False )
        print( "vex2difx and calc are running" )

        ...
        """
    )
    assert said == "vex2difx and calc are running\n"
    assert ended.wait(SECONDS)
    assert made(here) == ["jobName_1.im", "jobName_1.input"]


@snippet("Running vex2difx")
def hearing_of_new_files(here: Here) -> None:
    """As it is printed its loop never ends, for the callback's variable is its own: one line is added.

    And its "..." in the loop, "some other stuff", is a wait here.
    """
    here.schedule("jobName")
    here.names["time"] = time
    here.run(
        """
        from mpiframe.compat import DiFXvex2difx

        vex2difxRunning = False

        def myNewFileCallback( newFile ):
            print( newFile + " was created" )

        def myProcessCompleteCallback():
            global vex2difxRunning
            vex2difxRunning = False

        difx = DiFXvex2difx.Client()
        difx.connect( ( "localhost", 50401 ) )
        difx.monitor()

        difx.passPath( "/data/correlator/newExperiment" )
        difx.v2dFile( "jobName" )

        difx.newFileCallback( myNewFileCallback )
        difx.processCompleteCallback( myProcessCompleteCallback )

        vex2difxRunning = True
        difx.runVex2Difx( False )
        print( "vex2difx started" )

        while vex2difxRunning:
            print( "still running" )
            ...

        print( "vex2difx and calc complete!" )
        difx.close()
        """,
        {"    ...\n": "    time.sleep( 0.05 )\n"},
    )
    lines = here.said().splitlines()
    assert "still running" in lines
    assert [line for line in lines if line != "still running"] == [
        "vex2difx started",
        f"{here.root}/jobName_1.input was created",
        f"{here.root}/jobName_1.im was created",
        "vex2difx and calc complete!",
    ]


@snippet("Setting the Calc Process")
def another_calc(here: Here) -> None:
    """Which the options of the server name: it runs none that they do not."""
    difx = experiment(here, "jobName")
    told: list[str] = []
    difx.addAllCallback(lambda number, data: told.append((data or b"").decode()))
    here.run(
        """
        ...
        difx.calcCommand( "mycalcprocess" )
        difx.runVex2Difx()
        """
    )
    assert made(here) == ["jobName_1.im", "jobName_1.input"]
    assert "running mycalcprocess on all new .calc files" in told
    assert "mycalcprocess... this is mycalcprocess" in told


@snippet("Running the Calc Process Alone")
def calc_alone(here: Here) -> None:
    difx = here.client("DiFXvex2difx")
    for name in ("jobs_01", "jobs_02", "jobs_11"):
        here.job(name)
        (here.root / f"{name}.im").unlink()
    here.put("jobs_01.im", "an old one")
    difx.passPath(str(here.root))
    came: list[str] = []
    difx.newFileCallback(came.append)
    here.run(
        """
        ...
        difx.calcOnly( True )
        difx.jobName( "jobs_0*" )
        difx.runVex2Difx()
        """
    )
    assert came == [f"{here.root}/jobs_01.im", f"{here.root}/jobs_02.im"]
    assert (here.root / "jobs_01.im").read_text() == (here.root / "jobs_02.im").read_text() != "an old one"
    assert not (here.root / "jobs_11.im").exists()


@snippet("Starting, Stopping and Monitoring DiFX Jobs")
def control_of_jobs(here: Here) -> None:
    here.run(
        """
        from mpiframe.compat import DiFXJobControl

        difx = DiFXJobControl.Client()
        difx.connect()
        difx.monitor()
        """
    )
    difx: Any = here.names["difx"]
    difx.waitTime(SECONDS)
    assert difx.sendFile(f"{here.root}/a", "b") == 1  # a method of the DiFXControl.Client that it is


@snippet("Identifying a Job Using the .input File")
def naming_a_job(here: Here) -> None:
    difx = here.client("DiFXJobControl")
    here.run('difx.inputFile( "/the/full/path/to/the/job.input" )')
    assert difx.inputFile() == f"{here.root}/job.input"


@snippet("Defining Data Sources and Processors")
def machines_that_there_are(here: Here) -> None:
    difx = here.client("DiFXJobControl")
    difx.inputFile(str(here.job("job")))
    here.put("job.machines", "head\nd1\nd2\nc1\nc2\n")
    here.put("job.threads", "NUMBER OF CORES:    2\n10\n8\n")
    said = here.run(
        """
        difx.getMachines()

        print( difx.headNode() )

        for node in difx.dataSources():
            print( node )

        for node in difx.processors():
            print( node[0] + " " + str( node[1] ) )
        """
    )
    assert said.splitlines() == ["head", "d1", "d2", "c1 10", "c2 8"]


MACHINES = """
    difx.headNode( "myHeadNode" )

    difx.clearDataSources()

    difx.addDataSource( "myDataSource1" )
    difx.addDataSource( "myDataSource2" )

    difx.addProcessor( "myProcessor1", 10 )
    difx.addProcessor( "myProcessor2", 8 )
    """


@snippet("Defining Data Sources and Processors")
def other_machines(here: Here) -> None:
    difx = here.control(here.job("job"))
    here.run(MACHINES)
    assert difx.headNode() == "myHeadNode"
    assert difx.dataSources() == ["myDataSource1", "myDataSource2"]
    assert difx.processors() == [("localhost", 2), ("myProcessor1", 10), ("myProcessor2", 8)]
    assert (here.root / "job.machines").read_text() == "localhost\n" * 4  # not before defineMachines


@snippet("Defining Data Sources and Processors")
def writing_machines(here: Here) -> None:
    here.control(here.job("job")).clearProcessors()
    here.run(MACHINES)
    here.run("difx.defineMachines()")
    wanted = ["myHeadNode", "myDataSource1", "myDataSource2", "myProcessor1", "myProcessor2"]
    assert (here.root / "job.machines").read_text().split() == wanted
    assert (here.root / "job.threads").read_text().splitlines()[1:] == ["10", "8"]


@snippet("Running a Job and Monitoring Progress")
def running_a_job(here: Here) -> None:
    here.control(here.job("job"))
    said = here.run(
        """
        difx.waitTime( 300.0 )

        thisJob = difx.newJob()

        thisJob.start()
        print( "job done!" )
        """
    )
    assert said == "job done!\n"
    job: Any = here.names["thisJob"]
    assert (job.jobComplete, job.finalMessage()) == (True, job.RUN_DIFX_JOB_ENDED_GRACEFULLY)
    assert list((here.root / "job.difx").iterdir())


@snippet("Running a Job and Monitoring Progress")
def running_a_job_in_the_background(here: Here) -> None:
    path = here.job("job", "slow")
    here.control(path)
    said = here.run(
        """
        thisJob = difx.newJob()

        thisJob.start( False )
        print( "job started!" )
        """
    )
    assert said == "job started!\n"
    job: Any = here.names["thisJob"]
    until((here.root / "job.difx").is_dir)
    assert not job.jobComplete
    here.names["difx"].stop()
    until(lambda: job.jobComplete)


@snippet("How Can I See What is Going On?")
def a_thread_that_watches(here: Here) -> None:
    here.client("DiFXJobControl")
    here.names |= {"threading": threading, "time": time, "inputFile": str(here.job("job"))}
    here.run(
        """
        class JobEndMonitor( threading.Thread ):

            def __init__( self, thisJob, jobName ):
                threading.Thread.__init__( self )
                self.jobName = jobName
                self.thisJob = thisJob

            def run( self ):
                quitNow = False
                while not thisJob.jobComplete and not quitNow:
                    try:
                        time.sleep( 0.1 )
                    except KeyboardInterrupt:
                        quitNow = True
                if not quitNow:
                    print( jobName + " completed!" )
                    thisJob.closeChannel()

        ...

        difx.inputFile( inputFile )

        jobName = inputFile[inputFile.rfind( "/" ) + 1:inputFile.rfind( "." )]

        ...

        difx.getMachines()
        thisJob = difx.newJob()

        thisJob.start( False )
        print( "job started!" )

        theThread = JobEndMonitor( thisJob, jobName )
        theThread.start()

        ...
        """
    )
    watching: threading.Thread = here.names["theThread"]
    watching.join(SECONDS)
    assert not watching.is_alive()
    assert here.said() == "job started!\njob completed!\n"


@snippet("How Can I See What is Going On?")
def what_a_job_says(here: Here) -> None:
    path = here.job("job", "noisy")
    here.control(path)
    text = """
        def messageCallback( argstr ):
            print( str( argstr ) )

        def warningCallback( argstr ):
            print( "WARNING: " + str( argstr ) )

        def errorCallback( argstr ):
            print( "ERROR: " + str( argstr ) )

        difx.messageCallback( messageCallback )
        difx.warningCallback( warningCallback )
        difx.errorCallback( errorCallback )

        thisJob = difx.newJob()
        thisJob.start()
        """
    lines = here.run(text).splitlines()
    assert lines[:2] == ["Start parameter check", "Running configuration check."]
    assert "ERROR: [7] terrible things that mean nothing" in lines
    assert lines[-2:] == ["Job complete", "Job ended gracefully"]  # whatever stood on stderr
    path.with_suffix(".stand_in").write_text("crash")
    assert here.run(text).splitlines()[-1] == "ERROR: Job failed"
    path.write_text("no job at all")
    more = here.run(text).splitlines()[len(lines) :]
    assert "ERROR: The .input file has a bad configuration" in more
    assert more[-1] == "WARNING: Job terminated"


@snippet("How Can I See What is Going On?")
def progress(here: Here) -> None:
    path = here.job("job")
    here.control(path)
    here.names["inputFile"] = str(path)
    here.run(
        """
        class Responder:

            def __init__( self ):
                self.jobName = None
                self.jobProgress = 0

            def difxRelayCallback( self, data ):
                xmlDat = DiFXControl.parseXML( data )
                if xmlDat.typeStr == "DifxStatusMessage":
                    if self.jobName != None and xmlDat.identifier == self.jobName:
                        try:
                            self.jobProgress = ( 100.0 *
                                ( float( xmlDat.visibilityMJD ) - float( xmlDat.jobstartMJD ) ) /
                                ( float( xmlDat.jobstopMJD ) - float( xmlDat.jobstartMJD ) ) )
                        except:
                            if xmlDat.state == "Done" or xmlDat.state == "MpiDone":
                                self.jobProgress = 100
                            elif xmlDat.state == "Ending":
                                pass
                            else:
                                self.jobProgress = 0
                        print( xmlDat.state + " " + str( int( self.jobProgress ) ) + "% complete" )

        ...

        responder = Responder()

        responder.jobName = inputFile[inputFile.rfind( "/" ) + 1:inputFile.rfind( "." )]

        difx.addRelayCallback( responder.difxRelayCallback )

        difx.relayPackets()

        thisJob = difx.newJob()
        thisJob.start()
        """
    )
    until(lambda: "Done" in here.said())
    assert here.said().splitlines() == [
        "Starting 0% complete",
        "Ending 0% complete",
        *(f"Running {percent}% complete" for percent in (25, 50, 75, 100)),
        "Done 100% complete",
    ]


@snippet("Stopping a Running Job")
def stopping(here: Here) -> None:
    """Of two jobs that run the first hears the message, and the second nothing, not even signals."""
    other, path = here.job("to/other/file", "stuck"), here.job("job", "slow")
    jobs: list[Any] = []
    for one in (other, path):
        difx = here.control(one)
        jobs.append(difx.newJob())
        jobs[-1].start(False)
    told: list[bytes] = []
    here.names["difx"].addAllCallback(
        lambda _, data: told.append(data) if b": gone after" in (data or b"") else None
    )
    for one in (other, path):
        until(
            lambda one=one: list(one.with_suffix(".difx").glob("*"))
        )  # its begin: now it hears, or does not
        assert processes(one)
    assert [job.jobComplete for job in jobs] == [False, False]
    text = """
        difx.stop()

        difx.stop( "/full/path/to/other/file.input" )
        """
    here.run(text)
    for job, one in zip(jobs, (other, path), strict=True):
        until(lambda job=job: job.jobComplete)
        until(lambda one=one: not processes(one))
        assert job.finalMessage() == job.RUN_DIFX_JOB_TERMINATED
    until(lambda: len(told) == 2)
    assert [state for _, (_, state) in here.names["difx"].jobStatus(str(path))[1]] == ["Terminated  "]
    # Where nothing runs any more it says so, and does no harm.
    here.run(text)
    until(lambda: len(told) == 4)


@snippet("Monitoring the Data Output of a Running Job")
def spectra(here: Here) -> None:
    """lagCallback is given as that of mean lags, as it is printed; so `lag` is of another kind's packets."""
    difx = here.control(here.job("job"))
    lags: list[int] = []
    here.names["seen"] = lambda: lags.append(len(difx.lag))
    here.run(
        """
        def lagCallback():
            print( difx.lag )
            print( difx.meanLagDelay, difx.meanLagSnr )

        ...

        difx.startMonitor()

        monProducts = difx.getMonitorProducts()

        difx.requestProducts( ( 3, 5, 8 ) )

        difx.runWithMonitor( True )

        difx.monitorDataCallbacks( None, None, None, None, None, lagCallback )

        thisJob = difx.newJob()
        thisJob.start()
        """
    )
    # Three products in each of four integrations, of which the last come as the job ends.
    until(lambda: here.said().count("\n") == 24)
    here.run("difx.stopMonitor()")
    products: Any = here.names["monProducts"]
    assert [scan[3] for scan in products] == ["J2005+7752"]
    assert [baseline[:2] for baseline in products[0][7]] == [("FD", "OV")]
    known = difx.productByIndex()
    assert {3, 5, 8} <= set(known)
    lines = here.said().splitlines()
    for numbers, means in zip(lines[::2], lines[1::2], strict=True):
        assert len(numbers.strip("[]").split(",")) == 2 * difx.lagHalfSize
        assert len([float(one) for one in means.split()]) == 2
    assert (difx.meanLagIProduct, here.names["thisJob"].finalMessage()) == (8, 101)


HISTORY = """
    statusInfo = difx.jobStatus( "/full/path/to/*.input" )

    print( statusInfo[0] )

    if statusInfo[1] == None:
        print( "No .input files found." )
    else:
        for item in statusInfo[1]:
            outStr = item[0] + " "
            outStr += item[1][1]
            print( outStr )
    """


@snippet("Obtaining the Run History of a Job")
def history(here: Here) -> None:
    paths: list[Path] = []
    for name, behaviour in (("to/1", ""), ("to/2", "crash"), ("to/3", "")):
        paths.append(here.job(name, behaviour))
    for path in paths[:2]:
        here.control(path).newJob().start()
    when, *states = here.run(HISTORY).splitlines()
    assert time.strptime(when)
    assert states == [
        f"{paths[0]} Done  ",
        f"{paths[1]} Starting  Version 2.9",  # the last that it said before it crashed
        f"{paths[2]} No .difxlog",
    ]
