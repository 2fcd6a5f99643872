"""Text files beside synthetic clips: attribute CSVs, and the ground truth in every form of the year.

>>> from asdray.dcase.synth.layout import Spec, plan
>>> from asdray.dcase.synth.lists import ground_truth
>>> spec = Spec("dcase2023", ("bandsaw",), train=4, test=4, seconds=1.0, seed=0)
>>> sorted(ground_truth(spec, plan(spec)))[0]
'eval_data_list_2023.csv'
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from asdray.dcase.synth.attributes import Attributes
from asdray.dcase.synth.clips import Clip
from asdray.dcase.synth.layout import Spec
from asdray.dcase.synth.styles import STYLES, TOYS
from asdray.dcase.synth.tables import attributes_of
from asdray.dcase.years import Subset, get_year


def attribute_csvs(spec: Spec, clips: Iterable[Clip]) -> dict[tuple[Subset, str, str], str]:
    """Content of ``attributes_<SS>.csv`` per (subset, machine, file name).

    A CSV lists all clips except anonymous and supplemental ones; names alone if names hide the attributes.
    """
    year = get_year(spec.dcase)
    if not year.attribute_csv:
        return {}
    rows: dict[tuple[Subset, str, str], list[str]] = {}
    for clip in clips:
        if clip.anonymous is not None or clip.split == "supplemental":
            continue
        attributes = attributes_of(spec.dcase, clip.machine, clip.section)
        hidden = clip.machine in year.hidden_attributes
        place = (clip.subset, clip.machine, f"attributes_{clip.section:02d}.csv")
        head = ["file_name", *([] if hidden else _parameter_head(attributes))]
        stem = clip.name.removesuffix(".wav")
        name = stem if clip.machine in TOYS else f"{clip.machine}/{clip.split}/{clip.name}"
        cells = [] if hidden else _parameters(attributes, clip)
        rows.setdefault(place, [",".join(head)]).append(",".join([name, *cells]))
    return {place: "\n".join(lines) + "\n" for place, lines in rows.items()}


def _parameter_head(attributes: Attributes) -> list[str]:
    return [f"d{i}{w}" for i in range(1, len(attributes.csv_keys) + 1) for w in "pv"]


def _parameters(attributes: Attributes, clip: Clip) -> list[str]:
    return [c for i in attributes.csv_keys for c in (attributes.keys[i].csv_word, clip.values[i])]


def ground_truth(spec: Spec, clips: Iterable[Clip]) -> dict[str, str]:
    """Content of every file of the ground-truth folder, per relative path.

    The list, the evaluator's folders, and the correspondences, as far as the year has them.
    """
    year, style = get_year(spec.dcase), STYLES[spec.dcase]
    clips = tuple(clips)
    files: dict[str, str] = {}
    lines = []
    for machine in year.machines["eval"]:
        block = [c for c in clips if c.machine == machine and c.anonymous is not None]
        if not block:
            continue
        if machine in style.grouped:
            block = sorted(block, key=lambda c: (c.domain, c.label, c.name))
        if machine in style.zero_last:
            block = sorted(block, key=lambda c: (c.anonymous == 0, c.name))
        lines += [machine, *(_list_row(spec, c) for c in block)]
        for section, members in itertools.groupby(
            sorted(block, key=lambda c: c.key), key=lambda c: c.section
        ):
            files |= _evaluator_files(spec, machine, section, list(members))
    if lines and style.newline:
        files[f"eval_data_list_{year.year}.csv"] = "".join(line + style.newline for line in lines)
    return files | _correspondences(spec, clips)


def _list_row(spec: Spec, clip: Clip) -> str:
    row = f"{clip.name},{clip.listed_name}"
    return f"{row},{int(bool(clip.is_anomaly))}" if STYLES[spec.dcase].names == "ids" else row


def _evaluator_files(spec: Spec, machine: str, section: int, clips: list[Clip]) -> dict[str, str]:
    match STYLES[spec.dcase].evaluator:
        case None:
            return {}
        case "labels":
            return _labels_per_domain(machine, section, clips)
        case "tables":
            path = f"ground_truth_attributes/{machine}/attributes_{section:02d}.csv"
            extra = {path: _table(spec, machine, section, clips)}
        case "pairs":
            path = f"ground_truth_attributes/ground_truth_{machine}_section_{section:02d}_test.csv"
            extra = {path: _pairs(spec, machine, clips)}
    name = f"ground_truth_{machine}_section_{section:02d}_test.csv"
    labels = "".join(f"{c.name},{int(bool(c.is_anomaly))}\n" for c in clips)
    domains = "".join(f"{c.name},{int(c.domain == 'target')}\n" for c in clips)
    return {f"ground_truth_data/{name}": labels, f"ground_truth_domain/{name}": domains, **extra}


def _labels_per_domain(machine: str, section: int, clips: list[Clip]) -> dict[str, str]:
    """2021: a file per domain; one file has other line ends."""
    files = {}
    for domain in ("source", "target"):
        newline = "\r\n" if (machine, section, domain) == ("fan", 5, "target") else "\n"
        rows = [f"{c.name},{int(bool(c.is_anomaly))}" for c in clips if c.domain == domain]
        path = f"ground_truth_data/ground_truth_{machine}_section_{section:02d}_{domain}_test.csv"
        files[path] = "".join(row + newline for row in rows)
    return files


def _table(spec: Spec, machine: str, section: int, clips: list[Clip]) -> str:
    """2022: rows with the parameters of the labelled name's clip, which may be another clip."""
    attributes = attributes_of(spec.dcase, machine, section)
    full = "file_name_with_attributes" if machine in TOYS else "file_name_with_full_attributes"
    owners = {c.full_name: c for c in clips}
    rows = [",".join(["file_name", *_parameter_head(attributes), full])]
    for c in clips:
        cells = _parameters(attributes, owners[c.listed_name or ""])
        rows.append(",".join([f"{machine}/test/{c.name}", *cells, f"{machine}/test/{c.listed_name}"]))
    return "\n".join(rows) + "\n"


def _pairs(spec: Spec, machine: str, clips: list[Clip]) -> str:
    rows = [[c.name, (c.listed_name or "").removesuffix(".wav")] for c in clips]
    if machine not in STYLES[spec.dcase].third_column:
        return "".join(",".join(row) + "\n" for row in rows)
    return "".join(f"{','.join(row)},{c.full_name}\r\n" for row, c in zip(rows, clips, strict=True))


def _correspondences(spec: Spec, clips: tuple[Clip, ...]) -> dict[str, str]:
    """Full and published names of clips with hidden attributes, as far as these are revealed."""
    year, newline = get_year(spec.dcase), STYLES[spec.dcase].correspondences
    rows: dict[str, list[str]] = {}
    for clip in sorted(clips, key=lambda c: c.full_name):
        if newline is None or clip.revealed is None:
            continue
        # Attributes shown in the 2025 list correspond to the anonymous name, not to a labelled name.
        shown = clip.name if clip.attributes == clip.revealed else clip.labelled_name
        path = (
            f"ground_truth_attributes/{year.name}t2/{clip.subset}_data/{clip.machine}/"
            f"attributes_{clip.section:02d}_{clip.split}_correspondence.csv"
        )
        head = ["source_file_name,target_file_name"]
        rows.setdefault(path, head).append(f"{clip.full_name},{shown}")
    return {path: "".join(row + (newline or "") for row in lines) for path, lines in rows.items()}
