"""All that is given beside x: conditions, masks of missing entries, row numbers."""
