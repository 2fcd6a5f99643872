"""A trial (a system on a year with a seed), its units, and the signatures of its stages.

The signature of a stage is a hash of options, input data and the signatures of earlier stages. Signatures
form a chain, so that new labels change evaluations but no score::

    train -> extract -> score -> evaluate -> table
                 \\-> umap
                 \\-> cluster -> train of another trial
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from asdray.config.backend import Backend, OwnBackend, Umap, own_backend
from asdray.config.base import digest, digest_of, text_of, texts_of
from asdray.config.clustering import SOURCE_SEED, Clustering
from asdray.config.frontend_base import FrontendConfig
from asdray.config.system import System
from asdray.dcase.years import get_year, nearest

# A developer raises a stage's number when its code begins to give other results, or files of another form.
NUMERICS = {"train": 1, "extract": 1, "cluster": 1, "score": 1, "evaluate": 2, "umap": 1, "table": 2}


@dataclass(frozen=True)
class Unit:
    """The training data of one model: ``all`` machines of a year, some (``all-<hash>``), or one machine."""

    name: str
    machines: tuple[str, ...]


def unit_title(name: str) -> str:
    """The name of a unit for people: ``all`` also of some machines, whose hash says nothing."""
    return "all" if name.startswith("all-") else name


@dataclass(frozen=True)
class Trial:
    """One system on one year with one seed, for all machines of the year or some.

    ``machines`` have the year's order. Machines select units and rows of tables; trials with the same system,
    year and seed share a folder whatever their machines.

    Attributes:
        label: the name of the system for people in its sweep, see `asdray.config.system_names`; no part of
            the trial's identity.
    """

    dcase: str
    recipe: str
    system: System
    seed: int
    machines: tuple[str, ...]
    label: str = field(default="", compare=False)

    @functools.cached_property
    def system_name(self) -> str:
        """Recipe and hash, ``dis_baseline-1a2b3c4d``: column ``system`` of tables, name of the folder."""
        return f"{self.recipe}-{self.system.id}"

    @property
    def name(self) -> str:
        """``dis_baseline-1a2b3c4d dcase2023 seed0``: the trial among all trials of a results folder."""
        return f"{self.system_name} {self.dcase} seed{self.seed}"

    @property
    def title(self) -> str:
        """``dis_baseline loss=arcface dcase2023 seed0``, for people; `name` outside of a sweep."""
        return f"{self.label or self.system_name} {self.dcase} seed{self.seed}"

    @functools.cached_property
    def units(self) -> tuple[Unit, ...]:
        """The models to train: one for all machines, or one per machine."""
        if self.system.frontend.scope == "machine":
            return tuple(Unit(m, (m,)) for m in self.machines)
        if self.machines == get_year(self.dcase).all_machines:
            return (Unit("all", self.machines),)
        return (Unit(f"all-{digest(self.machines)[:8]}", self.machines),)

    def unit_of(self, machine: str) -> Unit:
        """The unit whose model extracts the clips of ``machine``."""
        return next(unit for unit in self.units if machine in unit.machines)

    def clustered(self, machines: tuple[str, ...]) -> Trial | None:
        """The trial whose embeddings are clustered for the classes of this one, for ``machines``; or None.

        Trials of all seeds share it, unless the embeddings are read from a file per seed.
        """
        system, clustering = self.system.clustered, self.system.frontend.clustering
        if system is None or clustering is None:
            return None
        one_seed = system.frontend.learns or system.frontend.has_one_seed
        seed = SOURCE_SEED if one_seed else self.seed
        recipe = clustering.source.recipe
        return Trial(self.dcase, recipe, system, seed, machines, recipe)

    def backends(self, requested: tuple[Backend, ...]) -> tuple[Backend, ...]:
        """The requested backends whose embeddings the frontend has, then the frontend's own scores."""
        frontend = self.system.frontend
        embeddings = {*frontend.embeddings}
        scored = [
            b
            for b in requested
            if frontend.scored_embedding and not isinstance(b, OwnBackend) and {*b.embeddings} <= embeddings
        ]
        return (*scored, *(own_backend(score) for score in frontend.own_scores))


def check_embeddings(frontends: Sequence[FrontendConfig], backends: Iterable[Backend]) -> None:
    """Checks that one of the frontends has all embeddings that a backend names.

    Raises:
        ValueError: an embedding that no frontend has, with the nearest existing name.
    """
    having = [{*f.embeddings} for f in frontends if f.scored_embedding]
    for backend in backends:
        names = () if isinstance(backend, OwnBackend) else backend.embeddings
        if not names or any({*names} <= known for known in having):
            continue
        known = list(dict.fromkeys(n for f in frontends for n in f.embeddings))
        absent = next((name for name in names if name not in known), "+".join(names))
        label = frontends[0].label if len(frontends) == 1 else "no frontend of the sweep"
        verb = "has no" if len(frontends) == 1 else "has the"
        raise ValueError(
            f"backend {backend.name}: {label} {verb} embedding {absent!r}{nearest(absent, known)} "
            f"(known: {', '.join(known)})"
        )


def check_apply(trial: Trial, backends: Sequence[Backend], where: str) -> None:
    """Checks that every backend finds an input among the outputs of the trial's frontend.

    Args:
        where: the place of a backend in messages, such as ``--backend``.

    Raises:
        ValueError: one does not; the message names the outputs.
    """
    frontend = trial.system.frontend
    if frontend.scored_embedding:
        check_embeddings([frontend], backends)
    for one in backends:
        if one not in trial.backends((one,)):
            offers = [*(["embeddings"] if frontend.scored_embedding else []), *frontend.own_scores]
            raise ValueError(
                f"{where} {one.name} does not apply to {trial.system_name}: "
                f"its frontend {frontend.name!r} offers {' and '.join(offers)}"
            )


# ------------------------------------------------------------------------------------------ signatures
def _stage(name: str) -> str:
    return f'["{name}",{NUMERICS[name]}]'


def train_signature(
    trial: Trial,
    unit: Unit,
    train_ids: Mapping[str, str],
    more: Mapping[str, Mapping[str, str]] | None = None,
) -> str:
    """The signature of a unit's training.

    Args:
        train_ids: machine -> id of the machine's training split.
        more: kind -> machine -> id, of other input files.
    """
    return digest_of(
        stage=_stage("train"),
        system=trial.system.canonical_json,
        dcase=text_of(trial.dcase),
        seed=str(trial.seed),
        unit=text_of(unit.name),
        data=texts_of({m: train_ids[m] for m in unit.machines}),
        **{kind: texts_of(ids) for kind, ids in (more or {}).items()},
    )


def extract_signature(train: str, ckpt: str, machine: str, train_id: str, test_id: str) -> str:
    """The signature of a machine's extraction.

    Args:
        train: signature of the unit's training.
        train_id, test_id: ids of the machine's training and test split.
    """
    return digest_of(
        stage=_stage("extract"),
        train=text_of(train),
        checkpoint=text_of(ckpt),
        machine=text_of(machine),
        data=f"[{text_of(train_id)},{text_of(test_id)}]",
    )


def cluster_signature(train: str, machine: str, train_id: str, clustering: Clustering) -> str:
    """The signature of a machine's clusters. New test clips change no cluster, hence no signature.

    Args:
        train: signature of the training of the system that is clustered.
        train_id: id of the machine's training split.
    """
    return digest_of(
        stage=_stage("cluster"),
        extract=_stage("extract"),
        train=text_of(train),
        machine=text_of(machine),
        data=text_of(train_id),
        clustering=clustering.canonical_json,
    )


def score_signature(extract: str, backend: Backend) -> str:
    """The signature of a machine's scores by one backend; ``extract``: signature of the extraction."""
    return digest_of(stage=_stage("score"), extract=text_of(extract), backend=backend.canonical_json)


def evaluate_signature(scores: Mapping[str, str], labels_id: str) -> str:
    """The signature of a machine's evaluation.

    Args:
        scores: backend id -> signature of the scores.
        labels_id: hash of the machine's test labels.
    """
    return digest_of(stage=_stage("evaluate"), scores=texts_of(scores), labels=text_of(labels_id))


def umap_signature(extract: str, umap: Umap) -> str:
    """The signature of a machine's plot. Labels colour points but move none, so new labels repeat no UMAP."""
    return digest_of(stage=_stage("umap"), extract=text_of(extract), umap=umap.canonical_json)


def table_signature(evaluations: Mapping[str, str]) -> str:
    """The signature of a trial's tables.

    Args:
        evaluations: ``<checkpoint>/<machine>`` -> signature of the evaluation.
    """
    return digest_of(stage=_stage("table"), evaluations=texts_of(evaluations))
