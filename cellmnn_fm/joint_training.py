"""Of 0.1; the names are those of `cellmnn_fm` now. Goes with 0.3."""

from .training.pretraining import corpus_config as corpus_config
from .training.pretraining import pretrain as pretrain
