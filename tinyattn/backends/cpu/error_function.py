"""The error function, which NumPy lacks.

Below 1, x times a polynomial in x^2; above, 1 - exp(-x^2) times a polynomial in (x - 3) / (x + 3),
which maps [1, inf) to [-1/2, 1). The coefficients interpolate erf and erfc, computed with 60
digits, at Chebyshev nodes; within two units in the last place of the true value.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from tinyattn.backends.cpu.blocks import blockwise
from tinyattn.backends.cpu.recording import one_call

# dtype: (coefficients below 1, coefficients above), lowest power first
COEFFICIENTS = {
    "float32": (
        (1.12837913, -0.376123438, 0.112803167, -0.0267150542, 0.00492176203, -0.000564805987),
        (0.179001151, -0.32623356, 0.245603806, -0.150115963, 0.0716653678, -0.0243926199, 0.00428234367,
         0.000755694763, -0.000554114343),
    ),
    "float64": (
        (1.1283791670955126, -0.37612638903183748, 0.11283791670954879, -0.026866170645076792,
         0.0052239776248180145, -0.000854832698083379, 0.0001205533111164271, -1.4925595266831182e-05,
         1.6461000484121368e-06, -1.6350312701054695e-07, 1.4659775274047436e-08, -1.1372848856791674e-09,
         5.9571761477489113e-11),
        (0.17900115118138996, -0.32623356004303722, 0.24560380171233087, -0.15011593650077723,
         0.071665837197978519, -0.024392499318670918, 0.004269136332823561, 0.00070774643889855127,
         -0.0005970619482076106, 4.5255298682103437e-05, 6.4056552258574332e-05, -1.2860495164807229e-05,
         -7.9781168255887508e-06, 2.1199584467041849e-06, 1.2524511513433228e-06, -2.9350753082636839e-07,
         -2.3436430649554664e-07, 2.6718469875291596e-08, 4.4954886729475671e-08, 3.8786059193698068e-09,
         -3.6456237623732361e-09),
    ),
}  # fmt: skip


def erf(x: Any) -> Any:
    """2 / sqrt(pi) times the integral of exp(-t^2) from 0 to x, elementwise."""
    x = np.asarray(x)
    return blockwise(_erf, x)


@one_call(1)
def _erf(x: Any, out: Any) -> None:
    below, above = COEFFICIENTS[x.dtype.name]
    square = np.square(x, out=np.empty_like(x))
    (beyond,) = (square >= 1.0).nonzero()
    polynomial(below, square.clip(0.0, 1.0, out=square), out)
    out *= x
    if beyond.size:
        picked = x.take(beyond)
        size = np.abs(picked).clip(0.0, 10.0)  # erf is 1 long before; keeps inf out of the quotient
        far = polynomial(above, (size - 3.0) / (size + 3.0), np.empty_like(size))
        np.square(size, out=size)
        np.negative(size, out=size)
        far *= np.exp(size, out=size)
        np.subtract(1.0, far, out=far)
        out[beyond] = np.copysign(far, picked, out=far)


def polynomial(coefficients: tuple[float, ...], x: Any, out: Any) -> Any:
    """Horner's rule, into `out`."""
    first, *others, last = _numbers(coefficients, x.dtype)
    np.multiply(x, first, out=out)
    for c in others:
        out += c
        out *= x
    out += last
    return out


@lru_cache(maxsize=16)
def _numbers(coefficients: tuple[float, ...], dtype: Any) -> list[Any]:
    """The coefficients, highest power first, as arrays: with Python's numbers a pass over few elements takes twice as
    long."""
    return [np.array(c, dtype) for c in reversed(coefficients)]
