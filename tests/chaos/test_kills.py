"""Processes of a running sweep are killed, or stopped for longer than Ray's time-outs, at random moments.

A seed gives the faults and moments of one results folder, in which the same command is given until it ends.
ASDRAY_CHAOS_ROUNDS: number of seeds per kind of round.
"""

import os
import random

import pytest
from struck import Struck
from sweeping import World

pytestmark = [pytest.mark.ray, pytest.mark.chaos]

ROUNDS = int(os.environ.get("ASDRAY_CHAOS_ROUNDS", "16"))

FAULTS = [
    ("driver", "kill -9", 20.0),
    ("raylet", "kill -9", 15.0),
    ("GCS", "kill -9", 15.0),
    ("dashboard agent", "kill -9", 10.0),
    ("runtime env agent", "kill -9", 10.0),
    ("training worker", "kill -9", 4.0),
    ("task worker", "kill -9", 0.3),
    ("driver", "stop", 20.0),
    ("raylet", "stop", 15.0),
    ("GCS", "stop", 15.0),
    ("training worker", "stop", 4.0),
    ("task worker", "stop", 0.3),
]
"""Kind of process, action, and the longest time between the start of the process and the fault."""


@pytest.fixture
def struck(data, reference, tmp_path):
    struck = Struck(World(data, tmp_path / "results"), reference)
    yield struck
    struck.end()


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_killed_and_stopped_processes_cost_no_result(struck, seed):
    # Every kind in the same number of rounds: each round has five of them in a row, and some the run ends without.
    deal = FAULTS * 5
    chance = random.Random(seed)
    kinds = [deal[(5 * seed + i) % len(deal)] for i in range(5)]
    chance.shuffle(kinds)
    strike_all(struck, chance, kinds)


@pytest.mark.parametrize("seed", range(1000, 1000 + max(1, ROUNDS // 16)))
def test_a_dashboard_that_is_killed_or_stopped_costs_nothing(struck, seed):
    struck.more = ()
    chance = random.Random(seed)
    strike_all(struck, chance, [("dashboard", chance.choice(["kill -9", "stop"]), 6.0) for _ in range(5)])
    assert len(struck.runs) == 1


def strike_all(struck, chance, kinds):
    """Strikes with one fault after another; gives the command again whenever a run ends, until it ends with 0."""
    waiting = list(kinds)
    struck.start()
    while True:
        if waiting and struck.process.poll() is None:
            kind, action, latest = waiting[0]
            if struck.strike(kind, action, chance.uniform(0, latest), chance.random()):
                waiting.pop(0)
                continue
        if struck.process.poll() is None and waiting:
            waiting.append(waiting.pop(0))  # no such process for long: another fault first
            continue
        if struck.wait() == 0:
            break
        assert len(struck.runs) <= 2 * len(kinds) + 2, struck.history()
        struck.start()
    assert struck.faults, "nothing was struck"
    struck.judge()
