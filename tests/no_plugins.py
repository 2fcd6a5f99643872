"""Plugins are added to the process: a test that loads some must leave none to the next."""

from asdray.config.plugin import UNIONS


def forget_plugins() -> None:
    for union in UNIONS.values():
        for cls in list(union.added.values()):
            union.replace(cls.plugin.path, {})
