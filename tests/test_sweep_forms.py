"""Sweep files that forgive: short forms, lists inside of objects, paired axes, a recipe under several names."""

import pytest

from asdray.config.base import UNIONS
from asdray.config.expand import bases, expand, load_sweep
from asdray.config.files import validate
from asdray.config.grid import spread
from asdray.config.sweep import Sweep
from asdray.config.system import load_recipe, with_overrides
from asdray.config.words import MEANT, nearest_option
from asdray.sweep.outputs import _changed_keys, resolved

DIS = load_recipe("dis_baseline").system


def spec(**changes):
    return {"name": "s", "recipes": ["dis_baseline"], "dcase": ["dcase2023"], "seeds": [0], **changes}


def swept(**changes):
    """The options of every trial of a grid that vary."""
    return [options for _, options in expand(validate(Sweep, spec(**changes), "w"), "w")]


# ----------------------------------------------------------------------------------------- machines


def machines(value, **changes):
    return validate(Sweep, spec(machines=value, **changes), "w").machines


def test_a_list_of_machines_is_for_every_year():
    assert machines(["gearbox", "fan"]) == {"dcase2023": ("fan", "gearbox")}
    two = machines(["fan"], dcase=["dcase2022", "dcase2023"])
    assert two == {"dcase2022": ("fan",), "dcase2023": ("fan",)}
    search = {"algorithm": "random", "num_samples": 1, "objective": "official_dev"}
    confirmed = machines(["fan"], search=search, confirm={"seeds": [3], "dcase": ["dcase2022"]})
    assert list(confirmed) == ["dcase2023", "dcase2022"]


@pytest.mark.parametrize(
    ("value", "changes", "message"),
    [
        (["fann"], {}, r"^w: machines: dcase2023 has no machine 'fann'; did you mean 'fan'\?[^\n]*$"),
        (["Fan"], {"dcase": ["dcase2022", "dcase2023"]}, r"dcase2022 has no machine 'Fan'; did you mean 'fan'\?"),
        (
            ["fan", "Vacuum"],
            {"dcase": ["dcase2022", "dcase2023"]},
            r"^w: machines is a list, .* but dcase2022 has no Vacuum: name the machines by year, "
            r"machines: {dcase2022: \[fan\], dcase2023: \[fan, Vacuum\]}$",
        ),
        ([], {}, "^w: machines: no machine of dcase2023 was named"),
        ([3], {}, r"^w: machines is \[3\] \(one of: all, a mapping\)$"),
        (["fan"], {"dcase": ["DCASE2023"]}, r"^w: dcase.0: unknown DCASE year 'DCASE2023'; did you mean 'dcase2023'\?[^\n]*$"),
    ],
)  # fmt: skip
def test_a_wrong_list_of_machines_is_one_fault(value, changes, message):
    with pytest.raises(ValueError, match=message):
        machines(value, **changes)


# ------------------------------------------------------------------------------------------- unions


def test_a_name_alone_stands_for_every_member_of_a_union():
    for path, name in (
        ("frontend", "raw_spec"),
        ("frontend.loss", "arcface"),
        ("train.optimizer", "sgd"),
        ("train.schedule", "cosine"),
    ):
        short, long = (with_overrides(DIS, {path: value}, "w") for value in (name, {"name": name}))
        assert short == long != DIS
    assert (
        with_overrides(DIS, {"frontend.heads": ["featex"]}, "w").frontend.heads[0].loss.name
        == "subcluster_adacos"
    )
    assert with_overrides(DIS, {"frontend.branches": ["fft"]}, "w").id == with_overrides(
        DIS, {"frontend.branches": [{"name": "fft"}]}, "w"
    ).id  # fmt: skip
    assert [b.name for b in validate(Sweep, spec(backends="kmeans"), "w").backends] == ["kmeans"]
    for union in UNIONS.values():
        for member in union.built_in:
            if not any(o.is_required() for o in member.model_fields.values()):
                assert union.validate(member.model_fields["name"].default) == member()
    with pytest.raises(ValueError, match=r"frontend.loss.name is 'arcfase'; did you mean 'arcface'\?"):
        with_overrides(DIS, {"frontend.loss": "arcfase"}, "w")


def test_lists_inside_of_an_object_expand_in_a_grid():
    losses = ["adacos", {"name": "arcface", "margin": [0.1, 0.2], "scale": [16, 32]}]
    assert swept(space={"frontend.loss": losses}) == [
        {"frontend.loss": value}
        for value in (
            "adacos",
            {"name": "arcface", "margin": 0.1, "scale": 16},
            {"name": "arcface", "margin": 0.1, "scale": 32},
            {"name": "arcface", "margin": 0.2, "scale": 16},
            {"name": "arcface", "margin": 0.2, "scale": 32},
        )
    ]


def test_an_empty_list_inside_of_an_object_is_no_value_of_the_option():
    losses = ["adacos", {"name": "arcface", "margin": []}]
    with pytest.raises(ValueError, match=r"space: frontend\.loss\.margin is \[\]: must be a number"):
        swept(space={"frontend.loss": losses})
    with pytest.raises(ValueError, match=r"backends\.1\.n_neighbors is \[\]: must be a whole number"):
        swept(backends=["knn", {"name": "knn", "n_neighbors": []}])
    with pytest.raises(ValueError, match=r"unknown option 'frontend\.branches\.²'"):
        swept(space={"frontend.branches.²": [1, 2]})


FFT = {"name": "fft", "kernels": [64, 32, 8]}


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        # Deep inside: a loss within a head within a list.
        (
            "frontend.heads",
            [{"name": "featex", "loss": {"name": "arcface", "margin": [0.1, 0.2]}}],
            [[{"name": "featex", "loss": {"name": "arcface", "margin": m}}] for m in (0.1, 0.2)],
        ),
        ("frontend.branches", [FFT, {"name": "stft", "n_fft": [256, 512]}], [[FFT, {"name": "stft", "n_fft": n}] for n in (256, 512)]),
        ("frontend.branches.1", {"name": "stft", "n_fft": [256, 512]}, [{"name": "stft", "n_fft": n} for n in (256, 512)]),
        # An option that takes a list has it; a list of such lists is a value each.
        ("frontend.branches", [FFT], [[FFT]]),
        ("frontend.branches.0", {**FFT, "kernels": [[64, 32, 8], [8, 4, 2]]}, [FFT, {"name": "fft", "kernels": [8, 4, 2]}]),
        ("frontend.supplemental", {"snr": [0, 20], "probability": [0.5, 1]}, [{"snr": [0, 20], "probability": p} for p in (0.5, 1)]),
        ("frontend.classes", ["machine", "section"], [["machine", "section"]]),
        # Poolings have lists of their own, and these are several embeddings of one system.
        (
            "frontend",
            {"name": "encoder", "network": "eat", "weights": ["a.pt", "b.pt"], "layers": [4, 12], "poolings": [{"name": "gem", "p": [3, 10]}]},
            [{"name": "encoder", "network": "eat", "weights": w, "layers": [4, 12], "poolings": [{"name": "gem", "p": [3, 10]}]} for w in ("a.pt", "b.pt")],
        ),
        ("train.optimizer", {"name": "adam", "betas": [[0.9, 0.98], [0.9, 0.999]]}, [{"name": "adam", "betas": b} for b in ([0.9, 0.98], [0.9, 0.999])]),
        ("frontend.projector", {"dim": [32, 64]}, [{"dim": 32}, {"dim": 64}]),
        ("train.epochs", 3, [3]),
        ("train.nothing", {"name": "x", "y": [1, 2]}, [{"name": "x", "y": [1, 2]}]),
    ],
)  # fmt: skip
def test_a_list_expands_only_where_the_option_takes_none(path, value, expected):
    assert spread(DIS, path, [value]) == expected


def test_a_short_form_with_a_list_expands():
    branch = {"name": "encoder", "network": "beats", "weights": "BEATs_iter3"}
    system = with_overrides(DIS, {"frontend.branches": [branch]}, "w")
    values = spread(system, "frontend.branches.0.tune", ["lora", {"last": [2, 4]}, {"last": 6}])
    tuned = [
        with_overrides(system, {"frontend.branches.0.tune": v}, "w").frontend.branches[0].tune for v in values
    ]
    assert [(t.name, getattr(t, "blocks", None)) for t in tuned] == [
        ("lora", None),
        ("last", 2),
        ("last", 4),
        ("last", 6),
    ]
    assert values[-1] == {"last": 6}, "what needs no expansion stays as it was written"


# -------------------------------------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("train.lr", "train.learning_rate"),
        ("train.LR", "train.learning_rate"),
        ("lr", "train.learning_rate"),
        ("frontend.lr", "train.learning_rate"),
        ("epochs", "train.epochs"),
        ("train.max_epochs", "train.epochs"),
        ("train.wd", "train.weight_decay"),
        ("train.scheduler", "train.schedule"),
        ("Train.Epochs", "train"),
        ("frontend.mixup", "frontend.mixup_probability"),
        ("loss", "frontend.loss"),
    ],
)
def test_other_words_and_other_cases_are_understood(path, meant):
    for place in ({"space": {path: [1]}}, {"recipes": {"dis_baseline": {"set": {path: 1}}}}):
        with pytest.raises(ValueError, match=f"unknown option '{path}'; did you mean '{meant}'\\?"):
            swept(**place)


@pytest.mark.parametrize(
    ("key", "meant"), [("years", "dcase"), ("model", "recipes"), ("Seeds", "seeds"), ("grid", "space")]
)
def test_other_words_for_keys_of_a_sweep(key, meant):
    with pytest.raises(ValueError, match=f"unknown option '{key}'; did you mean '{meant}'\\?"):
        validate(Sweep, spec(**{key: 1}), "w")


def test_other_words_lead_to_options_that_exist():
    options = {name for cls in _classes() for name in cls.model_fields}
    assert {name for names in MEANT.values() for name in names} <= options
    assert nearest_option("xyzzy", ["epochs"], ["audio.duration"]) == ""


def _classes():
    from asdray.config.base import Config

    found, open_ = [], [Config]
    while open_:
        found.append(open_.pop())
        open_ += found[-1].__subclasses__()
    return found


# ------------------------------------------------------------------------------------------ recipes


def test_one_recipe_under_two_names():
    recipes = {
        "a": {"recipe": "dis_baseline", "set": {"train.epochs": 2}},
        "b": {"recipe": "dis_baseline", "set": {"train.epochs": 3}},
        "dis_baseline": None,
    }
    trials = [trial for trial, _ in expand(validate(Sweep, spec(recipes=recipes), "w"), "w")]
    assert [(t.recipe, t.system.train.epochs) for t in trials] == [("a", 2), ("b", 3), ("dis_baseline", 16)]
    assert trials[0].system == with_overrides(DIS, {"train.epochs": 2}, "w")
    assert [t.system_name for t in trials] == [f"{t.recipe}-{t.system.id}" for t in trials]


def test_recipes_inside_of_the_sweep_file_and_in_files_by_another_name(tmp_path):
    (tmp_path / "mine.yaml").write_text("about: mine\nfrontend: {name: autoencoder, bottleneck: 4}\n")
    path = tmp_path / "s.yaml"
    path.write_text("""
name: s
recipes:
  small:
    recipe:
      about: whatever
      frontend: {name: autoencoder, bottleneck: 2}
      train: {epochs: 8}
    space: {frontend.hidden: [[64], [128]]}
  bare: {recipe: {frontend: raw_spec}}
  theirs: {recipe: mine.yaml, set: {train.epochs: 3}}
dcase: dcase2023
seeds: 0
""")
    sweep = load_sweep(path, {"recipes.small.set.train.batch_size": 32})
    found = [(t.recipe, t.system.frontend.name, t.system.train.epochs) for t, _ in expand(sweep, "s")]
    assert found == [
        ("small", "autoencoder", 8), ("small", "autoencoder", 8), ("bare", "raw_spec", 16), ("theirs", "autoencoder", 3),
    ]  # fmt: skip
    assert {t.system.train.batch_size for t, _ in expand(sweep, "s")} == {32, 64}
    # The folder of results has the sweep as it was.
    assert bases(validate(Sweep, resolved(sweep), "again"), "w") == bases(sweep, "w")


@pytest.mark.parametrize(
    ("recipes", "message"),
    [
        ({"a": {"recipe": "dis_basline"}}, r"^w: recipes: unknown recipe 'dis_basline'; did you mean 'dis_baseline'\?"),
        ({"a": {"recipe": {"frontend": {"name": "raw_spek"}}}}, r"^w: recipes.a.recipe.frontend.name is 'raw_spek'; did you mean 'raw_spec'\?"),
        ({"a": {"recipe": {"about": "x"}}}, "^w: recipes.a.recipe.frontend is missing$"),
        ({"a b": {"recipe": "dis_baseline"}}, "recipe 'a b': use letters"),
        ({"a": {"recipe": 3}}, r"^w: recipes.a.recipe is 3 \(one of: text, a mapping of options\)$"),
        ({"a": {"frontend": "raw_spec"}}, r"unknown option 'recipes.a.frontend' \(known here: recipe, set, space, zip\)"),
    ],
)  # fmt: skip
def test_wrong_recipes(recipes, message):
    with pytest.raises(ValueError, match=message):
        swept(recipes=recipes)


# ------------------------------------------------------------------------------------- paired axes


def test_paired_axes_vary_together_and_in_every_combination_with_the_others():
    found = swept(
        recipes={"dis_baseline": {"zip": {"frontend.mixup_probability": [0.0, 0.5], "frontend.mixup_alpha": [None, 0.2]}}},
        space={"train.epochs": [1, 2]},
        zip={"train.learning_rate": [1e-3, 3e-4], "train.batch_size": [64, 128]},
    )  # fmt: skip
    rows = [tuple(row.values()) for row in found]
    assert list(found[0]) == [
        "train.epochs", "train.learning_rate", "train.batch_size", "frontend.mixup_probability", "frontend.mixup_alpha",
    ]  # fmt: skip
    assert len(rows) == len(set(rows)) == 8
    assert {row[1:3] for row in rows} == {(1e-3, 64), (3e-4, 128)}
    assert {row[3:] for row in rows} == {(0.0, None), (0.5, 0.2)}
    groups = [
        {"train.epochs": [1, 2], "train.batch_size": [8, 16]},
        {"audio.duration": [5, 6], "frontend.loss": ["adacos", "supcon"]},
    ]
    assert len(swept(zip=groups)) == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"zip": {"train.epochs": [1, 2], "train.batch_size": [8]}}, "^w: zip: paired axes need one value each per row, but train.epochs has 2, train.batch_size has 1$"),
        ({"zip": {"train.epochs": 3}}, "^w: zip.train.epochs is 3: an axis of a grid is a list"),
        ({"zip": {"train.epochs": [1, 2]}, "space": {"train.epochs": [3]}}, "space and zip together names 'train.epochs' twice"),
        ({"zip": {"train.lr": [1, 2]}}, r"^w: space: unknown option 'train.lr'; did you mean 'train.learning_rate'\?"),
        ({"recipes": {"dis_baseline": {"set": {"train.epochs": 2}}}, "zip": {"train.epochs": [1, 2]}}, "set.train.epochs is fixed, but train.epochs varies"),
        ({"zip": {"train.epochs": [1, 2]}, "search": {"algorithm": "random", "num_samples": 2, "objective": "train_loss"}}, "^w: zip belongs to a grid"),
        ({"zip": 3}, r"^w: zip is 3 \(one of: a mapping, a list\)$"),
    ],
)  # fmt: skip
def test_wrong_paired_axes(changes, message):
    with pytest.raises(ValueError, match=message):
        swept(**changes)


def test_a_new_key_at_its_default_is_no_change_since_the_last_run():
    now = resolved(validate(Sweep, spec(), "w"))
    before = {key: value for key, value in now.items() if key != "zip"}
    before["recipes"] = {"dis_baseline": {"set": {}, "space": {}}}
    assert list(_changed_keys(before, now)) == []
    assert list(_changed_keys(before, {**now, "zip": {"train.epochs": [1]}})) == ["zip"]
