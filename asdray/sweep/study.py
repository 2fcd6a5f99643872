"""The studies of a search, one per recipe: suggested systems and outcomes.

All studies of a sweep are in ``study.journal`` in the sweep's folder, in Optuna's format
(``optuna-dashboard`` opens the file). A resumed search reads suggestions and outcomes from the file; only
the store knows the finished stages. Ask (for a suggestion) and tell (an outcome) are Optuna's words.
"""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from asdray.config.base import digest
from asdray.config.expand import Base, bases, trials_of
from asdray.config.search import Objective, Sampler, draw, listed
from asdray.config.sweep import Sweep
from asdray.config.system import System
from asdray.config.system_names import sampled_name
from asdray.config.trial import Trial
from asdray.dcase.manifest import Dataset
from asdray.dcase.years import get_year, nearest
from asdray.store import Places, SweepDir, sweep_dir
from asdray.sweep.journal import JournalCheck, LeaseAsLock

if TYPE_CHECKING:
    import optuna

State = Literal["open", "done", "stopped", "failed"]


@dataclass
class Sample:
    """A suggested system and the outcome.

    Attributes:
        number: number of the sample in the study of the recipe.
        swept: option path -> value.
        system: None if the values make no valid system.
        value: value of the objective, the mean over years and seeds.
        backend: id of the backend with the value, `asdray.sweep.objective.ANY` if none scored a clip.
        reason: reason of a failure.
    """

    recipe: str
    number: int
    swept: dict[str, Any]
    system: System | None = None
    state: State = "open"
    value: float | None = None
    backend: str | None = None
    reason: str | None = None

    @property
    def name(self) -> str:
        """``dis_baseline sample 3``."""
        return f"{self.recipe} sample {self.number}"

    @property
    def system_name(self) -> str | None:
        """``dis_baseline-1a2b3c4d``, the same for two spellings of a system."""
        return f"{self.recipe}-{self.system.id}" if self.system else None

    def is_same_system(self, other: Sample) -> bool:
        """True if both samples are the same system, perhaps with options spelled differently."""
        return self.system_name is not None and self.system_name == other.system_name


class Studies:
    """All studies of a sweep, with all samples.

    Attributes:
        bases: the recipes of the sweep.
        samples: all samples, by recipe and number; new samples last.
        studies: recipe -> study of Optuna's.

    Args:
        datasets: year -> dataset.
        where: the source of the sweep, for error messages.
        write: True to create missing studies, under the sweep's lease; otherwise nothing is written.

    Raises:
        ValueError: an unknown sampler or option of a sampler, a damaged study file.
    """

    def __init__(
        self, sweep: Sweep, places: Places, datasets: Mapping[str, Dataset], where: str, *, write: bool
    ) -> None:
        self.sweep = sweep
        self.datasets = datasets
        self.where = where
        self.bases = bases(sweep, where)
        self._spaces = {b.recipe: {path: listed(axis) for path, axis in b.axes.items()} for b in self.bases}
        self.samples: list[Sample] = []
        self.studies: dict[str, optuna.Study] = {}
        if sweep.search.algorithm == "optuna":
            try:
                make_sampler(sweep.search.sampler or Sampler(), seed=0)
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from None
        folder = SweepDir(sweep_dir(places.results, sweep.name))
        self._check, path = JournalCheck(folder), folder.study
        if write and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            folder.study_check.unlink(missing_ok=True)
        if write or path.exists():
            try:
                if path.exists():
                    if write:
                        self._check.cut_interrupted()
                    self._check.compare()
                self._open(str(path), write)
                for base in self.bases:
                    if base.recipe in self.studies:
                        self._read(base, write)
            except (ValueError, LookupError, TypeError, AttributeError) as error:
                raise ValueError(
                    f"{path} is damaged ({error}): move it away and run the command again"
                ) from None

    def _open(self, path: str, write: bool) -> None:
        optuna = _optuna()
        file = optuna.storages.journal.JournalFileBackend(path, lock_obj=LeaseAsLock())
        storage = optuna.storages.JournalStorage(file)
        known = optuna.study.get_all_study_names(storage)
        for base in self.bases:
            name, earlier = study_names(self.sweep, base, self.datasets)
            name = earlier if name not in known and earlier in known else name
            if name in known:  # `create_study` would write a line even if the study exists
                self.studies[base.recipe] = optuna.load_study(study_name=name, storage=storage)
            elif write:
                direction = "maximize" if self.objective.maximize else "minimize"
                study = optuna.create_study(storage=storage, study_name=name, direction=direction)
                self.studies[base.recipe] = study
                self._check.note()

    def _read(self, base: Base, write: bool) -> None:
        study = self.studies[base.recipe]
        outcomes = study.user_attrs
        for asked in study.get_trials(deepcopy=False):
            finished = asked.state.is_finished()
            swept = asked.user_attrs.get("swept")
            if swept is None:
                # The driver ended during the suggestion, which does not count: another one replaces it.
                if write and not finished:
                    study.tell(asked.number, state=_optuna().trial.TrialState.FAIL)
                continue
            # Optuna keeps the state of the first attempt only.
            outcome = outcomes[f"sample {asked.number}"] if finished else None
            sample = Sample(base.recipe, asked.number, swept, **(outcome or {}))
            self._make_system(base, sample)
            self.samples.append(sample)

    def _make_system(self, base: Base, sample: Sample) -> str | None:
        """Sets the system of a sample; returns the reason if the values make no valid system."""
        try:
            sample.system = base.varied(sample.swept)
            self.trials(sample)
        except ValueError as error:
            sample.system = None
            return str(error)
        return None

    @property
    def objective(self) -> Objective:
        """The objective of the search."""
        assert self.sweep.search.objective is not None, "a search has one"
        return self.sweep.search.objective

    @property
    def recipes(self) -> tuple[str, ...]:
        """The names of the recipes."""
        return tuple(base.recipe for base in self.bases)

    @property
    def threads(self) -> int:
        """Largest number of training threads of the recipes, whatever the axes."""
        return max(base.system.train.threads for base in self.bases)

    # ------------------------------------------------------------------------------------ ask and tell

    def left(self, base: Base) -> int:
        """Number of a recipe's upcoming samples, negative after a cut of ``num_samples``.

        A recipe without axes has a single sample.
        """
        wanted = self.sweep.search.num_samples or 0
        return (wanted if base.axes else 1) - sum(s.recipe == base.recipe for s in self.samples)

    @property
    def to_ask(self) -> int:
        """Number of upcoming samples of all recipes."""
        return sum(max(0, self.left(base)) for base in self.bases)

    def ask(self) -> Sample:
        """The next sample, of the recipe with most samples left to suggest.

        A sample without a valid system fails at once. A sample of a known system takes over the known
        outcome, now or as soon as that outcome is recorded.

        Raises:
            ValueError: the sampler cannot suggest values for an axis of the space.
        """
        base = max(self.bases, key=self.left)
        sample = self._suggest(base, self.studies[base.recipe])
        self.samples.append(sample)
        if reason := self._make_system(base, sample):
            self.tell(sample, "failed", reason=reason)
            return sample
        for other in self.samples:
            if other is not sample and other.is_same_system(sample) and other.state != "open":
                self.tell(sample, other.state, other.value, other.backend, other.reason)
                break
        return sample

    def _suggest(self, base: Base, study: optuna.Study) -> Sample:
        number = len(study.get_trials(deepcopy=False))
        sampler, study.sampler = self._sampler(base.recipe, number)
        swept: dict[str, Any] = {}
        asked_for = "a system"
        try:
            with warnings.catch_warnings(action="ignore"):  # of samplers, on spaces not seen as a whole
                trial = study.ask()
                assert trial.number == number, "the sweep's lease is held"
                for path, axis in base.axes.items():
                    asked_for = path
                    swept |= draw({path: axis}, trial)
        except (TypeError, ValueError, AttributeError, LookupError, AssertionError, RuntimeError) as error:
            said = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(
                f"{self.where}: search.sampler: {sampler} cannot suggest {asked_for} ({said}): correct its "
                "options, make the axis a list of values, or choose another sampler"
            ) from error
        trial.set_user_attr("swept", swept)
        self._check.note()
        return Sample(base.recipe, number, swept)

    def _sampler(self, recipe: str, number: int) -> tuple[str, optuna.samplers.BaseSampler]:
        """Name and sampler of a suggestion, seeded by the number: a resumed search suggests the same."""
        search = self.sweep.search
        options = search.sampler or Sampler()
        if search.algorithm == "random":
            options = Sampler(name="Random")
        name = sampler_name(options)
        # A quasi-random sequence counts the numbers itself, and must stay the same one.
        part = None if name == "QMC" else number
        return name, make_sampler(options, int(digest([search.seed, recipe, part])[:8], 16))

    def tell(
        self,
        sample: Sample,
        state: State,
        value: float | None = None,
        backend: str | None = None,
        reason: str | None = None,
    ) -> None:
        """Records the outcome of a sample, and of other open samples of the same system."""
        assert state != "open"
        for one in self.samples:
            if one is sample or (one.state == "open" and one.is_same_system(sample)):
                one.state, one.value, one.backend, one.reason = state, value, backend, reason
                self._record(one)

    def _record(self, sample: Sample) -> None:
        optuna, study = _optuna(), self.studies[sample.recipe]
        states = {"stopped": optuna.trial.TrialState.PRUNED, "failed": optuna.trial.TrialState.FAIL}
        # Some samplers end a study when an outcome is told, which Optuna allows only in its own loop.
        study.sampler = make_sampler(Sampler(name="Random"), 0)
        outcome = {name: getattr(sample, name) for name in ("state", "value", "backend", "reason")}
        study.set_user_attr(f"sample {sample.number}", outcome)
        asked = study.get_trials(deepcopy=False)[sample.number]
        if not asked.state.is_finished():
            study.tell(sample.number, sample.value, state=states.get(sample.state))
        elif sample.state == "done":
            # Optuna keeps the failure of the first attempt; samplers see this one as another trial.
            attempt = optuna.trial.create_trial(
                params=asked.params,
                distributions=asked.distributions,
                value=sample.value,
                user_attrs={"again": sample.number},
            )
            study.add_trial(attempt)
        self._check.note()

    def reopen(self, sample: Sample) -> None:
        """Opens a failed sample for another attempt, with other failed samples of the same system."""
        assert sample.state == "failed", sample.name
        assert sample.system is not None, sample.name
        for one in self.samples:
            if one is sample or (one.state == "failed" and one.is_same_system(sample)):
                self.studies[one.recipe].set_user_attr(f"sample {one.number}", None)
                one.state, one.reason = "open", None
        self._check.note()

    # ---------------------------------------------------------------------------------------- choosing

    @property
    def complete(self) -> bool:
        """True once every sample was suggested and has an outcome."""
        return not self.to_ask and all(s.state != "open" for s in self.samples)

    def ranked(self, recipe: str | None = None) -> list[Sample]:
        """The finished systems of a recipe (by default of all), the best first."""
        found = [s for s in self.samples if s.state == "done" and recipe in (None, s.recipe)]
        found.sort(key=lambda s: -(s.value or 0.0) if self.objective.maximize else (s.value or 0.0))
        return _systems(found)

    def chosen(self) -> list[Sample]:
        """The systems to confirm, the best ``top_k`` of each recipe; empty until the search is over."""
        confirm = self.sweep.confirm
        if confirm is None or not self.complete:
            return []
        return [s for base in self.bases for s in self.ranked(base.recipe)[: confirm.top_k]]

    def systems(self) -> list[Sample]:
        """The samples with a valid system, each system once."""
        return _systems(self.samples)

    def trials(self, sample: Sample) -> list[Trial]:
        """The trials of a suggested system: all years and seeds of the search."""
        assert sample.system is not None, sample.name
        return self._trials(sample, sample.system, self.sweep.dcase, self.sweep.seeds)

    def confirming(self, sample: Sample) -> list[Trial]:
        """The confirming trials of a chosen system."""
        sweep = self.sweep
        assert sample.system is not None
        assert sweep.confirm is not None
        return self._trials(sample, sample.system, sweep.board_years, sweep.confirm.seeds)

    def _trials(
        self, sample: Sample, system: System, dcase: Sequence[str], seeds: Sequence[int]
    ) -> list[Trial]:
        label = sampled_name(sample.recipe, sample.swept, self._spaces)
        trials = trials_of(self.sweep, sample.recipe, system, dcase, seeds, self.where)
        return [replace(trial, label=label) for trial in trials]


def _systems(samples: Iterable[Sample]) -> list[Sample]:
    """The first sample of each system."""
    first: dict[str, Sample] = {}
    for sample in samples:
        if sample.system_name is not None:
            first.setdefault(sample.system_name, sample)
    return list(first.values())


def study_names(sweep: Sweep, base: Base, datasets: Mapping[str, Dataset]) -> tuple[str, str]:
    """The name of a recipe's study, and the name in earlier versions.

    The name covers all origins of a value: a search with another space, objective, year, seed or clip is
    another study. Backends are part of the name only if the best backend judges: values by different lists
    of backends cannot be compared. A study with another list makes new suggestions; systems trained already
    are reused.

    Ground truth of eval clips is not part of the name: no value depends on labels of eval clips, and new
    labels must neither restart a search nor change a choice. Therefore `MachineData.classes` (attributes and
    domains of all test clips) and `MachineData.labels` are left out: only ``frontend.labels: asdkit``,
    refused in a search, reads the classes, and the labels of dev clips, read by ``official_dev``, are part
    of the file names, hence of the id of the test clips.
    """
    machines = {dcase: sweep.machines_of(dcase) for dcase in sweep.dcase}
    objective = sweep.search.objective
    assert objective is not None
    judged = {
        dcase: [m for m in names if m in get_year(dcase).machines["dev"]]
        for dcase, names in machines.items()
        if objective.metric == "official_dev"
    }
    parts = {
        "system": base.system,
        "space": base.axes,
        "objective": objective,
        "seeds": sweep.seeds,
        "train": {d: {m: datasets[d].machines[m].train for m in names} for d, names in machines.items()},
        "test": {d: {m: datasets[d].machines[m].test for m in names} for d, names in judged.items()},
    }
    name = f"{base.recipe}-{digest(parts)[:8]}"
    if objective.metric == "official_dev" and objective.backend is None:
        name += f"-{digest(sweep.backends)[:8]}"
    return name, f"{base.recipe}-{digest({**parts, 'backends': sweep.backends})[:8]}"


# ---------------------------------------------------------------------------------------------- samplers


def sampler_name(sampler: Sampler) -> str:
    """Optuna's name of a sampler, in any spelling.

    >>> sampler_name(Sampler(name="cma-es")), sampler_name(Sampler(name="nsga2"))
    ('CmaEs', 'NSGAII')

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
    """A sampler of Optuna's.

    Raises:
        ValueError: an unknown name or option, options refused by Optuna, a missing package.
    """
    name = sampler_name(sampler)
    factory = getattr(_optuna().samplers, f"{name}Sampler")
    known = inspect.signature(factory).parameters
    for option in sampler.options:
        if option not in known:
            raise ValueError(
                f"search.sampler.options: {name} has no {option!r}{nearest(option, list(known))} "
                f"(known: {', '.join(known)})"
            )
    options = {**({"seed": seed} if "seed" in known else {}), **sampler.options}
    try:
        with warnings.catch_warnings(action="ignore"):  # of samplers that Optuna calls experimental
            return factory(**options)
    except (TypeError, ValueError) as error:
        raise ValueError(f"search.sampler: {name}: {error}") from None
    except ImportError as error:
        raise ValueError(f"search.sampler: {name} needs a package that is missing: {error}") from None


def _optuna() -> Any:
    """The module ``optuna``, without messages on the screen."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna
