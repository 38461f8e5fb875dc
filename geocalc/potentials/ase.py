"""Adapter that makes a potential of an ASE calculator."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator

from geocalc.core.systems import Prediction, Systems


@dataclass(frozen=True, kw_only=True)
class AsePotential:
    """Potential that calls an ASE calculator for one structure after the other.

    Attributes:
        calculator: reset before every structure, so results do not depend on the order.
        stress: whether to compute stress too; NaN where the cell has no volume.
    """

    calculator: Calculator
    stress: bool = False

    def __call__(self, systems: Systems) -> Prediction:
        """Compute energy (eV), raw forces (eV/Angstrom) and stress (eV/Angstrom^3) in float64.

        Exceptions of the calculator are passed on unchanged.
        """
        positions, numbers, tags, owner = (
            tensor.cpu().numpy()
            for tensor in (systems.positions, systems.numbers, systems.tags, systems.system_idx)
        )
        energies, forces, stresses = [], [np.zeros((0, 3))], []
        for k, (cell, pbc) in enumerate(
            zip(systems.cell.cpu().numpy(), systems.pbc.cpu().numpy(), strict=True)
        ):
            mine = owner == k
            atoms = Atoms(numbers[mine], positions[mine], tags=tags[mine], cell=cell, pbc=pbc)
            self.calculator.reset()
            atoms.calc = self.calculator
            energies.append(float(atoms.get_potential_energy()))
            forces.append(np.asarray(atoms.get_forces(), dtype=np.float64))
            if self.stress:
                stresses.append(
                    atoms.get_stress(voigt=False)
                    if atoms.cell.rank == 3
                    else np.full((3, 3), np.nan)
                )
        device = systems.positions.device
        return Prediction(
            energy=torch.tensor(energies, dtype=torch.float64, device=device),
            forces=torch.from_numpy(np.concatenate(forces)).to(device),
            stress=torch.from_numpy(np.stack(stresses)).to(device) if self.stress else None,
        )
