"""``--only``: the choice of some of a sweep's trials."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from asdray.config.files import parse_yaml
from asdray.dcase.years import nearest
from asdray.sweep.jobs import Job

TRIAL_KEYS: dict[str, Callable[[Job], list[str]]] = {
    "dcase": lambda job: [job.trial.dcase],
    "recipe": lambda job: [job.trial.recipe],
    "system": lambda job: [job.trial.system_name, job.trial.system.id],
    "seed": lambda job: [str(job.trial.seed)],
}
"""Key -> names of a trial; every swept option is a key as well."""


def chooser(texts: Sequence[str], jobs: Sequence[Job]) -> Callable[[Job], bool]:
    """A predicate, true for the trials of ``--only``.

    Args:
        texts: conditions, also several in a text: ``dcase=dcase2023 seed=0,1``. A trial must fulfil all
            conditions, each by any of the values. The ``name`` of an object stands for the object.
        jobs: the trials to choose from.

    Raises:
        ValueError: a condition without ``=``, an unknown key, a value of no trial, conditions fulfilled
            together by no trial.
    """
    conditions = [one for text in texts for one in re.split(r"\s+(?=[\w.]+=)", text.strip()) if one]
    if not conditions:
        raise ValueError("--only names no condition, such as dcase=dcase2023 or seed=0")
    predicates = [_predicate(condition, jobs) for condition in conditions]

    def chosen(job: Job) -> bool:
        return all(fulfils(job) for fulfils in predicates)

    if not any(map(chosen, jobs)):
        raise ValueError(f"--only: no trial has all of {' '.join(conditions)}")
    return chosen


def _predicate(condition: str, jobs: Sequence[Job]) -> Callable[[Job], bool]:
    key, _, text = condition.partition("=")
    if not text:
        raise ValueError(f"--only: {condition!r} must have the form name=value or name=value,value")
    known = list(dict.fromkeys([*TRIAL_KEYS, *(path for job in jobs for path in job.swept)]))
    if key not in known:
        raise ValueError(f"--only: unknown filter {key!r}{nearest(key, known)} (known: {', '.join(known)})")
    # Not YAML for a trial's names: the system 1234e567 is no number.
    wanted = text.split(",") if key in TRIAL_KEYS else parse_yaml(f"[{text}]", f"--only {condition}")
    for value in wanted:
        if not any(value in _values(key, job) for job in jobs):
            existing = list(dict.fromkeys(_text(_values(key, job)[0]) for job in jobs if _values(key, job)))
            more = ", ..." if len(existing) > 12 else ""
            raise ValueError(
                f"--only: no trial has {key}={_text(value)}{nearest(_text(value), existing)} "
                f"(there are: {', '.join(existing[:12])}{more})"
            )
    return lambda job: any(value in _values(key, job) for value in wanted)


def _values(key: str, job: Job) -> list[Any]:
    """The values of a trial under ``key``; none if the recipe does not sweep the option."""
    if key in TRIAL_KEYS:
        return TRIAL_KEYS[key](job)
    values = [job.swept[key]] if key in job.swept else []
    return values + [value["name"] for value in values if isinstance(value, dict) and "name" in value]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
