"""Distributions of torch.distributions beside tinyattn's three, and their divergences.

Each is its formulas. Parameters and values are not validated.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import tinyattn as ta
from tinyattn import distributions
from tinyattn.compat import transforms
from tinyattn.compat.functions import digamma, drawn, lgamma
from tinyattn.compat.matrices import cholesky, solve_triangular
from tinyattn.compat.transforms import Formula, summed
from tinyattn.distributions import Bernoulli, Categorical, Distribution, together
from tinyattn.nn import functional as F

# --- of numbers: the formulas take the distribution, whose parameters are attributes, and a value ---


class _Numbers(Distribution):
    """Base of the distributions of numbers. `reach` makes samples, with a gradient, of uniform numbers in (0, 1)."""

    names: ClassVar[tuple[str, ...]]
    reach: ClassVar[Formula | None] = None

    def __init__(self, *given: Any, validate_args: Any = None, **named: Any) -> None:
        values = {**dict(zip(self.names, given, strict=False)), **named}
        if values.keys() != {*self.names}:
            raise TypeError(f"{type(self).__name__}: got {sorted(values)}; expected {', '.join(self.names)}")
        for name, value in zip(self.names, together(*(values[name] for name in self.names)), strict=True):
            setattr(self, name, value)
            super().__init__(value.shape)

    def rsample(self, sample_shape: Any = ()) -> Any:
        if self.reach is None:
            return super().rsample(sample_shape)
        like = getattr(self, self.names[0])
        u = ta.rand(self._extended(sample_shape), dtype=like.dtype, device=like.device)
        return self.reach(u.clamp(ta.finfo(u.dtype).tiny))


def _kind(name: str, names: str, mean: Formula, variance: Formula, reach: Formula | None, **formulas: Formula) -> Any:
    own = {"names": tuple(names.split()), "mean": property(mean), "variance": property(variance), "reach": reach}
    return type(name, (_Numbers,), {**own, "has_rsample": reach is not None, **formulas, "__module__": __name__})


def _inside(p: Any, value: Any) -> Any:
    return ta.where((p.low <= value) & (value < p.high), 0.0, -math.inf)


# fmt: off
Uniform = _kind(
    "Uniform", "low high", lambda p: (p.low + p.high) / 2, lambda p: (p.high - p.low).square() / 12,
    lambda p, u: p.low + u * (p.high - p.low), entropy=lambda p: (p.high - p.low).log(),
    log_prob=lambda p, value: _inside(p, value) - (p.high - p.low).log(),
    cdf=lambda p, value: ((value - p.low) / (p.high - p.low)).clamp(0, 1),
)
Laplace = _kind(
    "Laplace", "loc scale", lambda p: p.loc, lambda p: 2 * p.scale.square(),
    lambda p, u: p.loc - p.scale * (u - 0.5).sign() * (-2 * (u - 0.5).abs()).log1p(),
    log_prob=lambda p, value: -(2 * p.scale).log() - (value - p.loc).abs() / p.scale,
    entropy=lambda p: 1 + (2 * p.scale).log(),
)
Exponential = _kind(
    "Exponential", "rate", lambda p: 1 / p.rate, lambda p: p.rate**-2, lambda p, u: -u.log() / p.rate,
    log_prob=lambda p, value: p.rate.log() - p.rate * value, entropy=lambda p: 1 - p.rate.log(),
)
Gamma = _kind(
    "Gamma", "concentration rate", lambda p: p.concentration / p.rate, lambda p: p.concentration / p.rate**2, None,
    sample=lambda p, n=(): drawn("standard_gamma", p.concentration.expand(p._extended(n))) / p.rate.detach(),
    log_prob=lambda p, value: (p.concentration * p.rate.log() + ta.xlogy(p.concentration - 1, value) - p.rate * value
                               - lgamma(p.concentration)),
    entropy=lambda p: (p.concentration - p.rate.log() + lgamma(p.concentration)
                       + (1 - p.concentration) * digamma(p.concentration)),
)
Beta = _kind(
    "Beta", "concentration1 concentration0", lambda p: _pair(p).mean[..., 0], lambda p: _pair(p).variance[..., 0], None,
    sample=lambda p, shape=(): _pair(p).sample(shape)[..., 0], entropy=lambda p: _pair(p).entropy(),
    log_prob=lambda p, value: _pair(p).log_prob(ta.stack([value, 1 - value], -1)),
)
# fmt: on

# --- of vectors ---


class Dirichlet(Distribution):
    """Of (..., k) concentrations."""

    def __init__(self, concentration: Any, validate_args: Any = None) -> None:
        super().__init__(concentration.shape[:-1], concentration.shape[-1:])
        self.concentration, self.total = concentration, concentration.sum(-1)

    mean = property(lambda self: self.concentration / self.total[..., None])
    variance = property(lambda self: self.mean * (1 - self.mean) / (self.total[..., None] + 1))
    _size = property(lambda self: lgamma(self.concentration).sum(-1) - lgamma(self.total))

    def sample(self, sample_shape: Any = ()) -> Any:
        parts = drawn("standard_gamma", self.concentration.expand(self._extended(sample_shape)))
        parts = parts.clamp(ta.finfo(parts.dtype).tiny)
        return parts / parts.sum(-1, True)

    def log_prob(self, value: Any) -> Any:
        return ta.xlogy(self.concentration - 1, value).sum(-1) - self._size

    def entropy(self) -> Any:
        a, total = self.concentration, self.total
        return self._size - (a.shape[-1] - total) * digamma(total) - ((a - 1) * digamma(a)).sum(-1)


def _pair(p: Any) -> Any:
    return Dirichlet(ta.stack([p.concentration1, p.concentration0], -1))


class OneHotCategorical(Distribution):
    """Categorical, with one-hot vectors for the indices."""

    def __init__(self, probs: Any = None, logits: Any = None, validate_args: Any = None) -> None:
        self._categorical = Categorical(probs, logits)
        super().__init__(self._categorical.batch_shape, self._categorical.probs.shape[-1:])

    probs = mean = property(lambda self: self._categorical.probs)
    logits = property(lambda self: self._categorical.logits)
    variance = property(lambda self: self.probs * (1 - self.probs))

    def sample(self, sample_shape: Any = ()) -> Any:
        return F.one_hot(self._categorical.sample(sample_shape), self.event_shape[0]).to(self.probs.dtype)

    def log_prob(self, value: Any) -> Any:
        return self._categorical.log_prob(value.argmax(-1))

    def entropy(self) -> Any:
        return self._categorical.entropy()


class OneHotCategoricalStraightThrough(OneHotCategorical):
    """Its samples have the gradient of the probabilities (Bengio et al. 2013)."""

    has_rsample = True

    def rsample(self, sample_shape: Any = ()) -> Any:
        return self.sample(sample_shape) + (self.probs - self.probs.detach())


class MultivariateNormal(Distribution):
    """Normal vectors (..., k), by one of a covariance, its inverse and its Cholesky factor (..., k, k)."""

    has_rsample = True

    def __init__(
        self, loc: Any, covariance_matrix: Any = None, precision_matrix: Any = None, scale_tril: Any = None,
        validate_args: Any = None,
    ) -> None:  # fmt: skip
        if sum(x is not None for x in (covariance_matrix, precision_matrix, scale_tril)) != 1:
            raise ValueError("MultivariateNormal: expected one of covariance_matrix, precision_matrix and scale_tril")
        covariance = covariance_matrix if precision_matrix is None else ta.inverse(precision_matrix)
        L = cholesky(covariance) if scale_tril is None else scale_tril
        super().__init__(ta.broadcast_shapes(loc.shape[:-1], L.shape[:-2]), loc.shape[-1:])
        self.loc, self.scale_tril = loc.expand(self._extended(())), L.expand(*self.batch_shape, *L.shape[-2:])

    mean = property(lambda self: self.loc)
    variance = property(lambda self: self.scale_tril.square().sum(-1))
    covariance_matrix = property(lambda self: self.scale_tril @ self.scale_tril.mT)
    _size = property(lambda self: self.scale_tril.diagonal(0, -2, -1).log().sum(-1))

    def rsample(self, sample_shape: Any = ()) -> Any:
        noise = ta.randn(self._extended(sample_shape), dtype=self.loc.dtype, device=self.loc.device)
        return self.loc + (self.scale_tril @ noise[..., None])[..., 0]

    def log_prob(self, value: Any) -> Any:
        far = solve_triangular(self.scale_tril, (value - self.loc)[..., None], upper=False)[..., 0]
        return -0.5 * (self.event_shape[0] * math.log(2 * math.pi) + far.square().sum(-1)) - self._size

    def entropy(self) -> Any:
        return 0.5 * self.event_shape[0] * (1 + math.log(2 * math.pi)) + self._size


# --- made of others ---


class Independent(Distribution):
    """The last axes of a batch as one event: log-probabilities are summed over them."""

    def __init__(self, base_distribution: Any, reinterpreted_batch_ndims: int, validate_args: Any = None) -> None:
        shape, n = base_distribution.batch_shape, len(base_distribution.batch_shape) - reinterpreted_batch_ndims
        super().__init__(shape[:n], (*shape[n:], *base_distribution.event_shape))
        self.base_dist, self.reinterpreted_batch_ndims = base_distribution, reinterpreted_batch_ndims
        self.has_rsample, self.sample, self.rsample = (  # type: ignore[method-assign]
            base_distribution.has_rsample, base_distribution.sample, base_distribution.rsample,
        )  # fmt: skip

    mean = property(lambda self: self.base_dist.mean)
    variance = property(lambda self: self.base_dist.variance)

    def _summed(self, x: Any) -> Any:
        return summed(x, self.reinterpreted_batch_ndims)

    def log_prob(self, value: Any) -> Any:
        return self._summed(self.base_dist.log_prob(value))

    def entropy(self) -> Any:
        return self._summed(self.base_dist.entropy())


class TransformedDistribution(Distribution):
    """What transforms, one or a list, make of another distribution's samples."""

    def __init__(self, base_distribution: Any, transforms: Any, validate_args: Any = None) -> None:
        self.base_dist, self.has_rsample = base_distribution, base_distribution.has_rsample
        self.transforms = list(transforms) if isinstance(transforms, list | tuple) else [transforms]
        super().__init__(base_distribution.batch_shape, base_distribution.event_shape)

    def rsample(self, sample_shape: Any = ()) -> Any:
        x = (self.base_dist.rsample if ta.is_grad_enabled() else self.base_dist.sample)(sample_shape)
        for transform in self.transforms:
            x = transform(x)
        return x

    def log_prob(self, value: Any) -> Any:
        total: Any = 0.0
        for transform in reversed(self.transforms):
            x = transform.inv(value)
            change = transform.log_abs_det_jacobian(x, value)
            total, value = total - summed(change, len(self.event_shape) - transform.event_dim), x
        return total + self.base_dist.log_prob(value)


# --- divergences ---


def _dirichlets(p: Any, q: Any) -> Any:
    a, b = p.concentration, q.concentration
    return q._size - p._size + ((a - b) * (digamma(a) - digamma(p.total)[..., None])).sum(-1)


def _gammas(p: Any, q: Any) -> Any:
    a, b = p.concentration, q.concentration
    size = b * (p.rate / q.rate).log() + lgamma(b) - lgamma(a)
    return size + (a - b) * digamma(a) + (q.rate - p.rate) * (a / p.rate)


def _normals(p: Any, q: Any) -> Any:
    both = ta.cat([p.scale_tril, (q.loc - p.loc)[..., None]], -1)
    parts = solve_triangular(q.scale_tril, both, upper=False).square().sum((-2, -1))
    return q._size - p._size + (parts - p.event_shape[0]) / 2


def _bernoullis(p: Any, q: Any) -> Any:
    return F.binary_cross_entropy_with_logits(q.logits, p.probs, reduction="none") - p.entropy()


# fmt: off
KL: dict[tuple[type, type], Formula] = {
    (Dirichlet, Dirichlet): _dirichlets, (Gamma, Gamma): _gammas, (MultivariateNormal, MultivariateNormal): _normals,
    (Beta, Beta): lambda p, q: _dirichlets(_pair(p), _pair(q)),
    (Bernoulli, Bernoulli): _bernoullis,
    (OneHotCategorical, OneHotCategorical): lambda p, q: kl_divergence(p._categorical, q._categorical),
    (Independent, Independent): lambda p, q: p._summed(kl_divergence(p.base_dist, q.base_dist)),
}
# fmt: on


def register_kl(type_p: type, type_q: type) -> Callable[[Formula], Formula]:
    """A decorator of the function that computes KL(p || q) for these types. As torch.distributions.kl.register_kl."""
    return lambda function: KL.update({(type_p, type_q): function}) or function


def kl_divergence(p: Any, q: Any) -> Any:
    """As ta.distributions.kl_divergence, of the types in KL too."""
    known = [f for (type_p, type_q), f in KL.items() if isinstance(p, type_p) and isinstance(q, type_q)]
    return known[-1](p, q) if known else distributions.kl_divergence(p, q)


_transforms = {n: x for n, x in vars(transforms).items() if isinstance(x, type) and issubclass(x, transforms.Transform)}
NAMES = _transforms | {n: x for n, x in globals().items() if getattr(x, "__module__", "") == __name__ and n[0] != "_"}
