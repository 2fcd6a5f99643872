"""The schema of recipes and sweep files: accepted values, hashes, and the error message of every mistake."""

import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest

from asdray.config.backend import Knn, Recon, Umap, backend_id
from asdray.config.base import Config, canonical, digest
from asdray.config.expand import expand, load_sweep
from asdray.config.files import parse_set, parse_yaml, read_yaml, validate
from asdray.config.frontend import FftBranch, StftBranch
from asdray.config.losses import AdaCos
from asdray.config.recipe_files import recipe_names
from asdray.config.sweep import Sweep
from asdray.config.system import System, load_recipe, with_overrides
from asdray.config.train import Train
from asdray.config.trial import NUMERICS, Trial, extract_signature, score_signature, train_signature
from asdray.dcase.years import YEARS

DIS = load_recipe("dis_baseline").system
AE = load_recipe("ae_baseline").system
ROOT = Path(__file__).parent.parent


def spec(**changes):
    return {"name": "s", "recipes": ["dis_baseline"], "dcase": ["dcase2023"], "seeds": [0], **changes}


def load(tmp_path, text):
    path = tmp_path / "s.yaml"
    path.write_text(text)
    return load_sweep(path)


# ---------------------------------------------------------------------------------------- identity


def test_pinned_ids():
    """Ids name folders in users' results: change one only together with `numerics`, for a reason."""
    assert (DIS.id, AE.id) == ("5ce49aea", "70f259b9")
    assert backend_id(Knn()) == "knn-5f37182d"
    assert backend_id(Recon()) == "recon-276a4450"
    trial = Trial("dcase2023", "dis_baseline", DIS, 0, YEARS["dcase2023"].all_machines)
    ids = dict.fromkeys(trial.machines, "x")
    assert train_signature(trial, trial.units[0], ids)[:16] == "c44438152dda44c6"


def test_one_system_has_one_id_however_it_is_written():
    bare = System.model_validate({"frontend": {"name": "discriminative"}})
    assert bare.id == DIS.id
    assert with_overrides(DIS, {"train.learning_rate": "1e-3"}, "x").id == DIS.id
    assert with_overrides(DIS, {"train.learning_rate": 2e-3}, "x").id != DIS.id
    assert with_overrides(DIS, {"frontend.loss": {"name": "adacos"}}, "x").id == DIS.id
    backwards = list(reversed(DIS.frontend.classes))
    assert with_overrides(DIS, {"frontend.classes": backwards}, "x").id == DIS.id


def test_a_later_field_keeps_old_ids_at_its_old_value():
    class Old(Config):
        a: int = 1

    class New(Config):
        a: int = 1
        b: str = "as before"
        later: ClassVar = {"b": "as before"}

    assert digest(New()) == digest(Old())
    assert digest(New(b="other")) != digest(Old())

    class Mended(Config):
        a: int = 1
        numerics: ClassVar[int] = 2

    assert digest(Mended()) != digest(Old())


def test_canonical_form_is_complete():
    """Defaults are part of the hash: after a change of a default, old results must not be found."""
    form = canonical(DIS)
    assert form["train"]["weight_decay"] == 0.01
    assert form["frontend"]["loss"] == {"numerics": 1, "name": "adacos", "trainable": False}


def test_units_and_signatures_depend_on_machines_of_the_unit_alone():
    everything = YEARS["dcase2023"].all_machines
    two = ("fan", "bandsaw")
    ids = {m: f"id-{m}" for m in everything}
    shared, subset = Trial("dcase2023", "d", DIS, 0, everything), Trial("dcase2023", "d", DIS, 0, two)
    assert [u.name for u in shared.units] == ["all"]
    assert subset.units[0].name.startswith("all-")
    assert train_signature(shared, shared.units[0], ids) != train_signature(subset, subset.units[0], ids)

    own, own_subset = Trial("dcase2023", "a", AE, 0, everything), Trial("dcase2023", "a", AE, 0, two)
    assert [u.name for u in own_subset.units] == ["fan", "bandsaw"]
    assert train_signature(own, own.unit_of("fan"), ids) == train_signature(
        own_subset, own_subset.unit_of("fan"), ids
    )
    changed = {**ids, "ToyCar": "other"}
    assert train_signature(own, own.unit_of("fan"), changed) == train_signature(own, own.unit_of("fan"), ids)
    assert train_signature(shared, shared.units[0], changed) != train_signature(shared, shared.units[0], ids)


def test_training_depends_on_input_files_besides_audio():
    trial = Trial("dcase2023", "d", DIS, 0, ("fan",))
    variants = [
        None,
        {},
        {"test_classes": {"fan": "a"}},
        {"test_classes": {"fan": "b"}},
        {"embeddings": {"fan": "a"}},
    ]
    assert len({train_signature(trial, trial.units[0], {"fan": "i"}, more) for more in variants}) == 4


def test_only_some_frontends_take_clips_of_any_length():
    with pytest.raises(ValueError, match="audio.duration is 'native', but the discriminative frontend"):
        with_overrides(DIS, {"audio.duration": "native"}, "x").check("dcase2023")
    native = with_overrides(AE, {"audio.duration": "native"}, "x")
    native.check("dcase2023")
    assert native.id != AE.id


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("x/{year}.npz", r"has the unknown placeholder {year} \(known: {dcase}, {machine}, {seed}\)"),
        ("x/{dcas}.npz", r"placeholder {dcas}; did you mean 'dcase'\?"),
        ("x/{}.npz", "unknown placeholder {}"),
        ("x/{dcase.npz", "is no path with placeholders"),
        ("x.csv", r"must end in .parquet or .npz"),
        ("", "frontend.path is ''"),
    ],
)
def test_paths_of_precomputed_embeddings(path, message):
    with pytest.raises(ValueError, match=message):
        with_overrides(AE, {"frontend": {"name": "precomputed", "path": path}}, "w")


def test_a_result_that_is_the_same_for_all_seeds_is_one_trial(tmp_path):
    text = """
    name: s
    recipes:
      raw_spec:
      dis_baseline:
        space: {frontend: [{name: precomputed, path: "a/{dcase}.npz"}, {name: precomputed, path: "a{seed}.npz"}]}
    dcase: [dcase2022, dcase2023]
    seeds: [3, 4, 5]
    """
    trials = [
        (t.recipe, t.system.frontend.name, t.dcase, t.seed) for t, _ in expand(load(tmp_path, text), "s")
    ]
    years = ("dcase2022", "dcase2023")
    assert trials == [
        *(("raw_spec", "raw_spec", year, 0) for year in years),
        *(("dis_baseline", "precomputed", year, 0) for year in years),
        *(("dis_baseline", "precomputed", year, seed) for year in years for seed in (3, 4, 5)),
    ]


def test_channels_other_than_near_need_two_microphones():
    near, far = (with_overrides(DIS, {"audio.channel": c}, "x") for c in ("near", "far"))
    assert near.id == DIS.id != far.id
    for year, facts in YEARS.items():
        near.check(year)
        if facts.channels == 2:
            far.check(year)
        else:
            with pytest.raises(
                ValueError, match=f"{year}: audio.channel is 'far', .* one channel: .*dcase2026"
            ):
                far.check(year)


def test_every_signature_depends_on_every_input():
    train = {train_signature(t, t.units[0], {"fan": i}) for t, i in [
        (Trial("dcase2023", "d", DIS, 0, ("fan",)), "x"),
        (Trial("dcase2023", "d", DIS, 1, ("fan",)), "x"),
        (Trial("dcase2022", "d", DIS, 0, ("fan",)), "x"),
        (Trial("dcase2023", "d", AE, 0, ("fan",)), "x"),
        (Trial("dcase2023", "d", DIS, 0, ("fan",)), "y"),
    ]}  # fmt: skip
    assert len(train) == 5
    base = ("t", "last", "fan", "a", "b")
    variants = [base, ("u", *base[1:]), ("t", "best", *base[2:]), (*base[:3], "z", "b"), (*base[:4], "z")]
    assert len({extract_signature(*v) for v in variants}) == 5
    assert score_signature("e", Knn()) != score_signature("e", Knn(n_neighbors=2))


def test_a_changed_copy_of_a_system_has_an_id_of_its_own():
    assert DIS.id != DIS.model_copy(update={"train": Train(epochs=3)}).id


@pytest.mark.parametrize(
    "backend", [Knn(), Knn(smote_ratio=0.2), Knn().model_copy(update={"metric": "cosine"})]
)
def test_signatures_made_from_text_are_those_of_the_configuration(backend):
    """Complete stages must stay complete: users' results hold these hashes."""
    backend.canonical_json  # noqa: B018 - cached by this access
    other = backend.model_copy(update={"n_neighbors": 7})
    for one in (backend, other):
        whole = {"stage": ("score", NUMERICS["score"]), "extract": "e", "backend": one}
        assert score_signature("e", one) == digest(whole)
    assert score_signature("e", other) != score_signature("e", backend)


def test_backends_that_apply():
    asked = (Knn(), Knn(n_neighbors=4))
    assert Trial("dcase2023", "d", DIS, 0, ("fan",)).backends(asked) == asked
    assert Trial("dcase2023", "a", AE, 0, ("fan",)).backends(asked) == (Recon(),)


# --------------------------------------------------------------------------------------- overrides


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"train.batchsize": 3}, r"w: unknown option 'train.batchsize'; did you mean 'train.batch_size'\?"),
        ({"trane.epochs": 3}, r"unknown option 'trane.epochs'; did you mean 'train'\?"),
        ({"train.epochs.x": 3}, r"unknown option 'train.epochs.x' \(train.epochs is a plain value\)"),
        ({"frontend.branches.2.channels": 3}, "unknown option 'frontend.branches.2.channels'"),
        ({"frontend.loss": {"name": "adacoss"}}, r"frontend.loss.name is 'adacoss'; did you mean 'adacos'\?"),
        ({"frontend.loss": {"n": 1}}, "frontend.loss needs a 'name'"),
        ({"frontend.loss": {"name": "adacos", "trainabel": True}}, r"'frontend.loss.trainabel'; did you mean"),
        ({"frontend.loss": {"name": "subcluster_adacos", "n_subclusters": 0}}, "frontend.loss.n_subclusters is 0"),
        ({"frontend.classes": ["machin"]}, r"frontend.classes.0 is 'machin'; did you mean 'machine'\?"),
        ({"frontend.classes": ["section", "section"]}, "frontend.classes: the list names 'section' twice"),
        ({"frontend.classes": []}, r"frontend.classes is \[\]"),
        ({"frontend.labels": "asd_kit"}, r"frontend.labels is 'asd_kit'; did you mean 'asdkit'\?"),
        ({"audio.channel": "left"}, r"audio.channel is 'left'.*near, far, mean, difference"),
        ({"frontend.branches": [{"name": "fft", "kernel": 3}]}, r"'frontend.branches.0.kernel'; did you mean 'kernels'"),
        ({"audio.duration": "yearmax"}, r"audio.duration is 'yearmax'; did you mean 'year_max'\?"),
        ({"train.epochs": 2.5}, "train.epochs is 2.5: "),
        ({"train.learning_rate": float("nan")}, "train.learning_rate is nan"),
        ({"train.batch_size": 1}, "train.batch_size is 1: input should be greater than or equal to 2"),
    ],
)  # fmt: skip
def test_wrong_override(overrides, message):
    with pytest.raises(ValueError, match=message):
        with_overrides(DIS, overrides, "w")


def test_an_object_replaces_a_member_whole_and_deeper_paths_apply_after():
    changed = with_overrides(
        DIS, {"frontend.loss.trainable": True, "frontend.loss": {"name": "subcluster_adacos"}}, "w"
    )
    assert changed.frontend.loss.model_dump() == {
        "name": "subcluster_adacos", "n_subclusters": 16, "trainable": True, "dynamic": False,
    }  # fmt: skip


def test_set_pairs():
    assert parse_set(["a.b=1e-3", "c=[1, x]", "d={name: knn}"]) == {
        "a.b": 1e-3,
        "c": [1, "x"],
        "d": {"name": "knn"},
    }
    with pytest.raises(ValueError, match="--set 'seeds' must have the form key=value"):
        parse_set(["seeds"])


def test_yaml_faults_name_the_place():
    with pytest.raises(ValueError, match="f.yaml is not valid YAML.*the key 'a' stands twice"):
        parse_yaml("a: 1\na: 2", "f.yaml")
    with pytest.raises(ValueError, match="f.yaml is not valid YAML"):
        parse_yaml("a: [1", "f.yaml")
    with pytest.raises(ValueError, match="f.yaml is not valid YAML: a key must be a plain value"):
        parse_yaml("{[1]: 2}", "f.yaml")
    for value in ("!!timestamp 2001-99-99", "!!timestamp 1", "!!bool maybe", "!!int ''", "1" * 5000):
        with pytest.raises(
            ValueError, match=r"f.yaml is not valid YAML: '.* is no \w+ in .*, line 2, column 4"
        ):
            parse_yaml(f"y: 1\nx: {value}", "f.yaml")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[1_000, 0x10, 0b11, 0, -7, 089]", [1000, 16, 3, 0, -7, "089"]),
        ("[1e3, 1.5, .5, 1_0.5, .5e-3, -.inf]", [1000.0, 1.5, 0.5, 10.5, 0.0005, -float("inf")]),
        ("[1:30, 10:30:00, 1:1.5, 2026-11-30]", ["1:30", "10:30:00", "1:1.5", "2026-11-30"]),
        ("{on: off, yes: NO, y: n}", {"on": "off", "yes": "NO", "y": "n"}),
        ("[true, False, null, '010']", [True, False, None, "010"]),
    ],
)
def test_plain_values_are_what_they_look_like(text, value):
    found = parse_yaml(text, "f.yaml")
    assert found == value
    assert repr(found) == repr(value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("010", "010 would be read as 8: write 8 or 10, or '010' for text"),
        ("-0_7", "-0_7 would be read as -7: write -7, or"),
        ("00", "00 would be read as 0: write 0, or '00' for text"),
    ],
)
def test_a_number_that_versions_of_yaml_read_differently_is_an_error(text, says):
    with pytest.raises(ValueError, match=f"--set seeds=\\[{text}\\] .*{says}"):
        parse_set([f"seeds=[{text}]"])
    with pytest.raises(ValueError, match=f"f.yaml .*{says}.* line 2, column 9"):
        parse_yaml(f"name: x\nseeds: [{text}]", "f.yaml")


@pytest.mark.parametrize("word", ["no", "Off", "false"])
def test_words_that_switch_off(word):
    options = parse_yaml(f"umap: {word}\nreport: {word}\nname: {word}", "f.yaml")
    sweep = Sweep.model_validate(
        {"recipes": ["raw_spec"], "dcase": ["dcase2023"], "seeds": [0], **options, "name": "on"}
    )
    assert sweep.umap is False
    assert sweep.report is False


def nested(entry):
    """Eight levels, each with nine aliases of the level before: 9^9 values, once written out."""
    levels = [f"k0: &k0 {entry}"]
    for i in range(8):
        aliases = ", ".join([f"*k{i}"] * 9)
        levels.append(f"k{i + 1}: &k{i + 1} " + (f"[{aliases}]" if entry == "x" else f"{{<<: [{aliases}]}}"))
    return "\n".join(levels)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a:\n  " + "[" * 3000, "more than 50 levels of lists and mappings in .*, line 2"),
        (nested("x"), "more than 100000 values, with every alias written out in .*, line 7"),
        (nested("{a: 1}"), "more than 100000 values, with every alias written out in .*, line 6"),
        ("a: 1\nb: &b [*b]", "[*]b stands inside of the value that it names in .*, line 2"),
        ("a: &a 1\nb: [" + "*a, " * 1001 + "]", "more than 1000 aliases in .*, line 2"),
        ("a: 1\nb: " + "1" * 10_000, "'1111.* is no int in .*, line 2"),
        ('a: 1\nb: "\\UFFFFFFFF"', "line 2: "),
        ("#" * 2**21, "is too long: 2097152 characters, at most 1048576 are read"),
    ],
)  # fmt: skip
def test_yaml_has_limits_on_depth_aliases_and_size(text, fault, tmp_path):
    """Measured by hand without the limits: RecursionError, days, days, RecursionError, -, a minute, OverflowError."""
    path = tmp_path / "f.yaml"
    path.write_text(text)
    with pytest.raises(
        ValueError, match="f.yaml: has more than 1048576 bytes" if len(text) > 2**20 else f"f.yaml .*{fault}"
    ):
        read_yaml(path)
    if len(text) > 2**20:
        with pytest.raises(ValueError, match=f"--set {fault}"):
            parse_yaml(text, "--set")


def test_ordinary_yaml_is_within_the_limits():
    deep = "[" * 49 + "1" + "]" * 49
    shared = "base: &base {a: [1, 2], b: 1.0e-3}\nall: [" + "*base, " * 900 + "]"
    assert parse_yaml(deep, "f") == eval(deep)
    assert parse_yaml(shared, "f")["all"] == [{"a": [1, 2], "b": 1e-3}] * 900
    assert parse_yaml("x: 1:30:00", "f") == {"x": "1:30:00"}


def test_yaml_merge_keys():
    text = """
    base: &base {a: 1, b: 2}
    inner: {more: &more {<<: *base, b: 3}}
    outer: {<<: *more, c: 4}
    """
    value = parse_yaml(text, "f")
    assert value["inner"]["more"] == {"a": 1, "b": 3}
    assert value["outer"] == {"a": 1, "b": 3, "c": 4}


@pytest.mark.parametrize(
    "path", ["/proc/self/nothing/x.yaml", "/etc/passwd/x.yaml", "/etc", "a" * 300, "no.yaml"]
)
def test_unreadable_file(path):
    with pytest.raises(ValueError, match=path):
        read_yaml(Path(path))


# ------------------------------------------------------------------------------------------- sweeps


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": [0]}, r"w: unknown option 'seed'; did you mean 'seeds'\?"),
        ({"seeds": []}, "seeds"),
        ({"seeds": [0, 0]}, "names 0 twice"),
        ({"seeds": [-1]}, "seeds.0 is -1"),
        ({"dcase": ["dcase2032"]}, "unknown DCASE year 'dcase2032'; did you mean"),
        ({"machines": {"dcase2023": ["fann"]}}, r"dcase2023 has no machine 'fann'; did you mean 'fan'\?"),
        ({"machines": {"dcase2022": ["fan"]}}, r"machines.dcase2022: the sweep's dcase list has no 'dcase2022'"),
        ({"machines": "some"}, "machines is 'some'"),
        ({"backends": ["knm"]}, r"backends.0.name is 'knm'; did you mean 'knn'\?"),
        ({"backends": [{"name": "knn", "n_neighbours": 2}]}, r"'backends.0.n_neighbours'; did you mean 'n_neighbors'\?"),
        ({"backends": ["knn", "knn"]}, "twice"),
        (
            {"backends": ["recon", {"name": "knn", "smote_ratio": {"uniform": [0, 0.5]}}]},
            r"backends.1.smote_ratio is .*: uniform is sampled, and backends are not: give a list of values",
        ),
        ({"backends": []}, "backends"),
        ({"checkpoints": ["lst"]}, "checkpoints.0 is 'lst'"),
        ({"umap": {"metrik": "cosine"}}, r"'umap.metrik'; did you mean 'metric'\?"),
        ({"search": {"algorithm": "gird"}}, r"search.algorithm is 'gird'; did you mean 'grid'\?"),
        ({"name": "a b"}, "name is 'a b'"),
        ({"recipes": []}, "recipes"),
        ({"resources": {"train": {"gpus": 1}}}, r"'resources.train.gpus'; did you mean 'gpu'\?"),
    ],
)  # fmt: skip
def test_wrong_sweep(changes, message):
    with pytest.raises(ValueError, match=message):
        validate(Sweep, spec(**changes), "w")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"recipes": ["dis_basline"]},
            r"recipes: unknown recipe 'dis_basline'; did you mean 'dis_baseline'\?",
        ),
        ({"space": {"train.lr": [1]}}, r"w: space: unknown option 'train.lr'"),
        ({"space": {"train.epochs": 3}}, "w: space.train.epochs is 3: an axis of a grid is a list"),
        ({"space": {"train.epochs": []}}, "space.train.epochs is an empty list"),
        ({"space": {"train.epochs": [4, 4]}}, "are the same system"),
        ({"checkpoints": ["epoch_99"]}, "epoch_99, but recipes.dis_baseline trains 16 epochs"),
        ({"backends": ["recon"]}, r"none of the backends \(recon\) applies to dis_baseline"),
        (
            {"recipes": {"dis_baseline": {"set": {"audio.duration": 1.0}}}},
            "dcase2023: clips of 1 s are too short",
        ),
        (
            {"recipes": {"dis_baseline": {"set": {"train.epochs": 3}}}, "space": {"train.epochs": [1, 2]}},
            "w: recipes.dis_baseline.set.train.epochs is fixed, but train.epochs varies in a space",
        ),
        (
            {
                "recipes": {
                    "dis_baseline": {
                        "set": {"frontend.loss.trainable": True},
                        "space": {"frontend.loss": [{"name": "adacos"}]},
                    }
                }
            },
            "set.frontend.loss.trainable is fixed, but frontend.loss varies",
        ),
    ],
)
def test_wrong_expansion(changes, message):
    with pytest.raises(ValueError, match=message):
        expand(validate(Sweep, spec(**changes), "w"), "w")


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"resources": {"train": {"cpu": -1}}}, "resources.train.cpu is -1: input should be greater than or equal to 0"),
        ({"resources": {"train": 3}}, "resources.train is 3: must be a mapping of options"),
        ({"machines": {"dcase2023": "fan"}}, "machines.dcase2023 is 'fan': must be a list"),
        ({"machines": {2023: ["fan"]}}, "machines.2023: the key 2023 must be text"),
        ({"machines": "al"}, "machines is 'al'; did you mean 'all'? (one of: all, a mapping)"),
        ({"umap": None}, "umap is null (one of: false, a mapping of options)"),
        ({"umap": True}, "umap is true (one of: false, a mapping of options)"),
        ({"umap": {"metric": 1}}, "umap.metric is 1 (one of: cosine, euclidean)"),
        ({"umap": {"n_neighbors": 1}}, "umap.n_neighbors is 1: input should be greater than or equal to 2"),
        ({"backends": [3]}, "backends.0 is 3, but must be an object with a 'name'"),
        ({1: 2}, "1: the key 1 must be text"),
    ],
)  # fmt: skip
def test_one_fault_is_one_line_with_its_whole_path(changes, line):
    with pytest.raises(ValueError) as caught:
        validate(Sweep, {**spec(), **changes}, "w")
    assert str(caught.value) == f"w: {line}"


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ("year_mx", "'year_mx'; did you mean 'year_max'? (one of: year_max, native, a number)"),
        (-1, "-1: input should be greater than 0 (or: year_max, native)"),
        (None, "null (one of: year_max, native, a number)"),
    ],
)
def test_a_value_that_fits_no_alternative_is_one_line(value, line):
    with pytest.raises(ValueError) as caught:
        with_overrides(DIS, {"audio.duration": value}, "w")
    assert str(caught.value) == f"w: audio.duration is {line}"


def test_several_faults_are_reported_at_once():
    with pytest.raises(ValueError) as caught:
        validate(Sweep, spec(seed=[1], umap={"metrik": 1}, name="a b"), "s.yaml")
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert all(line.startswith("s.yaml: ") for line in lines)


def test_grid_is_the_full_product_per_recipe(tmp_path):
    sweep = load(
        tmp_path,
        """
        name: grid
        recipes:
          dis_baseline:
            set: {train.batch_size: 32}
            space: {frontend.loss: [{name: adacos}, {name: subcluster_adacos, n_subclusters: 4}]}
          ae_baseline:
        space: {train.learning_rate: [1e-3, 3e-4]}
        dcase: [dcase2022, dcase2023]
        seeds: [0, 1, 2]
        backends: [knn, {name: knn, n_neighbors: [2, 4], metric: [cosine, euclidean]}]
        """,
    )
    trials = expand(sweep, "s")
    assert len(trials) == (4 + 2) * 2 * 3
    assert {t.system.train.batch_size for t, _ in trials if t.recipe == "dis_baseline"} == {32}
    assert len({(t.recipe, t.system.id) for t, _ in trials}) == 6
    assert trials[0][1] == {"train.learning_rate": 1e-3, "frontend.loss": {"name": "adacos"}}
    assert [(b.n_neighbors, b.metric) for b in sweep.backends] == [
        (1, "cosine"), (2, "cosine"), (2, "euclidean"), (4, "cosine"), (4, "euclidean"),
    ]  # fmt: skip


def test_a_recipe_of_ones_own(tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("about: mine\nfrontend: {name: autoencoder, bottleneck: 4}\n")
    sweep = validate(Sweep, spec(recipes=[str(recipe)]), "w")
    ((trial, _),) = expand(sweep, "w")
    assert (trial.recipe, trial.system.frontend.bottleneck) == ("mine", 4)


SHORT = "name: s\nrecipes: [dis_baseline, ae_baseline]\ndcase: dcase2023\nseeds: 0\n"


def overridden(tmp_path, text=SHORT, **overrides):
    path = tmp_path / "s.yaml"
    path.write_text(text)
    return load_sweep(path, {key.replace("__", "."): value for key, value in overrides.items()})


def test_an_override_keeps_the_other_recipes(tmp_path):
    sweep = overridden(tmp_path, recipes__ae_baseline__set__train__epochs=3)
    assert {t.recipe: t.system.train.epochs for t, _ in expand(sweep, "s")} == {
        "dis_baseline": 16, "ae_baseline": 3,
    }  # fmt: skip


def test_an_override_of_one_recipe_leaves_an_aliased_one(tmp_path):
    text = SHORT.replace(
        "[dis_baseline, ae_baseline]", "{dis_baseline: &a {set: {train.epochs: 2}}, ae_baseline: *a}"
    )
    sweep = overridden(tmp_path, text, recipes__ae_baseline__set__train__epochs=3)
    assert [t.system.train.epochs for t, _ in expand(sweep, "s")] == [2, 3]


def test_overrides_go_through_short_forms(tmp_path):
    sweep = overridden(
        tmp_path,
        SHORT + "resources: auto\nspace:\n",
        resources__train__gpu=1,
        space__train__epochs=[1, 2],
        seeds=[4],
    )
    assert (sweep.resources.train.gpu, sweep.space, sweep.seeds) == (1, {"train.epochs": [1, 2]}, (4,))


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        (SHORT + "umap: false", {"umap__metric": "cosine"}, "s.yaml: --set umap.metric: umap is False"),
        (SHORT, {"seeds__0": 1}, "s.yaml: --set seeds.0: seeds is 0, .*set seeds as a whole"),
        (SHORT + "machines: all", {"machines__dcase2023": ["fan"]}, "machines is 'all'"),
        (
            SHORT.replace("[dis_baseline", "[1"),
            {"recipes__ae_baseline": {}},
            r"recipes is \[1, 'ae_baseline'\]",
        ),
        (
            SHORT,
            {"recipes__ae_baseline__sett__x": 1},
            "unknown option 'recipes.ae_baseline.sett'; did you mean 'set'",
        ),
        (
            SHORT.replace("dis_baseline", "ae_baseline.yaml"),
            {"recipes.ae_baseline.yaml.set.train.epochs": 1},
            "set.train.epochs may mean each of the recipes ae_baseline.yaml and ae_baseline: rename",
        ),
    ],
)
def test_an_override_through_something_else_is_refused(tmp_path, text, overrides, message):
    with pytest.raises(ValueError, match=message):
        overridden(tmp_path, text, **overrides)


def test_recipe_files_are_found_beside_the_sweep_file(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    (tmp_path / "here").mkdir()
    for folder, bottleneck in (("in", 4), ("here", 5)):
        (tmp_path / folder / "mine.yaml").write_text(
            f"about: mine\nfrontend: {{name: autoencoder, bottleneck: {bottleneck}}}\n"
        )
    monkeypatch.chdir(tmp_path / "here")
    text = SHORT.replace("[dis_baseline, ae_baseline]", "[mine.yaml]")
    sweep = overridden(tmp_path / "in", text, **{"recipes.mine.yaml.set.train.epochs": 3})
    assert list(sweep.recipes) == [str(tmp_path / "in" / "mine.yaml")]
    ((trial, _),) = expand(sweep, "s")
    assert (trial.recipe, trial.system.frontend.bottleneck, trial.system.train.epochs) == ("mine", 4, 3)

    (tmp_path / "in" / "mine.yaml").unlink()
    ((trial, _),) = expand(overridden(tmp_path / "in", text), "s")
    assert trial.system.frontend.bottleneck == 5

    (tmp_path / "here" / "mine.yaml").unlink()
    with pytest.raises(
        ValueError, match=r"s.yaml: recipes: there is no file .*in/mine.yaml and no .*here/mine.yaml"
    ):
        overridden(tmp_path / "in", text)


def test_defaults_of_a_short_sweep():
    sweep = validate(Sweep, spec(dcase="dcase2022", seeds=3, umap=False, resources="auto"), "w")
    assert (sweep.dcase, sweep.seeds, sweep.umap, sweep.backends) == (("dcase2022",), (3,), False, (Knn(),))
    assert validate(Sweep, spec(), "w").umap == Umap()
    assert sweep.machines_of("dcase2022") == YEARS["dcase2022"].all_machines


@pytest.mark.parametrize(
    "path", sorted([*ROOT.glob("sweeps/*.yaml"), *ROOT.glob("benchmarks/*.yaml")]), ids=str
)
def test_shipped_sweeps_load(path):
    assert load_sweep(path).name == path.stem
    assert path.read_text().startswith("# "), "opens with the question that it asks"


@pytest.mark.parametrize("name", recipe_names())
def test_shipped_recipes_load_for_every_year(name):
    system = load_recipe(name).system
    for year in YEARS:
        if system.audio.channel == "near" or YEARS[year].channels > 1:
            system.check(year)


@pytest.mark.parametrize("name", [name for name in recipe_names() if name.endswith("_asdkit")])
def test_asdkit_variants_differ_from_their_recipe_in_the_labels_and_in_stated_options(name):
    plain = load_recipe(name.removesuffix("_asdkit")).system
    more = {
        "dis_beats_scac_trainable_asdkit": {"frontend.branches.0.norm_stats": "initial"},
        "dis_eat_scac_trainable_asdkit": {"frontend.branches.0.weights": "EAT_epoch10"},
    }
    changes = {"frontend.labels": "asdkit", **more.get(name, {})}
    assert load_recipe(name).system == with_overrides(plain, changes, "w") != plain


def test_dis_baseline_is_the_published_recipe_of_another_name():
    assert load_recipe("dis_spec_adacos_fixed").system.id == DIS.id


# --------------------------------------------------------------------------------------- arithmetic


def test_stft_bins_are_those_of_the_reference():
    """Bins from 200 to 8000 Hz inclusive: first 4 / 13 / 52, 125 / 500 / 1997 rows."""
    shapes = [StftBranch(n_fft=n, hop_length=n // 2) for n in (256, 1024, 4096)]
    assert [b.bins()[0] for b in shapes] == [4, 13, 52]
    assert [b.input_shape(160000)[0] for b in shapes] == [125, 500, 1997]
    assert [StftBranch().input_shape(s * 16000)[1] for s in (10, 11, 12, 18)] == [313, 344, 376, 563]


def test_fft_lengths_are_those_of_the_reference():
    assert FftBranch().lengths(160000) == [80001, 1247, 37, 6]
    assert FftBranch().lengths(288000) == [144001, 2247, 69, 14]


def test_too_short_clips_are_named():
    with pytest.raises(ValueError, match="clips of 4.3 s are too short for the fft branch"):
        FftBranch().lengths(round(4.3 * 16000))
    FftBranch().lengths(round(4.4 * 16000))
    with pytest.raises(ValueError, match="the stft branch sees 500 bins x 32 frames"):
        StftBranch().input_shape(16000)
    assert AdaCos().trainable is False


def test_configuration_imports_nothing_heavy():
    code = (
        "import sys, asdray, asdray.config.sweep, asdray.store, asdray.stages.steps, asdray.sweep.plan, asdray.cli;"
        "print([m for m in ('torch','ray','lightning','pandas','sklearn','umap','scipy','matplotlib','pyarrow')"
        " if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
