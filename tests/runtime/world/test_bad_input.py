"""Bad input is an error at the call, before anything is sent."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import mpiframe

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(autouse=True)
def _nothing_was_sent(client):
    first = client.push("1", target=1, block=True)[0].id
    yield
    assert client.push("1", target=1, block=True)[0].id == first + 1


TARGETS = [
    (0, "rank 0 is the client"),
    (99, "no server 99"),
    (-1, "no server -1"),
    ([], "empty list"),
    ((), "empty list"),
    (True, "bool"),
    (False, "bool"),
    ([True], "bool"),
    (1.0, "float"),
    ([1.0], "float"),
    ("one", "'one'"),
    ("1", "'1'"),
    (b"1", "bytes"),
    ({1: 2}, "dict"),
    ([1, 0], "rank 0 is the client"),
    ([1, 99], "no server 99"),
    ([[1]], "list"),
    ([None], "NoneType"),
    (np.bool_(True), "bool"),
    (np.float64(1), "float"),
    (1 + 0j, "complex"),
    (10**30, "no server"),
]


@pytest.mark.parametrize(("target", "words"), TARGETS, ids=[repr(t) for t, _ in TARGETS])
@pytest.mark.parametrize(
    ("verb", "arguments"),
    [
        ("push", ("1",)),
        ("submit", (abs, 1)),
        ("map", (abs, [1])),
        ("plugin", ("none",)),
        ("on", ()),
        ("interrupt", ()),
    ],
)
def test_targets(client, verb, arguments, target, words):
    with pytest.raises(mpiframe.TargetError, match=words) as caught:
        getattr(client, verb)(*arguments, target=target)
    assert isinstance(caught.value, ValueError)
    assert '"all"' in str(caught.value)  # it says what the choices are


def test_interrupt_without_a_target(client):
    with pytest.raises(mpiframe.CommandArgumentError, match="which"):
        client.interrupt(None)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("x = = 1", "x = = 1"),
        ("x = 1\nif x\n    y = 2", "if x"),
        ("  x = (", "x = ("),
        ("return 1", "return 1"),
        ("a = 1\n  b = 2", "b = 2"),
    ],
)
def test_a_string_that_does_not_compile(client, text, line):
    with pytest.raises(mpiframe.CommandSyntaxError) as caught:
        client.push(text, target="all")
    assert isinstance(caught.value, SyntaxError)
    shown = str(caught.value).splitlines()
    assert shown[-2].strip() == line
    assert shown[-1].strip() == "^"
    with pytest.raises(mpiframe.CommandSyntaxError):
        client.submit(text)


def test_a_string_with_a_null_byte(client):
    with pytest.raises(mpiframe.CommandSyntaxError, match="null"):
        client.push("1\0")


@pytest.mark.parametrize("command", [None, 1, b"1", ["1"], object()])
def test_what_is_no_command(client, command):
    with pytest.raises(mpiframe.CommandArgumentError, match=type(command).__name__):
        client.push(command)
    with pytest.raises(mpiframe.CommandArgumentError, match=type(command).__name__):
        client.submit(command)


def test_map_of_what_cannot_be_called(client):
    with pytest.raises(mpiframe.CommandArgumentError, match="NoneType"):
        client.map(None, [1])


class _Secret:
    def __reduce__(self):
        raise ValueError("I stay here")


@pytest.mark.parametrize("bad", [threading.Lock(), _Secret(), (i for i in range(3))])
def test_an_argument_that_cannot_be_pickled_is_named(client, bad):
    kind = type(bad).__qualname__
    with pytest.raises(mpiframe.SerializationError, match=f"argument 2.*{kind}"):
        client.submit(divmod, 1, bad)
    with pytest.raises(mpiframe.SerializationError, match=f"argument 'base'.*{kind}"):
        client.submit(int, "1", base=bad)
    with pytest.raises(mpiframe.SerializationError, match=f"'bad'.*{kind}"):
        client.push("bad", parameters={"good": 1, "bad": bad})
    with pytest.raises(mpiframe.SerializationError):
        next(client.map(abs, [bad]))


def test_a_function_that_cannot_be_pickled(client):
    lock = threading.Lock()
    with pytest.raises(mpiframe.SerializationError, match="lock"):
        client.push(lambda: lock)
    with pytest.raises(mpiframe.SerializationError, match="lock"):
        client.submit(lambda: lock)


@pytest.mark.parametrize("id", [0, -1, 10**9])
def test_an_unknown_id(client, id):
    for verb in (client.get, client.cancel):
        with pytest.raises(mpiframe.RequestError, match=f"no request {id}") as caught:
            verb(id)
    assert isinstance(caught.value, LookupError)


@pytest.mark.parametrize("id", [True, 1.0, "1", None, b"1", [None]])
def test_what_is_no_id(client, id):
    with pytest.raises(mpiframe.RequestError, match="int"):
        client.get(id)


def _takes(a, b=1, /, *, c=2):
    return a, b, c


@pytest.mark.parametrize("parameters", [{"d": 1}, {"a": 1}, {"a": 1, "b": 1}, {"c": 1}, None])
def test_parameters_that_the_callable_does_not_take(client, parameters):
    signature = r"_takes\(a, b=1, /, \*, c=2\)"
    with pytest.raises(mpiframe.CommandArgumentError, match=signature) as caught:
        client.push(_takes, parameters=parameters)
    assert isinstance(caught.value, TypeError)


@pytest.mark.parametrize("parameters", [[1], "ab", 1, {1: 2}, {"a b": 1}, {"": 1}])
def test_parameters_that_are_no_names(client, parameters):
    with pytest.raises(mpiframe.CommandArgumentError):
        client.push("1", parameters=parameters)


@pytest.mark.parametrize("timeout", [-1, -0.1, float("nan")])
def test_a_time_out_that_is_none(client, timeout):
    with pytest.raises(mpiframe.CommandArgumentError, match="timeout"):
        client.submit(abs, 1, timeout=timeout)


def test_a_time_out_of_another_type(client):
    with pytest.raises(mpiframe.CommandArgumentError, match="timeout"):
        client.submit(abs, 1, timeout="soon")


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "2"])
def test_options_of_map(client, value):
    with pytest.raises(mpiframe.CommandArgumentError, match="chunksize"):
        client.map(abs, [1], chunksize=value)
    with pytest.raises(mpiframe.CommandArgumentError, match="buffersize"):
        client.map(abs, [1], buffersize=value)


def test_map_of_nothing(client):
    with pytest.raises(mpiframe.CommandArgumentError, match="iterable"):
        client.map(abs)


def test_submit_to_several(client, servers):
    with pytest.raises(mpiframe.CommandArgumentError, match="one future"):
        client.submit(abs, 1, target=[1, 1])
    with pytest.raises(mpiframe.CommandArgumentError, match="keyword"):
        client.submit("x", 1)


def test_a_second_client(client):
    with pytest.raises(mpiframe.WorldError, match="one client"):
        mpiframe.Client()


@pytest.mark.parametrize(
    "options", [{"output": "loud"}, {"log_level": "LOUD"}, {"log_level": 1.5}, {"output": None}]
)
def test_options_of_the_client(client, options):
    with pytest.raises(mpiframe.WorldError, match=next(iter(options))):
        mpiframe.Client(**options)
