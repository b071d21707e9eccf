"""Guides of hierarchies of latents."""
