"""Plugins in a sweep on Ray: a wrong trial fails with its message, the others go on."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from sweeping import ONE_BY_ONE, SMALL_DIS, asdray, make_data, spec

from asdray.sweep.events import History

pytestmark = pytest.mark.ray

HERE = Path(__file__).parent
FAULTS = """
        if view.shape[0] and self.rnn.hidden_size == 5:
            return self.out(last[0])[None]
        if self.rnn.hidden_size == 6:
            __import__("sys").exit(0)
        if self.rnn.hidden_size == 7:
            try:
                raise KeyError("seven")
            except KeyError as error:
                raise error from error
"""


def test_wrong_trials_fail_with_file_and_line_and_the_others_go_on(tmp_path):
    data, results = make_data(tmp_path / "d"), tmp_path / "results"
    plugin = tmp_path / "network.py"
    text = (HERE / "network_example.py").read_text()
    plugin.write_text(
        text.replace("        return self.out(last[0])", f"{FAULTS}        return self.out(last[0])")
    )
    branch = {"name": "band_rnn", "embedding_dim": 4, "n_fft": 256}
    options = {**SMALL_DIS, "train.epochs": 1, "frontend.branches": [branch]}
    space = {"frontend.branches.0.hidden": [4, 5, 6, 7]}
    path = tmp_path / "sweep.yaml"
    recipes = {"dis_baseline": {"set": options, "space": space}}
    path.write_text(yaml.safe_dump(spec(recipes=recipes, plugins=["network.py"], resources=ONE_BY_ONE)))
    places = ["--data", data, "--results", results]
    err = asdray("sweep", path, *places, "--no-dashboard", "--quiet", check=1).stderr
    events = History(results / "sweeps" / "tiny" / "events.jsonl").failed.values()
    assert {event["stage"] for event in events} == {"train"}
    found = sorted(event["error"] for event in events)
    assert len(found) == 3
    assert all(event["lasting"] for event in events)
    status = asdray("status", "tiny", *places).stdout
    assert "1 done" in status
    line = next(n for n, text in enumerate(plugin.read_text().splitlines(), 1) if "def forward" in text)
    for says in (
        f"{plugin}, line {line}: BandRnn.forward: found a tensor of float32 of shape (1, 8, 4), expected",
        f"{plugin}, line {line + 6} in forward: found sys.exit(0), expected a return or an exception",
        f"{plugin}, line {line + 9}: KeyError: 'seven'",
    ):
        assert any(one.startswith(says) for one in found), (says, found)
        assert says in err
        assert says in status
