"""Ground truth: every released form, by name, and everything that must not be guessed."""

from __future__ import annotations

import itertools
import random
import re
import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trees import build_tree, write_evaluator, write_list

from asdray.dcase.truth import Truth, load_ground_truth


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


def test_files_that_a_spreadsheet_has_padded(tree):
    """Excel gives all rows as many fields as the longest one has: ``bandsaw,``."""
    expected = write_list(tree) and load_ground_truth(tree.ground_truth, "dcase2023").clips
    path = write_list(tree)
    lines = path.read_text().splitlines()
    for more in (",", ",,"):
        path.write_text("".join(f"{line}{',' * ('wav' not in line)}{more[1:]}\n" for line in lines))
        assert load_ground_truth(tree.ground_truth, "dcase2023").clips == expected
    path.unlink()
    write_evaluator(tree)
    for path in tree.ground_truth.rglob("*.csv"):
        path.write_text(path.read_text().replace("\n", ",,\n"))
    assert load_ground_truth(tree.ground_truth, "dcase2023").clips.keys() == expected.keys()


@pytest.mark.parametrize("separator", [";", "\t"])
def test_fields_separated_as_spreadsheets_do(tree, separator):
    path = write_list(tree)
    before = load_ground_truth(tree.ground_truth, "dcase2023").clips
    path.write_text(path.read_text().replace(",", separator))
    assert load_ground_truth(tree.ground_truth, "dcase2023").clips == before


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
        (
            lambda text: re.sub(r"^(section_00_0000.wav),.*$", r"\1,", text, flags=re.MULTILINE),
            r"expected the labelled name of section_00_0000.wav, got an empty field",
        ),
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


# ------------------------------------------------------------------------------- every year, every form


def put(folder, path, *rows, newline="\n", bom=False):
    """Writes one file of ground truth below ``folder``."""
    file = folder / path
    file.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(row + newline for row in rows)
    file.write_bytes(text.encode("utf-8-sig" if bom else "utf-8"))
    return file


def listed(anonymous, labelled):
    return f"section_00_{anonymous}.wav,section_00_{labelled}.wav"


HEADER = "source_file_name,target_file_name"

LISTS = {
    "dcase2020": [
        "fan",
        "id_01_00000000.wav,normal_id_01_00000098.wav,0",
        "id_01_00000001.wav,anomaly_id_01_00000064.wav,1",
        "ToyCar",
        "id_05_00000000.wav,anomaly_id_05_00000003.wav,1",
    ],
    "dcase2021": [
        "valve",
        "section_03_source_test_0000.wav,section_03_source_test_anomaly_0000.wav",
        "fan",
        "section_05_target_test_0198.wav,section_05_target_test_normal_0198.wav",
    ],
    "dcase2022": [
        "valve",
        "section_05_0199.wav,section_05_target_test_anomaly_0199_v1pat_04_v2pat_05.wav",
        "fan",
        "section_03_0000.wav,section_03_source_test_normal_0000_m-n_W.wav",
    ],
    "dcase2023": [
        "bandsaw",
        listed("0005", "source_test_anomaly_0005_vel_15"),
        "Vacuum",
        listed("0199", "source_test_normal_0026_car_B1_spd_Lb_mic_1"),
        listed("0003", "target_test_normal_0001_ac_0.30_"),
    ],
    "dcase2024": [
        "RoboticArm",
        listed("0001", "source_normal_0035_weight15_BckgF"),
        listed("0002", "target_test_anomaly_0050_weight15_BckgF"),
        "AirCompressor",
        listed("0011", "source_test_anomaly_0011_noAttribute"),
    ],
    "dcase2025": [
        "AutoTrash",
        listed("0000", "target_test_anomaly_0012_id_C1_spd_2_mic_2"),
        "ScrewFeeder",
        listed("0199", "target_test_normal_0199_vol_14250"),
    ],
    "dcase2026": [
        "Sander",
        listed("0000", "source_test_normal_0001_"),
        "ToothBrush",
        listed("0001", "target_test_anomaly_0001_noAttributes"),
    ],
}


def facts_of(rows):
    """The labels and domains in a list's rows, read in the most naive way: {(machine, name): (label, domain)}."""
    found, machine = {}, ""
    for row in rows:
        if row.endswith(".wav") or row[-2:] in (",0", ",1"):
            name, labelled, *_ = row.split(",")
            found[machine, name] = ("anomaly" in labelled, "target" if "_target_" in labelled else "source")
        else:
            machine = row
    return found


def as_evaluator(folder, dcase, rows):
    """The evaluator's folders that say what a list's rows say."""
    files = {}
    for row in rows:
        if not row.endswith(".wav"):
            machine = row
            continue
        name, labelled = row.split(",")
        section = name.split("_")[1]
        label, domain = facts_of([machine, row])[machine, name]
        each = f"_{domain}" if dcase == "dcase2021" else ""
        file = f"ground_truth_{machine}_section_{section}{each}_test.csv"
        files.setdefault(f"ground_truth_data/{file}", []).append(f"{name},{int(label)}")
        if dcase == "dcase2021":
            continue
        files.setdefault(f"ground_truth_domain/{file}", []).append(f"{name},{int(domain == 'target')}")
        if dcase == "dcase2022":
            table = f"ground_truth_attributes/{machine}/attributes_{section}.csv"
            files.setdefault(table, ["file_name,d1p,d1v,file_name_with_full_attributes"])
            files[table].append(f"{machine}/test/{name},vel,21,{machine}/test/{labelled}")
        else:
            row = f"{name},{labelled.removesuffix('.wav')}"
            files.setdefault(f"ground_truth_attributes/{file}", []).append(row)
    for path, lines in files.items():
        put(folder, path, *lines)


def brief(found):
    return {key: (t.is_anomaly, t.domain) for key, t in found.clips.items()}


@pytest.mark.parametrize("labels", ["official", "asdkit"])
@pytest.mark.parametrize(
    ("newline", "bom"), [("\n", False), ("\r\n", False), ("\r\n", True)], ids=["lf", "crlf", "bom"]
)
@pytest.mark.parametrize("dcase", LISTS)
def test_the_list_of_every_year(tmp_path, dcase, newline, bom, labels):
    path = put(tmp_path, f"eval_data_list_{dcase[5:]}.csv", *LISTS[dcase], newline=newline, bom=bom)
    found = load_ground_truth(tmp_path, dcase, labels=labels)
    assert brief(found) == facts_of(LISTS[dcase])
    assert {t.source for t in found.clips.values()} == {path.name}
    assert not found.revealed
    assert not found.notes


@pytest.mark.parametrize("dcase", [year for year in LISTS if year != "dcase2020"])
def test_the_evaluator_of_every_year(tmp_path, dcase):
    as_evaluator(tmp_path, dcase, LISTS[dcase])
    found = load_ground_truth(tmp_path, dcase)
    assert brief(found) == facts_of(LISTS[dcase])
    assert {t.source for t in found.clips.values()} == {"evaluator"}
    put(tmp_path, f"eval_data_list_{dcase[5:]}.csv", *LISTS[dcase])
    both = load_ground_truth(tmp_path, dcase)
    assert brief(both) == brief(found)
    if dcase != "dcase2021":  # which has no labelled names in its evaluator
        assert both == found
    assert both.get("3DPrinter", "section_00_0001.wav") is None


def test_names_are_reported_in_their_regular_spelling(tmp_path):
    put(tmp_path, "eval_data_list_2024.csv", *LISTS["dcase2024"])
    found = load_ground_truth(tmp_path, "dcase2024")
    assert found.get("RoboticArm", "section_00_0001.wav").labelled_name == (
        "section_00_source_test_normal_0035_weight15_BckgF.wav"
    )
    put(
        tmp_path,
        "eval_data_list_2024.csv",
        *(r.replace("_source_normal", "_source_test_normal") for r in LISTS["dcase2024"]),
    )
    assert load_ground_truth(tmp_path, "dcase2024") == found


def test_the_list_of_2020_by_its_first_name(tmp_path):
    path = put(tmp_path, "eval_data_list.csv", *LISTS["dcase2020"])
    assert brief(load_ground_truth(tmp_path, "dcase2020")) == facts_of(LISTS["dcase2020"])
    path.write_text(path.read_text().replace("00000098.wav,0", "00000098.wav,1"))
    with pytest.raises(ValueError, match=r"eval_data_list.csv, line 2: id_01_00000000.wav and .* contradict"):
        load_ground_truth(tmp_path, "dcase2020")
    with pytest.raises(ValueError, match="holds no ground truth of dcase2021"):
        load_ground_truth(tmp_path, "dcase2021")


def test_a_domain_of_2021_that_its_file_does_not_have(tmp_path):
    put(
        tmp_path,
        "ground_truth_data/ground_truth_fan_section_03_source_test.csv",
        "section_03_target_test_0000.wav,0",
    )
    with pytest.raises(ValueError, match=r"line 1: .*_target_test_0000.wav and the domain source contradict"):
        load_ground_truth(tmp_path, "dcase2021")


# ----------------------------------------------------------------------------- the Toy machines of 2022

# The released names of both clips have the wrong label, and the first has the wrong domain.
TRUE_TOYS = {
    ("ToyCar", "section_03_0000.wav"): (False, "source"),
    ("ToyTrain", "section_04_0007.wav"): (True, "target"),
}
NTT = [
    "ToyCar",
    "section_03_0000.wav,section_03_target_test_anomaly_0011_car_G2_noise_6.wav",
    "ToyTrain",
    "section_04_0007.wav,section_04_target_test_normal_0030_car_F1.wav",
]
OURS = {
    ("ToyCar", "section_03_0000.wav"): "section_03_target_test_normal_0000_car_G2_noise_6.wav",
    ("ToyTrain", "section_04_0007.wav"): "section_04_target_test_anomaly_0007_car_F1.wav",
}
CORRECTED = [row for (machine, name), ours in OURS.items() for row in (machine, f"{name},{ours}")]


def put_toys(folder, tables=False):
    for (machine, name), (label, domain) in TRUE_TOYS.items():
        file = f"ground_truth_{machine}_{name[:10]}_test.csv"
        put(folder, f"ground_truth_data/{file}", f"{name},{int(label)}")
        put(folder, f"ground_truth_domain/{file}", f"{name},{int(domain == 'target')}")
        if tables:
            row = next(r for r in NTT if r.startswith(name))
            put(
                folder,
                f"ground_truth_attributes/{machine}/attributes_{name[8:10]}.csv",
                "file_name,d1p,d1v,file_name_with_attributes",
                f"{machine}/test/{name},car,G2,{machine}/test/{row.split(',')[1]}",
            )


def asdkit_truth(key):
    domain = "target"
    return Truth(TRUE_TOYS[key][0], domain, OURS[key], "asdkit")


NOTHING = Truth(None, None, None, None)


@pytest.mark.parametrize("rows", [None, NTT, CORRECTED], ids=["no list", "ntt", "asdkit's"])
@pytest.mark.parametrize("tables", [False, True])
def test_official_labels_of_2022_toys_with_the_evaluator(tmp_path, rows, tables):
    put_toys(tmp_path, tables=tables)
    if rows:
        put(tmp_path, "eval_data_list_2022.csv", *rows)
    found = load_ground_truth(tmp_path, "dcase2022", labels="official")
    assert found.clips == {
        key: Truth(*label_domain, None, "evaluator") for key, label_domain in TRUE_TOYS.items()
    }
    assert not found.notes


@pytest.mark.parametrize("rows", [NTT, CORRECTED], ids=["ntt", "asdkit's"])
def test_official_labels_of_2022_toys_are_not_in_any_list(tmp_path, rows):
    put(tmp_path, "eval_data_list_2022.csv", *rows, *LISTS["dcase2022"])
    found = load_ground_truth(tmp_path, "dcase2022")
    assert {found.clips[key] for key in TRUE_TOYS} == {NOTHING}
    assert found.get("fan", "section_03_0000.wav").is_anomaly is False
    note = next(n for n in found.notes if n.startswith("ToyCar: 1 of 1 clips have no label"))
    assert "the evaluator's ground_truth_data and ground_truth_domain" in note
    assert not any(n.startswith("fan") for n in found.notes)


def test_asdkit_labels_of_2022_toys(tmp_path):
    """From the released list and the evaluator, from its tables, from ASDKit's own list, or from all."""
    expected = {key: asdkit_truth(key) for key in TRUE_TOYS}
    made, tables, own, everything = (tmp_path / n for n in ("made", "tables", "own", "everything"))
    put_toys(made)
    put(made, "eval_data_list_2022.csv", *NTT)
    put_toys(tables, tables=True)
    put(own, "eval_data_list_2022.csv", *CORRECTED)
    put_toys(everything, tables=True)
    put(everything, "asdkit/eval_data_list_2022.csv", *CORRECTED)
    put(everything, "asdkit/incorrect_original_eval_data_list_2022.csv", *NTT)
    put(everything, "ntt/eval_data_list_2022.csv", *NTT)
    for folder in (made, tables, own, everything):
        found = load_ground_truth(folder, "dcase2022", labels="asdkit")
        assert found.clips == expected, folder
        assert not found.notes


def test_asdkit_labels_are_never_the_wrong_ones(tmp_path):
    path = put(tmp_path, "eval_data_list_2022.csv", *NTT)
    found = load_ground_truth(tmp_path, "dcase2022", labels="asdkit")
    assert set(found.clips.values()) == {NOTHING}
    assert "ToyTrain: 1 of 1 clips have no label" in found.notes[2]
    assert "need both eval_data_list_2022.csv and the evaluator's ground_truth_data" in found.notes[2]
    path.unlink()
    put_toys(tmp_path)  # without any list the domain of ASDKit is unknown, and the true one is not it
    found = load_ground_truth(tmp_path, "dcase2022", labels="asdkit")
    assert found.clips == {
        key: Truth(label, None, None, "evaluator") for key, (label, _) in TRUE_TOYS.items()
    }


def test_a_list_of_asdkit_that_denies_the_evaluator(tmp_path):
    put_toys(tmp_path)
    put(tmp_path, "eval_data_list_2022.csv", *(r.replace("normal", "anomaly") for r in CORRECTED))
    with pytest.raises(
        ValueError, match=r"ToyCar: 1 x label \(ground_truth_data against eval_data_list_2022"
    ):
        load_ground_truth(tmp_path, "dcase2022", labels="asdkit")


def test_unknown_labels(tmp_path):
    with pytest.raises(ValueError, match="unknown labels 'ofical'; did you mean 'official'"):
        load_ground_truth(tmp_path, "dcase2022", labels="ofical")


# ---------------------------------------------------------------------------------- hidden attributes

REVEALED_2024 = "section_00_source_test_anomaly_0011_fl_2_nos_0.wav"


def test_hidden_attributes_of_2024_do_not_change_the_published_ones(tmp_path):
    put(tmp_path, "eval_data_list_2024.csv", *LISTS["dcase2024"], newline="\r\n")
    plain = load_ground_truth(tmp_path, "dcase2024")
    folder = tmp_path / "datasets/ground_truth_attributes/dcase2024t2"
    put(
        folder,
        "eval_data/AirCompressor/attributes_00_test_correspondence.csv",
        HEADER,
        f"{REVEALED_2024},section_00_source_test_anomaly_0011_noAttribute.wav",
        newline="\r\n",
    )
    put(
        folder,
        "dev_data/slider/attributes_00_test_correspondence.csv",
        HEADER,
        "section_00_source_test_anomaly_0001_ac_0.03_.wav,section_00_source_test_anomaly_0001_noAttribute.wav",
    )
    put(
        folder,
        "eval_data/HoveringDrone/attributes_00_train_correspondence.csv",
        HEADER,
        "section_00_source_train_normal_0990_mdl_A_spd_1.wav,section_00_source_train_normal_0000_noAttribute.wav",
    )
    # The same in another year, which is none of ours:
    put(tmp_path, "datasets/ground_truth_attributes/dcase2025t2/dev_data/bearing/attributes_00_x.csv", "?")
    found = load_ground_truth(tmp_path, "dcase2024")
    assert found.clips == plain.clips
    assert found.revealed == {
        ("eval", "AirCompressor", "test", "section_00_0011.wav"): "fl_2_nos_0",
        (
            "eval",
            "AirCompressor",
            "test",
            "section_00_source_test_anomaly_0011_noAttribute.wav",
        ): "fl_2_nos_0",
        ("dev", "slider", "test", "section_00_source_test_anomaly_0001_noAttribute.wav"): "ac_0.03_",
        (
            "eval",
            "HoveringDrone",
            "train",
            "section_00_source_train_normal_0000_noAttribute.wav",
        ): "mdl_A_spd_1",
    }
    # The third column of the evaluator says the same ...
    row = f"section_00_0011.wav,section_00_source_test_anomaly_0011_noAttribute,{REVEALED_2024}"
    path = put(
        tmp_path,
        "dcase2024_task2_evaluator/ground_truth_attributes/ground_truth_AirCompressor_section_00_test.csv",
        row,
        newline="\r\n",
    )
    assert load_ground_truth(tmp_path, "dcase2024").revealed == found.revealed
    # ... or the two contradict each other.
    path.write_text(row.replace("fl_2", "fl_1"))
    with pytest.raises(ValueError, match="AirCompressor: 1 x attributes .*evaluator.*correspondence.csv"):
        load_ground_truth(tmp_path, "dcase2024")


def test_labelled_names_of_a_correspondence_wait_for_the_list(tmp_path):
    name = "section_00_source_test_anomaly_0011_noAttribute.wav"
    put(tmp_path, "AirCompressor/attributes_00_test_correspondence.csv", HEADER, f"{REVEALED_2024},{name}")
    found = load_ground_truth(tmp_path, "dcase2024")
    assert not found.clips
    assert found.revealed == {("eval", "AirCompressor", "test", name): "fl_2_nos_0"}
    assert found.notes == (
        "AirCompressor: no list tells which 1 test clips the attributes of the correspondence belong to",
    )


AUTOTRASH = "section_00_target_test_anomaly_0012_id_C1_spd_2_mic_2.wav,section_00_0000.wav"


@pytest.mark.parametrize(
    "path",
    [
        "AutoTrash/attributes_00_test_correspondence.csv",
        "attributes_AutoTrash_00_test_correspondence.csv",
        "dcase2025t2/eval_data/AutoTrash/attributes_00_test_correspondence.csv",
    ],
)
def test_correspondences_of_2025_have_labels(tmp_path, path):
    file = put(tmp_path, path, HEADER, AUTOTRASH)
    found = load_ground_truth(tmp_path, "dcase2025")
    key = ("AutoTrash", "section_00_0000.wav")
    assert found.clips == {key: Truth(True, "target", None, "correspondence")}
    assert found.revealed == {("eval", *key[:1], "test", key[1]): "id_C1_spd_2_mic_2"}
    assert not found.notes
    put(tmp_path, "eval_data_list_2025.csv", *LISTS["dcase2025"])
    both = load_ground_truth(tmp_path, "dcase2025")
    name = "section_00_target_test_anomaly_0012_id_C1_spd_2_mic_2.wav"
    assert both.clips[key] == Truth(True, "target", name, "eval_data_list_2025.csv")
    assert both.revealed == {**found.revealed, ("eval", "AutoTrash", "test", name): "id_C1_spd_2_mic_2"}
    for old, new, what in [
        ("anomaly", "normal", "label"),
        ("target", "source", "domain"),
        ("id_C1", "id_C2", "attributes"),
    ]:
        file.write_text(f"{HEADER}\n{AUTOTRASH.replace(old, new)}\n")
        with pytest.raises(ValueError, match=f"AutoTrash: 1 x {what} .*correspondence"):
            load_ground_truth(tmp_path, "dcase2025")


TRAIN = (
    "section_00_source_train_normal_0000_pow_1_n_C.wav,section_00_source_train_normal_0000_noAttribute.wav"
)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([TRAIN], "line 1: expected the header 'source_file_name,target_file_name'"),
        ([HEADER, TRAIN, TRAIN], "line 3: Polisher section_00_source_train_normal_0000_noAttribute.wav occurs twice"),
        ([HEADER, TRAIN.replace("source_train", "target_train", 1)], "line 2: .* contradict each other"),
        ([HEADER, TRAIN.replace("noAttribute", "pow_3_n_A")], "line 2: .* contradict each other"),
        ([HEADER, TRAIN.replace("section_00", "section_01")], "line 2: .* is not of section 00"),
        ([HEADER, TRAIN.split(",")[0]], "line 2: expected 'full name,published name'"),
        ([HEADER, TRAIN.replace("train", "test")], "line 2: .* is not a name of a dcase2025 eval train clip"),
        ([], "attributes_00_train_correspondence.csv is empty"),
    ],
)  # fmt: skip
def test_bad_correspondences_are_named(tmp_path, rows, message):
    put(tmp_path, "Polisher/attributes_00_train_correspondence.csv", *rows)
    with pytest.raises(ValueError, match=message):
        load_ground_truth(tmp_path, "dcase2025")


def test_correspondences_of_a_machine_that_is_none(tmp_path):
    path = put(tmp_path, "Polishr/attributes_00_train_correspondence.csv", HEADER, TRAIN)
    with pytest.raises(ValueError, match="dcase2025 has no machine 'Polishr'; did you mean 'Polisher'"):
        load_ground_truth(tmp_path, "dcase2025")
    path.unlink()
    put(tmp_path, "Polisher/attributes_03_train_correspondence.csv", HEADER, TRAIN)
    with pytest.raises(ValueError, match="Polisher has no section 03"):
        load_ground_truth(tmp_path, "dcase2025")


# ------------------------------------------------------------------------------------ order and oddities


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("dcase", LISTS)
def test_the_order_of_rows_and_machines_means_nothing(tmp_path, dcase, seed):
    rng = random.Random(seed)
    rows = LISTS[dcase]
    starts = [i for i, row in enumerate(rows) if "," not in row] + [len(rows)]
    blocks = [rows[a:b] for a, b in itertools.pairwise(starts)]
    correspondence = [
        TRAIN,
        TRAIN.replace("0000", "0001"),
        TRAIN.replace("0000", "0002").replace("n_C", "n_A"),
    ]
    expected = shuffled = None
    for name in ("ordered", "shuffled"):
        folder = tmp_path / name
        shutil.rmtree(folder, ignore_errors=True)
        put(folder, f"eval_data_list_{dcase[5:]}.csv", *itertools.chain(*blocks))
        if dcase != "dcase2020":
            as_evaluator(folder, dcase, list(itertools.chain(*blocks)))
        if dcase == "dcase2025":
            put(folder, "Polisher/attributes_00_train_correspondence.csv", HEADER, *correspondence)
        expected, shuffled = shuffled, load_ground_truth(folder, dcase)
        rng.shuffle(blocks)
        blocks = [[head, *rng.sample(rest, len(rest))] for head, *rest in blocks]
        rng.shuffle(correspondence)
    assert shuffled == expected


def test_all_bad_rows_of_all_files_are_reported_in_one_pass(tree):
    path = write_list(tree, "\n")
    machine, first, second, *rest = path.read_text().splitlines()
    bad = [f"section_00_{i:04d}.wav,nonsense" for i in range(100, 113)]
    path.write_text(
        "\n".join([machine, first, first, bad[0], second, "fan", *bad, "bandsaw", *bad[1:], *rest])
    )
    put(
        tree.ground_truth,
        "ground_truth_data/ground_truth_Vacuum_section_00_test.csv",
        "section_00_0000.wav,2",
    )
    put(tree.ground_truth, "ground_truth_data/ground_truth_Vacuum_test.csv", "?")
    put(tree.ground_truth, "ground_truth_domain/ground_truth_bandsaw_section_00_test.csv")
    with pytest.raises(ValueError, match="occurs twice") as error:
        load_ground_truth(tree.ground_truth, "dcase2023")
    lines = str(error.value).splitlines()
    listed = [line.removeprefix(f"{path}") for line in lines if line.startswith(str(path))]
    assert listed[0].startswith(", line 3: bandsaw ")
    assert listed[1].startswith(", line 4: 'nonsense.wav' is not a name")
    assert listed[2] == ", line 6: fan is not an eval machine of dcase2023"  # once, not for each of its rows
    assert [line.split(":")[0] for line in listed[3:-1]] == [f", line {n}" for n in range(21, 28)]
    assert listed[-1] == ": and 5 more rows"
    others = [line.rpartition("/")[2] for line in lines if not line.startswith(str(path))]
    assert others == [
        "ground_truth_Vacuum_section_00_test.csv, line 1: expected 0 or 1, got '2'",
        "ground_truth_Vacuum_test.csv is no ground truth of dcase2023: expected "
        "ground_truth_<machine>_section_<SS>_test.csv (move it, or restore its name)",
        "ground_truth_bandsaw_section_00_test.csv is empty: fetch it again",
    ]


def test_folders_named_after_plain_years(tree):
    write_evaluator(tree)
    expected = load_ground_truth(tree.ground_truth, "dcase2023").clips
    all_years = tree.data / "truths"
    all_years.mkdir()
    tree.ground_truth.rename(all_years / "2023")
    put(all_years, "2024/ground_truth_data/ground_truth_Scanner_section_00_test.csv", "section_00_0000.wav,1")
    put(all_years, "dcase2022/eval_data_list_2022.csv", "?")
    assert load_ground_truth(all_years, "dcase2023").clips == expected
    assert load_ground_truth(all_years / "2024", "dcase2024").clips.keys() == {
        ("Scanner", "section_00_0000.wav")
    }


def test_files_that_mean_nothing_are_left_alone(tree):
    write_evaluator(tree)
    expected = load_ground_truth(tree.ground_truth, "dcase2023").clips
    for path in [
        "README.md",
        "eval_data_list_2022.csv",
        "ground_truth_data/.DS_Store",
        "ground_truth_data/._ground_truth_Vacuum_section_00_test.csv",
        "ground_truth_data/LICENSE",
        "dcase2024_task2_evaluator/ground_truth_data/ground_truth_Scanner_section_00_test.csv",
        ".git/ground_truth_data/x.csv",
    ]:
        put(tree.ground_truth, path, "?")
    (tree.ground_truth / "circle").symlink_to(tree.ground_truth)
    assert load_ground_truth(tree.ground_truth, "dcase2023").clips == expected
    put(tree.ground_truth, "ground_truth_data/ground_truth_Vacuum_test.csv", "?")
    with pytest.raises(ValueError, match=r"ground_truth_Vacuum_test.csv is no ground truth of dcase2023"):
        load_ground_truth(tree.ground_truth, "dcase2023")


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "is empty"), (b"\n\n", "is empty"), (b"\xff\xfe\x00f", "UTF-8")]
)
def test_files_without_content(tmp_path, content, message):
    (tmp_path / "eval_data_list_2023.csv").write_bytes(content)
    with pytest.raises(ValueError, match=rf"eval_data_list_2023.csv .*{message}"):
        load_ground_truth(tmp_path, "dcase2023")
