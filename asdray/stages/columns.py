"""The facts that training may know: columns of training clips, and the set of classes among the test clips.

Labels of test clips never reach a training; `tests/test_leak.py` checks that.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asdray import store
from asdray.config.trial import Trial, Unit
from asdray.dcase import manifest
from asdray.dcase.manifest import Dataset, hint
from asdray.dcase.years import get_year
from asdray.stages.steps import TrialFiles
from asdray.store import Places

if TYPE_CHECKING:
    from numpy.random import Generator


def training_columns(places: Places, packs: Iterable[Any]) -> dict[str, list[Any]]:
    """Columns machine, section, attributes and domain of the packs' clips, in the order of the packs.

    Supplemental clips have neither attributes nor a domain. If there are some, a further column
    ``supplemental`` is their kind, ``machine`` or ``noise``, and empty for training clips.
    """
    from asdray.audio.cache import train_rows

    packs = list(packs)
    columns: dict[str, list[Any]] = {"machine": [], "section": [], "attributes": [], "domain": []}
    if any(pack.split == "supplemental" for pack in packs):
        columns["supplemental"] = [kind for pack in packs for kind in _kinds(pack)]
    for pack in packs:
        if pack.split == "supplemental":
            columns["machine"] += [pack.machine] * len(pack)
            for name, nothing in (("section", 0), ("attributes", ""), ("domain", None)):
                columns[name] += [nothing] * len(pack)
            continue
        rows = train_rows(places.data, pack)
        columns["machine"] += [pack.machine] * len(pack)
        columns["section"] += rows.section.tolist()
        columns["attributes"] += rows.attributes
        columns["domain"] += rows.domain
    return columns


def _kinds(pack: Any) -> list[str]:
    """The values of the column ``supplemental``; of a supplemental clip, the file name alone tells."""
    if pack.split != "supplemental":
        return [""] * len(pack)
    return ["noise" if "noise" in key.rpartition("/")[2].lower() else "machine" for key in pack.clips]


def training_packs(files: TrialFiles, unit: Unit) -> list[Any]:
    """The packs of the unit's training clips, then of its supplemental clips if the frontend reads some.

    Raises:
        ValueError: no machine of the unit has supplemental clips that the frontend reads.
    """
    from asdray.audio.cache import pack_of

    system, machines = files.trial.system, files.dataset.machines
    channel = system.audio.channel
    packs = [pack_of(files.places, files.dataset, machine, "train", channel) for machine in unit.machines]
    if not system.frontend.reads_supplemental:
        return packs
    having = [machine for machine in unit.machines if machines[machine].supplemental is not None]
    if not having:
        raise ValueError(
            f"frontend.supplemental is set, but {files.trial.dcase} was formatted without supplemental clips "
            f"of {', '.join(unit.machines)}: get the folders supplemental and format again, or choose null"
        )
    return packs + [pack_of(files.places, files.dataset, m, "supplemental", channel) for m in having]


def held_out_generator(trial: Trial, unit: Unit) -> Generator:
    """The random generator for choices that hold for all epochs, such as vectors held out from training."""
    from asdray.audio.batches import WEIGHTS, generator

    return generator(trial.seed, f"{unit.name}/held-out", WEIGHTS)


def clip_keys(files: TrialFiles, machine: str, split: str) -> tuple[str, ...]:
    """The keys of the clips in a machine's split, sorted.

    Raises:
        ValueError: the split is empty, or the year was formatted again after the dataset was read.
    """
    data, dcase = files.places.data, files.trial.dcase
    wanted = files.dataset.machines[machine].split_id(split)
    if wanted is None:
        raise ValueError(f"{dcase} {machine} has no {split} clips")
    table = manifest.rows(manifest.load_manifest(data, dcase), machine=machine, split=split)
    if manifest.load_dataset(data, dcase).machines[machine].split_id(split) != wanted:
        raise ValueError(f"{dcase} was formatted again while {machine} was waited for: run the command again")
    return tuple(table["clip"].to_pylist())


def classes_of_test_clips(
    data: Path, dataset: Dataset, machines: Iterable[str], parts: Sequence[str]
) -> dict[str, list[Any]]:
    """The classes among the test clips of ``machines``: one column per part, one row per class, sorted.

    The table tells nothing about a single clip, and not even how many clips a class has.

    Args:
        parts: the parts that make a class, of ``machine``, ``section``, ``attributes``, ``domain``.

    Raises:
        ValueError: ground truth for a part that is asked for is missing, or does not tell attributes (an
            evaluator's alone; 2022's Toy machines); the year was formatted again after ``dataset`` was read.
    """
    dcase = dataset.dcase
    table = manifest.load_manifest(data, dcase)
    now = manifest.load_dataset(data, dcase)
    found: set[tuple[Any, ...]] = set()
    unknown, nameless = [], []
    for machine in machines:
        if now.machines[machine].classes != dataset.machines[machine].classes:
            raise ValueError(f"{dcase} was formatted while training began: run the command again")
        rows = manifest.rows(table, machine=machine, split="test")
        if (n := rows["domain"].null_count) and not {"attributes", "domain"}.isdisjoint(parts):
            unknown.append(f"{machine} {n}")
        if "attributes" in parts and (n := _nameless(table, dcase, machine)):
            nameless.append(f"{machine} {n}")
        found |= set(zip(*(rows[part].to_pylist() for part in parts), strict=True))
    if unknown or nameless:
        fault = (
            f"{dcase} has some without ground truth ({', '.join(unknown)})"
            if unknown
            else f"the ground truth that {dcase} is formatted with does not tell the attributes of some "
            f"({', '.join(nameless)})"
        )
        raise ValueError(
            "frontend.labels is 'asdkit', which needs to know the attributes and domains of the test clips, "
            f"but {fault}: {_get_list(data, dcase)}, or choose train_only"
        )
    return {part: [values[i] for values in sorted(found)] for i, part in enumerate(parts)}


def require_classes(data: Path, trials: Iterable[tuple[Trial, Dataset]]) -> None:
    """Checks, before any training starts, that the classes of the test clips are known to all ``trials``.

    Raises:
        ValueError: see `classes_of_test_clips`.
    """
    asked = {
        (trial.machines, parts, dataset.dcase): dataset
        for trial, dataset in trials
        if (parts := trial.system.frontend.test_classes)
    }
    for (machines, parts, _), dataset in asked.items():
        classes_of_test_clips(data, dataset, machines, parts)


def _get_list(data: Path, dcase: str) -> str:
    """The commands that get the labelled names of all test clips, for an error message."""
    name, folder = f"eval_data_list_{get_year(dcase).year}.csv", store.ground_truth_dir(data, dcase)
    again = f"run `{hint('format', dcase, data)}"
    if dcase == "dcase2022":  # without the option the Toy machines' names in the list are not used
        return f"{again} --labels asdkit`, with {name} in {folder}"
    return f"put {name} into {folder} (`{hint('download', dcase, data)}` does) and {again}` again"


def _nameless(table: Any, dcase: str, machine: str) -> int:
    """The number of test clips without attributes on a machine whose other clips have some.

    Names of test clips have no attributes up to 2021. From 2022 on the list of labelled names tells those of
    eval; evaluators tell labels and domains only, and so do the official labels of 2022's Toy machines.
    """
    if get_year(dcase).year <= 2021:
        return 0
    of_test = manifest.rows(table, machine=machine, split="test")["attributes"].to_pylist()
    of_training = manifest.rows(table, machine=machine, split="train")["attributes"].to_pylist()
    return of_test.count("") if any(of_test) or any(of_training) else 0
