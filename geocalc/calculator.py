"""The ASE calculator of a model."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from geocalc.io import from_atoms
from geocalc.potential import ForceMode
from geocalc.registry import LoadedModel, load_model
from geocalc.systems import Systems


class GeoCalc(Calculator):
    """Energies and forces of a geocalc model for ASE.

    `atoms.calc = GeoCalc("faenet-sfa")`; any ASE optimiser, molecular dynamics or nudged elastic band then works. Energies in eV
    (of the kind the card declares, see `calc.energy_kind`), forces in eV/Angstrom, stress in eV/Angstrom^3 (Voigt) only for
    models trained on it.

    Args:
        model: name or folder of a model.
        device: auto, cpu, cuda.
        dtype: float32 or float64, of the network; geometry is always float64.
        frames: a frame policy other than the card's: `lattice` (exact), `cell` (several times cheaper).
        strict: refuse tags that would have to be converted, instead of converting them with a warning.
        seed: for stochastic frame policies.
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
    ) -> None:
        super().__init__()
        self.model: LoadedModel = load_model(model, device=device, dtype=dtype, frames=frames, seed=seed)
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
        self._converted: tuple[np.ndarray, np.ndarray, torch.Tensor] | None = None

    @property
    def energy_kind(self) -> str:
        """What zero of energy results have: total, adsorption, formation or relative."""
        return self.model.card.energy_kind.value

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """What changed since the last calculation; tags count, since the model reads them."""
        changes = super().check_state(atoms, tol=tol)
        if self.atoms is not None and not np.array_equal(self.atoms.get_tags(), atoms.get_tags()):
            changes.append("tags")
        return changes

    def get_property(self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True) -> Any:
        """As ASE's; a property the model does not have is refused with the reason."""
        if name not in self.implemented_properties and name in ("forces", "stress"):
            card = self.model.card
            reason = f"{card.name} was not trained on {name} ({card.task.value})"
            raise PropertyNotImplementedError(f"{reason}; choose a model that has them: geocalc models")
        return super().get_property(name, atoms, allow_calculation)

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Evaluate the model; ASE calls this."""
        super().calculate(atoms, list(properties), list(system_changes))
        prediction = self.model(self._systems(self.atoms))
        energy = float(prediction.energy[0])
        results: dict[str, Any] = {"energy": energy, "free_energy": energy}
        if prediction.forces is not None:
            results["forces"] = prediction.forces.cpu().numpy()
        if prediction.stress is not None:
            results["stress"] = full_3x3_to_voigt_6_stress(prediction.stress[0].cpu().numpy())
        if prediction.energy_std is not None:
            results["energy_std"] = float(prediction.energy_std[0])
        self.results = results

    def _systems(self, atoms: Atoms) -> Systems:
        """The structure with tags as read when they or the elements last changed, so that no step of a path rereads them."""
        if not self.model.card.reads_tags:
            return from_atoms(atoms, use_tags=False)
        raw, numbers = atoms.get_tags(), atoms.numbers
        known = self._converted
        if known is not None and np.array_equal(known[0], raw) and np.array_equal(known[1], numbers):
            return replace(from_atoms(atoms, use_tags=False), tags=known[2])
        systems = from_atoms(atoms, strict=self.strict)
        self._converted = (raw.copy(), numbers.copy(), systems.tags)
        return systems
