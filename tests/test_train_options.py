"""Options of training: each does what its name says, and a training that was cut off ends with the same bytes."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from finished import snapshot
from no_plugins import forget_plugins
from tiny import AE, DCASE, DIS, MACHINES, build_year, trial_of

from asdray import frontends, store
from asdray.audio.batches import WEIGHTS, Clips, generator
from asdray.audio.cache import ensure_pack
from asdray.config.base import canonical, load_plugins
from asdray.config.expand import check_scheduler, expand
from asdray.config.files import validate
from asdray.config.sweep import Sweep
from asdray.config.system import System, with_overrides
from asdray.config.train import Train
from asdray.frontends import checkpoint
from asdray.frontends.discriminative import DiscriminativeFrontend
from asdray.stages.columns import training_columns
from asdray.stages.extract import extract, read_extract
from asdray.stages.optimiser import AveragedWeights, Plan, build_optimiser, build_schedule
from asdray.stages.steps import Request, TrialFiles, steps
from asdray.stages.train import train
from asdray.store import Places
from asdray.sweep.events import EventLog, largest_batch
from asdray.sweep.jobs import Job, log_found
from asdray.sweep.outputs import memory_notes

PLUGIN = Path(__file__).parent / "plugin_example.py"
N_STEPS = 6
"""Batches of 64 in an epoch of the autoencoder: 6 clips of 59 vectors."""


class Stop(Exception):  # noqa: N818 - ends a training as a kill would: only files are left
    pass


def ae(validation: float = 0.0, **options: Any) -> System:
    frontend = AE.frontend.model_copy(update={"validation": validation})
    plain = {"epochs": None if "steps" in options else 3, "batch_size": 64}
    return AE.model_copy(update={"frontend": frontend, "train": Train(**{**plain, **options})})


def dis(validation: float = 0.0, **options: Any) -> System:
    frontend = DIS.frontend.model_copy(update={"validation": validation})
    return DIS.model_copy(
        update={"frontend": frontend, "train": Train(**{"epochs": 3, "batch_size": 8, **options})}
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    build_year(folder)
    return folder


@pytest.fixture(scope="module")
def shared(data, tmp_path_factory) -> Places:
    return Places.of(data, tmp_path_factory.mktemp("shared"))


@pytest.fixture
def places(data, tmp_path) -> Places:
    return Places.of(data, tmp_path / "results")


@pytest.fixture(scope="module")
def bands() -> Iterator[Callable[..., System]]:
    """Systems with the plugin's linear frontend, which has no batch normalisation."""
    load_plugins([PLUGIN])

    def system(**options: Any) -> System:
        plain = {"frontend": {"name": "bands"}, "audio": {"duration": 0.4}}
        return validate(System, {**plain, "train": {"epochs": 3, "batch_size": 6, **options}}, "test")

    yield system
    forget_plugins()


def trained(system: System, places: Places, checkpoints: tuple[str, ...] = ("last",), **options: Any) -> Path:
    """The folder of the first unit's training."""
    trial = trial_of(system)
    files = TrialFiles.load(trial, places)
    train(files, trial.units[0], checkpoints=checkpoints, **options)
    return files.folder.model(trial.units[0].name)


def read(folder: Path, name: str = "last") -> dict[str, Any]:
    return checkpoint.read(folder / "checkpoints" / f"{name}.ckpt")


def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def weights(folder: Path) -> torch.Tensor:
    state = read(folder)["state_dict"]
    return torch.cat(
        [value.double().flatten() for name, value in sorted(state.items()) if "num_" not in name]
    )


# --------------------------------------------------------------------------------------------- configuration


def test_options_at_their_defaults_are_no_part_of_an_id():
    plain = Train(optimizer="adamw", schedule={"name": "constant", "warmup": 0}, groups=(), steps=None)
    assert plain == Train()
    assert set(canonical(plain)) == {
        "numerics", "epochs", "batch_size", "learning_rate", "weight_decay", "threads"
    }  # fmt: skip
    assert "validation" not in canonical(DIS.frontend)


OPTIONS: dict[str, dict[str, Any]] = {
    "adam": {"optimizer": "adam"},
    "eps": {"optimizer": {"name": "adamw", "eps": 1e-3}},
    "sgd": {"optimizer": "sgd", "learning_rate": 1e-4},
    "momentum": {"optimizer": {"name": "sgd", "momentum": 0.9}, "learning_rate": 1e-4},
    "nesterov": {"optimizer": {"name": "sgd", "momentum": 0.9, "nesterov": True}, "learning_rate": 1e-4},
    "groups": {"groups": [{"match": "network.decoder.*", "learning_rate": 1e-2}]},
    "warmup": {"schedule": {"name": "constant", "warmup": 5}},
    "cosine": {"schedule": "cosine"},
    "step": {"schedule": {"name": "step", "every": 4}},
    "one_cycle": {"schedule": "one_cycle"},
    "clip": {"gradient_clip": 0.01},
    "accumulate": {"accumulate": 2},
    "steps": {"steps": 8},
}


@pytest.fixture(scope="module")
def by_option(shared) -> dict[str, torch.Tensor]:
    """Weights after a short training, per option."""
    short = {name: o if "steps" in o else {"epochs": 2, **o} for name, o in OPTIONS.items()}
    return {name: weights(trained(ae(**options), shared)) for name, options in short.items()}


def test_every_option_changes_the_result_and_the_id(by_option, shared):
    plain = ae(epochs=2)
    found = {"plain": weights(trained(plain, shared)), **by_option}
    assert len({tuple(values.tolist()) for values in found.values()}) == len(found)
    assert len({ae(**options).id for options in OPTIONS.values()} | {plain.id}) == len(found)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"steps": 5, "epochs": 3}, "epochs: 3 and steps: 5: give epochs or steps, and null for the other"),
        ({"epochs": None}, "no length: give epochs or steps"),
        ({"optimizer": {"name": "sgd", "nesterov": True}}, "nesterov needs a momentum"),
        ({"optimizer": {"name": "adam", "momentum": 0.9}}, "momentum"),
        (
            {"schedule": {"name": "cosine", "warmup": 9}, "steps": 9, "epochs": None},
            "warm-up of 9 .* 9 steps",
        ),
        (
            {"schedule": {"name": "cosine", "min_learning_rate": 1e-3}},
            "min_learning_rate is 0.001, not below",
        ),
        ({"groups": [{"match": "a*"}]}, "'a\\*' needs a learning_rate or a weight_decay"),
        ({"groups": [{"match": "a", "weight_decay": 0}] * 2}, "groups match 'a' twice"),
        ({"ema": 1.0}, "ema"),
    ],
)
def test_options_that_do_not_fit(options, says):
    with pytest.raises(ValueError, match=says):
        validate(Train, options, "test")


def test_steps_need_no_word_on_epochs_but_an_override_does():
    assert Train(steps=5).epochs is None
    with pytest.raises(ValueError, match="epochs: 3 and steps: 5"):
        with_overrides(ae(), {"train.steps": 5}, "--set")
    assert with_overrides(ae(), {"train.steps": 5, "train.epochs": None}, "--set").train.steps == 5


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"recipes": {"ae_baseline": {"set": {"train.early_stopping": {}}}}}, "holds none out.*validation"),
        (
            {"recipes": {"ae_baseline": {"set": {"train.steps": 9, "train.epochs": None}}}, "checkpoints": "epoch_2"},
            "names epoch_2, but .* last and best alone: train.steps is 9",
        ),
        (
            {
                "recipes": {"ae_baseline": {"set": {"train.steps": 9, "train.epochs": None}}},
                "search": {"algorithm": "random", "num_samples": 2, "objective": "train_loss"}, "scheduler": "asha",
                "space": {"train.learning_rate": {"loguniform": [1e-4, 1e-2]}},
            },
            "asha compares trainings of a known number of epochs, but train.steps is 9",
        ),
    ],
)  # fmt: skip
def test_plans_that_do_not_fit(options, says):
    spec = {"name": "x", "dcase": DCASE, "seeds": [0], "backends": ["knn"], **options}
    with pytest.raises(ValueError, match=says):
        sweep = validate(Sweep, spec, "x.yaml")
        (check_scheduler if sweep.scheduler else expand)(sweep, "x.yaml")


def test_checkpoints_of_a_training_of_unknown_length(places):
    with pytest.raises(ValueError, match=r"'epoch_2' is none of: last, best \(train.steps is 8\)"):
        trained(ae(steps=8), places, ("epoch_2",))


# ----------------------------------------------------------------------------------- optimiser and schedule


def rates(schedule: Any, n_steps: int) -> list[float]:
    """The learning rate of each step, divided by that of the options."""
    model = frontends.build(AE.frontend, 6400)
    options = Train(schedule=schedule, optimizer="sgd", learning_rate=0.5)
    optimiser = build_optimiser(model, options)
    moved = build_schedule(optimiser, options, n_steps)
    found = []
    for _ in range(n_steps):
        found.append(optimiser.param_groups[0]["lr"] / 0.5)
        optimiser.step()
        if moved is not None:
            moved.step()
    return found


def cosine(share: float) -> float:
    return (1 + math.cos(math.pi * share)) / 2


def one_cycle(step: int) -> float:
    peak = 0.25 * 20 - 1
    if step <= peak:
        return 1 / 4 + (1 - 1 / 4) * (1 - cosine(step / peak))
    return 1 / 40 + (1 - 1 / 40) * cosine((step - peak) / (19 - peak))


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [1.0] * 20),
        ({"name": "constant", "warmup": 4}, [0.25, 0.5, 0.75, *[1.0] * 17]),
        ({"name": "constant", "warmup": 1}, [1.0] * 20),
        ({"name": "constant", "warmup": 80}, [k / 80 for k in range(1, 21)]),
        ("cosine", [cosine(k / 20) for k in range(20)]),
        (
            {"name": "cosine", "warmup": 0.2, "min_learning_rate": 0.05},
            [0.25, 0.5, 0.75, 1.0, *[0.1 + 0.9 * cosine(k / 16) for k in range(16)]],
        ),
        (
            {"name": "step", "every": 7, "factor": 0.5, "warmup": 2},
            [0.5, 1.0, *[1.0] * 7, *[0.5] * 7, *[0.25] * 4],
        ),
        (
            {"name": "one_cycle", "warmup": 0.25, "div_factor": 4, "final_div_factor": 10},
            [one_cycle(k) for k in range(20)],
        ),
    ],
)
def test_schedules_by_step(schedule, expected):
    assert rates(schedule, 20) == pytest.approx(expected)


@pytest.mark.parametrize(
    "schedule", [{"name": "cosine", "warmup": 50}, {"name": "one_cycle", "warmup": 0.05}]
)
def test_a_warm_up_that_does_not_fit_the_training(schedule, places):
    with pytest.raises(ValueError, match=r"warm-up of .* 18 steps"):
        trained(ae(schedule=schedule), places)


def test_the_rate_in_metrics_is_that_of_the_last_step(shared):
    found = rows(trained(ae(schedule="cosine"), shared))
    expected = [1e-3 * cosine(k / (3 * N_STEPS)) for k in (N_STEPS - 1, 2 * N_STEPS - 1, 3 * N_STEPS - 1)]
    assert [float(row["learning_rate"]) for row in found] == pytest.approx(expected)


def test_groups_by_name():
    model = frontends.build(AE.frontend, 6400)
    groups = [
        {"match": "*.decoder.*.bias", "weight_decay": 0},
        {"match": "network.decoder.*", "learning_rate": 0.2, "weight_decay": 0.3},
    ]
    optimiser = build_optimiser(model, Train(groups=groups, learning_rate=0.1))
    names = {id(p): name for name, p in model.named_parameters()}
    found = [
        ({names[id(p)] for p in g["params"]}, g["lr"], g["weight_decay"]) for g in optimiser.param_groups
    ]
    decoder = {name for name in names.values() if name.startswith("network.decoder.")}
    biases = {name for name in decoder if name.endswith("bias")}
    assert found == [
        (set(names.values()) - decoder, 0.1, 0.01),
        (biases, 0.1, 0),
        (decoder - biases, 0.2, 0.3),
    ]


@pytest.mark.parametrize(
    ("match", "says"),
    [
        (
            "network.decodr.0.weight",
            r"matches none of the \d+ parameters .*near names: network.decoder.0.weight",
        ),
        ("network.encoder.*", "matches only parameters of earlier groups"),
    ],
)
def test_groups_that_match_nothing(match, says, places):
    groups = [{"match": "network.e*", "weight_decay": 0}, {"match": match, "weight_decay": 1}]
    with pytest.raises(ValueError, match=says):
        trained(ae(groups=groups), places)


def test_the_norm_of_the_gradient_is_clipped(bands, places):
    """With SGD, one step, and the same start, weights of two learning rates differ by the norm alone."""
    plain = {"steps": 1, "epochs": None, "batch_size": 6, "optimizer": "sgd", "weight_decay": 0}
    once, thrice = (
        weights(trained(bands(**plain, gradient_clip=0.05, learning_rate=rate), places))
        for rate in (1.0, 3.0)
    )
    assert float((thrice - once).norm()) == pytest.approx(2 * 0.05, rel=1e-4)


# ------------------------------------------------------------------------------------- batches and steps


@pytest.mark.parametrize(("large", "small", "n"), [(6, 3, 2), (6, 2, 3), (4, 2, 2)])
def test_accumulated_batches_equal_the_larger_batch(large, small, n, bands, places):
    whole = trained(bands(batch_size=large), places)
    parts = trained(bands(batch_size=small, accumulate=n), places)
    torch.testing.assert_close(weights(parts), weights(whole), rtol=0, atol=1e-6)
    assert float((weights(whole) - weights(trained(bands(batch_size=small), places))).abs().max()) > 1e-4
    losses = [[float(row["loss"]) for row in rows(folder)] for folder in (parts, whole)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_number_of_steps(shared):
    folder = trained(ae(steps=N_STEPS + 2), shared)
    steps = {int(s["step"]) for s in read(folder)["optimizer_states"][0]["state"].values()}
    assert steps == {N_STEPS + 2}
    assert [row["epoch"] for row in rows(folder)] == ["1", "2"]
    # Two of six batches: the mean is over their vectors alone.
    assert float(rows(folder)[1]["loss"]) == pytest.approx(float(rows(folder)[0]["loss"]), rel=0.1)
    whole = trained(ae(epochs=1), shared)
    assert rows(folder)[0]["loss"] == rows(whole)[0]["loss"]


def test_the_batches_of_steps():
    plan = Plan.of((8, 8, 8, 8, 5), 2, Train(steps=7))
    assert (plan.epochs, plan.n_steps) == (3, 7)
    assert [plan.n_batches(epoch) for epoch in range(3)] == [5, 5, 2]
    assert [plan.share(b) for b in range(5)] == [0.5, 0.5, 0.5, 0.5, 1.0]
    assert [b for b in range(5) if plan.ends_step(b)] == [1, 3, 4]


# ------------------------------------------------------------------------------------------ averaged weights


def test_the_formula_of_the_average():
    model = frontends.build(AE.frontend, 6400)
    averages = AveragedWeights(model, 0.9)
    weight = model.get_parameter("network.encoder.0.weight")
    mean, rng = None, np.random.default_rng(0)
    for _ in range(4):
        with torch.no_grad():
            weight += torch.from_numpy(rng.normal(size=weight.shape).astype(np.float32))
        averages.update()
        now = weight.detach().double().numpy().copy()
        mean = now if mean is None else 0.9 * mean + 0.1 * now
    before = weight.detach().clone()
    with averages.in_use():
        np.testing.assert_allclose(weight.detach().numpy(), mean, rtol=1e-5, atol=1e-6)
    assert torch.equal(weight, before)
    assert averages.state()["n_averaged"] == 4


def held_out_loss(frontend: Any, system: System, places: Places) -> float:
    """The mean loss over the held-out data of the first unit, found from the frontend's own methods."""
    trial = trial_of(system)
    unit = trial.units[0]
    packs = [ensure_pack(places, DCASE, machine, "train") for machine in unit.machines]
    rng = generator(0, f"{unit.name}/held-out", WEIGHTS)
    data = frontend.training_data(Clips(packs), training_columns(places, packs), 7, rng)
    total, n = 0.0, 0
    with torch.no_grad():
        for batch in data.held_out():
            size = len(batch[0]) if isinstance(batch, tuple) else len(batch)
            total, n = total + float(frontend.loss(batch)) * size, n + size
    return total / n


@pytest.mark.parametrize("system", [ae(0.2, ema=0.9), dis(0.3, ema=0.5)], ids=["ae", "dis"])
def test_averaged_weights_are_validated_and_extracted(system, shared):
    folder = trained(system, shared)
    saved = read(folder)
    averaged, own = saved["averaged"]["tensors"], saved["state_dict"]
    floats = {name for name, value in own.items() if value.is_floating_point()}
    assert {f"frontend.{name}" for name in averaged} == floats
    assert any(not torch.equal(value, own[f"frontend.{name}"]) for name, value in averaged.items())

    trial = trial_of(system)
    files = TrialFiles.load(trial, shared)
    path = files.folder.checkpoint(trial.units[0].name, "last")
    with_average = checkpoint.load(path, system.frontend, 6400)
    assert float(rows(folder)[-1]["validation_loss"]) == pytest.approx(
        held_out_loss(with_average, system, shared), rel=1e-5
    )
    with_average.load_state_dict({name.removeprefix("frontend."): value for name, value in own.items()})
    assert held_out_loss(with_average, system, shared) != float(rows(folder)[-1]["validation_loss"])

    extract(files, MACHINES[0], "last")
    found = read_extract(files.folder.extract("last", MACHINES[0], "test")).embedding
    clips = Clips([ensure_pack(shared, DCASE, MACHINES[0], "test")])
    waves = clips.gather(np.arange(len(clips)), 6400).float() / 32768
    expected = {}
    for name, state in (("own", {}), ("averaged", averaged)):
        with_average.load_state_dict({**with_average.state_dict(), **state})
        with torch.no_grad():
            expected[name] = with_average.extract(waves)["embedding"].numpy()
    np.testing.assert_allclose(found, expected["averaged"], rtol=1e-4, atol=1e-5)
    assert np.abs(found - expected["own"]).max() > 1e-3


# --------------------------------------------------------------------------------- held-out data, the end


def test_held_out_clips_are_never_trained_on(shared):
    system = dis(0.3)
    packs = [ensure_pack(shared, DCASE, machine, "train") for machine in MACHINES]
    columns = training_columns(shared, packs)
    columns["attributes"] = [str(i) for i in range(18)]  # each clip has a class of its own
    frontend = frontends.build(system.frontend, 6400, columns=columns)
    assert isinstance(frontend, DiscriminativeFrontend)
    data = frontend.training_data(Clips(packs), columns, 5, np.random.default_rng(0))
    trained_on = [int(c) for batch in data.epoch(np.random.default_rng(1)) for c in batch.classes]
    held_out = [int(c) for batch in data.held_out() for c in batch.classes]
    assert len(held_out) == round(0.3 * 18)
    assert sorted(trained_on + held_out) == list(range(18))
    assert sum(data.sizes) == len(trained_on)
    again = frontend.training_data(Clips(packs), columns, 5, np.random.default_rng(2))
    assert [int(c) for batch in again.held_out() for c in batch.classes] != held_out


def test_a_training_ends_when_the_held_out_loss_does_not_fall(shared):
    """The rule, on losses that are known: three epochs without a fall of 0.5 below the lowest value."""
    system = ae(0.2, epochs=40, early_stopping={"patience": 2, "min_delta": 2.0}, learning_rate=3e-3)
    folder = trained(system, shared, ("last", "best"))
    losses = [float(row["validation_loss"]) for row in rows(folder)]
    lowest, since, ends = math.inf, 0, None
    for epoch, loss in enumerate(losses, 1):
        lowest, since = (loss, 0) if loss < lowest - 2.0 else (lowest, since + 1)
        if since == 2 and ends is None:
            ends = epoch
    assert 2 < len(losses) < 40
    assert ends == len(losses)
    assert len(read(folder, "best")["asdray"]["history"]) == 1 + int(np.argmin(losses))
    trial = trial_of(system)
    now = snapshot(trial, shared)
    assert now.record(now.train(trial.units[0], ("last", "best"))).extra["epochs"] == len(losses)
    # Killed between the last epoch and the record: the training is found to be over.
    before = (folder / "checkpoints" / "last.ckpt").read_bytes()
    store.write_record(folder, "train", None)
    seen: list[dict] = []
    trained(system, shared, ("last", "best"), on_epoch=seen.append)
    assert not seen
    assert (folder / "checkpoints" / "last.ckpt").read_bytes() == before


# ------------------------------------------------------------------------------------------------- kills

COMBINED = {
    "sgd": ae(
        steps=20,
        optimizer={"name": "sgd", "momentum": 0.9, "nesterov": True},
        learning_rate=1e-4,
        schedule={"name": "cosine", "warmup": 0.3},
        accumulate=2,
        gradient_clip=1.0,
        ema=0.8,
    ),
    "one_cycle": ae(
        optimizer="adam",
        schedule="one_cycle",
        groups=[{"match": "*bias", "learning_rate": 1e-2, "weight_decay": 0}],
    ),
    "step": ae(
        0.2,
        epochs=9,
        schedule={"name": "step", "every": 5, "warmup": 8},
        early_stopping={"patience": 2, "min_delta": 1.0},
        ema=0.9,
        accumulate=2,
    ),
    "dis": dis(
        0.3,
        epochs=8,
        accumulate=2,
        schedule={"name": "constant", "warmup": 4},
        early_stopping={"patience": 2},
        ema=0.5,
        gradient_clip=0.1,
    ),
}


@pytest.mark.parametrize("name", COMBINED)
def test_a_killed_training_ends_with_the_same_bytes(name, shared, places, monkeypatch):
    """The training is cut off in the middle of its third epoch, and again right after that epoch."""
    system, names = COMBINED[name], ("last", "best")
    undisturbed = trained(system, shared, names)
    kind = frontends.build(AE.frontend, 6400).__class__ if name != "dis" else DiscriminativeFrontend
    loss, calls = kind.loss, 0
    per_epoch = len(Plan.of(sizes_of(system, shared), 1, Train()).sizes)

    def cut_off(self: Any, batch: Any) -> Any:
        nonlocal calls
        calls += self.training
        if calls == 2 * per_epoch + 2:
            raise Stop
        return loss(self, batch)

    def after_third(row: dict) -> None:
        if row["epoch"] == 3:
            raise Stop

    monkeypatch.setattr(kind, "loss", cut_off)
    with pytest.raises(Stop):
        trained(system, places, names)
    monkeypatch.setattr(kind, "loss", loss)
    with pytest.raises(Stop):
        trained(system, places, names, on_epoch=after_third)
    seen: list[dict] = []
    folder = trained(system, places, names, on_epoch=seen.append)
    assert "goes on after epoch 2" in (folder / "train.log").read_text()
    for ckpt in names:
        path = Path("checkpoints") / f"{ckpt}.ckpt"
        assert (folder / path).read_bytes() == (undisturbed / path).read_bytes()
    assert [row["learning_rate"] for row in rows(folder)] == [
        row["learning_rate"] for row in rows(undisturbed)
    ]


def sizes_of(system: System, places: Places) -> tuple[int, ...]:
    trial = trial_of(system)
    packs = [ensure_pack(places, DCASE, machine, "train") for machine in trial.units[0].machines]
    columns = training_columns(places, packs)
    frontend = frontends.build(system.frontend, 6400, columns=columns)
    return frontend.training_data(
        Clips(packs), columns, system.train.batch_size, np.random.default_rng(0)
    ).sizes


# ------------------------------------------------------------------------------------------ lack of memory

HUNGRY = """
import torch

_loss = Bands.loss
def loss(self, batch):
    if len(batch) > 3:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
    return _loss(self, batch)
Bands.loss = loss
"""


def test_a_training_out_of_memory_goes_on_with_half_the_batch(bands, tmp_path, places):
    expected = trained(bands(batch_size=3, accumulate=2), places)
    path = tmp_path / "hungry.py"
    path.write_text(PLUGIN.read_text() + HUNGRY)
    load_plugins([path])
    system = bands(batch_size=6)
    trial = trial_of(system)
    asked = snapshot(trial, places).train(trial.units[0]).signature

    def after_first(row: dict) -> None:
        raise Stop

    with pytest.raises(Stop):
        trained(system, places, on_epoch=after_first)
    folder = trained(system, places)  # goes on with the smaller batches
    now = snapshot(trial, places)
    record = now.record(now.train(trial.units[0]))
    assert record is not None
    assert record.signature == asked
    sizes = {"asked": {"batch_size": 6, "accumulate": 1}, "used": {"batch_size": 3, "accumulate": 2}}
    assert record.extra["out_of_memory"] == sizes
    assert torch.equal(weights(folder), weights(expected))
    log = (folder / "train.log").read_text()
    assert "CUDA out of memory" in log
    assert "goes on after epoch 1" in log
    with pytest.raises(torch.OutOfMemoryError):  # once only: batches of 4 are still too large
        trained(bands(batch_size=8), Places.of(places.data, tmp_path / "other"))


def test_later_trainings_of_a_sweep_begin_with_the_batch_that_fitted(bands, tmp_path, places, monkeypatch):
    from asdray.sweep import training_worker

    path = tmp_path / "hungry.py"
    path.write_text(PLUGIN.read_text() + HUNGRY)
    load_plugins([path])
    log = EventLog(tmp_path / "events.jsonl")
    system = bands(batch_size=6, epochs=1)
    files = [TrialFiles.load(trial_of(system, seed=seed), places) for seed in range(2)]

    def run_job(of: TrialFiles, **options: Any) -> str:
        """Trains as a worker of a sweep does, notes its events as the driver does; returns ``train.log``."""
        reports: list[dict[str, Any]] = []
        monkeypatch.setattr(training_worker.tune, "report", reports.append)
        training_worker.train_job(
            {"work": 0}, {0: of.trial}, training_worker.WorkerOptions(places, ("last",), **options)
        )
        for event in [event for report in reports for event in report.get("events", ())]:
            assert event["status"] == "done", event
            log.add(event)
        return (of.folder.model(of.trial.units[0].name) / "train.log").read_text()

    assert "out of memory with {'batch_size': 6, 'accumulate': 1}" in run_job(files[0], log=log.path)
    text = run_job(files[1], log=log.path)
    assert "CUDA" not in text, "the second training meets no lack of memory"
    assert "{'batch_size': 3, 'accumulate': 2} from the start" in text
    assert largest_batch(log.path, files[0].trial.recipe, "cpu") == 3
    assert largest_batch(log.path, files[0].trial.recipe, "cuda:NVIDIA H200") is None, "another device"
    assert largest_batch(log.path, "another", "cpu") is None
    fresh = TrialFiles.load(trial_of(system, seed=2), places)
    assert "CUDA" in run_job(fresh), "the user chose the resources: nothing is learned"

    # A sweep that finds these trainings done says so as well, from their records.
    found = EventLog(tmp_path / "found.jsonl")
    jobs = [Job(of.trial, {}, of.dataset, ()) for of in files]
    for job, of in zip(jobs, files, strict=True):
        log_found(job.trial, steps(of, Request(("last",), ())), found)
    for path in (log.path, found.path):
        assert memory_notes(path, jobs) == [
            f"Out of memory: {sum(len(of.trial.units) for of in files)} trainings of ae on cpu had batches "
            "of 3 x 2 instead of 6 x 1 (clips x batches per step)."
        ]
