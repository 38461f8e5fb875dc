"""Learning curves for TensorBoard; no other module imports tensorboard."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from geocalc.errors import MissingDependencyError
from geocalc.train.loop import Evaluation, TrainingProgress

FOLDER = "tensorboard"


def require_tensorboard() -> None:
    """Check that tensorboard is installed.

    Raises:
        MissingDependencyError: it is not; the message names the extra to install.
    """
    if find_spec("tensorboard") is None:
        raise MissingDependencyError(
            "--tensorboard needs tensorboard; install it with: pip install 'geocalc[tensorboard]'"
        )


class Scalars:
    """Writer of losses, learning rate and validation errors to the run folder.

    Args:
        folder: run folder.
        first: number of finished steps; later entries of a killed run are hidden.
    Raises:
        MissingDependencyError: tensorboard is not installed.
    """

    def __init__(self, folder: Path, first: int) -> None:
        require_tensorboard()
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / FOLDER), purge_step=first + 1)

    def progress(self, now: TrainingProgress) -> None:
        """Write losses and learning rate."""
        for name, value in now.losses.items():
            self._writer.add_scalar(f"loss/{name}", value, now.step)
        self._writer.add_scalar("learning_rate", now.learning_rate, now.step)

    def evaluation(self, now: Evaluation) -> None:
        """Write validation errors and flush the file."""
        self._writer.add_scalar("validation/error", now.error, now.step)
        for source, errors in now.validation.items():
            for name, value in errors.items():
                if name != "n":
                    self._writer.add_scalar(f"{source}/{name}", value, now.step)
        self._writer.flush()

    def close(self) -> None:
        """Flush and close the file."""
        self._writer.close()
