"""Of 0.1; the names are those of `cellmnn_fm` now. Goes with 0.3."""

from .fitted.foundation import save_foundation as save_foundation
