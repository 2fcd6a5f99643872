"""Checks of every node of a cluster before a sweep begins: storage, disks and packages.

A task pinned to each node collects facts, and the driver compares them with its own. A Ray started by the
driver is the same machine and needs no check.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import json
import os
import platform
import re
import shutil
import sys
import tempfile
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from asdray import provenance, store
from asdray.audio.cache import pack_sizes
from asdray.config.sweep import Sweep
from asdray.dcase.manifest import load_dataset, load_manifest
from asdray.store import Places
from asdray.sweep import inputs

WAIT_SECONDS = 60.0
"""Longest time for a node's answer: a worker must start there, from storage that may be slow."""
RESULTS_BYTES = 1_000_000_000
"""Free space that results need at least; more if the estimate of the sweep is larger."""

Facts = dict[str, Any]
"""The result of `facts_of` on a node."""


def check(sweep: Sweep, places: Places, bytes_left: float, wait: float = WAIT_SECONDS) -> list[str]:
    """Checks every node of the joined Ray, under the lease of the sweep's folder.

    Args:
        bytes_left: estimated size of the results still to be written.
        wait: seconds until a node counts as silent.

    Returns:
        Warnings about nodes fit for the work.

    Raises:
        ValueError: unfit nodes; the message names every fault, the nodes and the fix.
    """
    _refuse_copy_of_job(places)
    folder = store.sweep_dir(places.results, sweep.name)
    meeting = folder / f".nodes-{uuid.uuid4().hex[:8]}"
    meeting.mkdir(parents=True)
    try:
        request = _request(sweep, places, folder / ".lease", meeting)
        without_locks = _ask_nodes(request, meeting, bytes_left, wait)
    finally:
        shutil.rmtree(meeting, ignore_errors=True)
    if not without_locks:
        return []
    return [
        f"{', '.join(without_locks)}: file locks of {places.results} do not reach there: start no second "
        f"sweep on "
        "the same trials from another machine (Lustre: mount it with -o flock)"
    ]


def _ask_nodes(request: Mapping[str, Any], meeting: Path, bytes_left: float, wait: float) -> list[str]:
    """The names of the nodes that the driver's file locks do not reach.

    Args:
        meeting: a folder among the results, for the files by which driver and nodes see each other.

    Raises:
        ValueError: see `check`.
    """
    token = uuid.uuid4().hex
    store.write_text(meeting / "driver", token)
    driver = facts_of({**request, "packs": [], "cache": None}, None)
    faults: defaultdict[str, list[str]] = defaultdict(list)
    without_locks = []
    answers = _answers(request, wait)
    for node, answer in answers:
        if isinstance(answer, str):
            faults[answer].append(node)
            continue
        wrote = _read(meeting / answer["node"])
        for fault in faults_of(answer, driver, request, token, wrote, bytes_left):
            faults[fault].append(node)
        if not answer["leased"]:
            without_locks.append(node)
    if faults:
        lines = [f"  {', '.join(nodes)}: {fault}" for fault, nodes in faults.items()]
        raise ValueError(
            f"some of the {len(answers)} nodes of this Ray cannot do the sweep's work:\n" + "\n".join(lines)
        )
    return without_locks


def faults_of(
    node: Facts, driver: Facts, request: Mapping[str, Any], token: str, wrote: str | None, bytes_left: float
) -> list[str]:
    """The faults of a node, each with a fix; none for a node fit for the work.

    Args:
        node, driver: facts of both machines.
        token: text written by the driver among the results, to be read and written back by the node.
        wrote: text found by the driver in the file of the node.
    """
    if node["source"] is None:
        return [f"has no asdray: install {driver['source']} there, as it is here"]
    return [
        *_package_faults(node, driver),
        *_shared_faults(node, driver, request, token, wrote),
        *_disk_faults(node, request, bytes_left),
    ]


def _package_faults(node: Facts, driver: Facts) -> Iterator[str]:
    if node["source"] != driver["source"]:
        yield f"has {node['source']}, here is {driver['source']}: install the same on every node"
    other = [
        f"{name} {version or 'missing'} (here {driver['versions'][name] or 'missing'})"
        for name, version in node["versions"].items()
        if version != driver["versions"][name]
    ]
    if other:
        yield (
            f"has {', '.join(other)}: results would depend on the node; install the same, for example from "
            "requirements.lock"
        )


def _shared_faults(
    node: Facts, driver: Facts, request: Mapping[str, Any], token: str, wrote: str | None
) -> Iterator[str]:
    results, data = request["results"], request["data"]
    if node["token"] != token:
        yield (
            f"does not see --results {results}: it must be on storage that all nodes share, with the same "
            "path everywhere"
        )
    elif node["write"] is not None or wrote != token:
        yield (
            f"cannot write to --results {results} ({node['write'] or 'the driver does not see the file'}): "
            "give its user the right to, or mount it for writing"
        )
    wrong = {path: key for path, key in node["datasets"].items() if key != driver["datasets"][path]}
    for path, key in list(wrong.items())[:1]:
        if key:
            yield f"sees another {path} than is here: format the data once, on storage that all nodes share"
        else:
            yield (
                f"does not see --data {data} ({path} is missing): it must be on storage that all nodes "
                "share, with the same path everywhere"
            )
    for path, size in node["inputs"].items():
        if size != driver["inputs"][path]:
            fault = "does not see" if size is None else "sees another file at"
            yield f"{fault} {path}: put it on storage that all nodes share, with the same path everywhere"
    if node["wavs"] and not wrong:
        yield f"does not see {node['wavs'][0]}: mount what the folders of {data}/original lead to"


def _disk_faults(node: Facts, request: Mapping[str, Any], bytes_left: float) -> Iterator[str]:
    results, cache = request["results"], request["cache"]
    if node["cache"] is not None:
        yield f"cannot write to --cache-dir {cache} ({node['cache']}): choose another place"
    for path, needed, free, option in (
        (results, max(RESULTS_BYTES, bytes_left), node["free"], "--results"),
        (cache, node["packs"], node["free_cache"], "--cache-dir"),
    ):
        if free is not None and free < needed:
            yield (
                f"has {free / 1e9:.2f} GB free in {path}, {needed / 1e9:.2f} GB are needed: free some, "
                f"or choose "
                f"another {option}"
            )


def why_refused(address: str, error: Exception) -> str:
    """The error message for a Ray at ``address`` which listens and refuses the driver."""
    said = str(error).splitlines()[0].split(". Ensure")[0].rstrip(".")
    mode = os.environ.get("RAY_AUTH_MODE", "")
    if mode.lower() != "token":
        token = f"RAY_AUTH_MODE is {mode!r} here: does that Ray ask for a token (RAY_AUTH_MODE=token)?"
    else:
        place = os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token"
        token = (
            f"the token in {'RAY_AUTH_TOKEN' if os.environ.get('RAY_AUTH_TOKEN') else place} must be the "
            f"one that "
            "the cluster was started with (RAY_AUTH_TOKEN_PATH names its file; RAY_AUTH_MODE=disabled "
            "joins a "
            "cluster without one)"
        )
    return f"the Ray at {address!r} does not let us in ({said}): {token}"


# --------------------------------------------------------------------------- asking from the driver


def _request(sweep: Sweep, places: Places, lease: Path, meeting: Path) -> dict[str, Any]:
    """The argument of `facts_of`: paths as text, readable without asdray."""
    wavs, packs = [], []
    wanted = inputs.packs(sweep)
    for dcase in sweep.years:
        dataset, machines = load_dataset(places.data, dcase), sweep.machines_of(dcase)
        sizes = pack_sizes(places, dataset, machines, wanted)
        packs += [(str(path), key, size) for path, key, size in sizes]
        table = load_manifest(places.data, dcase).select(["machine", "original_path"]).to_pydict()
        one_clip = dict(zip(table["machine"], table["original_path"], strict=True))
        wavs += [str(places.data / one_clip[machine]) for machine in machines]
    return {
        "results": str(places.results),
        "data": str(places.data),
        "cache": str(places.cache),
        "lease": str(lease),
        "meeting": str(meeting),
        "datasets": [str(store.dataset_path(places.data, dcase)) for dcase in sweep.years],
        "wavs": wavs,
        "packs": packs,
        "inputs": [str(path) for path in inputs.paths(sweep, places)],
        "packages": [p for p in provenance.versions() if p not in ("python", "commit", "source", "asdray")],
    }


def _refuse_copy_of_job(places: Places) -> None:
    """Raises ValueError if the results are in a folder deleted by Ray at the end of the job."""
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") or "{}")
    copied = (job.get("runtime_env") or {}).get("working_dir")
    if copied and places.results.is_relative_to(Path.cwd()):
        raise ValueError(
            f"--results {places.results} lies in Ray's copy of the job's --working-dir, which is deleted "
            "after the job: give --results (and --data) absolute paths on storage that all nodes share"
        )


def _answers(request: Mapping[str, Any], wait: float) -> list[tuple[str, Facts | str]]:
    """Pairs of a node's name and facts, or the reason for no answer; all nodes are asked at once."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # The function travels by value, not by name: the node may have another asdray, or none.
    module = sys.modules[__name__]
    ray.cloudpickle.register_pickle_by_value(module)
    try:
        remote = ray.remote(num_cpus=0, max_retries=1)(facts_of)
        alive = [node for node in ray.nodes() if node["Alive"]]
        asked = [
            remote.options(
                name=f"check {_name(node)}",
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
            ).remote(request, node["NodeID"])
            for node in alive
        ]
    finally:
        ray.cloudpickle.unregister_pickle_by_value(module)
    ready, _ = ray.wait(asked, num_returns=len(asked), timeout=wait)
    answers: list[tuple[str, Facts | str]] = []
    for node, ref in zip(alive, asked, strict=True):
        if ref not in ready:
            ray.cancel(ref, force=True)
            fault = f"no answer in {wait:.0f} s: look at its storage and load, or take it out of the cluster"
            answers.append((_name(node), fault))
            continue
        try:
            answers.append((_name(node), ray.get(ref)))
        except ray.exceptions.RayError as error:
            if any(one["Alive"] and one["NodeID"] == node["NodeID"] for one in ray.nodes()):  # has not left
                answers.append((_name(node), f"the check failed: {' '.join(str(error).split())[-400:]}"))
    return answers


def _name(node: Mapping[str, Any]) -> str:
    return f"{node['NodeManagerAddress']} ({node['NodeManagerHostname']})"


# -------------------------------------------------------------------------------- looking on a node
# Travels by value and may run where asdray is missing: only the standard library.


def facts_of(request: Mapping[str, Any], node: str | None) -> Facts:
    """The facts of the node with id ``node``, or of the driver (None)."""
    meeting = Path(request["meeting"])
    token = _read(meeting / "driver")
    facts: Facts = {
        "node": node,
        "versions": {"python": platform.python_version(), **{p: _version(p) for p in request["packages"]}},
        "source": _source(),
        "token": token,
        "write": None,
        "leased": _is_leased(request["lease"]),
        "datasets": {path: _hash(path) for path in request["datasets"]},
        "wavs": [path for path in request["wavs"] if not os.path.isfile(path)][:1],
        "inputs": {path: _size(path) for path in request["inputs"]},
        "packs": sum(size for path, key, size in request["packs"] if _pack_id(path) != key),
        "cache": None,
        "free": _free(request["results"]),
        "free_cache": None,
    }
    if node is not None and token is not None:
        facts["write"] = _error_of(lambda: (meeting / node).write_text(token, encoding="utf-8"))
    if request["cache"] is not None:
        facts["cache"] = _error_of(lambda: _write_into(request["cache"]))
        facts["free_cache"] = _free(request["cache"])
    return facts


def _error_of(work: Callable[[], Any]) -> str | None:
    try:
        work()
    except OSError as error:
        return error.strerror or str(error)
    return None


def _write_into(folder: str) -> None:
    os.makedirs(folder, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"x")


def _read(path: Path) -> str | None:
    with contextlib.suppress(OSError, ValueError):
        return path.read_text(encoding="utf-8")
    return None


def _size(path: str) -> int | None:
    with contextlib.suppress(OSError):
        return os.stat(path).st_size
    return None


def _free(path: str) -> int | None:
    with contextlib.suppress(OSError):
        return shutil.disk_usage(path).free
    return None


def _is_leased(path: str) -> bool:
    """True if the driver's lock of ``path`` holds here, or if the file is invisible."""
    try:
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return isinstance(error, BlockingIOError | FileNotFoundError)
    return False


def _pack_id(path: str) -> str | None:
    """The id in the index of a pack; None for an index that is missing or damaged."""
    with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
        found = json.loads(_read(Path(path)) or "{}")["id"]
        return found if isinstance(found, str) else None
    return None


def _hash(path: str) -> str | None:
    text = _read(Path(path))
    return None if text is None else hashlib.sha256(text.encode()).hexdigest()


def _version(package: str) -> str | None:
    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version(package)
    return None


def _source() -> str | None:
    """Version and hash of the source of asdray; None if asdray is missing."""
    spec = importlib.util.find_spec("asdray")
    if spec is None or not spec.submodule_search_locations:
        return None
    root = Path(next(iter(spec.submodule_search_locations)))
    content = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        if path.suffix in (".py", ".yaml", ".csv"):
            content.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    version = re.search(r'^__version__ = "(.*)"', (root / "__init__.py").read_text(), re.MULTILINE)
    return f"asdray {version.group(1) if version else '?'} (source {content.hexdigest()[:8]})"
