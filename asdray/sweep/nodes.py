"""Whether every node of a cluster can do a sweep's work, asked before hours are spent on it.

A task pinned to each node looks at its storage, disks and packages; what it sees must be what the driver
sees. Asked only of a Ray that the driver joins: one that it started itself is this machine.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import json
import os
import platform
import shutil
import sys
import tempfile
import uuid
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from asdray import provenance, store
from asdray.audio.cache import pack_sizes
from asdray.config.sweep import Sweep
from asdray.dcase.manifest import load_dataset, load_manifest
from asdray.store import Places

WAIT_SECONDS = 60.0
"""How long a node may take to answer: a worker starts there first, from storage that may be slow."""
RESULTS_BYTES = 1_000_000_000
"""What must be free for results at least; more where the sweep's own estimate says so."""

Facts = dict[str, Any]


def check(sweep: Sweep, places: Places, bytes_left: float, wait: float = WAIT_SECONDS) -> list[str]:
    """Asks every node of the Ray that this process has joined; under the lease of the sweep's folder.

    Args:
        bytes_left: what the sweep is estimated to write still.
        wait: seconds within which a node must answer.

    Returns:
        What must be said of the nodes, though they can do the work.

    Raises:
        ValueError: some cannot; one message that names each of them, what is wrong, and the fix.
    """
    _refuse_copy_of_job(places)
    folder = store.sweep_dir(places.results, sweep.name)
    meeting = folder / f".nodes-{uuid.uuid4().hex[:8]}"
    meeting.mkdir(parents=True)
    try:
        token = uuid.uuid4().hex
        store.write_text(meeting / "driver", token)
        ask = _ask(sweep, places, folder / ".lease", meeting)
        here = look({**ask, "packs": [], "cache": None}, None)
        faults: dict[str, list[str]] = {}
        notes: dict[str, list[str]] = {}
        answers = _answers(ask, wait)
        for node, answer in answers:
            if isinstance(answer, str):
                faults.setdefault(answer, []).append(node)
                continue
            wrote = _read(meeting / answer["node"])
            for fault in faults_of(answer, here, ask, token, wrote, bytes_left):
                faults.setdefault(fault, []).append(node)
            if not answer["leased"]:
                notes.setdefault(
                    f"file locks of {places.results} do not reach there: start no second sweep on the same "
                    "trials from another machine (Lustre: mount it with -o flock)",
                    [],
                ).append(node)
    finally:
        shutil.rmtree(meeting, ignore_errors=True)
    if faults:
        lines = [f"  {', '.join(named)}: {fault}" for fault, named in faults.items()]
        raise ValueError(
            f"some of the {len(answers)} nodes of this Ray cannot do the sweep's work:\n" + "\n".join(lines)
        )
    return [f"{', '.join(named)}: {note}" for note, named in notes.items()]


def faults_of(
    there: Facts, here: Facts, ask: Mapping[str, Any], token: str, wrote: str | None, bytes_left: float
) -> list[str]:
    """What keeps a node from doing the work: what it sees held against what the driver sees."""
    faults = []
    if there["source"] is None:
        return [f"has no asdray: install {here['source']} there, as it is here"]
    if there["source"] != here["source"]:
        faults.append(f"has {there['source']}, here is {here['source']}: install the same on every node")
    other = [
        f"{name} {version or 'missing'} (here {here['versions'][name] or 'missing'})"
        for name, version in there["versions"].items()
        if version != here["versions"][name]
    ]
    if other:
        faults.append(
            f"has {', '.join(other)}: results would depend on the node; install the same, for example from "
            "requirements.lock"
        )
    results, data, cache = ask["results"], ask["data"], ask["cache"]
    if there["token"] != token:
        faults.append(
            f"does not see --results {results}: it must be on storage that all nodes share, with the same "
            "path everywhere"
        )
    elif there["write"] is not None or wrote != token:
        faults.append(
            f"cannot write to --results {results} ({there['write'] or 'the driver does not see the file'}): "
            "give its user the right to, or mount it for writing"
        )
    if wrong := {path: key for path, key in there["datasets"].items() if key != here["datasets"][path]}:
        path, key = next(iter(wrong.items()))
        faults.append(
            f"sees another {path} than is here: format the data once, on storage that all nodes share"
            if key
            else f"does not see --data {data} ({path} is missing): it must be on storage that all nodes "
            "share, with the same path everywhere"
        )
    elif there["wavs"]:
        faults.append(f"does not see {there['wavs'][0]}: mount what the folders of {data}/original lead to")
    if there["cache"] is not None:
        faults.append(f"cannot write to --cache-dir {cache} ({there['cache']}): choose another place")
    for path, needed, free, fix in (
        (results, max(RESULTS_BYTES, bytes_left), there["free"], "free some, or choose another --results"),
        (cache, there["packs"], there["free_cache"], "free some, or choose another --cache-dir"),
    ):
        if free is not None and free < needed:
            faults.append(f"has {free / 1e9:.2f} GB free in {path}, {needed / 1e9:.2f} GB are needed: {fix}")
    return faults


def why_refused(address: str, error: Exception) -> str:
    """What to say where something listens at ``address`` and does not let us in."""
    said = str(error).splitlines()[0].split(". Ensure")[0].rstrip(".")
    mode = os.environ.get("RAY_AUTH_MODE", "")
    if mode.lower() != "token":
        token = f"RAY_AUTH_MODE is {mode!r} here: does that Ray ask for a token (RAY_AUTH_MODE=token)?"
    else:
        if os.environ.get("RAY_AUTH_TOKEN"):
            place = "in RAY_AUTH_TOKEN"
        else:
            place = f"in {os.environ.get('RAY_AUTH_TOKEN_PATH') or '~/.ray/auth_token'}"
        token = (
            f"the token {place} must be the one that the cluster was started with "
            "(RAY_AUTH_TOKEN_PATH names its file; RAY_AUTH_MODE=disabled joins a cluster without one)"
        )
    return f"the Ray at {address!r} does not let us in ({said}): {token}"


# ------------------------------------------------------------------------------------------- what is asked


def _ask(sweep: Sweep, places: Places, lease: Path, meeting: Path) -> dict[str, Any]:
    """What each node is to look at. Paths are text: nothing of asdray may be needed to read it."""
    wavs, packs = [], []
    for dcase in sweep.years:
        dataset, machines = load_dataset(places.data, dcase), sweep.machines_of(dcase)
        packs += [(str(path), key, size) for path, key, size in pack_sizes(places, dataset, machines)]
        table = load_manifest(places.data, dcase).select(["machine", "original_path"]).to_pydict()
        one = dict(zip(table["machine"], table["original_path"], strict=True))
        wavs += [str(places.data / one[machine]) for machine in machines]
    return {
        "results": str(places.results),
        "data": str(places.data),
        "cache": str(places.cache),
        "lease": str(lease),
        "meeting": str(meeting),
        "datasets": [str(store.dataset_path(places.data, dcase)) for dcase in sweep.years],
        "wavs": wavs,
        "packs": packs,
        "packages": [p for p in provenance.versions() if p not in ("python", "commit", "asdray")],
    }


def _refuse_copy_of_job(places: Places) -> None:
    """Raises ValueError where results would lie in what Ray deletes when the job ends."""
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") or "{}")
    copied = (job.get("runtime_env") or {}).get("working_dir")
    if copied and places.results.is_relative_to(Path.cwd()):
        raise ValueError(
            f"--results {places.results} lies in Ray's copy of the job's --working-dir, which is deleted "
            "after the job: give --results (and --data) absolute paths on storage that all nodes share"
        )


def _answers(ask: Mapping[str, Any], wait: float) -> list[tuple[str, Facts | str]]:
    """Each node's name and what it sees, or why it did not say; all are asked at once."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # The function itself travels, not its name: the node may have another asdray, or none.
    module = sys.modules[__name__]
    ray.cloudpickle.register_pickle_by_value(module)
    try:
        remote = ray.remote(num_cpus=0, max_retries=1)(look)
        alive = [node for node in ray.nodes() if node["Alive"]]
        asked = [
            remote.options(
                name=f"check {_name(node)}",
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
            ).remote(ask, node["NodeID"])
            for node in alive
        ]
    finally:
        ray.cloudpickle.unregister_pickle_by_value(module)
    ready, _ = ray.wait(asked, num_returns=len(asked), timeout=wait)
    said: list[tuple[str, Facts | str]] = []
    for node, ref in zip(alive, asked, strict=True):
        if ref not in ready:
            ray.cancel(ref, force=True)
            fault = f"no answer in {wait:.0f} s: look at its storage and load, or take it out of the cluster"
            said.append((_name(node), fault))
            continue
        try:
            said.append((_name(node), ray.get(ref)))
        except ray.exceptions.RayError as error:
            now_alive = {other["NodeID"] for other in ray.nodes() if other["Alive"]}
            if node["NodeID"] in now_alive:  # nothing is asked of a node that left meanwhile
                said.append((_name(node), f"the check failed: {' '.join(str(error).split())[-400:]}"))
    return said


def _name(node: Mapping[str, Any]) -> str:
    return f"{node['NodeManagerAddress']} ({node['NodeManagerHostname']})"


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return None


# ----------------------------------------------------------------------------------- what runs on a node
# Travels by value and may run where asdray is missing: the standard library only.


def look(ask: Mapping[str, Any], node: str | None) -> Facts:
    """What a node sees of all that is asked; ``node``: its id, None for the driver itself."""
    meeting = Path(ask["meeting"])
    token = _read(meeting / "driver")
    facts: Facts = {
        "node": node,
        "versions": {"python": platform.python_version(), **{p: _version(p) for p in ask["packages"]}},
        "source": _source(),
        "token": token,
        "write": None,
        "leased": _is_leased(ask["lease"]),
        "datasets": {path: _dataset_id(path) for path in ask["datasets"]},
        "wavs": [path for path in ask["wavs"] if not os.path.isfile(path)][:1],
        "packs": sum(size for path, key, size in ask["packs"] if _pack_id(path) != key),
        "cache": None,
        "free": _free(ask["results"]),
        "free_cache": None,
    }
    if node is not None and token is not None:
        facts["write"] = _refusal(lambda: (meeting / node).write_text(token, encoding="utf-8"))
    if ask["cache"] is not None:
        facts["cache"] = _refusal(lambda: _try_folder(ask["cache"]))
        facts["free_cache"] = _free(ask["cache"])
    return facts


def _refusal(work: Callable[[], Any]) -> str | None:
    try:
        work()
    except OSError as error:
        return error.strerror or str(error)
    return None


def _try_folder(path: str) -> None:
    os.makedirs(path, exist_ok=True)
    with tempfile.TemporaryFile(dir=path) as file:
        file.write(b"x")


def _free(path: str) -> int | None:
    with contextlib.suppress(OSError):
        return shutil.disk_usage(path).free
    return None


def _is_leased(path: str) -> bool:
    """Whether the driver's lock of ``path`` holds here; True too where the file is not to be seen."""
    try:
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return isinstance(error, BlockingIOError | FileNotFoundError)
    return False


def _pack_id(path: str) -> str | None:
    text = _read(Path(path))
    with contextlib.suppress(ValueError):
        return json.loads(text)["id"] if text else None
    return None


def _dataset_id(path: str) -> str | None:
    """All that a ``dataset.json`` says: equal files describe equal data."""
    text = _read(Path(path))
    return None if text is None else hashlib.sha256(text.encode()).hexdigest()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _source() -> str | None:
    """Version of asdray and hash of its source; None where there is none."""
    spec = importlib.util.find_spec("asdray")
    if spec is None or not spec.submodule_search_locations:
        return None
    root = Path(next(iter(spec.submodule_search_locations)))
    files = sorted(path for path in root.rglob("*") if path.suffix in (".py", ".yaml", ".csv"))
    content = hashlib.sha256()
    for path in files:
        content.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    version = next(
        (
            line.split('"')[1]
            for line in (root / "__init__.py").read_text().splitlines()
            if line.startswith("__version__")
        ),
        "?",
    )
    return f"asdray {version} (source {content.hexdigest()[:8]})"
