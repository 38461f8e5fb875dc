"""Exception types. Every leaf is also the builtin that a caller would guess."""


class GeoCalcError(Exception):
    """Root of every error that geocalc raises on purpose."""


class InputError(GeoCalcError, ValueError):
    """A structure, setting or argument cannot be used: shapes, elements, cells, files."""


class ModelNotFoundError(GeoCalcError, LookupError):
    """No model of that name; the message suggests near names."""


class ModelFileError(GeoCalcError, OSError):
    """A model folder is damaged: wrong hash, LFS pointer, newer schema version."""


class RecipeError(GeoCalcError, ValueError):
    """A recipe or configuration key is unknown or has a value that is not allowed."""


class NonFiniteError(GeoCalcError, ArithmeticError):
    """A computation gave NaN or infinity."""


class ConvergenceError(GeoCalcError, RuntimeError):
    """A relaxation did not converge; raised only when asked for."""


class EnergyKindError(GeoCalcError, TypeError):
    """Energies of different kinds or levels of theory were combined."""


class MissingDependencyError(GeoCalcError, ImportError):
    """An optional package is missing; the message names the extra to install."""


class RunFolderError(GeoCalcError, OSError):
    """A run folder cannot be written, or holds something else."""


class DataWarning(UserWarning):
    """Training data of which not all that is hoped for can be learned, or told."""


# what models and calculators raise
FAILURES = (GeoCalcError, ArithmeticError, RuntimeError, ValueError, LookupError)


def format_error(error: BaseException) -> str:
    """An exception as one line; what is not ours is named by its type."""
    text = " ".join(str(error).split())
    return text if isinstance(error, GeoCalcError) else f"{type(error).__name__}: {text}"
