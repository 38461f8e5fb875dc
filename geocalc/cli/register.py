"""What `geocalc register` does: runs become a model, of energies or of a property."""

from __future__ import annotations

from pathlib import Path

from geocalc.core.settings import read_yaml
from geocalc.potentials.registry import user_folder
from geocalc.properties.recipe import is_property_recipe
from geocalc.properties.registry import register_property
from geocalc.train.publish import check_run
from geocalc.train.register import register_model
from geocalc.train.run_files import RECIPE


def register_command(runs: tuple[Path, ...], name: str, folder: Path | None) -> str:
    """Write a model folder; returns a sentence that says where it is and how it is used.

    Args:
        runs: folders of `geocalc train`.
        name: of the model.
        folder: where models are kept, by default the user's.
    Raises:
        InputError: see `register_model`.
    """
    place, data = folder or user_folder(), runs[0].parent / "data"
    check_run(runs[0])
    if is_property_recipe(read_yaml(runs[0] / RECIPE)):
        target, use = register_property(runs, name, place, data), f"geocalc predict --model {name}"
    else:
        target, use = register_model(runs, name, place, data), f"GeoCalc({name!r})"
    return f"{target}: registered; {use} finds it" + (
        "" if folder is None else f" with GEOCALC_MODELS={folder}"
    )
