"""Modules that moved into rooms: what scripts import goes on under its old name for one version, with a note.

moved("serve", {"engine": "engines.engine"})      # in a floor's own __init__.py
"""

import sys
import warnings
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


def moved(floor: str, places: Mapping[str, str]) -> None:
    """Have the old names of a floor's modules stand for the new ones, both without the floor."""
    sys.meta_path.append(_Moved({f"{floor}.{old}": f"{floor}.{new}" for old, new in places.items()}))


class _Moved(MetaPathFinder, Loader):
    """Finds an old name only where nothing else has it."""

    def __init__(self, places: Mapping[str, str]) -> None:
        self.places = places
        self.specs: dict[str, ModuleSpec | None] = {}

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        return ModuleSpec(name, self) if name in self.places else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        place = self.places[spec.name]
        told = f"{spec.name} is {place} now; the old name goes with the next version"
        warnings.warn(told, FutureWarning, stacklevel=2)
        module = import_module(place)
        self.specs[place] = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """It is there already: only its own description goes back on it."""
        module.__spec__ = self.specs[module.__name__]
