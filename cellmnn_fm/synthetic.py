"""Of 0.1; the names are those of `cellmnn_fm` now. Goes with 0.3."""

from .data.synthetic import branching_course as branching_course
