"""``--only``: some of a sweep's trials, by what they are."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from asdray.config.files import parse_yaml
from asdray.dcase.years import nearest
from asdray.sweep.jobs import Job

_FIXED: dict[str, Callable[[Job], tuple]] = {
    "dcase": lambda job: (job.trial.dcase,),
    "recipe": lambda job: (job.trial.recipe,),
    "system": lambda job: (job.trial.system_name, job.trial.system.id),
    "seed": lambda job: (job.trial.seed,),
}
"""Filter -> what a trial may be called by it, the usual name first."""


def chooser(text: str, jobs: Sequence[Job]) -> Callable[[Job], bool]:
    """What ``--only`` asks for, as a question to a job.

    Args:
        text: ``dcase=dcase2023 seed=0,1 train.learning_rate=1e-3``: all conditions must hold, of the
            values of each any one. Filters: dcase, recipe, system (name or id), seed, and every option
            that is swept; of a swept object its ``name`` will do.
        jobs: what there is to choose from.

    Raises:
        ValueError: a condition without ``=``, an unknown filter, a value that no trial has, conditions
            that no trial fulfils together.
    """
    conditions = []
    for part in _split(text, r"\s"):
        name, equals, values = part.partition("=")
        if not equals or not values:
            raise ValueError(f"--only: {part!r} must have the form name=value or name=value,value")
        conditions.append((name, [_condition(name, value, jobs) for value in _split(values, ",")]))
    if not conditions:
        raise ValueError("--only names no condition, such as dcase=dcase2023 or seed=0")

    def chosen(job: Job) -> bool:
        return all(any(holds(job) for holds in values) for _, values in conditions)

    if not any(map(chosen, jobs)):
        raise ValueError(f"--only: no trial has all of {text.strip()}")
    return chosen


def _condition(name: str, text: str, jobs: Sequence[Job]) -> Callable[[Job], bool]:
    """Whether a job has the value ``text`` of the filter ``name``."""
    paths = list(dict.fromkeys(path for job in jobs for path in job.swept))
    if name not in _FIXED and name not in paths:
        known = [*_FIXED, *paths]
        raise ValueError(f"--only: unknown filter {name!r}{nearest(name, known)} (known: {', '.join(known)})")
    wanted = parse_yaml(text, f"--only {name}={text}")
    names = _FIXED.get(name, lambda job: _names(job.swept[name]) if name in job.swept else ())

    def holds(job: Job) -> bool:
        return any(_same(wanted, text, one) for one in names(job))

    if not any(map(holds, jobs)):
        there = list(dict.fromkeys(_shown(names(job)[0]) for job in jobs if names(job)))
        more = ", ..." if len(there) > 12 else ""
        raise ValueError(
            f"--only: no trial has {name}={text}{nearest(text, there)} (there are: "
            f"{', '.join(there[:12])}{more})"
        )
    return holds


def _names(value: Any) -> tuple:
    """A swept value, and for an object its name."""
    return (value, value["name"]) if isinstance(value, dict) and "name" in value else (value,)


def _same(wanted: Any, text: str, value: Any) -> bool:
    # A system's id such as 1234e567 is text, whatever YAML takes it for; and true is not 1.
    return text == value or (wanted == value and isinstance(wanted, bool) == isinstance(value, bool))


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _split(text: str, separator: str) -> list[str]:
    """The parts of ``text`` between separators that stand in no bracket."""
    parts, depth = [""], 0
    for char in text:
        depth += (char in "[{") - (char in "]}")
        if depth == 0 and re.match(separator, char):
            parts.append("")
        else:
            parts[-1] += char
    return [part for part in parts if part]
