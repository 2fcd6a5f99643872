"""The synthetic dataset: its names, lists and labels, its reproducibility, and that its sounds pose a task."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import itertools
import re
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import soundfile

from asdray import store
from asdray.dcase import manifest, names
from asdray.dcase.format import format_dataset
from asdray.dcase.manifest import synthetic_path, unfinished_path
from asdray.dcase.synth import SynthReport, hard, layout, sounds, synthesise
from asdray.dcase.synth.attributes import attributes_of
from asdray.dcase.synth.clips import STYLES, Clip
from asdray.dcase.synth.layout import Spec
from asdray.dcase.synth.machines import MACHINES
from asdray.dcase.synth.sounds import apply_fault, voice_of
from asdray.dcase.years import YEARS, get_year
from asdray.evaluation.metrics import auc

CAR = r"car_[A-H][12]_spd_{}_mic_[12]"
ATTRIBUTES_2023 = {
    "bearing": r"vel_\d+",
    "fan": r"m-n_[WXYZ]",
    "gearbox": r"volt_\d\.\d_wt_\d+",
    "slider": r"vel_\d+_ac_0\.\d\d",
    "valve": r"v1pat_[A-Z]_v2pat_(none|[A-Z])",
    "ToyCar": CAR.format(r"\d\dV") + r"_noise_\d",
    "ToyTrain": CAR.format(r"\d+") + r"_noise_\d",
    "bandsaw": r"vel_1[2345]",
    "grinder": r"grindstone_[123]_plate_[123]",
    "shaker": r"speed_\d+",
    "ToyDrone": CAR.format(r"\d"),
    "ToyNscale": CAR.format(r"\d"),
    "ToyTank": CAR.format(r"\d"),
    "Vacuum": CAR.format(r"[LH]b"),
}
ATTRIBUTES_2022 = {
    "bearing": r"vel_\d+(_(loc|f-n)_[A-H])?",
    "fan": r"(m-n_[WXYZ]|f-n_[A-D]|n-lv_L[1-4])",
    "gearbox": r"(volt_\d\.\d|wt_\d+|id_\d\d)",
    "slider": r"vel_\d+(_ac_0\.\d\d|_f-n_[A-D])?",
    "valve": r"(pat_\d\d(_panel_(open|b-c|bs-c|s-c))?|v1pat_\d\d_v2pat_\d\d)",
    "ToyCar": CAR.format(r"\d\dV") + r"_noise_\d",
    "ToyTrain": CAR.format(r"\d+") + r"_noise_\d",
}
ITEMS = r"id_[ABC]\d_spd_\d_mic_\d"
ATTRIBUTES = {
    "dcase2021": {
        "fan": r"strength_\d_(ambient|office|factory)_lv_\d",
        "gearbox": r"\d+_g_\d\d_mm_\d{4}_mV_(none|A|B)",
        "ToyCar": r"[ABC][12]Spd\dMic\d",
    },
    "dcase2022": ATTRIBUTES_2022,
    "dcase2023": ATTRIBUTES_2023,
    "dcase2024": {
        "gearbox": "noAttribute", "BrushlessMotor": "noAttribute", "3DPrinter": r"mdl_[AB]_spd_\d",
        "RoboticArm": r"weight\d\d_Bckg[A-G]", "HairDryer": ITEMS,
    },
    "dcase2025": {
        "CoffeeGrinder": r"mic_imp\w{6}_mic_pos_[ABC]_grind_\d+_bkg_[A-Z]", "HomeCamera": ITEMS,
        "AutoTrash": "noAttribute", "ToyTrain": "noAttribute",
    },
    "dcase2026": {"valveEmu": "noAttributes", "ToothBrush": "noAttribute", "fan": r"m-n_[WXY]"},
}  # fmt: skip
"""The endings of the training names."""

SMALL = {"train": 12, "test": 8, "seconds": 0.5, "workers": 1}

SOME = {
    "dcase2020": "fan ToyConveyor",
    "dcase2021": "fan ToyCar",
    "dcase2022": "fan ToyCar",
    "dcase2023": "fan ToyCar bandsaw ToyDrone",
    "dcase2024": "gearbox slider fan 3DPrinter AirCompressor HoveringDrone RoboticArm BrushlessMotor",
    "dcase2025": "ToyTrain fan ToyCar gearbox AutoTrash CoffeeGrinder Polisher",
    "dcase2026": "valveEmu fan Sander ToothBrush",
}
"""Machines that between them have all irregularities of their year."""


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, tuple[Path, SynthReport]]:
    """Every year, tiny."""
    data = tmp_path_factory.mktemp("synth")
    return {d: (data, synthesise(data, d, machines=tuple(m.split()), **SMALL)) for d, m in SOME.items()}


def content(folder: Path) -> dict[str, str]:
    """sha256 of every file under ``folder``."""
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def planned(dcase: str, *machines: str, train: int | None = 12, test: int | None = 8, seed: int = 0):
    """The clips of a plan; without ``machines`` of all of them."""
    return layout.plan(Spec(dcase, machines or YEARS[dcase].all_machines, train, test, 0.5, seed))


def lists_of(dcase: str, *machines: str, **sizes: int) -> dict[str, str]:
    """The files of the ground-truth folder."""
    clips = planned(dcase, *machines, **sizes)
    return layout.ground_truth(Spec(dcase, machines or YEARS[dcase].all_machines, 12, 8, 0.5, 0), clips)


def eval_list(dcase: str, *machines: str, **sizes: int) -> str:
    return lists_of(dcase, *machines, **sizes)[f"eval_data_list_{YEARS[dcase].year}.csv"]


def hidden(clips) -> dict[tuple[str, str], Clip]:
    """The clips with anonymous names."""
    return {(c.machine, c.name): c for c in clips if c.anonymous is not None}


@pytest.mark.parametrize("dcase", YEARS)
class TestEveryYear:
    def test_format_reads_every_clip_as_what_it_is(self, made, dcase):
        data, report = made[dcase]
        format_dataset(data, dcase)
        rows = {row["clip"]: row for row in manifest.load_manifest(data, dcase).to_pylist()}
        assert set(rows) == {c.key for c in report.clips}
        for clip in report.clips:
            row = rows[clip.key]
            said = {
                "machine": clip.machine, "section": clip.section, "domain": clip.domain, "split": clip.split,
                "subset": clip.subset, "is_anomaly": clip.is_anomaly, "attributes": clip.attributes,
                "revealed_attributes": clip.revealed, "channels": YEARS[dcase].channels,
                "n_samples": round(16000 * report.spec.seconds), "sample_rate": 16000,
            }  # fmt: skip
            assert {k: row[k] for k in said} == said
            path = store.original_dir(data, dcase, clip.subset) / clip.machine / clip.folder / clip.name
            assert data / row["original_path"] == path
            if clip.labelled_name and dcase != "dcase2020":
                assert Path(row["path"]).name == clip.labelled_name

    def test_every_name_of_every_machine_follows_the_grammar(self, dcase):
        clips = planned(dcase)
        assert {c.machine for c in clips} == set(YEARS[dcase].all_machines)
        assert len({c.key for c in clips}) == len(clips)
        for c in clips:
            read = names.parse_name(dcase, c.subset, c.split, c.name)
            labelled = c.anonymous is None
            domain_known = labelled or dcase in ("dcase2020", "dcase2021")
            assert (read.section, read.is_anomaly) == (c.section, c.is_anomaly if labelled else None)
            assert read.domain == (c.domain if domain_known else None)
            assert not labelled or read.attributes == c.attributes
            if c.labelled_name:
                read = names.parse_name(dcase, c.subset, c.split, c.labelled_name)
                assert (read.domain, read.is_anomaly, read.attributes) == (
                    c.domain,
                    c.is_anomaly,
                    c.attributes,
                )
                assert int(read.index) == c.index

    def test_training_names_end_in_the_attributes_of_their_machine(self, dcase):
        endings = ATTRIBUTES.get(dcase, {})
        for c in planned(dcase, train=40):
            if c.split == "train" and c.machine in endings:
                assert re.fullmatch(
                    rf"section_\d\d_(source|target)_train_normal_\d{{4}}_{endings[c.machine]}\.wav", c.name
                )

    def test_the_counts_of_every_cell(self, made, dcase):
        data, report = made[dcase]
        year = get_year(dcase)
        assert sum(report.counts.values()) == len(report.clips)
        assert store.read_json(synthetic_path(data, dcase))["counts"] == report.counts
        expected = {"train/source/normal": 9, "train/target/normal": 3}
        expected |= {f"test/{d}/{label}": 2 for d, label in layout.CELLS}
        if dcase == "dcase2020":
            expected = {"train/source/normal": 12, "test/source/normal": 4, "test/source/anomaly": 4}
        if dcase == "dcase2025":
            expected["supplemental/unknown/unknown"] = 4
        found = collections.defaultdict(dict)
        for key, n in report.counts.items():
            subset, machine, section, cell = key.split("/", 3)
            found[subset, machine, int(section)][cell] = n
        places = {
            (s, m, i) for m in report.spec.machines for s in year.subsets_of(m) for i in year.sections[s][m]
        }
        assert dict(found) == dict.fromkeys(places, expected)

    def test_source_and_target_share_no_variant_and_labels_share_them_all(self, dcase):
        values = collections.defaultdict(set)
        for c in planned(dcase, train=40):
            if c.domain:
                values[c.machine, c.section, c.split, c.domain, c.label].add(c.values)
        for (machine, section, _, domain, _), here in values.items():
            if domain == "source" and dcase != "dcase2020":
                assert not here & values[machine, section, "train", "target", "normal"]
            if machine not in ("HoveringDrone", "ToothBrush", "ToyCircuit"):  # as in the released test set
                assert here <= values[machine, section, "train", domain, "normal"]

    def test_clips_are_16_bit_of_the_asked_length_and_not_silent(self, made, dcase):
        data, report = made[dcase]
        for clip in report.clips[::37]:
            path = store.original_dir(data, dcase, clip.subset) / clip.machine / clip.folder / clip.name
            info = soundfile.info(path)
            channels = YEARS[dcase].channels
            assert (info.samplerate, info.channels, info.subtype) == (16000, channels, "PCM_16")
            assert info.frames == 8000
            audio, _ = soundfile.read(path)
            assert 0.005 < np.sqrt(np.mean(audio**2)) < 0.5

    def test_the_list_names_every_hidden_clip(self, dcase):
        if STYLES[dcase].newline is None:
            assert not any(name.startswith("eval_data_list") for name in lists_of(dcase))
            return
        clips = hidden(planned(dcase))
        raw = eval_list(dcase)
        newline = "\n" if dcase in ("dcase2020", "dcase2022") else "\r\n"
        assert raw.endswith(newline)
        assert raw.count("\r\n" if newline == "\r\n" else "\n") == raw.count("\n")
        assert raw.count("\r") == (raw.count("\n") if newline == "\r\n" else 0)
        machine, blocks, listed = "", [], set()
        for line in raw.splitlines():
            name, *labelled = line.split(",")
            if not labelled:
                machine = name
                blocks.append(name)
                continue
            clip = clips[machine, name]
            assert labelled == [
                clip.listed_name,
                *([str(int(clip.is_anomaly))] if dcase == "dcase2020" else []),
            ]
            if machine not in ("RoboticArm",) and clip.labelled_name:
                assert clip.listed_name == clip.labelled_name
            listed.add((machine, name))
        assert listed == set(clips)
        assert tuple(blocks) == YEARS[dcase].machines["eval"]

    def test_attribute_csvs_list_exactly_the_open_clips(self, made, dcase):
        data, report = made[dcase]
        year = get_year(dcase)
        spelled = collections.Counter()
        for (subset, machine, name), text in layout.attribute_csvs(report.spec, report.clips).items():
            assert (store.original_dir(data, dcase, subset) / machine / name).read_text() == text
            head, *rows = (line.split(",") for line in text.splitlines())
            assert head == ["file_name", *(f"d{i}{x}" for i in range(1, len(head) // 2 + 1) for x in "pv")]
            assert (len(head) == 1) == (machine in year.hidden_attributes)
            assert len(head) <= 7
            plain = all("/" not in row[0] and not row[0].endswith(".wav") for row in rows)
            spelled[plain] += 1
            found = [f"{row[0]}.wav" if plain else row[0].removeprefix(f"{machine}/") for row in rows]
            clips = [
                c.name if plain else f"{c.split}/{c.name}"
                for c in report.clips
                if (c.subset, c.machine, f"attributes_{c.section:02d}.csv") == (subset, machine, name)
                and c.anonymous is None
                and c.split != "supplemental"
            ]
            assert sorted(found) == sorted(clips)
            for file_name, row in zip(found, rows, strict=True):
                for parameter, value in zip(row[1::2], row[2::2], strict=True):
                    key = "spd" if parameter == "speed" else parameter
                    glue = "" if machine == "RoboticArm" else "_"
                    assert f"_{key}{glue}{value}" in file_name
        if year.attribute_csv:
            assert set(spelled) == {True, False}
        else:
            assert not spelled

    def test_anonymous_names_are_shuffled_again_in_every_section_and_seed(self, dcase):
        orders = collections.defaultdict(dict)
        machines = YEARS[dcase].machines["eval"]
        for seed in (0, 1):
            for c in planned(dcase, *machines, test=40, seed=seed):
                if c.anonymous is not None:
                    place = (c.domain, c.anonymous) if dcase == "dcase2021" else c.anonymous
                    orders[seed, c.machine, c.section][place] = (c.domain, c.label)
        sequences = [tuple(order[i] for i in sorted(order)) for order in orders.values()]
        assert {len(s) for s in sequences} == {40}
        assert len(set(sequences)) == len(sequences)
        early = [sum(label == "anomaly" for _, label in s[:20]) for s in sequences]
        assert 8 < np.mean(early) < 12  # 10 anomalies among the first 20 names are expected


class TestNumbers:
    def indices(self, dcase: str, machine: str, subset: str, split: str, domain: str) -> list[int]:
        return sorted(
            c.index
            for c in planned(dcase, machine, train=20, test=12)
            if (c.subset, c.split, c.domain, c.label) == (subset, split, domain, "normal")
            and c.section in (0, 3, 5)
        )

    @pytest.mark.parametrize(
        ("clips", "indices"),
        [
            ("dcase2020 ToyCar eval train source", range(20)),
            ("dcase2021 fan dev train target", [0, 1, 2]),
            ("dcase2022 ToyCar dev train target", [0, 1, 2]),
            ("dcase2023 ToyCar dev train target", [1, 2, 3]),
            ("dcase2023 ToyTrain dev test source", [1, 2, 3]),
            ("dcase2023 fan dev train target", [0, 1, 2]),
            ("dcase2023 ToyDrone eval train target", [0, 1, 2]),
            ("dcase2023 Vacuum eval test source", [1, 2, 3]),
            ("dcase2024 bearing dev train source", range(1, 18)),
            ("dcase2024 valve dev test target", [1, 2, 3]),
            ("dcase2024 Scanner eval train target", [1, 2, 3]),
            ("dcase2024 ToyCircuit eval train target", [0, 1, 2]),
            ("dcase2024 BrushlessMotor eval train source", range(17)),
            ("dcase2024 BrushlessMotor eval train target", [17, 18, 19]),
            ("dcase2024 RoboticArm eval test source", [0, 1, 2]),
            ("dcase2024 RoboticArm eval test target", [3, 4, 5]),
            ("dcase2024 HairDryer eval test target", [1, 2, 3]),
            ("dcase2024 HoveringDrone eval train source", range(17)),
            ("dcase2025 bearing dev test target", [0, 1, 2]),
            ("dcase2025 ToyRCCar eval test target", [1, 2, 3]),
        ],
    )
    def test_index_bases(self, clips, indices):
        dcase, machine, *rest = clips.split()
        found = self.indices(dcase, machine, *rest)
        assert found == sorted(list(indices) * (2 if dcase == "dcase2022" and rest[0] == "eval" else 1))

    @pytest.mark.parametrize(
        "clips",
        ["dcase2021 pump", "dcase2022 fan", "dcase2023 bandsaw", "dcase2024 Scanner", "dcase2025 Polisher",
         "dcase2026 Sander"],
    )  # fmt: skip
    def test_some_machines_repeat_the_anonymous_index(self, clips):
        those = hidden(planned(*clips.split())).values()
        assert those
        assert all(c.index == c.anonymous for c in those)

    def test_anonymous_numbers(self):
        first = {m: min(c.anonymous for c in hidden(planned("dcase2024", m)).values())
                 for m in ("Scanner", "RoboticArm", "ToothBrush")}  # fmt: skip
        assert first == {"Scanner": 1, "RoboticArm": 0, "ToothBrush": 0}
        recordings = [c.index for c in hidden(planned("dcase2025", "CoffeeGrinder", test=200)).values()]
        assert len(set(recordings)) == 200
        assert max(recordings) > 1000

    def test_blocks_of_some_machines_have_another_order(self):
        lines = eval_list("dcase2023", "grinder", test=40).splitlines()[1:]
        kinds = ["_".join(line.split(",")[1].split("_")[2:5]) for line in lines]
        assert list(dict.fromkeys(kinds)) == sorted(set(kinds))
        assert len(set(kinds)) == 4
        shown = [line[11:15] for line in eval_list("dcase2025", "Polisher").splitlines()[1:]]
        assert shown == [f"{i:04d}" for i in (*range(1, 8), 0)]

    def main_classes(self, dcase: str, split: str) -> set[tuple]:
        clips = planned(dcase, train=1000, test=200)
        return {(c.machine, c.section, c.attributes, c.domain) for c in clips if c.split == split}

    def test_full_size_has_the_released_numbers_of_classes_2023(self):
        expected = {
            "ToyCar": (18, 8), "ToyTrain": (18, 8), "ToyDrone": (4, 2), "ToyNscale": (8, 3), "ToyTank": (8, 4),
            "Vacuum": (4, 2), "bandsaw": (2, 2), "bearing": (13, 9), "fan": (2, 2), "gearbox": (9, 10),
            "grinder": (3, 3), "shaker": (2, 1), "slider": (10, 8), "valve": (2, 2),
        }  # fmt: skip
        train, test = (self.main_classes("dcase2023", split) for split in ("train", "test"))
        assert (len(train | test), len(train), len(test)) == (187, 167, 187)
        counts = collections.Counter((m, d) for m, _, _, d in train)
        assert {m: (counts[m, "source"], counts[m, "target"]) for m in expected} == expected
        unseen = collections.Counter(m for m, *_ in test - train)
        assert unseen == {"slider": 8, "bearing": 7, "gearbox": 4, "ToyNscale": 1}

    def test_full_size_has_the_released_numbers_of_classes_2024(self):
        expected = {
            "3DPrinter": (2, 2), "HairDryer": (16, 6), "RoboticArm": (16, 9), "Scanner": (2, 4),
            "ToyCar": (18, 8), "ToyCircuit": (12, 4), "bearing": (16, 10), "fan": (2, 2), "valve": (3, 2),
        } | dict.fromkeys(YEARS["dcase2024"].hidden_attributes, (1, 1))  # fmt: skip
        train, test = (self.main_classes("dcase2024", split) for split in ("train", "test"))
        assert (len(train | test), len(train), len(test)) == (225, 148, 223)
        counts = collections.Counter((m, d) for m, _, _, d in train)
        assert {m: (counts[m, "source"], counts[m, "target"]) for m in expected} == expected
        unseen = collections.Counter(m for m, *_ in test - train)
        assert unseen == {"BrushlessMotor": 51, "HairDryer": 14, "ToyCircuit": 6, "bearing": 6}

    def test_full_size_has_the_released_numbers_of_attributes_2025_2026(self):
        test = collections.Counter(
            m for m, _ in {(m, a) for m, _, a, _ in self.main_classes("dcase2025", "test")}
        )
        assert {m: test[m] for m in YEARS["dcase2025"].machines["eval"]} == {
            "AutoTrash": 6, "HomeCamera": 12, "ToyPet": 12, "ToyRCCar": 6, "BandSealer": 6,
            "CoffeeGrinder": 74, "Polisher": 15, "ScrewFeeder": 5,
        }  # fmt: skip
        found = {}
        for split in ("train", "test"):
            found[split] = collections.Counter(
                m for m, _ in {(m, a) for m, _, a, _ in self.main_classes("dcase2026", split)}
            )
        assert {m: found["train"][m] for m in YEARS["dcase2026"].machines["dev"]} == {
            "ToyCar": 1, "ToyCarEmu": 22, "bearingEmu": 1, "fan": 3, "gearboxEmu": 9, "sliderEmu": 1, "valveEmu": 1
        }  # fmt: skip
        assert found["test"]["gearboxEmu"] == 10

    @pytest.mark.parametrize(
        ("dcase", "train", "target"),
        [("dcase2023", 4, 1), ("dcase2023", 12, 3), ("dcase2022", 24, 3), ("dcase2024", 72, 7),
         ("dcase2025", 100, 10), ("dcase2026", 1000, 10), ("dcase2023", 2000, 20), ("dcase2020", 100, 0),
         ("dcase2021", 12, 3), ("dcase2021", 1000, 3), ("dcase2021", 4, 1)],
    )  # fmt: skip
    def test_share_of_target_clips(self, dcase, train, target):
        assert layout.target_clips(dcase, train) == target

    def test_official_sizes(self):
        totals = {
            d: len(planned(d, train=None, test=None)) for d in YEARS if d not in ("dcase2020", "dcase2021")
        }
        assert totals == {
            "dcase2022": 50_400, "dcase2023": 16_800, "dcase2024": 19_200, "dcase2025": 19_500, "dcase2026": 14_400
        }  # fmt: skip
        for dcase, rows in (("dcase2020", 7_103), ("dcase2021", 8_635)):
            assert len(hidden(planned(dcase, train=None, test=None))) == rows
        cells = collections.Counter(
            (c.section, c.domain, c.label)
            for c in hidden(planned("dcase2023", "grinder", test=None)).values()
        )
        assert cells == {
            (0, "source", "normal"): 107, (0, "source", "anomaly"): 27, (0, "target", "normal"): 36,
            (0, "target", "anomaly"): 30,
        }  # fmt: skip


class TestIrregularities:
    def test_names_of_2020_and_2021(self):
        assert {
            c.name for c in planned("dcase2020", "fan", train=4) if c.split == "train" and c.section == 2
        } == {f"normal_id_02_{i:08d}.wav" for i in range(4)}
        assert any(c.name == "id_01_00000000.wav" for c in planned("dcase2020", "fan"))
        folders = {c.folder for c in planned("dcase2021", "fan")}
        assert folders == {"train", "source_test", "target_test"}
        assert any(c.name == "section_03_target_test_0000.wav" for c in planned("dcase2021", "fan"))

    def test_evaluator_files_per_year(self):
        assert set(lists_of("dcase2020")) == {"eval_data_list_2020.csv"}
        those = lists_of("dcase2021", "fan")
        other = [name for name, text in those.items() if "\r" in text and name.startswith("ground")]
        assert other == ["ground_truth_data/ground_truth_fan_section_05_target_test.csv"]
        assert len(those) == 7
        kinds = {name.split("/")[0] for name in lists_of("dcase2026")}
        assert kinds == {"ground_truth_data", "ground_truth_domain", "ground_truth_attributes"}
        assert set(lists_of("dcase2025", "ToyRCCar")) == {"eval_data_list_2025.csv"}

    def test_the_wrong_names_of_2022_are_independent_of_label_and_domain(self):
        clips = list(hidden(planned("dcase2022", "ToyCar", "ToyTrain", "fan", test=200)).values())
        for machine, section in itertools.product(("ToyCar", "ToyTrain"), (3, 4, 5)):
            block = [c for c in clips if (c.machine, c.section) == (machine, section)]
            listed = [names.parse_name("dcase2022", "eval", "test", c.listed_name) for c in block]
            assert sorted(c.listed_name for c in block) == sorted(c.full_name for c in block)
            for differs in (
                [a.is_anomaly != b.is_anomaly for a, b in zip(listed, block, strict=True)],
                [a.domain != b.domain for a, b in zip(listed, block, strict=True)],
            ):
                assert 70 < sum(differs) < 130  # 100 of 200 are expected
            assert all((c.labelled_name, c.attributes) == (None, "") for c in block)
            assert {c.index for c in block} == set(range(50))
        assert all(c.listed_name == c.labelled_name for c in clips if c.machine == "fan")

    def test_attribute_tables_of_2022_are_wrong_in_the_same_way(self):
        files = lists_of("dcase2022", "ToyCar", "fan")
        listed = dict(
            line.split(",") for line in files["eval_data_list_2022.csv"].splitlines() if "," in line
        )
        for machine, section in (("ToyCar", 4), ("fan", 3)):
            path = f"ground_truth_attributes/{machine}/attributes_{section:02d}.csv"
            head, *rows = (line.split(",") for line in files[path].splitlines())
            last = "attributes" if machine == "ToyCar" else "full_attributes"
            assert (head[0], head[-1]) == ("file_name", f"file_name_with_{last}")
            for row in rows:
                name, full = (field.removeprefix(f"{machine}/test/") for field in (row[0], row[-1]))
                assert machine != "ToyCar" or listed[name] == full
                assert all(f"_{value}" in full for value in row[2:-1:2])

    def test_robotic_arm_is_listed_without_test(self):
        files = lists_of("dcase2024", "RoboticArm")
        pairs = files["ground_truth_attributes/ground_truth_RoboticArm_section_00_test.csv"]
        for text, ending in (
            (files["eval_data_list_2024.csv"].replace("RoboticArm\r\n", ""), ".wav"),
            (pairs, ""),
        ):
            for line in text.splitlines():
                assert re.fullmatch(
                    rf"section_00_\d{{4}}\.wav,section_00_(source|target)_(normal|anomaly)_\d{{4}}"
                    rf"_weight\d\d_Bckg[A-G]{ending}",
                    line,
                )
        assert all("_test_" in c.labelled_name for c in hidden(planned("dcase2024", "RoboticArm")).values())

    def test_hidden_attributes_are_revealed(self):
        files = lists_of("dcase2024", "AirCompressor", "BrushlessMotor", "slider", "gearbox")
        folder = "ground_truth_attributes/dcase2024t2"
        assert {name for name in files if "correspondence" in name} == {
            f"{folder}/{place}/attributes_00_{split}_correspondence.csv"
            for place, splits in {
                "dev_data/slider": "train test", "dev_data/gearbox": "train test",
                "eval_data/AirCompressor": "train test", "eval_data/BrushlessMotor": "train",
            }.items()
            for split in splits.split()
        }  # fmt: skip
        text = files[f"{folder}/dev_data/gearbox/attributes_00_test_correspondence.csv"]
        assert text.count("\r\n") == text.count("\n") == 9
        rows = [line.split(",") for line in text.splitlines()]
        assert rows[0] == ["source_file_name", "target_file_name"]
        for real, published in rows[1:]:
            assert re.search(r"pro_[AB]_wt_\d+(_damage[12])?\.wav$", real)
            assert ("_damage" in real) == ("anomaly" in real)
            assert published.endswith("_noAttribute.wav")
        text = files[f"{folder}/dev_data/slider/attributes_00_test_correspondence.csv"]
        for real, _ in [line.split(",") for line in text.splitlines()[1:]]:
            assert real.endswith("_.wav") == ("anomaly" in real)
        third = files["ground_truth_attributes/ground_truth_AirCompressor_section_00_test.csv"]
        for line in third.split("\r\n")[:-1]:
            _, published, real = line.split(",")
            assert published.endswith("_noAttribute")
            assert re.search(r"_fl_\d_nos_\d\.wav$", real)
        tests = hidden(planned("dcase2024", "BrushlessMotor")).values()
        assert all(re.fullmatch(r"spd\d{4}_Bckg[A-G]", c.attributes) for c in tests)

    def test_published_indices_are_shifted(self):
        files = lists_of("dcase2025", "ToyPet", "ToyTrain")
        folder = "ground_truth_attributes/dcase2025t2"
        text = files[f"{folder}/eval_data/ToyPet/attributes_00_train_correspondence.csv"]
        assert "\r" not in text
        pairs = [
            [int(names.parse_name("dcase2025", "eval", "train", n).index) for n in line.split(",")]
            for line in text.splitlines()[1:]
        ]
        assert [pair for pair in pairs if pair[0] != pair[1]] == [[9, 0], [3, 0]]
        assert len(pairs) == 12
        test = files[f"{folder}/eval_data/ToyPet/attributes_00_test_correspondence.csv"].splitlines()[1:]
        assert all(re.fullmatch(r"section_00_\w+_id_\w+\.wav,section_00_\d{4}\.wav", line) for line in test)
        renumbered = files[f"{folder}/dev_data/ToyTrain/attributes_00_test_correspondence.csv"]
        assert all(a[27:] != b[27:] for a, b in (r.split(",") for r in renumbered.splitlines()[1:]))

    def test_supplemental_clips_have_every_spelling(self):
        clips = [c for c in planned("dcase2025") if c.split == "supplemental"]
        assert {re.sub(r"\d{4}", "N", c.name) for c in clips} == {
            "section_00_machine_N_.wav",
            "section_00_machine_source_N_noAttribute.wav",
            "section_00_source_supplemental_machine_N.wav",
            "section_00_noise_supplemental_normal_N.wav",
        }
        for c in clips:
            words = names.parse_name("dcase2025", c.subset, c.split, c.name).attributes.split("_")
            assert next(word for word in words if word in ("machine", "noise")) == c.content
        assert any(c.name == "section_00_machine_0001_.wav" for c in clips if c.machine == "AutoTrash")

    def test_labels_leak_through_items_where_they_do_in_the_released_sets(self):
        clips = planned("dcase2024", "ToothBrush", "HairDryer", train=1000, test=200)
        for machine, only in (
            ("ToothBrush", {"A3", "B3", "C3"}),
            ("HairDryer", {"A5", "A6", "B5", "B6", "C5", "C6"}),
        ):
            items = {
                label: {
                    c.values[0] for c in clips if (c.machine, c.split, c.label) == (machine, "test", label)
                }
                for label in ("normal", "anomaly")
            }
            assert items["anomaly"] - items["normal"] == only


class TestDataset:
    ARGS: ClassVar = {"machines": ("fan", "bandsaw"), "train": 70, "test": 8, "seconds": 0.5}

    def test_same_bytes_with_any_number_of_workers_and_others_with_another_seed(self, tmp_path):
        made = {}
        for name, workers, seed in (("one", 1, 0), ("two", 2, 0), ("other", 1, 1)):
            synthesise(tmp_path / name, "dcase2023", **self.ARGS, workers=workers, seed=seed)
            made[name] = content(tmp_path / name)
        assert made["one"] == made["two"]
        both = [p for p in made["one"] if p.endswith(".wav") and p in made["other"]]
        assert len(both) > 50
        assert all(made["one"][p] != made["other"][p] for p in both)
        assert len(set(made["one"].values())) > 150  # no two clips alike

    def test_a_second_call_does_nothing_and_another_specification_is_refused(self, tmp_path):
        first = synthesise(tmp_path, "dcase2023", **self.ARGS)
        before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
        second = synthesise(tmp_path, "dcase2023", **self.ARGS)
        assert first.created
        assert not second.created
        assert dataclasses.replace(second, created=True) == first
        for change in ({"seed": 3}, {"train": 71}, {"seconds": 0.6}, {"machines": ("fan",)}):
            with pytest.raises(ValueError, match=r"another synthetic dataset.*(delete the folder)"):
                synthesise(tmp_path, "dcase2023", **{**self.ARGS, **change})
        assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()} == before
        written = store.read_json(synthetic_path(tmp_path, "dcase2023"))
        assert written["seed"] == 0
        assert written["machines"] == ["fan", "bandsaw"]
        assert written["clips"] == len(first.clips)
        assert written["counts"] == first.counts

    def test_somebody_elses_data_is_never_touched(self, tmp_path):
        real = store.original_dir(tmp_path, "dcase2023", "dev") / "fan" / "train" / "real.wav"
        real.parent.mkdir(parents=True)
        real.write_bytes(b"real")
        with pytest.raises(ValueError, match="did not synthesise"):
            synthesise(tmp_path, "dcase2023", **self.ARGS)
        assert [p for p in tmp_path.rglob("*") if p.is_file()] == [real]

    @pytest.mark.parametrize("train", [70, 71])
    def test_an_interrupted_call_is_repeated_with_or_without_changes(self, tmp_path, train):
        class StopError(Exception):
            pass

        def stop(done: int, total: int) -> None:
            raise StopError

        with pytest.raises(StopError):
            synthesise(tmp_path / "a", "dcase2023", **self.ARGS, workers=1, on_progress=stop)
        assert unfinished_path(tmp_path / "a", "dcase2023").exists()
        assert not synthetic_path(tmp_path / "a", "dcase2023").exists()
        for name in "ab":
            synthesise(tmp_path / name, "dcase2023", **{**self.ARGS, "train": train}, workers=1)
        assert not unfinished_path(tmp_path / "a", "dcase2023").exists()
        assert content(tmp_path / "a") == content(tmp_path / "b")

    def test_progress_counts_up_to_all_clips(self, tmp_path):
        seen = []
        report = synthesise(
            tmp_path, "dcase2023", **self.ARGS, workers=1, on_progress=lambda *now: seen.append(now)
        )
        assert [n for n, _ in seen] == sorted({n for n, _ in seen})
        assert seen[-1] == (len(report.clips), len(report.clips))

    def test_machines_of_dev_alone_have_no_ground_truth(self, tmp_path):
        synthesise(tmp_path, "dcase2023", machines=("fan",), **SMALL)
        assert not store.ground_truth_dir(tmp_path, "dcase2023").exists()

    @pytest.mark.parametrize(
        ("dcase", "change", "message"),
        [
            ("dcase2019", {}, "unknown DCASE year"),
            ("dcase2023", {"machines": ("pump",)}, "no machine 'pump'"),
            ("dcase2023", {"train": 3}, "train is 3"),
            ("dcase2023", {"test": 0}, "test is 0"),
            ("dcase2023", {"seconds": float("nan")}, "seconds is nan"),
            ("dcase2023", {"workers": 0}, "workers is 0"),
        ],
    )
    def test_wrong_arguments(self, tmp_path, dcase, change, message):
        with pytest.raises(ValueError, match=message):
            synthesise(tmp_path, dcase, **change)
        assert not any(tmp_path.iterdir())


class TestSounds:
    def test_every_machine_of_every_year_has_a_model(self):
        assert {machine for year in YEARS.values() for machine in year.all_machines} == set(MACHINES)

    @pytest.mark.parametrize(
        ("clip", "expected"),
        [
            (("dcase2022", "gearbox", 4, ("100",), False),
             [-0.0758, -0.0272, 0.0107, 0.0376, 0.065, -0.0944, 0.0051, 0.0017]),
            (("dcase2022", "ToyTrain", 0, ("A1", "6", "1", "1"), True),
             [-0.0173, 0.0019, -0.0256, -0.0265, 0.0108, -0.0598, -0.0004, -0.0081]),
            (("dcase2023", "slider", 0, ("400", "0.10"), True),
             [-0.1031, 0.0555, -0.1343, 0.1096, 0.0389, -0.0237, -0.0372, 0.0229]),
            (("dcase2023", "valve", 0, ("A", "none"), False),
             [-0.066, -0.0697, -0.2202, 0.0864, 0.0791, 0.1067, -0.0417, -0.0543]),
        ],
    )  # fmt: skip
    def test_the_sounds_stay_what_they_are(self, clip, expected):
        # Change them only together with `layout.GENERATOR`.
        number = {"gearbox": 0, "ToyTrain": 1, "slider": 2, "valve": 4}[clip[1]]
        audio = sounds.render(clip[:3], *clip[3:], 8000, f"pin/{number}")
        np.testing.assert_allclose(audio[::1117], expected, atol=2e-4)

    def test_the_far_microphone_hears_less_of_the_machine(self):
        voice = voice_of("dcase2026", "fan", 0, ("W",))

        def heard(content):
            return sounds.play(voice, 16000, np.random.default_rng(1), 2, content)

        both, machine = heard("both"), heard("machine")
        assert both.shape == (16000, 2)
        mono = sounds.play(voice, 16000, np.random.default_rng(1))
        np.testing.assert_array_equal(both[:, 0], mono)
        near, far = (
            np.abs(np.correlate(both[:, c], machine[:, 0], "full")[15999 : 15999 + 200]) for c in (0, 1)
        )
        norms = np.sqrt((both**2).sum(axis=0))
        assert near.argmax() == 0
        assert far.max() / norms[1] < 0.9 * near.max() / norms[0]

    def test_machine_and_noise_alone_add_up(self):
        voice = voice_of("dcase2025", "Polisher", 0, ("1", "A"))
        both, machine, noise = (
            sounds.play(voice, 8000, np.random.default_rng(1), content=content)
            for content in ("both", "machine", "noise")
        )
        np.testing.assert_allclose(both, machine + noise, atol=1e-5)
        assert abs(np.corrcoef(machine, noise)[0, 1]) < 0.1

    def test_attributes_drive_the_sound(self):
        # The spectrum's peaks follow the speed: the loudest partial of the faster clip lies higher.
        def peak(speed: str) -> float:
            rng = np.random.default_rng(0)
            audio = sounds.play(voice_of("dcase2023", "bandsaw", 0, (speed,)), 32000, rng)
            power = np.abs(np.fft.rfft(audio)) ** 2
            return float(np.argmax(power[600:]) + 600)

        assert peak("12") < peak("13") < peak("14") < peak("15")

    @pytest.mark.parametrize("machine", MACHINES)
    def test_every_fault_of_a_machine_changes_its_sound(self, machine):
        first = ["dcase2023", *YEARS]  # 2023's where there is one
        dcase = next(d for d in first if machine in YEARS[d].machines["dev"] + YEARS[d].machines["eval"])
        section = min(s for of in YEARS[dcase].sections.values() for s in of.get(machine, ()))
        voice = voice_of(dcase, machine, section, attributes_of(dcase, machine, section).source[0])

        def audio(fault=None):
            changed = apply_fault(voice, fault, 0.5, 0.4, 1.0) if fault else voice
            return sounds.play(changed, 16000, np.random.default_rng(1))

        heard = [audio(), *(audio(fault) for fault in MACHINES[machine].faults)]
        assert all(np.isfinite(a).all() for a in heard)
        for i, a in enumerate(heard):
            for b in heard[:i]:
                assert np.mean((a - b) ** 2) > 1e-4 * np.mean(a**2)

    def test_anomalies_are_found_better_than_by_chance_and_not_perfectly(self):
        # Nearest normal training clip in log band energies, within machine, section and domain.
        def bands(audio: np.ndarray) -> np.ndarray:
            frames = np.lib.stride_tricks.sliding_window_view(audio, 1024)[::512] * np.hanning(1024)
            power = (np.abs(np.fft.rfft(frames)) ** 2).mean(axis=0)
            edges = np.geomspace(10, 513, 49).astype(int)
            return np.log([power[a : max(b, a + 1)].mean() for a, b in itertools.pairwise(edges)])

        areas = []
        for dcase, machine in (
            ("dcase2023", "fan"), ("dcase2023", "ToyCar"), ("dcase2023", "bandsaw"), ("dcase2024", "AirCompressor"),
            ("dcase2024", "BrushlessMotor"), ("dcase2025", "HomeCamera"), ("dcase2026", "Sander"),
        ):  # fmt: skip
            clips = [c for c in planned(dcase, machine, train=40, test=80) if c.domain == "source"]
            features = np.stack(
                [
                    bands(sounds.render((dcase, machine, 0), c.values, c.label == "anomaly", 16000, c.key))
                    for c in clips
                ]
            )
            train = np.array([c.split == "train" for c in clips])
            distance = np.linalg.norm(features[~train, None] - features[None, train], axis=2).min(axis=1)
            areas.append(auc(distance, [c.label == "anomaly" for c in clips if c.split == "test"]))
        assert 0.58 < np.mean(areas) < 0.95
        assert min(areas) > 0.45


class TestHard:
    """``--hard``: what is told by no mean spectrum, and by the order of sounds."""

    PLACE, VALUES = ("dcase2023", "bandsaw", 0), ("13",)

    def clips(self, n: int, anomalous: bool, shift: bool) -> np.ndarray:
        """Mean power of 64 bands in dB, ``(n, 64)``, of n clips of 1 s."""
        edges = np.geomspace(60, 7900, 65)
        bins = np.searchsorted(np.fft.rfftfreq(16000, 1 / 16000), edges)
        found = []
        for i in range(n):
            name = f"test/{anomalous}/{shift}/{i}"
            audio = hard.render(self.PLACE, self.VALUES, anomalous, 16000, name, shift=shift)
            power = np.abs(np.fft.rfft(audio)) ** 2
            found.append(10 * np.log10([power[a:b].mean() for a, b in itertools.pairwise(bins)]))
        return np.array(found)

    def test_a_mean_spectrum_tells_another_microphone_and_no_fault(self):
        known = self.clips(30, False, False)
        centre, spread = known.mean(axis=0), known.std(axis=0)

        def distances(anomalous: bool, shift: bool) -> np.ndarray:
            return (((self.clips(30, anomalous, shift) - centre) / spread) ** 2).mean(axis=1)

        normal, fault, new = distances(False, True), distances(True, True), distances(False, False)
        label = np.arange(60) >= 30
        assert 0.35 < auc(np.r_[normal, fault], label) < 0.65
        assert auc(np.r_[new, normal], label) > 0.8

    @pytest.mark.parametrize("fault", hard.FAULTS)
    def test_faults_change_orders_or_lengths_and_keep_every_band_as_often(self, fault):
        pattern = hard.pattern_of(*self.PLACE, self.VALUES)
        follower = dict(zip(pattern.order, np.roll(pattern.order, -1), strict=True))
        seconds, strange, spread = np.zeros(hard.BANDS), [], []
        for name in ("", fault):
            bands, lengths = hard.rounds(pattern, 3_200_000, name, 0.5, np.random.default_rng(0))
            strange.append(np.mean([follower[a] != b for a, b in itertools.pairwise(bands)]))
            spread.append(lengths.std() / lengths.mean())
            seconds = np.array([lengths[bands == band].sum() for band in range(hard.BANDS)])
            assert seconds / seconds.sum() == pytest.approx([1 / hard.BANDS] * hard.BANDS, abs=0.015)
        assert strange[0] == 0
        assert spread[0] < 0.05
        assert spread[1] > 0.3 if fault == "limping" else strange[1] > 0.3

    def test_conditions_have_orders_and_lengths_of_their_own(self):
        found = [hard.pattern_of(*self.PLACE, values) for values in (("12",), ("13",), ("14",), ("15",))]
        assert len({(tuple(pattern.order), pattern.seconds) for pattern in found}) == 4
        assert all(np.array_equal(pattern.centres, found[0].centres) for pattern in found)

    def test_a_hard_dataset_has_the_same_names_and_is_another_one(self, tmp_path):
        plain, other = (
            synthesise(tmp_path / name, "dcase2026", machines=("fan",), **SMALL, hard=name == "hard")
            for name in ("plain", "hard")
        )
        assert other.clips == plain.clips
        a, b = content(tmp_path / "plain"), content(tmp_path / "hard")
        assert a.keys() == b.keys()
        wavs = {p for p in a if p.endswith(".wav")}
        assert all(a[p] != b[p] for p in wavs)
        assert all(a[p] == b[p] for p in a.keys() - wavs if not p.endswith("synthetic.json"))
        assert store.read_json(synthetic_path(tmp_path / "hard", "dcase2026"))["hard"] is True
        assert "hard" not in store.read_json(synthetic_path(tmp_path / "plain", "dcase2026"))
        assert not synthesise(tmp_path / "hard", "dcase2026", machines=("fan",), **SMALL, hard=True).created
        for name, is_hard in (("plain", True), ("hard", False)):
            with pytest.raises(ValueError, match=f"hard: {not is_hard}, now {is_hard}"):
                synthesise(tmp_path / name, "dcase2026", machines=("fan",), **SMALL, hard=is_hard)
