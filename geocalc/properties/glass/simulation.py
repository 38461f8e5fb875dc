"""Isoconfigurational ensembles of glasses, stored run by run.

Each configuration comes from a separate melt: configurations along one trajectory are correlated
unless they are many relaxation times apart, independent melts are not. Runs start from a
configuration with velocities from Maxwell's distribution without total momentum, and integrate
Newton's equations at constant energy: a thermostat would add its own time scale to the measured
dynamics, while the velocities of many runs already sample the canonical ensemble of the
configuration.

For an unfinished configuration the folder holds the start and every finished run; interrupted parts
are repeated. Random numbers depend only on the seed, the configuration and the run, so that an
interruption does not change the results.
"""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import yaml
from numpy.typing import NDArray

from geocalc.core.settings import read_yaml
from geocalc.errors import ConvergenceError, InputError
from geocalc.properties.glass.configuration import GlassConfiguration, write_configuration
from geocalc.properties.glass.dynamics import Floats, ageing, maxwell_velocities, propensity
from geocalc.properties.glass.simulation_settings import GlassSettings

SETTINGS = "settings.yaml"
Say = Callable[[str], None]


class MolecularDynamics(Protocol):
    """Molecular dynamics engine, such as `geocalc.properties.glass.lammps_engine.LammpsEngine`."""

    def equilibrate(self, settings: GlassSettings, types: NDArray[np.int64], seed: int) -> Floats:
        """Return unwrapped positions (n_images, n, 3) at regular intervals at the end of a run.

        The run is at the temperature of the settings.
        """
        ...

    def follow(
        self, start: Floats, types: NDArray[np.int64], velocities: Floats, settings: GlassSettings
    ) -> Floats:
        """Return displacements (n_times, n, 3) from the start at given times, not wrapped."""
        ...


def claim_folder(folder: Path, settings: GlassSettings) -> None:
    """Create a folder for configurations of these settings, or check an existing one.

    Raises:
        InputError: the folder holds configurations of other settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    values, path = settings.model_dump(mode="json"), folder / SETTINGS
    if not path.exists():
        _replace(
            path,
            lambda part: part.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8"),
        )
        return
    kept = read_yaml(path)
    other = [
        f"{key} {kept.get(key)} there and {value} here"
        for key, value in values.items()
        if kept.get(key) != value
    ]
    if other:
        raise InputError(
            f"{folder} holds configurations of other settings: {'; '.join(other)};choose another"
            " folder"
        )


def configuration_path(folder: Path, settings: GlassSettings, index: int) -> Path:
    """Return the path of configuration `index`."""
    return folder / f"ka_T{settings.temperature:g}_{index:04d}.npz"


def simulate(
    folder: Path,
    settings: GlassSettings,
    index: int,
    engine: MolecularDynamics,
    say: Say | None = None,
) -> Path:
    """Configuration `index` with its propensities, as far as it is not on the disk already.

    Args:
        folder: claimed with `claim_folder`.
        index: from 0; configurations of different indices share no random number.
        engine: what moves the particles.
        say: told after each part.
    Returns:
        The file, as `geocalc.properties.glass.configuration.read_configuration` reads it.
    Raises:
        ConvergenceError: the liquid still ages after its equilibration.
    """
    path, tell = configuration_path(folder, settings, index), say or _nothing
    if path.exists():
        return path
    parts, types = folder / "parts" / path.stem, settings.types
    parts.mkdir(parents=True, exist_ok=True)
    start = _kept(parts / "start.npz", lambda: _start(settings, types, index, engine))
    positions, difference = start["positions"], float(start["ageing"])
    tell(f"equilibrated, halves differ by {difference:.3f}")
    if not difference <= settings.ageing_tolerance:
        raise ConvergenceError(
            f"configuration {index} at T = {settings.temperature:g} still ages: the scattering"
            f" functions of two halves of {settings.ageing_time / 2:g} differ by {difference:.3f},"
            f" more than {settings.ageing_tolerance:g}; use a longer equilibration_time, or a"
            " longer ageing_time where that is noise"
        )
    runs = []
    for run in range(settings.n_runs):
        velocities = maxwell_velocities(
            len(types), settings.temperature, np.random.default_rng([settings.seed, index, 1, run])
        )

        def followed(velocities: Floats = velocities) -> dict[str, Any]:
            return {"displacements": engine.follow(positions, types, velocities, settings)}

        runs.append(_kept(parts / f"run_{run:03d}.npz", followed)["displacements"])
        tell(f"run {run + 1}/{settings.n_runs}")
    moved = propensity(runs, types)
    found = GlassConfiguration(
        name=path.stem,
        positions=positions,
        types=types,
        box=np.full(3, settings.box_length),
        temperature=settings.temperature,
        times=np.array(settings.times),
        propensity=moved.mean,
        half_a=moved.half_a,
        half_b=moved.half_b,
        n_runs=settings.n_runs,
        isf=moved.isf,
        ageing=difference,
    )
    _replace(path, lambda part: write_configuration(part, found))
    shutil.rmtree(parts)
    return path


def _start(
    settings: GlassSettings, types: NDArray[np.int64], index: int, engine: MolecularDynamics
) -> dict[str, Any]:
    """Equilibrate a configuration; return its positions inside the box and its aging."""
    seed = int(np.random.SeedSequence([settings.seed, index, 0]).generate_state(1, np.uint64)[0])
    frames = engine.equilibrate(settings, types, seed)
    length = settings.box_length
    return {
        "positions": frames[-1] - length * np.floor(frames[-1] / length),
        "ageing": ageing(frames, types),
    }


def _kept(path: Path, compute: Callable[[], Mapping[str, Any]]) -> dict[str, NDArray[Any]]:
    """Read the arrays of a part; compute and write them first if the file is missing or damaged.

    The arrays are always those read from disk.
    """
    with suppress(OSError, ValueError, zipfile.BadZipFile):
        return _arrays(path)
    values = compute()
    _replace(path, lambda part: np.savez(part, **values))
    return _arrays(path)


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file atomically."""
    part = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    write(part)
    part.replace(path)


def _nothing(text: str) -> None:
    """Ignore the progress."""
