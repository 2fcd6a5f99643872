"""Plugins stay loaded for the rest of a process: a test that loads some removes them at its end."""

from asdray.config.base import UNIONS


def forget_plugins() -> None:
    """Removes all methods of plugins from the unions of configurations."""
    for union in UNIONS.values():
        for cls in list(union.added.values()):
            union.replace(cls.plugin.path, {})
