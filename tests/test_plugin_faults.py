"""Faults of a plugin's members: one message with file, line, class, found, expected and the fix."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from no_plugins import forget_plugins
from tiny import DIS, build_year, trial_of

from asdray import backends
from asdray.backends import Features, rehearse, score_machine
from asdray.config.base import UNIONS, load_plugins
from asdray.config.files import validate
from asdray.config.plugin_fault import chain_of, plugin_error
from asdray.config.sweep import check_backends
from asdray.config.system import System, with_overrides
from asdray.stages.extract import extract
from asdray.stages.steps import TrialFiles
from asdray.stages.train import train
from asdray.store import Places
from asdray.sweep.events import attempt

HERE = Path(__file__).parent
BANDS = {"frontend": {"name": "bands"}, "train": {"epochs": 2, "batch_size": 4}, "audio": {"duration": 0.4}}


@pytest.fixture(autouse=True)
def _no_plugin_stays():
    yield
    forget_plugins()


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("faults")
    build_year(root)
    return root


def written(folder: Path, example: str, code: str, instead: str) -> tuple[Path, int]:
    """A copy of an example with a fault, and the line of the fault."""
    before, found, after = (HERE / example).read_text().partition(code)
    assert found, code
    assert code not in after, code
    path = folder / "mine.py"
    path.write_text(before + instead + after)
    return path, before.count("\n") + 1


def is_in_form(message: str, path: Path) -> bool:
    """True for a line with the file, a line, a name, the value found, the value expected and the fix."""
    return bool(
        re.fullmatch(rf"{re.escape(str(path))}, line \d+: [\w.]+: found .+, expected .+: .+", message)
    )


# ---------------------------------------------------------------------------------------- at loading


@pytest.mark.parametrize(
    ("example", "code", "instead", "says"),
    [
        # losses
        ("plugin_example.py", "def __init__(self, config, embedding_dim, n_classes)", "def __init__(self, config)", "Softmax.__init__: found Softmax(config), expected the arguments (config, embedding_dim, n_classes)"),
        ("plugin_example.py", "def forward(self, embeddings, targets)", "def forward(self, embeddings)", "Softmax.forward: found forward(self, embeddings), expected the arguments (self, embeddings, targets)"),
        ("plugin_example.py", "def forward(self, embeddings", "def forwards(self, embeddings", "Softmax: found no method forward, expected forward(self, embeddings, targets): define it"),
        ("plugin_example.py", "class Softmax(nn.Module)", "class Softmax", "Softmax: found a class that derives from builtins.object, expected torch.nn.Module"),
        ("plugin_example.py", "class SoftmaxConfig(Config)", "class SoftmaxConfig", "SoftmaxConfig: found <class"),
        # frontends
        ("plugin_example.py", "(self, config, n_samples, columns, saved)", "(self, config, columns)", "Bands.__init__: found Bands(config, columns), expected the arguments (config, n_samples, columns, saved)"),
        ("plugin_example.py", "def prepare(self, clips, columns, batch_size, rng)", "def prepare(self, clips, columns)", "Bands.prepare: found prepare(self, clips, columns), expected"),
        ("plugin_example.py", "def training_data(", "def trainingdata(", "Bands: found no method training_data, expected training_data(self, clips, columns, batch_size, rng)"),
        ("plugin_example.py", "def loss(self, batch)", "def loss(self)", "Bands.loss: found loss(self), expected the arguments (self, batch)"),
        ("plugin_example.py", "def extract(", "def embed(", "Bands: found no method extract, expected extract(self, waves): define it"),
        ("plugin_example.py", "(FrontendModule)", "(nn.Module)", "Bands: found a class that derives from torch.nn.modules.module.Module, expected asdray.frontends.base.FrontendModule"),
        ("plugin_example.py", '= ("recon",)', '= "recon"', "BandsConfig: found own_scores = 'recon', expected a tuple of names"),
        ("plugin_example.py", "n_bands: int = 8", "n_bands: int = 8; scope: ClassVar = 'machines'", "BandsConfig: found scope = 'machines', expected 'all' or 'machine'"),
        # backends
        ("plugin_example.py", "def centroid(config, references, domain, queries)", "def centroid(references, queries)", "centroid: found centroid(references, queries), expected the arguments (config, references, domain, queries)"),
        ("plugin_example.py", "(CentroidConfig, centroid)", "(CentroidConfig, Waves)", "Waves: found a class, expected a function of (config, references, domain, queries) that returns scores"),
        # networks
        ("network_example.py", "def __init__(self, config, n_samples)", "def __init__(self, config)", "BandRnn.__init__: found BandRnn(config), expected the arguments (config, n_samples)"),
        ("network_example.py", "def forward(self, view)", "def forward(self)", "BandRnn.forward: found forward(self), expected the arguments (self, waves)"),
        ("network_example.py", "def forward(", "def embed(", "BandRnn: found no method forward, expected forward(self, waves): define it"),
        ("network_example.py", "def view(self, waves)", "def view(self)", "BandRnn.view: found view(self), expected the arguments (self, waves)"),
        ("network_example.py", "def __init__(", "def init(", "BandRnn: found no __init__, expected __init__(self, config, n_samples): define it"),
        ("network_example.py", "(nn.Module)", "", "BandRnn: found a class that derives from builtins.object, expected torch.nn.Module"),
        ("network_example.py", "Config(NetworkConfig)", "Config(__import__('asdray.config.base', fromlist=['x']).Config)", "BandsConfig: found <class"),
    ],
)  # fmt: skip
def test_other_forms_are_told_at_loading(example, code, instead, says, tmp_path):
    path, _ = written(tmp_path, example, code, instead)
    with pytest.raises(ValueError) as error:
        load_plugins([path])
    assert says in str(error.value)
    assert is_in_form(str(error.value), path), error.value
    assert not any(union.added for union in UNIONS.values())


def test_functions_and_free_signatures_are_no_fault(tmp_path):
    """A function may make the loss; `*args` takes everything; a loss says by itself that it wants `own`."""
    path, _ = written(
        tmp_path, "plugin_example.py", "(SoftmaxConfig, Softmax)", "(SoftmaxConfig, lambda *a: Softmax(*a))"
    )
    load_plugins([path])
    path, _ = written(
        tmp_path, "plugin_example.py", "def forward(self, embeddings, targets)", "def forward(self, *args)"
    )
    load_plugins([path])
    path, _ = written(
        tmp_path, "plugin_example.py", "def forward(self, embeddings, targets)", "def forward(self, embeddings, targets, own)"
    )  # fmt: skip
    load_plugins([path])
    with pytest.raises(
        ValueError, match=r"Softmax.forward: found forward\(embeddings, targets, own\), expected"
    ):
        built(with_overrides(DIS, {"frontend.loss": {"name": "softmax"}}, "x"))


def built(system):
    from asdray import frontends

    columns = {"machine": "ab", "section": (0, 0), "attributes": ("", ""), "domain": ("source", "target")}
    return frontends.build(system.frontend, 6400, columns=columns)


# -------------------------------------------------------------------------------- before the first epoch


def network(**options):
    branches = [
        {"name": "band_rnn", "embedding_dim": 4, **options},
        {
            "name": "fft",
            "channels": 4,
            "kernels": [32, 16, 4],
            "strides": [16, 8, 2],
            "hidden": 1,
            "embedding_dim": 5,
        },
    ]
    return with_overrides(DIS, {"frontend.branches": branches, "train.epochs": 1}, "x")


def system_of(example: str, code: str) -> System:
    if example == "network_example.py":
        return network()
    if "embeddings" in code or "linear" in code:
        return with_overrides(DIS, {"frontend.loss": {"name": "softmax"}, "train.epochs": 1}, "x")
    return validate(System, BANDS, "x")


RETURN = "return F.cross_entropy(self.linear(embeddings), targets, label_smoothing=self.smoothing)"
LAST = "return self.out(last[0])"
LOSS = "return self.errors(self.energies(to_float(batch))).mean()"
EXTRACT = '{"embedding": energies - self.usual, "recon": self.errors(energies)}'


@pytest.mark.parametrize(
    ("example", "code", "instead", "says"),
    [
        # networks
        ("network_example.py", LAST, "return self.out(last[0])[:, None]", "BandRnn.forward: found a tensor of float32 of shape (8, 1, 4), expected a tensor of real numbers of shape (8, 4), clips x embedding_dim"),
        ("network_example.py", LAST, "return self.out(last[0]).mean(0)", "found a tensor of float32 of shape (4,), expected"),
        ("network_example.py", LAST, "return self.out(last[0]).long()", "found a tensor of int64 of shape (8, 4), expected"),
        ("network_example.py", LAST, "return self.out(last[0]) / 0", "found NaN or infinite numbers for 8 of 8 clips, expected finite numbers"),
        ("network_example.py", LAST, "return self.out(last[0]).detach()", "found an output without a gradient, expected one that depends on the network's weights"),
        ("network_example.py", "return frames.abs()", "return frames.abs().mean(0)  #", "BandRnn.view: found a tensor of float32 of shape (257, 26), expected"),
        # losses
        ("plugin_example.py", RETURN, RETURN.replace("targets,", "targets, reduction='none',"), "Softmax.forward: found a tensor of float32 of shape (8,), expected a tensor of real numbers of shape ()"),
        ("plugin_example.py", RETURN, RETURN + ".item()  # embeddings", "Softmax.forward: found a float, expected"),
        ("plugin_example.py", RETURN, RETURN.replace("(embeddings)", "(embeddings.detach())"), "Softmax.forward: found a number without a gradient, expected a loss that depends on the embeddings"),
        ("plugin_example.py", RETURN, RETURN + " * float('nan')  # embeddings", "Softmax.forward: found the loss nan, expected finite numbers"),
        # frontends
        ("plugin_example.py", "        for batch in self.batches:", "        for batch in self.batches[:1]:", "Waves.epoch: found 1 batches, expected 2 batches"),
        ("plugin_example.py", "        for batch in self.batches:", "        for batch in __import__('itertools').cycle(self.batches):", "Waves.epoch: found more than 2 batches, expected 2 batches"),
        ("plugin_example.py", "starts[order[batch]])", "starts[order[batch]])[1:]", "Waves.epoch: found shape (3, 6400) in batch 1, expected 4 items in this batch"),
        ("plugin_example.py", "yield self.clips", "return  #", "Waves.epoch: found None, expected batches"),
        ("plugin_example.py", "yield from ()", "return", "Waves.held_out: found None, expected batches"),
        ("plugin_example.py", LOSS, LOSS.replace(".mean()", ""), "Bands.loss: found a tensor of float32 of shape (4,), expected a tensor of shape ()"),
        ("plugin_example.py", LOSS, LOSS + ".detach()", "Bands.loss: found a number that depends on no weight, expected a loss with a gradient"),
        ("plugin_example.py", LOSS, LOSS + " / 0", "Bands.loss: found the loss inf, expected a finite number"),
        ("plugin_example.py", "def saved(", "parameters = lambda *_: iter(())\n\n    def saved(", "Bands: found no weights to learn, expected parameters with a gradient"),
        ("plugin_example.py", 'items = "clips"', "", "Bands.training_data: found a Waves without items, expected batches with items, sizes, epoch(rng) and held_out()"),
        ("plugin_example.py", "self.sizes = tuple(b.stop - b.start for b in self.batches)", "self.sizes = self.batches", "Waves: found sizes = [slice(0, 4, None), slice(4, 6, None)], expected the number of items in every batch"),
        ("plugin_example.py", 'return {"machines": self.machines}', 'return {"machines": np.array(self.machines)}', "Bands.saved: found values that a checkpoint cannot hold (machines: ndarray), expected numbers, texts, tensors"),
        ("plugin_example.py", 'return {"machines": self.machines}', "return self.machines", "Bands.saved: found a list, expected a dictionary"),
        ("plugin_example.py", "self.outwards = nn.Linear(3, config.n_bands)", "self.outwards = nn.Linear(3 if saved is None else 4, config.n_bands)", "Bands: found a tensor 'outwards.weight' of shape (8, 4) when it is built from saved(), expected the shape (8, 3) that was trained"),
    ],
)  # fmt: skip
def test_wrong_outputs_are_told_before_or_in_the_first_epoch(example, code, instead, says, data, tmp_path):
    path, _ = written(tmp_path, example, code, instead)
    load_plugins([path])
    trial = trial_of(system_of(example, code), machines=("fan", "ToyCar"))
    files = TrialFiles.load(trial, Places.of(data, tmp_path / "results", data / "cache"))
    event = attempt({}, lambda: train(files, trial.units[0]))
    assert event["status"] == "failed"
    assert event["lasting"]
    assert says in event["error"]
    assert is_in_form(event["error"], path), event["error"]
    assert not list((tmp_path / "results").rglob("*.ckpt"))


@pytest.mark.parametrize(
    ("code", "instead", "says"),
    [
        (EXTRACT, '{"recon": self.errors(energies)}', "Bands.extract: found a dictionary with 'recon', expected 'embedding' as well"),
        (EXTRACT, "energies", "Bands.extract: found a tensor of float32 of shape (3, 8), expected a dictionary with embedding, recon"),
        (EXTRACT, '{"embedding": energies.mean(0), "recon": self.errors(energies)}', "found a tensor of float32 of shape (8,) as 'embedding', expected a tensor of float32 of shape (B, D)"),
        (EXTRACT, '{"embedding": energies.long(), "recon": self.errors(energies)}', "found a tensor of int64 of shape (3, 8) as 'embedding', expected"),
        (EXTRACT, '{"embedding": energies, "recon": self.errors(energies).mean()}', "found a tensor of float32 of shape () as 'recon', expected a tensor of float32 of shape (B,)"),
    ],
)  # fmt: skip
def test_wrong_extractions_are_told_before_the_first_epoch(code, instead, says, data, tmp_path):
    path, _ = written(tmp_path, "plugin_example.py", code, instead)
    path.write_text(path.read_text().replace("needs_training_clips = True", "usual = 0"))
    load_plugins([path])
    trial = trial_of(validate(System, BANDS, "x"), machines=("fan",))
    files = TrialFiles.load(trial, Places.of(data, tmp_path / "results", data / "cache"))
    with pytest.raises(ValueError) as error:
        train(files, trial.units[0])
    assert says in str(error.value)
    assert is_in_form(str(error.value), path), error.value
    assert "epoch 1" not in (files.folder.model("fan") / "train.log").read_text()


def test_an_extraction_that_needs_training_clips_is_told_at_extraction(data, tmp_path):
    path, _ = written(tmp_path, "plugin_example.py", EXTRACT, '{"recon": self.errors(energies)}')
    load_plugins([path])
    trial = trial_of(validate(System, BANDS, "x"), machines=("fan",))
    places = Places.of(data, tmp_path / "results", data / "cache")
    train(TrialFiles.load(trial, places), trial.units[0])
    event = attempt({}, lambda: extract(TrialFiles.load(trial, places), "fan", "last"))
    assert is_in_form(event["error"], path), event["error"]


@pytest.mark.parametrize(
    ("code", "instead", "says"),
    [
        ('columns["machine"]', 'columns["machines"]', "found columns['machines'], expected a key of columns ('machine', 'section', 'attributes', 'domain'): use one of them; did you mean 'machine'?"),
        ('return {"machines"', 'return {"machine"', "found saved['machines'], expected a key of saved ('machine'): use one of them; did you mean 'machine'?"),
    ],
)  # fmt: skip
def test_missing_keys_are_told_with_those_that_there_are(code, instead, says, data, tmp_path):
    path, _ = written(tmp_path, "plugin_example.py", code, instead)
    line = next(
        i for i, text in enumerate(path.read_text().splitlines(), 1) if "self.machines = sorted" in text
    )
    load_plugins([path])
    trial = trial_of(validate(System, BANDS, "x"), machines=("fan",))
    files = TrialFiles.load(trial, Places.of(data, tmp_path / "results", data / "cache"))
    event = attempt({}, lambda: train(files, trial.units[0]))
    assert event["error"] == f"{path}, line {line} in __init__: {says}"


def clips_of(n: int = 10) -> Features:
    return Features(np.random.default_rng(0).normal(size=(n, 3)), {}, [0] * n)


@pytest.mark.parametrize(
    ("instead", "says", "early"),
    [
        ("return queries", "centroid: found an array of float64 of shape (2, 3), expected an array of real numbers of shape (2,), a score per query", True),
        ("return np.float64(3)", "found an array of float64 of shape (), expected", True),
        ("return queries[:, 0] + 1j", "found an array of complex128 of shape (2,), expected", True),
        ("return None", "found None, expected", True),
        ("return ['a'] * len(queries)", "found a list, expected", True),
        ("return [[1], [2, 3]]", "found a list, expected", True),
        ("return queries[:, 0] * np.nan", "found 2 of 2 scores that are NaN or infinite, expected finite scores", False),
    ],
)  # fmt: skip
def test_backends_that_give_something_else_are_told_before_training(instead, says, early, tmp_path):
    path, _ = written(tmp_path, "plugin_example.py", "means = [", f"{instead}\n    means = [")
    load_plugins([path])
    (backend,) = check_backends(["centroid"], "x")
    with pytest.raises(ValueError) as error:
        score_machine(backend, clips_of(), ["source"] * 10, clips_of())
    assert says in str(error.value)
    assert is_in_form(str(error.value), path), error.value
    if early:
        with pytest.raises(ValueError, match=r"mine.py, line \d+: centroid: found .*, expected an array"):
            rehearse([backend])
    else:
        rehearse([backend])


def test_a_backend_that_needs_other_clips_passes_the_rehearsal(tmp_path):
    path, _ = written(
        tmp_path, "plugin_example.py", "means = [", "assert references.shape[1] == 768\n    means = ["
    )
    load_plugins([path])
    rehearse(check_backends(["knn", "centroid"], "x"))


def test_a_slow_rehearsal_of_a_backend_is_told(tmp_path, monkeypatch, capsys):
    path, _ = written(
        tmp_path, "plugin_example.py", "means = [", "__import__('time').sleep(0.4)\n    means = ["
    )
    load_plugins([path])
    monkeypatch.setattr(backends, "SLOW_REHEARSAL", 0.05)
    rehearse(check_backends(["centroid"], "x"))
    assert "the backend centroid has not scored 7 random vectors within 0.05 s" in capsys.readouterr().err
    monkeypatch.setattr(backends, "SLOW_REHEARSAL", 30.0)
    rehearse(check_backends(["centroid"], "x"))
    assert not capsys.readouterr().err


# -------------------------------------------------------------- exceptions that end a process, or no walk


def test_an_exception_that_is_its_own_cause_is_reported_like_any_other(tmp_path):
    raising = (
        "try:\n        raise KeyError('a')\n    except KeyError as e:\n        raise e from e\n    means = ["
    )
    path, line = written(tmp_path, "plugin_example.py", "means = [", raising)
    load_plugins([path])
    (backend,) = check_backends(["centroid"], "x")
    event = attempt({}, lambda: score_machine(backend, clips_of(), ["source"] * 10, clips_of()))
    assert event["error"] == f"{path}, line {line + 1}: KeyError: 'a'" or event["error"].startswith(
        f"{path}, line {line + 3}: KeyError"
    )
    error = ValueError("one")
    error.__cause__, error.__cause__.__cause__ = KeyError("two"), error
    assert [str(link) for link in chain_of(error)] == ["one", "'two'"]
    assert plugin_error(error) is None


@pytest.mark.parametrize("ending", ["__import__('sys').exit(0)", "exec('raise GeneratorExit')"])
def test_a_plugin_cannot_end_a_trial(ending, data, tmp_path):
    path, line = written(tmp_path, "plugin_example.py", LOSS, ending)
    load_plugins([path])
    trial = trial_of(validate(System, BANDS, "x"), machines=("fan",))
    files = TrialFiles.load(trial, Places.of(data, tmp_path / "results", data / "cache"))
    event = attempt({}, lambda: train(files, trial.units[0]))
    assert event["status"] == "failed"
    assert event["error"].startswith(f"{path}, line {line}")


def test_an_exit_that_is_not_a_plugins_goes_on():
    with pytest.raises(SystemExit):
        attempt({}, lambda: exec("raise SystemExit"))  # as Ray ends a worker
    with pytest.raises(KeyboardInterrupt):
        attempt({}, lambda: exec("raise KeyboardInterrupt"))


def test_sys_exit_in_a_plugin_is_exit_code_2(data, tmp_path, asdray):
    recipe = tmp_path / "bands.yaml"
    recipe.write_text(
        "about: toy\nfrontend: {name: bands}\ntrain: {epochs: 1, batch_size: 4}\naudio: {duration: 0.4}\n"
    )
    run = [
        "run",
        recipe,
        "dcase2023",
        "--machines",
        "fan",
        "--no-umap",
        "--data",
        data,
        "--cache-dir",
        data / "cache",
        "--results",
        tmp_path / "results",
    ]
    for code, instead in (
        (LOSS, "__import__('sys').exit(0)"),
        ("LOSSES = ", "__import__('sys').exit(0)\nLOSSES = "),
    ):
        path, line = written(tmp_path, "plugin_example.py", code, instead)
        status, _, err = asdray(*run, "--plugin", path)
        assert status == 2
        assert err.startswith(f"error: {path}, line {line}")
        assert "found sys.exit(0), expected a return or an exception: raise one instead" in err
