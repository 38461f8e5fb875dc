"""Lesson 3: train a potential on your own calculations, register it, and use it by name.

Your data would be DFT relaxations. Here ASE's effective medium theory (EMT) plays the part of DFT,
so that the lesson takes less than a minute. The result is a toy: it has seen one element on one
small slab.
"""

import json
import os
import tempfile
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import add_adsorbate, fcc111
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.io import write
from ase.optimize import BFGS
from lightning_fabric import Fabric

import geocalc
from geocalc.train import read_recipe, register_model, train

folder = Path(tempfile.mkdtemp(prefix="geocalc-"))


def adslab(seed: int) -> Atoms:
    """O above a random place of a small, shaken copper slab; the lower one of its two layers is
    fixed.
    """
    random = np.random.default_rng(seed)
    atoms = fcc111("Cu", (2, 2, 2), vacuum=7.0)
    add_adsorbate(
        atoms, "O", height=random.uniform(1.2, 1.8), position=random.uniform(0, 4, size=2)
    )
    # as in OC20: 0 below the surface, 1 surface, 2 adsorbate
    atoms.set_tags([0] * 4 + [1] * 4 + [2])
    atoms.positions[4:] += random.normal(scale=0.08, size=(5, 3))
    atoms.set_constraint(FixAtoms(range(4)))
    return atoms


# 1. Data: relaxations with an energy and forces for every frame. All frames of one relaxation carry
# the same `sid`, because errors are measured on whole relaxations that were held out. Forces are
# stored raw: those of fixed atoms teach as well.
frames = []
for number in range(60):
    atoms = adslab(number)
    atoms.calc = EMT()
    for _ in BFGS(atoms, logfile=None).irun(fmax=0.05, steps=12):
        frame = atoms.copy()
        frame.info = {"sid": f"relaxation-{number}", "REF_energy": atoms.get_potential_energy()}
        frame.set_array("REF_forces", atoms.get_forces(apply_constraint=False))
        frames.append(frame)
write(folder / "data.extxyz", frames)
print(f"data: {len(frames)} frames of 60 relaxations")

# 2. A recipe says everything about a training run. A misspelled key is refused, and the nearest one
# is named.
(folder / "recipe.yaml").write_text(f"""
name: copper-oxygen
about:
  energy_kind: total
  level_of_theory: EMT
  reference_text: isolated atoms of EMT
  domain: O on thin Cu(111) slabs
model:
  architecture: faenet
  frames: averaged              # averaged over all frames of the lattice: exactly invariant
  force_mode: gradient         # forces are the exact gradient of the energy
  settings: {{cutoff: 4.5, hidden_channels: 64, num_filters: 24, num_interactions: 2,
             num_gaussians: 16, tag_hidden_channels: 4, pg_hidden_channels: 8, message_scale: 0.3}}
data:
  sources:
    - path: {folder / "data.extxyz"}
  validation_fraction: 0.2
training:
  steps: 800
  batch_size: 8
  learning_rate: 0.003
  force_weight: 20
  frames: stochastic   # one random frame of the same set in each step, which is cheaper
  ema_decay: 0.99
  log_every: 100
""")

# 3. Train. From a shell: geocalc train recipe.yaml --out run
recipe = read_recipe(folder / "recipe.yaml")
run = train(
    recipe,
    folder / "run",
    data_folder=folder / "data",
    fabric=Fabric(accelerator="cpu", devices=1),
    report=lambda progress: print(f"step {progress}"),
)

(errors,) = json.loads((run / "metrics.json").read_text())["validation"].values()
print(
    f"on relaxations it never saw: energy MAE {errors['energy_mae']:.3f} eV, force MAE"
    f" {errors['force_mae']:.3f} eV/Å"
)
print(f"  (predicting no force at all: {errors['force_null']:.3f} eV/Å)")

# 4. Register: averaged weights, a card and the recipe become a model folder. From a shell: geocalc
# register run --name copper-oxygen. Without a folder it goes to your own, where every program finds
# it.
register_model(run, "copper-oxygen", folder / "models", data_folder=folder / "data")
os.environ["GEOCALC_MODELS"] = str(folder / "models")

# 5. Use it by name, on a start it has never seen, and ask EMT what it thinks of the result.
(result,) = geocalc.relax(adslab(seed=1000), "copper-oxygen")
relaxed = result.atoms
own = result.record.energy
relaxed.calc = EMT()
print(f"{result.record.status} after {result.record.n_steps} steps")
print(
    f"relaxed energy: {own:.3f} eV from the model, {relaxed.get_potential_energy():.3f} eV from EMT"
    " at the same geometry"
)
print(
    "largest EMT force left on a free atom:"
    f" {np.linalg.norm(relaxed.get_forces(), axis=1).max():.2f} eV/Å"
)
print(f"everything is in {folder}")
