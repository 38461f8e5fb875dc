"""Records of OC20's LMDB files: pickled torch-geometric `Data`, read without executing their code.

A pickle is a program. This reader allows it to create ordered dictionaries, tensors and one passive
container in place of the torch-geometric classes, and rejects every other name; torch-geometric is
never imported. All objects that a pickle can modify are created for each record, so a record cannot
affect how the next one is read.
"""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.constraints import FixAtoms

from geocalc.errors import InputError
from geocalc.structures.formats.base import Load
from geocalc.structures.formats.lmdb_file import open_lmdb

_GEOMETRIC = {
    ("torch_geometric.data.data", "Data"),
    ("torch_geometric.data.data", "DataEdgeAttr"),
    ("torch_geometric.data.data", "DataTensorAttr"),
    ("torch_geometric.data.storage", "GlobalStorage"),
    ("torch_geometric.data.storage", "BaseStorage"),
    ("torch_geometric.data.storage", "NodeStorage"),
}
_ATOMS_KEYS = ("pos", "atomic_numbers", "cell", "pbc", "tags", "fixed", "sid")
# ignored, because graphs are always rebuilt
_EDGE_KEYS = ("edge_index", "cell_offsets", "distances", "neighbors", "natoms")


def read_oc20(path: Path) -> Iterator[Load]:
    """Records of an LMDB in OC20's layout, one function each.

    Args:
        path: a file, or a folder with `data.mdb`. Keys are the numbers from 0; `length`, where it
            is there, is their count.
    """
    with open_lmdb(path) as transaction:
        length = transaction.get(b"length")
        count = (
            transaction.stat()["entries"] if length is None else unpickle(bytes(length)).get("", 0)
        )
        for key in range(int(count)):
            yield partial(_record_atoms, key, transaction.get(f"{key}".encode()))


def _record_atoms(key: int, record: bytes | None) -> Atoms:
    if record is None:
        raise InputError(
            f"there is no record {key}; it is not an LMDB of OC20 (ASE databases in LMDB end in"
            " .aselmdb), or a part of it is missing"
        )
    return oc20_atoms(record)


def oc20_atoms(record: bytes) -> Atoms:
    """Convert one record of an OC20 LMDB to a structure.

    Args:
        record: pickled `Data` of any version of torch-geometric.
    Returns:
        Atoms with OC20 tags, FixAtoms from `fixed`, and pbc on if the record has a cell. `y` (or
        `y_init`, the energy at these positions) and `force` become `info["REF_energy"]` and
        `arrays["REF_forces"]`; other numbers are added to info and other per-atom arrays to arrays,
        including `y_relaxed` and `pos_relaxed`.
    Raises:
        InputError: the pickle uses a name that is not allowed, or has no `pos` and
            `atomic_numbers`.
    """
    values = {key: value for key, value in unpickle(record).items() if value is not None}
    if "pos" not in values or "atomic_numbers" not in values:
        raise InputError(
            f"the record has the keys {sorted(values)}; expected an OC20 structure with pos and"
            " atomic_numbers"
        )
    numbers = np.asarray(values["atomic_numbers"]).reshape(-1).astype(int)
    cell = np.asarray(values.get("cell", np.zeros((3, 3))), dtype=float).reshape(3, 3)
    pbc = np.asarray(values.get("pbc", np.abs(cell).max() > 0)).reshape(-1).astype(bool)
    positions = np.asarray(values["pos"], dtype=float).reshape(-1, 3)
    atoms = Atoms(numbers, positions, cell=cell, pbc=pbc if len(pbc) == 3 else bool(pbc[0]))
    if "tags" in values:
        atoms.set_tags(np.asarray(values["tags"]).reshape(-1).astype(int))
    if "fixed" in values and np.any(values["fixed"]):
        atoms.set_constraint(FixAtoms(mask=np.asarray(values["fixed"]).reshape(-1).astype(bool)))
    if "sid" in values:
        atoms.info["sid"] = str(_scalar(values["sid"]))
    energy = values.get("y", values.get("y_init"))
    if energy is not None:
        atoms.info["REF_energy"] = float(_scalar(energy))
    if "force" in values:
        atoms.set_array("REF_forces", np.asarray(values["force"], dtype=float), shape=(3,))
    for key, value in values.items():
        if key not in (*_ATOMS_KEYS, *_EDGE_KEYS, "y", "force"):
            _store(atoms, key, value)
    return atoms


def relaxed_partner(atoms: Atoms) -> Atoms:
    """Return the relaxed structure stored in the same record as an unrelaxed one.

    Args:
        atoms: result of `oc20_atoms` for an is2re record.
    Returns:
        The same atoms at `pos_relaxed`, with `y_relaxed` as `info["REF_energy"]`.
    Raises:
        InputError: the record has no `pos_relaxed` or `y_relaxed`.
    """
    positions, energy = atoms.arrays.get("pos_relaxed"), atoms.info.get("y_relaxed")
    if positions is None or energy is None or positions.shape != (len(atoms), 3):
        raise InputError(
            "the record has no pos_relaxed and y_relaxed with the unrelaxed structure, expected an"
            " is2re record of OC20; set `relaxed` to the file of the relaxed structures"
        )
    partner = atoms.copy()
    partner.positions = positions
    partner.info["REF_energy"] = energy
    return partner


def unpickle(record: bytes) -> dict[str, Any]:
    """Return the attributes of a pickled torch-geometric `Data`.

    A plain number is returned under the key "".

    Raises:
        InputError: the pickle uses a name that is not allowed, or is not a pickle of a `Data`.
    """
    found = _Unpickler(io.BytesIO(record)).load()
    if isinstance(found, (int, float)):
        return {"": found}
    values = getattr(found, "state", found)
    if isinstance(values, dict) and "_store" in values:  # layout since torch-geometric 2
        values = getattr(values["_store"], "state", {}).get("_mapping")
    if not isinstance(values, dict):
        raise InputError(
            f"the record contains a pickled {type(found).__name__}; expected a torch-geometric Data"
        )
    return values


class _Function:
    """Function that a pickle may call, without attributes that it could set."""

    __slots__ = ("_call",)
    _call: Callable[..., Any]

    def __init__(self, call: Callable[..., Any]) -> None:
        object.__setattr__(self, "_call", call)

    def __call__(self, *args: Any) -> Any:
        return self._call(*args)

    def __setattr__(self, name: str, value: Any) -> None:
        raise pickle.UnpicklingError(f"a pickled record may not set {name}")


class _Unpickler(pickle.Unpickler):
    """Unpickler that accepts only the names used in OC20 records."""

    def __init__(self, stream: io.BytesIO) -> None:
        super().__init__(stream)
        container = _container()
        self._allowed: dict[tuple[str, str], Any] = {name: container for name in _GEOMETRIC} | {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _Function(_tensor),
            ("torch._utils", "_rebuild_tensor"): _Function(_tensor),
            ("torch.storage", "_load_from_bytes"): _Function(_storage),
        }

    def find_class(self, module: str, name: str) -> Any:
        """Return the replacement of `module.name`."""
        try:
            return self._allowed[module, name]
        except KeyError:
            raise InputError(
                f"the record uses {module}.{name}, which is not part of a structure, and was"
                " rejected; no code was executed"
            ) from None


def _container() -> type:
    """Return a new class that only stores its state."""

    class Container:
        state: Any = None

        def __setstate__(self, state: Any) -> None:
            self.state = state

    return Container


def _storage(payload: bytes) -> Any:
    """Load the numbers of a tensor with torch's restricted loader."""
    return torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)


def _tensor(
    storage: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any
) -> np.ndarray:
    """Return the numbers of a tensor, or raise an error if it exceeds its storage."""
    numbers, dtype = storage._untyped_storage, storage.dtype
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if min(offset, *size, *stride, 0) < 0 or (
        0 not in size and (last + 1) * dtype.itemsize > numbers.nbytes()
    ):
        raise pickle.UnpicklingError("a tensor exceeds its storage")
    return torch.empty(0, dtype=dtype).set_(numbers, offset, size, stride).numpy().copy()


def _scalar(value: Any) -> Any:
    """Return the single item of an array, or any other value unchanged."""
    return np.asarray(value).reshape(-1)[0].item() if np.size(value) == 1 else value


def _store(atoms: Atoms, key: str, value: Any) -> None:
    """Store a number or text in info, and a per-atom array in arrays; ignore other values."""
    if isinstance(value, str) or (np.size(value) == 1 and np.asarray(value).dtype.kind in "biuf"):
        atoms.info[key] = _scalar(value)
    elif (
        isinstance(value, np.ndarray)
        and value.dtype.kind in "biuf"
        and value.shape[:1] == (len(atoms),)
    ):
        atoms.set_array(key, value)
