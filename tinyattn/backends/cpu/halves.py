"""float16 to float32 and back, with the numbers of NumPy's astype in a third to a hundredth of its time.

NumPy converts element by element, and raises a processor flag, which is slow, for every number below 6.1e-5. Here a few
operations on whole blocks take the bits apart. As fp16.h of Marat Dukhan's FP16.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinyattn.backends.cpu.recording import one_call

Array = Any
_FEW, _BLOCK = 512, 1 << 16  # elements: fewer are converted by NumPy; so many, with temporaries, stay in the cache
_LIMIT = np.float32(65520)  # from which on numbers are rounded to infinity
_BEYOND = np.float32(65536)  # the power of two above float16, which has infinity's exponent there
_INFINITY = np.int32(0x7F800000)  # the exponent's bits of float32
_LEAST = np.float32(2.0**-14).view(np.int32)  # the smallest normal number of float16


def widen(x: Array) -> Array:
    """Return float16 as float32, and every other dtype as it is."""
    return _converted(x, np.float32, _widen) if x.dtype == np.float16 else x


def narrow(x: Array) -> Array:
    """Round to float16, to the nearest and ties to even; what is too large becomes infinite."""
    return _converted(x, np.float16, _narrow if x.dtype == np.float32 else None)


@np.errstate(all="ignore")
def _converted(x: Array, dtype: Any, convert: Callable[[Array, Array], None] | None) -> Array:
    """Convert block by block, and by NumPy what has few elements; the order in memory stays."""
    if convert is None or x.size < _FEW:
        return x.astype(dtype)
    if not x.flags.c_contiguous:
        return _converted(x.T, dtype, convert).T if x.flags.f_contiguous else _converted(x.copy(), dtype, convert)
    out = np.empty(x.shape, dtype)
    source, target = x.reshape(-1), out.reshape(-1)
    for start in range(0, x.size, _BLOCK):
        convert(source[start : start + _BLOCK], target[start : start + _BLOCK])
    return out


@one_call(1)
def _widen(x: Array, out: Array) -> None:
    bits = np.left_shift(x.view(np.int16), 13, out=out.view(np.int32), dtype=np.int32)  # the sign fills the gap
    bits &= np.int32(-0x70002000)  # sign; exponent and fraction, where float32 has them
    out *= np.float32(2.0**112)  # the biases of the exponents are 15 and 127
    if x.view(np.int16).max() >= 0x7C00 or x.view(np.uint16).max() >= 0xFC00:  # infinity and NaN
        bits[np.abs(out) >= _BEYOND] |= _INFINITY


@one_call(1)
def _narrow(x: Array, out: Array) -> None:
    size = np.abs(x)
    fits = size.max() < _LIMIT  # all is a number that float16 has: otherwise NaN, or what becomes infinite
    # To the number, 2^13 times its power of two (or float16's least one) is added: that rounds it.
    power = np.bitwise_and(x.view(np.int32), _INFINITY)
    power.clip(_LEAST, _INFINITY, out=power)  # takes a third of the time of np.maximum with a number
    power += np.int32(13 << 23)
    size += power.view(np.float32)
    bits = size.view(np.int32)  # 2^13 times the power, and far below the fraction with its leading one
    bits += np.right_shift(bits, 13, out=power)
    sign = np.right_shift(x.view(np.int32), 16, out=power)
    sign &= 0x8000
    bits += sign
    short = out.view(np.int16)
    short[...] = bits
    short += np.int16(2 << 10)  # the biases of the exponents are 15 and 127: 13 + 127 + 2 - 15 + 1 is a multiple of 64
    if not fits:
        beyond = np.flatnonzero(~(np.abs(x) < _LIMIT))
        out[beyond] = x[beyond].astype(np.float16)
