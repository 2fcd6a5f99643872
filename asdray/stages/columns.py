"""What training may know of the manifest: facts of training clips, and of test clips at most the classes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from asdray.dcase import manifest
from asdray.dcase.manifest import Dataset
from asdray.store import Places


def training_columns(places: Places, packs: Iterable[Any]) -> dict[str, list[Any]]:
    """What training may see of the manifest, one value per clip, in the order of the packs."""
    from asdray.audio.cache import train_rows

    columns: dict[str, list[Any]] = {"machine": [], "section": [], "attributes": [], "domain": []}
    for pack in packs:
        rows = train_rows(places.data, pack)
        columns["machine"] += [pack.machine] * len(pack)
        columns["section"] += rows.section.tolist()
        columns["attributes"] += rows.attributes
        columns["domain"] += rows.domain
    return columns


def clip_keys(places: Places, dataset: Dataset, machine: str, split: str) -> tuple[str, ...]:
    """The clips of a machine's split, sorted.

    Raises:
        ValueError: none; or the year was formatted anew since ``dataset`` was read.
    """
    wanted = dataset.machines[machine].split_id(split)
    if wanted is None:
        raise ValueError(f"{dataset.dcase} {machine} has no {split} clips")
    table = manifest.rows(manifest.load_manifest(places.data, dataset.dcase), machine=machine, split=split)
    if manifest.load_dataset(places.data, dataset.dcase).machines[machine].split_id(split) != wanted:
        raise ValueError(
            f"{dataset.dcase} was formatted anew while {machine} was waited for: run the command again"
        )
    return tuple(table["clip"].to_pylist())


def classes_of_test_clips(
    data: Path, dataset: Dataset, machines: Iterable[str], parts: Sequence[str]
) -> dict[str, list[Any]]:
    """The set of the ``parts`` (machine, section, attributes, domain) among the test clips of ``machines``.

    Nothing of a single clip can be told from it: not its label, not which clip has which attributes, not
    even how many do. One column per part, one row per class, sorted.

    Raises:
        ValueError: test clips without ground truth, where attributes or domain are asked for, or with
            labels but unknown attributes (2022's Toy machines), where attributes are; the year was formatted
            anew since ``dataset`` was read.
    """
    table = manifest.load_manifest(data, dataset.dcase)
    now = manifest.load_dataset(data, dataset.dcase)
    found: set[tuple[Any, ...]] = set()
    unknown, nameless = [], []
    for machine in machines:
        if now.machines[machine].classes != dataset.machines[machine].classes:
            raise ValueError(f"{dataset.dcase} was formatted while training began: run the command again")
        rows = manifest.rows(table, machine=machine, split="test")
        if (n := rows["domain"].null_count) and not {"attributes", "domain"}.isdisjoint(parts):
            unknown.append(f"{machine} {n}")
        if "attributes" in parts and (n := _nameless(table, dataset.dcase, machine)):
            nameless.append(f"{machine} {n}")
        found |= set(zip(*(rows[part].to_pylist() for part in parts), strict=True))
    if unknown:
        raise ValueError(
            "frontend.labels is 'asdkit', which needs to know the attributes and domains that occur in the "
            f"test clips, but {dataset.dcase} has some without ground truth ({', '.join(unknown)}): add the "
            f"ground truth and run `asdray format {dataset.dcase}` again, or choose train_only"
        )
    if nameless:
        raise ValueError(
            "frontend.labels is 'asdkit', which needs to know the attributes that occur in the test clips, "
            f"but {dataset.dcase} as it is formatted does not tell those of some ({', '.join(nameless)}): "
            f"run `asdray format {dataset.dcase} --labels asdkit`, or choose train_only"
        )
    return {part: [values[i] for values in sorted(found)] for i, part in enumerate(parts)}


def _nameless(table: Any, dcase: str, machine: str) -> int:
    """How many test clips of a machine of 2022 have no attributes although others of its clips have some.

    Only there: test names of 2020 and 2021 carry none, and those of later years come with the ground truth.
    Official labels of 2022's Toy machines know the domain of such clips, and no name.
    """
    if dcase != "dcase2022":
        return 0
    of_test = manifest.rows(table, machine=machine, split="test")["attributes"].to_pylist()
    of_training = manifest.rows(table, machine=machine, split="train")["attributes"].to_pylist()
    return of_test.count("") if any(of_test) or any(of_training) else 0
