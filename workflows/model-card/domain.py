"""Write the domain of shipped models, for those that were registered before models had one.

Usage:
    GEOCALC_DATA=... python workflows/model-card/domain.py [MODEL...]

`geocalc register` writes it for new models. Prepared data are kept in runs/data.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from geocalc import load_model
from geocalc.core import configure_process
from geocalc.data import prepare_store, read_store
from geocalc.potentials import ForceMode, find_model, read_card, write_domain
from geocalc.train import known_samples, make_domains, read_recipe

DATA = Path(__file__).parents[2] / "runs" / "data"
MODELS = (
    "faenet-is2re",
    "faenet-sfa",
    "faenet-sfa-small",
    "faenet-sfa-small-ensemble",
    "regnn",
    "schnet",
)


@click.command()
@click.argument("names", nargs=-1)
def main(names: tuple[str, ...]) -> None:
    """Compute and write the domain of each model, by default of all that are shipped."""
    configure_process()
    for name in names or MODELS:
        folder = find_model(name)
        recipe = read_recipe(folder / "recipe.yaml")
        samples = known_samples(read_store(prepare_store(recipe, DATA)), recipe.data)
        potential = replace(
            load_model(name, device="cpu").potential, force_mode=ForceMode.NONE, domain=None
        )
        tensors = make_domains(potential, samples.training, samples.held_out, recipe.source_levels)
        write_domain(folder, read_card(folder), tensors)
        print(f"{name}: {sum(len(one) for one in tensors.values())} rows", flush=True)


if __name__ == "__main__":
    main()
