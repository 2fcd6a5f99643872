"""The source code of asdray that numbers depend on: its hash, and the modules in which two sources differ.

Results of a signature were perhaps made by another source, edited since. Each record holds the hash of the
source that made it, and an archive below the results holds the code itself, once per hash.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import io
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from asdray.regular import open_regular

PACKAGES = ("audio", "backends", "config", "dcase", "evaluation", "frontends", "stages")
"""Packages whose code makes numbers. Modules beside these read and write files, and print."""

STAGES = ("train", "extract", "cluster", "score", "evaluate", "umap", "table")

WITHOUT_NUMBERS = {
    *(
        f"config/{name}.py"
        for name in ("base", "expand", "files", "recipe_files", "search", "sweep", "trial")
    ),
    *(
        f"config/{name}.py"
        for name in ("plugin", "plugin_fault", "plugin_members", "plugin_trust", "stand_in")
    ),
    "stages/steps.py",
}
"""Modules that read options and decide what to run: the options' values are in the signatures."""

MAX_BYTES = 32 * 2**20
"""Limit of an archive's content; others may have written the archive."""

_TYPING = re.compile(r"^( *)if TYPE_CHECKING:\n(?:\1 +.*\n|\n)+", re.MULTILINE)
_IMPORT = re.compile(
    r"^ *(?:from asdray([\w.]*) import (\([^)]*\)|[^\n]*)|import asdray([\w.]+))", re.MULTILINE
)
_ID = re.compile(r"[0-9a-f]{16}")
_NAME = re.compile(r"[a-z0-9_]+(/[a-z0-9_]+)*\.py")


@dataclass(frozen=True)
class Source:
    """The content of every module that numbers depend on, by its path: ``frontends/losses.py``."""

    files: Mapping[str, bytes]

    @functools.cached_property
    def id(self) -> str:
        """16 hex digits of the hash of all modules."""
        content = hashlib.sha256()
        for name, text in sorted(self.files.items()):
            content.update(f"{name}\0{len(text)}\0".encode() + text)
        return content.hexdigest()[:16]

    def archive(self) -> bytes:
        """A zip file with the modules; the same bytes for the same modules."""
        made = io.BytesIO()
        with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, text in sorted(self.files.items()):
                archive.writestr(zipfile.ZipInfo(name), text, zipfile.ZIP_DEFLATED)
        return made.getvalue()

    def modules(self, stage: str) -> frozenset[str]:
        """The modules that the numbers of a stage depend on: its own, and what it imports without end.

        Of a stage before it, the signature and the record tell.
        """
        others = {f"stages/{other}.py" for other in STAGES if other != stage}
        found: set[str] = set()
        left = {f"stages/{stage}.py"}
        while left:
            name = left.pop()
            if name in self.files and name not in found:
                found.add(name)
                left |= self._imports[name] - others
        return frozenset(found)

    @functools.cached_property
    def _imports(self) -> dict[str, set[str]]:
        return {name: {*_imported(text.decode(errors="replace"))} for name, text in self.files.items()}


@functools.cache
def present() -> Source:
    """The source that this process runs, as it was on disk at the first call; empty without files."""
    root = Path(__file__).parent
    found = {
        path.relative_to(root).as_posix(): path.read_bytes()
        for package in PACKAGES
        for path in (root / package).rglob("*.py")
    }
    return Source({name: text for name, text in found.items() if name not in WITHOUT_NUMBERS})


def present_id() -> str | None:
    """The hash of the present source; None where asdray is installed without its source."""
    return present().id if present().files else None


def is_id(text: object) -> bool:
    """True for a hash as `Source.id` makes it."""
    return isinstance(text, str) and _ID.fullmatch(text) is not None


def read_archive(path: Path, of: str) -> Source | None:
    """The source with the hash ``of``; None if its archive is missing, damaged or another one."""
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            infos = archive.infolist()
            if sum(info.file_size for info in infos) > MAX_BYTES:
                return None
            files = {info.filename: archive.read(info) for info in infos if _NAME.fullmatch(info.filename)}
    except (OSError, ValueError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
    source = Source(files)
    return source if source.id == of else None


def differing(one: Source, other: Source, stage: str) -> tuple[str, ...]:
    """The modules that the numbers of a stage depend on and whose code differs; comments do not count."""
    names = [
        name
        for name in sorted(one.files.keys() | other.files.keys())
        if one.files.get(name) != other.files.get(name)
    ]
    needed = one.modules(stage) | other.modules(stage) if names else frozenset()
    return tuple(
        name
        for name in names
        if name in needed and (_code(one.files.get(name)) or "") != (_code(other.files.get(name)) or " ")
    )


def _imported(text: str) -> Iterator[str]:
    """Paths that modules of asdray imported by a module would have; imports for type checks do not count."""
    for module, names, plain in _IMPORT.findall(_TYPING.sub("", text)):
        path = (module or plain).strip(".").replace(".", "/")
        listed = re.findall(r"\w+", re.sub(r"#.*", "", names))
        for one in (path, *(f"{path}/{name}".strip("/") for name in listed)):
            yield f"{one}.py"
            yield f"{one}/__init__.py"


@functools.lru_cache(maxsize=1024)
def _code(text: bytes | None) -> str | None:
    """The syntax tree without docstrings, positions and comments; the text itself where Python reads none."""
    if text is None:
        return None
    try:
        tree = ast.parse(text)
        for node in ast.walk(tree):
            for name in ("body", "orelse", "finalbody"):
                block = getattr(node, name, None)
                if isinstance(block, list):
                    setattr(node, name, [one for one in block if not _is_docstring(one)])
        return ast.dump(tree)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return text.decode(errors="replace")


def _is_docstring(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )
