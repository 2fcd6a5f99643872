"""The number of classes of whole years, with the attributes of the released datasets."""

import pytest
import tiny
from trees import write_wav

from asdray import store
from asdray.config.frontend import CLASS_PARTS
from asdray.config.system import System
from asdray.config.trial import Trial
from asdray.dcase.format import format_dataset
from asdray.dcase.synth import layout
from asdray.dcase.synth.layout import Spec
from asdray.dcase.years import YEARS
from asdray.frontends.checkpoint import read
from asdray.frontends.discriminative import class_labels
from asdray.stages.steps import TrialFiles
from asdray.stages.train import train


@pytest.fixture(scope="module", params=["dcase2023", "dcase2024"])
def year(request, tmp_path_factory):
    """A year with all its machines, and one clip for each machine, attributes and domain of either split."""
    dcase = request.param
    data = tmp_path_factory.mktemp("classes")
    spec = Spec(dcase, YEARS[dcase].all_machines, None, None, 0.5, 0)
    kinds = {}
    for clip in layout.plan(spec):
        kinds.setdefault((clip.machine, clip.split, clip.attributes, clip.domain), clip)
    clips = tuple(kinds.values())
    for clip in clips:
        folder = store.original_dir(data, dcase, clip.subset) / clip.machine / clip.folder
        write_wav(folder / clip.name, clip.key, 6400)
    for name, text in layout.ground_truth(spec, clips).items():
        store.write_text(store.ground_truth_dir(data, dcase) / name, text)
    format_dataset(data, dcase)
    return data, dcase, clips


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ("train_only", {"dcase2023": 167, "dcase2024": 148}),
        ("asdkit", {"dcase2023": 187, "dcase2024": 225}),
    ],
)
def test_a_year_has_as_many_classes_as_published(year, tmp_path, labels, expected):
    data, dcase, clips = year
    frontend = tiny.DIS.frontend.model_copy(update={"labels": labels})
    options = tiny.DIS.train.model_copy(update={"epochs": 1, "batch_size": 64})
    system = System(frontend=frontend, train=options, audio=tiny.DIS.audio)
    trial = Trial(dcase, "dis", system, 0, YEARS[dcase].all_machines)
    places = store.Places.of(data, tmp_path)
    (unit,) = trial.units
    outcome = train(TrialFiles.load(trial, places), unit)
    names = read(store.trial_dir(places.results, trial).checkpoint(unit.name, "last"))["asdray"]["frontend"][
        "classes"
    ]
    assert outcome.record.extra["n_classes"] == len(names) == expected[dcase]
    assert names == sorted(names)
    seen = {
        f"{c.machine}---0---{c.attributes}---{int(c.domain == 'target')}"
        for c in clips
        if c.split == "train" or labels == "asdkit"
    }
    assert set(names) == seen


def test_both_spellings_of_hidden_attributes_are_one_class():
    columns = {"machine": ["valveEmu"] * 2, "section": [0, 0], "attributes": ["noAttribute", "noAttributes"]}
    columns["domain"] = ["source"] * 2
    assert class_labels(CLASS_PARTS, columns) == ["valveEmu---0---noAttribute---0"] * 2
