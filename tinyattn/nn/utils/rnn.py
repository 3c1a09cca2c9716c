"""Sequences of several lengths in one tensor, as torch.nn.utils.rnn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tinyattn import ops
from tinyattn.ops import creation
from tinyattn.tensors import Tensor

__all__ = [
    "PackedSequence", "invert_permutation", "pack_padded_sequence", "pack_sequence", "pad_packed_sequence",
    "pad_sequence", "unpack_sequence", "unpad_sequence",
]  # fmt: skip


class PackedSequence(NamedTuple):
    """The elements of several sequences without padding: all first ones, then all second ones ...

    data (elements, ...); batch_sizes (steps,), on the CPU: how many sequences have this step; sorted_indices and
    unsorted_indices (batch,): the order of the sequences here, longest first, and back, or None.
    As torch.nn.utils.rnn.PackedSequence.

    >>> packed = nn.utils.rnn.pack_sequence([ta.tensor([1, 2, 3]), ta.tensor([4, 5])])
    >>> packed.data.tolist(), packed.batch_sizes.tolist()
    ([1, 4, 2, 5, 3], [2, 2, 1])
    """

    data: Tensor
    batch_sizes: Tensor
    sorted_indices: Tensor | None = None
    unsorted_indices: Tensor | None = None

    def to(self, *args: Any, **kwargs: Any) -> PackedSequence:
        """Convert the data's dtype or device, and the device of the indices."""
        data = self.data.to(*args, **kwargs)
        indices = (i if i is None else i.to(data.device) for i in self[2:])
        return PackedSequence(data, self.batch_sizes, *indices)

    def cpu(self) -> PackedSequence:
        """Move to the CPU."""
        return self.to("cpu")

    def cuda(self, device: Any = None) -> PackedSequence:
        """Move to a GPU, by default the current one."""
        return self.to("cuda" if device is None else device)

    def float(self) -> PackedSequence:
        """Convert the data to float32."""
        return self.to(np.dtype(np.float32))

    def double(self) -> PackedSequence:
        """Convert the data to float64."""
        return self.to(np.dtype(np.float64))

    @property
    def is_cuda(self) -> bool:
        """Whether the data is on a GPU."""
        return self.data.device != "cpu"


def lengths_of(packed: PackedSequence) -> Any:
    """Return the lengths of the packed sequences, longest first: an array (batch,)."""
    sizes = packed.batch_sizes.numpy()
    return (np.arange(sizes[0]) < sizes[:, None]).sum(0)


def places(packed: PackedSequence) -> Tensor:
    """Return where each packed element lies in a tensor (steps, batch): step * batch + sequence."""
    sizes = packed.batch_sizes.numpy()
    steps, columns = np.nonzero(np.arange(sizes[0]) < sizes[:, None])
    return creation.tensor(steps * sizes[0] + columns, device=packed.data.device)


def spread(packed: PackedSequence, padding_value: float = 0.0, total: int | None = None) -> Tensor:
    """Return the packed elements as (steps, batch, ...), in their packed order, with padding."""
    steps, batch = total or len(packed.batch_sizes), int(packed.batch_sizes[0])
    data, found = packed.data, np.full(steps * batch, len(packed.data))
    found[places(packed).cpu().numpy()] = np.arange(len(data))
    rest = creation.full((1, *data.shape[1:]), padding_value, dtype=data.dtype, device=data.device)
    rows = ops.cat([data, rest])[creation.tensor(found, device=data.device)]
    return rows.reshape(steps, batch, *data.shape[1:])


def invert_permutation(permutation: Tensor | None) -> Tensor | None:
    """Return the permutation that undoes this one, (n,); None of None. As torch.nn.utils.rnn.invert_permutation.

    >>> nn.utils.rnn.invert_permutation(ta.tensor([2, 0, 1])).tolist()
    [1, 2, 0]
    """
    if permutation is None:
        return None
    return creation.tensor(np.argsort(permutation.cpu().numpy()), device=permutation.device)


def pack_padded_sequence(
    input: Tensor, lengths: Tensor | Sequence[int], batch_first: bool = False, enforce_sorted: bool = True
) -> PackedSequence:
    """Pack the first `lengths[i]` elements of each sequence i of input (steps, batch, ...).

    batch_first: input is (batch, steps, ...). enforce_sorted: lengths must decrease; False sorts the sequences.
    Raises RuntimeError for lengths that do not fit or are not sorted. As torch.nn.utils.rnn.pack_padded_sequence.

    >>> packed = nn.utils.rnn.pack_padded_sequence(ta.tensor([[1, 4], [2, 5], [3, 0]]), [3, 2])
    >>> packed.data.tolist()
    [1, 4, 2, 5, 3]
    """
    if isinstance(lengths, Tensor) and lengths.device != "cpu":
        raise RuntimeError(f"pack_padded_sequence: lengths are on {lengths.device}; expected them on the CPU")
    sizes = np.asarray(lengths.numpy() if isinstance(lengths, Tensor) else [int(n) for n in lengths])
    steps, batch = (input.shape[1], input.shape[0]) if batch_first else input.shape[:2]
    if sizes.shape != (batch,) or not batch or (sizes <= 0).any() or (sizes > steps).any():
        given = f"input {tuple(input.shape)} with lengths {sizes.tolist()}"
        raise RuntimeError(f"pack_padded_sequence: {given}; expected {batch} lengths from 1 to {steps}")
    order = None
    if not enforce_sorted:
        order = np.argsort(-sizes, kind="stable")
        sizes = sizes[order]
    elif (sizes[1:] > sizes[:-1]).any():
        raise RuntimeError(
            f"pack_padded_sequence: lengths {sizes.tolist()} must be in decreasing order; "
            "pass enforce_sorted=False to sort the sequences"
        )
    input = input.transpose(0, 1) if batch_first else input
    alive = np.arange(sizes[0])[:, None] < sizes  # (steps, batch)
    rows, columns = np.nonzero(alive)
    columns = columns if order is None else order[columns]
    data = input[tuple(creation.tensor(i, device=input.device) for i in (rows, columns))]
    indices = () if order is None else (order, np.argsort(order))
    found = (creation.tensor(i, device=input.device) for i in indices)
    return PackedSequence(data, creation.tensor(alive.sum(1), device="cpu"), *found)


def pad_packed_sequence(
    sequence: PackedSequence, batch_first: bool = False, padding_value: float = 0.0, total_length: int | None = None
) -> tuple[Tensor, Tensor]:
    """Undo pack_padded_sequence: return the padded sequences and their lengths, (batch,), on the CPU.

    total_length: the steps to pad to, by default the longest. Raises ValueError if it is shorter than that.
    As torch.nn.utils.rnn.pad_packed_sequence.

    >>> rnn = nn.utils.rnn
    >>> packed = rnn.pack_sequence([ta.tensor([1, 2]), ta.tensor([3])])
    >>> [x.tolist() for x in rnn.pad_packed_sequence(packed, batch_first=True)]
    [[[1, 2], [3, 0]], [2, 1]]
    """
    longest = len(sequence.batch_sizes)
    if total_length is not None and total_length < longest:
        raise ValueError(f"pad_packed_sequence: total_length={total_length}; the longest sequence has {longest}")
    padded, lengths = spread(sequence, padding_value, total_length), creation.tensor(lengths_of(sequence), device="cpu")
    if sequence.unsorted_indices is not None:
        padded, lengths = padded[:, sequence.unsorted_indices], lengths[sequence.unsorted_indices.cpu()]
    return padded.transpose(0, 1) if batch_first else padded, lengths


def pad_sequence(
    sequences: Tensor | Sequence[Tensor],
    batch_first: bool = False,
    padding_value: float = 0.0,
    padding_side: str = "right",
) -> Tensor:
    """Stack sequences (length, ...) of several lengths to (longest, batch, ...), padded at the end.

    batch_first: return (batch, longest, ...). padding_side: "right" or "left". Raises ValueError for another side.
    As torch.nn.utils.rnn.pad_sequence.

    >>> nn.utils.rnn.pad_sequence([ta.tensor([1, 2]), ta.tensor([3])], batch_first=True).tolist()
    [[1, 2], [3, 0]]
    """
    if padding_side not in ("left", "right"):
        raise ValueError(f"pad_sequence: padding_side={padding_side!r}; expected 'left' or 'right'")
    parts = list(sequences)
    if not parts:
        raise RuntimeError("pad_sequence: received an empty list of sequences; expected at least one")
    longest = max(len(part) for part in parts)
    ends = [((longest - len(x), 0) if padding_side == "left" else (0, longest - len(x))) for x in parts]
    padded = [ops.pad(x, (0, 0) * (x.ndim - 1) + end, value=padding_value) for x, end in zip(parts, ends, strict=True)]
    return ops.stack(padded, 0 if batch_first else 1)


def unpad_sequence(padded_sequences: Tensor, lengths: Tensor, batch_first: bool = False) -> list[Tensor]:
    """Undo pad_sequence: return the first `lengths[i]` elements of each. As torch.nn.utils.rnn.unpad_sequence.

    >>> [x.tolist() for x in nn.utils.rnn.unpad_sequence(ta.tensor([[1, 3], [2, 0]]), ta.tensor([2, 1]))]
    [[1, 2], [3]]
    """
    padded = padded_sequences if batch_first else padded_sequences.transpose(0, 1)
    return [padded[i, : int(n)] for i, n in enumerate(lengths)]


def pack_sequence(sequences: Sequence[Tensor], enforce_sorted: bool = True) -> PackedSequence:
    """Pack sequences (length, ...) of several lengths, as pack_padded_sequence. As torch.nn.utils.rnn.pack_sequence.

    >>> nn.utils.rnn.pack_sequence([ta.tensor([1, 2]), ta.tensor([3])]).data.tolist()
    [1, 3, 2]
    """
    return pack_padded_sequence(pad_sequence(sequences), [len(x) for x in sequences], enforce_sorted=enforce_sorted)


def unpack_sequence(packed_sequences: PackedSequence) -> list[Tensor]:
    """Undo pack_sequence: return the list of sequences. As torch.nn.utils.rnn.unpack_sequence.

    >>> rnn = nn.utils.rnn
    >>> [x.tolist() for x in rnn.unpack_sequence(rnn.pack_sequence([ta.tensor([1, 2]), ta.tensor([3])]))]
    [[1, 2], [3]]
    """
    return unpad_sequence(*pad_packed_sequence(packed_sequences, True), batch_first=True)
