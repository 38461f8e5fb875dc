"""A folder of a thousand files with a few bad ones among them, and a disk that fills up on the way:
the whole command line.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.constraints import Hookean
from ase.io import write
from click.testing import CliRunner, Result
from helpers.models import write_model

from geocalc.cli.main import main
from geocalc.runs.records import Record

BAD = {  # file: words of its sentence
    "b0-truncated.xyz": (
        "cannot read ",
        "b0-truncated.xyz: the file ends inside frame 0, after 1 of 2 atoms; check that",
    ),
    "b1-empty.traj": ("b1-empty.traj holds no structure; check that it was written completely",),
    "b2-element.xyz": (
        "contains Xe, which this model was not trained on; it knows H C O Cu; choose another model",
    ),
    "b3-same-place.xyz": (
        "atom 0 (C) and atom 1 (O) are 0.00 Å apart",
        "; check positions and cell",
    ),
    "b4-vanishing.xyz": (
        "the periodic cell [[0.001, 0.0, 0.0]",
        "is so small or flat",
        "; check the cell",
    ),
    "b5-spring.traj": ("the constraint Hookean is not supported", "; use FixAtoms,"),
}
GOOD = 994
NEWLINE = b"\n"
EASY = 1e3  # eV/Angstrom; every structure is converged where it starts


def molecule(k: int) -> Atoms:
    """Two or three atoms, no two structures alike."""
    symbols, length = ("CO", "OH", "CuH", "HCO", "OCO")[k % 5], 1.2 + 0.0005 * k
    positions = [[0.0, 0.0, 0.0], [length, 0.1, 0.0], [2 * length, -0.3, 0.2]]
    atoms = Atoms(symbols)
    atoms.positions[:] = positions[: len(atoms)]
    return atoms


def put(path: Path, atoms: Atoms) -> None:
    """A file of extended XYZ, without the detour by ASE, which takes a while a thousand times."""
    cell = " ".join(f"{x:.6f}" for x in atoms.cell.array.flatten())
    rows = [
        f"{s} {x:.6f} {y:.6f} {z:.6f}"
        for s, (x, y, z) in zip(atoms.get_chemical_symbols(), atoms.positions, strict=True)
    ]
    pbc = " ".join("FT"[int(p)] for p in atoms.pbc)
    head = f'Lattice="{cell}" Properties=species:S:1:pos:R:3 pbc="{pbc}"'
    path.write_text("\n".join([str(len(atoms)), head, *rows]) + "\n")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the thousand files and a tiny model."""
    place = tmp_path_factory.mktemp("bad")
    folder = place / "in"
    folder.mkdir()
    write_model(place, "tiny")
    for k in range(GOOD):
        put(folder / f"{'a' if k < GOOD // 2 else 'c'}{k:04}.xyz", molecule(k))
    names = list(BAD)
    put(folder / names[0], molecule(0))
    whole = (folder / names[0]).read_text()
    (folder / names[0]).write_text(whole[: whole.rindex("O ")])
    (folder / names[1]).write_bytes(b"")
    put(folder / names[2], Atoms("XeO", positions=[[0, 0, 0], [2.2, 0, 0]]))
    put(folder / names[3], Atoms("CO", positions=np.zeros((2, 3))))
    put(
        folder / names[4],
        Atoms("CO", positions=[[0, 0, 0], [1.2, 0, 0]], cell=[1e-3] * 3, pbc=True),
    )
    held = molecule(3)
    held.set_constraint(Hookean(0, 2, 1.0, rt=1.5))
    write(folder / names[5], held)
    return place


def relax(place: Path, source: Path | str, out: str, *arguments: object) -> Result:
    options = [
        "--model",
        place / "tiny",
        "--frames",
        "single",
        "--workers",
        1,
        "--fmax",
        EASY,
        "--traj",
        "none",
    ]
    return CliRunner().invoke(
        main, [str(a) for a in ("relax", source, "--out", place / out, *options, *arguments)]
    )


def records(folder: Path) -> list[Record]:
    return [Record.from_json(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def timeless(found: list[Record]) -> list[Record]:
    return [replace(record, wall_s=0.0) for record in found]


@pytest.mark.slow
def test_six_bad_files_of_a_thousand_are_told_and_the_others_relax(workplace: Path) -> None:
    done = relax(workplace, workplace / "in", "out", "--batch-edges", 2000)
    assert done.exit_code == 3, done.output[-2000:]
    found = records(workplace / "out")
    assert len(found) == len({record.sid for record in found}) == GOOD + len(BAD)
    assert sum(record.converged for record in found) == GOOD
    wrong = {record.sid.split("#")[0]: record for record in found if record.error is not None}
    assert sorted(wrong) == list(BAD)
    for name, words in BAD.items():
        record, sentence = wrong[name], wrong[name].error
        assert all(word in sentence for word in words), sentence
        assert "\n" not in sentence
        assert len(sentence) < 330
        assert (record.status, record.energy, record.converged) == ("ERROR", None, False)
        assert sentence in done.output
    assert "1000 structures: 994 CONVERGED, 6 ERROR" in done.output
    assert (workplace / "out" / "relaxed.extxyz").read_text().count("Lattice=") == GOOD


def test_nothing_but_bad_files(workplace: Path, tmp_path: Path) -> None:
    for name in ("b3-same-place.xyz", "b5-spring.traj"):
        (tmp_path / name).symlink_to(workplace / "in" / name)
    assert relax(workplace, tmp_path, "bad").exit_code == 1
    assert [record.status for record in records(workplace / "bad")] == ["ERROR"] * 2


@contextmanager
def files_no_larger_than(n_bytes: int) -> Iterator[None]:
    """A limit of the process that writing meets as it meets a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.slow
@pytest.mark.parametrize("n_bytes", [300, 4_000, 20_001])
def test_a_full_disk_is_one_sentence_and_the_run_goes_on_later(
    workplace: Path, tmp_path: Path, n_bytes: int
) -> None:
    for path in sorted((workplace / "in").iterdir())[GOOD // 2 - 10 : GOOD // 2 + 16]:
        (tmp_path / path.name).symlink_to(path)
    whole, cut = f"whole-{n_bytes}", f"cut-{n_bytes}"
    assert relax(workplace, tmp_path, whole).exit_code == 3
    with files_no_larger_than(n_bytes):
        stopped = relax(workplace, tmp_path, cut)
    assert stopped.exit_code == 1
    said = [line for line in stopped.output.splitlines() if line.startswith("geocalc:")]
    assert said == stopped.output.splitlines()[-1:]
    assert "the disk is full: cannot write" in said[0]
    assert "free some space and resume" in said[0]
    journal = workplace / cut / "journal.jsonl"
    kept = journal.read_bytes() if journal.exists() else b""
    assert kept.endswith(b"\n") or not kept
    assert f"; {kept.count(NEWLINE)} finished structures remain saved;" in said[0] or not kept
    again = relax(workplace, tmp_path, cut, "--resume")
    assert again.exit_code == 3
    assert journal.read_bytes().startswith(kept)
    assert timeless(records(workplace / cut)) == timeless(records(workplace / whole))
    assert (workplace / cut / "relaxed.extxyz").read_bytes() == (
        workplace / whole / "relaxed.extxyz"
    ).read_bytes()
