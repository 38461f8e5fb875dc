"""Train FAENet, an equivariant network and its relaxed twin on increasing numbers of adsorbate
relaxations on metals.

All networks are trained on the same relaxations, drawn by the seed, in batches of the same size,
for the same number of steps. A sixth of all relaxations is the test set and a tenth is for choices,
the same ones for all.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from itertools import product
from pathlib import Path

import click
import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from lightning_fabric import Fabric
from scipy.spatial.transform import Rotation
from torch import nn

from geocalc.core import configure_process, override, read_yaml, write_atomically
from geocalc.data import Sample, collate_samples, locate, prepare_store, read_store, structures_of
from geocalc.evaluation import single_point_errors
from geocalc.frames import frame_policy
from geocalc.nn import thetas
from geocalc.potentials import NetworkPotential
from geocalc.train import (
    CHECKPOINT,
    Recipe,
    TrainingProgress,
    load_checkpoint,
    parse_recipe,
    start_training,
    steps_done,
    train,
)

HERE = Path(__file__).parent
RUNS = HERE.parents[1] / "runs" / "symmetry-breaking"
DATA = Path("mamun-puremetal-adslab-relax/adslab_traj.extxyz.gz")
NETWORKS = ("faenet", "equivariant", "relaxed")
SIZES, SEEDS = (30, 120, 500), (0, 1, 2, 3, 4)
FRAMES = 6  # of each relaxation: the first, the last and four between
# every sixth relaxation is for the test, of the others every tenth for choices
TEST, VALIDATE = 6, 10
FOLDER, MEASURED = "adslabs", "test.json"
TURNED = "turned"
# as `turned` sees all slabs
TURN = Rotation.from_euler("zyz", (40, 55, 100), degrees=True).as_matrix()


@dataclass(frozen=True)
class Planned:
    """A training: name of the recipe's file, relaxations learned from, seed, the recipe, folder of
    the run.
    """

    name: str
    size: int
    seed: int
    recipe: Recipe
    folder: Path

    def __str__(self) -> str:
        return f"{self.name} {self.size} {self.seed}"


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What became of a training.

    Attributes:
        network, size, seed: which.
        steps, weights: of it.
        seconds: of the steps.
        energy_mae: eV.
        force_mae: eV/Angstrom, of components of atoms that may move; both on the test.
        validation_energy_mae, validation_force_mae: likewise on what choices are made by.
        theta: of each layer, the relaxed weights of each irrep.
    """

    network: str
    size: int
    seed: int
    steps: int
    weights: int
    seconds: float
    energy_mae: float
    force_mae: float
    validation_energy_mae: float
    validation_force_mae: float
    theta: list[dict[str, list[float]]]


@cache
def relaxations() -> dict[str, list[Atoms]]:
    """Converged relaxations by name, in an order that has nothing to do with it, six frames of
    each.
    """
    groups: dict[str, list[Atoms]] = {}
    for found in structures_of(locate(DATA)):
        if found.atoms.info["converged"]:
            groups.setdefault(str(found.atoms.info["sid"]), []).append(found.atoms)
    return {name: _some(groups[name]) for name in sorted(groups, key=_shuffled)}


def _some(frames: Sequence[Atoms]) -> list[Atoms]:
    places = {round(k * (len(frames) - 1) / (FRAMES - 1)) for k in range(FRAMES)}
    return [frames[place] for place in sorted(places)]


def _shuffled(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")


def parts(size: int, seed: int) -> dict[str, str]:
    """What each relaxation is for, by name: learn, validate or test; others are left out."""
    names = list(relaxations())
    test = names[::TEST]
    rest = [name for name in names if name not in set(test)]
    validate = rest[::VALIDATE]
    pool = sorted(
        (name for name in rest if name not in set(validate)),
        key=lambda name: _shuffled(f"{seed}:{name}"),
    )
    return (
        dict.fromkeys(test, "test")
        | dict.fromkeys(validate, "validate")
        | dict.fromkeys(pool[:size], "learn")
    )


def write_frames(path: Path, chosen: dict[str, str], turn: np.ndarray | None = None) -> Path:
    """A file of the frames of some relaxations, each of which knows what it is for; all turned by a
    (3, 3) matrix, if one is given.
    """
    if not path.is_file():
        frames = [
            _frame(atoms, part, turn)
            for name, part in chosen.items()
            for atoms in relaxations()[name]
        ]
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, frames)
    return path


def _frame(found: Atoms, part: str, turn: np.ndarray | None) -> Atoms:
    atoms, forces = found.copy(), found.calc.results["forces"]
    if turn is not None:
        atoms.set_cell(atoms.cell @ turn.T, scale_atoms=False)
        atoms.positions, forces = found.positions @ turn.T, forces @ turn.T
    atoms.info = {key: found.info[key] for key in ("sid", "e_ads", "e_relaxed")} | {"part": part}
    atoms.calc = SinglePointCalculator(atoms, energy=found.calc.results["energy"], forces=forces)
    return atoms


def recipe_of(name: str, path: Path, seed: int, changes: tuple[str, ...] = ()) -> Recipe:
    """The recipe of a file of frames."""
    values = override(read_yaml(HERE / "adslabs" / f"{name}.yaml"), changes)
    values["data"]["sources"] = [
        {"path": str(path), "add_energy": "e_ads", "subtract_energy": "e_relaxed"}
    ]
    values["training"]["seed"] = seed
    return parse_recipe(values, name)


def plan(
    out: Path,
    networks: Sequence[str],
    sizes: Sequence[int],
    seeds: Sequence[int],
    changes: tuple[str, ...] = (),
    tag: str = "",
) -> Iterator[Planned]:
    """Every training that is asked for.

    Args:
        out: where runs are.
        networks: names, of which `turned` is the relaxed network on slabs that lie askew.
        sizes, seeds: of the data.
        changes: to the recipes, as `key=value`.
        tag: tells folders with changes apart.
    """
    for size, seed, name in product(sizes, seeds, networks):
        askew = name == TURNED
        path = out / "data" / f"{size}-{seed}{'-turned' if askew else ''}.extxyz"
        learned = {key: part for key, part in parts(size, seed).items() if part != "test"}
        write_frames(path, learned, TURN if askew else None)
        more = (*changes, "model.frames=none", "training.frames=none") if askew else changes
        recipe = recipe_of("relaxed" if askew else name, path, seed, more)
        yield Planned(
            name + tag,
            size,
            seed,
            recipe,
            out / f"{name}{tag}-{recipe.training.steps}" / f"{size}-{seed}",
        )


def normal() -> np.ndarray:
    """Of the slabs that `turned` sees, (3,)."""
    return np.asarray(TURN @ (0.0, 0.0, 1.0))


def fit(one: Planned, out: Path) -> None:
    """Train what is not trained yet, and judge it by the test."""
    fabric = Fabric(accelerator="cpu", devices=1, precision="32-true")

    def say(now: TrainingProgress) -> None:
        if now.step % 100 == 0:
            print(f"{one} {now} {now.seconds:.0f} s", flush=True)

    if not (one.folder / MEASURED).is_file():
        train(one.recipe, one.folder, out / "prepared", fabric, say)
        write_atomically(one.folder / MEASURED, [json.dumps(asdict(judge(one, out)), indent=1)])


def judge(one: Planned, out: Path) -> Judged:
    """Errors of the averaged weights on the test and on validation."""
    samples = read_store(prepare_store(one.recipe, out / "prepared"))
    run = start_training(one.recipe, samples.training)
    load_checkpoint(one.folder / CHECKPOINT, run.model.network, run.optimizer, run.average)
    model = run.averaged()
    potential = NetworkPotential(model=model, policy=frame_policy(one.recipe.model.frames))
    errors = single_point_errors(potential, unseen(out, one.name.startswith(TURNED)))
    chosen_by = single_point_errors(potential, list(samples.held_out))
    log = [json.loads(line) for line in (one.folder / "log.jsonl").read_text().splitlines()]
    return Judged(
        network=one.name,
        size=one.size,
        seed=one.seed,
        steps=steps_done(one.folder / CHECKPOINT),
        weights=sum(weight.numel() for weight in model.network.parameters()),
        seconds=sum(
            entry["seconds"] / max(1, entry["done_here"]) * one.recipe.training.log_every
            for entry in log
            if "done_here" in entry
        ),
        energy_mae=errors.energy_mae,
        force_mae=errors.force_mae,
        validation_energy_mae=chosen_by.energy_mae,
        validation_force_mae=chosen_by.force_mae,
        theta=theta_of(model.network),
    )


def theta_of(network: nn.Module) -> list[dict[str, list[float]]]:
    """Of each layer, the relaxed weights of each irrep."""
    return [
        {
            block.name: part.detach().flatten().tolist()
            for block, part in zip(theta.blocks, theta.parts(), strict=True)
        }
        for _, theta in thetas(network)
    ]


def unseen(out: Path, askew: bool = False) -> list[Sample]:
    """Structures of the test."""
    own = {name: "validate" for name, part in parts(0, 0).items() if part == "test"}
    path = write_frames(
        out / "data" / f"test{'-turned' if askew else ''}.extxyz", own, TURN if askew else None
    )
    return list(read_store(prepare_store(recipe_of("relaxed", path, 0), out / "prepared")).held_out)


def no_force(out: Path, askew: bool = False) -> float:
    """Mean size of a component of the forces on atoms that may move, eV/Angstrom, of the test: the
    error of predicting none.

    Components in other axes have another mean.
    """
    systems, labels = collate_samples(unseen(out, askew))
    return float(labels.forces[~systems.fixed.all(1)].abs().mean())


@click.command("adslabs")
@click.option(
    "--networks",
    default=",".join(NETWORKS),
    show_default=True,
    help=f"Recipes of adslabs/, or {TURNED}.",
)
@click.option(
    "--sizes",
    default=",".join(map(str, SIZES)),
    show_default=True,
    help="Relaxations to learn from.",
)
@click.option("--seeds", default=",".join(map(str, SEEDS)), show_default=True)
@click.option(
    "--set", "changes", multiple=True, metavar="KEY=VALUE", help="Another value in the recipes."
)
@click.option(
    "--tag",
    default="",
    help="End of the names of folders, for trainings with --set; the report leaves them out.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=RUNS,
    help="Where the runs are [default: runs/symmetry-breaking].",
)
def adslabs_command(
    networks: str, sizes: str, seeds: str, changes: tuple[str, ...], tag: str, out: Path
) -> None:
    """Adsorbates on metals: train what is not trained yet, and judge it by the test."""
    configure_process()
    folder = out / FOLDER
    for one in plan(folder, networks.split(","), _numbers(sizes), _numbers(seeds), changes, tag):
        fit(one, folder)


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]
