"""The learning curve for TensorBoard; the only module that uses tensorboard."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from geocalc.errors import MissingDependencyError
from geocalc.train.loop import Evaluation, TrainingProgress

FOLDER = "tensorboard"


def require_tensorboard() -> None:
    """Raise unless tensorboard is installed.

    Raises:
        MissingDependencyError: it is not; the message names the extra.
    """
    if find_spec("tensorboard") is None:
        raise MissingDependencyError(
            "--tensorboard needs tensorboard; install it with: pip install 'geocalc[tensorboard]'"
        )


class Scalars:
    """Losses, learning rate and validation errors of a run, beside its log.

    Args:
        folder: of the run.
        first: steps done already; what a killed run wrote after them is hidden.
    Raises:
        MissingDependencyError: tensorboard is not installed.
    """

    def __init__(self, folder: Path, first: int) -> None:
        require_tensorboard()
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / FOLDER), purge_step=first + 1)

    def progress(self, now: TrainingProgress) -> None:
        """Write the losses of a step."""
        for name, value in now.losses.items():
            self._writer.add_scalar(f"loss/{name}", value, now.step)
        self._writer.add_scalar("learning_rate", now.learning_rate, now.step)

    def evaluation(self, now: Evaluation) -> None:
        """Write validation errors, and all that is written so far to the disk."""
        self._writer.add_scalar("validation/error", now.error, now.step)
        for source, errors in now.validation.items():
            for name, value in errors.items():
                if name != "n":
                    self._writer.add_scalar(f"{source}/{name}", value, now.step)
        self._writer.flush()

    def close(self) -> None:
        """Write everything to the disk."""
        self._writer.close()
