"""Plot what a model has learned from, adsorbates by metals, into domain.png of its folder.

Usage:
    GEOCALC_DATA=... python workflows/model-card/domain_picture.py MODEL

An adsorbate is the formula of the atoms of H, C, N, O, S; a slab of several metals counts as each of
them. Dark squares are structures of the model's first level of theory, light ones of others alone.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import click
import matplotlib as mpl
import numpy as np
from ase.data import chemical_symbols
from ase.formula import Formula

from geocalc.core import configure_process
from geocalc.data import Samples, prepare_store, read_store
from geocalc.potentials import find_model
from geocalc.train import Recipe, known_samples, read_recipe

mpl.use("Agg")
from matplotlib import pyplot as plt

ROOT = Path(__file__).parents[2]
PICTURE = "domain.png"
ADSORBATE = (1, 6, 7, 8, 16)
MOST_ADSORBATES = 50  # in the picture, those on the most metals
# formulas as chemists write them
USUAL = {
    "H2N": "NH2", "HN": "NH", "H3N": "NH3", "HO": "OH", "HS": "SH", "HO2": "OOH", "HN2": "N2H",
    "CH4O": "CH3OH", "CH2O2": "HCOOH", "CHO2": "HCOO", "CHN": "HCN", "OS": "SO",
}  # fmt: skip
OWN, OTHER = "#1f5f8b", "#c3d7e6"


def draw(folder: Path, recipe: Recipe) -> Path:
    """Draw the picture of the model in a folder."""
    samples = read_store(prepare_store(recipe, ROOT / "runs" / "data"))
    training = known_samples(samples, recipe.data).training
    levels = np.asarray(recipe.source_levels)[training.sample_index.source]
    own = counted(training.where(levels == 0))
    whole = counted(training)
    metals = sorted({metal for _, metal in whole}, key=chemical_symbols.index)
    totals = Counter(adsorbate for adsorbate, _ in whole)  # crowded surfaces of one metal are last
    chosen = {name for name, _ in totals.most_common(MOST_ADSORBATES)}
    adsorbates = sorted(chosen, key=_size)
    figure, axes = plt.subplots(figsize=(0.26 * len(metals) + 1.6, 0.19 * len(adsorbates) + 1.2))
    for row, adsorbate in enumerate(adsorbates):
        for column, metal in enumerate(metals):
            if whole[adsorbate, metal]:
                color = OWN if own[adsorbate, metal] else OTHER
                axes.add_patch(plt.Rectangle((column + 0.08, row + 0.08), 0.84, 0.84, color=color))
    axes.set_xlim(0, len(metals))
    axes.set_ylim(len(adsorbates), 0)
    axes.set_xticks(np.arange(len(metals)) + 0.5, metals, fontsize=7)
    names = [
        Formula(USUAL.get(name, name)).format("latex") if name else "clean" for name in adsorbates
    ]
    axes.set_yticks(np.arange(len(adsorbates)) + 0.5, names, fontsize=7)
    axes.tick_params(length=0)
    axes.xaxis.tick_top()
    for side in axes.spines.values():
        side.set_visible(False)
    handles = [plt.Rectangle((0, 0), 1, 1, color=OWN)]
    labels = [recipe.levels[0] or "training data"]
    if (levels > 0).any():
        handles.append(plt.Rectangle((0, 0), 1, 1, color=OTHER))
        labels.append("other levels of theory only")
    axes.legend(
        handles, labels, loc="upper left", bbox_to_anchor=(0, 0), ncol=2, frameon=False, fontsize=7
    )
    target = folder / PICTURE
    figure.savefig(target, dpi=110, bbox_inches="tight")
    plt.close(figure)
    return target


def counted(samples: Samples) -> Counter[tuple[str, str]]:
    """Number of structures by adsorbate and metal."""
    found: Counter[tuple[str, str]] = Counter()
    for sample in samples:
        light = np.isin(sample.numbers, ADSORBATE)
        symbols = "".join(chemical_symbols[z] for z in np.sort(sample.numbers[light]))
        adsorbate = Formula(symbols).format("hill") if symbols else ""
        for z in np.unique(sample.numbers[~light]):
            found[adsorbate, chemical_symbols[z]] += 1
    return found


def _size(name: str) -> tuple[int, str]:
    """Order of adsorbates: few heavy atoms first."""
    count = Formula(name).count()
    return (sum(n for symbol, n in count.items() if symbol != "H"), name)


@click.command()
@click.argument("name")
def main(name: str) -> None:
    """Draw the domain of a model, by name or folder."""
    configure_process()
    folder = find_model(name)
    print(draw(folder, read_recipe(folder / "recipe.yaml")))


if __name__ == "__main__":
    main()
