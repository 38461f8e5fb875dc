"""geocalc: trained geometric GNNs as ASE calculators, and relaxations with them.

Names are imported when they are first used, so `import geocalc` costs neither torch nor ASE.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from geocalc.lazy import public_names
from geocalc.version import __version__ as __version__

if TYPE_CHECKING:  # for editors and type checkers
    from geocalc.api import iter_relax as iter_relax
    from geocalc.api import predict as predict
    from geocalc.api import relax as relax
    from geocalc.calculator import GeoCalc as GeoCalc
    from geocalc.core.systems import Potential as Potential
    from geocalc.core.systems import Prediction as Prediction
    from geocalc.core.systems import Systems as Systems
    from geocalc.errors import GeoCalcError as GeoCalcError
    from geocalc.potentials.load import LoadedModel as LoadedModel
    from geocalc.potentials.load import load_model as load_model
    from geocalc.potentials.registry import list_models as list_models
    from geocalc.relaxation.state import Relaxation as Relaxation
    from geocalc.relaxation.status import Status as Status
    from geocalc.runs.results import Result as Result
    from geocalc.structures.convert import from_atoms as from_atoms
    from geocalc.structures.convert import from_structure as from_structure
    from geocalc.structures.convert import to_atoms as to_atoms
    from geocalc.symmetry.report import symmetry_breaking as symmetry_breaking

__all__, __getattr__, __dir__ = public_names(
    __name__,
    {
        "GeoCalc": "calculator",
        "GeoCalcError": "errors",
        "LoadedModel": "potentials.load",
        "Potential": "core.systems",
        "Prediction": "core.systems",
        "Relaxation": "relaxation.state",
        "Result": "runs.results",
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
    },
)
