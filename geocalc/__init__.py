"""geocalc: trained geometric GNNs as ASE calculators, and relaxations with them.

Names are imported when they are first used, so `import geocalc` costs neither torch nor ASE.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from geocalc.version import __version__ as __version__

if TYPE_CHECKING:
    from geocalc.api import iter_relax, predict, relax
    from geocalc.calculator import GeoCalc
    from geocalc.core.systems import Potential, Prediction, Systems
    from geocalc.errors import GeoCalcError
    from geocalc.potentials.load import LoadedModel, load_model
    from geocalc.potentials.registry import list_models
    from geocalc.relaxation.state import Relaxation
    from geocalc.relaxation.status import Status
    from geocalc.structures.convert import from_atoms, from_structure, to_atoms
    from geocalc.symmetry.report import symmetry_breaking

_HOME = {
    "GeoCalc": "calculator",
    "GeoCalcError": "errors",
    "LoadedModel": "potentials.load",
    "Potential": "core.systems",
    "Prediction": "core.systems",
    "Relaxation": "relaxation.state",
    "Status": "relaxation.status",
    "Systems": "core.systems",
    "from_atoms": "structures.convert",
    "from_structure": "structures.convert",
    "iter_relax": "api",
    "list_models": "potentials.registry",
    "load_model": "potentials.load",
    "predict": "api",
    "relax": "api",
    "symmetry_breaking": "symmetry.report",
    "to_atoms": "structures.convert",
}

__all__ = [
    "GeoCalc",
    "GeoCalcError",
    "LoadedModel",
    "Potential",
    "Prediction",
    "Relaxation",
    "Status",
    "Systems",
    "from_atoms",
    "from_structure",
    "iter_relax",
    "list_models",
    "load_model",
    "predict",
    "relax",
    "symmetry_breaking",
    "to_atoms",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'geocalc' has no attribute {name!r}")
    return getattr(import_module(f"geocalc.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
