"""Where user and password come from, and where they never show."""

from __future__ import annotations

import logging
import pickle
import traceback
import warnings
from pathlib import Path

import pytest

from mpiframe.plugins.grid import Credentials, CredentialsError, Secret
from mpiframe.plugins.grid.credentials import split_url, with_url

HUSH = "hush-hush=9"


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


def test_the_environment_comes_first(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(home / ".picasrc", "user=other\npassword=x\ndatabase=y\n")
    monkeypatch.setenv("PICAS_USR", "me")
    monkeypatch.setenv("PICAS_USR_PWD", HUSH)
    monkeypatch.setenv("PICAS_DB", "mydb")
    assert Credentials.find() == Credentials("me", Secret(HUSH), "mydb")


def test_picasrc(home: Path) -> None:
    write(home / ".picasrc", f"# mine\nuser=me\npassword={HUSH}\n\n database = mydb \n")
    found = Credentials.find()
    assert (found.user, found.password.reveal(), found.database) == ("me", HUSH, "mydb")


def test_picas_own_configuration(home: Path) -> None:
    text = f"host_url: https://picas.example.org:6984\ndatabase: mydb\nusername: me\npassword: '{HUSH}'\n"
    write(home / ".config/picas/conf.yml", text)
    assert Credentials.find() == Credentials("me", Secret(HUSH), "mydb", "https://picas.example.org:6984")


def test_an_encrypted_password(home: Path) -> None:
    fernet = pytest.importorskip("cryptography.fernet")
    key = fernet.Fernet.generate_key()
    folder = home / ".config/picas"
    hidden = fernet.Fernet(key).encrypt(HUSH.encode()).decode()
    conf = f"host_url: http://localhost:5984\ndatabase: d\nusername: me\nencrypted_password: {hidden}\n"
    write(folder / "conf.yml", conf)
    write(folder / "key.dat", key.decode())
    assert Credentials.find().password.reveal() == HUSH
    write(folder / "key.dat", fernet.Fernet.generate_key().decode())
    with pytest.raises(CredentialsError, match=r"key\.dat does not open"):
        Credentials.find()


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        (".picasrc", f"password={HUSH}\n", "no line user="),
        (".config/picas/conf.yml", f"password: {HUSH}\n  x: [", "is no YAML, line 2"),
        (".config/picas/conf.yml", f"- {HUSH}\n", "has no username"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_and_not_told(
    home: Path, name: str, text: str, said: str
) -> None:
    write(home / name, text)
    with pytest.raises(CredentialsError, match=said) as caught:
        Credentials.find()
    assert str(home / name) in str(caught.value)
    assert HUSH not in "".join(traceback.format_exception(caught.value))


def test_none_at_all(home: Path) -> None:
    with pytest.raises(CredentialsError, match=r"PICAS_USR.*\.picasrc.*conf\.yml"):
        Credentials.find()


def test_a_file_that_others_can_read_is_warned_of(home: Path) -> None:
    write(home / ".picasrc", "user=me\npassword=x\n", 0o644)
    with pytest.warns(UserWarning, match="chmod 600"):
        Credentials.find()


def test_what_is_saved_is_found_and_is_the_owners_alone(home: Path) -> None:
    given = Credentials("me", Secret(HUSH), "mydb", "https://picas.example.org:6984")
    path = Path(given.save())
    assert path.stat().st_mode & 0o777 == 0o600
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Credentials.find() == given


def test_a_password_shows_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    found = Credentials("me", Secret(HUSH), "mydb")
    logging.getLogger("x").warning("%s %r %s", found, found, found.password)
    shown = [repr(found), str(found), f"{found}", f"{found.password!r}", caplog.text, repr(vars(found))]
    try:
        raise ValueError(found)
    except ValueError as error:
        lines = traceback.TracebackException.from_exception(error, capture_locals=True).format()
        shown += [str(error), "".join(lines)]
    assert not [text for text in shown if HUSH in text]
    assert pickle.loads(pickle.dumps(found)) == found


def test_a_password_in_a_url_leaves_it() -> None:
    clean, user, password = split_url("https://me:a%40b@example.org:6984/")
    assert (clean, user, password) == ("https://example.org:6984", "me", Secret("a@b"))
    assert with_url(Credentials("x", Secret("y"), "d"), "http://h:1") == Credentials(
        "x", Secret("y"), "d", "http://h:1"
    )
