"""Plugins are added to the process: a test that loads some must leave none to the next."""

from asdray.config import plugin


def forget_plugins() -> None:
    for union in plugin.UNIONS.values():
        for cls in list(union.added.values()):
            union.replace(cls.plugin.path, {})
    plugin._activated.clear()  # else one of the same content at the same place would not be added again
