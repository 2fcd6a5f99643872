"""The journal of a search: every changed byte is told, and nothing is lost with it."""

import re

import pytest
from fuzzing import damaged, inputs, one_clear_error
from hypothesis import given
from hypothesis import strategies as st
from test_search import play, studies_of
from tiny import build_year

from asdray.store import Places, SweepDir, sweep_dir


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """A folder with a sweep file, the places, and the content of a finished study."""
    folder = tmp_path_factory.mktemp("hunt")
    places = Places.of(folder / "data", folder / "results")
    build_year(places.data)
    play(studies_of(folder, places))
    return folder, places, SweepDir(sweep_dir(places.results, "hunt")).study.read_bytes()


@inputs(12)
@given(st.data())
def test_damaged_studies(played, data):
    """Every damage of a study is told; lines that were appended after the last note are no damage."""
    tmp_path, places, whole = played
    path = SweepDir(sweep_dir(places.results, "hunt")).study
    content = data.draw(damaged(whole, [b'"value": 0.9', b"null", b"1e999", b"{}\n", b'"op_code": 8']))
    path.write_bytes(content)
    with one_clear_error(path) as outcome:
        studies_of(tmp_path, places, only_read=True)
    if content.startswith(whole):
        return
    assert re.search(r"study\.journal is damaged \(.*\): move it away", outcome.fault)


def test_a_study_that_was_moved_away_suggests_the_same_systems(played):
    tmp_path, places, _ = played
    path = SweepDir(sweep_dir(places.results, "hunt")).study
    path.unlink()
    studies = studies_of(tmp_path, places)
    assert not studies.samples
    play(studies)
    assert path.read_bytes() != b""
    assert [s.system_name for s in studies_of(tmp_path, places, only_read=True).samples] == [
        s.system_name for s in studies.samples
    ]
