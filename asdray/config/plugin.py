"""Plugins: a user's own Python code adds losses, frontends, backends and networks to those of asdray.

A plugin has lists of pairs: a configuration class, whose ``name`` is the name in YAML, and the class or
function that implements the method::

    class TripletConfig(Config):
        name: Literal["triplet"] = "triplet"
        margin: float = 0.2

    class Triplet(nn.Module):
        def __init__(self, config, embedding_dim, n_classes): ...
        def forward(self, embeddings, targets): ...

    LOSSES = [(TripletConfig, Triplet)]

* ``LOSSES``: the configuration derives from `asdray.config.base.Config`. ``Loss(config, embedding_dim,
  n_classes)`` is a torch module that maps embeddings ``(B, D) float32`` and targets ``(B, C) float32`` to the
  mean loss of the batch ``()``. With an attribute ``uses_own = True``, ``forward`` gets a third argument: the
  targets before mixup, ``(B, C) float32``.
* ``FRONTENDS``: the configuration derives from `asdray.config.frontend.FrontendConfig`. ``Frontend(config,
  n_samples, columns, saved)`` is an `asdray.frontends.base.FrontendModule`; `asdray.frontends.build`
  describes the arguments. A frontend has ``extract(waves)``, which returns a tensor ``embedding``, or one of
  each name in the configuration's ``embeddings``. A frontend that learns also has
  ``training_data(clips, columns, batch_size, rng)`` and ``loss(batch)``. With ``needs_training_clips = True``
  a frontend also has ``prepare(clips, columns, batch_size, rng)``, which asdray calls with the training clips
  of a machine before the extraction of the machine's clips. `asdray.frontends.base` describes all methods,
  also those for frozen weights from a file and for learning rates per parameter group.
* ``BACKENDS``: the configuration derives from `asdray.config.backend.BackendConfig`. ``score(config,
  references, domain, queries)`` maps the embeddings ``(N, D)`` of training clips, their domains ``(N,)``
  (``source`` or ``target``) and the embeddings ``(M, D)`` of other clips to ``(M,)`` anomaly scores. To score
  the training clips themselves, asdray calls the function for each fifth with the others as references; bands
  and further embeddings are scored one by one.
* ``NETWORKS``: the configuration derives from `asdray.config.branch.NetworkConfig`, whose option
  ``embedding_dim`` is D. ``Network(config, n_samples)`` is a torch module, a branch of the discriminative
  frontend (``branches: [{name: mine}]``), that maps waveforms ``(B, L) float32`` to ``(B, D)``. With a method
  ``view(waves)``, ``forward`` gets its result in place of the waveforms: spectrograms, say, which
  ``mixup_of: spectrogram`` then mixes. Clips of training have L = ``n_samples``.

Faults of a member's form (arguments, shapes, keys) are told with file, line, class, the value found, the
value expected and the fix: at loading by `asdray.config.plugin_members`, before the first epoch by
`asdray.stages.rehearsal`, and wherever a value is used.

A plugin is a file, or a folder with ``__init__.py`` for a method with a helper module (``from .helper import
f``) or a data file (``Path(__file__).parent / "filters.npy"``). The hash of the file, or of all files of the
folder, is part of the canonical form of the plugin's configurations, hence of the ids and signatures of all
results that use them, and of no other result. All members of a plugin change together: methods that should
change on their own belong in separate plugins. Modules from elsewhere are not hashed.

Configurations of a plugin travel to other processes together with the plugin's files, see
`Config.__reduce_ex__`. With Ray's ``py_modules`` the first tasks would start about 8 seconds later.
"""

from __future__ import annotations

import ast
import atexit
import contextlib
import functools
import hashlib
import importlib
import json
import linecache
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from asdray.config.plugin_fault import PREFIX, PluginError, ended_by_plugin
from asdray.home import expanded
from asdray.regular import read_bytes

MAX_MIB = 8
"""Largest plugin folder, in MiB: its content is part of every trial that Ray sends to a worker."""


@dataclass(frozen=True)
class Plugin:
    """The source of a plugin, and the path of the file or folder when the source was read.

    Attributes:
        text: source code of the file, or of the folder's ``__init__.py``.
        others: relative path and content of the folder's other files; None if the plugin is a file.
    """

    path: str
    text: str = field(repr=False)
    others: tuple[tuple[str, bytes], ...] | None = field(default=None, repr=False)

    @functools.cached_property
    def sha256(self) -> str:
        """Hash of the file's content, or of the paths and contents of all files of the folder."""
        main = hashlib.sha256(self.text.encode())
        if self.others is None:
            return main.hexdigest()
        hashes = {name: hashlib.sha256(content).hexdigest() for name, content in self.others}
        hashes["__init__.py"] = main.hexdigest()
        return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()

    @functools.cached_property
    def module_name(self) -> str:
        """Name of the plugin's module in `sys.modules`: another one for every version and path."""
        return f"{PREFIX}{self.sha256[:16]}_{hashlib.sha256(self.path.encode()).hexdigest()[:8]}"

    @functools.cached_property
    def lines(self) -> dict[str, int]:
        """Line of every top-level class, function and assigned name."""
        lines = {}
        for node in ast.parse(self.text).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                lines[node.name] = node.lineno
            for target in node.targets if isinstance(node, ast.Assign) else ():
                if isinstance(target, ast.Name):
                    lines[target.id] = node.lineno
        return lines

    @property
    def suffix(self) -> str:
        """End of the name of a copy: ``.py`` for a file, nothing for a folder."""
        return ".py" if self.others is None else ""

    def files_at(self, path: Path) -> dict[Path, bytes]:
        """Path and content of every file of a copy of the plugin at ``path``."""
        if self.others is None:
            return {path: self.text.encode()}
        return {path / name: content for name, content in (("__init__.py", self.text.encode()), *self.others)}

    def module(self) -> ModuleType:
        """The module that results from running the plugin's source, once per process.

        Raises:
            PluginError: the source does not run.
        """
        name = self.module_name
        if name in sys.modules:
            return sys.modules[name]
        module = ModuleType(name)
        module.__file__ = self.path
        if self.others is not None:
            importlib.invalidate_caches()  # a helper module may be a moment old
            folder = self._folder()
            module.__file__, module.__path__ = str(folder / "__init__.py"), [str(folder)]
        sys.modules[name] = module  # pydantic looks up annotations there, Python the parents of modules
        _running[name] = self
        # Tracebacks then show these lines, also after a change of the file or on a node without the file.
        lines = self.text.splitlines(keepends=True)
        linecache.cache[module.__file__] = (len(self.text), None, lines, module.__file__)
        try:
            exec(compile(self.text, module.__file__, "exec"), module.__dict__)
        except BaseException as error:  # the user's code may raise any exception, and sys.exit(0) is one
            if isinstance(error, SyntaxError):
                line = f"{error.filename or module.__file__}, line {error.lineno or 1}: {error.msg}"
            elif found := ended_by_plugin(error):
                line = str(found).partition("\n")[0]
            else:  # Ctrl-C, or a source that does not compile
                line = f"{self.path}: {type(error).__name__}: {error}"
            for loaded in [one for one in sys.modules if one.partition(".")[0] == name]:
                del sys.modules[loaded]
            if isinstance(error, KeyboardInterrupt):
                raise
            raise PluginError(line) from None
        return module

    def _folder(self) -> Path:
        """A folder with the plugin's files on this node: the original if unchanged, else a temporary copy."""
        folder = Path(self.path)
        with contextlib.suppress(ValueError):
            if read_plugin(folder).sha256 == self.sha256:
                return folder
        temporary = Path(tempfile.mkdtemp(prefix="asdray-plugin-"))
        atexit.register(shutil.rmtree, temporary, ignore_errors=True)
        for path, content in self.files_at(temporary / folder.name).items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return temporary / folder.name


_running: dict[str, Plugin] = {}
"""The plugins that this process has run, by the name of their module."""


def plugin_of(module_name: str) -> Plugin | None:
    """The plugin that the module belongs to; None for any other module."""
    return _running.get(module_name.partition(".")[0])


def read_plugin(path: Path) -> Plugin:
    """The plugin in the file or folder at ``path``; its code is not run yet.

    Raises:
        ValueError: no such file, not a readable text file, or a folder of more than `MAX_MIB`.
    """
    path = expanded(path).absolute()
    main = path / "__init__.py" if path.is_dir() else path
    with read_errors(main, "plugin"):
        text = read_bytes(main, MAX_MIB * 2**20).decode("utf-8")
        return Plugin(str(path), text, None if main == path else _others(path))


@contextlib.contextmanager
def read_errors(path: Path, noun: str = "") -> Iterator[None]:
    """Turns the errors of reading the text file at ``path``, a ``noun``, into a ValueError with the path."""
    try:
        yield
    except FileNotFoundError:
        raise ValueError(f"there is no {noun or 'file'} {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"not a text file ({error})"
        raise ValueError(f"cannot read {f'the {noun} ' if noun else ''}{path}: {reason}") from None


def _others(folder: Path) -> tuple[tuple[str, bytes], ...]:
    """Relative path and content of all files of a folder but ``__init__.py``, hidden and compiled files."""
    found: dict[str, Path] = {}
    for path in folder.rglob("*"):
        parts = path.relative_to(folder).parts
        hidden = any(part.startswith(".") or part == "__pycache__" for part in parts)
        if path.is_file() and not hidden and parts != ("__init__.py",):
            found["/".join(parts)] = path
    mib = sum(path.stat().st_size for path in found.values()) / 2**20
    if mib > MAX_MIB:
        raise ValueError(
            f"the plugin {folder} has {mib:.0f} MiB, but at most {MAX_MIB} travel to every worker and are "
            "copied beside every trial: move large files out of the folder"
        )
    return tuple((name, read_bytes(found[name])) for name in sorted(found))


def has_changed(path: str, sha256: str) -> bool:
    """True if a plugin exists at ``path`` whose hash is not ``sha256``."""
    try:
        return read_plugin(Path(path)).sha256 != sha256
    except ValueError:
        return Path(path).exists()


def unpickled(plugin: Plugin, module_name: str, class_name: str) -> Any:
    """An empty instance of a plugin's class, for pickle, in any process."""
    plugin.module()
    cls: Any = functools.reduce(getattr, class_name.split("."), importlib.import_module(module_name))
    return cls.__new__(cls)
