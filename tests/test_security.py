"""The claims of SECURITY.md: that every one has its test, and those about the code as a whole."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from asdray.dcase import records

ROOT = Path(__file__).parent.parent
MODULES = sorted((ROOT / "asdray").rglob("*.py"))


def calls(module):
    """Text of the function, and the call, of every call in a module."""
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def test_every_claim_has_a_test():
    rows = re.findall(
        r"^\| (?!Claim|---|\*\*)(.+) \| (.*) \|$", (ROOT / "SECURITY.md").read_text(), re.MULTILINE
    )
    assert len(rows) > 20
    for claim, test in rows:
        file, name = re.fullmatch(r"`(tests/\w+\.py)::(\w+)`", test).groups()
        assert re.search(rf"^def {name}\(", (ROOT / file).read_text(), re.MULTILINE), claim


def test_nothing_that_is_read_is_run():
    for module in MODULES:
        where = module.relative_to(ROOT).as_posix()
        for name, call in calls(module):
            options = {option.arg: ast.unparse(option.value) for option in call.keywords}
            assert name not in ("eval", "os.system", "pickle.load", "pickle.loads", "yaml.load_all"), where
            assert name != "exec" or where == "asdray/config/plugin.py", where
            assert "shell" not in options, where
            if name == "torch.load":
                assert options["weights_only"] == "True" or options["pickle_module"] == "restricted", where
            if name in ("np.load", "numpy.load"):
                assert options.get("allow_pickle", "False") == "False", where
            if name == "yaml.load":
                assert "Safe" in ast.unparse(call), where


def test_ray_is_started_in_one_place_on_loopback():
    starts = [(module.name, call) for module in MODULES for name, call in calls(module) if name == "ray.init"]
    for module, call in starts:
        options = {option.arg: ast.unparse(option.value) for option in call.keywords}
        if options["address"] == "'local'":
            assert module == "local_ray.py"
            assert options["_node_ip_address"] == options["dashboard_host"] == "'127.0.0.1'"
        else:
            assert (module, options["address"]) == ("cluster.py", "address"), "the user's own"
    assert len(starts) == 2


def test_ray_never_starts_by_itself(tmp_path):
    """By default the first call would, for instance of a thread that outlives the sweep's Ray."""
    program = (
        "import os; from asdray.sweep.cluster import RAY_ENV; os.environ.update(RAY_ENV); import ray\n"
        "try: ray.put(1)\n"
        "except ray.exceptions.RaySystemError as error: print(error)\n"
        "assert not ray.is_initialized()"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "HOME": str(tmp_path)},
        capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert "not been started" in run.stdout
    assert not list(tmp_path.iterdir()), "no token is written"


def test_every_address_is_https():
    text = "".join(path.read_text(encoding="utf-8") for path in MODULES)
    assert set(re.findall(r"http://[\w.{]*", text)) <= {
        "http://",
        "http://{url",
        "http://{node",
        "http://json",
    }, "Ray's own, on loopback, and the name of the standard of JSON schemas"
    assert all(
        url.startswith("https://") for url in re.findall(r"\w+://[\w./]+", Path(records.__file__).read_text())
    )


@pytest.mark.parametrize("known", [False, True], ids=["of an unknown hash", "of the hash in its record"])
def test_no_code_of_a_checkpoint_runs(tmp_path, known):
    import torch

    from asdray.frontends.checkpoint import read
    from asdray.store import sha256_file

    class Trap:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    path = tmp_path / "last.ckpt"
    torch.save({"asdray": {"signature": "s", "history": [], "frontend": Trap()}}, path)
    with pytest.raises(ValueError, match=r"last\.ckpt"):
        read(path, sha256_file(path) if known else None)
    assert not (tmp_path / "ran").exists()
    torch.load(path, weights_only=False)
    assert (tmp_path / "ran").exists(), "the trap works"
