"""The table of downloads: complete, and irregular exactly where the records are."""

import re

import pytest

from asdray.dcase.records import PARTS, ground_truth, zips
from asdray.dcase.years import YEARS


@pytest.mark.parametrize("year", YEARS.values(), ids=list(YEARS))
def test_every_machine_has_its_zips_and_no_other(year):
    table = zips(year.name)
    expected = [("dev", m) for m in year.machines["dev"]]
    expected += [(part, m) for part in PARTS[1:] for m in year.machines["eval"]]
    assert sorted((z.part, z.machine) for z in table) == sorted(expected)
    assert len({z.name for z in table}) == len(table)
    assert all(z.machine in z.name and z.subset == z.part.split("_")[0] for z in table)
    assert len({z.record for z in table}) == 3


def test_every_md5_is_one_and_belongs_to_one_zip():
    sums = [z.md5 for name in YEARS for z in zips(name) if z.md5]
    assert all(re.fullmatch("[0-9a-f]{32}", md5) for md5 in sums)
    assert len(set(sums)) == len(sums) == 18 + 21 + 12
    assert len({z.record for name in YEARS for z in zips(name)}) == 21


@pytest.mark.parametrize(
    ("dcase", "path"),
    [
        ("dcase2020", "records/3678171/files/dev_data_ToyConveyor.zip"),
        ("dcase2020", "records/3727685/files/eval_data_train_pump.zip"),
        ("dcase2020", "records/3841772/files/eval_data_test_pump.zip"),
        ("dcase2021", "records/4562016/files/dev_data_ToyTrain.zip"),
        ("dcase2021", "records/4660992/files/eval_data_gearbox_train.zip"),
        ("dcase2022", "records/6355122/files/dev_bearing.zip"),
        ("dcase2022", "records/6586456/files/eval_data_valve_test.zip"),
        ("dcase2023", "records/7830345/files/eval_data_Vacuum_train.zip"),
        ("dcase2024", "records/11259435/files/eval_data_3DPrinter_train_r2.zip"),
        ("dcase2024", "records/11259435/files/eval_data_RoboticArm_train_r2.zip"),
        ("dcase2024", "records/11259435/files/eval_data_Scanner_train.zip"),
        ("dcase2024", "records/11363076/files/eval_data_RoboticArm_test.zip"),
        ("dcase2025", "records/15519362/files/eval_data_ToyRCCar_test.zip"),
        ("dcase2026", "records/19336329/files/dev_ToyCar_r2.zip"),
        ("dcase2026", "records/19336329/files/dev_ToyCarEmu.zip"),
        ("dcase2026", "records/20437238/files/eval_data_BlowerDustCollector_test.zip"),
    ],
)
def test_addresses(dcase, path):
    assert path in {z.path for z in zips(dcase)}


def test_second_releases_are_three():
    assert sum("_r2" in z.name for name in YEARS for z in zips(name)) == 3


def test_ground_truth_of_every_year():
    count = {name: len(ground_truth(name)) for name in YEARS}
    assert count == {
        "dcase2020": 1,
        "dcase2021": 1 + 7 * 3 * 2,
        "dcase2022": 1 + 7 * 3 * 2,
        "dcase2023": 1 + 7 * 3,
        "dcase2024": 1 + 9 * 3,
        "dcase2025": 1,
        "dcase2026": 5 * 3,
    }
    for name in YEARS:
        for f in ground_truth(name):
            assert re.fullmatch("[0-9a-f]{40}", f.commit)
            assert (
                (f.machine is None) == (f.sha256 is not None) == f.path.startswith("datasets/eval_data_list_")
            )
    paths = {f.path for name in YEARS for f in ground_truth(name)}
    assert "ground_truth_data/ground_truth_fan_section_05_target_test.csv" in paths
    assert "ground_truth_domain/ground_truth_ToyCar_section_03_test.csv" in paths
    assert "ground_truth_attributes/ground_truth_3DPrinter_section_00_test.csv" in paths


def test_licences_follow_the_repository():
    licences = {f.repository: f.licence for name in YEARS for f in ground_truth(name)}
    mit = {"y-kawagu/dcase2021_task2_evaluator", "Kota-Dohi/dcase2022_evaluator"}
    assert {r for r, licence in licences.items() if licence == "MIT"} == mit
    assert all("NTT" in licence for r, licence in licences.items() if r not in mit)
