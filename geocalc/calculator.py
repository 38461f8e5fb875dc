"""The ASE calculator of a model."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.constraints import FixAtoms, FixCartesian
from ase.stress import full_3x3_to_voigt_6_stress

from geocalc.core.process import one_thread
from geocalc.core.systems import Systems
from geocalc.errors import InputError, NonFiniteError
from geocalc.potentials.load import LoadedModel, load_model
from geocalc.potentials.network import ForceMode
from geocalc.structures.convert import from_atoms

# up to these one thread computes: two win a quarter at most, and lose threefold to a BLAS that
# waits on all cores
FEW_ATOMS = 48
# Angstrom; a structure in which an atom is further from where it last was is another one, and is
# read anew
STEP = 1.0


@dataclass(frozen=True)
class _Known:
    """A structure as it was last seen: tags as given, and as the model takes it."""

    tags: np.ndarray
    systems: Systems

    def leads_to(self, atoms: Atoms) -> bool:
        """Whether these atoms are that structure, at most a step later."""
        old = self.systems
        return bool(
            np.array_equal(old.numbers.numpy(), atoms.numbers)
            and np.array_equal(self.tags, atoms.get_tags())
            and np.array_equal(old.pbc[0].numpy(), atoms.pbc)
            and (np.abs(atoms.positions - old.positions.numpy()) < STEP).all()
        )


class GeoCalc(Calculator):
    """Energies and forces of a geocalc model for ASE.

    `atoms.calc = GeoCalc("faenet-sfa")`; any ASE optimizer, molecular dynamics or elastic band then
    works. Energies in eV (of the kind the card declares, see `calc.energy_kind`), forces in
    eV/Angstrom, stress in eV/Angstrom^3 (Voigt) only for models trained on it.

    Args:
        model: name or folder of a model.
        device: auto, cpu, cuda.
        dtype: float32 or float64, of the network; geometry is always float64.
        frames: a frame policy other than the card's: `lattice` (exact), `cell` (several times
            cheaper).
        strict: refuse tags that would have to be converted, instead of converting them with a
            warning.
        seed: for stochastic frame policies.
        level: of theory, for models that know several.
    Attributes:
        energy_std: eV, spread over the networks of an ensemble, else over the frames, that the last
            energy is the mean of.
        frame_degenerate: whether the frames of the last structure rest on a broken tie, so that its
            energy may jump where that opens.
    Raises:
        ModelNotFoundError, ModelFileError, InputError: see `geocalc.load_model`.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] = "faenet-sfa",
        *,
        device: str = "auto",
        dtype: str = "float32",
        frames: str | None = None,
        strict: bool = False,
        seed: int | None = None,
        level: str | None = None,
    ) -> None:
        super().__init__()
        self.model: LoadedModel = load_model(
            model, device=device, dtype=dtype, frames=frames, seed=seed, level=level
        )
        card = self.model.card
        properties = ["energy", "free_energy"]
        properties += ["forces"] if self.model.potential.force_mode is not ForceMode.NONE else []
        properties += ["stress"] if self.model.potential.stress else []
        self.implemented_properties = properties
        self.strict = strict
        self.parameters.update(
            model=card.name,
            model_hash=self.model.hash,
            energy_kind=card.energy_kind.value,
            level_of_theory=card.level_of_theory,
            frames=frames or card.frames,
            dtype=dtype,
        )
        self.energy_std: float | None = None
        self.frame_degenerate: bool | None = None
        self._known: _Known | None = None

    @property
    def energy_kind(self) -> str:
        """What zero of energy results have: total, adsorption, formation or relative."""
        return self.model.card.energy_kind.value

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """What changed since the last calculation; tags count where the model reads them."""
        changes = super().check_state(atoms, tol=tol)
        reads_tags = self.model.card.reads_tags
        if (
            reads_tags
            and self.atoms is not None
            and not np.array_equal(self.atoms.get_tags(), atoms.get_tags())
        ):
            changes.append("tags")
        return changes

    def get_property(
        self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True
    ) -> Any:
        """As ASE's; a property the model does not have is refused with the reason."""
        if name not in self.implemented_properties and name in ("forces", "stress"):
            card = self.model.card
            reason = f"{card.name} was not trained on {name} ({card.task.value})"
            raise PropertyNotImplementedError(
                f"{reason}; choose a model that has them: geocalc models"
            )
        return super().get_property(name, atoms, allow_calculation)

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Evaluate the model; ASE calls this.

        Raises:
            InputError: the structure cannot be used; see `geocalc.from_atoms`.
            NonFiniteError: the model gave no number for it.
        """
        super().calculate(atoms, list(properties), list(system_changes))
        structure = self.atoms
        if structure is None:
            raise InputError(
                "there is no structure to calculate; attach the calculator with atoms.calc = calc,"
                " or pass atoms"
            )
        systems = self._systems(structure)
        with (
            one_thread()
            if systems.n_atoms <= FEW_ATOMS and self.model.device.type == "cpu"
            else nullcontext()
        ):
            prediction = self.model(systems)
        energy = float(prediction.energy[0])
        if not np.isfinite(energy) or (
            prediction.forces is not None and not bool(prediction.forces.isfinite().all())
        ):
            raise NonFiniteError(
                f"{self.model.card.name} gave an energy of {energy} eV or forces that are no"
                f" numbers for {structure.symbols}; look at its shortest distances and at the"
                " weights of the model"
            )
        results: dict[str, Any] = {"energy": energy, "free_energy": energy}
        if prediction.forces is not None:
            results["forces"] = prediction.forces.cpu().numpy()
        if prediction.stress is not None and structure.cell.rank == 3:
            results["stress"] = full_3x3_to_voigt_6_stress(prediction.stress[0].cpu().numpy())
        self.energy_std = None if prediction.energy_std is None else float(prediction.energy_std[0])
        self.frame_degenerate = (
            None if prediction.frame_degenerate is None else bool(prediction.frame_degenerate[0])
        )
        self.results = results

    def _systems(self, atoms: Atoms) -> Systems:
        """The structure as the model takes it, checked and its tags read; the next step of a path
        keeps its tags.
        """
        known = self._known
        if known is None or not known.leads_to(atoms):
            systems = from_atoms(
                _plain(atoms), strict=self.strict, use_tags=self.model.card.reads_tags
            )
        else:
            positions, cell = (
                atoms.positions.astype(np.float64),
                np.array(atoms.cell, dtype=np.float64),
            )
            systems = replace(
                known.systems,
                positions=torch.from_numpy(positions),
                cell=torch.from_numpy(cell)[None],
            )
        self._known = _Known(atoms.get_tags(), systems)
        return systems


def _plain(atoms: Atoms) -> Atoms:
    """The structure with the constraints that tell which atoms are held; ASE itself sees to all of
    them.
    """
    held = [
        constraint
        for constraint in atoms.constraints
        if isinstance(constraint, FixAtoms | FixCartesian)
    ]
    if len(held) == len(atoms.constraints):
        return atoms
    plain = atoms.copy()
    plain.set_constraint(held)
    return plain
