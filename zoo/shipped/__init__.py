"""Pairs that ship with the package: folders of `zoo/weights`, listed, checked byte by byte, and scored again."""
