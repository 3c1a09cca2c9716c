"""Recurrent layers and their single steps, as torch.nn's RNN, LSTM, GRU and their cells."""

from __future__ import annotations

import math
import warnings
from typing import Any

from tinyattn import ops
from tinyattn.nn import functional as F
from tinyattn.nn import init
from tinyattn.nn.module import Module, Parameter
from tinyattn.nn.utils.rnn import PackedSequence, lengths_of, places, spread
from tinyattn.ops import creation
from tinyattn.ops.recurrences import projected_lstm
from tinyattn.tensors import Tensor

GATES = {"tanh": 1, "relu": 1, "gru": 3, "lstm": 4}


def _nonlinearity(name: str, given: str) -> str:
    if given not in ("tanh", "relu"):
        raise ValueError(f"{name}: nonlinearity={given!r}; expected 'tanh' or 'relu'")
    return given


class _Recurrence(Module):
    """What layers and cells share: parameters of one step under a suffix, their initial values, and the product."""

    kind: str  # "tanh", "relu", "gru" or "lstm"
    bias: bool
    hidden_size: int
    proj_size = 0  # of an LSTM whose h is a product of weight_hr; 0: it is not

    @property
    def _out(self) -> int:
        """The size of h."""
        return self.proj_size or self.hidden_size

    def _add_step(self, suffix: str, size: int, device: Any, dtype: Any) -> None:
        rows, out = GATES[self.kind] * self.hidden_size, self._out
        shapes: dict[str, Any] = {"weight_ih": (rows, size), "weight_hh": (rows, out), "bias_ih": rows, "bias_hh": rows}
        if self.proj_size:
            shapes["weight_hr"] = (out, self.hidden_size)
        for name, shape in shapes.items():
            wanted = self.bias or name.startswith("weight")
            if wanted or not suffix:  # only cells have the names of absent ones, as in PyTorch
                self._add_parameters(device, dtype, **{name + suffix: shape if wanted else None})

    def reset_parameters(self) -> None:
        """Draw new initial values, uniformly in ± 1 / sqrt(hidden_size)."""
        bound = 1 / math.sqrt(self.hidden_size)
        for parameter in self.parameters():
            init.uniform_(parameter, -bound, bound)

    def _states(self, x: Tensor, h: Any, c: Any, suffix: str = "", alive: Any = None, reverse: bool = False) -> Any:
        """Return h, and c of an LSTM, after each step of x (steps, batch, size): (steps, batch, hidden_size) each."""
        b_ih, b_hh = (getattr(self, name + suffix) if self.bias else None for name in ("bias_ih", "bias_hh"))
        if self.kind != "gru" and b_ih is not None:  # one sum serves both
            b_ih, b_hh = b_ih + b_hh, None
        product = F.linear(x, getattr(self, "weight_ih" + suffix), b_ih)  # all gates of all steps
        weight = getattr(self, "weight_hh" + suffix)
        if self.proj_size:
            return projected_lstm(ops, product, weight, getattr(self, "weight_hr" + suffix), h, c, alive, reverse)
        return ops.recurrent(product, weight, b_hh, h, c, alive, kind=self.kind, reverse=reverse)

    def _check(self, x: Tensor, sizes: tuple[int, ...], given: Any, batch: tuple[int, ...]) -> list[Any]:
        """Return the initial h and c (None, except for an LSTM), zeros by default. Raises for what does not fit."""
        name, weight = type(self).__name__, next(self.parameters())
        if x.ndim not in sizes:
            raise RuntimeError(f"{name}: input has {x.ndim} axes, shape {tuple(x.shape)}; expected {sizes}")
        if x.shape[-1] != weight.shape[1]:
            raise RuntimeError(f"{name}: input has shape {tuple(x.shape)}; expected input_size={weight.shape[1]} last")
        if x.dtype != weight.dtype:
            raise ValueError(
                f"{name}: input has dtype {x.dtype} and the weights {weight.dtype}; convert the input or the module"
            )
        count = 2 if self.kind == "lstm" else 1
        shapes = [(*batch, self._out), (*batch, self.hidden_size)][:count]
        if given is None:
            states = [creation.zeros(shape, dtype=x.dtype, device=x.device) for shape in shapes]
        else:
            states = list(given) if count == 2 else [given]
        for which, state, shape in zip(("h_0", "c_0"), states, shapes, strict=False):
            if tuple(state.shape) != shape or state.dtype != x.dtype:
                raise RuntimeError(
                    f"{name}: {which} has shape {tuple(state.shape)} and dtype {state.dtype}; "
                    f"expected {shape} and {x.dtype}"
                )
        return states if count == 2 else [*states, None]


class _Layers(_Recurrence):
    """Several recurrences over sequences, one on the outputs of the other, in one or both directions."""

    mode: str

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True, batch_first: bool = False,
        dropout: float = 0.0, bidirectional: bool = False, proj_size: int = 0, device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if input_size <= 0 or hidden_size <= 0 or num_layers <= 0:
            sizes = f"input_size={input_size}, hidden_size={hidden_size}, num_layers={num_layers}"
            raise ValueError(f"{self.mode}: {sizes}; expected positive numbers")
        if isinstance(dropout, bool) or not 0 <= dropout <= 1:
            raise ValueError(f"{self.mode}: dropout={dropout}; a probability lies between 0 and 1")
        if proj_size and self.kind != "lstm":
            raise ValueError(f"{self.mode}: proj_size={proj_size}; only an LSTM may have projections")
        if not 0 <= proj_size < hidden_size:
            raise ValueError(f"LSTM: proj_size={proj_size}; expected a number from 0 to hidden_size - 1")
        if dropout and num_layers == 1:
            text = f"{self.mode}: dropout={dropout} acts between layers, and num_layers=1 has none between"
            warnings.warn(text, stacklevel=3 if isinstance(self, RNN) else 2)
        self.input_size, self.hidden_size, self.num_layers, self.bias = input_size, hidden_size, num_layers, bias
        self.batch_first, self.dropout = batch_first, float(dropout)
        self.bidirectional, self.proj_size = bidirectional, proj_size
        for layer, suffix in self._steps():
            size = input_size if layer == 0 else self._out * (2 if bidirectional else 1)
            self._add_step(suffix, size, device, dtype)
        self.reset_parameters()

    def _steps(self) -> list[tuple[int, str]]:
        ends = ("", "_reverse") if self.bidirectional else ("",)
        return [(layer, f"_l{layer}{end}") for layer in range(self.num_layers) for end in ends]

    @property
    def _all_weights(self) -> list[list[str]]:
        names = (*("weight_ih", "weight_hh", "bias_ih", "bias_hh")[: 4 if self.bias else 2],
                 *("weight_hr",)[: 1 if self.proj_size else 0])  # fmt: skip
        return [[name + suffix for name in names] for _, suffix in self._steps()]

    @property
    def _flat_weights_names(self) -> list[str]:
        return [name for names in self._all_weights for name in names]

    @property
    def all_weights(self) -> list[list[Parameter]]:
        """The parameters of each layer and direction."""
        return [[getattr(self, name) for name in names] for names in self._all_weights]

    def flatten_parameters(self) -> None:
        """Do nothing: PyTorch joins the parameters in memory here, for cuDNN."""

    def forward(self, input: Tensor | PackedSequence, hx: Any = None) -> tuple[Any, Any]:
        """Return the outputs of the last layer, shaped or packed as the input, and the last states.

        input: (steps, batch, input_size), with batch_first (batch, steps, input_size), unbatched (steps, input_size),
        or a PackedSequence. hx: the initial states (layers * directions, batch, hidden_size), zeros by default; for
        an LSTM a pair (h_0, c_0). Raises RuntimeError for shapes, ValueError for dtypes that do not fit.
        """
        if isinstance(input, PackedSequence):
            return self._packed(input, hx)
        is_batched, layers = input.ndim == 3, len(self._steps())
        batch = (input.shape[0 if self.batch_first else 1],) if is_batched else ()
        h, c = self._check(input, (2, 3), hx, (layers, *batch))
        if not is_batched:
            h, c = (s if s is None else s.unsqueeze(1) for s in (h, c))
        swap = is_batched and self.batch_first
        x = input.transpose(0, 1) if swap else input if is_batched else input.unsqueeze(1)
        if not x.shape[0]:
            raise RuntimeError(f"{self.mode}: input has shape {tuple(input.shape)}; expected at least one step")
        out, last = self._through(x, h, c, None)
        if not is_batched:
            return out.squeeze(1), self._as_hidden([state.squeeze(1) for state in last])
        return out.transpose(0, 1) if swap else out, self._as_hidden(last)

    def _packed(self, packed: PackedSequence, hx: Any) -> tuple[PackedSequence, Any]:
        there, back = packed.sorted_indices, packed.unsorted_indices
        lengths = creation.tensor(lengths_of(packed), device=packed.data.device)
        h, c = self._check(packed.data, (2,), hx, (len(self._steps()), lengths.shape[0]))
        if there is not None:
            h, c = (s if s is None else s[:, there] for s in (h, c))
        steps = creation.arange(len(packed.batch_sizes), device=packed.data.device)
        alive = (steps[:, None] < lengths)[..., None]  # (steps, batch, 1)
        out, last = self._through(spread(packed), h, c, alive)
        data = out.reshape(-1, out.shape[-1])[places(packed)]
        last = last if back is None else [state[:, back] for state in last]
        return PackedSequence(data, packed.batch_sizes, there, back), self._as_hidden(last)

    def _through(self, x: Tensor, h: Tensor, c: Tensor | None, alive: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        """Return the outputs (steps, batch, directions * size), and the last h, and c, (layers, batch, size)."""
        outs: list[Tensor] = []
        last: list[list[Tensor]] = []
        for k, (layer, suffix) in enumerate(self._steps()):
            reverse = suffix.endswith("_reverse")
            states = self._states(x, h[k], None if c is None else c[k], suffix, alive, reverse)
            outs.append(states[0])
            last.append([state[0 if reverse else -1] for state in states])
            if reverse or not self.bidirectional:
                x, outs = ops.cat(outs, -1) if len(outs) > 1 else outs[0], []
                if self.dropout and layer < self.num_layers - 1:
                    x = F.dropout(x, self.dropout, self.training)
        return x, [ops.stack(each) for each in zip(*last, strict=True)]

    def _as_hidden(self, last: list[Tensor]) -> Any:
        return (last[0], last[1]) if self.kind == "lstm" else last[0]

    def extra_repr(self) -> str:
        usual = {"proj_size": 0, "num_layers": 1, "bias": True, "batch_first": False, "dropout": 0.0,
                 "bidirectional": False}  # fmt: skip
        others = [f"{k}={getattr(self, k)}" for k, v in usual.items() if getattr(self, k) != v]
        return ", ".join([str(self.input_size), str(self.hidden_size), *others])


class RNN(_Layers):
    """Run h = tanh(W x + b + V h + d) over sequences, in num_layers layers. As torch.nn.RNN (Elman 1990).

    nonlinearity: "tanh" or "relu". batch_first: input and output are (batch, steps, size), not (steps, batch, size).
    dropout: between layers. bidirectional: a second recurrence runs backward; the outputs are joined. Raises
    ValueError for another nonlinearity or sizes that are not positive.

    >>> out, h = nn.RNN(4, 8, num_layers=2, batch_first=True)(ta.randn(3, 5, 4))
    >>> out.shape, h.shape
    ((3, 5, 8), (2, 3, 8))
    """

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, nonlinearity: str = "tanh", bias: bool = True,
        batch_first: bool = False, dropout: float = 0.0, bidirectional: bool = False, proj_size: int = 0,
        device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        self.kind = self.nonlinearity = _nonlinearity("RNN", nonlinearity)
        self.mode = f"RNN_{nonlinearity.upper()}"
        sizes = (input_size, hidden_size, num_layers)
        super().__init__(*sizes, bias, batch_first, dropout, bidirectional, proj_size, device, dtype)


class LSTM(_Layers):
    """Run long short-term memory over sequences; arguments as RNN. As torch.nn.LSTM (Hochreiter, Schmidhuber 1997).

    The states are a pair (h, c). proj_size: if not 0, outputs and h are multiplied by weight_hr, (proj_size,
    hidden_size) (Sak et al. 2014). Raises ValueError for sizes that are not positive, or a proj_size as large as
    hidden_size.

    >>> out, (h, c) = nn.LSTM(4, 8, bidirectional=True)(ta.randn(5, 3, 4))
    >>> out.shape, h.shape, c.shape
    ((5, 3, 16), (2, 3, 8), (2, 3, 8))
    """

    kind, mode = "lstm", "LSTM"


class GRU(_Layers):
    """Run gated recurrent units over sequences; arguments as RNN. As torch.nn.GRU (Cho et al. 2014).

    >>> out, h = nn.GRU(4, 8)(ta.randn(5, 3, 4))
    >>> out.shape, h.shape
    ((5, 3, 8), (1, 3, 8))
    """

    kind, mode = "gru", "GRU"


class _Cell(_Recurrence):
    """Base of the cells, each one step of a recurrent network."""

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__()
        self.input_size, self.hidden_size, self.bias = input_size, hidden_size, bias
        self._add_step("", input_size, device, dtype)
        self.reset_parameters()

    def forward(self, input: Tensor, hx: Any = None) -> Any:
        """Return the next h, for an LSTMCell (h, c), shaped as hx, which is zeros by default."""
        h, c = self._check(input, (1, 2), hx, tuple(input.shape[:-1]))
        h, c = (s if s is None else s.reshape(-1, self.hidden_size) for s in (h, c))
        states = self._states(input.reshape(1, -1, input.shape[-1]), h, c)  # (1 or 2, 1, batch, hidden_size)
        states = states.reshape(-1, *input.shape[:-1], self.hidden_size)
        return (states[0], states[1]) if self.kind == "lstm" else states[0]

    def extra_repr(self) -> str:
        bias = "" if self.bias else ", bias=False"
        kind = f", nonlinearity={self.nonlinearity}" if getattr(self, "nonlinearity", "tanh") != "tanh" else ""
        return f"{self.input_size}, {self.hidden_size}{bias}{kind}"


class RNNCell(_Cell):
    """One step of an RNN: (batch, input_size) -> (batch, hidden_size), or without a batch. As torch.nn.RNNCell.

    Raises ValueError for a nonlinearity other than "tanh" and "relu".

    >>> nn.RNNCell(4, 8)(ta.randn(3, 4)).shape
    (3, 8)
    """

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, nonlinearity: str = "tanh", device: Any = None,
        dtype: Any = None,
    ) -> None:  # fmt: skip
        self.kind = self.nonlinearity = _nonlinearity("RNNCell", nonlinearity)
        super().__init__(input_size, hidden_size, bias, device, dtype)


class LSTMCell(_Cell):
    """One step of an LSTM: input and (h, c) -> (h, c), each (batch, hidden_size). As torch.nn.LSTMCell.

    >>> h, c = nn.LSTMCell(4, 8)(ta.randn(3, 4))
    >>> h.shape, c.shape
    ((3, 8), (3, 8))
    """

    kind = "lstm"


class GRUCell(_Cell):
    """One step of a GRU: (batch, input_size) -> (batch, hidden_size). As torch.nn.GRUCell.

    >>> nn.GRUCell(4, 8)(ta.randn(3, 4), ta.zeros(3, 8)).shape
    (3, 8)
    """

    kind = "gru"
