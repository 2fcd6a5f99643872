"""``~`` in paths, and processes without a home, without a name, or with a home that cannot be written."""

import getpass
import os
import pwd

import pytest

from asdray import home, temporary
from asdray.doctor import machine as doctor_machine
from asdray.home import expanded, settle

VARIABLES = (
    "MPLCONFIGDIR", "NUMBA_CACHE_DIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "LOGNAME", "USER", "LNAME", "USERNAME",
)  # fmt: skip


def no_account(uid):
    raise KeyError(f"getpwuid(): uid not found: {uid}")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder for temporary files, and no variable of a home but HOME."""
    monkeypatch.setattr(temporary, "place", lambda: tmp_path)
    for name in VARIABLES:
        monkeypatch.setenv(name, "")  # what the code sets is undone
        monkeypatch.delenv(name)
    return tmp_path


@pytest.fixture
def nameless(monkeypatch):
    monkeypatch.setattr(pwd, "getpwuid", no_account)


def caches():
    return [os.environ.get(name) for name in ("NUMBA_CACHE_DIR", "MPLCONFIGDIR")]


def test_a_home_that_is_not_known_is_one_line(asdray, nameless, monkeypatch):
    code, _, error = asdray("doctor", "--data", "~nosuchuser/data")
    assert (code, len(error.splitlines())) == (2, 1)
    assert "~nosuchuser/data: there is no user 'nosuchuser' on this machine: write the whole path" in error
    monkeypatch.delenv("HOME")
    with pytest.raises(ValueError, match=r"^~/data: this user has no home folder: .*, or set HOME$"):
        expanded("~/data")
    assert str(expanded("data/~x")) == "data/~x"


def test_a_user_without_an_account_has_a_name(place, nameless, monkeypatch):
    settle()
    assert getpass.getuser() == f"user{os.getuid()}"
    monkeypatch.setenv("LOGNAME", "me")
    settle()
    assert getpass.getuser() == "me"


def test_a_home_that_can_be_written_changes_nothing(place, monkeypatch):
    monkeypatch.setenv("HOME", str(place))
    settle()
    assert caches() == [None, None]
    assert not list(place.iterdir())


@pytest.mark.parametrize("kind", ["a file", "none", "full"])
def test_without_a_home_to_write_to_caches_lie_in_a_private_folder(place, nameless, monkeypatch, kind):
    (place / "file").touch()
    if kind == "none":
        monkeypatch.delenv("HOME")
    else:
        monkeypatch.setenv("HOME", str(place / "file" if kind == "a file" else place))
    if kind == "full":
        monkeypatch.setattr(home, "is_full", lambda path: True)
    monkeypatch.setenv("MPLCONFIGDIR", "/mine")
    settle()
    folder = place / f"asdray-caches-{os.getuid()}"
    assert caches() == [str(folder / "numba_cache_dir"), "/mine"], "what the user has set stays"
    assert folder.stat().st_mode & 0o777 == 0o700
    *_, note = doctor_machine._homes()
    assert note.kind == "note"
    assert f"keep their caches in {folder}" in note.text


@pytest.mark.parametrize("planted", ["open to all", "a link"])
def test_a_folder_that_another_user_may_have_made_is_not_taken(place, monkeypatch, planted):
    """Caches hold code."""
    monkeypatch.setenv("HOME", "/dev/null")
    folder = place / f"asdray-caches-{os.getuid()}"
    if planted == "a link":
        (place / "theirs").mkdir(mode=0o700)
        folder.symlink_to("theirs")
    else:
        folder.mkdir()
        folder.chmod(0o777)
    settle()
    (numba, matplotlib) = caches()
    assert os.path.dirname(numba) == os.path.dirname(matplotlib) != str(folder)
    assert os.stat(os.path.dirname(numba)).st_mode & 0o777 == 0o700
