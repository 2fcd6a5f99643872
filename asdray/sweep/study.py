"""The studies of a search, one per recipe: which systems were suggested, and what came of them.

They lie in ``study.journal`` in the sweep's folder, a file of Optuna's that ``optuna-dashboard`` opens. A
search that goes on reads from it what was suggested and told; what is done of a trial say the markers alone.
"""

from __future__ import annotations

import inspect
import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asdray import store
from asdray.config.base import digest
from asdray.config.expand import Base, bases, trials_of
from asdray.config.search import Sampler, draw
from asdray.config.sweep import Sweep
from asdray.config.trial import Trial
from asdray.dcase.manifest import Dataset
from asdray.dcase.years import nearest
from asdray.store import Places
from asdray.sweep.objective import Sample, State, same_system, study_names

if TYPE_CHECKING:
    import optuna


def study_file(places: Places, name: str) -> Path:
    """Where the studies of a sweep lie."""
    return store.sweep_dir(places.results, name) / "study.journal"


class Studies:
    """All studies of a sweep and their samples, in the order of their numbers.

    Attributes:
        bases: the recipes of the sweep.

    Args:
        datasets: of the sweep's years.
        write: whether studies are made, under the sweep's lease; without, nothing is written.

    Raises:
        ValueError: a sampler that cannot ask for the space, a study file that Optuna cannot read.
    """

    def __init__(
        self, sweep: Sweep, places: Places, datasets: Mapping[str, Dataset], where: str, *, write: bool
    ) -> None:
        self.sweep = sweep
        self.where = where
        self.bases = bases(sweep, where)
        self._studies: dict[str, optuna.Study] = {}
        self.samples: list[Sample] = []
        if sweep.search.algorithm == "optuna":
            try:
                for base in self.bases:
                    check_sampler(sweep.search.sampler or Sampler(), base.axes)
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from None
        path = study_file(places, sweep.name)
        if not write and not path.exists():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        if write and path.exists():
            _drop_torn_line(path)
        optuna = _optuna()
        direction = "maximize" if self._maximize else "minimize"
        load = optuna.load_study  # `create_study` would write a line, also where there is one
        try:
            storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path)))
            known = optuna.study.get_all_study_names(storage)
            for base in self.bases:
                name, earlier, start = study_names(sweep, base, datasets)
                name = earlier if name not in known and earlier in known else name
                own = load(study_name=name, storage=storage) if name in known else None
                kin = [
                    load(study_name=n, storage=storage) for n in known if n.startswith(start) and n != name
                ]
                if write:
                    own = own or optuna.create_study(storage=storage, study_name=name, direction=direction)
                elif kin:
                    own = _in_memory(own, direction)
                if own is not None:
                    self._studies[base.recipe] = own
                    for other in kin:
                        _take_over(own, other)
        except (ValueError, KeyError) as error:
            raise ValueError(f"{path} is damaged ({error}): move it away and run the command again") from None
        for base in self.bases:
            if base.recipe in self._studies:
                self._read(base, write)

    @property
    def _maximize(self) -> bool:
        assert self.sweep.search.objective is not None
        return self.sweep.search.objective.maximize

    def _read(self, base: Base, write: bool) -> None:
        study = self._studies[base.recipe]
        outcomes = study.user_attrs
        for trial in study.get_trials(deepcopy=False):
            swept = trial.user_attrs.get("swept")
            if swept is None:
                # Killed while it was suggested. It does not count, and another will be.
                if write and not trial.state.is_finished():
                    study.tell(trial.number, state=_optuna().trial.TrialState.FAIL)
                continue
            sample = Sample(base.recipe, trial.number, swept, None)
            # Optuna's own state is that of the first try alone.
            if trial.state.is_finished() and (outcome := outcomes[f"sample {trial.number}"]):
                sample.state, sample.value = outcome["state"], outcome["value"]
                sample.backend, sample.reason = outcome["backend"], outcome["reason"]
            self._make_system(base, sample)
            self.samples.append(sample)

    def _make_system(self, base: Base, sample: Sample) -> str | None:
        """Gives the sample its system; returns why its values make none that can be run."""
        try:
            sample.system = base.varied(sample.swept)
            self.trials(sample)
        except ValueError as error:
            sample.system = None
            return str(error)
        return None

    @property
    def recipes(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(base.recipe for base in self.bases)

    @property
    def threads(self) -> int:
        """The most that a recipe trains with, before any axis."""
        return max(base.system.train.threads for base in self.bases)

    # ------------------------------------------------------------------------------------------- asking

    def left(self, base: Base) -> int:
        """How many samples are still to be suggested of a recipe; one is all there is without an axis."""
        wanted = self.sweep.search.num_samples or 0
        return (wanted if base.axes else 1) - sum(s.recipe == base.recipe for s in self.samples)

    @property
    def to_ask(self) -> int:
        """How many samples are still to be suggested."""
        return sum(max(0, self.left(base)) for base in self.bases)

    def ask(self) -> Sample:
        """The next sample, of the recipe that lacks most. Failed at once where its values make no system.

        A system that was suggested before takes over what came of it, as soon as that is known.
        """
        base = max(self.bases, key=self.left)
        study = self._studies[base.recipe]
        number = len(study.get_trials(deepcopy=False))
        study.sampler = self._sampler(base.recipe, number)
        with warnings.catch_warnings(action="ignore"):  # of samplers, on spaces not seen as a whole
            trial = study.ask()
            assert trial.number == number, "the sweep's lease is ours"
            swept = draw(base.axes, trial)
        trial.set_user_attr("swept", swept)
        sample = Sample(base.recipe, number, swept, None)
        self.samples.append(sample)
        if reason := self._make_system(base, sample):
            self.tell(sample, "failed", reason=reason)
            return sample
        for other in self.samples:
            if other is not sample and same_system(other, sample) and other.state != "open":
                self.tell(sample, other.state, other.value, other.backend, other.reason)
                break
        return sample

    def _sampler(self, recipe: str, number: int) -> optuna.samplers.BaseSampler:
        """The sampler of one suggestion: a resumed search draws what an undisturbed one would."""
        search = self.sweep.search
        if search.algorithm == "random":
            return make_sampler(Sampler(name="Random"), int(digest([search.seed, recipe, number])[:8], 16))
        options = search.sampler or Sampler()
        # A quasi-random sequence counts the numbers itself, and must stay the same one.
        part = None if sampler_name(options) == "QMC" else number
        return make_sampler(options, int(digest([search.seed, recipe, part])[:8], 16))

    def tell(
        self,
        sample: Sample,
        state: State,
        value: float | None = None,
        backend: str | None = None,
        reason: str | None = None,
    ) -> None:
        """Writes down what came of a sample, and of others that are the same system."""
        assert state != "open"
        optuna = _optuna()
        states = optuna.trial.TrialState
        for one in self.samples:
            if one is sample or (one.state == "open" and same_system(one, sample)):
                one.state, one.value, one.backend, one.reason = state, value, backend, reason
                study = self._studies[one.recipe]
                # Some samplers end a study that is told, which Optuna allows in a loop of its own alone.
                study.sampler = make_sampler(Sampler(name="Random"), 0)
                outcome = {"state": state, "value": value, "backend": backend, "reason": reason}
                study.set_user_attr(f"sample {one.number}", outcome)
                asked = study.get_trials(deepcopy=False)[one.number]
                if asked.state.is_finished():
                    # Tried again. Optuna keeps the failure; to samplers what came of it is another trial.
                    if state == "done":
                        study.add_trial(
                            optuna.trial.create_trial(
                                params=asked.params,
                                distributions=asked.distributions,
                                value=value,
                                user_attrs={"again": one.number},
                            )
                        )
                elif state == "done":
                    study.tell(one.number, value)
                else:
                    study.tell(one.number, state=states.PRUNED if state == "stopped" else states.FAIL)

    def reopen(self, sample: Sample) -> None:
        """A failed sample is to be tried again, and others that are the same system."""
        assert sample.state == "failed", sample.name
        assert sample.system is not None, sample.name
        for one in self.samples:
            if one is sample or (one.state == "failed" and same_system(one, sample)):
                self._studies[one.recipe].set_user_attr(f"sample {one.number}", None)
                one.state, one.reason = "open", None

    # ------------------------------------------------------------------------------------------ choosing

    @property
    def over(self) -> bool:
        """Whether every sample was suggested and told."""
        return not self.to_ask and all(s.state != "open" for s in self.samples)

    def ranked(self, recipe: str | None = None) -> list[Sample]:
        """The finished samples of a recipe (all), the best first, each system once."""
        found = [s for s in self.samples if s.state == "done" and recipe in (None, s.recipe)]
        found.sort(key=lambda s: -(s.value or 0.0) if self._maximize else (s.value or 0.0))
        return [s for i, s in enumerate(found) if not any(same_system(s, better) for better in found[:i])]

    def chosen(self) -> list[Sample]:
        """The systems to confirm, once the search is over: of each recipe the best ``top_k``."""
        confirm = self.sweep.confirm
        if confirm is None or not self.over:
            return []
        return [s for base in self.bases for s in self.ranked(base.recipe)[: confirm.top_k]]

    def systems(self) -> list[Sample]:
        """The samples that make a system, each system once."""
        found = [s for s in self.samples if s.system is not None]
        return [s for i, s in enumerate(found) if not any(same_system(s, first) for first in found[:i])]

    def trials(self, sample: Sample) -> list[Trial]:
        """The trials of a sampled system: all years and seeds of the search."""
        assert sample.system is not None, sample.name
        sweep = self.sweep
        return trials_of(sweep, sample.recipe, sample.system, sweep.dcase, sweep.seeds, self.where)

    def confirming(self, sample: Sample) -> list[Trial]:
        """The trials that confirm a chosen system."""
        sweep = self.sweep
        assert sample.system is not None
        assert sweep.confirm is not None
        seeds = sweep.confirm.seeds
        return trials_of(sweep, sample.recipe, sample.system, sweep.board_years, seeds, self.where)


def _in_memory(own: optuna.Study | None, direction: str) -> optuna.Study:
    """A copy that can be written without a trace."""
    copy = _optuna().create_study(direction=direction)
    if own is not None:
        copy.add_trials(own.get_trials(deepcopy=False))
        for key, value in own.user_attrs.items():
            copy.set_user_attr(key, value)
    return copy


def _take_over(own: optuna.Study, other: optuna.Study) -> None:
    """Gives a study what it lacks of the same search by other backends: trained already, judged anew.

    What was stopped or failed stays so. What a sampler kept there for itself is left: QMC starts over.
    """
    optuna = _optuna()
    states = {"stopped": optuna.trial.TrialState.PRUNED, "failed": optuna.trial.TrialState.FAIL}
    met = [asked.user_attrs.get("swept") for asked in own.get_trials(deepcopy=False)]
    outcomes = other.user_attrs
    for asked in other.get_trials(deepcopy=False):
        swept = asked.user_attrs.get("swept")
        if swept is None or swept in met:
            continue
        outcome = outcomes.get(f"sample {asked.number}") or {"state": "open"}
        if outcome["state"] in states:
            own.set_user_attr(f"sample {len(met)}", outcome)
        trial = optuna.trial.create_trial(
            state=states.get(outcome["state"], optuna.trial.TrialState.RUNNING),
            params=asked.params,
            distributions=asked.distributions,
            user_attrs={"swept": swept},
        )
        own.add_trial(trial)
        met.append(swept)


def sampler_name(sampler: Sampler) -> str:
    """A sampler's name as Optuna spells it: ``CmaEs`` of ``cma-es``, ``NSGAII`` of ``nsga2``.

    Raises:
        ValueError: an unknown name.
    """
    names = [n.removesuffix("Sampler") for n in dir(_optuna().samplers) if n.endswith("Sampler")]
    known = {n.lower(): n for n in names if n not in ("", "Base", "BaseGA", "Grid", "PartialFixed")}
    name = re.sub("[-_ ]", "", sampler.name.lower()).removesuffix("sampler")
    name = {"nsga2": "nsgaii", "nsga3": "nsgaiii"}.get(name, name)
    if name not in known:
        close = nearest(name.upper(), [n.upper() for n in known])
        raise ValueError(f"search.sampler is {sampler.name!r}{close} (known: {', '.join(known.values())})")
    return known[name]


def make_sampler(sampler: Sampler, seed: int) -> optuna.samplers.BaseSampler:
    """One of Optuna's samplers.

    Raises:
        ValueError: an unknown name or option, or a package that it needs and that is not there.
    """
    name = sampler_name(sampler)
    factory = getattr(_optuna().samplers, f"{name}Sampler")
    options = inspect.signature(factory).parameters
    for option in sampler.options:
        if option not in options:
            raise ValueError(
                f"search.sampler.options: {name} has no {option!r}{nearest(option, list(options))} "
                f"(known: {', '.join(options)})"
            )
    given = {"seed": seed} if "seed" in options else {}
    try:
        with warnings.catch_warnings(action="ignore"):  # of samplers that Optuna calls experimental
            made = factory(**{**given, **sampler.options})
    except (TypeError, ValueError) as error:
        raise ValueError(f"search.sampler: {name}: {error}") from None
    except ImportError as error:
        raise ValueError(f"search.sampler: {name} needs a package that is missing: {error}") from None
    return made


def check_sampler(sampler: Sampler, space: Mapping[str, Any]) -> None:
    """Raises ValueError where a sampler cannot ask for a space: much of it Optuna tells only when it asks."""
    make_sampler(sampler, 0)
    name, given = sampler_name(sampler), sampler.options
    if failure := _failure(Sampler(name=name), space):
        raise ValueError(
            f"search.sampler: {name} cannot draw {failure[0]} ({failure[1]}): make it a list of values, a "
            "randint or a quniform, or choose another sampler"
        )
    if failure := _failure(sampler, space):
        alone = [o for o in given if _failure(Sampler(name=name, options={o: given[o]}), space)]
        wrong = ", ".join(f"{o} {given[o]!r}" for o in alone or given)
        raise ValueError(f"search.sampler.options: {name} cannot ask with {wrong} ({failure[1]}): correct it")


def _failure(sampler: Sampler, space: Mapping[str, Any]) -> tuple[str, str] | None:
    """Asks a study in memory a few times; the axis at which that failed, and Optuna's words for it."""
    study, name, path = _optuna().create_study(), sampler_name(sampler), ""
    for n in range(4):
        # These two read options after a random start alone, which is cut short here.
        soon = {"n_startup_trials": 1} if n and name in ("TPE", "CmaEs") else {}
        try:
            with warnings.catch_warnings(action="ignore"):
                study.sampler = make_sampler(Sampler(name=name, options={**sampler.options, **soon}), n)
                trial = study.ask()
                for path, axis in space.items():
                    draw({path: axis}, trial)
        except (TypeError, ValueError, AttributeError, LookupError, AssertionError) as error:
            return path, str(error) or type(error).__name__
        study.sampler = make_sampler(Sampler(name="Random"), 0)
        study.tell(trial, float(n))
    return None


def _drop_torn_line(path: Path) -> None:
    """Cuts off a last line that a killed driver left unfinished: what is appended to it would be lost."""
    with open(path, "rb+") as file:
        content = file.read()
        if not content.endswith(b"\n"):
            file.truncate(content.rfind(b"\n") + 1)
            os.fsync(file.fileno())


def _optuna() -> Any:
    """Optuna, without its news on the screen."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna
