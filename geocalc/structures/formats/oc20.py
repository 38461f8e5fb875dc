"""Records of OC20's LMDB files: pickled torch-geometric `Data`, read without running anything they
ask for.

A pickle is a program. This reader lets it build ordered dictionaries, tensors and one inert
container that stands in for the torch-geometric classes, and refuses every other name;
torch-geometric itself is never imported. What the pickle can reach is made anew for each record or
cannot be changed, so one record cannot alter how the next is read.
"""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.constraints import FixAtoms

from geocalc.errors import InputError

_GEOMETRIC = {
    ("torch_geometric.data.data", "Data"),
    ("torch_geometric.data.data", "DataEdgeAttr"),
    ("torch_geometric.data.data", "DataTensorAttr"),
    ("torch_geometric.data.storage", "GlobalStorage"),
    ("torch_geometric.data.storage", "BaseStorage"),
    ("torch_geometric.data.storage", "NodeStorage"),
}
_ATOMS_KEYS = ("pos", "atomic_numbers", "cell", "pbc", "tags", "fixed", "sid")
# graphs are built anew, so these are dropped
_EDGE_KEYS = ("edge_index", "cell_offsets", "distances", "neighbors", "natoms")


def oc20_atoms(record: bytes) -> Atoms:
    """One record of an OC20 LMDB as a structure.

    Args:
        record: the pickled `Data`, of any version of torch-geometric.
    Returns:
        Atoms with OC20's tags, FixAtoms from `fixed`, pbc on where the record has a cell. `y` (or
        `y_init`, the energy of these positions) and `force` become `info["REF_energy"]` and
        `arrays["REF_forces"]`; other numbers go to info, other per-atom arrays to arrays, so
        `y_relaxed` and `pos_relaxed` stay.
    Raises:
        InputError: the pickle asks for a name that is not allowed, or has no `pos` and
            `atomic_numbers`.
    """
    values = {key: value for key, value in unpickle(record).items() if value is not None}
    if "pos" not in values or "atomic_numbers" not in values:
        raise InputError(
            f"the record has no pos and atomic_numbers but {sorted(values)}; expected an OC20"
            " structure"
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
            _keep(atoms, key, value)
    return atoms


def relaxed_partner(atoms: Atoms) -> Atoms:
    """The relaxed structure that came in the same record as an unrelaxed one.

    Args:
        atoms: from `oc20_atoms`, of a record for is2re.
    Returns:
        The same atoms at `pos_relaxed`, with `y_relaxed` as `info["REF_energy"]`.
    Raises:
        InputError: the record did not hold both.
    """
    positions, energy = atoms.arrays.get("pos_relaxed"), atoms.info.get("y_relaxed")
    if positions is None or energy is None or positions.shape != (len(atoms), 3):
        raise InputError(
            "there are no pos_relaxed and y_relaxed beside the unrelaxed structure, as a record of"
            " OC20's is2re has them; name another file as `relaxed`"
        )
    partner = atoms.copy()
    partner.positions = positions
    partner.info["REF_energy"] = energy
    return partner


def unpickle(record: bytes) -> dict[str, Any]:
    """The attributes of a pickled torch-geometric `Data`, or the bare value under "" if the record
    is a plain number.

    Raises:
        InputError: the pickle asks for a name that is not allowed, or is not a pickle of a `Data`.
    """
    found = _Unpickler(io.BytesIO(record)).load()
    if isinstance(found, (int, float)):
        return {"": found}
    values = getattr(found, "state", found)
    if isinstance(values, dict) and "_store" in values:  # layout since torch-geometric 2
        values = getattr(values["_store"], "state", {}).get("_mapping")
    if not isinstance(values, dict):
        raise InputError(
            f"the record is a pickled {type(found).__name__}; expected a torch-geometric Data"
        )
    return values


class _Function:
    """A function the pickle may call; it has no attributes that the pickle could set."""

    __slots__ = ("_call",)
    _call: Callable[..., Any]

    def __init__(self, call: Callable[..., Any]) -> None:
        object.__setattr__(self, "_call", call)

    def __call__(self, *args: Any) -> Any:
        return self._call(*args)

    def __setattr__(self, name: str, value: Any) -> None:
        raise pickle.UnpicklingError(f"a pickled record may not set {name}")


class _Unpickler(pickle.Unpickler):
    """Knows the names that OC20 records use, and no others."""

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
        """What stands for `module.name`."""
        try:
            return self._allowed[module, name]
        except KeyError:
            raise InputError(
                f"the record asks for {module}.{name}, which a structure does not need, and was"
                " refused; nothing was run"
            ) from None


def _container() -> type:
    """A new class that only holds the state it is given."""

    class Container:
        state: Any = None

        def __setstate__(self, state: Any) -> None:
            self.state = state

    return Container


def _storage(payload: bytes) -> Any:
    """Numbers of a tensor, by torch's own restricted loader."""
    return torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)


def _tensor(
    storage: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any
) -> np.ndarray:
    """Numbers of a tensor; one that reaches beyond its storage is refused."""
    numbers, dtype = storage._untyped_storage, storage.dtype
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if min(offset, *size, *stride, 0) < 0 or (
        0 not in size and (last + 1) * dtype.itemsize > numbers.nbytes()
    ):
        raise pickle.UnpicklingError("a tensor reaches beyond its stored numbers")
    return torch.empty(0, dtype=dtype).set_(numbers, offset, size, stride).numpy().copy()


def _scalar(value: Any) -> Any:
    return np.asarray(value).reshape(-1)[0].item() if np.size(value) == 1 else value


def _keep(atoms: Atoms, key: str, value: Any) -> None:
    """Put a further value where its shape belongs; what is neither a number, a word nor per atom is
    dropped.
    """
    if isinstance(value, str) or (np.size(value) == 1 and np.asarray(value).dtype.kind in "biuf"):
        atoms.info[key] = _scalar(value)
    elif (
        isinstance(value, np.ndarray)
        and value.dtype.kind in "biuf"
        and value.shape[:1] == (len(atoms),)
    ):
        atoms.set_array(key, value)
