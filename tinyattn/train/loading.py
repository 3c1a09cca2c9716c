"""A run read back from its folder: the model with its weights, the settings, the data."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tinyattn import data, models
from tinyattn.files.serialization import load
from tinyattn.nn.module import Module
from tinyattn.train.checkpoints import read
from tinyattn.train.run import FORMAT, RefusedError

MODELS = {"classifier": models.AttentionClassifier, "article": models.AttentionModel}


@dataclass
class LoadedRun:
    """A run, as `load_run` returns it. model: in evaluation mode, on the CPU; config: the content of config.json."""

    folder: Path
    config: dict[str, Any]
    model: Module

    @cached_property
    def data(self) -> data.ImageDataset:
        """The images and labels that the run trained and tested on; MNIST is looked for where the run found it."""
        given = self.config["arguments"]
        found = data.load(given["data"], given.get("data_dir"))
        return found.validation_split(given["validation"]) if given.get("validation") else found


def load_run(folder: str | os.PathLike[str]) -> LoadedRun:
    """Read a folder that examples/mnist.py wrote: the final weights, or those of the newest checkpoint.

    Nothing is locked or written, so a run may go on meanwhile. Raises RefusedError for a folder without a run, or with
    a run of another format or model; FileFormatError for damaged weights.

    >>> train.load_run("runs/classifier-mnist-seed0").model(images)  # doctest: +SKIP
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise RefusedError(f"{folder} is not a folder; expected that of a run, such as runs/classifier-mnist-seed0.")
    try:
        config = json.loads((folder / "config.json").read_bytes())
        version, name, options = config["format"], config["arguments"]["model"], {**config["recipe"]["model"]}
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise RefusedError(f"{folder} holds no run of mnist.py ({type(error).__name__}: {error}).") from None
    if version != FORMAT or name not in MODELS:
        raise RefusedError(
            f"{folder} has a run of format {version!r} and model {name!r}; expected format {FORMAT} and one of "
            f"{', '.join(MODELS)}."
        )
    model = MODELS[name](**options, **({"num_classes": 10} if name == "article" else {}))
    model.load_state_dict(_weights(folder))
    return LoadedRun(folder, config, model.eval())


def _weights(folder: Path) -> dict[str, Any]:
    final, kept = folder / "model.safetensors", sorted((folder / "checkpoints").glob("*.safetensors"))
    if final.is_file():
        return load(final)
    if kept:
        weights: dict[str, Any] = read(kept[-1])["model"]
        return weights
    raise RefusedError(f"{folder} has no weights yet: neither model.safetensors nor a checkpoint.")
