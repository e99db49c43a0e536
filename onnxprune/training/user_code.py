"""Modules of the user's own, named on the command line."""

import importlib
import sys
from pathlib import Path
from types import ModuleType


def import_from(folder: Path, module: str) -> ModuleType:
    """`module`, looked for in `folder` first; raises whatever it raises while it is imported.

    The folder stays where modules are looked for: worker processes import the module again, and functions in it may
    import what lies beside it when they are called.
    """
    where = str(folder.resolve())
    if where not in sys.path:
        sys.path.insert(0, where)
    importlib.invalidate_caches()
    return importlib.import_module(module)
