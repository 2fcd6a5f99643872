"""The report of a sweep: its parts as data, the page in a real browser, and the pictures."""

import dataclasses
import json
import re
import shutil
import struct
from pathlib import Path

import optuna
import pandas as pd
import pyarrow as pa
import pytest
from matplotlib import colors
from sweeping import SMALL_AE, World, in_process, make_data

import asdray
from asdray import damage, drawing, notes, points, store
from asdray.config.system import load_recipe, with_overrides
from asdray.config.trial import Trial
from asdray.evaluation.decisions import decision_threshold
from asdray.report import board, embeddings, machines, origin, pictures, scores, times
from asdray.report import page as page_module
from asdray.report.content import Content
from asdray.report.frame import content_of
from asdray.results import load_results
from asdray.sweep import events, outputs

RATES = [0.001, 0.01]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A finished sweep of two systems with two seeds; one of its stages has failed for good."""
    world = World(make_data(tmp_path_factory.mktemp("data")), tmp_path_factory.mktemp("world") / "results")
    recipe = {"set": {**SMALL_AE, "train.epochs": 3}, "space": {"train.learning_rate": RATES}}
    asked = {"recipes": {"ae_baseline": recipe}, "seeds": [0, 1], "backends": ["knn"], "report": True}
    for rate in RATES:
        for seed in (0, 1):
            options = {**recipe["set"], "train.learning_rate": rate}
            sets = [
                part for key, value in options.items() for part in ("--set", f"{key}={json.dumps(value)}")
            ]
            in_process(
                "run", "ae_baseline", "dcase2023", "--machines", "fan,valve,bandsaw", "--seed", seed, *sets,
                "--data", world.data, "--results", world.results, "--no-umap", "--device", "cpu",
            )  # fmt: skip
    _place_points(world)
    printed = in_process(*world.command(**asked))
    assert f"the report: {world.folder() / 'report.html'}\n" in printed.replace("\n  ", "")
    return world


def _place_points(world):
    """Positions of the clips of a machine, in place of a UMAP of ten seconds."""
    folder = min(world.results.glob("trials/*/*/seed0/output/last/fan"))
    clips = [
        row["clip"] for split in ("train", "test") for row in damage.read_csv(folder / f"{split}_score.csv")
    ]
    points = {"clip": clips, "x": [float(i) for i in range(len(clips))], "y": [0.0] * len(clips)}
    store.write_parquet(folder / "umap" / "umap.parquet", pa.table(points))


@pytest.fixture(scope="module")
def content(world):
    """What the page shows, gathered by `asdray report`."""
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("asdray.report.page.write", seen.append)
        in_process("report", "tiny", "--data", world.data, "--results", world.results)
    return seen[0]


def test_names_are_options_not_hashes(content):
    assert sorted(content.names.values()) == [
        "ae_baseline lr=0.01",
        "ae_baseline lr=1e-3",
    ]
    shown = board.board(content)
    assert {row.name for row in shown.rows if row.origin == "ours"} == set(content.names.values())
    assert [title for title, _, _ in shown.columns][:2] == ["dcase2023-dev", "dcase2023-eval"]
    assert shown.values("recipe") == ["ae_baseline"]
    assert {row.rank for row in shown.rows if row.origin == "ours"} <= {"1", "2"}
    for row in shown.rows:
        (own,) = content.board.frame[content.board.frame["system"] == row.system].to_dict("records")
        mean, std = (100 * own[f"dcase2023-dev_{part}"] for part in ("mean", "std"))
        assert row.scores[0].text == f"{mean:.2f} ± {std:.2f}"
        assert row.scores[0].value == pytest.approx(mean, abs=1e-4)


def test_heat_maps_have_the_means_of_the_tables(content):
    (choice,) = machines.section(content).parts
    assert list(choice.figures) == [("dcase2023", "dev"), ("dcase2023", "eval")]
    (trace,) = choice.figures["dcase2023", "dev"]["data"]
    table = content.tables["dcase2023", "dev"]
    assert trace["x"] == ["fan", "valve", "total"]
    for label, line in zip(trace["y"], trace["z"], strict=True):
        (system,) = [system for system, name in content.names.items() if f"{name} · recon" == label]
        row = table[table["system"] == system].iloc[0]
        assert line == pytest.approx([100 * row[name] for name in ("fan", "valve", "total_mean")], rel=1e-3)


def test_histograms_count_every_clip_and_rocs_have_the_auc(content):
    histograms, curves = scores.section(content).parts
    key = next(key for key in histograms.figures if key[1] == "fan" and "=1e-3 " in key[2])
    bars = histograms.figures[key]["data"]
    assert [sum(bar["y"]) for bar in bars] == pytest.approx([1] * len(bars), abs=2e-3)
    assert sum(int(re.search(r"\((\d+)\)", bar["name"])[1]) for bar in bars[1:]) == 8
    assert histograms.figures[key]["layout"]["shapes"][0]["x0"] > 0, "the threshold"
    trial = next(t for t in content.trials if t.seed == 0 and "=1e-3" in content.names[t.system])
    frame = pd.read_parquet(trial.folder.metrics)
    auc = frame[(frame.machine == "fan") & (frame.metric == "mix_auc") & (frame.section == 0)]["value"]
    title = curves.figures[key]["data"][0]["name"]
    assert title == f"all clips: AUC {100 * auc.iloc[0]:.1f} %"


def test_a_damaged_file_leaves_its_figure_out(content):
    trial = content.trials[0]
    view = trial.folder.score_view("last", "valve", "test")
    whole = view.read_text()
    before = len(scores.section(content).parts[0].figures)
    view.write_text(whole.replace("1", "2", 1))
    try:
        section = scores.section(content)
    finally:
        view.write_text(whole)
    assert len(section.parts[0].figures) == before - 1
    assert "Shown are" in " ".join(section.notes)


def test_umap_is_coloured_by_label_domain_section_and_attribute(content):
    (choice,) = embeddings.section(content).parts
    ((key, figure),) = choice.figures.items()
    assert key[:2] == ("dcase2023", "fan")
    points = figure["points"]
    assert [len(points[name]) for name in ("x", "y", "text", "crossed")] == [20] * 4
    groups = points["groups"]
    assert list(groups) == ["label", "domain", "attribute"]
    titles = [title for title, _ in groups["label"]["values"]]
    assert titles == ["test, anomaly (4)", "test, normal (4)", "training (12)"]
    for clip, value in zip(points["text"], groups["domain"]["of"], strict=True):
        assert f"_{groups['domain']['values'][value][0].split()[0]}_" in clip


def test_times_and_failures_come_from_the_log(tmp_path, content):
    line = {
        "dcase": "dcase2023", "recipe": "r", "system": "r-1", "seed": 0, "stage": "train", "unit": "fan", "machine": None,
        "checkpoint": None, "backend": None, "status": "done", "time": "2026-01-01T00:01:00Z", "seconds": 60.0,
        "device": "cpu", "signature": "s", "found": False, "error": None,
    }  # fmt: skip
    failed = {
        **line,
        "unit": "valve",
        "status": "failed",
        "error": "the loss is NaN",
        "details": "<b>trace</b>",
        "lasting": True,
    }
    mended = [{**failed, "unit": "pump"}, {**line, "unit": "pump", "found": True}]
    sweep = store.SweepDir(tmp_path / "results" / "sweeps" / "s")
    text = "\n".join(map(json.dumps, [line, failed, *mended])) + "\nhalf a li"
    store.write_text(sweep.events, text)
    own = Content(sweep, content.board, content.tables, events=tuple(events.read(sweep.events)))
    table, chart = times.section(own).parts
    assert table.rows == [["train", "1", "1 min 0 s", "1 min 0 s", "1 min 0 s"]]
    (trace,) = chart.figures[()]["data"]
    assert (trace["name"], trace["x"]) == ("train", [60_000])
    (grid,) = times.failures(own).parts
    assert [row[1:3] for row in grid.rows] == [["train valve", ("the loss is NaN", "<b>trace</b>")]]


# ----------------------------------------------------------------------------------------------- the page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium of the system."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, world):
    """Opens the report; errors on the console and requests to anywhere else fail the test."""
    faults, contexts = [], []

    def opened(width=1280, scheme="light", path=None):
        path = path or world.folder() / "report.html"
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on(
            "request",
            lambda r: None if r.url.startswith(("file:", "data:", "blob:")) else faults.append(r.url),
        )
        page.goto(path.as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()
    assert faults == []


def column(page, i):
    """The texts of a column of the leaderboard, of the rows that are shown."""
    return page.locator(f"#board tbody tr:not([hidden]) td:nth-child({i})").all_inner_texts()


def test_the_board_sorts_and_filters(open_page, content):
    page = open_page()
    systems = column(page, 2)
    assert len(systems) == 2
    page.get_by_role("button", name="dcase2023-dev").click()
    scores_shown = [float(text.split()[0]) for text in column(page, 4)]
    assert scores_shown == sorted(scores_shown, reverse=True)
    page.get_by_role("button", name="dcase2023-dev").click()
    assert [float(text.split()[0]) for text in column(page, 4)] == sorted(scores_shown)
    page.get_by_label("Search").fill("=1e-3")
    assert [text.split("\n")[0] for text in column(page, 2)] == ["ae_baseline lr=1e-3"]
    assert page.locator("#count").inner_text() == "1 of 2 rows"
    page.get_by_label("Search").fill("")
    page.get_by_label("subset").first.select_option("eval")
    assert page.locator("#board th:visible").all_inner_texts()[3:] == ["dcase2023-eval"]


@pytest.mark.parametrize("width", [390, 800, 1440])
def test_every_figure_is_drawn_at_every_width(open_page, width):
    page = open_page(width)
    for box in page.locator(".figure").all():
        box.scroll_into_view_if_needed()
        box.locator(".main-svg").first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "the page itself never scrolls"
    assert page.locator(".figure").count() == page.locator(".js-plotly-plot").count()


def test_a_choice_draws_another_figure(open_page):
    page = open_page()
    box = page.locator("#scores .figure").first
    box.scroll_into_view_if_needed()
    names = box.locator("text=/training \\(\\d+\\)/").first
    names.wait_for()
    before = box.locator(".bars").first.inner_html()
    box.get_by_label("machine").select_option("valve")
    assert box.locator(".bars").first.inner_html() != before
    assert box.get_by_label("machine").input_value() == "valve"


def test_points_change_their_colouring(open_page):
    page = open_page()
    box = page.locator("#umap .figure")
    box.scroll_into_view_if_needed()
    box.get_by_text("training (12)").wait_for()
    box.get_by_label("colour").select_option("domain")
    box.get_by_text("source (").wait_for()
    assert box.get_by_text("training (12)").count() == 0


def test_the_figures_of_a_search_are_optunas(open_page, content, tmp_path):
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study.optimize(
        lambda trial: -trial.suggest_float("train.learning_rate", 1e-4, 1e-2, log=True), n_trials=8
    )
    sweep = store.SweepDir(tmp_path / "results" / "sweeps" / "s")
    page = open_page(
        path=page_module.write(dataclasses.replace(content, folder=sweep, studies={"dis": study}))
    )
    box = page.locator("#search .figure")
    box.scroll_into_view_if_needed()
    for name in ("slices", "importances", "history", "parallel coordinates"):
        box.get_by_label("figure").select_option(name)
        box.get_by_text("train.learning_rate" if name != "history" else "Objective Value").first.wait_for()


def test_light_and_dark(open_page):
    def back(page):
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    light, dark = open_page(scheme="light"), open_page(scheme="dark")
    assert back(light) == "rgb(255, 255, 255)" != back(dark)
    dark.locator("#theme").click()
    assert back(dark) == back(light)


def test_the_page_escapes_what_others_wrote(open_page, content, tmp_path):
    """Names of others' systems, errors of plugins: shown, never run."""
    bad = "</script><img src=x onerror=alert(1)>"
    frame = content.board.frame.assign(system=bad, recipe=bad, caveat=bad)
    sweep = store.SweepDir(tmp_path / "results" / "sweeps" / "s")
    event = {"dcase": "d", "recipe": "r", "seed": 0, "stage": "train", "status": "failed", "system": bad}
    event |= {"time": "t", "error": bad, "details": bad}
    board_of_others = dataclasses.replace(content.board, frame=frame)
    own = dataclasses.replace(content, folder=sweep, board=board_of_others, events=(event,))
    page = open_page(path=page_module.write(own))
    assert page.locator("img").count() == 0
    assert bad in page.locator("#failures").inner_text()
    assert bad in page.locator("#board").inner_text()


def test_the_page_shows_the_caveat_of_a_row_and_where_its_classes_are_from(content, tmp_path):
    frame = content.board.frame.copy()
    frame.loc[0, ["caveat", "classes_from"]] = "transductive: ranks", "train+test"
    frame.loc[1, ["caveat", "classes_from", "origin"]] = "tuned on dev", "train+test", "published"
    sweep = store.SweepDir(tmp_path / "results" / "sweeps" / "s")
    own = dataclasses.replace(content, folder=sweep, board=dataclasses.replace(content.board, frame=frame))
    found = re.findall(r'<span class="tag caveat">(.*?)</span>', page_module.write(own).read_text())
    assert found == ["transductive: ranks; classes from train+test", "tuned on dev"]


def test_the_selection_says_the_rank_correlation_once_or_for_each_recipe(content):
    row = {"system": "s", "backend": "knn", "dev": 0.5, "eval": 0.5, "objective": 0.5}

    def said(*values):
        rows = [{**row, "recipe": recipe, "dev_eval_correlation": rho} for recipe, rho in values]
        section = origin.selection(dataclasses.replace(content, selection=pd.DataFrame(rows)))
        return [note.partition("dev and eval: ")[2] for note in section.notes if "Spearman" in note]

    assert said(("a", 0.6), ("b", 0.6)) == ["0.60."], "a grid compares all rows"
    assert said(("a", 0.6), ("b", -0.25)) == ["0.60 (a), -0.25 (b)."]
    assert said(("a", None), ("b", 0.5)) == ["0.50 (b)."]
    assert said(("a", None), ("b", None)) == []


# -------------------------------------------------------------------------------------------- the pictures

PAPER = {colour.lower() for colour in (*drawing.COLOURS, "#000000", "#ffffff")}


@pytest.fixture(scope="module")
def frame(world, content):
    return load_results(world.folder())


def texts(axes):
    return [text.get_text() for text in axes.texts]


def legend(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def hexes(lines):
    return {colors.to_hex(line.get_color()) for line in lines}


def size_in_inches(path):
    content = path.read_bytes()
    if path.suffix == ".pdf":
        box = re.search(rb"/MediaBox \[ ?0 0 ([\d.]+) ([\d.]+)", content)
        return tuple(float(side) / 72 for side in box.groups())
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert content.endswith(b"IEND\xaeB`\x82")
    return tuple(side / 300 for side in struct.unpack(">II", content[16:24]))


def test_the_sweep_writes_pictures_of_a_columns_width(world, content):
    for name in ("leaderboard.png", "leaderboard.pdf", "machines.png", "curves.png"):
        width, height = size_in_inches(world.folder() / name)
        assert width == pytest.approx(3.4, abs=0.01), name
        assert 0.8 < height < 8, name
    pdf = world.folder() / "leaderboard.pdf"
    before = pdf.read_bytes()
    assert b"/Type3" not in before, "journals refuse fonts of type 3"
    pictures.write(content)
    assert pdf.read_bytes() == before


def test_the_picture_of_the_leaderboard_has_its_numbers(content):
    figure = pictures.leaderboard(content)
    (axes,) = figure.axes
    rows = board.board(content).rows
    assert texts(axes) == [f"{row.rank}. {row.name} · {row.backend}" for row in rows]
    assert legend(axes) == ["dcase2023-dev", "dcase2023-eval"]
    assert axes.get_xlabel() == "official score (%)"
    shown = [(bar[0].get_xdata()[0], bar[2][0].get_segments()[0][:, 0]) for bar in axes.containers]
    expected = [score for row in rows for score in row.scores[:2]]
    for (mean, ends), score in zip(shown, expected, strict=True):
        assert mean == score.value
        assert ends == pytest.approx([score.value - score.std, score.value + score.std])
    assert hexes(bar[0] for bar in axes.containers) <= PAPER
    assert "synthetic data" in figure.get_suptitle()


def test_the_picture_of_machines_has_the_tables(content):
    figure = pictures.machines(content)
    assert [axes.get_title(loc="left").split(",")[0] for axes in figure.axes] == [
        "dcase2023 dev",
        "dcase2023 eval",
    ]
    for axes, subset in zip(figure.axes, ("dev", "eval"), strict=True):
        table = content.tables["dcase2023", subset]
        names = [label.get_text() for label in axes.get_xticklabels()]
        assert names[-1] == "total"
        cells = [text for text in texts(axes) if not text.startswith("ae_baseline")]
        wanted = [
            f"{100 * table[n]:.1f}"
            for _, table in sorted_rows(content, table)
            for n in (*names[:-1], "total_mean")
        ]
        assert [text.split("\n")[0] for text in cells] == wanted
        assert all(text.split("\n")[1].startswith("±") for text in cells), "two seeds have a spread"


def sorted_rows(content, table):
    place = [system for system, _, _ in content.rows]
    return sorted(table.iterrows(), key=lambda row: place.index(row[1]["system"]))


def test_the_picture_of_curves_has_every_training(content):
    (axes,) = pictures.training_curves(content).axes
    assert len(axes.lines) == len(content.trials) * 3, "a training per machine"
    assert len(hexes(axes.lines)) == 2, "a colour per system"
    assert hexes(axes.lines) <= PAPER
    assert sorted(legend(axes)) == sorted(content.names.values())
    path = content.trials[0].folder.root / "model" / "bandsaw" / "metrics.csv"
    losses = [float(row["loss"]) for row in damage.read_csv(path)]
    assert list(axes.lines[0].get_ydata()) == losses


def test_more_systems_than_names_fit_leave_the_legend_out(content):
    some = content.trainings[0]
    many = [
        dataclasses.replace(some, trial=dataclasses.replace(some.trial, system=f"s{i}")) for i in range(9)
    ]
    own = dataclasses.replace(content)
    own.__dict__["trainings"] = many * 40
    (axes,) = pictures.training_curves(own).axes
    assert axes.get_legend() is None
    assert len(axes.lines) == 300
    assert axes.get_title(loc="left").endswith(", 300 of 360 trainings")


def test_ours_stand_beside_the_best_published_rows_and_long_names_take_two_lines(content):
    own = content.board.frame
    ours = [
        own.assign(system=f"ae-{i}", recipe="ae", options=f"option={'x' * 40} other={i}") for i in range(8)
    ]
    theirs = [own.assign(system=f"theirs {i}", origin="published", rank=pd.NA) for i in range(8)]
    many = dataclasses.replace(content.board, frame=pd.concat([*theirs, *ours]), labels={})
    (axes,) = pictures.leaderboard(dataclasses.replace(content, board=many)).axes
    published = [text for text in texts(axes) if "(published)" in text]
    assert (len(published), len(texts(axes))) == (8, 20)
    assert axes.get_xlabel() == "official score (%); 20 of 32 rows"
    assert texts(axes)[8:] == [
        f"{own['rank'].iloc[i % 2]}. ae option={'x' * 40}\nother={i // 2} · recon" for i in range(12)
    ]
    assert [bar[0].get_markerfacecolor() == "white" for bar in axes.containers] == [True] * 16 + [False] * 24


def test_a_picture_that_cannot_be_written_ends_no_sweep(content, monkeypatch):
    drawn = []
    monkeypatch.setattr(page_module, "write", lambda content: 1 / 0)
    monkeypatch.setattr(pictures, "write", drawn.append)
    outputs._write_report(content)
    assert len(drawn) == 1, "the pictures do not wait for the page"
    assert "the report is not written (ZeroDivisionError" in " ".join(map(str, notes.take()))


def test_a_table_of_results_gives_the_leaderboard_of_the_sweep(content, frame):
    own = content_of(frame)
    same = [f"dcase2023-{subset}_{part}" for subset in ("dev", "eval") for part in ("mean", "std", "n")]
    pd.testing.assert_frame_equal(
        own.board.frame[["rank", "system", *same]],
        content.board.frame[["rank", "system", *same]],
    )
    assert own.names == content.names
    assert own.trials == content.trials
    assert own.machines == content.machines
    trial = content.trials[0]
    (name,) = content_of(load_results(trial.folder.root)).names.values()
    assert re.fullmatch(r"ae_baseline( \w+=\S+)+", name), "the options that are not the recipe's"
    assert " bottleneck=4" in name
    other = asdray.plot(frame.query("metric == 'mix_auc'"), "machines")
    assert "mix_auc (%)" in other.axes[0].get_title(loc="left")


def test_scores_and_roc_of_a_machine_are_those_of_its_files(content, frame):
    fan = frame.query("machine == 'fan' and `train.learning_rate` == 0.001")
    trial = next(t for t in content.trials if t.seed == 0 and "=1e-3" in content.names[t.system])
    (backend,) = fan["backend_id"].unique()
    train, test = (pd.read_csv(trial.folder.score_view("last", "fan", split)) for split in ("train", "test"))
    figure = asdray.plot(fan, "scores")
    assert figure.get_suptitle() == ("dcase2023 fan, seed 0 (synthetic data)\nae_baseline lr=1e-3 · recon")
    for axes, domain in zip(figure.axes, ("source", "target"), strict=True):
        counts = {
            f"{'anomaly' if label else 'normal'}, {domain}": int(
                ((test.domain == domain) & (test.is_anomaly == label)).sum()
            )
            for label in (False, True)
        }
        named = [*(f"{name} ({n})" for name, n in counts.items()), "threshold"]
        assert sorted(legend(axes)) == sorted(["training (12)", *named])
        line = next(line for line in axes.lines if line.get_label() == "threshold")
        assert line.get_xdata()[0] == decision_threshold(train[backend]).value
        assert {colors.to_hex(patch.get_edgecolor()) for patch in axes.patches} <= PAPER
    (axes,) = asdray.plot(fan, "roc").axes
    known = (
        pd.read_parquet(trial.folder.metrics)
        .query("machine == 'fan' and section == 0")
        .set_index("metric")["value"]
    )
    assert f"all clips: AUC {100 * known['mix_auc']:.1f}, pAUC {100 * known['mix_pauc']:.1f} %" in legend(
        axes
    )
    assert axes.patches[0].get_x() == 0
    assert axes.patches[0].get_width() == 0.1, "the rates that the pAUC sees"
    assert axes.get_aspect() == 1


def test_umap_shows_labels_domains_and_attributes(content, frame):
    best = next(
        panel for panel in content.panels() if embeddings.points_of(panel.trial, "last", panel.machine)
    )
    figure = asdray.plot(frame.query(f"machine == 'fan' and system == '{best.trial.system}'"), "umap")
    first, second = figure.axes
    train, test = (
        pd.read_csv(best.trial.folder.score_view("last", "fan", split)) for split in ("train", "test")
    )
    assert legend(first)[:2] == [f"training, {d} ({(train.domain == d).sum()})" for d in ("source", "target")]
    anomalies = ((test.domain == "target") & test.is_anomaly).sum()
    assert f"test, anomaly, target ({anomalies})" in legend(first)
    assert second.get_title() == "by attribute"
    assert sum(int(re.search(r"\((\d+)\)$", text)[1]) for text in legend(second)) == 20


def test_a_plot_of_a_trial_alone_names_its_options():
    system = with_overrides(load_recipe("ae_baseline").system, {"train.learning_rate": 0.01}, "test")
    alone = Trial("dcase2023", "ae_baseline", system, 0, ("fan",))
    assert points.in_words(alone) == "ae_baseline lr=0.01"
    assert points.in_words(dataclasses.replace(alone, label="ae_baseline epochs=3")) == "ae_baseline epochs=3"
    assert (
        points.in_words(dataclasses.replace(alone, system=load_recipe("ae_baseline").system)) == "ae_baseline"
    )
    assert points.in_words(dataclasses.replace(alone, recipe="mine")) == f"mine-{system.id}"


def test_points_without_domain_label_or_place_for_a_colour():
    many = [points.Point(f"section_00_0001_a{i % 12}.wav", i, 0.0, "test", 0, None, None) for i in range(40)]
    first, second = points.picture(many, "x" * 300 + " $\\frac{ $").axes
    assert legend(first) == ["test, unknown, domain unknown (40)"]
    assert len(legend(second)) == 8
    assert legend(second)[-1].startswith("5 others")


def test_the_command_writes_the_picture_that_is_asked_for(world, content, tmp_path, asdray):
    where = "--results", world.results
    code, out, _ = asdray("plot", "scores", "tiny", *where, "--only", "machine=fan,valve")
    folder = world.folder() / "plots" / "dcase2023"
    paths = [folder / machine / "scores.png" for machine in ("fan", "valve")]
    assert (code, out.split()) == (0, list(map(str, paths)))
    assert size_in_inches(paths[0])[0] == pytest.approx(3.4, abs=0.01)
    code, _, _ = asdray(
        "plot",
        "roc",
        "tiny",
        *where,
        "--only",
        "machine=fan seed=1 train.learning_rate=1e-3",
        "--out",
        tmp_path / "a.pdf",
    )
    assert code == 0
    assert size_in_inches(tmp_path / "a.pdf")[0] == pytest.approx(3.4, abs=0.01)
    trial = content.trials[0].folder.root
    name = f"{trial.parent.name} seed{content.trials[0].seed}"
    for one, folder in ((trial, "of"), (name, "by_name")):
        code, out, _ = asdray("plot", "curves", one, *where, "--out", tmp_path / folder, "--format", "svg")
        assert (code, out) == (0, f"{tmp_path / folder / 'curves.svg'}\n")
    of, by_name = ((tmp_path / folder / "curves.svg").read_text() for folder in ("of", "by_name"))
    assert "<svg" in of
    assert by_name == of


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["rok", "tiny"], "unknown picture 'rok'; did you mean 'roc'?"),
        (["roc", "tiny", "--out", "x.png"], "--out x.png is one file, and there are 3 pictures"),
        (["roc", "tiny", "--only", "machine=fam"], "no result has machine=fam; did you mean 'fan'?"),
        (["roc", "tiny", "--only", "machines=fan"], "unknown column 'machines'; did you mean 'machine'?"),
        (["roc", "tiny", "--only", "fan"], "no result has system=fan"),
        (
            ["umap", "tiny", "--only", "machine=valve"],
            "there is no picture 'umap' of dcase2023 valve: there are no intact points",
        ),
        (["roc", "nothing"], "there is no sweep.yaml"),
        (["roc", "nothing seed0"], "no system is called 'nothing'"),
        (["roc", "tiny", "--out", "x.jpg"], "--out x.jpg: pictures are files of the kinds png, pdf, svg"),
    ],
)
def test_faults_of_the_command_name_the_fix(world, content, asdray, arguments, fault):
    code, _, error = asdray("plot", *arguments, "--results", world.results)
    assert code == 2
    assert fault in error


def test_faults_of_tables_name_the_fix(frame):
    for bad, fault in (
        (frame.drop(columns="machine"), "the column 'machine' is missing"),
        (frame[:0], "no rows left"),
        (frame.query("metric != 'official'"), "choose one metric"),
        (pd.concat([frame, frame.assign(dataset="official")]), "never stand in one picture"),
    ):
        with pytest.raises(ValueError, match=fault):
            asdray.plot(bad, "leaderboard")
    with pytest.raises(ValueError, match=r"has 3 \(dcase2023 fan, .*choose one"):
        asdray.plot(frame, "roc")
    strange = frame.copy()
    strange.attrs = {}
    with pytest.raises(ValueError, match="does not know its results folder.*attrs"):
        asdray.plot(strange, "roc")


def test_matplotlib_is_imported_only_where_it_draws():
    for path in (Path(asdray.__file__).parent).rglob("*.py"):
        for line in path.read_text().splitlines():
            assert not re.match(r"(import|from) matplotlib", line), path
