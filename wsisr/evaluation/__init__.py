"""Judging super-resolved pixels: against a real scan, against their input, and alone.

Import what is needed from the modules of this package; each states its conventions, and
`wsisr.evaluation.metrics` lists every measure with its name, direction and convention.
"""
