"""`geocalc register`: turn finished runs into a model, whatever their task."""

from __future__ import annotations

from pathlib import Path

from geocalc.potentials.registry import user_folder
from geocalc.tasks import register_any


def register_command(runs: tuple[Path, ...], name: str, folder: Path | None) -> str:
    """Write a model folder; return a sentence that says where it is and how it is used.

    Args:
        runs: folders of `geocalc train`.
        name: of the model.
        folder: where models are kept, by default the user's.
    Raises:
        InputError: see `geocalc.train.publish.register_runs`.
    """
    place = folder or user_folder()
    entry = register_any(runs, name, place, runs[0].parent / "data")
    where = "" if folder is None else f" with GEOCALC_MODELS={folder}"
    use = entry.kind.use.format(name=name)
    return f"{place / name}: registered; {use} finds it{where}"
