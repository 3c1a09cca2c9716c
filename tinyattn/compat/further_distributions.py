"""Further distributions of torch.distributions, each its formulas; relaxed one-hot vectors; mixtures of one kind."""

from __future__ import annotations

import math
from typing import Any

import tinyattn as ta
from tinyattn import distributions
from tinyattn.compat.distributions import OneHotCategorical, _kind
from tinyattn.compat.functions import digamma, drawn, lgamma
from tinyattn.distributions import Distribution
from tinyattn.nn import functional as F

EULER = 0.5772156649015329  # of Euler and Mascheroni


def _log_beta(p: Any) -> Any:
    """The logarithm of the beta function at df / 2 and 1 / 2."""
    return lgamma(p.df / 2) + 0.5 * math.log(math.pi) - lgamma((p.df + 1) / 2)


def _moment(p: Any, n: int) -> Any:
    return lgamma(1 + n / p.concentration).exp()


def _normal_number(u: Any) -> Any:
    """A number of the standard normal distribution from one of (0, 1)."""
    return math.sqrt(2) * (2 * u - 1).clamp(min=ta.finfo(u.dtype).eps - 1).erfinv()


# fmt: off
Cauchy = _kind(
    "Cauchy", "loc scale", lambda p: ta.full_like(p.loc, math.nan), lambda p: ta.full_like(p.loc, math.inf),
    lambda p, u: p.loc + p.scale * (math.pi * (u - 0.5)).tan(), entropy=lambda p: (4 * math.pi * p.scale).log(),
    log_prob=lambda p, value: -(math.pi * p.scale).log() - ((value - p.loc) / p.scale).square().log1p(),
)
Gumbel = _kind(
    "Gumbel", "loc scale", lambda p: p.loc + EULER * p.scale, lambda p: (math.pi * p.scale).square() / 6,
    lambda p, u: p.loc - p.scale * (-u.log()).log(), entropy=lambda p: p.scale.log() + (1 + EULER),
    log_prob=lambda p, value: (p.loc - value) / p.scale - ((p.loc - value) / p.scale).exp() - p.scale.log(),
)
HalfNormal = _kind(
    "HalfNormal", "scale", lambda p: p.scale * math.sqrt(2 / math.pi), lambda p: p.scale.square() * (1 - 2 / math.pi),
    lambda p, u: p.scale * _normal_number((u + 1) / 2),
    entropy=lambda p: p.scale.log() + 0.5 * math.log(math.pi * math.e / 2),
    log_prob=lambda p, value: ta.where(
        value >= 0, 0.5 * math.log(2 / math.pi) - p.scale.log() - (value / p.scale).square() / 2, -math.inf),
)
LogNormal = _kind(
    "LogNormal", "loc scale", lambda p: (p.loc + p.scale.square() / 2).exp(),
    lambda p: p.scale.square().expm1() * (2 * p.loc + p.scale.square()).exp(),
    lambda p, u: (p.loc + p.scale * _normal_number(u)).exp(),
    log_prob=lambda p, value: distributions.Normal(p.loc, p.scale).log_prob(value.log()) - value.log(),
    entropy=lambda p: distributions.Normal(p.loc, p.scale).entropy() + p.loc,
)
Weibull = _kind(
    "Weibull", "scale concentration", lambda p: p.scale * _moment(p, 1),
    lambda p: p.scale.square() * (_moment(p, 2) - _moment(p, 1).square()),
    lambda p, u: p.scale * (-u.log()) ** (1 / p.concentration),
    entropy=lambda p: EULER * (1 - 1 / p.concentration) + (p.scale / p.concentration).log() + 1,
    log_prob=lambda p, value: ((p.concentration / p.scale).log() + (p.concentration - 1) * (value / p.scale).log()
                               - (value / p.scale) ** p.concentration),
)
Poisson = _kind(
    "Poisson", "rate", lambda p: p.rate, lambda p: p.rate, None,
    sample=lambda p, n=(): drawn("poisson", p.rate.expand(p._extended(n))),
    log_prob=lambda p, value: ta.xlogy(value, p.rate) - p.rate - lgamma(value + 1),
)
_StudentT = _kind(
    "_StudentT", "df loc scale", lambda p: p.loc.masked_fill(p.df <= 1, math.nan),
    lambda p: ta.where(p.df > 2, p.scale.square() * p.df / (p.df - 2), math.inf).masked_fill(p.df <= 1, math.nan), None,
    sample=lambda p, n=(): (drawn("standard_t", p.df.expand(p._extended(n))) * p.scale + p.loc).detach(),
    log_prob=lambda p, value: (-(p.df + 1) / 2 * (((value - p.loc) / p.scale).square() / p.df).log1p() - p.scale.log()
                               - p.df.log() / 2 - _log_beta(p)),
    entropy=lambda p: (p.scale.log() + (p.df + 1) / 2 * (digamma((p.df + 1) / 2) - digamma(p.df / 2))
                       + p.df.log() / 2 + _log_beta(p)),
)
# fmt: on


class StudentT(_StudentT):  # type: ignore[misc, valid-type]
    """Student's t with `df` degrees of freedom, moved by loc and widened by scale."""

    def __init__(self, df: Any, loc: Any = 0.0, scale: Any = 1.0, validate_args: Any = None) -> None:
        super().__init__(df, loc, scale)


class RelaxedOneHotCategorical(OneHotCategorical):
    """Softmax of (logits + Gumbel noise) / temperature (Jang et al. 2017; Maddison et al. 2017)."""

    has_rsample = True

    def __init__(self, temperature: Any, probs: Any = None, logits: Any = None, validate_args: Any = None) -> None:
        super().__init__(probs, logits)
        self.temperature = temperature

    def rsample(self, sample_shape: Any = ()) -> Any:
        noise = Gumbel(ta.zeros_like(self.logits), 1.0).sample(sample_shape)
        return ((self.logits + noise) / self.temperature).softmax(-1)

    sample = Distribution.sample

    def log_prob(self, value: Any) -> Any:
        k, t = self.event_shape[0], ta.as_tensor(self.temperature, dtype=value.dtype, device=value.device)
        score = self.logits - t * value.log()
        return math.lgamma(k) + (k - 1) * t.log() + (score - score.logsumexp(-1, True)).sum(-1) - value.log().sum(-1)


class MixtureSameFamily(Distribution):
    """Components of one kind, the last axis of their batch, with the probabilities of a Categorical."""

    def __init__(self, mixture_distribution: Any, component_distribution: Any, validate_args: Any = None) -> None:
        self.mixture_distribution, self.component_distribution = mixture_distribution, component_distribution
        super().__init__(component_distribution.batch_shape[:-1], component_distribution.event_shape)

    def _beside(self, x: Any) -> Any:
        """Numbers for each component, beside the axes of an event."""
        return x.reshape(*x.shape, *[1] * len(self.event_shape))

    @property
    def mean(self) -> Any:
        return (self._beside(self.mixture_distribution.probs) * self.component_distribution.mean).sum(
            -1 - len(self.event_shape)
        )

    @property
    def variance(self) -> Any:
        axis, part = -1 - len(self.event_shape), self.component_distribution
        off = part.mean - self.mean.unsqueeze(axis)
        return (self._beside(self.mixture_distribution.probs) * (part.variance + off.square())).sum(axis)

    def log_prob(self, value: Any) -> Any:
        parts = self.component_distribution.log_prob(value.unsqueeze(-1 - len(self.event_shape)))
        return (parts + F.log_softmax(self.mixture_distribution.logits, -1)).logsumexp(-1)

    @ta.no_grad()
    def sample(self, sample_shape: Any = ()) -> Any:
        axis = -1 - len(self.event_shape)
        drawn = self.component_distribution.sample(sample_shape)
        chosen = self._beside(self.mixture_distribution.sample(sample_shape).unsqueeze(-1))
        return drawn.gather(axis, chosen.expand(*drawn.shape[:axis], 1, *drawn.shape[len(drawn.shape) + axis + 1 :])
                            ).squeeze(axis)  # fmt: skip


KINDS = (
    Cauchy, Gumbel, HalfNormal, LogNormal, MixtureSameFamily, Poisson, RelaxedOneHotCategorical, StudentT, Weibull,
)  # fmt: skip
NAMES: dict[str, Any] = {kind.__name__: kind for kind in KINDS}
