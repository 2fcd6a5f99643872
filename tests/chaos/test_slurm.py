"""``benchmarks/cluster/slurm.sh`` on a real Slurm with two machines, as root: `make chaos-slurm`."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import yaml
from outcomes import Outcome, note
from slurm_machines import MACHINES, Slurm, missing
from sweeping import SMALL_AE, SMALL_DIS, World, by_hand, in_process, make_data, spec

pytestmark = [pytest.mark.slurm, pytest.mark.skipif(missing() is not None, reason=missing() or "")]

ROOT = Path(__file__).parents[2]
SCRIPT = (ROOT / "benchmarks" / "cluster" / "slurm.sh").read_text()
SECONDS = 900
"""Longest time for a sweep that takes two minutes on a machine with two idle cores."""

LONG = {
    "recipes": {"dis_baseline": {"set": {**SMALL_DIS, "train.epochs": 120}}, "ae_baseline": {"set": SMALL_AE}}
}
"""A sweep with a training that lasts long enough to be stopped in the middle."""


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    with Slurm(tmp_path_factory.mktemp("slurm") / "s") as slurm:
        yield slurm


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def tables(data, tmp_path_factory):
    """The tables of a sweep without Slurm, Ray and faults."""
    world = World(data, tmp_path_factory.mktemp("by_hand") / "results")
    return by_hand(lambda *args: (0, in_process(*args), ""), world, **LONG)


@pytest.fixture
def site(slurm, data, tmp_path):
    site = Site(slurm, data, tmp_path)
    yield site
    site.leave()


class Site:
    """A folder that both machines share, with the script as a user edits it."""

    def __init__(self, slurm, data, folder):
        self.slurm, self.folder = slurm, folder
        self.world = World(data, folder / "results")
        (folder / "sweep.yaml").write_text(yaml.safe_dump(spec(**LONG)))
        script = re.sub(r"^#SBATCH --gpus.*\n", "", SCRIPT, flags=re.MULTILINE)
        for name, value in {"cpus-per-task": 1, "mem": "2G"}.items():
            script, n = re.subn(rf"^(#SBATCH --{name})=\w+", rf"\1={value}", script, flags=re.MULTILINE)
            assert n == 1
        script, n = re.subn(r'(asdray sweep "\$@")', rf"\1 $(cat {folder}/options)", script)
        assert n == 1
        self.options = folder / "options"  # for the next part of a job
        self.options.touch()
        (folder / "slurm.sh").write_text(script)
        self.jobs = []

    def submit(self, sbatch=""):
        """Submits the sweep; returns the job's number."""
        env = {
            "SHARED": self.folder, "VENV": Path(sys.executable).parents[1], "PYTHONPATH": ROOT,
            "ASDRAY_DATA": self.world.data, "ASDRAY_CACHE_DIR": self.slurm.local / "cache",
            "TEMP_DIR": self.slurm.local / "ray",
        }  # fmt: skip
        command = f"cd {self.folder} && sbatch --parsable {sbatch} slurm.sh sweep.yaml"
        job = int(self.slurm.run(command, **{name: str(value) for name, value in env.items()}))
        self.jobs.append(job)
        return job

    def leave(self):
        """Cancels what a failed test has left, and waits for its end."""
        for job in self.jobs:
            self.slurm.run(f"scancel {job}", check=False)
        self.slurm.run("scontrol update nodename=node1,node2 state=resume", check=False)
        for job in self.jobs:
            self.until(lambda job=job: self.slurm.state(job) not in ("PENDING", "RUNNING", "COMPLETING"))

    def log(self, job):
        path = self.folder / f"asdray-{job}.log"
        return path.read_text() if path.exists() else ""

    def until(self, holds, job=None):
        end = time.monotonic() + SECONDS
        while not holds():
            said = self.log(job) if job else ""
            assert time.monotonic() < end, said[-8000:]
            assert not job or self.slurm.state(job) not in ("FAILED", "TIMEOUT"), said[-8000:]
            time.sleep(0.5)

    def trains(self):
        """True once the long training has finished an epoch."""
        return any(self.world.results.glob("trials/*/dis_*/seed0/model/*/metrics.csv"))

    def finished(self):
        """Steps -> how often each was done, by the sweep's log."""
        keys = ("stage", "system", "unit", "machine", "checkpoint", "backend")
        return Counter(json.dumps([e[key] for key in keys]) for e in self.world.events() if not e["found"])

    def put_back(self, job):
        """Waits until the job, stopped with work left, is in the queue once more."""
        self.until(
            lambda: self.slurm.job(job)["Restarts"] != "0" or self.slurm.state(job) == "COMPLETED", job
        )
        assert "back into the queue" in self.log(job)

    def ends(self, job):
        """Waits until the job has completed."""
        self.until(lambda: self.slurm.state(job) == "COMPLETED", job)

    def left(self):
        """What lies on the machines and in the shared folder beside the sweep's own."""
        found = [f"{name}: {line}" for name in MACHINES for line in self.slurm.processes_of(name)]
        for name in MACHINES:
            files = self.slurm.run(f"ls -A {self.slurm.local}", on=name).split()
            found += [f"{name}: {file}" for file in files if file != "cache"]
        found += [str(path) for path in self.folder.rglob(".tmp-*")]
        known = {
            "results",
            "sweep.yaml",
            "slurm.sh",
            "options",
            ".ray-token",
            *(f"asdray-{job}.log" for job in self.jobs),
        }
        return found + sorted(set(os.listdir(self.folder)) - known)


def judge(site, fault, place, before, tables):
    """Notes the outcome of a fault, after the sweep has ended."""
    end = time.monotonic() + 30
    while (left := site.left()) and time.monotonic() < end:  # Slurm takes seconds to end what it killed
        time.sleep(1)
    after = site.finished()
    repeated = sum(after[step] - before[step] for step in before if not step.startswith('["table"'))
    identical = site.world.tables() == tables
    note(Outcome(fault, place, not left, repeated, identical))
    assert not left
    assert identical
    assert not repeated


def test_a_sweep_stops_before_slurms_time_is_over_and_goes_on_in_the_next_part(site, tables):
    """Slurm looks every 30 seconds whose time is over: the signal comes in the first 30 seconds of the sweep."""
    job = site.submit(sbatch="--time=60")
    site.until(lambda: "have joined" in site.log(job), job)
    site.slurm.run(f"scontrol update jobid={job} endtime=now+170")  # less than the 180 seconds of --signal
    site.put_back(job)
    before = site.finished()
    site.slurm.run(f"scontrol update jobid={job} timelimit=60")
    site.ends(job)
    assert site.slurm.job(job)["Restarts"] == "1"
    judge(site, "Slurm: the job's time is over", "the first 30 seconds", before, tables)


def test_wall_time_puts_the_job_back(site, tables):
    site.options.write_text("--wall-time 45")
    job = site.submit()
    site.put_back(job)
    before = site.finished()
    site.options.write_text("")
    site.ends(job)
    assert "--wall-time is nearly over" in site.log(job)
    judge(site, "Slurm: --wall-time", "34 seconds", before, tables)


def test_scancel_ends_the_job_and_leaves_nothing(site, tables):
    job = site.submit()
    site.until(site.trains, job)
    site.slurm.run(f"scancel {job}")
    site.until(lambda: site.slurm.state(job) == "CANCELLED")
    site.until(lambda: not site.left())
    assert site.slurm.job(job)["Restarts"] == "0"
    assert f'File "{ROOT}/asdray/' not in site.log(job)  # Ray prints one where two machines end at once
    before = site.finished()
    again = site.submit()
    site.ends(again)
    judge(site, "Slurm: scancel", "training", before, tables)


def test_a_drained_machine_finishes_its_work_and_a_lost_one_sends_the_job_back(site, tables):
    job = site.submit()
    site.until(site.trains, job)
    site.slurm.run("scontrol update nodename=node2 state=drain reason=chaos")
    time.sleep(5)
    assert site.slurm.state(job) == "RUNNING"
    site.slurm.run("scontrol update nodename=node2 state=down reason=chaos")
    site.until(lambda: int(site.slurm.job(job)["Restarts"]) == 1)
    before = site.finished()
    site.slurm.run("scontrol update nodename=node2 state=resume")
    site.ends(job)
    judge(site, "Slurm: a machine drained, then down", "training", before, tables)


def test_sbatch_knows_every_option_of_the_script(slurm, tmp_path):
    """Commented ones included; the machines here have no GPU."""
    script = re.sub(r"^# #SBATCH", "#SBATCH", SCRIPT, flags=re.MULTILINE)
    script, n = re.subn(r"^#SBATCH --gpus.*\n", "", script, flags=re.MULTILINE)
    assert n == 1
    (tmp_path / "all.sh").write_text(script)
    ask = f"cd {tmp_path}; sbatch --test-only"
    assert "invalid partition" in slurm.run(f"{ask} all.sh 2>&1", check=False)
    fits = "--partition=all --cpus-per-task=1 --mem=1G"
    assert "to start at" in slurm.run(f"{ask} {fits} all.sh 2>&1", check=False)
    (tmp_path / "all.sh").write_text(script.replace("--qos=", "--quality="))
    assert "unrecognized option" in slurm.run(f"{ask} {fits} all.sh 2>&1", check=False)
