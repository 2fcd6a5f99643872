"""Predict: new clips of a machine -> anomaly scores and decisions of a finished trial. Reads no labels.

A new clip passes the code of extraction and scoring, beside the embeddings of the training clips in the
trial's results. A test clip of the dataset gets the score that the trial has: to the last bit if all test
clips of the machine are given together, since sums over other batches may be rounded differently.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from asdray.backends import Features, score_machine
from asdray.config.backend import Backend, OwnBackend, backend_id
from asdray.config.files import parse_yaml
from asdray.config.sweep import check_backends, check_checkpoint
from asdray.config.trial import check_apply
from asdray.dcase import manifest
from asdray.dcase.scan import is_wav
from asdray.dcase.wav import read_header
from asdray.dcase.years import SAMPLE_RATE, get_year, nearest
from asdray.evaluation.decisions import limits_of
from asdray.evaluation.tables import TRANSDUCTIVE_MARK, backend_labels
from asdray.stages.decisions import normals
from asdray.stages.extract import SPLITS, Extract, TrainedFrontend, read_extract
from asdray.stages.score import sections_and_domains
from asdray.stages.steps import Snapshot, TrialFiles, why_not
from asdray.stages.trial_json import read_trial
from asdray.store import Places

if TYPE_CHECKING:
    import pandas as pd

_CLIPS_IN_MEMORY = 512
"""Clips that are decoded at once: 160 MB of 10 s from one microphone."""

_SECTION = re.compile(r"(?:^|_)(?:section|id)_([0-9]{2})(?=[_.])")


@dataclass(frozen=True)
class Prediction:
    """One file and backend.

    Attributes:
        score: higher = more anomalous.
        threshold: of all sections and domains of the machine, see `asdray.evaluation.decisions.limits_of`.
        error: why the file has no score, else None; score and threshold are then NaN, and the backend ``""``.
    """

    file: str
    machine: str
    backend: str
    score: float
    threshold: float
    decision: int | None = None
    error: str | None = None


def predictor(
    trial: str | Path,
    *,
    machine: str | None = None,
    backend: str | Mapping[str, Any] | None = None,
    checkpoint: str | None = None,
    data: str | Path | None = None,
    cache_dir: str | Path | None = None,
    device: str = "auto",
    trust_plugins: bool = False,
) -> Predictor:
    """A trial at work on new clips of one machine: the model is loaded once, for many calls.

    ::

        model = asdray.predictor("results/trials/dcase2023/dis_baseline-5ce49aea/seed0", machine="fan")
        model.predict(["new/a.wav", "new/b.wav"])
        for found in model.follow("new"):  # wavs that come into a folder, until it is interrupted
            ...

    Args:
        trial: the folder of a finished trial.
        machine: the machine that the clips were recorded at; None: the trial's only one.
        backend: ``knn``, or an object as in a sweep file; None: all backends of the trial, without
            transductive ones.
        checkpoint: ``last``, ``best`` or ``epoch_<k>``; None: the first of the trial.
        data: folder of the dataset; None: ``ASDRAY_DATA``, or ``data``.
        cache_dir: as ``--cache-dir``; read by the frontends that need the training clips once more.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:<number>``.
        trust_plugins: runs the code of the trial's plugins, whoever wrote it.

    Raises:
        ValueError: no finished trial, no such machine, or a backend that does not apply or is transductive;
            the message names the fix.
    """
    found, description, results = read_trial(Path(trial), "all" if trust_plugins else "own")
    if machine is None and len(found.machines) > 1:
        raise ValueError(f"{found.name} has several machines: name one of {', '.join(found.machines)}")
    machine = machine or found.machines[0]
    if machine not in found.machines:
        known = ", ".join(found.machines)
        raise ValueError(
            f"the trial has no machine {machine!r}{nearest(machine, found.machines)} (it has: {known})"
        )
    backends = found.backends(description.backends)
    if backend is not None:
        given = parse_yaml(backend, "backend") if isinstance(backend, str) else backend
        backends = check_backends([given], "backend")
        check_apply(found, backends, "backend")
    ckpt = check_checkpoint(checkpoint) if checkpoint else description.checkpoints[0]
    data = data or os.environ.get("ASDRAY_DATA") or manifest.DEFAULT_DATA
    files = TrialFiles.load(found, Places.of(data, results, cache_dir), [machine])
    return Predictor(files, machine, ckpt, _for_new_clips(backends, every=backend is not None), device)


def _for_new_clips(backends: Sequence[Backend], every: bool) -> dict[str, Backend]:
    """Label -> backend, of those whose score of a clip does not depend on the other clips of the call.

    Raises:
        ValueError: there is none, or another one although ``every`` backend is wanted.
    """
    labels = backend_labels({backend_id(one): one.model_dump() for one in backends})
    found = {labels[backend_id(one)]: one for one in backends}
    alone = {label: one for label, one in found.items() if not label.startswith(TRANSDUCTIVE_MARK)}
    if not alone or (every and len(alone) < len(found)):
        first = next(label for label in found if label not in alone)
        raise ValueError(
            f"backend: the scores of {first} depend on which test clips are scored together, and a new clip "
            "has no such company: choose another backend, and run the sweep with it if the trial has none"
        )
    return alone


def predict(trial: str | Path, files: str | Path | Iterable[str | Path], **options: Any) -> pd.DataFrame:
    """Scores and decisions of new wavs by a finished trial.

    ::

        asdray.predict("results/trials/dcase2023/dis_baseline-5ce49aea/seed0", ["new/a.wav"], machine="fan")

    A clip is decided to be an anomaly if its score is above the threshold, as in a challenge submission: the
    quantile 0.9 of a gamma distribution fitted to the scores of the machine's training clips, or a score of
    its held-out clips (``train.hold_out``).

    Args:
        files: a wav, or several, of the form of the machine's clips: rate, channels, length.
        options: see `predictor`.

    Returns:
        A row per file and backend, in the order of the files, with the fields of `Prediction`. A file that
        cannot be scored has one row with its ``error``.

    Raises:
        ValueError: see `predictor`.
    """
    import pandas as pd

    names = [field.name for field in fields(Prediction)]
    frame = pd.DataFrame(predictor(trial, **options).predict(files), columns=names)
    return frame.astype({"decision": "Int64", "error": "object"})


class Predictor:
    """A trial at work on new clips of one machine, see `predictor`.

    Args:
        backends: label -> backend.
        quantile: of the training scores, for the threshold of decisions.

    Attributes:
        incomplete: files of the folder that `follow` has not scored yet.

    Raises:
        ValueError: the frontend reads no audio; the trial is not complete for the machine, or its checkpoint
            or embeddings were pruned.
    """

    def __init__(
        self,
        files: TrialFiles,
        machine: str,
        ckpt: str,
        backends: Mapping[str, Backend],
        device: str = "auto",
        quantile: float = 0.9,
    ) -> None:
        from asdray.audio.cache import pack_of
        from asdray.frontends import compute

        self.files, self.machine, self.ckpt = files, machine, ckpt
        self.backends, self.quantile = backends, quantile
        self.incomplete: tuple[str, ...] = ()
        trial = files.trial
        if not trial.system.frontend.reads_audio:
            raise ValueError(
                f"{trial.name} reads embeddings from a file, and no audio: it cannot score new clips; add "
                "them to the dataset, and their embeddings to the file"
            )
        snapshot = Snapshot(self.files)
        extract = snapshot.extract(machine, self.ckpt)
        scores = [snapshot.score(machine, self.ckpt, backend) for backend in self.backends.values()]
        for step in (extract, *scores):
            if reason := why_not(self.files, step):
                raise ValueError(reason)
        sha256 = (extract.inputs or {})["checkpoint"]
        needs_section = any(getattr(b, "sep_section", False) for b in self.backends.values())
        self._known = _Known.of(self.files, machine, needs_section)
        self._train = {label: self._training(backend) for label, backend in self.backends.items()}
        self._thresholds: dict[str, float] = {}
        self._torch_device = compute.choose_device(device)
        with compute.settings(trial.system.train.threads, self._torch_device):
            self._frontend = TrainedFrontend(self.files, machine, self.ckpt, sha256, self._torch_device)
            if self._frontend.needs_training_clips:
                channel = trial.system.audio.channel
                pack = pack_of(self.files.places, self.files.dataset, machine, "train", channel)
                self._frontend.prepare(pack)

    def predict(self, files: str | Path | Iterable[str | Path]) -> list[Prediction]:
        """The scores and decisions of a wav, or of several in their order: a prediction per file and backend.

        A file that cannot be scored has one prediction, with its error; the others go on.
        """
        names = [str(file) for file in ([files] if isinstance(files, str | Path) else files)]
        lengths: dict[str, int] = {}
        faults: dict[str, str] = {}
        for name in names:
            try:
                lengths[name] = self._known.n_samples(name)
            except ValueError as error:
                faults[name] = str(error)
        scores, undecodable = self._scores(sorted(lengths, key=self._known.order), lengths)
        faults |= undecodable
        return [one for name in names for one in self._of_file(name, scores, faults.get(name))]

    def _of_file(
        self, name: str, scores: Mapping[str, Mapping[str, float]], fault: str | None
    ) -> list[Prediction]:
        if fault is not None:
            return [Prediction(name, self.machine, "", math.nan, math.nan, None, fault)]
        found = [(label, of[name], self._thresholds[label]) for label, of in scores.items()]
        return [
            Prediction(name, self.machine, label, score, threshold, int(score > threshold))
            for label, score, threshold in found
        ]

    def follow(self, folder: str | Path, interval: float = 1.0) -> Iterator[list[Prediction]]:
        """The predictions of wavs in a folder that is being filled: of each once the file is complete.

        A file is complete when two looks find the same size and time, and the audio that its header promises.
        A file with an error gets another prediction once the file has changed: its writer had only paused.

        Args:
            interval: seconds between two looks.

        Yields:
            The predictions of the files that were found complete together; without an end.
        """
        before: dict[str, tuple[int, int]] = {}
        done: set[str] = set()
        failed: dict[str, tuple[int, int]] = {}
        while True:
            states = _states(Path(folder)).items()
            now = {name: state for name, state in states if name not in done and failed.get(name) != state}
            ready = [name for name, state in now.items() if before.get(name) == state and is_complete(name)]
            self.incomplete = tuple(now)  # those without a score if Ctrl-C ends the prediction below
            if ready:
                found = self.predict(ready)
                done.update(one.file for one in found if one.error is None)
                failed.update({one.file: now[one.file] for one in found if one.error is not None})
                self.incomplete = tuple(now.keys() - set(ready))
                yield found
            before = now
            time.sleep(interval)

    def _training(self, backend: Backend) -> tuple[Features, list[str], list[str]]:
        """The machine's training clips as a backend reads them, their domains, and their keys."""
        path = self.files.folder.extract(self.ckpt, self.machine, "train")
        names = () if isinstance(backend, OwnBackend) else backend.embeddings
        extract = read_extract(path, names)
        known = sections_and_domains(self.files, self.machine, extract.clips)
        section, domain = zip(*(known[clip] for clip in extract.clips), strict=True)
        return Features(extract.embeddings, extract.own, section), list(domain), extract.clips

    def _scores(
        self, names: Sequence[str], lengths: Mapping[str, int]
    ) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
        """Backend's label -> file -> score, and file -> fault of those that cannot be decoded."""
        from threadpoolctl import threadpool_limits

        found, faults = self._extract(names, lengths)
        scores: dict[str, dict[str, float]] = {label: {} for label in self.backends}
        if not found.clips:
            return scores, faults
        section = [self._known.section_of(name) or 0 for name in found.clips]
        test = Features(found.embeddings, found.own, section)
        for label, backend in self.backends.items():
            train, domain, clips = self._train[label]
            with threadpool_limits(1):  # as in the workers of a sweep, for the same digits
                own, new = score_machine(backend, train, domain, test)
            if label not in self._thresholds:
                of = normals(self.files.trial.system, clips, train.section, domain, own)
                self._thresholds[label] = limits_of(of, self.quantile, per_domain=False)[""].value
            scores[label] = dict(zip(found.clips, new.tolist(), strict=True))
        return scores, faults

    def _extract(self, names: Sequence[str], lengths: Mapping[str, int]) -> tuple[Extract, dict[str, str]]:
        """The embeddings and own scores of the files that can be decoded, and the faults of the others."""
        from asdray.audio.batches import Clips
        from asdray.audio.cache import decode_clip, pack_in_memory
        from asdray.frontends import compute

        trial, faults = self.files.trial, {}
        audio, per_batch = trial.system.audio, self._frontend.clips_per_batch
        at_once = per_batch * max(1, _CLIPS_IN_MEMORY // per_batch)  # whole batches, as in an extraction
        samples: dict[str, np.ndarray] = {}
        keys: list[str] = []
        parts: list[dict[str, np.ndarray]] = []

        def compute_batches() -> None:
            clips = Clips([pack_in_memory(trial.dcase, self.machine, samples)], audio.channel, audio.padding)
            with compute.settings(trial.system.train.threads, self._torch_device):
                parts.append({name: value.numpy() for name, value in self._frontend.extract(clips).items()})
            keys.extend(samples)
            samples.clear()

        for name in names:
            try:
                samples[name] = decode_clip(Path(name), lengths[name], trial.dcase, audio.channel)
            except ValueError as error:
                faults[name] = str(error)
            if len(samples) == at_once:
                compute_batches()
        if samples:
            compute_batches()
        every = {name: np.concatenate([part[name] for part in parts]) for name in (parts or [{}])[0]}
        embeddings = {name: every[name] for name in trial.system.frontend.embeddings if name in every}
        own: dict[str, NDArray[np.floating]] = {
            name: value.astype(np.float64) for name, value in every.items() if name not in embeddings
        }
        return Extract(keys, embeddings, own), faults


# ----------------------------------------------------------------------------------------- known clips


@dataclass(frozen=True)
class _Known:
    """The machine's clips in the dataset, and what new clips must have in common with these.

    Attributes:
        frames: lengths of the shortest and the longest clip, in samples per channel.
        sections: sections of the training clips.
        needs_section: True if a backend keeps sections apart.
        keys: real path of every test clip -> key of the clip.
    """

    dcase: str
    machine: str
    frames: tuple[int, int]
    sections: frozenset[int]
    needs_section: bool
    keys: Mapping[str, str]

    @classmethod
    def of(cls, files: TrialFiles, machine: str, needs_section: bool) -> _Known:
        data, dcase = files.places.data, files.trial.dcase
        clips = manifest.rows(manifest.load_manifest(data, dcase), machine=machine).to_pylist()
        clips = [clip for clip in clips if clip["split"] in SPLITS]
        lengths = [clip["n_samples"] for clip in clips]
        return cls(
            dcase,
            machine,
            (min(lengths), max(lengths)),
            frozenset(clip["section"] for clip in clips if clip["split"] == "train"),
            needs_section,
            {
                os.path.realpath(data / clip["original_path"]): clip["clip"]
                for clip in clips
                if clip["split"] == "test"
            },
        )

    def n_samples(self, name: str) -> int:
        """The frames of a wav, by its header.

        Raises:
            ValueError: no wav of the form of the machine's clips; the message begins with the path.
        """
        header, channels = read_header(name), get_year(self.dcase).channels
        shortest, longest = self.frames
        faults = []
        if header.sample_rate != SAMPLE_RATE:
            faults.append(f"has {header.sample_rate} Hz, the model was trained at {SAMPLE_RATE} Hz")
        if header.channels != channels:
            faults.append(f"has {header.channels} channels, {self.dcase} has {channels}")
        if not faults and not shortest <= header.n_samples <= longest:
            seconds = [f"{n / SAMPLE_RATE:.4g}" for n in (shortest, longest)]
            known = seconds[0] if seconds[0] == seconds[1] else " to ".join(seconds)
            found = header.n_samples / SAMPLE_RATE
            faults.append(f"has {found:.4g} s, the clips of {self.machine} have {known} s: cut it to that")
        if self.needs_section and self.section_of(name) is None:
            of = ", ".join(f"section_{section:02d}" for section in sorted(self.sections))
            faults.append(f"has none of {of} in its name, and a backend scores each section by itself")
        if faults:
            raise ValueError(f"{name}: {'; '.join(faults)}")
        return header.n_samples

    def section_of(self, name: str) -> int | None:
        """The section in a file's name, or the only section of the machine; None if neither tells."""
        if len(self.sections) == 1:
            return next(iter(self.sections))
        match = _SECTION.search(Path(name).name)
        return int(match[1]) if match and int(match[1]) in self.sections else None

    def order(self, name: str) -> tuple[bool, str]:
        """Sorts test clips of the dataset as an extraction sorts them, and other files after these."""
        key = self.keys.get(os.path.realpath(name))
        return key is None, key or name


def is_complete(path: str | Path) -> bool:
    """False for a wav that is still being written: all audio that the header promises is not there yet."""
    try:
        read_header(path)
    except ValueError as error:
        return not _GROWING.search(str(error))
    return True


_GROWING = re.compile(r"is truncated|is empty")


def wavs(folder: str | Path) -> list[str]:
    """The wavs in a folder, by name; ValueError if it cannot be read."""
    return [entry.path for entry in manifest.clip_entries(Path(folder)) if is_wav(entry.name)]


def _states(folder: Path) -> dict[str, tuple[int, int]]:
    """Path of every wav in a folder -> size, and time of the last change in ns."""
    found = {}
    for path in wavs(folder):
        with contextlib.suppress(OSError):  # taken away meanwhile, or a link in a circle
            state = os.stat(path)
            found[path] = state.st_size, state.st_mtime_ns
    return found
