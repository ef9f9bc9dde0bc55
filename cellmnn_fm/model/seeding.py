"""Random numbers of torch's global generator, as if nobody else drew any."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_ONE_AT_A_TIME = threading.RLock()  # the generator is that of all threads


@contextmanager
def seeded(seed: int = 0) -> Iterator[None]:
    """A block in which they follow from `seed`, and after which they go on as before it."""
    with _ONE_AT_A_TIME, torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
