"""From files to a corpus, and from a corpus to cellmnn-base: each a module for `python -m`."""
