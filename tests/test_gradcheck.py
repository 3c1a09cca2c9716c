"""gradcheck finds wrong gradients, names the element, and blames no rule for a kink."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from answers import torch

import tinyattn as ta
import tinyattn.nn.functional as F
from tinyattn import nn
from tinyattn.debug.differences import GradcheckError, NotDifferentiableError, gradcheck, gradgradcheck


def leaf(values: Any, requires_grad: bool = True) -> ta.Tensor:
    return ta.tensor(values, dtype=ta.float64, requires_grad=requires_grad)


def random(*shape: int) -> ta.Tensor:
    return leaf(np.random.default_rng(sum(shape)).standard_normal(shape))


# --- what is right passes ---

RIGHT: dict[str, Any] = {
    "exp": (ta.exp, random(3, 4)),
    "a number": (lambda x: x.sin(), leaf(0.3)),
    "matmul": (ta.matmul, (random(3, 4), random(4, 2))),
    "broadcast": (lambda x, y: x * y + x, (random(3, 1), random(4))),
    "attention": (F.scaled_dot_product_attention, (random(2, 3, 4), random(2, 5, 4), random(2, 5, 3))),
    "layer norm": (lambda x, w, b: F.layer_norm(x, (4,), w, b), (random(3, 4), random(4), random(5)[1:].detach().requires_grad_())),
    "one tensor twice": (lambda x, y: x * y.exp(), (lambda x: (x, x))(random(3))),
    "several outputs": (lambda x: (x.exp(), x.sum(), x.argmax()), random(4)),
    "a list of outputs": (lambda x: [x.exp(), x * 2], random(4)),
    "an output without graph": (lambda x: (x * 2, ta.ones(2, dtype=ta.float64)), random(4)),
    "an input that is no tensor": (lambda x, n, y: x**n * y, (random(3), 3, 2.0)),
    "inputs without requires_grad": (lambda x, m: x.masked_fill(m, 0.0), (random(3), ta.tensor([True, False, True]))),
    "a float32 input without requires_grad": (lambda x, c: x * c, (random(3), ta.ones(3))),
    "an unused input": (lambda x, y: x * 2, (random(3), random(2))),
    "an input that is computed": (lambda x: x.exp(), random(3) * 2),
    "an output that is a view": (lambda x: x.reshape(2, 2).mT[0], random(4)),
    "minus infinity": (lambda x: x.masked_fill(x > 0, -np.inf), leaf([1.0, -1.0])),
    "nothing": (lambda x: x * 2, leaf(np.zeros((0, 3)))),
    "strong curvature": (lambda x: (x * 300).sin(), random(4)),
    "large numbers": (lambda x: x**3 * 1e4, random(4)),
    "a smooth meeting of pieces": (lambda x: x.abs() ** 1.5, leaf([0.0, 1.0])),
    "relu away from 0": (ta.relu, leaf([1.0, -1.0, 0.01])),
}  # fmt: skip


@pytest.mark.parametrize("fast_mode", [True, False], ids=["directions", "elements"])
@pytest.mark.parametrize("case", RIGHT)
def test_gradcheck_passes_right_gradients(case: str, fast_mode: bool) -> None:
    func, inputs = RIGHT[case]
    assert gradcheck(func, inputs, fast_mode=fast_mode) is True


@pytest.mark.parametrize("case", [c for c in RIGHT if "pieces" not in c])
def test_gradgradcheck_passes_right_second_derivatives(case: str) -> None:
    func, inputs = RIGHT[case]
    assert gradgradcheck(func, inputs, atol=1e-4 if "strong" in case else 1e-5) is True


def test_gradcheck_takes_captured_parameters_as_inputs() -> None:
    layer, x = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, activation="gelu").double(), random(1, 3, 4)
    assert gradcheck(lambda x, *_: layer(x), (x, *layer.parameters()))
    before = [p.numpy().copy() for p in layer.parameters()]
    assert gradgradcheck(lambda x, *_: layer(x), (x, *layer.parameters()))
    assert all(map(np.array_equal, before, (p.numpy() for p in layer.parameters())))
    assert all(p.grad is None for p in layer.parameters())


def test_gradcheck_takes_two_evaluations_for_each_input() -> None:
    calls = []
    assert gradcheck(lambda x, y: calls.append(1) or x @ y, (random(30, 40), random(40, 20)))
    assert len(calls) == 2 + 2 * 2  # two to see that they agree, and two an input


def test_gradgradcheck_takes_grad_outputs() -> None:
    assert gradgradcheck(lambda x: (x.exp(), x.sin()), random(3), (random(3), leaf([1.0, 2, 3], False)))
    with pytest.raises(ValueError, match="grad_outputs 0 is float32"):
        gradgradcheck(ta.exp, random(3), ta.ones(3, requires_grad=True))


# --- what is wrong is named ---


def wrong(rule: Any, forward: Any = lambda F, x: x * x * x) -> ta.Operation:
    return ta.Operation(forward, name="wrong", x=rule)


X = [[0.5, -1.0, 2.0], [1.5, 0.25, -3.0]]
WRONG: dict[str, Any] = {
    "a factor": (wrong(lambda F, g, x: g * x * x * 2), r"output 0 at \(1, 2\), input 0 at \(1, 2\): backward gives 18, finite differences 27 "),
    "a sign": (wrong(lambda F, g, x: g * x * x * -3), r"backward gives -27, finite differences 27 .*difference 54, allowed 0.027; 6 of 36 elements"),
    "one element": (wrong(lambda F, g, x: g * x * x * (3 + (x == 1.5) * 0.01)), r"at \(1, 0\), input 0 at \(1, 0\): backward gives 6.77\d*, finite differences 6.75 .*; 1 of 36"),
    "NaN": (wrong(lambda F, g, x: F.where((x == 2.0) & (g != 0), np.nan, g * x * x * 3)), r"input 0 at \(0, 2\): backward gives nan, finite"),
    "the wrong axis": (wrong(lambda F, g, x: F.flip(g, (1,)), lambda F, x: x * 1), "backward gives 0, finite differences 1 "),
    "a detached factor": (lambda x: x * x.detach(), r"at \(1, 2\): backward gives -3, finite differences -6 "),
    "a detached output": (lambda x: x.detach() * 2, "backward gives None, for no path in the graph leads there.*finite differences 2 "),
    "one of two outputs": (lambda x: (x * 2, x.detach()), r"output 1 at \(1, 2\), input 0 at \(1, 2\): backward gives None"),
    "numpy": (lambda x: x + ta.tensor(np.sin(x.numpy())), r"input 0 at"),
    "a wrong rule beside a kink": (lambda x: (x - 2.0).abs() + wrong(lambda F, g, x: g)(x), "backward gives 0, finite differences 26 "),
}  # fmt: skip


@pytest.mark.parametrize("fast_mode", [True, False], ids=["directions", "elements"])
@pytest.mark.parametrize("case", WRONG)
def test_gradcheck_names_wrong_gradients(case: str, fast_mode: bool) -> None:
    func, message = WRONG[case]
    with pytest.raises(GradcheckError, match=message) as caught:
        gradcheck(func, leaf(X), fast_mode=fast_mode)
    assert type(caught.value) is GradcheckError
    assert gradcheck(func, leaf(X), raise_exception=False, fast_mode=fast_mode) is False


def test_gradcheck_names_the_input() -> None:
    @ta.operation(a=lambda F, g, b: g * b, b=lambda F, g, a: g * a * 1.01)
    def product(F: Any, a: Any, b: Any) -> Any:
        return a * b

    with pytest.raises(GradcheckError, match=r"input 2 at \(1,\)"):
        gradcheck(lambda a, n, b: product(a, b) * n, (leaf([1.0, 5.0]), 2.0, leaf([1.0, 2.0])))


def test_gradcheck_finds_one_wrong_element_of_many() -> None:
    slip = wrong(lambda F, g, x: g * x * x * (3 + (np.arange(5000) == 4321) * 0.1))
    with pytest.raises(GradcheckError, match=r"input 0 at \(4321,\)"):
        gradcheck(lambda x: slip(x).sum(), random(5000))


SECOND = {
    "saved out of the graph": (wrong(lambda F, g, x: g * np.square(getattr(x, "data", x)) * 3), r"gradient 0 at \(\d, \d\), input 0 at \(\d, \d\): backward gives None, .* finite"),
    "a factor detached": (wrong(lambda F, g, x: g * F.reshape(getattr(x, "detach", lambda: x)(), x.shape) * x * 3), r"gradient 0 at \(\d, \d\), input 0 at \(\d, \d\): backward gives"),
}  # fmt: skip


@pytest.mark.parametrize("case", SECOND)
def test_gradgradcheck_names_wrong_second_derivatives(case: str) -> None:
    func, message = SECOND[case]
    with pytest.raises(GradcheckError, match="gradgradcheck: " + message) as caught:
        gradgradcheck(func, leaf(X))
    assert "Is the rule made of xp and operators alone" in str(caught.value)
    assert gradgradcheck(func, leaf(X), raise_exception=False) is False


def test_gradcheck_names_a_backward_that_varies() -> None:
    drift: list[int] = []
    func = wrong(lambda F, g, x: g * x * x * 3 + (drift.append(1) or len(drift)) * 1e-9)
    with pytest.raises(GradcheckError, match="two backward passes give input 0 different gradients"):
        gradcheck(func, leaf(X))
    assert gradcheck(func, leaf(X), nondet_tol=1e-6)


def test_gradcheck_names_a_function_that_varies() -> None:
    with pytest.raises(GradcheckError, match=r"for the same inputs \(output 0 at .*Unseeded dropout"):
        gradcheck(lambda x: F.dropout(x, 0.5), random(20))

    def seeded(x: ta.Tensor) -> ta.Tensor:
        return F.dropout(x, 0.5, generator=ta.Generator().manual_seed(0))

    assert gradcheck(seeded, random(20))


# --- where there is no derivative, no rule is blamed ---

KINKS: dict[str, Any] = {
    "relu at 0": (ta.relu, [1.0, 0.0], r"at \(1,\), input 0 at \(1,\): not differentiable there, the slope is 0 on the left and 1 on"),
    "abs at 0": (ta.abs, [1.0, 0.0], "the slope is -1 on the left and 1 on the right"),
    "a tie of max": (lambda x: x.max(), [3.0, 1.0, 3.0], r"input 0 at \(0,\): not differentiable there, the slope is 0 on the left and 1"),
    "a tie of maximum": (lambda x: ta.maximum(x, ta.ones(2, dtype=ta.float64)), [1.0, 2.0], "not differentiable"),
    "clamp at its edge": (lambda x: x.clamp(0, 1), [0.5, 1.0], "the slope is 1 on the left and 0 on the right"),
    "sqrt at 0": (ta.sqrt, [1.0, 0.0], "the slope is nan on the left and 1000 on the right"),
    "log at 0": (ta.log, [0.0, 1.0], "not differentiable"),
    "a jump": (lambda x: ta.div(x, 1.0, rounding_mode="floor"), [0.5, 2.0], r"1e\+06 on the left and 0"),
    "sign at 0": (ta.sign, [0.0], r"1e\+06 on the left and 1e\+06 on the right"),
    "a cusp": (lambda x: x.abs() ** 0.5, [0.0, 1.0], "not differentiable"),
    "a small kink": (lambda x: x.exp() * 50 + x.abs() * 0.1, [0.0], "the slope is 49.9 on the left and 50.1 on the right"),
    "an oblique kink": (lambda x: (x[0] * x[1]).abs().clamp(1e-300) ** 0.5, [0.0, 0.0], "not differentiable|oblique"),
}  # fmt: skip


@pytest.mark.parametrize("fast_mode", [True, False], ids=["directions", "elements"])
@pytest.mark.parametrize("case", KINKS)
def test_gradcheck_recognises_kinks(case: str, fast_mode: bool) -> None:
    func, values, message = KINKS[case]
    if "oblique" in case and not fast_mode:
        return  # seen from no single element
    with pytest.raises(NotDifferentiableError, match=message):
        gradcheck(func, leaf(values), fast_mode=fast_mode)
    assert gradcheck(func, leaf(values), raise_exception=False, fast_mode=fast_mode) is False


# --- what cannot be checked ---

REFUSED: dict[str, Any] = {
    "float32": (lambda: gradcheck(ta.exp, ta.ones(3, requires_grad=True)), "input 0 is float32, whose few digits drown a difference over 1e-06"),
    "a float32 output": (lambda: gradcheck(lambda x: x.float(), random(3)), "output 0 is float32"),
    "no gradient asked for": (lambda: gradcheck(ta.exp, leaf([1.0], False)), "no input requires a gradient"),
    "no float output": (lambda: gradcheck(lambda x: x.argmax(), random(3)), "no floating-point tensor"),
    "an expanded input": (lambda: gradcheck(ta.exp, leaf([1.0]).expand(3)), r"input 0 cannot be moved.*pass a clone\(\)"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_gradcheck_refuses_what_it_cannot_check(case: str) -> None:
    call, message = REFUSED[case]
    with pytest.raises(ValueError, match="gradcheck: .*" + message):
        call()


def test_gradcheck_names_a_nan_output() -> None:
    with pytest.raises(GradcheckError, match=r"output 0 is NaN at \(1,\)"):
        gradcheck(ta.log, leaf([1.0, -1.0]))


def test_gradcheck_restores_inputs_after_an_error() -> None:
    x = leaf([1.0, 2.0])

    def fails(x: ta.Tensor) -> ta.Tensor:
        if x.array[0] != 1.0:
            raise KeyError("moved")
        return x * 2

    with pytest.raises(KeyError):
        gradcheck(fails, x)
    assert x.tolist() == [1.0, 2.0]
    assert x.grad is None


def test_gradcheck_arguments_and_verdicts_are_torchs() -> None:
    """The same calls, the same verdicts, in both engines."""

    def both(name: str, func: Any, values: Any, **options: Any) -> tuple[bool, bool]:
        ours = {"gradcheck": gradcheck, "gradgradcheck": gradgradcheck}[name]
        theirs = getattr(torch.autograd, name)
        x = torch.tensor(values, dtype=torch.float64, requires_grad=True)
        return ours(func, leaf(values), **options), theirs(func, (x,), **options)

    for name in ("gradcheck", "gradgradcheck"):
        for fast_mode in (True, False):
            quiet = {"raise_exception": False, "fast_mode": fast_mode}
            assert both(name, lambda x: x.sin() * x, [1.0, 2.0], eps=1e-6, atol=1e-5, rtol=1e-3, **quiet) == (
                True,
                True,
            )
            assert both(name, lambda x: x.exp() * x.detach(), [1.0, 2.0], nondet_tol=0.0, **quiet) == (False, False)


# --- an operation of one's own ---


def test_custom_operation_example_checks_its_operation(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["custom_operation.py"])  # else pytest's options, as -q
    example = runpy.run_path(str(Path(__file__).parents[1] / "examples/custom_operation.py"))
    example["main"]()
    printed = capsys.readouterr().out
    assert len(re.findall(r"derivatives right:\s+True", printed)) == 2
    assert re.search(r"the wrong rule is found:  gradcheck: output 0 at \(1, 2\), input 0 at \(1, 2\)", printed)
    assert printed.endswith("beta = 1.7: 1.700\n")


def test_custom_operation_example_keeps_dtypes_and_shapes() -> None:
    swish = runpy.run_path(str(Path(__file__).parents[1] / "examples/custom_operation.py"))["swish"]
    x, beta = ta.randn(2, 3, requires_grad=True), ta.ones(3, requires_grad=True)
    swish(x, beta).sum().backward()
    assert x.grad.dtype == beta.grad.dtype == ta.float32
    assert beta.grad.shape == (3,)
    assert np.allclose(swish(x, 1.0).numpy(), F.silu(x).numpy(), atol=1e-6)
