"""Ours beside the methods of others, and what things cost: each a module for `python -m`."""
