"""A hook of mkdocs: links to files outside docs/ become the files' names, which the site lacks."""

import re


def on_page_markdown(markdown, **_):
    return re.sub(r"\[([^\]]+)\]\(\.\./[^)]*\)", r"`\1`", markdown)
