"""The synthetic dataset: its names, lists and labels, its reproducibility, and that its sounds pose a task."""

from __future__ import annotations

import collections
import csv
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
from asdray.dcase.synth import SynthReport, done_path, layout, sounds, synthesise, unfinished_path
from asdray.dcase.synth.attributes import attributes_of
from asdray.dcase.synth.faults import apply_fault
from asdray.dcase.synth.layout import Spec
from asdray.dcase.synth.machines import MACHINES
from asdray.dcase.synth.voice import voice_of
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
ATTRIBUTES = {"dcase2022": ATTRIBUTES_2022, "dcase2023": ATTRIBUTES_2023}

SMALL = {"train": 12, "test": 10, "seconds": 0.5, "workers": 1}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, tuple[Path, SynthReport]]:
    """Both years with all machines, tiny."""
    data = tmp_path_factory.mktemp("synth")
    return {dcase: (data, synthesise(data, dcase, **SMALL)) for dcase in layout.STYLES}


def content(folder: Path) -> dict[str, str]:
    """sha256 of every file under ``folder``."""
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


@pytest.mark.parametrize("dcase", layout.STYLES)
class TestLayout:
    def test_every_name_follows_the_grammar_of_its_machine(self, made, dcase):
        data, _ = made[dcase]
        year = get_year(dcase)
        seen = 0
        for subset, split in [(s, t) for s in ("dev", "eval") for t in ("train", "test")]:
            root = store.original_dir(data, dcase, subset)
            assert {p.name for p in root.iterdir()} == set(year.machines[subset])
            for machine in year.machines[subset]:
                section = "(" + "|".join(f"{s:02d}" for s in year.sections[subset][machine]) + ")"
                label = "normal" if split == "train" else "(normal|anomaly)"
                grammar = (
                    rf"section_{section}_\d{{4}}\.wav"
                    if (subset, split) == ("eval", "test")
                    else rf"section_{section}_(source|target)_{split}_{label}_\d{{4}}"
                    rf"_{ATTRIBUTES[dcase][machine]}\.wav"
                )
                names = [p.name for p in (root / machine / split).iterdir()]
                assert all(re.fullmatch(grammar, name) for name in names), (machine, names)
                assert len(names) == len(year.sections[subset][machine]) * SMALL[split]
                seen += len(names)
        assert seen == len(made[dcase][1].clips)

    def test_the_counts_of_every_cell(self, made, dcase):
        _, report = made[dcase]
        year = get_year(dcase)
        assert sum(report.counts.values()) == len(report.clips)
        for subset in ("dev", "eval"):
            for machine in year.machines[subset]:
                for section in year.sections[subset][machine]:
                    place = f"{subset}/{machine}/{section:02d}"
                    cells = {
                        k.removeprefix(f"{place}/"): n
                        for k, n in report.counts.items()
                        if k.startswith(place)
                    }
                    assert cells == {
                        "train/source/normal": 9, "train/target/normal": 3, "test/source/normal": 3,
                        "test/target/normal": 3, "test/source/anomaly": 2, "test/target/anomaly": 2,
                    }  # fmt: skip

    def test_source_and_target_share_no_attributes_and_labels_share_them_all(self, made, dcase):
        _, report = made[dcase]
        values = collections.defaultdict(set)
        for c in report.clips:
            values[c.machine, c.section, c.split, c.domain, c.label].add(c.attributes)
        for machine, section, split, domain, label in list(values):
            here = values[machine, section, split, domain, label]
            if domain == "source":
                assert not here & values[machine, section, split, "target", label]
            assert here <= values[machine, section, "train", domain, "normal"]

    def test_clips_are_16_bit_mono_of_the_asked_length_and_not_silent(self, made, dcase):
        data, report = made[dcase]
        for clip in report.clips[::97]:
            path = store.original_dir(data, dcase, clip.subset) / clip.machine / clip.split / clip.name
            info = soundfile.info(path)
            assert (info.samplerate, info.channels, info.subtype, info.frames) == (16000, 1, "PCM_16", 8000)
            audio, _ = soundfile.read(path)
            assert 0.005 < np.sqrt(np.mean(audio**2)) < 0.5

    def test_ground_truth_agrees_with_the_plan(self, made, dcase):
        data, report = made[dcase]
        year = get_year(dcase)
        truth = store.ground_truth_dir(data, dcase)
        hidden = {(c.machine, c.name): c for c in report.clips if c.anonymous is not None}
        raw = (truth / f"eval_data_list_{year.year}.csv").read_bytes()
        assert raw.endswith(b"\n")
        assert (b"\r\n" in raw) == (dcase == "dcase2023")
        assert raw.count(b"\r") in (0, raw.count(b"\n"))
        machine, blocks, listed = "", [], set()
        for line in raw.decode().splitlines():
            name, _, labelled = line.partition(",")
            if not labelled:
                machine = name
                blocks.append(name)
                continue
            assert hidden[machine, name].labelled_name == labelled
            listed.add((machine, name))
        assert listed == set(hidden)
        assert tuple(blocks) == year.machines["eval"]
        for column, folder, positive in (("label", "data", "anomaly"), ("domain", "domain", "target")):
            found = {}
            for path in (truth / f"ground_truth_{folder}").iterdir():
                m = re.fullmatch(r"ground_truth_(\w+)_section_(\d\d)_test\.csv", path.name)
                assert m
                with open(path, newline="") as file:
                    found |= {(m[1], name): value for name, value in csv.reader(file)}
            assert found == {k: str(int(getattr(c, column) == positive)) for k, c in hidden.items()}

    def test_evaluator_attributes_name_the_labelled_clips(self, made, dcase):
        data, report = made[dcase]
        folder = store.ground_truth_dir(data, dcase) / "ground_truth_attributes"
        hidden = {(c.machine, c.name): c for c in report.clips if c.anonymous is not None}
        found = set()
        for path in folder.rglob("*.csv"):
            with open(path, newline="") as file:
                rows = list(csv.reader(file))
            if dcase == "dcase2023":
                machine = path.name.split("_")[2]
                pairs = [(machine, a, machine, f"{b}.wav") for a, b in rows]
            else:
                machine = path.parent.name
                last = (
                    "file_name_with_attributes"
                    if machine.startswith("Toy")
                    else "file_name_with_full_attributes"
                )
                assert rows[0][0] == "file_name"
                assert rows[0][-1] == last
                pairs = [(*r[0].split("/test/"), *r[-1].split("/test/")) for r in rows[1:]]
            for machine, name, same, labelled in pairs:
                assert machine == same
                assert hidden[machine, name].labelled_name == labelled
                found.add((machine, name))
        assert found == set(hidden)

    def test_attribute_csvs_list_exactly_the_open_clips(self, made, dcase):
        data, report = made[dcase]
        for subset in ("dev", "eval"):
            for path in store.original_dir(data, dcase, subset).glob("*/attributes_*.csv"):
                machine, section = path.parent.name, int(path.stem[-2:])
                with open(path, newline="") as file:
                    head, *rows = csv.reader(file)
                assert head == [
                    "file_name",
                    *(f"d{i}{x}" for i in range(1, len(head) // 2 + 1) for x in "pv"),
                ]
                assert 3 <= len(head) <= 7
                clips = {
                    c.name: c
                    for c in report.clips
                    if (c.subset, c.machine, c.section) == (subset, machine, section) and c.anonymous is None
                }
                names = [row[0] for row in rows]
                if machine.startswith("Toy") or machine == "Vacuum":
                    assert all("/" not in n and not n.endswith(".wav") for n in names)
                    names = [f"{n}.wav" for n in names]
                else:
                    assert all(n.startswith(f"{machine}/") for n in names)
                    names = [n.split("/")[2] for n in names]
                assert sorted(names) == sorted(clips)
                for name, row in zip(names, rows, strict=True):
                    for parameter, value in zip(row[1::2], row[2::2], strict=True):
                        key = "spd" if parameter == "speed" and machine != "shaker" else parameter
                        assert f"_{key}_{value}" in name

    def test_anonymous_names_are_shuffled_anew_in_every_section_and_seed(self, made, dcase):
        orders = {}
        for seed in (0, 1):
            spec = Spec(dcase, get_year(dcase).machines["eval"], 12, 40, 0.5, seed)
            for c in layout.plan(spec):
                if c.anonymous is not None:
                    orders.setdefault((seed, c.machine, c.section), {})[c.anonymous] = (c.domain, c.label)
        sequences = [tuple(order[i] for i in range(40)) for order in orders.values()]
        assert len(set(sequences)) == len(sequences)
        early = [sum(label == "anomaly" for _, label in s[:20]) for s in sequences]
        assert 8 < np.mean(early) < 12  # 10 anomalies among the first 20 names are expected


class TestNumbers:
    def names(self, dcase: str, machine: str, subset: str, split: str, domain: str) -> list[int]:
        spec = Spec(dcase, (machine,), 20, 12, 0.5, 0)
        return sorted(
            c.index
            for c in layout.plan(spec)
            if (c.subset, c.split, c.domain, c.label) == (subset, split, domain, "normal")
            and c.section in (0, 3)
        )

    def test_index_bases(self):
        assert self.names("dcase2023", "ToyCar", "dev", "train", "target") == [1, 2, 3]
        assert self.names("dcase2023", "ToyTrain", "dev", "test", "source") == [1, 2, 3]
        assert self.names("dcase2023", "fan", "dev", "train", "target") == [0, 1, 2]
        assert self.names("dcase2023", "ToyDrone", "eval", "train", "target") == [0, 1, 2]
        assert self.names("dcase2023", "Vacuum", "eval", "test", "source") == [1, 2, 3]
        assert self.names("dcase2022", "ToyCar", "dev", "train", "target") == [0, 1, 2]
        assert self.names("dcase2022", "ToyCar", "eval", "test", "source") == [0, 1, 2]

    @pytest.mark.parametrize(("dcase", "machine"), [("dcase2023", "bandsaw"), ("dcase2022", "fan")])
    def test_some_machines_repeat_the_anonymous_index(self, dcase, machine):
        clips = [c for c in layout.plan(Spec(dcase, (machine,), 12, 12, 0.5, 0)) if c.anonymous is not None]
        assert clips
        assert all(c.index == c.anonymous for c in clips)

    def test_blocks_of_the_metal_machines_are_grouped_by_domain_and_label(self):
        spec = Spec("dcase2023", ("grinder",), 12, 40, 0.5, 0)
        lines = layout.ground_truth(spec, layout.plan(spec))["eval_data_list_2023.csv"].splitlines()[1:]
        kinds = ["_".join(line.split(",")[1].split("_")[2:5]) for line in lines]
        assert list(dict.fromkeys(kinds)) == sorted(set(kinds))
        assert len(set(kinds)) == 4

    def test_full_size_has_the_released_numbers_of_classes(self):
        expected = {
            "ToyCar": (18, 8), "ToyTrain": (18, 8), "ToyDrone": (4, 2), "ToyNscale": (8, 3), "ToyTank": (8, 4),
            "Vacuum": (4, 2), "bandsaw": (2, 2), "bearing": (13, 9), "fan": (2, 2), "gearbox": (9, 10),
            "grinder": (3, 3), "shaker": (2, 1), "slider": (10, 8), "valve": (2, 2),
        }  # fmt: skip
        clips = layout.plan(Spec("dcase2023", YEARS["dcase2023"].all_machines, 1000, 200, 10.0, 0))
        train = {(c.machine, c.domain, c.attributes) for c in clips if c.split == "train"}
        counts = collections.Counter((m, d) for m, d, _ in train)
        assert {m: (counts[m, "source"], counts[m, "target"]) for m in expected} == expected
        test = {(c.machine, c.domain, c.attributes) for c in clips if c.split == "test"}
        unseen = collections.Counter(m for m, _, _ in test - train)
        assert unseen == {"slider": 8, "bearing": 7, "gearbox": 4, "ToyNscale": 1}
        domains = collections.Counter((c.machine, c.domain) for c in clips if c.split == "train")
        assert all(domains[m, "source"] == 990 and domains[m, "target"] == 10 for m in expected)

    @pytest.mark.parametrize(
        ("train", "target"), [(4, 1), (12, 3), (24, 3), (72, 7), (100, 10), (1000, 10), (2000, 20)]
    )
    def test_share_of_target_clips(self, train, target):
        assert layout.target_clips(train) == target


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
        written = store.read_json(done_path(tmp_path, "dcase2023"))
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
        assert not done_path(tmp_path / "a", "dcase2023").exists()
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
            ("dcase2024", {}, "can synthesise dcase2022, dcase2023 so far"),
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
        for dcase in layout.STYLES:
            for machine in get_year(dcase).all_machines:
                assert machine in MACHINES

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
        variant = attributes_of("dcase2023", machine, 0).source[0]
        voice = voice_of("dcase2023", machine, 0, variant)

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
        for machine in ("fan", "gearbox", "ToyCar", "bandsaw", "shaker"):
            spec = Spec("dcase2023", (machine,), 40, 80, 1.0, 0)
            clips = [c for c in layout.plan(spec) if c.domain == "source"]
            features = np.stack(
                [
                    bands(
                        sounds.render("dcase2023", machine, 0, c.values, c.label == "anomaly", 16000, c.key)
                    )
                    for c in clips
                ]
            )
            train = np.array([c.split == "train" for c in clips])
            distance = np.linalg.norm(features[~train, None] - features[None, train], axis=2).min(axis=1)
            areas.append(auc(distance, [c.label == "anomaly" for c in clips if c.split == "test"]))
        assert 0.58 < np.mean(areas) < 0.95
        assert min(areas) > 0.45
