"""All that is given beside x: conditions, and masks of missing entries."""
