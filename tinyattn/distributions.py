"""Distributions to sample from, with log-probabilities and entropies, as torch.distributions: the three most used."""

from __future__ import annotations

import math
from typing import Any

import tinyattn as ta
from tinyattn.nn import functional as F
from tinyattn.ops.dims import sizes

__all__ = ["Bernoulli", "Categorical", "Distribution", "Normal", "kl_divergence"]


class Distribution:
    """Base of the distributions: `batch_shape` is that of the parameters. As torch.distributions.Distribution."""

    has_rsample = False
    batch_shape: Any
    event_shape: Any = ta.Size(())
    variance: Any
    stddev = property(lambda self: self.variance.sqrt())

    def __init__(self, batch_shape: Any = (), event_shape: Any = (), validate_args: Any = None) -> None:
        self.batch_shape, self.event_shape = ta.Size(batch_shape), ta.Size(event_shape)

    def _extended(self, sample_shape: Any) -> Any:
        return ta.Size((*sizes((sample_shape,)), *self.batch_shape, *self.event_shape))

    def rsample(self, sample_shape: Any = ()) -> ta.Tensor:
        """Draw samples with a gradient by the parameters. Raises NotImplementedError where there is none."""
        raise NotImplementedError(f"{type(self).__name__} has no rsample; use sample and log_prob")

    def sample(self, sample_shape: Any = ()) -> ta.Tensor:
        """Draw samples, (*sample_shape, *batch_shape), without a gradient."""
        with ta.no_grad():
            return self.rsample(sample_shape)


def together(*given: Any) -> list[ta.Tensor]:
    """Parameters, numbers or tensors, as tensors of one shape."""
    like = next((t for t in given if ta.is_tensor(t)), ta.zeros(()))
    return ta.broadcast_tensors(*(t if ta.is_tensor(t) else like.new_tensor(t) for t in given))


class Normal(Distribution):
    """Normal distributions of means `loc` and standard deviations `scale`. As torch.distributions.Normal.

    >>> ta.distributions.Normal(0.0, 1.0).log_prob(ta.zeros(1))
    tensor([-0.9189])
    """

    has_rsample = True

    def __init__(self, loc: Any, scale: Any, validate_args: Any = None) -> None:
        self.loc, self.scale = together(loc, scale)
        self.batch_shape = self.loc.shape

    mean = mode = property(lambda self: self.loc)
    stddev = property(lambda self: self.scale)
    variance = property(lambda self: self.scale.square())

    def rsample(self, sample_shape: Any = ()) -> ta.Tensor:
        """Draw loc + scale * noise."""
        noise = ta.randn(self._extended(sample_shape), dtype=self.loc.dtype, device=self.loc.device)
        return self.loc + noise * self.scale

    def log_prob(self, value: Any) -> ta.Tensor:
        """Return the logarithm of the density at `value`."""
        return -((value - self.loc) ** 2) / (2 * self.variance) - self.scale.log() - math.log(math.sqrt(2 * math.pi))

    def entropy(self) -> ta.Tensor:
        """Return the entropy, in nats."""
        return 0.5 + 0.5 * math.log(2 * math.pi) + self.scale.log()

    def cdf(self, value: Any) -> ta.Tensor:
        """Return the probability of at most `value`."""
        return 0.5 * (1 + ((value - self.loc) / self.scale / math.sqrt(2)).erf())

    def icdf(self, value: Any) -> ta.Tensor:
        """Return the number that a sample is below with the probability `value`."""
        return self.loc + self.scale * (2 * value - 1).erfinv() * math.sqrt(2)


class _OfLogits(Distribution):
    """Base of the distributions by probabilities or their logits, of which one is given."""

    probs: ta.Tensor
    logits: ta.Tensor

    def _given(self, probs: Any, logits: Any) -> ta.Tensor:
        if (probs is None) == (logits is None):
            raise ValueError(f"{type(self).__name__}: expected either probs or logits")
        given = probs if logits is None else logits
        return given if ta.is_tensor(given) else ta.tensor(given, dtype=ta.get_default_dtype())


class Categorical(_OfLogits):
    """Choices by the probabilities, or logits, in the last axis. As torch.distributions.Categorical.

    >>> ta.distributions.Categorical(ta.tensor([1.0, 3.0])).probs
    tensor([0.25, 0.75])
    """

    def __init__(self, probs: Any = None, logits: Any = None, validate_args: Any = None) -> None:
        given = self._given(probs, logits)
        if logits is None:
            self.probs = given / given.sum(-1, keepdim=True)
            eps = ta.finfo(given.dtype).eps
            self.logits = self.probs.clamp(eps, 1 - eps).log()
        else:
            self.logits = given - given.logsumexp(-1, keepdim=True)
            self.probs = F.softmax(self.logits, -1)
        self.batch_shape = given.shape[:-1]

    mode = property(lambda self: self.probs.argmax(-1))

    def sample(self, sample_shape: Any = ()) -> ta.Tensor:
        """Draw indices of the last axis, (*sample_shape, *batch_shape)."""
        shape, rows = self._extended(sample_shape), self.probs.detach().reshape(-1, self.probs.shape[-1])
        count = shape.numel() // max(self.batch_shape.numel(), 1)
        return ta.multinomial(rows, count, True).T.reshape(shape)

    def log_prob(self, value: ta.Tensor) -> ta.Tensor:
        """Return the logarithms of the probabilities of indices."""
        index = value.long().unsqueeze(-1)
        index, logits = ta.broadcast_tensors(index, self.logits)
        return logits.gather(-1, index[..., :1]).squeeze(-1)

    def entropy(self) -> ta.Tensor:
        """Return the entropy, in nats."""
        return -(self.logits.clamp(min=ta.finfo(self.logits.dtype).min) * self.probs).sum(-1)


class Bernoulli(_OfLogits):
    """1 with the probabilities, or by the logits, else 0. As torch.distributions.Bernoulli.

    >>> ta.distributions.Bernoulli(logits=0.0).log_prob(ta.ones(1))
    tensor([-0.6931])
    """

    def __init__(self, probs: Any = None, logits: Any = None, validate_args: Any = None) -> None:
        given = self._given(probs, logits)
        if logits is None:
            eps = ta.finfo(given.dtype).eps
            inside = given.clamp(eps, 1 - eps)
            self.probs, self.logits = given, inside.log() - (-inside).log1p()
        else:
            self.probs, self.logits = given.sigmoid(), given
        self.batch_shape = given.shape

    mean = property(lambda self: self.probs)
    variance = property(lambda self: self.probs * (1 - self.probs))

    def sample(self, sample_shape: Any = ()) -> ta.Tensor:
        """Draw zeros and ones, (*sample_shape, *batch_shape)."""
        return ta.bernoulli(self.probs.detach().expand(self._extended(sample_shape)))

    def log_prob(self, value: ta.Tensor) -> ta.Tensor:
        """Return the logarithms of the probabilities of zeros and ones."""
        logits, value = ta.broadcast_tensors(self.logits, value)
        return -F.binary_cross_entropy_with_logits(logits, value, reduction="none")

    def entropy(self) -> ta.Tensor:
        """Return the entropy, in nats."""
        return F.binary_cross_entropy_with_logits(self.logits, self.probs, reduction="none")


def kl_divergence(p: Distribution, q: Distribution) -> ta.Tensor:
    """Return the divergence KL(p || q) of two distributions of one kind, normal or categorical.

    Raises NotImplementedError for others. As torch.distributions.kl_divergence.

    >>> normal = ta.distributions.Normal
    >>> ta.distributions.kl_divergence(normal(1.0, 1.0), normal(0.0, 1.0)).item()
    0.5
    """
    if isinstance(p, Normal) and isinstance(q, Normal):
        ratio = (p.scale / q.scale).square()
        return 0.5 * (ratio + ((p.loc - q.loc) / q.scale).square() - 1 - ratio.log())
    if isinstance(p, Categorical) and isinstance(q, Categorical):
        return (p.probs * (p.logits - q.logits)).sum(-1)
    raise NotImplementedError(f"kl_divergence: {type(p).__name__} and {type(q).__name__}; write the formula")
