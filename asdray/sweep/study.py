"""The studies of a search, one per recipe: which systems were suggested, and what came of them.

They lie in ``study.journal`` in the sweep's folder, a file of Optuna's that ``optuna-dashboard`` opens. A
search that goes on reads from it what was suggested and told; what is done of a trial say the markers alone.
"""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from asdray import store
from asdray.config.base import digest
from asdray.config.expand import Base, bases, trials_of
from asdray.config.search import Sampler, draw
from asdray.config.sweep import Sweep
from asdray.config.system import System
from asdray.config.trial import Trial
from asdray.dcase.manifest import Dataset
from asdray.dcase.years import get_year, nearest
from asdray.store import Places

if TYPE_CHECKING:
    import optuna

State = Literal["open", "done", "stopped", "failed"]


@dataclass
class Sample:
    """A suggested system and what came of it.

    Attributes:
        number: in its recipe's study.
        swept: option path -> value.
        system: None where these values make none.
        value: of the objective, the mean over years and seeds.
        backend: the id of the one that gave it, `asdray.sweep.objective.ANY` where none did.
        reason: why it failed.
    """

    recipe: str
    number: int
    swept: dict[str, Any]
    system: System | None
    state: State = "open"
    value: float | None = None
    backend: str | None = None
    reason: str | None = None

    @property
    def name(self) -> str:
        return f"{self.recipe} sample {self.number}"


def study_file(places: Places, name: str) -> Path:
    """Where the studies of a sweep lie."""
    return store.sweep_dir(places.results, name) / "study.journal"


class Studies:
    """All studies of a sweep and their samples, in the order of their numbers.

    Attributes:
        bases: the recipes of the sweep.

    Args:
        datasets: of the sweep's years.
        write: whether studies are made where there are none yet; the sweep's lease is held then.

    Raises:
        ValueError: a study file that Optuna cannot read.
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
            make_sampler(sweep.search.sampler or Sampler(), 0)  # a wrong name or option is said at once
        path = study_file(places, sweep.name)
        if not write and not path.exists():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        if write and path.exists():
            _drop_torn_line(path)
        optuna = _optuna()
        try:
            storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path)))
            known = optuna.study.get_all_study_names(storage)
            for base in self.bases:
                name = f"{base.recipe}-{_meaning(sweep, base, datasets)}"
                if name not in known and not write:
                    continue
                self._studies[base.recipe] = optuna.create_study(
                    storage=storage,
                    study_name=name,
                    direction="maximize" if self._maximize else "minimize",
                    load_if_exists=True,
                )
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
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of samplers, on spaces that they cannot see as a whole
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
        part = None if options.name.startswith("QMC") else number
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


def make_sampler(sampler: Sampler, seed: int) -> optuna.samplers.BaseSampler:
    """One of Optuna's samplers.

    Raises:
        ValueError: an unknown name or option, or a package that it needs and that is not there.
    """
    module = _optuna().samplers
    known = [n.removesuffix("Sampler") for n in dir(module) if n.endswith("Sampler")]
    known = [n for n in known if n not in ("", "Base", "BaseGA", "Grid", "PartialFixed")]
    name = sampler.name.removesuffix("Sampler")
    if name not in known:
        raise ValueError(
            f"search.sampler is {sampler.name!r}{nearest(name, known)} (known: {', '.join(known)})"
        )
    factory = getattr(module, f"{name}Sampler")
    options = inspect.signature(factory).parameters
    for option in sampler.options:
        if option not in options:
            raise ValueError(
                f"search.sampler.options: {name} has no {option!r}{nearest(option, list(options))} "
                f"(known: {', '.join(options)})"
            )
    given = {"seed": seed} if "seed" in options else {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of samplers that Optuna calls experimental
            made = factory(**{**given, **sampler.options})
    except (TypeError, ValueError) as error:
        raise ValueError(f"search.sampler: {name}: {error}") from None
    except ImportError as error:
        raise ValueError(f"search.sampler: {name} needs a package that is missing: {error}") from None
    return made


def same_system(one: Sample, other: Sample) -> bool:
    """Whether two samples are one system; two spellings of it are."""
    if one.system is None or other.system is None:
        return False
    return one.recipe == other.recipe and one.system.id == other.system.id


def _meaning(sweep: Sweep, base: Base, datasets: Mapping[str, Dataset]) -> str:
    """What a study's values speak of: another space, objective, year, seed or clip, another study.

    Ground truth of eval clips has no part in it: no value depends on it, and when it comes a search must
    neither begin anew nor choose otherwise. That is why `MachineData.classes`, the attributes and domains of
    all test clips, are left out: only ``frontend.labels: asdkit`` reads them, which `asdray.config.expand`
    refuses in a search. `MachineData.labels` is left out as well; the labels of dev clips, which
    ``official_dev`` reads, stand in their file names, hence in the id of the test clips.
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
        "backends": sweep.backends,
        "seeds": sweep.seeds,
        "train": {d: {m: datasets[d].machines[m].train for m in names} for d, names in machines.items()},
        "test": {d: {m: datasets[d].machines[m].test for m in names} for d, names in judged.items()},
    }
    return digest(parts)[:8]


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
