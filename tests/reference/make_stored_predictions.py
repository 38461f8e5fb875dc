"""Write stored_predictions.npz: what the shipped models predict for the example structures.

    python tests/reference/make_stored_predictions.py OUT.npz [CHECKOUT]

The committed file was written by the geocalc in CHECKOUT, a checkout of commit 2073188, before
its modules were moved to packages (PYTHONPATH has to name it); one CPU thread. Only the public
functions `load_model` and `from_atoms` are used, so that other versions can write it too.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from ase.io import read

import geocalc

ROOT = Path(__file__).parents[2]
STRUCTURES = ("adslab.traj", "adslabs.extxyz")  # in examples/data
MODELS = (
    "faenet-is2re",
    "faenet-sfa",
    "faenet-sfa-small",
    "faenet-sfa-small-ensemble",
    "regnn",
    "schnet",
)
FORMER = {"regnn": "relaxed-e3nn"}  # its name in that commit
DTYPES = ("float32", "float64")
QUANTITIES = ("energy", "forces", "displacement")


def predictions(model: str, dtype: str, models: Path = ROOT / "models") -> dict[str, np.ndarray]:
    """Predictions of one model: name of structure and quantity -> eV, eV/Angstrom or Angstrom.

    Args:
        model: name of a shipped model.
        dtype: floating type in which it is evaluated.
        models: folder of models.
    """
    folder = models / model
    if not folder.exists():
        folder = models / FORMER[model]
    loaded = geocalc.load_model(folder, device="cpu", dtype=dtype)
    found = {}
    for name in STRUCTURES:
        for atoms in read(ROOT / "examples" / "data" / name, ":"):
            prediction = loaded(geocalc.from_atoms(atoms))
            for quantity in QUANTITIES:
                value = getattr(prediction, quantity)
                if value is not None:
                    key = f"{model}/{dtype}/{name}/{atoms.info['sid']}/{quantity}"
                    found[key] = value.detach().numpy().astype(dtype)
    return found


def main(out: Path, checkout: Path) -> None:
    """Write the file."""
    torch.set_num_threads(1)
    found: dict[str, np.ndarray] = {}
    for model in MODELS:
        for dtype in DTYPES:
            found |= predictions(model, dtype, checkout / "models")
    np.savez_compressed(out, **found)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else ROOT)
