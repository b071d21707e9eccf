"""Data sets that the package generates: no file is needed, and their exact density is known."""
