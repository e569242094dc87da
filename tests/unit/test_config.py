"""Settings and the environment variables that override them."""

from __future__ import annotations

import dataclasses

import pytest

from mpiframe.config import Config
from mpiframe.errors import WorldError


def test_without_variables_the_defaults_stand() -> None:
    assert Config.from_environment({"HOME": "/root", "MPIFRAMEX": "1"}) == Config()


@pytest.mark.parametrize("field", dataclasses.fields(Config), ids=lambda f: f.name)
def test_each_setting_has_a_variable(field: dataclasses.Field[object]) -> None:
    name = f"MPIFRAME_{field.name.upper()}"
    kind = type(field.default)
    text = "off" if field.name == "doorbell" else "7"
    value = kind(text)
    assert value != field.default
    config = Config.from_environment({name: f" {text} "})
    assert getattr(config, field.name) == value
    assert type(getattr(config, field.name)) is kind
    assert dataclasses.replace(config, **{field.name: field.default}) == Config()


@pytest.mark.parametrize("choice", ["auto", "unix", "tcp", "off"])
def test_doorbells(choice: str) -> None:
    assert Config.from_environment({"MPIFRAME_DOORBELL": choice}).doorbell == choice


@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [
        ("MPIFRAME_DOORBELL", "maybe", "one of auto, unix, tcp, off"),
        ("MPIFRAME_DOORBELL", "", "one of auto, unix, tcp, off"),
        ("MPIFRAME_START_TIMEOUT", "soon", "a non-negative float"),
        ("MPIFRAME_START_TIMEOUT", "", "a non-negative float"),
        ("MPIFRAME_START_TIMEOUT", "-1", "a non-negative float"),
        ("MPIFRAME_GRACE", "nan", "a non-negative float"),
        ("MPIFRAME_GRACE", "inf", "a non-negative float"),
        ("MPIFRAME_LARGE", "1.5", "a non-negative int"),
        ("MPIFRAME_LARGE", "64k", "a non-negative int"),
        ("MPIFRAME_CAPTURE_LIMIT", "-1", "a non-negative int"),
    ],
)
def test_a_value_that_cannot_be_read_is_told(name: str, text: str, wanted: str) -> None:
    with pytest.raises(WorldError) as caught:
        Config.from_environment({name: text})
    assert str(caught.value) == f"the environment variable {name} must be {wanted}, not {text!r}"


@pytest.mark.parametrize(
    ("text", "ports"),
    [("", [0]), (" ", [0]), ("4000", [4000]), ("4000-4002", [4000, 4001, 4002]), ("65535", [65535])],
)
def test_ports_of_the_doorbell(text: str, ports: list[int]) -> None:
    config = Config.from_environment({"MPIFRAME_DOORBELL_PORTS": text})
    assert list(config.ports()) == ports


@pytest.mark.parametrize(
    "text", ["0", "65536", "5-4", "many", "4000-", "-4000", "4000-4001-4002", "4000,4001"]
)
def test_ports_that_are_none(text: str) -> None:
    with pytest.raises(WorldError, match="a port or a range such as 20000-20099, not '"):
        Config.from_environment({"MPIFRAME_DOORBELL_PORTS": text})


def test_settings_do_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().grace = 3.0  # type: ignore[misc]


def test_the_process_environment_is_read_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPIFRAME_GRACE", "2.5")
    assert Config.from_environment().grace == 2.5
