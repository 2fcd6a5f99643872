"""The tables of the official evaluators, row for row and column for column.

``<system>_result.csv`` has three forms: 2020, 2021, and since 2022. ``teams_*.csv`` are the tables over all
systems of the evaluators since 2023, which 2022 gets too. Scores are fractions, empty without a value.

Two faults of the official evaluators are corrected unless ``compat`` is set:

* ``official score ci95`` (since 2022) is half the width of the bootstrap interval of the official score. The
  original value is about a thousand times too small, see `bootstrap.evaluators_ci95`.
* ``source harmonic mean`` and ``target harmonic mean`` of a machine in 2022 average the sections of that
  domain. The original splits the list of 3 source and 3 target values after the first value.

Without ``compat`` the additional file ``teams_official_score_ci95.csv`` holds the official score of each
system, both ends of its interval, and the kind of data. With ``compat`` the file ``dataset.txt`` marks
synthetic data.

If the ground truth lacks machines or sections, the official score and its interval are empty, unless
``compat`` or a partial score is requested; means over all machines then cover the known machines.

Source: the official evaluators of 2020-2025; 2026 is assumed to equal 2025 with other machines. Differences:
the file of 2020 is called ``result_<system>.csv`` there (and under ``compat``); the order of rounding
differs, numbers agree to 1e-12.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from asdray import store
from asdray.dcase.years import Year
from asdray.evaluation import metrics
from asdray.evaluation.official import Reference, SectionResult, SystemResult, by_machine
from asdray.evaluation.submission import csv_text

Row = list[str | float | None]
Mean = Callable[[Sequence[float | None]], float | None]

_COLUMNS = {
    "AUC (all)": "mix_auc",
    "AUC (source)": "smix_auc",
    "AUC (target)": "tmix_auc",
    "pAUC": "mix_pauc",
    "precision (source)": "s_precision",
    "precision (target)": "t_precision",
    "recall (source)": "s_recall",
    "recall (target)": "t_recall",
    "F1 score (source)": "s_f1",
    "F1 score (target)": "t_f1",
}
_MEAN_HEADER: Row = ["", "", "AUC", "pAUC", "precision", "recall", "F1 score"]
_DECISIONS = (("s_precision", "t_precision"), ("s_recall", "t_recall"), ("s_f1", "t_f1"))
_MEANS_2021 = (("s_auc", "t_auc"), ("s_pauc", "t_pauc"), *_DECISIONS)
# One pAUC covers both domains and enters both halves of every mean.
_MEANS_2022 = (("smix_auc", "tmix_auc"), ("mix_pauc", "mix_pauc"), *_DECISIONS)
_OVER_ALL = " over all machine types, sections, and domains"

CI95_FILE = "teams_official_score_ci95.csv"
MARK_FILE = "dataset.txt"
SYNTHETIC = "Dataset: synthetic. These numbers say that files and scores fit, nothing about real machines."


def write(results: Sequence[SystemResult], folder: Path, against: Reference, *, compat: bool) -> list[Path]:
    """Writes all tables of ``results``, each file atomically.

    Returns:
        The paths of the tables.
    """
    year = against.year
    tables: dict[str, list[Row]] = {}
    for result in results:
        old_name = compat and year.year == 2020
        name = f"result_{result.name}.csv" if old_name else f"{result.name}_result.csv"
        tables[name] = _result_rows(result, year, compat)
    if year.score_rule == "both_domains":
        tables |= _team_tables(results, year)
    if not compat:
        header: Row = ["System", "official score", "ci95", "low", "high", "draws", "seed", "dataset"]
        tables[CI95_FILE] = [header, *([*_ci95_row(result), against.dataset] for result in results)]
    texts = {name: csv_text(rows) for name, rows in tables.items()}
    if compat and against.dataset == "synthetic":
        texts[MARK_FILE] = f"{SYNTHETIC}\n"
    for name in {CI95_FILE, MARK_FILE} - set(texts):  # left over from an earlier run
        (folder / name).unlink(missing_ok=True)
    for name, text in texts.items():
        store.write_text(folder / name, text)
    return [folder / name for name in tables]


def _ci95_row(result: SystemResult) -> Row:
    found = result.interval
    ends = [found.low, found.high, found.draws, found.seed] if found else [None] * 4
    return [result.name, result.official, result.ci95, *ends]


def _pick(sections: Sequence[SectionResult], *names: str) -> list[float | None]:
    """The values of the first of ``names`` of all sections, then of the second, and so on."""
    return [s.values.get(name) for name in names for s in sections]


# ------------------------------------------------------------------------------------ one system's result


def _result_rows(result: SystemResult, year: Year, compat: bool) -> list[Row]:
    if year.score_rule == "machine_mean":
        return _rows_2020(result, year)
    if year.score_rule == "own_domain":
        return _rows_2021(result)
    return _rows_2022(result, year, compat)


def _rows_2020(result: SystemResult, year: Year) -> list[Row]:
    rows: list[Row] = []
    machines = by_machine(result.sections)
    for machine in sorted(machines, key=year.machines["eval"].index):
        sections = machines[machine]
        rows += [[machine], ["id", "AUC", "pAUC"]]
        rows += [[f"{s.section:02d}", *_pick([s], "s_auc", "s_pauc")] for s in sections]
        means = [metrics.arithmetic_mean(_pick(sections, name)) for name in ("s_auc", "s_pauc")]
        rows += [["Average", *means], []]
    return rows


def _rows_2021(result: SystemResult) -> list[Row]:
    rows: list[Row] = []
    for machine, sections in by_machine(result.sections).items():
        rows += [[machine], ["section", "domain", *_MEAN_HEADER[2:]]]
        for place, domain in enumerate(("source", "target")):
            names = [pair[place] for pair in _MEANS_2021]
            rows += [[f"{s.section:02d}", domain, *_pick([s], *names)] for s in sections]
        rows += [*_two_means(sections, _MEANS_2021), []]
    return [*rows, _MEAN_HEADER, *_two_means(result.sections, _MEANS_2021, _OVER_ALL), []]


def _rows_2022(result: SystemResult, year: Year, compat: bool) -> list[Row]:
    rows: list[Row] = []
    for machine, sections in by_machine(result.sections).items():
        rows += [[machine], ["section", *_COLUMNS]]
        rows += [[f"{s.section:02d}", *_pick([s], *_COLUMNS.values())] for s in sections]
        cut = len(sections) // 2 if compat and year.year == 2022 else len(sections)
        rows += [_MEAN_HEADER, *_four_means(sections, cut), []]
    rows += [_MEAN_HEADER, *_four_means(result.sections, len(result.sections), _OVER_ALL), []]
    return [*rows, ["official score", "", result.official], ["official score ci95", "", result.ci95], []]


def _mean_row(
    label: str, mean: Mean, sections: Sequence[SectionResult], pairs: Sequence[tuple[str, str]], cut: slice
) -> Row:
    return [label, "", *(mean(_pick(sections, *pair)[cut]) for pair in pairs)]


def _two_means(
    sections: Sequence[SectionResult], pairs: Sequence[tuple[str, str]], over: str = ""
) -> list[Row]:
    everything = slice(None)
    return [
        _mean_row(f"arithmetic mean{over}", metrics.arithmetic_mean, sections, pairs, everything),
        _mean_row(f"harmonic mean{over}", metrics.harmonic_mean, sections, pairs, everything),
    ]


def _four_means(sections: Sequence[SectionResult], cut: int, over: str = "") -> list[Row]:
    """The rows of four means; the first ``cut`` values of both domains count as source."""
    return [
        *_two_means(sections, _MEANS_2022, over),
        _mean_row(f"source harmonic mean{over}", metrics.harmonic_mean, sections, _MEANS_2022, slice(cut)),
        _mean_row(
            f"target harmonic mean{over}", metrics.harmonic_mean, sections, _MEANS_2022, slice(cut, None)
        ),
    ]


# ------------------------------------------------------------------------------------------- all systems


def _team_tables(results: Sequence[SystemResult], year: Year) -> dict[str, list[Row]]:
    """The tables over all systems of the evaluators since 2023, and ``official_score.csv`` of each system."""
    machines = year.evaluator_machines or year.machines["eval"]
    summary: Row = ["official score", "arithmetic mean", "harmonic mean (source)", "harmonic mean (target)"]

    def header(quantity: str) -> Row:
        return ["", *summary, *(f"{m} {quantity} ({d})" for d in ("source", "target") for m in machines)]

    official: list[Row] = [header("AUC")]
    paper: list[Row] = [["System", "metric", "h-mean", "a-mean", *machines]]
    tables = {"teams_official_score.csv": official, "teams_official_score_paper.csv": paper}
    for result in results:
        official.append(_official_row(result, machines))
        paper += _paper_rows(result, machines)
        tables[f"{result.name}/official_score.csv"] = [header("AUC"), official[-1]]
    numbers = sorted({s.section for result in results for s in result.sections})
    for number in numbers:
        for what, names in (("auc", ("smix_auc", "tmix_auc")), ("score", ("s_score", "t_score"))):
            rows = [header("AUC" if what == "auc" else "Score")]
            for result in results:
                here = {s.machine: [s] for s in result.sections if s.section == number}
                cells = [v for n in names for m in machines for v in _pick(here.get(m, []), n) or [None]]
                rows.append([result.name, *[None] * len(summary), *cells])
            tables[f"teams_section_{number:02d}_{what}.csv"] = rows
    return tables


def _machine_means(result: SystemResult, machines: Sequence[str], name: str) -> list[float | None]:
    own = by_machine(result.sections)
    return [metrics.arithmetic_mean(_pick(own.get(machine, []), name)) for machine in machines]


def _official_row(result: SystemResult, machines: Sequence[str]) -> Row:
    source, target = (_pick(result.sections, name) for name in ("smix_auc", "tmix_auc"))
    return [
        result.name,
        result.official,
        metrics.arithmetic_mean([*source, *target]),
        metrics.harmonic_mean(source),
        metrics.harmonic_mean(target),
        *_machine_means(result, machines, "smix_auc"),
        *_machine_means(result, machines, "tmix_auc"),
    ]


def _paper_rows(result: SystemResult, machines: Sequence[str]) -> list[Row]:
    rows: list[Row] = []
    for label, name in (
        ("AUC (source)", "smix_auc"),
        ("AUC (target)", "tmix_auc"),
        ("pAUC (source, target)", "mix_pauc"),
    ):
        values = _pick(result.sections, name)
        means = [metrics.harmonic_mean(values), metrics.arithmetic_mean(values)]
        rows.append([result.name, label, *means, *_machine_means(result, machines, name)])
    everything = metrics.arithmetic_mean(_pick(result.sections, "smix_auc", "tmix_auc", "mix_pauc"))
    return [*rows, [result.name, "TOTAL score", result.official, everything, *[None] * len(machines)]]
