"""EMT as a potential that worker processes can open, with faults on request."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass, field

from ase.calculators.emt import EMT

from geocalc.core.systems import Prediction, Systems
from geocalc.errors import ModelFileError
from geocalc.potentials.ase import AsePotential


@dataclass
class FaultyEmt:
    """EMT that kills its process in the third evaluation of a structure of `deadly` atoms, and
    takes its time.
    """

    deadly: int | None = None
    pause: float = 0.0
    calls: int = 0
    emt: AsePotential = field(default_factory=lambda: AsePotential(calculator=EMT()))

    def __call__(self, systems: Systems) -> Prediction:
        time.sleep(self.pause)
        self.calls += systems.n_atoms == self.deadly
        if self.calls == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.emt(systems)


def refuse() -> FaultyEmt:
    raise ModelFileError("the model was changed while it was in use")
