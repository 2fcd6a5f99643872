"""The commands around submissions: score files as the organisers do, write one's own, compare two systems."""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from asdray.cli.options import (
    DATA,
    RESULTS,
    Backend,
    Data,
    Last,
    Plugins,
    Results,
    TrialFolder,
    TrustPlugins,
    check_no_folder,
)
from asdray.cli.screen import print_line, print_lines
from asdray.home import expanded
from asdray.printable import printable
from asdray.terminal import console

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.table import Table

    from asdray.config import backend as backends
    from asdray.config.trial import Trial
    from asdray.dcase.years import Year
    from asdray.evaluation.official import Reference, SectionResult, SystemResult
    from asdray.stages.submit import Submitted

app = typer.Typer()


@app.command()
def official(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DIR", help="A system's folder, or a folder of <system>/, <team>/<system>/ or packages."
        ),
    ],
    dcase: Annotated[str, typer.Option(help="A year, such as dcase2023.")],
    ground_truth: Annotated[Path, typer.Option(help="The folder of the organisers' list or folders.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder of the tables; default <DIR>_result, beside DIR.")
    ] = None,
    compat: Annotated[
        bool, typer.Option("--compat", help="Repeat the known faults of the official evaluators.")
    ] = False,
    partial: Annotated[
        bool, typer.Option("--partial", help="Score the rest if the ground truth lacks machines.")
    ] = False,
) -> None:
    """Score submission files as the official evaluator of the year does.

    Example: asdray official teams --dcase dcase2023 --ground-truth data/original/dcase2023/ground_truth
    """
    from asdray.dcase.truth import load_ground_truth
    from asdray.evaluation import official as evaluation

    systems, empty, unfit = evaluation.find_systems(folder)
    truth = load_ground_truth(ground_truth, dcase)
    reference = evaluation.reference(truth, evaluation.kind_of_truth(truth))
    results, faults = evaluation.evaluate_all(systems, reference, compat=compat, partial=partial)
    target = out or folder.absolute().parent / f"{folder.absolute().name}_result"
    paths = evaluation.write(results, target, reference, compat=compat)
    _print_results(results, reference, compat, partial)
    print_lines(f"ignored: {printable(str(path))} holds no submission" for path in empty)
    print_lines(f"ignored in {r.name}: {', '.join(r.ignored)}" for r in results if r.ignored)
    print_line(f"{len(paths)} tables are in {target}")
    if faults := {**unfit, **faults}:
        _print_faults(faults, len(systems) + len(unfit), target)
        sys.exit(1)


def _print_faults(faults: dict[str, str], systems: int, target: Path) -> None:
    """Prints to standard error the fault of every system that could not be scored."""
    lines = [f"{len(faults)} of {systems} systems could not be scored:"]
    for name, fault in faults.items():
        old = target / f"{name}_result.csv"
        lines += [fault, *([f"  {old} is of an earlier run"] if os.path.exists(old) else [])]
    print_lines(lines, sys.stderr)


_TITLES = {
    "s_auc": "AUC (source)", "t_auc": "AUC (target)", "s_pauc": "pAUC (source)", "t_pauc": "pAUC (target)",
    "smix_auc": "AUC (source)", "tmix_auc": "AUC (target)", "mix_pauc": "pAUC",
    "s_f1": "F1 (source)", "t_f1": "F1 (target)",
    "s_false_alarms": "FA (source)", "t_false_alarms": "FA (target)",
}  # fmt: skip

_FALSE_ALARMS = ("s_false_alarms", "t_false_alarms")
"""Columns with the share of normal clips that are decided to be anomalous."""


def _print_results(
    results: Sequence[SystemResult], reference: Reference, compat: bool, partial: bool
) -> None:
    """Prints a row per system, for a single system a row per machine before, and notes on the scores."""
    from asdray.evaluation.interval import on_small_cells
    from asdray.evaluation.official import SYNTHETIC

    year, lacking = reference.year, reference.missing
    partial_score = bool(lacking) and (partial or compat)
    if len(results) == 1:
        console().print(_machine_table(results[0], year))
    console().print(_system_table(results, reference, compat, partial_score))
    if compat and year.score_rule == "both_domains":
        print_line("ci95 as the official evaluator computes it: N - 1 times too small for N clips")
    elif not compat:
        print_line(
            "± and interval: 95 %, over the choice of test clips within machine, section, domain, label"
        )
        print_lines(on_small_cells(reference.fewest_clips))
    if year.score_provenance:
        print_line(year.score_provenance)
    if year.has_decisions:
        print_line("FA: false alarms, the share of normal clips that are decided to be anomalous")
    if reference.dataset == "synthetic":
        print_line(SYNTHETIC)
    elif unlike := reference.unlike:
        more = f" and {len(unlike) - 3} more" if len(unlike) > 3 else ""
        print_line(
            f"not as many clips as in the organisers' ground truth: {', '.join(unlike[:3])}{more}; if the "
            "data are made up, a file synthetic.json beside the ground truth has the tables say so"
        )
    if lacking:
        print_line(f"the ground truth of {year.name} lacks {', '.join(lacking)}")
        if partial_score:
            print_line("partial: the score is over what there is, and not the official score of the year")
        else:
            print_line("so there is no official score; --partial gives one over what there is")


def _table(title: str, first: str, columns: Sequence[str], year: Year) -> Table:
    from rich.table import Table

    table = Table(title=title)
    table.add_column(first, overflow="fold")
    for name in columns:
        shown = _TITLES.get(name, name)
        table.add_column(shown.removesuffix(" (source)") if year.year == 2020 else shown, justify="right")
    return table


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.2f}"


def _means(sections: Sequence[SectionResult], year: Year) -> dict[str, str]:
    """Term of the official score, F1 score or false alarms -> the mean over sections in percent."""
    from asdray.evaluation.metrics import OFFICIAL_TERMS, arithmetic_mean, section_mean

    rule, shown = year.score_rule, {}
    for name in [*OFFICIAL_TERMS[rule], *(("s_f1", "t_f1", *_FALSE_ALARMS) if year.has_decisions else ())]:
        values = [section.values.get(name) for section in sections]
        # A harmonic mean is for scores of which more is better.
        mean = arithmetic_mean(values) if name in _FALSE_ALARMS else section_mean(rule, values)
        shown[name] = _percent(mean)
    return shown


def _machine_table(result: SystemResult, year: Year) -> Table:
    from asdray.evaluation import metrics
    from asdray.evaluation.official import by_machine

    columns = ["official", *_means(result.sections, year)]
    table = _table(f"{result.name}, {year.name} (percent)", "machine", columns, year)
    for machine, sections in by_machine(result.sections).items():
        own = metrics.official(year.score_rule, [s.values for s in sections])
        table.add_row(machine, _percent(own), *_means(sections, year).values())
    return table


def _system_table(
    results: Sequence[SystemResult], reference: Reference, compat: bool, partial: bool
) -> Table:
    year = reference.year
    ends = [] if compat else ["interval"]
    score = "partial score" if partial else "official score"
    title = f"{year.name}, evaluation set, {reference.dataset} data (percent)"
    table = _table(title, "system", [score, "±", *ends, *_means(results[0].sections, year)], year)
    ranked = sorted(results, key=lambda r: -1 if r.official is None else r.official, reverse=True)
    for r in ranked:
        half = f"{100 * r.ci95:.2g}" if compat and r.ci95 is not None else _percent(r.ci95)
        both = f"{_percent(r.interval.low)} – {_percent(r.interval.high)}" if r.interval else _percent(None)
        means = _means(r.sections, year).values()
        table.add_row(r.name, _percent(r.official), half, *[both] * len(ends), *means)
    return table


@app.command()
def submit(
    trial: TrialFolder,
    backend: Backend,
    out: Annotated[
        Path, typer.Option(help="Folder of the submission: empty, or with files of the same trial.")
    ],
    ckpt: Last = "last",
    quantile: Annotated[
        float, typer.Option(help="Quantile, in (0, 1), of the gamma fit to training scores.")
    ] = 0.9,
    subset: Annotated[Literal["dev", "eval"], typer.Option(help="The subset of the test clips.")] = "eval",
    plugin: Plugins = None,
    trust_plugins: TrustPlugins = False,
    data: Data = DATA,
    results: Results = RESULTS,
) -> None:
    """Write the files of a challenge submission from a trial's scores.

    Example: asdray submit results/trials/dcase2023/dis_baseline-5ce49aea/seed0 --backend knn --out ours
    """
    from asdray.addresses import find_trial
    from asdray.config.base import load_plugins
    from asdray.config.sweep import check_checkpoint
    from asdray.evaluation.submission import RECORD
    from asdray.stages.steps import TrialFiles
    from asdray.stages.submit import submit as write
    from asdray.stages.trial_json import known_plugins, read_trial
    from asdray.store import Places

    trial = find_trial(trial, results)
    chosen, _, results = read_trial(trial, "all" if trust_plugins else "none", plugin or ())
    load_plugins(plugin or [])
    files = TrialFiles.load(chosen, Places.of(data, results), ())
    with nullcontext() if trust_plugins else known_plugins(trial):
        ckpt, one = check_checkpoint(ckpt), _one_backend(chosen, backend)
    made = write(files, ckpt, one, expanded(out).absolute(), subset=subset, quantile=quantile)
    print_lines(_threshold_lines(made, quantile))
    print_line(f"{len(made.files)} files of {made.clips} {subset} clips, and {RECORD}, are in {out}")
    print_line(
        "checked: every clip of the manifest is there once, with a number that `asdray official` reads"
    )
    if made.dataset == "synthetic":
        print_line("Dataset: synthetic. These scores are of no recording that the challenge knows.")
    if made.absent:
        print_line(f"no complete submission: the trial has no {', '.join(made.absent)}")


def _threshold_lines(made: Submitted, quantile: float) -> Iterator[str]:
    """The thresholds of every machine with the expected false alarms, and the false alarms on dev clips."""
    for machine, one in made.decided.items():
        for domain, found in one.limits.items():
            instead = f" (empirical quantile, no gamma fit: {found.why})" if found.why else ""
            of = f" of {domain} clips" if domain else ""
            yield f"{machine:<20} threshold{of} {found.value:.6g}{instead}"
        if one.normals.held_out:
            rates = ", ".join(f"{domain} {_share(rate)}" for domain, rate in one.expected.items())
            yield f"{'':<20} expected false alarms: {rates} ({len(one.normals.scores)} held-out clips)"
    if made.decided and not all(one.normals.held_out for one in made.decided.values()):
        yield (
            f"expected false alarms: {_share(1 - quantile)} of clips that the network knows, more of new "
            "ones (train.hold_out, docs/submissions.md)"
        )
    if made.on_dev:
        values = (
            f"{domain} {_share(rates.false_alarms)} (F1 {_share(rates.f1)})"
            for domain, rates in made.on_dev.items()
        )
        yield f"on dev clips, mean over machines: false alarms {', '.join(values)}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.0f} %"


def _one_backend(trial: Trial, text: str) -> backends.Backend:
    from asdray.config.files import parse_yaml
    from asdray.config.sweep import check_backends

    chosen = check_backends([parse_yaml(text, "--backend")], "--backend")
    if len(chosen) != 1:
        raise ValueError(f"--backend {text} names {len(chosen)} backends: a submission has the scores of one")
    if chosen[0] not in trial.backends(chosen):
        applying = ", ".join(b.name for b in trial.backends(chosen)) or "none"
        raise ValueError(
            f"--backend {chosen[0].name} does not apply to {trial.system_name} (of its own: {applying})"
        )
    return chosen[0]


@app.command()
def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="A system: name, options, folder; see below.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The other system, named in the same way.")],
    backend: Annotated[
        str | None, typer.Option(help="The backend of both: knn, or '{name: knn, n_neighbors: 4}'.")
    ] = None,
    backend_b: Annotated[
        str | None, typer.Option(help="The backend of B, if it differs from the backend of A.")
    ] = None,
    ckpt: Last = "last",
    out: Annotated[
        Path | None, typer.Option(help="A CSV file for the table, with scores as fractions.")
    ] = None,
    trust_plugins: TrustPlugins = False,
    data: Data = DATA,
    results: Results = RESULTS,
) -> None:
    """Compare two systems: the difference of their official scores, its interval and p-value.

    A system is the name of its folder, a recipe with the options that tell it from others, or a folder of
    one year or trial; `/knn` behind it names the backend.

    Example: asdray compare 'dis_baseline lr=3e-4/knn' ae_baseline
    """
    from asdray.evaluation.compare import frame, rich_table
    from asdray.evaluation.tables import write_csv
    from asdray.stages.compare import compare as compare_systems
    from asdray.store import Places

    check_no_folder(out)
    places = Places.of(data, results)
    comparison = compare_systems(
        (a, b),
        places.results,
        places.data,
        backends=(backend, backend_b),
        ckpt=ckpt,
        code="all" if trust_plugins else "none",
    )
    console().print(rich_table(comparison))
    print_line(
        "interval: 95 %, over the choice of test clips and, with several seeds, of seeds; p agrees with it"
    )
    print_lines(comparison.notes)
    if out:
        write_csv(frame(comparison), expanded(out).absolute(), comparison.dataset)
        print_line(f"the table is in {out}")
