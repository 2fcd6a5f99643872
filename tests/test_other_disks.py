"""Disks without links (exFAT, SMB, VirtualBox), and data that somebody else has formatted."""

import errno
import os

import pytest
from trees import build_tree

from asdray import store
from asdray.dcase.format import format_dataset
from asdray.dcase.unpack import make_links


@pytest.fixture
def tree(tmp_path):
    return build_tree(tmp_path / "data", "dcase2023", ["fan", "bandsaw"], per_cell=2, n_samples=40)


@pytest.mark.parametrize(
    ("link", "code", "way"),
    [
        ("symlink", errno.EPERM, ": choose --link copy"),
        (
            "symlink",
            errno.EROFS,
            ": choose --link copy",
        ),  # VirtualBox says so, though the folder can be written
        ("hardlink", errno.EXDEV, ": choose --link symlink or copy"),
        ("symlink", errno.ENOSPC, ""),
    ],
)
def test_a_file_system_without_links_is_told_with_the_way_out(tree, monkeypatch, link, code, way):
    def refuse(source, target):
        raise OSError(code, os.strerror(code), source, None, target)

    monkeypatch.setattr(os, {"symlink": "symlink", "hardlink": "link"}[link], refuse)
    place = store.formatted_dir(tree.data, "dcase2023")
    with pytest.raises(
        ValueError, match=rf"^cannot make the {link} {place}.*\.wav: {os.strerror(code)}{way}$"
    ):
        format_dataset(tree.data, "dcase2023", link=link)
    assert format_dataset(tree.data, "dcase2023", link="copy").made == len(tree.clips)


def test_a_tree_that_cannot_be_linked_is_named_with_the_way_out(tmp_path, monkeypatch):
    def refuse(source, target, target_is_directory):
        raise PermissionError(errno.EPERM, "Operation not permitted", source, None, target)

    monkeypatch.setattr(os, "symlink", refuse)
    text = (
        rf"^cannot make the link {tmp_path}/a/b to {tmp_path}: Oper.*; copy the folder there, .* --link copy$"
    )
    with pytest.raises(ValueError, match=text):
        make_links({tmp_path / "a" / "b": tmp_path})


def test_what_somebody_else_has_formatted_is_used_as_it_is(tree, monkeypatch):
    format_dataset(tree.data, "dcase2023")
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    place = store.formatted_dir(tree.data, "dcase2023")
    with pytest.raises(
        ValueError, match=f"is formatted already, and {place} cannot be written: .* --cache-dir"
    ):
        format_dataset(tree.data, "dcase2023")
