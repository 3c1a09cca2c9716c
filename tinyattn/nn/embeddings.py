"""Tables of vectors that are looked up, one by one or in bags, as torch.nn's."""

from __future__ import annotations

from typing import Any, Self, cast

from tinyattn.nn import functional as F
from tinyattn.nn import init
from tinyattn.nn.module import Module, Parameter
from tinyattn.ops import creation
from tinyattn.tensors import Tensor


class _Table(Module):
    """Base of the look-ups: the weight and its options."""

    weight: Parameter

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
        _weight: Tensor | None = None,
        _freeze: bool = False,
        *,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if padding_idx is not None:
            if not -num_embeddings <= padding_idx < num_embeddings:
                raise ValueError(f"padding_idx={padding_idx} is out of range for {num_embeddings} embeddings")
            padding_idx %= num_embeddings
        self.num_embeddings, self.embedding_dim, self.padding_idx = num_embeddings, embedding_dim, padding_idx
        self.max_norm, self.norm_type = max_norm, norm_type
        self.scale_grad_by_freq, self.sparse = scale_grad_by_freq, sparse
        if _weight is None:
            _weight = creation.empty(num_embeddings, embedding_dim, device=device, dtype=dtype)
            self.weight = Parameter(_weight, requires_grad=not _freeze)
            self.reset_parameters()
        elif tuple(_weight.shape) != (num_embeddings, embedding_dim):
            raise ValueError(f"_weight has shape {tuple(_weight.shape)}; expected {(num_embeddings, embedding_dim)}")
        else:
            self.weight = Parameter(_weight, requires_grad=not _freeze)

    @classmethod
    def from_pretrained(cls, embeddings: Tensor, freeze: bool = True, *args: Any, **options: Any) -> Self:
        """Return a layer whose weight is `embeddings` (num_embeddings, embedding_dim), whose memory it shares.

        freeze: the weight is not trained. The other arguments are those of the constructor. Raises ValueError for
        another number of axes.
        """
        if embeddings.ndim != 2:
            raise ValueError(f"from_pretrained: shape {tuple(embeddings.shape)}; expected (num_embeddings, dim)")
        (rows, dim), made = embeddings.shape, cast(Any, cls)
        return made(rows, dim, *args, _weight=embeddings, _freeze=freeze, **options)

    def _padding(self) -> str:
        return "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"

    def _norm(self) -> str:
        """What the repr says of the norm and of scaling, where they are not the defaults."""
        usual = {"max_norm": None, "norm_type": 2, "scale_grad_by_freq": False}
        return "".join(f", {name}={vars(self)[name]}" for name, value in usual.items() if vars(self)[name] != value)

    def reset_parameters(self) -> None:
        """Draw new initial values."""
        init.normal_(self.weight)
        if self.padding_idx is not None:
            init.zeros_(self.weight.detach()[self.padding_idx])


class Embedding(_Table):
    """Look up rows of a table: integers (...) -> (..., embedding_dim). As torch.nn.Embedding.

    weight (num_embeddings, embedding_dim) is initialised normally; the row padding_idx is zero and has no gradient.
    Raises ValueError for a padding_idx outside the table, IndexError for such an input.

    >>> nn.Embedding(10, 4)(ta.tensor([[1, 2, 2]])).shape
    (1, 3, 4)
    """

    def forward(self, input: Tensor) -> Tensor:
        """Look up integers (...): (..., embedding_dim). Raises IndexError for one outside the table."""
        return F.embedding(
            input, self.weight, self.padding_idx, self.max_norm, self.norm_type, self.scale_grad_by_freq, self.sparse
        )

    def extra_repr(self) -> str:
        sparse = ", sparse=True" if self.sparse else ""
        return f"{self.num_embeddings}, {self.embedding_dim}{self._padding()}{self._norm()}{sparse}"


class EmbeddingBag(_Table):
    """Look up the rows of bags and return their sum, mean or maximum: (bags, embedding_dim). As torch.nn.EmbeddingBag.

    Called with (input, offsets, per_sample_weights), as `F.embedding_bag`. weight is that of `Embedding`.

    >>> nn.EmbeddingBag(10, 4, mode="sum")(ta.tensor([1, 2, 2]), ta.tensor([0, 1])).shape
    (2, 4)
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        mode: str = "mean",
        sparse: bool = False,
        _weight: Tensor | None = None,
        include_last_offset: bool = False,
        padding_idx: int | None = None,
        device: Any = None,
        dtype: Any = None,
        *,
        _freeze: bool = False,
    ) -> None:
        usual = (padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse)
        super().__init__(num_embeddings, embedding_dim, *usual, _weight, _freeze, device=device, dtype=dtype)
        self.mode, self.include_last_offset = mode, include_last_offset

    def forward(self, input: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None) -> Tensor:
        """Return (bags, embedding_dim); arguments and errors as `F.embedding_bag`."""
        return F.embedding_bag(
            input, self.weight, offsets, self.max_norm, self.norm_type, self.scale_grad_by_freq, self.mode, self.sparse,
            per_sample_weights, self.include_last_offset, self.padding_idx,
        )  # fmt: skip

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}{self._norm()}, mode={self.mode!r}{self._padding()}"
