"""Configurations of binary glasses with measured dynamics: checks, files, conversion to ASE."""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from geocalc.errors import InputError

# atomic numbers of A and B in ASE, which are those of the types 1 and 2 of LAMMPS
NUMBERS = np.array([1, 2])
_TEMPERATURE = re.compile(r"_T(\d+\.\d+)(?:_|$)")  # as in ka_T0.44_1
_BROKEN = (
    OSError,
    ValueError,
    EOFError,
    KeyError,
    zipfile.BadZipFile,
    zlib.error,
    NotImplementedError,
)
Arrays = Mapping[str, NDArray[Any]]
SPARSEST, DENSEST = 0.5, 2.0  # particles in a volume of sigma_AA^3; glasses have about 1.2
# sigma_AA; at the temperature of a melt no pair of the Kob-Andersen mixture comes nearer than 0.6
CLOSEST = 0.5
# sigma_AA without a particle along an edge of the box, all others projected onto it
WIDEST_GAP = 1.0


@dataclass(frozen=True, kw_only=True)
class GlassConfiguration:
    """Configuration of a binary glass in a periodic box, in Lennard-Jones units.

    Attributes:
        name: name of the configuration, its file name without the suffix.
        positions: (n, 3) float64, sigma_AA; not necessarily inside the box.
        types: (n,) int64, 0 for A, the majority species, and 1 for B.
        box: (3,) float64, sigma_AA, edges of the orthogonal periodic box.
        temperature: epsilon_AA / k_B; None if unknown.
        times: (n_times,), times of the measured dynamics; NaN if unknown.
        propensity: (n_times, n), sigma_AA, |x(t) - x(0)| averaged over runs.
        half_a: (n_times, n), sigma_AA, the same over one half of the runs; None if unknown.
        half_b: (n_times, n), sigma_AA, the same over the other half of the runs; None if unknown.
        n_runs: number of runs; None if unknown.
        isf: (n_times,), self-intermediate scattering function of A; None if unknown.
        ageing: largest difference between two halves of the equilibration, see
            `geocalc.properties.glass.dynamics.ageing`; None if unknown.
    Raises:
        InputError: shapes do not match, a value is not finite, the types are not two species with A
            in the majority, or the positions are not those of a dense liquid or glass in this box.
    """

    name: str
    positions: Floats
    types: NDArray[np.int64]
    box: Floats
    temperature: float | None = None
    times: Floats
    propensity: Floats
    half_a: Floats | None = None
    half_b: Floats | None = None
    n_runs: int | None = None
    isf: Floats | None = None
    ageing: float | None = None

    def __post_init__(self) -> None:
        """Check shapes, values, types and box."""
        check_shapes(self)
        check_numbers(self)
        check_types(self.types)
        check_box(self.positions, self.box)

    @property
    def n_particles(self) -> int:
        """Number of particles."""
        return len(self.types)

    @property
    def n_times(self) -> int:
        """Number of times of the measured dynamics."""
        return len(self.times)


def read_configuration(path: Path | str) -> GlassConfiguration:
    """Read a configuration from an npz file without loading pickled objects.

    Three layouts are supported: files of `write_configuration`; files of the BOTAN data set, with
    the propensity at one time that is not stored; and the sample of the data set of Bapst et al.,
    with propensities at `time[time_indices]`.

    Raises:
        InputError: the file is missing, damaged or of another layout, or its content is invalid
            (see `GlassConfiguration`).
    """
    path = Path(path)
    arrays = _arrays(path)
    layout = next((layout for layout in _LAYOUTS if set(layout) <= set(arrays)), None)
    if layout is None:
        missing = min((sorted(set(layout) - set(arrays)) for layout in _LAYOUTS), key=len)
        raise InputError(
            f"{path} has no {' and no '.join(missing)}; it holds"
            f" {', '.join(sorted(arrays)) or 'nothing'}"
        )
    try:
        return _LAYOUTS[layout](
            path.stem, {name: _number(name, array) for name, array in arrays.items()}
        )
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def write_configuration(path: Path | str, configuration: GlassConfiguration) -> None:
    """Write all known fields of a configuration to an npz file, which gives it its name."""
    known: dict[str, Any] = {
        field.name: getattr(configuration, field.name)
        for field in fields(configuration)
        if field.name != "name" and getattr(configuration, field.name) is not None
    }
    np.savez_compressed(path, **known)


def glass_atoms(configuration: GlassConfiguration) -> Atoms:
    """Convert a configuration to ASE.

    A becomes H and B becomes He, as ASE reads the LAMMPS types 1 and 2; the array `types` holds 0
    and 1. Lengths are in sigma_AA. The dynamics are left out.
    """
    atoms = Atoms(
        NUMBERS[configuration.types], configuration.positions, cell=configuration.box, pbc=True
    )
    atoms.set_array("types", configuration.types.copy())
    atoms.info["name"] = configuration.name
    if configuration.temperature is not None:
        atoms.info["temperature"] = configuration.temperature
    return atoms


def configuration_of(atoms: Atoms, name: str = "configuration") -> GlassConfiguration:
    """Convert ASE atoms to a configuration without dynamics.

    Args:
        atoms: periodic in an orthogonal cell, lengths in sigma_AA; with `arrays["types"]` of 0 (A)
            and 1 (B), or with two elements, the more frequent of which becomes A.
        name: name used if `atoms.info` has none.
    Raises:
        InputError: the cell is not orthogonal or not periodic, or the types cannot be assigned;
            also the errors of `GlassConfiguration`.
    """
    cell = np.array(atoms.cell)
    if not atoms.pbc.all():
        raise InputError(
            f"a glass is periodic in all directions, got pbc = {atoms.pbc.tolist()}; set pbc in the"
            " file"
        )
    if np.abs(cell - np.diag(np.diag(cell))).max() > 1e-9 * np.abs(cell).max():
        raise InputError(
            "the box of a glass must be orthogonal and along x, y and z, got the cell"
            f" {cell.tolist()}"
        )
    temperature = atoms.info.get("temperature")
    return GlassConfiguration(
        name=str(atoms.info.get("name", name)),
        positions=np.array(atoms.positions, dtype=np.float64),
        types=(
            _integers("types", atoms.arrays["types"])
            if "types" in atoms.arrays
            else _types_of(atoms)
        ),
        box=np.diag(cell).astype(np.float64),
        temperature=None if temperature is None else float(temperature),
        times=np.zeros(0),
        propensity=np.zeros((0, len(atoms))),
    )


def _types_of(atoms: Atoms) -> NDArray[np.int64]:
    """Assign 0 to the more frequent of two elements and 1 to the other."""
    elements, counts = np.unique(atoms.get_chemical_symbols(), return_counts=True)
    if len(elements) != 2:
        found = ", ".join(elements) or "none"
        raise InputError(
            f"a binary glass has two species, got {len(elements)} ({found}); write types of 0 and 1"
            " as a column"
        )
    if counts[0] == counts[1]:
        raise InputError(
            f"A is the more frequent species, but there are {counts[0]} of"
            f" {' and of '.join(elements)}; write types"
        )
    return (np.array(atoms.get_chemical_symbols()) == elements[counts.argmin()]).astype(np.int64)


def _arrays(path: Path) -> Arrays:
    """Read all arrays of a file into memory."""
    try:
        with path.open("rb") as stream:
            opened = np.load(stream, allow_pickle=False)
            if isinstance(opened, NpzFile):
                return {name: opened[name] for name in opened.files}
    except FileNotFoundError:
        raise InputError(f"there is no file {path}") from None
    except _BROKEN as error:
        raise InputError(
            f"{path} is damaged or is not an npz file ({' '.join(str(error).split())}); fetch or"
            " make it again"
        ) from None
    raise InputError(f"{path} holds a single array; expected the named arrays of an npz file")


def _number(name: str, array: NDArray[Any]) -> NDArray[Any]:
    if array.dtype.kind not in "biuf":
        raise InputError(f"{name} holds {array.dtype} instead of numbers")
    return array


def _integers(name: str, array: NDArray[Any]) -> NDArray[np.int64]:
    if array.dtype.kind not in "biu" and not (
        np.isfinite(array).all() and (array == np.rint(array)).all()
    ):
        raise InputError(f"{name} holds numbers that are not whole; expected 0 for A and 1 for B")
    return array.astype(np.int64)


def _box(array: NDArray[Any]) -> Floats:
    """Convert one or three lengths to three box edges."""
    if array.size not in (1, 3):
        raise InputError(
            f"the box has {array.size} numbers of shape {array.shape}; expected one length or three"
        )
    return np.full(3, array.ravel(), dtype=np.float64)


def _scalar(arrays: Arrays, name: str) -> float | None:
    if name not in arrays:
        return None
    if arrays[name].size != 1:
        raise InputError(f"{name} has shape {arrays[name].shape}; expected a single number")
    return float(arrays[name].item())


def _floats(arrays: Arrays, name: str) -> Floats | None:
    return arrays[name].astype(np.float64) if name in arrays else None


def _own(name: str, arrays: Arrays) -> GlassConfiguration:
    n_runs = _scalar(arrays, "n_runs")
    return GlassConfiguration(
        name=name,
        positions=arrays["positions"].astype(np.float64),
        types=_integers("types", arrays["types"]),
        box=_box(arrays["box"]),
        temperature=_scalar(arrays, "temperature"),
        times=arrays["times"].astype(np.float64),
        propensity=arrays["propensity"].astype(np.float64),
        half_a=_floats(arrays, "half_a"),
        half_b=_floats(arrays, "half_b"),
        n_runs=None if n_runs is None else int(n_runs),
        isf=_floats(arrays, "isf"),
        ageing=_scalar(arrays, "ageing"),
    )


def _botan(name: str, arrays: Arrays) -> GlassConfiguration:
    """Convert a file of BOTAN: one time of unknown value; the temperature is part of the name."""
    temperature, n_runs = _TEMPERATURE.search(name), _scalar(arrays, "n_runs")
    return GlassConfiguration(
        name=name,
        positions=arrays["positions"].astype(np.float64),
        types=_integers("types", arrays["types"]),
        box=_box(arrays["box"]),
        temperature=None if temperature is None else float(temperature[1]),
        times=np.full(1, np.nan),
        propensity=arrays["propensity"].astype(np.float64)[None],
        half_a=arrays["propensity_half_a"].astype(np.float64)[None],
        half_b=arrays["propensity_half_b"].astype(np.float64)[None],
        n_runs=None if n_runs is None else int(n_runs),
    )


def _bapst(name: str, arrays: Arrays) -> GlassConfiguration:
    """Convert a file of Bapst et al., with times as indices into a time grid.

    The times are those at which the scattering function has the values `is_values`.
    """
    chosen, grid = (
        _integers("time_indices", arrays["time_indices"]),
        arrays["time"].astype(np.float64),
    )
    if chosen.size and not (chosen.min() >= 0 and chosen.max() < len(grid)):
        raise InputError(
            f"time_indices run from {chosen.min()} to {chosen.max()}, but time has {len(grid)}"
            " entries"
        )
    return GlassConfiguration(
        name=name,
        positions=arrays["positions"].astype(np.float64),
        types=_integers("types", arrays["types"]),
        box=_box(arrays["box"]),
        times=grid[chosen],
        propensity=arrays["propensity"].astype(np.float64),
        isf=_floats(arrays, "is_values"),
    )


_COMMON = ("positions", "types", "box", "propensity")
_LAYOUTS: dict[tuple[str, ...], Callable[[str, Arrays], GlassConfiguration]] = {
    (*_COMMON, "times"): _own,
    (*_COMMON, "time", "time_indices"): _bapst,
    (*_COMMON, "propensity_half_a", "propensity_half_b"): _botan,
}


Floats = NDArray[np.float64]


def check_shapes(given: GlassConfiguration) -> None:
    """Check that all arrays have the same numbers of particles and times."""
    n, n_times = given.types.size, given.times.size
    wanted = {
        "types": (n,),
        "positions": (n, 3),
        "box": (3,),
        "times": (n_times,),
        "propensity": (n_times, n),
        "half_a": (n_times, n),
        "half_b": (n_times, n),
        "isf": (n_times,),
    }
    for name, shape in wanted.items():
        array = getattr(given, name)
        if array is not None and array.shape != shape:
            raise InputError(
                f"{name} has shape {array.shape}; expected {shape} for {n} particles and {n_times}"
                " times"
            )
    if n == 0:
        raise InputError("there are no particles")


def check_numbers(given: GlassConfiguration) -> None:
    """Check that all values are finite, and not negative where they cannot be."""
    for name in (
        "positions",
        "box",
        "propensity",
        "half_a",
        "half_b",
        "isf",
        "temperature",
        "ageing",
    ):
        values = getattr(given, name)
        if values is not None and not np.isfinite(values).all():
            raise InputError(
                f"{name} holds {np.count_nonzero(~np.isfinite(values))} values that are not numbers"
            )
    for name in ("propensity", "half_a", "half_b", "times"):
        values = getattr(given, name)
        if values is not None and (values < 0).any():
            raise InputError(
                f"{name} holds {values.min():g}; distances and times are never negative"
            )
    if given.temperature is not None and given.temperature <= 0:
        raise InputError(f"the temperature is {given.temperature:g}; it must be positive")


def check_types(types: NDArray[np.int64]) -> None:
    """Check that there are two species of particles with A in the majority."""
    strange = sorted(set(np.unique(types).tolist()) - {0, 1})
    if strange:
        raise InputError(
            f"types hold {', '.join(map(str, strange[:5]))}; expected 0 for A and 1 for B alone"
        )
    if 2 * types.sum() > len(types):
        raise InputError(
            f"{types.sum()} of {len(types)} particles are B, type 1; A, type 0, must be the"
            " majority"
        )


def check_box(positions: Floats, box: Floats) -> None:
    """Check that the positions can be those of a dense glass in this box."""
    edges = " x ".join(f"{length:g}" for length in box)
    if not (box > 0).all():
        raise InputError(f"the box {edges} has an edge that is not positive")
    density = len(positions) / box.prod()
    if not SPARSEST <= density <= DENSEST:
        raise InputError(
            f"{len(positions)} particles in the box {edges} have density {density:.3g}; a glass has"
            " about 1.2 particles in a volume of sigma_AA^3, so the box is not theirs or lengths"
            " are in other units"
        )
    inside = positions - box * np.floor(positions / box)
    inside = np.where(inside >= box, 0.0, inside)
    for axis, column in zip("xyz", np.sort(inside, axis=0).T, strict=True):
        length = box["xyz".index(axis)]
        gap = np.diff(column, append=column[0] + length).max()
        if gap > WIDEST_GAP and len(column) > 1:
            raise InputError(
                f"the box {edges} is empty over {gap:.3g} of its length along {axis}; it is not"
                " that of the positions"
            )
    near = cKDTree(inside, boxsize=box).query_pairs(CLOSEST, output_type="ndarray")
    if len(near):
        i, j = sorted(near[0].tolist())
        raise InputError(
            f"particles {i} and {j}, and {len(near) - 1} other pairs, are nearer than {CLOSEST} in"
            f" the box {edges}; it is not that of the positions, or these overlap"
        )
