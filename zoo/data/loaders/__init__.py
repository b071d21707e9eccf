"""Loaders: one file for each kind of data, from the checked parts of a file to a `Dataset`."""
