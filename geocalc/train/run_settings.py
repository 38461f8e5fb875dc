"""How a training run uses the machine; the options of `geocalc train` are made from the fields."""

from __future__ import annotations

from pydantic import Field

from geocalc.core.settings import Settings


class TrainSettings(Settings):
    """Options of a training run that are not part of its recipe."""

    device: str = Field("auto", description="Device: auto (a GPU if there is one), cpu or cuda.")
    devices: int = Field(1, description="Number of GPUs, or of processes on a CPU.")
    threads: int = Field(1, ge=1, description="Threads of each process on a CPU.")
    tensorboard: bool = Field(
        False, description="Write the learning curve for TensorBoard into the run folder, too."
    )
