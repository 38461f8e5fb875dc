"""Point groups: their elements, those of structures, what of a tensor they leave as it is, and what
leaves a tensor as it is.
"""
