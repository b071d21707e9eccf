"""Data sets that the package generates, no file needed: their exact density is known, or the true states."""
