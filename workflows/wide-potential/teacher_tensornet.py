"""Energies and forces of TensorNet-MatPES-PBE for a file of structures.

Runs in the teacher's own environment, where geocalc need not be installed:

    python -m venv teacher && teacher/bin/pip install torch matgl
    teacher/bin/pip install --no-deps matgl==2.0.4
    MATGL_BACKEND=PYG teacher/bin/python teacher_tensornet.py WEIGHTS IN.extxyz OUT.npz

matgl 4 loads these weights without an error and predicts wrong forces, so the version matters.
OUT.npz holds `energies` (n,) in eV and `forces` (n_atoms of all structures, 3) in eV/Angstrom, in
the order of IN.extxyz.
"""

from __future__ import annotations

import sys

import matgl
import matgl.apps._pes_pyg as pes
import numpy as np
import torch
from ase.io import iread
from matgl.ext._ase_pyg import Atoms2Graph
from torch_geometric.data import Batch

_grad = pes.grad
# matgl keeps the graph of the forces for training, which takes as long again
pes.grad = lambda *args, create_graph, retain_graph, **rest: _grad(*args, **rest)

ATOMS = 200  # of a batch: larger ones do not fit into the caches of a processor


def main(weights: str, source: str, target: str) -> None:
    """Label every structure of `source`."""
    if not matgl.__version__.startswith("2."):
        raise SystemExit(f"matgl {matgl.__version__} reads these weights wrongly; install 2.0.4")
    potential = matgl.load_model(weights)
    potential.calc_stresses = False
    converter = Atoms2Graph(potential.model.element_types, potential.model.cutoff)
    energies, forces, waiting, n_atoms = [], [], [], 0

    def flush() -> None:
        if not waiting:
            return
        graphs = [graph for graph, _, _ in waiting]
        lattices = torch.stack([lattice.reshape(3, 3) for _, lattice, _ in waiting])
        energy, force, *_ = potential(Batch.from_data_list(graphs), lattices, None)
        energies.append(np.atleast_1d(energy.detach().numpy()))
        forces.append(force.detach().numpy())
        waiting.clear()

    for atoms in iread(source):
        atoms.pbc = True
        if n_atoms + len(atoms) > ATOMS:
            flush()
            n_atoms = 0
        waiting.append(converter.get_graph(atoms))
        n_atoms += len(atoms)
    flush()
    np.savez(target, energies=np.concatenate(energies), forces=np.concatenate(forces))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*sys.argv[1:])
