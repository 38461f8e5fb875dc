"""The version of geocalc, for records and cards."""

__version__ = "0.1.0"
