"""The command ``plot``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from asdray.cli.options import RESULTS, Results, TrustPlugins, check_no_folder
from asdray.cli.screen import print_line

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

app = typer.Typer()

Kind = Annotated[
    str,
    typer.Argument(help="Of everything: leaderboard, machines or curves. Of a machine: scores, roc or umap."),
]
Where = Annotated[
    Path,
    typer.Argument(
        help="A sweep's name, a trial's name, or the folder of a sweep, of a trial or of all results."
    ),
]
Only = Annotated[
    list[str] | None,
    typer.Option(help="Conditions on the results, such as 'machine=fan,valve backend=knn seed=0'."),
]
Out = Annotated[
    Path | None,
    typer.Option(help="A file (.png, .pdf, .svg), or a folder; default the folder plots beside the results."),
]
Format = Annotated[Literal["png", "pdf", "svg"], typer.Option(help="The kind of files in a folder.")]

_OTHER_FORMATS = ("bmp", "eps", "gif", "jpeg", "jpg", "ps", "tif", "tiff", "webp")
"""Suffixes of pictures that are not drawn, and no ends of a folder's name."""


@app.command()
def plot(
    kind: Kind,
    where: Where,
    only: Only = None,
    out: Out = None,
    format: Format = "png",
    trust_plugins: TrustPlugins = False,
    results: Results = RESULTS,
) -> None:
    """Draw results in the style of a paper: of a sweep, or of a machine in the best system that is left.

    Example: asdray plot roc dis_grid --only 'machine=fan backend=knn' --out fan.pdf
    """
    from asdray.addresses import find_trial
    from asdray.drawing import FORMATS, save
    from asdray.report.plots import check_kind
    from asdray.results import FOLDER, folder_of, load_results

    check_kind(kind)
    is_file = out is not None and out.suffix[1:].lower() in FORMATS
    check_no_folder(out if is_file else None)
    if out is not None and out.suffix[1:].lower() in _OTHER_FORMATS:
        raise ValueError(f"--out {out}: pictures are files of the kinds {', '.join(FORMATS)}")
    if {" ", "="} & {*str(where)}:
        where = find_trial(where, results)
    frame = load_results(folder_of(where, results), trust_plugins=trust_plugins)
    frame = _chosen(frame, only or [])
    pictures = dict(_pictures(frame, kind, f"{kind}.{format}"))
    if is_file and len(pictures) > 1:
        raise ValueError(
            f"--out {out} is one file, and there are {len(pictures)} pictures: name a folder, or choose one "
            "machine, such as --only machine=fan"
        )
    folder = out or Path(frame.attrs[FOLDER]) / "plots"
    for name, figure in pictures.items():
        path = folder if is_file else folder / name
        save(figure, path, kind)
        print_line(str(path))


def _pictures(frame: pd.DataFrame, kind: str, file: str) -> Iterator[tuple[Path, Figure]]:
    """Each picture with its path; those of a machine in a folder of the machine."""
    from asdray.report.frame import content_of
    from asdray.report.pictures import OF_SWEEP
    from asdray.report.plots import machine_panels, of_machine, of_sweep

    content = content_of(frame)
    if kind in OF_SWEEP:
        yield Path(file), of_sweep(content, kind)
    else:
        for panel in machine_panels(content, kind):
            yield Path(panel.trial.dcase, panel.machine, file), of_machine(content, kind, panel)


def _chosen(frame: pd.DataFrame, texts: Sequence[str]) -> pd.DataFrame:
    """The rows that fulfil all conditions, each by any of its values.

    Args:
        texts: as in ``asdray sweep --only``: ``machine=fan,valve seed=0``; names are columns of the table.

    Raises:
        ValueError: a condition without ``=``, an unknown column, a value of no row.
    """
    import pandas as pd

    from asdray.config.system_names import parts_of
    from asdray.dcase.years import nearest
    from asdray.sweep.plan import conditions_of

    for condition in conditions_of(texts) if texts else ():
        name, _, values = condition.partition("=")
        if not values:
            raise ValueError(f"--only: {condition!r} must have the form name=value or name=value,value")
        chosen = pd.Series(False, frame.index)
        for value in parts_of(values, ","):
            fitting, there = _fitting(frame, name, value)
            if not fitting.any():
                more = ", ..." if len(there) > 12 else ""
                raise ValueError(
                    f"--only: no result has {name}={value}{nearest(value, there)} "
                    f"(there are: {', '.join(there[:12])}{more})"
                )
            chosen |= fitting
        frame = frame[chosen]
    return frame


def _fitting(frame: pd.DataFrame, name: str, value: str) -> tuple[pd.Series[bool], list[str]]:
    """True for the rows that have the value, and the values that there are.

    Args:
        name: a column, or the short name of an option; a system may be its recipe, or the end of its name.

    Raises:
        ValueError: an unknown column.
    """
    import pandas as pd

    from asdray.addresses import has_option, is_short_for, nodes_of
    from asdray.dcase.years import nearest
    from asdray.results import FIRST, THEN, from_json

    if name in frame.columns:
        texts = frame[name].map(_text)
        fitting = texts == _text(value)
        if name == "system":
            fitting |= (frame["recipe"] == value) | (texts.str.rpartition("-")[2] == value)
        if fitting.any() or name in (*FIRST, *THEN, "part"):
            return fitting, list(dict.fromkeys(texts))
    fitting = pd.Series(False, frame.index)
    there: dict[str, None] = {}
    for column in (str(c) for c in frame.columns if c not in (*FIRST, *THEN, "part")):
        given = frame[column].dropna().unique()
        nodes = {one: list(nodes_of({column: from_json(one)})) for one in given}
        there |= {_text(v): None for of in nodes.values() for path, v in of if is_short_for(name, path)}
        fitting |= frame[column].map({one: has_option(of, name, value) for one, of in nodes.items()}).eq(True)
    if not there:
        known = ", ".join(map(str, frame.columns))
        raise ValueError(f"--only: unknown column {name!r}{nearest(name, frame.columns)} (known: {known})")
    return fitting, list(there)


def _text(value: object) -> str:
    """A value as a text that is the same for all ways to write a number: ``1e-3`` and ``0.001``."""
    if isinstance(value, bool):
        return str(value).lower()
    try:
        return f"{float(value):.12g}"  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return str(value)
