"""Published zips and ground truth of every year, and markers of the zips that lie unpacked in a data folder.

A year is three records of the audio host Zenodo: development data, training clips of the eval machines, and
test clips of the eval machines, each with one zip per machine. Two records were replaced because single zips
were wrong; the new zips have ``_r2`` in their names. The ground truth is fetched from pinned commits of the
organisers' repositories; asdray ships none of it.

In a data folder, ``<data>/original/<dcase>/.download/<zip>.json`` marks a zip. The marker is written before
the first file of the zip appears in the machine's folder, to tell asdray's files from files of another
origin, and again when all files are in place. The marker also says if asdray fetches the zip itself, from
before the first byte until the zip is removed: no other zip is ever removed.

>>> from asdray.dcase.records import zips
>>> first = zips("dcase2023")[0]
>>> first.name, first.path
('dev_bearing.zip', 'records/7882613/files/dev_bearing.zip')

Source: the organisers' dataset pages and download scripts. md5 sums: the record's own are asked for at run
time; those of 2020, 2023 and 2026 are known beforehand, from third parties.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from asdray import store
from asdray.dcase.manifest import clip_folders, hint, synthetic_path
from asdray.dcase.names import is_clutter
from asdray.dcase.places import machine_folders
from asdray.dcase.years import SUBSETS, Subset, get_year

AUDIO_HOST = "https://zenodo.org"
TRUTH_HOST = "https://raw.githubusercontent.com"

AUDIO_LICENCE = "CC BY-NC-SA 4.0 (attribution, non-commercial, share alike)"

MARKER_FORMAT = 1

PARTIAL = (".part", ".part.etag")
"""Endings of an incomplete download and of the file with its ETag."""

Part = Literal["dev", "eval_train", "eval_test"]
PARTS: tuple[Part, Part, Part] = ("dev", "eval_train", "eval_test")
_SPLITS = dict(zip(PARTS, (("train", "test"), ("train",), ("test",)), strict=True))


# -------------------------------------------------------------------------------------------- published


@dataclass(frozen=True)
class Zip:
    """One published zip: one folder, named like the machine.

    Attributes:
        part: one of the year's three records.
        record: number of the record.
        name: file name, unique within a year but not between years.
        md5: 32 hex digits if known beforehand, else None.
    """

    dcase: str
    part: Part
    machine: str
    record: int
    name: str
    md5: str | None

    @property
    def subset(self) -> Subset:
        return "dev" if self.part == "dev" else "eval"

    @property
    def path(self) -> str:
        """Address of the zip below the host."""
        return f"records/{self.record}/files/{self.name}"


def api_path(record: int) -> str:
    """Address, below the host, of a record's description in JSON.

    The value ``files`` is a list of objects with ``key`` (file name), ``size`` (bytes) and ``checksum``
    (``md5:`` and 32 hex digits).
    """
    return f"api/records/{record}"


@dataclass(frozen=True)
class TruthFile:
    """One published file of ground truth.

    Attributes:
        repository: ``owner/name``.
        path: within the repository.
        machine: None for a list of all eval machines.
        sha256: None if unknown.
    """

    repository: str
    commit: str
    path: str
    machine: str | None
    sha256: str | None

    @property
    def folder(self) -> str:
        """Folder of the file below ``ground_truth``: the repository's own name."""
        return self.repository.partition("/")[2]

    @property
    def licence(self) -> str:
        return _NTT if self.repository.startswith("nttcslab/") else "MIT"


def zips(dcase: str) -> tuple[Zip, ...]:
    """Every zip of a year: one per dev machine, two per eval machine."""
    year = get_year(dcase)
    return tuple(
        Zip(
            dcase=dcase,
            part=part,
            machine=machine,
            record=_RECORDS[year.year][part],
            name=_zip_name(year.year, part, machine),
            md5=_MD5.get((year.year, part), {}).get(machine),
        )
        for part in PARTS
        for machine in year.machines["dev" if part == "dev" else "eval"]
    )


def ground_truth(dcase: str) -> tuple[TruthFile, ...]:
    """Every published file with labels, domains or attributes of a year's eval test clips."""
    year = get_year(dcase)
    files = []
    if year.year in _LIST_SHA256:
        path = f"datasets/eval_data_list_{year.year}.csv"
        files.append(TruthFile(*_BASELINE, path, None, _LIST_SHA256[year.year]))
    if year.year in _EVALUATORS:
        repository, commit, kinds = _EVALUATORS[year.year]
        domains = ("_source", "_target") if year.split_test_folders else ("",)
        files += [
            TruthFile(
                repository,
                commit,
                f"ground_truth_{kind}/ground_truth_{machine}_section_{section:02d}{domain}_test.csv",
                machine,
                None,
            )
            for kind in kinds
            for machine in year.machines["eval"]
            for section in year.sections["eval"][machine]
            for domain in domains
        ]
    return tuple(files)


def _zip_name(year: int, part: Part, machine: str) -> str:
    if part == "dev":
        stem = f"dev_data_{machine}" if year <= 2021 else f"dev_{machine}"
    elif year == 2020:
        stem = f"eval_data_{part.removeprefix('eval_')}_{machine}"
    else:
        stem = f"eval_data_{machine}_{part.removeprefix('eval_')}"
    return f"{stem}_r2.zip" if (year, part, machine) in _SECOND_RELEASE else f"{stem}.zip"


# ------------------------------------------------------------------------------------- in a data folder


def year_folder(data: Path, dcase: str) -> Path:
    """``<data>/original/<dcase>``."""
    return data / "original" / dcase


def zips_folder(data: Path, dcase: str) -> Path:
    """Folder of zips until they are unpacked, or for good if they are kept."""
    return year_folder(data, dcase) / "zips"


def machine_folder(data: Path, z: Zip) -> Path:
    """Destination of the zip's content."""
    return store.original_dir(data, z.dcase, z.subset) / z.machine


def holds_something(folder: Path) -> bool:
    """True if a file lies anywhere below a folder, except clutter and incomplete downloads."""
    for _, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not is_clutter(name)]
        if any(not is_clutter(name) and not name.endswith(PARTIAL) for name in files):
            return True
    return False


def remove_empty_folders(folder: Path) -> None:
    """Removes empty folders below ``folder``, and ``folder`` itself if empty. Follows no link."""
    if folder.is_symlink():
        return
    for path, _, _ in os.walk(folder, topdown=False):
        with contextlib.suppress(OSError):  # not empty
            os.rmdir(path)


def machines_present(data: Path, dcase: str) -> dict[Subset, tuple[str, ...]]:
    """Machines of each subset with files, from any origin."""
    year = get_year(dcase)
    return {
        s: tuple(m for m in year.machines[s] if any(map(holds_something, machine_folders(data, dcase, s, m))))
        for s in SUBSETS
    }


def missing_folders(data: Path, z: Zip) -> list[str]:
    """Folders of the zip's content without files of any origin: a machine, or some of its splits."""
    machine = f"{z.subset} {z.machine}"
    if not any(map(holds_something, machine_folders(data, z.dcase, z.subset, z.machine))):
        return [machine]
    return [
        f"{machine} {folder.name}"
        for split, folder in clip_folders(data, z.dcase, z.subset, z.machine)
        if split in _SPLITS[z.part] and not holds_something(folder)
    ]


def has_ground_truth(data: Path, dcase: str) -> bool:
    """True if ground truth of any origin lies in the data folder."""
    return holds_something(store.ground_truth_dir(data, dcase))


def remedy(data: Path, dcase: str, kind: str, subset: str, machine: str) -> str:
    """Advice for missing clips of a machine."""
    if kind == "synthetic":
        folder = synthetic_path(data, dcase).parent
        return f"delete the folder {folder} and run `{hint('synth', dcase, data)}` again"
    try:
        complete = all(
            is_in_place(data, z) for z in zips(dcase) if (z.subset, z.machine) == (subset, machine)
        )
    except (ValueError, OSError):  # a damaged marker or an unreadable folder gives no fact
        complete = False
    if complete:
        return "all that the published zips hold is there: what is missing is not in them"
    return f"run `{hint('download', dcase, data)}`"


# --------------------------------------------------------------------------------------------- markers


def _marker(data: Path, z: Zip) -> Path:
    return year_folder(data, z.dcase) / ".download" / f"{z.name}.json"


@dataclass(frozen=True)
class _Facts:
    """The content of a marker that is read, see `mark`."""

    files: dict[str, int] | None = None
    fetched: bool = False
    keep: bool = False


def _facts(data: Path, z: Zip) -> dict[str, Any]:
    path = _marker(data, z)
    if not path.exists():
        return {}
    store.read_json(path, _Facts)
    facts: dict[str, Any] = store.read_json(path)
    return facts


def mark(data: Path, z: Zip, **facts: Any) -> None:
    """Adds facts of a zip to its marker.

    ``files``: number of files per folder, None = about to appear. ``fetched``: asdray fetches the zip in the
    folder of zips. ``keep``: asdray was asked to keep the zip.
    """
    always = {"format": MARKER_FORMAT, "zip": z.name, "record": z.record}
    path = _marker(data, z)
    store.sweep_leftovers(path.parent, path.name)
    store.write_json(path, {**_facts(data, z), **always, **facts})


def is_in_place(data: Path, z: Zip) -> bool:
    """True if all files of the zip were put in place, and no folder has lost files since."""
    files = _facts(data, z).get("files")
    raw = store.original_dir(data, z.dcase, z.subset)
    return files is not None and all(
        (raw / folder).is_dir() and sum(1 for _ in os.scandir(raw / folder)) >= n
        for folder, n in files.items()
    )


def is_fetched(data: Path, z: Zip) -> bool:
    """True if asdray fetched the zip in the folder of zips."""
    return bool(_facts(data, z).get("fetched"))


def is_kept(data: Path, z: Zip) -> bool:
    """True if asdray was asked to keep the zip."""
    return bool(_facts(data, z).get("keep"))


def remove_zip(data: Path, z: Zip) -> None:
    """Removes the zip that asdray fetched, complete or not; a zip that lies there later stays."""
    assert is_fetched(data, z)
    for ending in (*PARTIAL, ""):
        (zips_folder(data, z.dcase) / (z.name + ending)).unlink(missing_ok=True)
    mark(data, z, fetched=False)


def foreign(data: Path, wanted: Sequence[Zip], every: Iterable[Zip]) -> list[Zip]:
    """The ``wanted`` zips whose folders hold data of another origin.

    Args:
        every: all zips of the year; the folder of a machine with any marked zip is asdray's own.
    """
    own = {machine_folder(data, z) for z in every if "files" in _facts(data, z)}

    def is_foreign(z: Zip) -> bool:
        folder = machine_folder(data, z)
        if folder.parent.is_symlink() or folder.parent.parent.is_symlink():
            return True
        _, *others = machine_folders(data, z.dcase, z.subset, z.machine)
        is_there = folder.is_symlink() or any(map(holds_something, (folder, *others)))
        return folder not in own and is_there

    return [z for z in wanted if is_foreign(z)]


# ---------------------------------------------------------------------------------------------- the tables


_RECORDS: Mapping[int, Mapping[Part, int]] = {
    2020: {"dev": 3678171, "eval_train": 3727685, "eval_test": 3841772},
    2021: {"dev": 4562016, "eval_train": 4660992, "eval_test": 4884786},
    2022: {"dev": 6355122, "eval_train": 6462969, "eval_test": 6586456},
    2023: {"dev": 7882613, "eval_train": 7830345, "eval_test": 7860847},
    2024: {"dev": 10902294, "eval_train": 11259435, "eval_test": 11363076},
    2025: {"dev": 15097779, "eval_train": 15392814, "eval_test": 15519362},
    2026: {"dev": 19336329, "eval_train": 20151556, "eval_test": 20437238},
}

_SECOND_RELEASE = {
    (2024, "eval_train", "3DPrinter"),
    (2024, "eval_train", "RoboticArm"),
    (2026, "dev", "ToyCar"),
}

_MD5: Mapping[tuple[int, Part], Mapping[str, str]] = {
    (2020, "dev"): {
        "ToyCar": "4dec75ca8d9f666aa9e4c1894a740501",
        "ToyConveyor": "03b6aa1bfd09a39d53af0ba39f71fa91",
        "fan": "649bdfc06263ae7a838963f43b6641e6",
        "valve": "34d2672f55bb041589ef79c10dc89934",
        "slider": "da24a757719f0d94d5aa2d646bbfdc86",
        "pump": "90e7091ef722b7238a7f1009365779cd",
    },
    (2020, "eval_train"): {
        "ToyCar": "a5d4ccd498af70b04dd74b644b820006",
        "ToyConveyor": "0e808ac0b761e9fb13d5e0c65caff00d",
        "fan": "567798854130c8019df8b664c095ed1e",
        "valve": "057cdd560caffb8305449541afd28c6d",
        "slider": "f84f186f4295fc23754abcdd1b0580a7",
        "pump": "4e33ae9c0db5cc88437675f5e317caee",
    },
    (2020, "eval_test"): {
        "ToyCar": "bea2bdd612f616be8f2b8eb087b32c7c",
        "ToyConveyor": "ccfcc9847c7d3404d7ee9d6d9e0b2ba2",
        "fan": "1eb9356a768cadfd0f2e59a5c57e578b",
        "valve": "f69c551d2088691050d20cccca9d631c",
        "slider": "0193c769073840332ce3aad84b1ccaa2",
        "pump": "23a8f8f924be218c69df67fe07360348",
    },
    (2023, "dev"): {
        "bearing": "8a813bc8d8f156b5395bfccdfac7673c",
        "fan": "9348591e96fb0ad499a1e33b082562fc",
        "gearbox": "b6e55f6a31faa0fc8569ec0afdd53ccf",
        "slider": "b3f8dee36b4718c36d659a4fd1c4afe0",
        "ToyCar": "4e3bf15f4101ed4ed4f1fecde2e2b2a3",
        "ToyTrain": "6b02a6c65eebb3b8b1ae59a6b25bb897",
        "valve": "b2051a2022eadb53cd97581120811cae",
    },
    (2023, "eval_train"): {
        "bandsaw": "9274dfe63de028743823f1123f8b4b47",
        "grinder": "17569c1f9df23621a0dbabc430684a35",
        "shaker": "35f821b5645b731fb5a1750e33b95fc3",
        "ToyDrone": "7fea367d1384a1521ae24f72203238de",
        "ToyNscale": "9332822f3e47afd984c01f2ecb5ca3af",
        "ToyTank": "b1fd3ab7de7561290df2d477de1c9d33",
        "Vacuum": "1c8de33d9a8c7850a1f7aaddb97d87be",
    },
    (2023, "eval_test"): {
        "bandsaw": "2a8e8f39f6584ab366a8f4da52d4d7a6",
        "grinder": "631b3e1608b6077772829a6e68c82c77",
        "shaker": "ba98c98caa96051ec80e24e44b8fca56",
        "ToyDrone": "fdae7b8d1f4cadb2bea88bc93e2367db",
        "ToyNscale": "62f5f5043d8fb3a305b1c2e1025872de",
        "ToyTank": "f5639bf58c47169c622751f19c6fc321",
        "Vacuum": "a32524fd8c45b574a560685b38acc4e1",
    },
    (2026, "dev"): {
        "ToyCar": "353201db217e25377a7e7eccf9c1c8a7",
        "bearingEmu": "82c2d04c5f48d09842152c34ef273667",
    },
    (2026, "eval_train"): {
        "ToyDrone": "af3e4040ef7c67d7ee920608d0c38d82",
        "ToothBrush": "6fa5f81796b5d37b3ed24bb8eff2ea25",
        "SewingMachine": "74d08cacba3da88753badd69d19e577b",
        "BlowerDustCollector": "e79342948772cf51e50ff601cd9621f3",
        "Sander": "6cbcfbc65a09c4f3d00b9a55c50502ec",
    },
    (2026, "eval_test"): {
        "ToyDrone": "b36102371c188b630d201d443a00bab2",
        "ToothBrush": "987395506fbb48c570d5d26babcab05e",
        "SewingMachine": "f0a1a96b48006c301e8cec25e9214046",
        "BlowerDustCollector": "ec90d56f189e84e6430fb2878c59cb84",
        "Sander": "05f81c9a80e91c7b3cea15f8e8559b44",
    },
}

_NTT = (
    "NTT Software License Agreement for Evaluation (internal, non-commercial evaluation; "
    "not to be passed on or modified)"
)

_BASELINE = ("nttcslab/dcase2023_task2_baseline_ae", "9b64dc42276a64f65b7cbf2761d3c9ec525cff94")

_LIST_SHA256: Mapping[int, str] = {
    2020: "a179d4dde7993a2971044cf5ee00abb306c5016becce372c625e79845673b3bb",
    2021: "137b25ef444295e7626642957a5e9325176fe9f96be1bda53e2be080906ce2a6",
    2022: "9e4510f2ab8a2f53bec0968e0b16b1d99f0e2c77f76c986e59735e9ed2276c4a",
    2023: "705f2d2a8b7afa4e518b29c6ca751e3dfe552c6de35edd28cd85a67b610586ec",
    2024: "af0d0826eb50c7769fe3bd33f16ba6c62c9b87548b1181eecf6f03bc4c72da93",
    2025: "013aa59905d9b2c4bac64d88a7fd6166fa6458f0ffea408b57a761ef886cf265",
}

# 2021 names the domain in the clips' names and has no attributes. The attributes that 2022's evaluator
# holds are those of the list, with the same mistakes. 2020's evaluator has the list alone, 2025 has none.
_ALL_KINDS = ("data", "domain", "attributes")
_EVALUATORS: Mapping[int, tuple[str, str, tuple[str, ...]]] = {
    2021: ("y-kawagu/dcase2021_task2_evaluator", "178746837e5ffe46f8c8bfc6498e7d538b25bc41", ("data",)),
    2022: ("Kota-Dohi/dcase2022_evaluator", "de8719b7d35280ff3a39487c9d1003413eef7818", ("data", "domain")),
    2023: ("nttcslab/dcase2023_task2_evaluator", "3aa8a9fe09a9a55d9dccb74fd4f17ba9791fb5ea", _ALL_KINDS),
    2024: ("nttcslab/dcase2024_task2_evaluator", "b5d17f63769bf4372a5412a7ede1f814c9590047", _ALL_KINDS),
    2026: ("nttcslab/dcase2026_task2_evaluator", "f6a94a2b5e614a9626c9d1ccff6df0705e6aaa75", _ALL_KINDS),
}
