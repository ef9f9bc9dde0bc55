"""Initialisation, saving and loading, as transformers has it and stricter."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import reduce
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.utils import logging

from .checkpoint import (
    find,
    inside,
    locked,
    require_tensors,
    tensor_shapes,
    verify,
    whole_or_nothing,
)
from .configuration_cellmnn import CellMNNConfig
from .errors import InputError
from .layers import GrowthHead, LinearODEHead

_DOWNLOAD_OPTIONS = {"revision", "token", "cache_dir", "local_files_only", "force_download"}


class CellMNNPreTrainedModel(PreTrainedModel):
    """Initialisation and strict loading, shared by all Cell-MNN models."""

    config_class = CellMNNConfig
    base_model_prefix = "cellmnn"
    main_input_name = "z"

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """The heads begin near 0; a network that reads snapshots begins as it says itself."""
        if isinstance(module, LinearODEHead | GrowthHead):
            fan_in = module.in_features
            init.normal_(module.weight, std=self.config.init_scale * math.sqrt(2 / fan_in))
            init.zeros_(module.bias)
            if isinstance(module, LinearODEHead) and self.config.frame:
                # no rate and no offset: an untrained network is the frame itself
                start = module.sizes["eigvecs"]
                stop = start + module.sizes["eigvals"] + module.sizes["offset"]
                init.zeros_(module.weight[start:stop])
        elif isinstance(module, nn.Linear) and not self.config.context_cells:
            init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="leaky_relu")
            init.zeros_(module.bias)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        """Load a model as transformers does, but check it first.

        Beside folders and names of the Hub: models that come with this package, by name. Files are
        compared with the manifest that lies beside them; of weights there must be those that the
        configuration describes, as safetensors, before anything is allocated for them.

        Raises
        ------
        InputError
            On files that are not those that were saved, by name; on tensors that are missing,
            unexpected or of another shape: it lists them; and on weights that are not finite.
        """
        if pretrained_model_name_or_path is None:  # from a state_dict and a configuration
            return super().from_pretrained(None, *args, **kwargs)
        download = {name: kwargs.pop(name) for name in _DOWNLOAD_OPTIONS & set(kwargs)}
        subfolder = kwargs.pop("subfolder", "")

        def place() -> Path:
            whole = find(pretrained_model_name_or_path, **download)[0]
            return reduce(inside, PurePosixPath(subfolder).parts, whole)

        folder = place()
        if (folder / "adapter_config.json").exists():
            fix = "merge it into its base first"
            raise InputError(str(folder), "a whole model", "an adapter", fix)
        with locked(folder.parent, shared=True):  # so that all files are of one save
            if not folder.is_dir():  # which was between its two renames
                folder = place()
            verify(folder)
            config = kwargs.pop("config", None)
            if not isinstance(config, PreTrainedConfig):
                config = cls.config_class.from_pretrained(config or folder)
            _require_layout(cls, config, folder)
            kwargs |= {"config": config, "use_safetensors": True}
            try:
                with _without_bars():
                    loaded = super().from_pretrained(folder, *args, **kwargs)
            except (AttributeError, IndexError, TypeError) as error:  # strange types of data
                fix = "load the configuration that was saved with them"
                raise InputError(f"weights of {folder}", "a model", error, fix) from error
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        if model.dtype not in (torch.float32, torch.float64):
            raise InputError(str(folder), "weights of 32 or 64 bits", model.dtype, "save it in 32")
        _require_finite(model, folder)
        return loaded

    def half(self):
        """Refused: the flow is solved in 32 bits or more, autocast is for the network alone."""
        raise InputError("model", "32 or 64 bits", "16", "use torch.autocast for the network")

    def bfloat16(self):
        """Refused, as :meth:`half`."""
        return self.half()

    def save_pretrained(  # type: ignore[override]
        self,
        save_directory,
        is_main_process: bool = True,
        push_to_hub: bool = False,
        with_code: bool = False,
        repo_id: str | None = None,
        **kwargs,
    ) -> None:
        """Save the model as transformers does, but whole or not at all, and with a manifest.

        Parameters
        ----------
        save_directory : path
            Folder, made if need be.
        is_main_process, push_to_hub, repo_id, **kwargs
            As in transformers.
        with_code : bool
            Whether the modules of the model come along, so that `AutoModel` loads it with
            ``trust_remote_code=True`` where this package is not installed.
        """
        if not is_main_process:
            return
        code = self._with_code() if with_code else nullcontext()
        with whole_or_nothing(save_directory) as folder, code, _without_bars():
            super().save_pretrained(folder, **kwargs)
        if push_to_hub:
            self.push_to_hub(repo_id or Path(save_directory).name, token=kwargs.get("token"))

    def push_to_hub(self, *args, **kwargs) -> str:  # type: ignore[override]
        """Upload the model as transformers does, its modules included; a new one is private."""
        kwargs.setdefault("private", True)
        with self._with_code():
            return super().push_to_hub(*args, **kwargs)

    @contextmanager
    def _with_code(self) -> Iterator[None]:
        """Have transformers copy the modules and name them in the configuration."""
        classes: dict[str, Any] = {"AutoModel": type(self), "AutoConfig": type(self.config)}
        for auto_class, cls in classes.items():
            cls.register_for_auto_class(auto_class)
        try:
            yield
        finally:
            for cls in classes.values():
                cls._auto_class = None  # the next one is saved without
            self.config.__dict__.pop("auto_map", None)


@contextmanager
def _without_bars() -> Iterator[None]:
    """No progress bars of transformers, for files of a few megabytes."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _require_layout(cls: Any, config: CellMNNConfig, folder: Path) -> None:
    """Refuse weights that are not those of the configuration, before a model is laid out."""
    shapes = tensor_shapes(folder)
    fix = "load the configuration that was saved with them"
    # so many of either would take ages, or all memory, to lay out
    datasets = shapes.get("dataset_dims", (0,))[0]
    for name, wanted, most in (
        ("layers", config.num_hidden_layers, len(shapes)),
        ("data sets", config.num_datasets, datasets),
    ):
        if wanted > most:
            actual = f"{len(shapes)} tensors, {datasets} data sets"
            raise InputError(f"weights of {folder}", f"{wanted} {name}", actual, fix)
    try:
        with torch.device("meta"):
            layout = cls(config).state_dict()
    except RuntimeError as error:  # a tensor of more numbers than can be counted
        raise InputError(f"weights of {folder}", "a model of possible sizes", error, fix) from error
    require_tensors(folder, {name: tuple(tensor.shape) for name, tensor in layout.items()})


def _require_finite(model: nn.Module, folder: Path) -> None:
    """Refuse weights that no training can have made."""
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise InputError(
                f"weights of {folder}", "finite numbers", f"NaN or infinite ones in {name}", "refit"
            )
