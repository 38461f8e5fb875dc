"""Conventions of tags: recognized, converted with one warning, or refused; never passed on raw."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import add_adsorbate, bcc110, bulk, fcc111, fcc211, graphene, hcp0001, molecule
from ase.constraints import FixAtoms

from geocalc.errors import InputError
from geocalc.structures.convert import fixed_mask, from_atoms
from geocalc.structures.tags import TagReading, TagsConverted, tags_of


def read(atoms: Atoms) -> TagReading:
    return tags_of(atoms, fixed_mask(atoms))


def adslab(layers: int = 3, adsorbate: str = "CO", vacuum: float | None = 8.0) -> Atoms:
    """As ASE builds it: tags count layers from the top, adsorbate 0."""
    atoms = fcc111("Cu", (2, 2, layers), vacuum=vacuum)
    ads = molecule(adsorbate) if len(adsorbate) > 1 else Atoms(adsorbate)
    add_adsorbate(atoms, ads, 1.8, "ontop", mol_index=int(np.argmin(ads.positions[:, 2])))
    atoms.center(vacuum=vacuum, axis=2) if vacuum else None
    return atoms


def freeze(atoms: Atoms, n_layers: int, n_per_layer: int = 4) -> Atoms:
    atoms.set_constraint(FixAtoms(indices=range(n_layers * n_per_layer)))
    return atoms


def oc20(layers: int = 3) -> list[int]:
    return [0] * 4 * (layers - 1) + [1] * 4 + [2, 2]


def test_what_ase_builds() -> None:
    assert sorted(set(adslab().get_tags().tolist())) == [0, 1, 2, 3]
    assert adslab().get_tags()[-2:].tolist() == [0, 0]


@pytest.mark.parametrize("pbc", [(True, True, False), (True, True, True)])
@pytest.mark.parametrize("layers", [1, 2, 3, 4])
def test_ase_adslab_is_converted(layers: int, pbc: tuple[bool, bool, bool]) -> None:
    atoms = adslab(layers)
    atoms.pbc = pbc
    reading = read(atoms)
    assert reading.tags.tolist() == oc20(layers)
    assert reading.note is not None


@pytest.mark.parametrize("layers", [2, 3, 4])
def test_clean_ase_slab_is_converted(layers: int) -> None:
    reading = read(fcc111("Cu", (2, 2, layers), vacuum=8.0))
    assert reading.tags.tolist() == oc20(layers)[:-2]
    assert reading.note is not None


@pytest.mark.parametrize("shift", [0.0, 7.0, -11.3])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_oc20_tags_are_kept(layers: int, shift: float) -> None:
    atoms = adslab(layers)
    atoms.set_tags(oc20(layers))
    atoms.pbc = True
    atoms.positions[:, 2] += shift
    atoms.wrap()
    reading = read(atoms)
    assert reading.tags.tolist() == oc20(layers)
    assert reading.note is None


@pytest.mark.parametrize("layers", [2, 3])
def test_conversion_survives_wrapping(layers: int) -> None:
    atoms = adslab(layers)
    atoms.pbc = True
    atoms.positions += [1.3, -2.2, -9.7]
    atoms.wrap()
    assert read(atoms).tags.tolist() == oc20(layers)


def test_conversion_is_stable() -> None:
    for atoms in (adslab(2), adslab(3), freeze(adslab(4), 2)):
        atoms.set_tags(read(atoms).tags)
        assert read(atoms).note is None


def test_left_handed_cell_keeps_its_top() -> None:
    atoms = adslab(2)
    cell = atoms.cell.array[[1, 0, 2]]
    assert np.linalg.det(cell) < 0
    atoms.set_cell(cell)
    assert read(atoms).tags.tolist() == oc20(2)
    atoms.set_tags(oc20(2))
    assert read(atoms).note is None


def test_slab_along_another_axis() -> None:
    atoms = adslab(2)
    atoms.positions = atoms.positions[:, [2, 0, 1]]
    atoms.set_cell(atoms.cell.array[[2, 0, 1]][:, [2, 0, 1]])
    atoms.pbc = (False, True, True)
    assert read(atoms).tags.tolist() == oc20(2)


def test_constraints_say_what_is_below_the_surface() -> None:
    atoms = freeze(adslab(4), 2)
    assert read(atoms).tags.tolist() == [0] * 8 + [1] * 8 + [2, 2]
    assert "free slab atoms" in str(read(atoms).note)


def test_slab_fixed_throughout_still_has_a_surface() -> None:
    assert read(freeze(adslab(3), 3)).tags.tolist() == oc20(3)


def test_fixed_along_z_only_is_not_below_the_surface() -> None:
    atoms = freeze(adslab(4), 2)
    fixed = np.zeros((len(atoms), 3), dtype=bool)
    fixed[:8, 2] = True
    assert tags_of(atoms, fixed).tags.tolist() == oc20(4)


@pytest.mark.parametrize("missing", [True, False])
def test_missing_tags_are_rebuilt(missing: bool) -> None:
    atoms = freeze(adslab(4), 2)
    if missing:
        del atoms.arrays["tags"]
    else:
        atoms.set_tags(0)
    reading = read(atoms)
    assert reading.tags.tolist() == [0] * 8 + [1] * 8 + [2, 2]
    assert "missing or all zero" in str(reading.note)


def test_missing_tags_without_constraints_take_the_top_layer() -> None:
    atoms = adslab(4)
    atoms.set_tags(0)
    assert read(atoms).tags.tolist() == oc20(4)


def test_narrow_vacuum_is_still_a_surface() -> None:
    atoms = adslab(3)
    atoms.set_tags(0)
    atoms.pbc = True
    atoms.center(vacuum=2.6, axis=2)
    assert read(atoms).tags.tolist() == oc20(3)


@pytest.mark.parametrize(
    "slab", [bcc110("Fe", (2, 2, 3), vacuum=8.0), hcp0001("Ru", (2, 2, 3), vacuum=8.0)]
)
def test_hydrogen_in_a_hollow_is_an_adsorbate(slab: Atoms) -> None:
    add_adsorbate(
        slab, "H", 0.6, "hollow" if "hollow" in slab.info["adsorbate_info"]["sites"] else "fcc"
    )
    slab.set_tags(0)
    assert read(slab).tags.tolist() == oc20(3)[:-1]


def test_stepped_slab_keeps_oc20_tags() -> None:
    slab = fcc211("Pt", (3, 2, 3), vacuum=8.0)
    heights = slab.positions[:, 2]
    slab.set_tags((heights > np.median(heights)).astype(int))
    add_adsorbate(slab, "O", 1.3, (1.0, 1.0))
    tags = slab.get_tags()
    tags[-1] = 2
    slab.set_tags(tags)
    assert read(slab).note is None


def test_clean_oc20_slab_is_kept() -> None:
    atoms = freeze(fcc111("Cu", (2, 2, 4), vacuum=8.0), 2)
    atoms.set_tags([0] * 8 + [1] * 8)
    assert read(atoms).note is None


def test_slab_without_fixed_atoms_in_oc20_convention() -> None:
    atoms = adslab(3)
    atoms.set_tags([1] * 12 + [2, 2])
    assert read(atoms).note is None


def test_adsorbate_left_at_zero_on_a_tagged_slab() -> None:
    atoms = adslab(3)
    atoms.set_tags([0] * 8 + [1] * 4 + [0, 0])
    reading = read(atoms)
    assert reading.tags.tolist() == oc20(3)
    assert "2 adsorbate atoms" in str(reading.note)


def test_adsorbate_that_left_the_surface_is_still_oc20() -> None:
    atoms = freeze(adslab(3), 2)
    atoms.set_tags(oc20(3))
    atoms.pbc = True
    atoms.positions[-2:, 2] += 6.5
    atoms.wrap()
    assert read(atoms).note is None


def test_metal_adatom() -> None:
    atoms = fcc111("Cu", (2, 2, 2), vacuum=8.0)
    add_adsorbate(atoms, "Pt", 2.1, "fcc")
    assert read(atoms).tags.tolist() == oc20(2)[:-1]
    atoms.set_tags(oc20(2)[:-1])
    assert read(atoms).note is None


@pytest.mark.parametrize("tags", [None, 0, 2])
@pytest.mark.parametrize("boxed", [True, False])
def test_molecules_are_adsorbates(tags: int | None, boxed: bool) -> None:
    atoms = molecule("CH3OH", vacuum=6.0, pbc=True) if boxed else molecule("CH3OH")
    if tags is not None:
        atoms.set_tags(tags)
    reading = read(atoms)
    assert reading.tags.tolist() == [2] * 6
    assert reading.note is None


def test_fragment_numbers_of_a_molecule_are_converted() -> None:
    atoms = molecule("H2O")
    atoms.set_tags([1, 2, 3])
    reading = read(atoms)
    assert reading.tags.tolist() == [2, 2, 2]
    assert "atoms of a molecule had tags" in str(reading.note)


def test_isolated_metal_atom() -> None:
    assert read(Atoms("Pt")).tags.tolist() == [2]


def test_cluster_with_odd_tags_is_refused() -> None:
    with pytest.raises(InputError, match="cluster"):
        read(Atoms("Pt3", positions=[[0, 0, 0], [2.7, 0, 0], [0, 2.7, 0]], tags=[1, 1, 3]))


def test_bulk_is_below_the_surface() -> None:
    reading = read(bulk("NaCl", "rocksalt", a=5.6))
    assert reading.tags.tolist() == [0, 0]
    assert reading.note is None


def test_layers_without_vacuum_are_refused() -> None:
    atoms = bulk("Cu", cubic=True) * (1, 1, 2)
    atoms.set_tags([1, 1, 2, 2, 3, 3, 4, 4])
    with pytest.raises(InputError, match="no vacuum"):
        read(atoms)


def test_numbers_without_meaning_are_refused() -> None:
    atoms = adslab(3)
    atoms.set_tags(np.random.default_rng(0).permutation(len(atoms)))
    with pytest.raises(InputError, match="neither in the OC20 convention nor layer numbers"):
        read(atoms)


def test_flipped_slab_is_refused_or_kept_by_its_constraints() -> None:
    atoms = adslab(3)
    atoms.set_tags(oc20(3))
    atoms.positions[:, 2] *= -1
    with pytest.raises(InputError, match="match neither"):
        read(atoms)
    assert read(freeze(atoms, 2)).note is None


def test_oxide_without_tags_is_refused() -> None:
    atoms = bulk("MgO", "rocksalt", a=4.2, cubic=True) * (1, 1, 2)
    atoms.center(vacuum=8.0, axis=2)
    with pytest.raises(InputError, match="cannot be distinguished"):
        read(atoms)


def test_sheet_without_metal_is_refused() -> None:
    with pytest.raises(InputError, match="no metal atom"):
        read(graphene(vacuum=8.0))


def test_negative_tags_are_refused() -> None:
    atoms = adslab(3)
    atoms.set_tags(-1)
    with pytest.raises(InputError, match="non-negative"):
        read(atoms)


@pytest.mark.parametrize("tag", [0.5, np.nan, np.inf, "1"])
def test_tags_that_are_no_whole_numbers_are_refused(tag: object) -> None:
    atoms = adslab(3)
    atoms.arrays["tags"] = np.full(len(atoms), tag)
    with pytest.raises(InputError, match="non-negative integer"):
        read(atoms)


def test_no_raw_tag_ever_passes() -> None:
    rng = np.random.default_rng(1)
    for _ in range(200):
        atoms = adslab(int(rng.integers(1, 4)))
        atoms.set_tags(rng.integers(0, rng.integers(1, 6), len(atoms)))
        try:
            tags = read(atoms).tags
        except InputError:
            continue
        assert set(tags.tolist()) <= {0, 1, 2}


def test_the_given_structure_is_unchanged() -> None:
    atoms = adslab(3)
    before = atoms.copy()
    read(atoms)
    assert atoms == before
    assert atoms.get_tags().tolist() == before.get_tags().tolist()


def test_one_warning_for_a_batch() -> None:
    untagged = freeze(adslab(4), 2)
    untagged.set_tags(0)
    with pytest.warns(TagsConverted) as caught:
        systems = from_atoms([adslab(3), adslab(3), untagged, molecule("H2O")])
    assert len(caught) == 1
    assert caught[0].filename == __file__
    message = str(caught[0].message)
    assert "structure 0 (Cu12OC) and 1 more" in message
    assert "structure 2 (Cu16OC)" in message
    assert systems.tags.tolist() == oc20(3) * 2 + [0] * 8 + [1] * 8 + [2, 2] + [2] * 3


def test_strict_refuses() -> None:
    with pytest.raises(InputError, match="strict"):
        from_atoms(adslab(3), strict=True)
    kept = adslab(3)
    kept.set_tags(oc20(3))
    assert from_atoms(kept, strict=True).tags.tolist() == oc20(3)


def test_models_without_tags_judge_none() -> None:
    assert from_atoms(graphene(vacuum=8.0), use_tags=False).tags.tolist() == [0, 0]
