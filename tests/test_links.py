"""Links that another user planted are not written through; links of one's own are."""

import os

import pytest

from asdray.links import refuse_planted
from asdray.store import lease, write_text
from asdray.sweep.events import EventLog

NOBODY = 65534
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make links of another user")


@pytest.fixture
def open_folder(tmp_path):
    """A results folder that others may write in, beside a private file."""
    folder = tmp_path / "results"
    folder.mkdir()
    folder.chmod(0o777)
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "keys").write_text("mine\n")
    return folder


def plant(link, target, owner=NOBODY):
    link.symlink_to(target)
    os.lchown(link, owner, owner)


def test_a_planted_file_is_not_appended_to(open_folder, tmp_path):
    plant(open_folder / "events.jsonl", tmp_path / "private" / "keys")
    with (
        pytest.raises(ValueError, match=r"events.jsonl is a link of user 65534 to .*keys: .* delete it"),
        lease(open_folder),
    ):
        EventLog(open_folder / "events.jsonl").add({"status": "failed"})
    assert (tmp_path / "private" / "keys").read_text() == "mine\n"


@pytest.mark.parametrize("below", ["", "deeper/still"])
def test_a_planted_folder_is_not_written_in(open_folder, tmp_path, below):
    plant(open_folder / "trials", tmp_path / "private")
    with pytest.raises(ValueError, match="trials is a link of user 65534"):
        write_text(open_folder / "trials" / below / "metrics", "x")
    with (
        pytest.raises(ValueError, match="trials is a link of user 65534"),
        lease(open_folder / "trials" / below),
    ):
        pass
    assert [path.name for path in (tmp_path / "private").iterdir()] == ["keys"]


def test_links_of_this_user_and_of_a_folders_owner_are_followed(open_folder, tmp_path):
    plant(open_folder / "mine", tmp_path / "private", os.geteuid())
    write_text(open_folder / "mine" / "new", "x")
    assert (tmp_path / "private" / "new").read_text() == "x"
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    os.chown(theirs, NOBODY, NOBODY)
    plant(theirs / "disk", tmp_path / "private")
    refuse_planted(theirs / "disk")  # who owns the folder could as well have moved it
