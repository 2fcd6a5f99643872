"""Ground truth: both official forms, by name, and everything that must not be guessed."""

from __future__ import annotations

import shutil

import pytest
from trees import build_tree, write_evaluator, write_list

from asdray.dcase.ground_truth import Truth, load_ground_truth


@pytest.fixture
def tree(tmp_path):
    return build_tree(tmp_path, "dcase2023", ["fan", "bandsaw", "Vacuum"], per_cell=2, n_samples=4)


@pytest.fixture
def tree22(tmp_path):
    return build_tree(tmp_path, "dcase2022", ["fan", "ToyCar"], n_samples=4)


def expected(tree, key, source):
    clip = tree.truth[key]
    return Truth(clip.is_anomaly, clip.domain, tree.labelled(*key), source)


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_list_and_evaluator_say_the_same(tree, newline):
    path = write_list(tree, newline)
    found = load_ground_truth(tree.ground_truth, "dcase2023")
    assert dict(found.clips) == {key: expected(tree, key, path.name) for key in tree.truth}
    path.unlink()
    write_evaluator(tree, newline)
    found = load_ground_truth(tree.ground_truth, "dcase2023")
    assert dict(found.clips) == {key: expected(tree, key, "evaluator") for key in tree.truth}
    write_list(tree, newline)
    assert load_ground_truth(tree.ground_truth, "dcase2023").clips == found.clips


def test_evaluator_alone_without_attributes_gives_no_labelled_name(tree):
    write_evaluator(tree, attributes=False)
    found = load_ground_truth(tree.ground_truth, "dcase2023")
    for key, clip in tree.truth.items():
        assert found.clips[key] == Truth(clip.is_anomaly, clip.domain, None, "evaluator")
    assert found.get("bandsaw", "section_00_0999.wav") is None


def test_clones_of_the_upstream_repositories_are_found_one_level_down(tree, tmp_path):
    write_evaluator(tree)
    clones = tmp_path / "clones"
    shutil.move(tree.ground_truth, clones / "dcase2023_task2_evaluator")
    write_list(tree, folder=clones / "dcase2023_task2_baseline_ae" / "datasets")
    assert len(load_ground_truth(clones, "dcase2023").clips) == len(tree.truth)
    assert len(load_ground_truth(clones / "dcase2023_task2_baseline_ae", "dcase2023").clips) == len(
        tree.truth
    )


def test_2022_toy_machines_take_label_and_domain_from_the_evaluator_alone(tree22):
    write_list(tree22, "\n")
    found = load_ground_truth(tree22.ground_truth, "dcase2022")
    for key in tree22.truth:
        nothing = Truth(None, None, None, None)
        right = nothing if key[0] == "ToyCar" else expected(tree22, key, "eval_data_list_2022.csv")
        assert found.clips[key] == right
    # The released labelled names of the Toy machines belong to other clips: swap all of them.
    write_evaluator(tree22)
    for path in [
        tree22.ground_truth / "eval_data_list_2022.csv",
        *(tree22.ground_truth / "ground_truth_attributes" / "ToyCar").iterdir(),
    ]:
        head, *tail = (
            path.read_text().split("ToyCar\n") if path.name.startswith("eval") else ("", path.read_text())
        )
        swapped = tail[0].replace("anomaly", "?").replace("normal", "anomaly").replace("?", "normal")
        path.write_text(head + ("ToyCar\n" if head else "") + swapped)
    found = load_ground_truth(tree22.ground_truth, "dcase2022")
    for key, clip in tree22.truth.items():
        name = None if key[0] == "ToyCar" else tree22.labelled(*key)
        assert found.clips[key] == Truth(clip.is_anomaly, clip.domain, name, "evaluator")


def test_contradictions_are_counted_per_machine_and_never_resolved(tree):
    write_evaluator(tree, attributes=False)
    path = write_list(tree)
    head, vacuum = path.read_text().split("Vacuum\n")
    path.write_text(head + "Vacuum\n" + vacuum.replace("source_test_normal", "target_test_anomaly"))
    with pytest.raises(ValueError, match="contradicts itself") as error:
        load_ground_truth(tree.ground_truth, "dcase2023")
    message = str(error.value)
    assert "Vacuum: 2 x label (ground_truth_data against eval_data_list_2023.csv)" in message
    assert "Vacuum: 2 x domain (ground_truth_domain against eval_data_list_2023.csv)" in message
    assert "bandsaw" not in message


def test_what_one_source_lacks_is_null(tree):
    write_evaluator(tree, attributes=False)
    path = tree.ground_truth / "ground_truth_data" / "ground_truth_bandsaw_section_00_test.csv"
    first, *rest = path.read_text().splitlines()
    path.write_text("\n".join(rest))
    found = load_ground_truth(tree.ground_truth, "dcase2023")
    name = first.split(",")[0]
    assert found.get("bandsaw", name) == Truth(None, tree.truth["bandsaw", name].domain, None, None)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda text: text + text.splitlines()[1] + "\n", "line 19: Vacuum section_00_0007.wav occurs twice"),
        (lambda text: text.replace("bandsaw", "bandsawn"), "bandsawn.*did you mean 'bandsaw'"),
        (lambda text: text.replace("bandsaw", "fan"), "line 1: fan is not an eval machine of dcase2023"),
        (
            lambda text: text.replace("section_00_0001.wav", "section_01_0001.wav"),
            "section 01 does not belong",
        ),
        (lambda text: text.replace("_normal_", "_healthy_"), "is not a name of a dcase2023 eval test clip"),
        (lambda text: text.removeprefix("bandsaw\n"), "line 1: expected a machine"),
        (lambda text: text.replace("\n", ",1,2\n"), "line 1: expected a machine"),
    ],
)
def test_bad_rows_are_named(tree, edit, message):
    path = write_list(tree, "\n")
    path.write_text(edit(path.read_text()))
    with pytest.raises(ValueError, match=message):
        load_ground_truth(tree.ground_truth, "dcase2023")


def test_a_labelled_name_given_twice(tree):
    path = write_list(tree, "\n")
    lines = path.read_text().splitlines()
    lines[2] = lines[2].split(",")[0] + "," + lines[1].split(",")[1]
    path.write_text("\n".join(lines))
    with pytest.raises(ValueError, match=r"bandsaw: 1 x labelled name of several clips"):
        load_ground_truth(tree.ground_truth, "dcase2023")


def test_a_folder_without_ground_truth(tmp_path):
    with pytest.raises(ValueError, match="there is no ground-truth folder"):
        load_ground_truth(tmp_path / "none", "dcase2023")
    (tmp_path / "eval_data_list_2024.csv").write_text("")
    with pytest.raises(ValueError, match="holds no ground truth of dcase2023: expected eval_data_list_2023"):
        load_ground_truth(tmp_path, "dcase2023")


def test_a_label_that_is_neither_0_nor_1(tree):
    write_evaluator(tree)
    path = tree.ground_truth / "ground_truth_data" / "ground_truth_Vacuum_section_00_test.csv"
    path.write_text(path.read_text().replace(",1", ",2"))
    with pytest.raises(ValueError, match=r"Vacuum_section_00_test.csv, line \d+: expected 0 or 1, got '2'"):
        load_ground_truth(tree.ground_truth, "dcase2023")
