"""The pages of the documentation: their blocks of code, links and headings."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *DOCS,
    *sorted((ROOT / "benchmarks").glob("**/README.md")),
]

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return [text for of, text in _FENCE.findall(page.read_text(encoding="utf-8")) if of == language]


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def commands(page: Path) -> Iterator[list[str]]:
    """The words of every command in the blocks of shell code; comments and prompts are left out."""
    for text in blocks(page, "sh"):
        for line in text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while "&&" in words:
                at = words.index("&&")
                yield words[:at]
                words = words[at + 1 :]
            if words:
                yield words


def links(page: Path) -> list[str]:
    """Targets of links within the repository: ``page.md#heading``, relative to the page."""
    found = re.findall(r"\]\(([^()\s]+)\)", re.sub(r"`[^`\n]+`", "", prose(page)))
    return [target for target in found if not re.match(r"https?://", target)]


def anchors(page: Path) -> set[str]:
    """The headings as GitHub and mkdocs name them in addresses."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.strip().lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}
