"""Configuration of a Cell-MNN model."""

# no postponed annotations here: @strict checks types by them, and skips those that are strings
from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN

from .checkpoint import bundled
from .errors import InputError, listed

FORMAT_VERSION = 2

# what transformers itself passes beside the declared fields
_TRANSFORMERS_KEYS = {
    "_attn_implementation",
    "_commit_hash",
    "_name_or_path",
    "attn_implementation",
    "auto_map",
    "experts_implementation",
    "model_type",
    "name_or_path",
    "num_labels",
    "torch_dtype",
}


# of format 1, in which bases pooled their snapshots; fits of one data set had them at 0
_FORMER_FIELDS = {"mean_head", "dataset_embed_dim", "encoder_hidden_size"}

# what a configuration of somebody else may ask for, before anything is allocated
_MOST = {
    **dict.fromkeys(("latent_dim", "hidden_size", "vector_channels"), 2**16),
    **dict.fromkeys(("context_cells", "num_frame_times", "num_summary_tokens"), 2**16),
    "num_attention_heads": 2**16,
    **dict.fromkeys(("num_hidden_layers", "num_complex_pairs", "num_static_eigvals"), 2**16),
    **dict.fromkeys(("num_datasets", "num_genes", "num_context_cells"), 2**24),
}
_MOST_RATE = 1e6  # in a unit of model time everything is over long before
_MOST_LABELS = 2**10
_LONGEST = 200  # characters of a value in a message
# other names make transformers fetch kernels, and run them
_IMPLEMENTATIONS = {None, "eager", "sdpa"}


@strict
class CellMNNConfig(PreTrainedConfig):
    r"""What a [`CellMNNModel`] is made of. Unknown fields and wrong types are errors.

    Parameters
    ----------
    latent_dim : int
        Dimensions d of the latent space.
    hidden_size, num_hidden_layers : int
        Width and depth of the hypernetwork.
    hidden_act : str
        A name of `transformers.activations.ACT2FN`.
    init_scale : float
        Factor on the initial weights of the last layer.
    rank : int, optional
        r of the eigenvectors P = I + U Vᵀ; None for a dense P = I + W.
    num_complex_pairs : int
        Pairs of eigenvalues α ± iω, for cycles.
    num_static_eigvals : int
        Eigenvalues pinned to 0.
    max_rate : float
        Bound on the eigenvalues, per unit of model time (about one interval between snapshots).
    offset : bool
        Whether the ODE has an offset b.
    frame : bool
        Whether the ODE acts in the Gaussian frame of the data set; see [`FrameState`].
    num_frame_times : int
        Observed times in the stored frame of a data set, at most. Without `frame` the stored one
        only says how far a model is followed; 0 for none.
    growth : bool
        Whether cells divide and die at a learned rate.
    max_growth_rate : float
        Bound on that rate, per unit of model time.
    num_datasets : int
        Rows in the table of data sets.
    context_cells : int
        Cells of each observed snapshot that a network reads which knows many data sets, at most;
        see [`InContextHypernetwork`]. 0 for a network that knows one.
    vector_channels, num_attention_heads, num_summary_tokens : int
        Vectors of a token, heads of the attention, and tokens of a data set's embedding, in a
        network that reads cells; `hidden_size` are the numbers of a token, and
        `num_hidden_layers` the rounds in which operating points read from cells.
    reads_control : bool
        Whether a network that reads cells also reads those of a control, beside which it says how
        another condition goes on. In the table, the row after that of a data set is its control.
    num_context_cells : int
        Cells that the model keeps of all data sets.
    dataset_dims : list of int, optional
        For each data set, how many of the latent dimensions are real and not padding; all if None.
    format_version : int
        Of the saved configuration; a newer one than this package knows is refused.
    num_genes : int
        Genes (or coordinates of an embedding) behind the latent space, whose loadings the
        checkpoint carries; 0 without.

    Raises
    ------
    InputError
        On a field that does not exist, and on values that are impossible or contradict each other.

    Examples
    --------
    >>> from cellmnn_fm import CellMNNConfig
    >>> CellMNNConfig(latent_dim=5, rank=3).rank
    3
    >>> CellMNNConfig(latentdim=5)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    cellmnn_fm.model.errors.InputError: config: expected fields of CellMNNConfig, found ...
    """

    model_type = "cellmnn"

    latent_dim: int = 10
    hidden_size: int = 128
    num_hidden_layers: int = 4
    hidden_act: str = "leaky_relu"
    init_scale: float | int = 0.01
    rank: int | None = 4
    num_complex_pairs: int = 0
    num_static_eigvals: int = 0
    max_rate: float | int = 5.0
    offset: bool = True
    frame: bool = False
    num_frame_times: int = 0
    growth: bool = False
    max_growth_rate: float | int = 2.0
    num_datasets: int = 1
    context_cells: int = 0
    vector_channels: int = 16
    num_attention_heads: int = 4
    num_summary_tokens: int = 16
    reads_control: bool = False
    num_context_cells: int = 0
    dataset_dims: list[int] | None = None
    num_genes: int = 0
    format_version: int = FORMAT_VERSION

    def __post_init__(self, **kwargs):
        if self.format_version > FORMAT_VERSION:  # before fields that only a newer one has
            raise InputError(
                "config",
                f"format_version at most {FORMAT_VERSION}",
                self.format_version,
                "upgrade cellmnn_fm",
            )
        former = {name: kwargs.pop(name) for name in _FORMER_FIELDS & set(kwargs)}
        if used := sorted(name for name, value in former.items() if value):
            raise InputError(
                "config",
                f"a model of format {FORMAT_VERSION}",
                f"one of the older format {self.format_version} ({listed(used)})",
                "take an earlier cellmnn_fm for it, or pretrain again",
            )
        self.format_version = FORMAT_VERSION
        if unknown := sorted(set(kwargs) - _TRANSFORMERS_KEYS):
            raise InputError(
                "config", f"fields of {type(self).__name__}", listed(unknown), "rename or drop it"
            )
        for name in ("init_scale", "max_rate", "max_growth_rate"):
            value = getattr(self, name)
            _require(abs(value) <= _MOST_RATE, name, f"at most {_MOST_RATE:g}", value)  # nor NaN
            setattr(self, name, float(value))  # whole numbers from YAML or JSON
        for name, most in _MOST.items():
            value = getattr(self, name)
            _require(0 <= value <= most, name, f"0 to {most}", value)
        labels = kwargs.get("num_labels")
        few = labels is None or (isinstance(labels, int) and 0 <= labels <= _MOST_LABELS)
        _require(few, "num_labels", f"at most {_MOST_LABELS}", labels)
        for name in ("_attn_implementation", "attn_implementation", "experts_implementation"):
            value = kwargs.get(name)
            plain = value is None or (isinstance(value, str) and value in _IMPLEMENTATIONS)
            _require(plain, name, "eager or sdpa", value)
        super().__post_init__(**kwargs)
        self._require_consistent()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        """Load a folder, a model of this package by name, or one of the Hub."""
        place = bundled(pretrained_model_name_or_path)
        try:
            return super().from_pretrained(place, *args, **kwargs)
        except (StrictDataclassError, TypeError, AttributeError) as error:
            raise InputError(
                f"config of {place}", "fields of the right types", error, "save the model again"
            ) from error

    def replaced(self, **changes) -> "CellMNNConfig":
        """A copy with other values of some fields."""
        fields = {name: getattr(self, name) for name in CellMNNConfig.__annotations__}
        fields.pop("model_type", None)
        return CellMNNConfig(**{**fields, **changes})

    def _require_consistent(self) -> None:
        """Refuse parts that do not go together."""
        positive = (
            "latent_dim",
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "max_rate",
        )
        for name in positive:
            _require(getattr(self, name) > 0, name, "a positive number", getattr(self, name))
        _require(
            self.rank is None or 1 <= self.rank <= self.latent_dim,
            "rank",
            f"None (dense) or 1 to latent_dim={self.latent_dim}",
            self.rank,
        )
        _require(
            self.hidden_act in ACT2FN,
            "hidden_act",
            "an activation of transformers, such as silu or leaky_relu",
            self.hidden_act,
        )
        free = self.latent_dim - 2 * self.num_complex_pairs - self.num_static_eigvals
        _require(
            free >= 0 and min(self.num_complex_pairs, self.num_static_eigvals) >= 0,
            "eigenvalues",
            f"2 num_complex_pairs + num_static_eigvals of at most latent_dim={self.latent_dim}",
            self.latent_dim - free,
        )
        _require(
            self.num_frame_times >= 2 or (self.num_frame_times == 0 and not self.frame),
            "num_frame_times",
            "at least 2, or 0 without frame",
            self.num_frame_times,
        )
        _require(
            bool(self.context_cells) or not self.reads_control,
            "reads_control",
            "False without context_cells",
            self.reads_control,
        )
        if self.context_cells:
            _require(self.frame, "context_cells", "0 without frame", self.context_cells)
            _require(self.rank is not None, "rank", "a number with context_cells", self.rank)
            for name in ("hidden_size", "vector_channels"):
                _require(
                    getattr(self, name) % self.num_attention_heads == 0,
                    name,
                    f"a multiple of num_attention_heads={self.num_attention_heads}",
                    getattr(self, name),
                )
        else:
            _require(self.num_datasets > 0, "num_datasets", "a positive number", self.num_datasets)
        if self.dataset_dims is not None:
            _require(
                len(self.dataset_dims) == self.num_datasets
                and all(1 <= dim <= self.latent_dim for dim in self.dataset_dims),
                "dataset_dims",
                f"{self.num_datasets} numbers from 1 to latent_dim={self.latent_dim}",
                self.dataset_dims,
            )


def _require(condition: bool, what: str, expected: str, found: object) -> None:
    """An error unless a condition holds."""
    if not condition:
        raise InputError(what, expected, _shown(found), "change it in the configuration")


def _shown(found: object) -> str:
    """Short, however long a list or a number it is."""
    endless = isinstance(found, int) and abs(found) > 1e300
    text = "a number of many digits" if endless else f"{found}"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
