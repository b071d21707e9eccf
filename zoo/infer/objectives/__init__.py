"""Objectives: functionals of the per-datum log weights."""
