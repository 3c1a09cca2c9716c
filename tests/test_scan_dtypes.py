"""logcumsumexp has no answer in integers: PyTorch refuses them, and rounded logarithms are wrong numbers."""

import pytest

import tinyattn as ta


@pytest.mark.parametrize("dtype", [ta.int64, ta.int32, ta.int8, ta.uint8, ta.bool])
@pytest.mark.parametrize("values", [2, [1, 0, 1]])
def test_logcumsumexp_refuses_integers(values, dtype):
    with pytest.raises(NotImplementedError, match="logcumsumexp"):
        ta.logcumsumexp(ta.tensor(values).to(dtype), 0)
