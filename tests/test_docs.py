"""README and docs: links lead somewhere, commands and options exist, examples of YAML are valid."""

import importlib.metadata
import re

import pytest
import typer
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from pages import DOCS, PAGES, ROOT, anchors, blocks, commands, links, name_of, prose

from asdray.cli.main import app
from asdray.config.expand import load_sweep
from asdray.config.files import validate
from asdray.config.sweep import Sweep
from asdray.config.system import System

COMMANDS = typer.main.get_command(app).commands
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
OTHERS = {"git", "cd", "export", "source", "pip", "ray", "sbatch", "kubectl", "tail", "tensorboard"}
"""Commands in the pages that are neither asdray's, nor scripts, nor make's."""

each_page = pytest.mark.parametrize("page", PAGES, ids=name_of)


def test_the_readme_is_short_and_leads_to_every_page():
    readme = ROOT / "README.md"
    assert len(readme.read_text(encoding="utf-8").splitlines()) <= 150
    pages = {name_of(page) for page in DOCS} - {"docs/index.md"}
    assert pages <= set(links(readme))


def test_the_site_has_every_page():
    listed = (ROOT / "mkdocs.yml").read_text().partition("\nnav:")[2]
    assert {page.name for page in DOCS} == set(re.findall(r"\w+\.md", listed))
    index = next(page for page in DOCS if page.name == "index.md")
    assert {page.name for page in DOCS} - {"index.md"} <= set(links(index))


@each_page
def test_links_lead_to_files_and_headings(page):
    for target in links(page):
        path, _, heading = target.partition("#")
        at = (page.parent / path).resolve() if path else page
        assert at.exists(), target
        assert not heading or heading in anchors(at), target


def check_command(words, known=COMMANDS):
    """The command and its options exist, and its arguments are all there."""
    command = known[words[0]]
    if len(words) > 1 and words[1] in getattr(command, "commands", {}):
        check_command(words[1:], command.commands)
        return
    context = typer.Context(command, info_name=words[0])
    given, left, _ = command.make_parser(context).parse_args(words[1:])
    assert not left, words
    missing = [
        p.name for p in command.params if p.param_type_name == "argument" and p.required and not given[p.name]
    ]
    assert not missing, words


@each_page
def test_commands_in_blocks_exist_with_their_options_and_arguments(page):
    for words in commands(page):
        first, *rest = words
        if first.endswith("asdray"):
            check_command(rest)
        elif first == "make":
            assert rest[0] in TARGETS, words
        elif first.endswith("python"):
            assert rest[0] == "-m" or (page.parent / rest[0]).exists() or (ROOT / rest[0]).exists(), words
        else:
            assert first.split("/")[-1] in OTHERS, words


@each_page
def test_commands_in_sentences_exist_with_their_options(page):
    for text in re.findall(r"`asdray ([a-z][^`]*)`", prose(page)):
        name, *words = text.split()
        options = {name for p in COMMANDS[name].params for name in (*p.opts, *p.secondary_opts)}
        assert {word.split("=")[0] for word in words if word.startswith("--")} <= {*options, "--help"}, text
    asked = set(re.findall(r"`make ([a-z-]+)", prose(page)))
    assert asked <= TARGETS, asked - TARGETS


@each_page
def test_files_that_are_named_exist(page):
    named = r"(?<![\w/.])((?:asdray|sweeps|benchmarks|tests|docs|examples)/[\w./]+\.(?:py|yaml|md|sh))"
    for path in re.findall(named, page.read_text(encoding="utf-8")):
        assert re.search("NAME|20XX", path) or (ROOT / path).exists(), path


@each_page
def test_examples_of_yaml_are_valid(page, tmp_path):
    for text in blocks(page, "yaml"):
        value = yaml.safe_load(text)
        files = [path for path in (ROOT / "examples").glob("*.yaml") if path.read_text() == text]
        if files:  # used by tests/test_first_hour.py
            continue
        if "frontend" in value:
            value.pop("about", None)
            validate(System, value, name_of(page))
        elif "name" in value:
            path = tmp_path / f"{value['name']}.yaml"
            path.write_text(text)
            load_sweep(path)
        elif "submission" in value:  # the challenge's form
            assert value.keys() == {"submission", "system", "results"}
        else:  # some keys of a sweep file
            whole = {"name": "some", "recipes": ["dis_baseline", "ae_baseline"], "dcase": "dcase2023"}
            whole["seeds"] = [0, 1, 2, 3]
            validate(Sweep, whole | value, name_of(page))


@each_page
def test_python_in_pages_is_that_of_the_files(page):
    """Complete files stand behind their name; they are run by `test_first_hour`."""
    text = page.read_text(encoding="utf-8")
    for name, code in re.findall(
        r"`(examples/\w+\.(?:py|yaml))`[^`]*```(?:python|yaml)\n(.*?)^```$", text, re.M | re.S
    ):
        assert code == (ROOT / name).read_text(encoding="utf-8"), name


def test_every_example_stands_in_a_page():
    whole = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    for path in (ROOT / "examples").iterdir():
        assert f"examples/{path.name}" in whole, path


def test_the_workflow_runs_targets_that_exist_and_all_of_ci_run():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    steps = [step.get("run", "") for job in workflow["jobs"].values() for step in job["steps"]]
    asked = {text.removeprefix("make ") for text in steps if text.startswith("make ")}
    assert asked <= TARGETS
    assert set(re.findall(r"^make ([a-z-]+)", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)) <= asked


def test_an_install_without_cuda_leaves_out_what_torch_alone_needs():
    makefile = (ROOT / "Makefile").read_text()
    pattern = re.compile(re.search(r"filter cpu,\$\(TORCH\)\),(\S+),", makefile)[1])
    lock = (ROOT / "requirements.lock").read_text().splitlines()
    left_out = {line.split("==")[0] for line in lock if pattern.search(line)}
    assert "nvidia-cublas" in left_out
    for distribution in importlib.metadata.distributions():
        name = canonicalize_name(distribution.name)
        if name != "torch" and name not in left_out:
            needs = [Requirement(text) for text in distribution.requires or ()]
            needs = {
                canonicalize_name(r.name) for r in needs if not r.marker or r.marker.evaluate({"extra": ""})
            }
            assert not needs & left_out, name


def test_pictures_are_few_and_shown():
    pictures = [path for path in (ROOT / "docs").iterdir() if path.suffix in (".png", ".svg")]
    assert sum(path.stat().st_size for path in pictures) < 600_000
    shown = {(page.parent / target).resolve() for page in PAGES for target in links(page)}
    assert set(pictures) <= shown
