"""From the connection to the messages: the snippets of the documentation's first half, in its order."""

from __future__ import annotations

import socket
import time
from typing import Any
from unittest import mock

from mpiframe.compat import DiFXControl
from mpiframe.plugins.difx.messages_bodies import Alert, Info, Load
from mpiframe.plugins.difx.multicast import Group, Sender
from tests.plugins.difx.snippets.here import SECONDS, Here, snippet, until


@snippet("Making a Client Connection")
def connecting(here: Here) -> None:
    here.run(
        """
        from mpiframe.compat import DiFXControl

        difx = DiFXControl.Client()
        difx.connect( "headnode.difxcluster", 50400 )
        """
    )
    difx: Any = here.names["difx"]
    assert difx.socketOK
    assert isinstance(difx.sock, socket.socket)
    difx.monitor()
    difx.versionRequest()
    until(lambda: difx.serverVersion)


@snippet("Closing the Client Connection")
def closing(here: Here) -> None:
    here.run(
        """
        from mpiframe.compat import DiFXControl

        difx = DiFXControl.Client()
        difx.connect( "headnode.difxcluster", 50400 )
        difx.close()
        """
    )
    assert here.names["difx"].sock.fileno() == -1


@snippet("Monitoring Communications from the Server")
def monitoring(here: Here) -> None:
    here.run(
        """
        from mpiframe.compat import DiFXControl

        difx = DiFXControl.Client()
        difx.connect( "headnode.difxcluster", 50400 )
        difx.monitor()
        """
    )
    difx: Any = here.names["difx"]
    assert difx.monitorThread.is_alive()
    difx.waitTime(SECONDS)
    assert difx.sendFile(f"{here.root}/a", "b") == 1


@snippet("Why Doesn't the Client Monitor Automatically?")
def waiting_oneself(here: Here) -> None:
    here.run(
        """
        from mpiframe.compat import DiFXControl
        import select

        difx = DiFXControl.Client()
        difx.connect( "headnode.difxcluster", 50400 )
        difx.passiveMonitor()

        iwtd, owtd, ewtd = select.select( [difx.sock], [], [], .05 )
        """
    )
    difx: Any = here.names["difx"]
    assert (here.names["iwtd"], here.names["owtd"], here.names["ewtd"]) == ([], [], [])
    assert not difx.monitorThread.is_alive()
    difx.versionRequest()
    while not difx.channelResponse:
        here.run("iwtd, owtd, ewtd = select.select( [difx.sock], [], [], .05 )")
        if here.names["iwtd"]:
            difx.monitorThread.newPacket()
    assert difx.serverVersion


def sleeping_until_versions_came(here: Here) -> Any:
    """`time.sleep` in these snippets is there for the answer to come: it ends with that, and not before."""

    def sleep(seconds: float) -> None:
        assert seconds in (1.0, 2.0)
        difx = here.names["difx"]
        assert difx._waitFor(lambda: difx.channelResponse)

    return mock.patch.object(time, "sleep", sleep)


@snippet("Viewing (and Changing) Your DiFX Run Environment")
def versions(here: Here) -> None:
    here.names["difx"] = None
    with sleeping_until_versions_came(here):
        said = here.run(
            """
            from mpiframe.compat import DiFXControl
            import time

            difx = DiFXControl.Client()
            difx.connect( "headnode.difxcluster", 50400 )
            difx.monitor()

            difx.versionRequest()
            time.sleep( 1.0 )

            print( "Server version: " + str( difx.serverVersion ) )
            print( "DiFX will be run by user: " + str( difx.serverUser ) )
            print( "DiFX will run using version: " + str( difx.versionPreference ) )
            """
        )
    difx = here.names["difx"]
    assert difx.serverUser
    assert said.splitlines() == [
        "Server version: mpiframe",
        f"DiFX will be run by user: {difx.serverUser}",
        "DiFX will run using version: None",
    ]


@snippet("Viewing (and Changing) Your DiFX Run Environment")
def environment(here: Here) -> None:
    here.client().version("STAND-IN")
    said = here.run(
        """
        for key in difx.serverEnvironment.keys():
            print( key + " = " + difx.serverEnvironment[key] )
        """
    )
    assert f"DIFX_MESSAGE_PORT = {Group.find().port}" in said.splitlines()
    assert "PATH =" not in said


@snippet("Using Different DiFX Versions")
def available_versions(here: Here) -> None:
    here.client()
    here.names["time"] = time
    with sleeping_until_versions_came(here):
        said = here.run(
            """
            difx.versionRequest()
            time.sleep( 2.0 )

            if len( difx.availableVersion ) > 0:
                print( "Available DiFX Versions:" )
                for ver in difx.availableVersion:
                    print( str( ver ) )
            else:
                print( "No DiFX versions available to this server." )
            """
        )
    assert said.splitlines() == ["Available DiFX Versions:", "STAND-IN"]


@snippet("Using Different DiFX Versions")
def choosing_a_version(here: Here) -> None:
    difx = here.client()
    text = """
        difx.version( "DIFX_DEVEL" )

        ...
        """
    # Written with the documentation's "_", where the version's own name has "-".
    here.run(text, {"DIFX_DEVEL": "STAND_IN"})
    assert difx.versionPreference == "STAND-IN"
    assert here.run(text) == 'Version "DIFX_DEVEL" is not available.\n'
    assert difx.versionPreference == "STAND-IN"


@snippet("Simple Operations: mv, rm, mkdir, rmdir")
def operations(here: Here) -> None:
    (here.root / "to/undesired/directory").mkdir(parents=True)
    here.put("to/remove/a/b", "x")
    here.put("of/file", "moved")
    here.run(
        """
        from mpiframe.compat import DiFXControl

        difx = DiFXControl.Client()
        difx.connect( "headnode.difxcluster", 50400 )

        difx.mkdir( "/full/path/to/new/directory" )

        difx.rmdir( "/full/path/to/undesired/directory" )

        difx.rm( "/full/path/to/remove", "-r" )

        difx.mv( "/full/path/of/file", "/full/path/of/destination" )

        difx.close()
        """
    )
    # Nothing answers, and the client has gone: they are carried out all the same.
    until((here.root / "of/destination").exists)
    assert (here.root / "of/destination").read_text() == "moved"
    assert not (here.root / "of/file").exists()
    assert (here.root / "to/new/directory").is_dir()
    assert sorted(one.name for one in (here.root / "to").iterdir()) == ["new", "undesired"]
    assert not list((here.root / "to/undesired").iterdir())


LS = """
    from mpiframe.compat import DiFXControl

    difx = DiFXControl.Client()
    difx.connect( "headnode.difxcluster", 50400 )
    difx.monitor()

    dirlist = difx.ls( "/full/path", "-l" )

    if dirlist == None:
        print( "No such file or directory" )
    else:
        for item in dirlist:
            print( item )
    """


@snippet("The ls Command")
def listing(here: Here) -> None:
    here.put("one", "12345")
    (here.root / "two").mkdir()
    total, one, two = here.run(LS).splitlines()
    assert total.startswith("total ")
    assert (one[:4], one.split()[4], one.split()[-1]) == ("-rw-", "5", "one")
    assert (two[0], two.split()[-1]) == ("d", "two")
    here.names["difx"].close()
    assert here.run(LS, {"/full/path": f"{here.root}/nothing"}).splitlines()[3:] == [
        "No such file or directory"
    ]
    here.names["difx"].close()


CALLBACK = """
    def myMessageCallback( argstr ):
        print( "Hey! You have a message: " + argstr )

    difx.messageCallback( myMessageCallback )

    ...
    """


@snippet("Collecting Information Provided by Running Processes")
def callbacks(here: Here) -> None:
    """For a message, and "replace the name of the type" for the others, of which three take no argument."""
    difx = here.client("DiFXJobControl")
    for kind in ("Warning", "Error"):
        here.run(
            CALLBACK, {"Message": kind, "message": kind.lower(), "have a message": f"have a {kind.lower()}"}
        )
    for kind in ("Timeout", "Interval", "Final"):
        text = CALLBACK.replace("( argstr ):", "():").replace(" + argstr", "")
        here.run(text, {"Message": kind, "message": kind.lower(), "have a message: ": kind.lower()})
    here.run(CALLBACK)
    difx.inputFile(f"{here.root}/a.input")
    difx.setHeadNode("localhost")
    difx.addDataSource("localhost")
    difx.defineMachines()  # there is no processor
    assert "Hey! You have a message: Checking parameters.\n" in here.said()
    assert "Hey! You have a error: No processors were specified.\n" in here.said()
    assert "Hey! You have a warning: Machines definition terminated.\n" in here.said()
    assert here.said().count("Hey! You final\n") == 1
    here.put("file", "x" * 10)
    assert difx.getFile(f"{here.root}/file") == "x" * 10
    assert here.said().count("Hey! You interval\n") == 2  # its size, and its only piece
    assert here.said().count("Hey! You final\n") == 2
    difx.waitTime(0.0)
    with difx._news:  # under which answers are taken: this one comes too late
        assert difx.ls(str(here.root)) is None
    assert here.said().count("Hey! You timeout\n") == 1


@snippet("Transfering File Data Between Client and Server")
def getting_a_file(here: Here) -> None:
    here.put("to/the/file", "two\nlines\n")
    here.run(
        """
        difx = DiFXFileTransfer.Client()
        difx.connect()
        difx.monitor()

        fileStr = difx.getFile( "/full/path/to/the/file" )

        ...
        """
    )
    assert here.names["fileStr"] == "two\nlines\n"


@snippet("Transfering File Data Between Client and Server")
def sending_a_file(here: Here) -> None:
    (here.root / "to/the").mkdir(parents=True)
    here.client("DiFXFileTransfer")
    here.run(
        """
        fileData = "this is the file data"

        difx.sendFile( "/full/path/to/the/newfile", fileData )
        """
    )
    assert (here.root / "to/the/newfile").read_text() == "this is the file data"


def told(here: Here, *bodies: Any) -> None:
    """Messages of DiFX, once the server has taken all that our client asked for until now."""
    difx = here.names["difx"]
    difx.waitTime(SECONDS)
    difx.versionRequest()
    assert difx._waitFor(lambda: difx.channelResponse)
    with Sender(Group.find(), "a job") as sender:
        for body in bodies:
            sender.send(body)


@snippet("Monitoring DiFX Messages")
def relaying(here: Here) -> None:
    here.run(
        """
        difx = DiFXControl.Client()

        difx.connect( ( "localhost", 50401 ) )

        difx.monitor()

        difx.relayPackets()
        """
    )
    came: list[Any] = []
    here.names["difx"].addRelayCallback(came.append)
    told(here, Info("hello"))
    until(lambda: came)
    message = DiFXControl.parseXML(came[0])
    assert isinstance(message, DiFXControl.DifxInfoMessage)
    assert message.message == "hello"


@snippet("Monitoring DiFX Messages")
def parsing(here: Here) -> None:
    here.client().relayPackets()
    here.run(
        """
        def messageCallback( self, data ):
            xmlDat = DiFXControl.parseXML( data )
            print( "got message of type " + xmlDat.typeStr )

        difx.addRelayCallback( messageCallback )
        """
    )
    told(here, Info("a"), Alert(message="b", severity=3))
    until(lambda: here.said().count("\n") == 2)
    assert here.said() == "got message of type DifxInfoMessage\ngot message of type DifxAlertMessage\n"


@snippet("Monitoring DiFX Messages")
def selecting(here: Here) -> None:
    difx = here.client()
    kinds: list[str] = []
    difx.addRelayCallback(lambda text: kinds.append(DiFXControl.parseXML(text).typeStr))  # type: ignore[union-attr]
    difx.relayPackets()
    here.run(
        """
        messageTypes = []
        messageTypes.append( "DifxAlertMessage" )
        messageTypes.append( "DifxStatusMessage" )
        difx.messageSelection( messageTypes )
        """
    )
    told(here, Load(0.5), Info("a"), Alert(message="b", severity=3))
    until(lambda: kinds)
    assert kinds == ["DifxAlertMessage"]
    difx.messageSelection()
    told(here, Info("a"))
    until(lambda: len(kinds) == 2)
    assert kinds[1] == "DifxInfoMessage"
