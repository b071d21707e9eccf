"""Scores of a code against known factors of variation: mutual information gap, SAP, DCI, and Higgins's score."""
