"""Direct models that support a relaxation: any process can open them, and predictions are computed
once.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache

from geocalc.core.process import one_thread
from geocalc.core.systems import Prediction, Systems, copy_aligned
from geocalc.errors import InputError, ModelFileError
from geocalc.potentials.load import LoadedModel, load_model

# predictions kept by a process: more than the structures that it works on at the same time
KEPT = 256
# fields that a prediction depends on
READ = ("positions", "numbers", "tags", "system_idx", "cell", "pbc")


@dataclass(frozen=True)
class DirectModel:
    """A model of relaxed energies by its folder: plain values, which can be sent to worker
    processes.

    It computes on the CPU, in float32, with the frames of its card, one structure at a time.

    Attributes:
        folder: of the model.
        hash: of its weights and settings.
    """

    folder: str
    hash: str

    def predict(self, systems: Systems) -> Prediction:
        """Predict one structure on the CPU; recent predictions are not computed again.

        Raises:
            InputError: the model cannot take the structure, or there is not exactly one.
            ModelFileError: the model cannot be read any more, or is another one now.
        """
        if systems.n_systems != 1:
            raise InputError(f"one structure at a time is predicted, got {systems.n_systems}")
        return _opened(self.folder, self.hash).predict(systems.to("cpu"))


def direct_model(model: LoadedModel) -> DirectModel:
    """Refer to a loaded model by its folder."""
    return DirectModel(str(model.folder.resolve()), model.hash)


class _Opened:
    """A model in this process, with its last predictions."""

    def __init__(self, model: LoadedModel) -> None:
        self._model = model
        self._predictions: OrderedDict[bytes, Prediction] = OrderedDict()

    def predict(self, systems: Systems) -> Prediction:
        key = _content(systems)
        if key not in self._predictions:
            with one_thread():
                self._predictions[key] = self._model(copy_aligned(systems))
            if len(self._predictions) > KEPT:
                self._predictions.popitem(last=False)
        return self._predictions[key]


@lru_cache(maxsize=4)
def _opened(folder: str, expected: str) -> _Opened:
    model = load_model(folder, device="cpu")
    if model.hash != expected:
        raise ModelFileError(
            f"{folder} was changed while it was in use; run again to use the new model"
        )
    return _Opened(model)


def _content(systems: Systems) -> bytes:
    digest = hashlib.sha256()
    for name in READ:
        digest.update(getattr(systems, name).contiguous().numpy().tobytes())
    return digest.digest()
