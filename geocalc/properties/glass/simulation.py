"""Isoconfigurational ensembles of glasses, kept on the disk run by run.

Each configuration comes from a melt of its own: configurations along one trajectory are alike
unless many relaxation times lie between them, independent melts never are. From each, runs start
with fresh velocities from Maxwell's distribution and no total momentum, and follow Newton's
equations at constant energy: there a thermostat would add a time of its own to the motion that is
measured, while over many runs the velocities already sample the canonical ensemble of that
configuration.

Of an unfinished configuration a folder keeps the start and every finished run; what was interrupted
is done again. Random numbers depend on the seed, the configuration and the run alone, so that
interruptions leave no trace in what is computed.
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
    """What moves particles; `geocalc.properties.glass.lammps_engine.LammpsEngine` is one."""

    def equilibrate(self, settings: GlassSettings, types: NDArray[np.int64], seed: int) -> Floats:
        """Unwrapped positions (n_frames, n, 3) of the last piece of a run at the temperature, at
        even intervals.
        """
        ...

    def follow(
        self, start: Floats, types: NDArray[np.int64], velocities: Floats, settings: GlassSettings
    ) -> Floats:
        """Displacements (n_times, n, 3) from the start at the times of the settings, not wrapped."""
        ...


def claim_folder(folder: Path, settings: GlassSettings) -> None:
    """Make `folder` the place of configurations of these settings.

    Raises:
        InputError: it holds configurations of other settings.
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
            f"{folder} holds configurations of other settings: {'; '.join(other)}; take another"
            " folder"
        )


def configuration_path(folder: Path, settings: GlassSettings, index: int) -> Path:
    """The file of configuration `index`."""
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
            f" more than {settings.ageing_tolerance:g}; take a longer equilibration_time, or a"
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
    """The configuration, inside the box, and how far it ages."""
    seed = int(np.random.SeedSequence([settings.seed, index, 0]).generate_state(1, np.uint64)[0])
    frames = engine.equilibrate(settings, types, seed)
    length = settings.box_length
    return {
        "positions": frames[-1] - length * np.floor(frames[-1] / length),
        "ageing": ageing(frames, types),
    }


def _kept(path: Path, compute: Callable[[], Mapping[str, Any]]) -> dict[str, NDArray[Any]]:
    """The arrays of a part, computed and written if they are not there in full; always what the
    disk holds.
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
    """Write a file whole or not at all."""
    part = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    write(part)
    part.replace(path)


def _nothing(text: str) -> None:
    """Say nothing."""
