"""Checkpoints: everything that a run needs to continue as if it had never stopped.

A checkpoint is one safetensors file. It is written to a temporary file, flushed to the disk and renamed, so it exists
whole or not at all. A checksum of its content detects later damage; then the checkpoint before it is restored.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tinyattn import cuda
from tinyattn.extras import require
from tinyattn.files.serialization import load, load_metadata, save
from tinyattn.files.whole import FileFormatError, unlinked
from tinyattn.nn import Module
from tinyattn.random import Generator, generator_for, process_wide_generators
from tinyattn.tensors import Tensor
from tinyattn.train.run import RefusedError

FORMAT = 1  # incremented when an older version could not read a new checkpoint
_NAME = re.compile(r"step-(\d+)\.safetensors")


class NonFiniteError(ArithmeticError):
    """Training met a NaN or an infinity; the message says where, and what to do. Exit code 1.

    Attributes:
        step: the batch, counted over all epochs from 1. indices: of the items in it.
    """

    def __init__(self, message: str, step: int, indices: list[int]) -> None:
        super().__init__(message)
        self.step, self.indices = step, indices


class RandomStates:
    """The states of the process-wide random generators, of the CPU and of each GPU in use: a part of a checkpoint."""

    def state_dict(self) -> dict[str, Any]:
        """A state for each device, by its name."""
        return {str(generator.device): generator.get_state() for generator in process_wide_generators()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a `state_dict`; the state of a GPU is ignored on a machine without one."""
        for device, saved in state.items():
            if device == "cpu" or cuda.is_available():
                generator_for(device).set_state(saved)


class Checkpoints:
    """The folder of a run's checkpoints, step-00000400.safetensors and so on.

    folder: created when the first one is saved. parts: the content of a checkpoint, by name: anything with
        `state_dict` and `load_state_dict`, and Generators; None is left out.
    keep: number of checkpoints that stay; older ones are deleted once a newer one is on the disk.
    say: called with a sentence for the user.
    Raises ValueError for `keep` below 1.

    Only one process at a time may use a folder; `Run` locks it.
    """

    def __init__(
        self,
        folder: Path,
        parts: Mapping[str, Any],
        *,
        keep: int = 3,
        say: Callable[[str], object] = lambda sentence: None,
    ) -> None:
        if keep < 1:
            raise ValueError(f"Checkpoints: keep={keep}; expected at least 1 checkpoint")
        require("safetensors", "a checkpoint")  # now, rather than after an epoch
        self.folder, self.keep, self.say = folder, keep, say
        self.parts = {name: part for name, part in parts.items() if part is not None}
        with contextlib.suppress(OSError):
            for left in folder.glob(".step-*.tmp"):  # by a process that was killed while it wrote
                left.unlink()

    def paths(self) -> list[Path]:
        """The checkpoints in the folder, oldest first."""
        if not self.folder.is_dir():
            return []
        found = [(int(match[1]), path) for path in self.folder.iterdir() if (match := _NAME.fullmatch(path.name))]
        return [path for _, path in sorted(found)]

    def save(self, step: int) -> Path:
        """Write the checkpoint of a step, and only then delete those that are too old.

        Raises NonFiniteError if a weight is NaN or infinite, and OSError if the file cannot be written; the other
        checkpoints then stay as they are.
        """
        state = {
            name: part.get_state() if isinstance(part, Generator) else part.state_dict()
            for name, part in self.parts.items()
        }
        self._check_finite(step)
        path = self.folder / f"step-{step:08d}.safetensors"
        try:
            self.folder.mkdir(exist_ok=True)
            save(unlinked(path), state, {"format": str(FORMAT), "step": str(step), "sha256": digest(state)})
        except OSError as error:
            raise OSError(
                f"the checkpoint of step {step} could not be written to {self.folder} ({error.strerror}); "
                f"{self.last_good()}."
            ) from error
        self._delete_old(path)
        return path

    def _delete_old(self, newest: Path) -> None:
        paths = sorted(self.paths(), key=lambda path: path == newest)  # last, even if its step is a lower one
        for old in paths[: -self.keep]:
            with contextlib.suppress(OSError):
                old.unlink()

    def restore(self) -> Path | None:
        """Restore all parts from the newest whole checkpoint, and return its path; None if there is no checkpoint.

        Newer, damaged ones are renamed to *.damaged. Raises RefusedError if none is whole, or if it belongs to another
        version or another model.
        """
        damaged: list[tuple[Path, str]] = []
        for path in reversed(self.paths()):
            try:
                state = read(path)
            except FileFormatError as error:
                damaged.append((path, str(error).rstrip(".")))
                continue
            for bad, why in damaged:
                self.say(f"{why}; {path.name} is taken instead.")
                bad.replace(bad.with_suffix(".damaged"))
            self._load(path, state)
            self._delete_old(path)  # a process killed before it could delete leaves one too many
            return path
        if damaged:
            raise RefusedError(
                f"no checkpoint in {self.folder} is whole ({'; '.join(why for _, why in damaged)}); "
                "move that folder away to begin again from the run's config.json."
            )
        return None

    def _load(self, path: Path, state: Mapping[str, Any]) -> None:
        if {*state} != {*self.parts}:
            raise RefusedError(f"{path} is a checkpoint of {sorted(state)}, but {sorted(self.parts)} are needed.")
        for name, part in self.parts.items():
            try:
                (part.set_state if isinstance(part, Generator) else part.load_state_dict)(state[name])
            except MemoryError:
                raise  # which says nothing about the file
            except Exception as error:  # whatever a part raises for the state of another part, or a forged one
                why = " ".join(str(error).split()).rstrip(".")
                raise RefusedError(f"{path} cannot be resumed from, its {name} does not fit: {why}.") from error

    def _check_finite(self, step: int) -> None:
        for part in self.parts.values():
            for name, tensor in part.state_dict().items() if isinstance(part, Module) else ():
                if tensor.dtype.kind == "f" and not tensor.isfinite().all().item():
                    raise NonFiniteError(
                        f"{name} holds a NaN or an infinity at step {step}, so no checkpoint was written; "
                        f"{self.last_good()}. A smaller learning rate is the usual cure.",
                        step,
                        [],
                    )

    def last_good(self) -> str:
        """The checkpoint that a run can continue from, in words."""
        kept = self.paths()
        return f"the last good checkpoint is {kept[-1]}" if kept else "there is no checkpoint before it"


def read(path: Path) -> dict[str, Any]:
    """Read the state in a checkpoint and verify its checksum.

    Raises FileFormatError for a damaged file, RefusedError for one of a later version.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # weights that are not finite are never saved, so these are damage
        words, state = load_metadata(path), load(path)
    version = words.get("format", "")
    if version.isdecimal() and len(version) < 10 and int(version) > FORMAT:
        raise RefusedError(
            f"{path} is a checkpoint of format {version}, and this version reads up to {FORMAT}; use a newer tinyattn."
        )
    if words.get("sha256") != digest(state):
        raise FileFormatError(f"{path} is damaged: its content does not match its checksum.")
    return state


def digest(state: Any) -> str:
    """SHA-256 of a nested state: names, numbers, strings, and the bytes of every tensor, in order.

    A state and what `load` returns for it have the same digest, although `load` returns Python's own numbers.
    """
    sha = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, Mapping):
            sha.update(b"{")
            for key, inside in value.items():
                add(key)
                add(inside)
            sha.update(b"}")
        elif isinstance(value, Sequence) and not isinstance(value, str):
            sha.update(b"[")
            for inside in value:
                add(inside)
            sha.update(b"]")
        elif isinstance(value, Tensor | np.ndarray):
            array = value.cpu().numpy() if isinstance(value, Tensor) else value
            array = np.ascontiguousarray(array, array.dtype.newbyteorder("=")).reshape(array.shape)
            sha.update(f"{array.dtype.str}{array.shape}".encode())
            sha.update(array.data)
        else:
            plain = next((kind(value) for kind in (int, float, str) if isinstance(value, kind)), value)
            sha.update(f"{plain!r};".encode())

    add(state)
    return sha.hexdigest()
