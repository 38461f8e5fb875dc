"""Errors of a model on the test parts: forces of DFT frames, barriers of reaction paths, adsorption
energies after relaxation.

Nothing here was used to train or to choose. Each structure to relax starts from the DFT geometry with
all free atoms rattled and the adsorbate lifted and pushed aside.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.geometry import find_mic
from parents import BEEF, PBE_D2, RPBE, SETS, Parent, fixed_atoms, read_file
from real import PBE, alcohols, co_on_pt, oc20, reaction_forces, reaction_paths

import geocalc
from geocalc import Result, load_model

RATTLE, LIFT, PUSH = 0.05, 0.25, 0.25  # Angstrom
NEAR = 0.3  # Angstrom, of every adsorbate atom from its place in DFT
# structures of a set at most, evenly spaced: frames, and relaxations, fewer of the large FG molecules
N_FRAMES, N_RELAXED, N_LARGE = 120, 300, 100
HOP = 1.0  # Angstrom; an adsorbate that moved further is on another site
GROSS = 0.5  # eV, an error that a domain has to tell


@dataclass(frozen=True)
class Relaxed:
    """A test structure after relaxation; energies in eV.

    Attributes:
        sid, part, adsorbate, surface: as in `parents`.
        told: energy of the model, None where there is none.
        dft: adsorption energy.
        sites: adsorption energies of the same adsorbate on this surface, of all sites that DFT knows.
        error_95: half width of the model's interval of 95 %.
        domain: green, amber or red.
        novelty: distance from the training data.
        moved: largest distance of an adsorbate atom from its place in DFT, Angstrom.
        n_steps: of the relaxation.
        status: of the relaxation.
    """

    sid: str
    part: str
    adsorbate: str
    surface: str
    told: float | None
    dft: float
    sites: Sequence[float]
    error_95: float | None
    domain: str | None
    novelty: float | None
    moved: float
    n_steps: int
    status: str

    @property
    def error(self) -> float:
        """Told minus DFT, eV; infinite where nothing was told."""
        return float("inf") if self.told is None else self.told - self.dft

    @property
    def error_of_site(self) -> float:
        """The same; where the adsorbate has gone to another site, the difference from the site whose
        energy is nearest.
        """
        if self.told is None or self.moved < HOP:
            return self.error
        return min((self.told - energy for energy in self.sites), key=abs)


@dataclass(frozen=True)
class ForceErrors:
    """Errors of forces on free atoms, eV/Angstrom: mean absolute error, that of zero forces, mean
    cosine, and the share of frames that are amber or red; of n frames, beside those with elements
    that the model refuses.
    """

    n: int
    refused: int
    mae: float
    null: float
    cosine: float
    flagged: float


def measure(model: str, folder: Path, sets: Sequence[str]) -> None:
    """Write `<model>.json` with the errors of a model on test sets; sets that are there are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{Path(model).name}.json"
    found = json.loads(target.read_text()) if target.exists() else {}
    for name in sets:
        if name in found:
            continue
        if name in FORCES:
            level, frames_of = FORCES[name]
            frames = evenly(list(frames_of()), N_FRAMES)
            found[name] = asdict(force_errors(model, level, frames))
        elif name == "barriers":
            found[name] = barriers(model)
        else:
            found[name] = [asdict(one) for one in relaxed(model, LEVELS[name], list(SETS[name]()))]
        target.write_text(json.dumps(found, indent=1))
        print(name, summary(found[name]), flush=True)


def summary(found: object) -> str:
    """One line about the errors on a set."""
    if isinstance(found, dict):
        return ", ".join(f"{name} {value:.3g}" for name, value in found.items())
    assert isinstance(found, list)
    lines, groups = [], defaultdict(list)
    for one in (Relaxed(**values) for values in found):
        groups[one.part].append(one)
    for part, some in groups.items():
        errors = np.abs([one.error for one in some])
        near = np.mean([one.moved < NEAR for one in some])
        green = np.array([one.domain == "green" for one in some])
        lines.append(
            f"{part}: n {len(some)}, MAE {errors.mean():.3f}, median {np.median(errors):.3f},"
            f" to the site {np.mean(np.abs([one.error_of_site for one in some])):.3f},"
            f" near {near:.2f}, green {green.mean():.2f}, gross {np.mean(errors > GROSS):.3f} of"
            f" which green {np.mean(green[errors > GROSS]) if (errors > GROSS).any() else 0:.2f}"
        )
    return "; ".join(lines)


def auroc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Probability that a positive has a higher score than another; ties count half."""
    first, second = scores[positive], scores[~positive]
    if not len(first) or not len(second):
        return float("nan")
    above = first[:, None] > second
    return float((above + 0.5 * (first[:, None] == second)).mean())


def relaxed(model: str, level: str, known: Sequence[Parent]) -> Iterator[Relaxed]:
    """Relax the test structures of a set from displaced starts."""
    most = N_LARGE if level == PBE_D2 else N_RELAXED
    parents = evenly([one for one in known if one.part != "train"], most)
    sites = defaultdict(list)
    for one in known:
        sites[one.adsorbate, one.surface].append(one.energy)
    results = geocalc.relax([start_of(parent) for parent in parents], model, level=of(model, level))
    for parent, result in zip(parents, results, strict=True):
        record = result.record
        yield Relaxed(
            sid=parent.sid,
            part=parent.part,
            adsorbate=parent.adsorbate,
            surface=parent.surface,
            told=record.energy,
            dft=parent.energy,
            sites=sites[parent.adsorbate, parent.surface],
            error_95=record.energy_error_95,
            domain=record.domain,
            novelty=record.novelty,
            moved=moved(parent.atoms, result),
            n_steps=record.n_steps,
            status=record.status,
        )


def start_of(parent: Parent) -> Atoms:
    """The DFT geometry with free atoms rattled and the adsorbate lifted and pushed aside."""
    rng = np.random.default_rng(int(hashlib.md5(parent.sid.encode()).hexdigest()[:8], 16))
    atoms = parent.atoms.copy()
    free = ~fixed_atoms(atoms)
    atoms.positions[free] += rng.normal(0.0, RATTLE, (int(free.sum()), 3))
    angle = rng.uniform(0.0, 2.0 * np.pi)
    aside = np.array([PUSH * np.cos(angle), PUSH * np.sin(angle), LIFT])
    atoms.positions[atoms.get_tags() == 2] += aside
    atoms.info["sid"] = parent.sid
    return atoms


def moved(reference: Atoms, result: Result) -> float:
    """Largest distance (Angstrom) of an adsorbate atom from its place."""
    chosen = reference.get_tags() == 2
    if not chosen.any() or len(result.atoms) != len(reference):
        return 0.0
    steps = (result.atoms.positions - reference.positions)[chosen]
    return float(find_mic(steps, reference.cell, True)[1].max())


def force_errors(model: str, level: str, frames: Sequence[Atoms]) -> ForceErrors:
    """Errors of the forces on free atoms of DFT frames."""
    rows, refused = [], 0
    results = geocalc.predict([plain(one) for one in frames], model, level=of(model, level))
    for atoms, result in zip(frames, results, strict=True):
        if result.record.error is not None:
            refused += 1
            continue
        told = result.atoms.get_forces(apply_constraint=False)
        flagged = result.record.domain != "green"
        rows.append((forces_of(atoms), told, ~fixed_atoms(atoms), flagged))
    return averaged(rows, refused)


def averaged(
    rows: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray, bool]], refused: int
) -> ForceErrors:
    """Means over frames of true forces, told forces, which atoms are free, and whether flagged."""
    errors, nulls, cosines = [], [], []
    for true, told, free, _ in rows:
        errors.append(np.abs(told - true)[free].mean())
        nulls.append(np.abs(true)[free].mean())
        norm = np.linalg.norm(told[free]) * np.linalg.norm(true[free])
        cosines.append(float((told * true)[free].sum() / max(norm, 1e-12)))
    return ForceErrors(
        n=len(rows),
        refused=refused,
        mae=float(np.mean(errors)),
        null=float(np.mean(nulls)),
        cosine=float(np.mean(cosines)),
        flagged=float(np.mean([row[3] for row in rows])),
    )


def barriers(model: str) -> dict[str, float]:
    """Barriers of the test paths, from energies at the DFT images: their number, mean error and mean
    absolute error in eV.
    """
    paths = defaultdict(list)
    for atoms in (*reaction_paths("test"), *reaction_forces("test")):
        paths[str(atoms.info["sid"]).rpartition("#")[0]].append(atoms)
    errors = []
    for images in paths.values():
        images.sort(key=lambda one: int(str(one.info["sid"]).rpartition("#")[2]))
        results = geocalc.predict([plain(one) for one in images], model, level=of(model, BEEF))
        told = np.array([one.record.energy for one in results], float)
        true = np.array([one.info["REF_energy"] for one in images])
        errors.append((told.max() - told[0]) - (true.max() - true[0]))
    return {
        "n": len(errors),
        "mean": float(np.mean(errors)),
        "mae": float(np.mean(np.abs(errors))),
    }


def of(model: str, level: str) -> str | None:
    """The level, for a model that knows it; else the model's own."""
    known = [one.level for one in load_model(model).card.levels]
    return level if level in known and len(known) > 1 else None


def evenly(some: Sequence, most: int) -> list:  # type: ignore[type-arg]
    """At most so many, evenly spaced."""
    return list(some[:: -(-len(some) // most)])


def forces_of(atoms: Atoms) -> np.ndarray:
    """(n_atoms, 3) raw DFT forces, wherever a set keeps them."""
    if "REF_forces" in atoms.arrays:
        return atoms.arrays["REF_forces"]
    return atoms.calc.results["forces"]


def plain(atoms: Atoms) -> Atoms:
    """A copy without labels, periodic."""
    copy = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True, tags=atoms.get_tags())
    copy.set_constraint(atoms.constraints)
    copy.info["sid"] = str(atoms.info["sid"])
    return copy


FORCES = {
    "co2-ni": (PBE, partial(read_file, "reann-co2-ni100/co2_ni100.extxyz.gz")),
    "co-on-pt": (PBE, partial(co_on_pt, "test")),
    "paths": (BEEF, partial(reaction_paths, "test")),
    "paths-forces": (BEEF, partial(reaction_forces, "test")),
    "oc20": (RPBE, partial(oc20, "test")),
    "alcohols": (RPBE, partial(alcohols, "test")),
    "oxides": (PBE, partial(read_file, "finetuna-oxide-adslab-relax/oxide_traj.extxyz.gz")),
}
LEVELS = {
    "wwl-simple": BEEF,
    "wwl-complex": BEEF,
    "cathub": BEEF,
    "gamenet": PBE_D2,
    "hea": RPBE,
}
