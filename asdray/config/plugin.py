"""Plugins: a user's Python file adds losses, frontends and backends to those of asdray.

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
  mean loss of the batch ``()``.
* ``FRONTENDS``: the configuration derives from `asdray.config.frontend.FrontendConfig`. ``Frontend(config,
  n_samples, columns, saved)`` is an `asdray.frontends.base.FrontendModule`; `asdray.frontends.build`
  describes the arguments. A frontend has ``extract(waves)``. A frontend that learns also has
  ``training_data(clips, columns, batch_size, rng)`` and ``loss(batch)``. With ``needs_training_clips = True``
  a frontend also has ``prepare(clips, columns, batch_size, rng)``, which asdray calls with the training clips
  of a machine before the extraction of the machine's clips. `asdray.frontends` describes the arguments.
* ``BACKENDS``: the configuration derives from `asdray.config.backend.BackendConfig`. ``score(config,
  references, domain, queries)`` maps the embeddings ``(N, D)`` of training clips, their domains ``(N,)``
  (``source`` or ``target``) and the embeddings ``(M, D)`` of other clips to ``(M,)`` anomaly scores. To score
  the training clips themselves, asdray calls the function for each fifth with the others as references.

The hash of the file is part of the canonical form of the plugin's configurations, hence of the ids and
signatures of all results that use them, and of no other result. All members of a file change together:
methods that should change on their own belong in separate files. Imported modules are not hashed.

Configurations of a plugin travel to other processes together with the source, see `Config.__reduce_ex__`.
This takes no time at the start of a worker; with Ray's ``py_modules`` the first tasks start 8 seconds later.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import linecache
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

_PREFIX = "asdray_plugin_"
"""The names of all modules of plugins begin with this."""


class PluginError(ValueError):
    """An exception from a plugin's code: file, line and reason; then a line per call inside the plugin."""


@dataclass(frozen=True)
class Plugin:
    """The source of a plugin, and the path of the file when it was read."""

    path: str
    text: str = field(repr=False)

    @functools.cached_property
    def sha256(self) -> str:
        """Hash of the file's content."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @functools.cached_property
    def module_name(self) -> str:
        """Name of the plugin's module in `sys.modules`; different for every version and place of the file."""
        return f"{_PREFIX}{self.sha256[:16]}_{hashlib.sha256(self.path.encode()).hexdigest()[:8]}"

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
        sys.modules[name] = module  # pydantic looks up annotations there
        _running[name] = self
        # Tracebacks then show these lines, also after a change of the file or on a node without the file.
        lines = self.text.splitlines(keepends=True)
        linecache.cache[self.path] = (len(self.text), None, lines, self.path)
        try:
            exec(compile(self.text, self.path, "exec"), module.__dict__)
        except SyntaxError as error:
            del sys.modules[name]
            raise PluginError(f"{error.filename}, line {error.lineno}: {error.msg}") from None
        except Exception as error:  # the user's code may raise any exception
            found = plugin_error(error)
            del sys.modules[name]
            raise PluginError(str(found).partition("\n")[0]) from None
        return module


_running: dict[str, Plugin] = {}
"""The plugins that this process has run, by the name of their module."""


def plugin_of(module_name: str) -> Plugin | None:
    """The plugin that the module belongs to; None for any other module."""
    return _running.get(module_name)


def read_plugin(path: Path) -> Plugin:
    """The plugin in the file at ``path``; its code is not run yet.

    Raises:
        ValueError: no such file, or not a readable text file.
    """
    path = path.expanduser().absolute()
    try:
        return Plugin(str(path), path.read_bytes().decode("utf-8"))
    except FileNotFoundError:
        raise ValueError(f"there is no plugin {path}") from None
    except OSError as error:
        raise ValueError(f"cannot read the plugin {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"cannot read the plugin {path}: not a text file ({error})") from None


def unpickled(plugin: Plugin, class_name: str) -> Any:
    """An empty instance of a plugin's class, for pickle, in any process."""
    cls: Any = functools.reduce(getattr, class_name.split("."), plugin.module())
    return cls.__new__(cls)


# ---------------------------------------------------------------------------- exceptions from a plugin's code


def plugin_error(error: BaseException) -> PluginError | None:
    """The first exception in the chain of causes of ``error`` that a plugin's code raised, with its lines.

    Returns:
        None if no frame of the chain's tracebacks lies in a plugin.
    """
    files = {module.__file__ for name, module in list(sys.modules.items()) if name.startswith(_PREFIX)}
    for link in chain_of(error):
        if isinstance(link, PluginError):
            return None  # already in its final form
        frames = [f for f in traceback.extract_tb(link.__traceback__) if f.filename in files]
        if frames:
            reason = " ".join(str(error).split())  # the outer exception names the trial and machine
            first = f"{frames[-1].filename}, line {frames[-1].lineno}: {type(link).__name__}: {reason}"
            return PluginError(
                "\n".join([first, *(f"  line {f.lineno}, in {f.name}: {f.line}" for f in frames)])
            )
    return None


def chain_of(error: BaseException) -> Iterator[BaseException]:
    """``error``, its cause, the cause's cause and so on; ends at a cycle, which ``raise e from e`` makes."""
    link: BaseException | None = error
    seen: set[int] = set()
    while link is not None and id(link) not in seen:
        yield link
        seen.add(id(link))
        link = link.__cause__ or link.__context__


@contextlib.contextmanager
def plugin_errors() -> Iterator[None]:
    """Turns exceptions from a plugin's code into `PluginError`; other exceptions pass unchanged."""
    try:
        yield
    except Exception as error:  # the user's code may raise any exception
        if found := plugin_error(error):
            raise found from error
        raise
