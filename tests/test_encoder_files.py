"""Weight files of encoders: the list, a fetch from a real server, and the file inside a real wheel."""

import random
import re
import subprocess

import pytest
import torch
from encoders_made_up import beats_names, sparse
from http_server import Fault, Site, serve
from pretrained import aisfx_data
from tiny import build_year, trial_of
from typer.testing import CliRunner

from asdray.cli.encoders import file_of, state_of
from asdray.cli.main import app
from asdray.config.encoder import NETWORKS
from asdray.config.files import validate
from asdray.config.sweep import Sweep
from asdray.config.system import System
from asdray.config.weights import KNOWN_WEIGHTS, known_weights
from asdray.stages.steps import TrialFiles, train_signature
from asdray.store import Places
from asdray.sweep import inputs
from asdray.sweep.plan import plan
from asdray.sweep.run import RunOptions, run_sweep

CONTENT = random.Random(0).randbytes(200_000)


def run(*arguments):
    return CliRunner().invoke(app, ["encoders", *map(str, arguments)], obj=[])


@pytest.fixture
def site(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serve(Site()) as it:
        yield it


def test_the_list_says_what_is_here(tmp_path):
    (tmp_path / "encoders").mkdir()
    (tmp_path / "encoders" / "BEATs_iter3.pt").write_bytes(b"cut")
    (tmp_path / "encoders" / "clap-htsat-fused.safetensors").write_bytes(b"any")
    lines = run("--data", tmp_path).stdout.splitlines()
    assert len(lines) == 1 + len(KNOWN_WEIGHTS)
    line = {words[0]: line for line in lines if (words := line.split())}
    assert "361  wrong size  asdray encoders fetch BEATs_iter3" in line["BEATs_iter3"]
    assert "unverified" in line["CLAP"]
    assert "  no  " in line["EAT_epoch10"]
    assert "CC-BY-4.0" in line["aisfx"]


def test_a_cut_transfer_goes_on(site, tmp_path):
    known = known_weights("EAT_epoch30_finetuned")
    site.files[known.file] = CONTENT
    site.faults[known.file] = Fault(times=1, cut_after=70_000)
    done = run("fetch", known.name, "--data", tmp_path, "--base-url", f"{site.url}/")
    assert done.exit_code == 0, done.output
    assert file_of(tmp_path, known).read_bytes() == CONTENT
    assert "Range" in site.asked(known.file)[1], "the second request asks for the rest"
    assert "no hash is on record, so nothing was verified" in done.stdout
    assert state_of(known, file_of(tmp_path, known)) == "unverified"


def test_another_file_is_refused(site, tmp_path):
    known = known_weights("BEATs_iter3")
    site.files[known.file] = CONTENT
    done = run("fetch", known.name, "--data", tmp_path, "--base-url", site.url)
    assert done.exit_code
    assert not file_of(tmp_path, known).exists()
    assert "200000 bytes, the file should have 361499833" in str(done.exception)


def test_without_a_mirror_one_line_says_where_the_file_is(tmp_path):
    error = run("fetch", "EAT_epoch10", "--data", tmp_path).exception
    assert "asdray knows no mirror" in str(error)
    assert str(tmp_path / "encoders" / "EAT-base_epoch10_pt.pt") in str(error)


def test_the_file_inside_a_wheel(tmp_path_factory):
    data = aisfx_data(tmp_path_factory)
    known = known_weights("aisfx")
    assert state_of(known, file_of(data, known)) == "yes"
    again = run("fetch", "aisfx", "--data", data)
    assert again.stdout.strip() == f"{file_of(data, known)} is there"


def encoder(**options):
    frontend = {"name": "encoder", "network": "beats", "weights": "BEATs_iter3", **options}
    return validate(System, {"frontend": frontend}, "x")


def test_every_pooling_of_every_layer_is_an_embedding():
    poolings = ["mean", {"name": "rdp", "gamma": [4, 8], "tokens": "bands"}]
    assert encoder(layers=[4, 12], poolings=poolings).frontend.embeddings == (
        *("L4_mean", "L4_bands_rdp_4", "L4_bands_rdp_8"),
        *("L12_mean", "L12_bands_rdp_4", "L12_bands_rdp_8"),
    )
    assert encoder().frontend.embeddings == ("L12_mean",)
    assert encoder(layers=4).frontend.layer_numbers == (4,)


def test_the_folder_of_the_weights_does_not_matter():
    assert encoder().id == encoder(weights="/elsewhere/BEATs_iter3.pt").id
    assert encoder().id != encoder(weights="/elsewhere/other.pt").id


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": 13}, "network 'beats' has no layer 13: choose last, or 1 to 12"),
        ({"network": "aisfx", "weights": "aisfx", "layers": 2}, "has no layer 2: choose last or 1"),
        (
            {"layers": "L4"},
            "frontend.layers: 'L4' is no layer: choose a number from 1, a list of numbers, or last",
        ),
        ({"layers": [4, 4]}, "layers names 4 twice"),
        ({"poolings": ["cls"]}, "network 'beats' has no CLS token (networks with one: eat, eat_large, ast)"),
        (
            {"network": "aisfx", "weights": "aisfx", "poolings": [{"name": "mean", "tokens": "bands"}]},
            "the tokens of network 'aisfx' have no bands",
        ),
        ({"weights": "aisfx"}, "aisfx are weights of network 'aisfx', not 'beats'"),
        ({"weights": "BEATS_iter3"}, "did you mean 'BEATs_iter3'?"),
        ({"frame_multiple": 32}, "frame_multiple is an option of eat and eat_large, not of 'beats'"),
        ({"network": "beets"}, "beets"),
    ],
)
def test_a_system_that_cannot_be(options, message):
    with pytest.raises(ValueError, match="frontend") as error:
        encoder(**options)
    assert message in str(error.value)


def test_clips_too_short_for_a_token():
    system = validate(System, {"frontend": encoder().frontend, "audio": {"duration": 0.1}}, "x")
    with pytest.raises(
        ValueError, match="clips of 0.1 s are too short for network 'beats', which needs 0.175 s: choose"
    ):
        system.check("dcase2023")


def test_half_of_a_weight_file_is_a_fault_of_planning(tmp_path):
    build_year(tmp_path)
    trial = trial_of(encoder(weights="half.pt"))
    files = TrialFiles.load(trial, Places.of(tmp_path, tmp_path / "results"))
    path = tmp_path / "half.pt"
    torch.save({"model": torch.zeros(1000)}, path)
    train_signature(files, trial.units[0])
    path.write_bytes(path.read_bytes()[:2000])
    message = r"recipe \w+: frontend.weights: .*half.pt is truncated: copy or fetch the file again"
    with pytest.raises(ValueError, match=message):
        train_signature(files, trial.units[0])


def test_a_sweep_names_every_unfit_weight_file_before_ray_starts(tmp_path):
    build_year(tmp_path)
    torch.save({"model": sparse(beats_names())}, tmp_path / "beats.pt")
    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7)}, tmp_path / "resnet.pt")
    torch.save({"model": sparse(beats_names())}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "old.pt").write_bytes((tmp_path / "old.pt").read_bytes()[:-400])
    (tmp_path / "cut.safetensors").write_bytes((500).to_bytes(8, "little") + b'{"a": {"dtype"')
    unfit = {
        "raw_eat": "beats.pt",
        "genrep": "resnet.pt",
        "raw_beats": "old.pt",
        "frozen_beats": "cut.safetensors",
    }
    places = Places.of(tmp_path, tmp_path / "results")

    def asked(recipes):
        spec = {"name": "unfit", "dcase": ["dcase2023"], "machines": {"dcase2023": ["fan"]}, "seeds": [0]}
        spec |= {"umap": False, "backends": ["knn"]}
        sets = {
            recipe: {"set": {"frontend.weights": path, "audio.duration": 0.4}}
            for recipe, path in recipes.items()
        }
        return validate(Sweep, {**spec, "recipes": sets}, "x")

    # No Ray answers at the address, which would be the next fault.
    options = RunOptions(address="127.0.0.1:9", quiet=True)
    sweep = asked(unfit)
    with pytest.raises(ValueError, match="recipe") as error:
        run_sweep(sweep, plan(sweep, places, "x"), places, options)
    lines = str(error.value).splitlines()
    parts = [
        "raw_eat: frontend.weights: .*beats.pt holds weights of the network 'beats', not of 'eat'",
        "genrep: frontend.weights: .*resnet.pt does not fit .*'beats'.* of no network that asdray knows",
        "raw_beats: frontend.weights: .*old.pt is truncated or no weight file",
        "frozen_beats: frontend.weights: .*cut.safetensors is truncated or no safetensors file",
    ]
    assert len(lines) == len(parts)
    assert all(re.match(f"recipe {part}", line) for part, line in zip(parts, lines, strict=True)), lines
    assert not list((tmp_path / "results").glob("trials/*/*/*/model"))


def test_a_right_weight_file_is_looked_at_once(tmp_path, monkeypatch):
    build_year(tmp_path)
    torch.save({"model": sparse(beats_names())}, tmp_path / "beats.pt")
    places = Places.of(tmp_path, tmp_path / "results")
    trials = [trial_of(encoder(weights="beats.pt", layers=layer)) for layer in (3, 4)]
    sweep = validate(
        Sweep,
        {
            "name": "x",
            "recipes": {"raw_beats": {}},
            "dcase": ["dcase2023"],
            "seeds": [0],
            "backends": ["knn"],
        },
        "x",
    )
    started = []
    run = subprocess.run
    monkeypatch.setattr(
        subprocess, "run", lambda command, **options: started.append(command) or run(command, **options)
    )
    for _ in range(2):
        inputs.check_weights(sweep, trials, places)
    ((*_, network, path),) = started
    assert (network, path) == ("beats", str(tmp_path / "beats.pt"))


def test_a_name_stands_for_the_published_file(tmp_path):
    build_year(tmp_path)
    trial = trial_of(encoder())
    files = TrialFiles.load(trial, Places.of(tmp_path, tmp_path / "results"))
    with pytest.raises(
        ValueError, match="No such file or directory; get it with `asdray encoders fetch BEATs_iter3`"
    ):
        train_signature(files, trial.units[0])
    path = tmp_path / "encoders" / "BEATs_iter3.pt"
    path.parent.mkdir()
    path.write_bytes(b"another")
    with pytest.raises(
        ValueError, match=r"BEATs_iter3.pt has the sha256 .* not 8d1b234032a9ccff... as published"
    ):
        train_signature(files, trial.units[0])
    named = trial_of(encoder(weights=str(path)))
    assert train_signature(TrialFiles.load(named, files.places), named.units[0])


def test_planning_knows_the_networks():
    from asdray.frontends import encoders

    for name in ("beats", "eat", "eat_large", "aisfx"):
        network = encoders.build(name)
        facts = (network.n_layers, network.bands, network.has_cls, network.shortest)
        assert facts == NETWORKS[name], name
