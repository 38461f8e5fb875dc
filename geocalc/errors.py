"""Exception types. Every concrete type is also the builtin exception that a caller would expect."""


class GeoCalcError(Exception):
    """Base class of all errors that geocalc raises deliberately."""


class InputError(GeoCalcError, ValueError):
    """Invalid structure, setting or argument, for example a wrong shape, element, cell or file."""


class ModelNotFoundError(GeoCalcError, LookupError):
    """Unknown model name; the message lists similar names."""


class ModelFileError(GeoCalcError, OSError):
    """Damaged model folder: wrong hash, Git LFS pointer in place of a file, or newer schema."""


class RecipeError(GeoCalcError, ValueError):
    """Unknown key or invalid value in a recipe or configuration file."""


class NonFiniteError(GeoCalcError, ArithmeticError):
    """NaN or infinity in the result of a computation."""


class ConvergenceError(GeoCalcError, RuntimeError):
    """Relaxation without convergence; raised only on request."""


class EnergyKindError(GeoCalcError, TypeError):
    """Combination of energies of different kinds or levels of theory."""


class MissingDependencyError(GeoCalcError, ImportError):
    """Missing optional package; the message names the extra to install."""


class RunFolderError(GeoCalcError, OSError):
    """Run folder that cannot be written or that contains something else."""


class DomainWarning(UserWarning):
    """A structure lies outside the domain of the model, so its energy may have any error."""


class DataWarning(UserWarning):
    """A part of the training data cannot be used."""


def format_error(error: BaseException) -> str:
    """Write an exception as one line; those of other packages with the name of their class."""
    text = " ".join(str(error).split())
    return text if isinstance(error, GeoCalcError) else f"{type(error).__name__}: {text}"


def format_unexpected(error: Exception) -> str:
    """Write an exception that points to a fault of the program as one line, with the name of its
    class.
    """
    text = " ".join(str(error).split())
    return f"unexpected {type(error).__name__}: {text}; the log has the traceback"
