"""ASE calculator of a geocalc model."""

from __future__ import annotations

import os
import re
import warnings
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
from geocalc.errors import DomainWarning, InputError, NonFiniteError
from geocalc.potentials.domain import Light, domain_of_prediction
from geocalc.potentials.load import LoadedModel, load_model
from geocalc.potentials.network import ForceMode
from geocalc.structures.convert import from_atoms

# structures up to this size are computed by one thread: two threads save a quarter at most, and
# take three times as long where the BLAS library waits for all cores
FEW_ATOMS = 48
# Angstrom; a structure in which an atom moved further since the last call is read and checked anew
STEP = 1.0


@dataclass(frozen=True)
class _Known:
    """The last structure: its tags as given, and its form for the model."""

    tags: np.ndarray
    systems: Systems

    def leads_to(self, atoms: Atoms) -> bool:
        """Check whether atoms are the same structure with every atom moved less than `STEP`."""
        old = self.systems
        return bool(
            np.array_equal(old.numbers.numpy(), atoms.numbers)
            and np.array_equal(self.tags, atoms.get_tags())
            and np.array_equal(old.pbc[0].numpy(), atoms.pbc)
            and (np.abs(atoms.positions - old.positions.numpy()) < STEP).all()
        )


class GeoCalc(Calculator):
    """ASE calculator with energies and forces of a geocalc model.

    After `atoms.calc = GeoCalc("regnn-wide")` any ASE optimizer, molecular dynamics or nudged
    elastic band works. Energies are in eV (of the kind on the model's card, see
    `calc.energy_kind`), forces in eV/Angstrom, and stress in eV/Angstrom^3 (Voigt), only for models
    trained on stress.

    Args:
        model: name or folder of a model.
        device: auto, cpu or cuda.
        dtype: float32 or float64, the precision of the network; geometry is always float64.
        frames: frame policy in place of the card's: `averaged` (exact symmetry) or `single`
            (several times cheaper).
        strict: refuse tags that do not follow OC20's convention instead of converting them with a
            warning.
        seed: seed of stochastic frame policies.
        level: level of theory, for models with several.
    Attributes:
        energy_std: eV, spread of the last energy over the networks of an ensemble, otherwise over
            frames.
        domain, domain_reason: whether the last structure is like those that the model has learned
            from (green, amber or red), and why it is not; None where that is not known. Outside
            (red) there is a `geocalc.errors.DomainWarning`, once for each reason.
        frame_degenerate: whether axes of the last structure's frames were tied, so that its energy
            may jump where the tie opens.
    Raises:
        ModelNotFoundError, ModelFileError, InputError: see `geocalc.load_model`.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] = "regnn-wide",
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
        self.domain: str | None = None
        self.domain_reason: str | None = None
        self._warned: set[str] = set()
        self._known: _Known | None = None

    @property
    def energy_kind(self) -> str:
        """Kind of the energies: total, adsorption, formation or relative."""
        return self.model.card.energy_kind.value

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """List changes since the last calculation, tags included where the model reads them."""
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
        """Return a property as ASE does; a missing one is refused with the reason."""
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
        """Evaluate the model; called by ASE.

        Raises:
            InputError: the structure cannot be used; see `geocalc.from_atoms`.
            NonFiniteError: the predicted energy or a force is not a finite number.
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
                f"{self.model.card.name} predicted an energy of {energy} eV or forces that are not"
                f" finite for {structure.symbols}; check its shortest distances and the weights of"
                " the model"
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
        light, self.domain_reason = domain_of_prediction(prediction, systems)
        self.domain = None if light is None else light.value
        self._warn_outside(light)
        self.results = results

    def _warn_outside(self, light: Light | None) -> None:
        """Warn of a structure that the model knows nothing of, once for each kind of reason."""
        reason = str(self.domain_reason)
        kind = re.sub(r"\d+", "", reason)  # the number of an atom is no other kind
        if light is not Light.RED or kind in self._warned:
            return
        self._warned.add(kind)
        warnings.warn(
            f"{self.atoms.symbols if self.atoms is not None else 'the structure'} is outside what"
            f" {self.model.card.name} has learned: {reason}; its energy and forces may have any"
            " error",
            DomainWarning,
            stacklevel=3,
        )

    def _systems(self, atoms: Atoms) -> Systems:
        """Convert atoms for the model; tags are read once for each structure."""
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
    """Return atoms with only the constraints that fix atoms or components, which tags depend on.

    ASE applies all constraints itself.
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
