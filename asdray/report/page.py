"""The page: sections and plotly's script in one HTML file that loads nothing from elsewhere."""

from __future__ import annotations

import functools
import json
from importlib import metadata, resources
from pathlib import Path
from typing import Any

from asdray import store
from asdray.printable import printable
from asdray.report import board, curves, embeddings, machines, origin, scores, times
from asdray.report.content import Content
from asdray.report.figures import Choice, Section


def write(content: Content) -> Path:
    """Writes ``report.html`` into the folder of a sweep; returns its path."""
    path = content.folder.report
    store.write_text(path, html(content))
    return path


def html(content: Content) -> str:
    """The page of a sweep."""
    found = [
        times.failures(content),
        machines.section(content),
        origin.selection(content),
        origin.search(content),
        curves.section(content),
        scores.section(content),
        embeddings.section(content),
        times.section(content),
        origin.sources(content),
    ]
    sections = [section for section in found if section is not None]
    return _template().render(
        title=content.folder.root.name,
        dataset=content.board.dataset,
        board=board.board(content),
        sections=sections,
        figures=_figures(sections),
        css=_text("page.css"),
        script=_text("page.js"),
        plotly=_plotly(),
    )


def _figures(sections: list[Section]) -> dict[str, str]:
    """``<section>-<number of the part>`` -> the figures as JSON that ends no script element."""
    return {
        f"{section.name}-{i}": _json(part.as_json())
        for section in sections
        for i, part in enumerate(section.parts)
        if isinstance(part, Choice)
    }


def _json(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


@functools.cache
def _template() -> Any:
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters["printable"] = printable
    environment.tests["choice"] = lambda part: isinstance(part, Choice)
    environment.tests["opening"] = lambda cell: isinstance(cell, tuple)
    return environment.from_string(_text("page.html"))


def _text(name: str) -> str:
    return resources.files("asdray.report").joinpath(name).read_text(encoding="utf-8")


@functools.cache
def _plotly() -> str:
    """Plotly's script, from the files of its package: an import would take half a second."""
    found = [file for file in metadata.files("plotly") or () if file.name == "plotly.min.js"]
    text = Path(str(found[0].locate())).read_text(encoding="utf-8")
    return text.replace("</script", "<\\/script")
