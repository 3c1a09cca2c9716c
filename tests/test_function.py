"""autograd.Function beside PyTorch's: the same source, run by both libraries."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref

import numpy as np
import pytest
import torch

import tinyattn as ta
from tinyattn.autograd import once_differentiable

ON_EVERY_DEVICE = ["test_function_gradients_as_torch", "test_function_of_float16_sees_float16"]


def of(library):
    """Functions as their users write them."""
    Function = library.autograd.Function

    class Swish(Function):
        @staticmethod
        def forward(ctx, x, beta, unused=None):
            ctx.save_for_backward(x)
            ctx.beta = beta
            return x * library.sigmoid(beta * x)

        @staticmethod
        def backward(ctx, g):
            (x,) = ctx.saved_tensors
            assert ctx.needs_input_grad == (True, False)
            s = library.sigmoid(ctx.beta * x)
            return g * (s + ctx.beta * x * s * (1 - s)), None, None

    class Exp(Function):
        @staticmethod
        def forward(ctx, x):
            y = x.exp()
            ctx.save_for_backward(y)
            return y

        @staticmethod
        def backward(ctx, g):
            return g * ctx.saved_tensors[0]

    class Both(Function):  # an output is saved, another has no gradient, a third is a number
        @staticmethod
        def forward(ctx, x, w):
            product, order = x @ w, x.argmax(1)
            size = x.exp()
            mask = (x > 0).to(x.dtype)
            ctx.mark_non_differentiable(order, mask)
            ctx.save_for_backward(x, None, w, size)
            return product, order, size, mask, 3

        @staticmethod
        def backward(ctx, g, g_order, g_size, g_mask, g_number):
            x, nothing, w, size = ctx.saved_tensors
            assert nothing is None and g_number is None
            return g @ w.transpose(0, 1) + g_size * size, x.transpose(0, 1) @ g

    class Setup(Function):
        @staticmethod
        def forward(x, power):
            return x**power

        @staticmethod
        def setup_context(ctx, inputs, output):
            x, ctx.power = inputs
            ctx.save_for_backward(x)

        @staticmethod
        def backward(ctx, g):
            (x,) = ctx.saved_tensors
            return g * ctx.power * x ** (ctx.power - 1), None

    class Reverse(Function):
        @staticmethod
        def forward(ctx, x, scale):
            ctx.scale = scale
            return x.view_as(x)

        @staticmethod
        def backward(ctx, g):
            return g.neg() * ctx.scale, None

    class Summed(Function):  # the gradient of the smaller input has the larger shape
        @staticmethod
        def forward(ctx, x, b):
            return x + b

        @staticmethod
        def backward(ctx, g):
            return g, g.sum(0)

    class NoGradient(Function):
        @staticmethod
        def forward(ctx, x, y):
            return x * y

        @staticmethod
        def backward(ctx, g):
            return None, g

    return {
        "swish": lambda x, w: Swish.apply(x, 1.5),
        "exp": lambda x, w: Exp.apply(Exp.apply(x * 0.1)) * Exp.apply(w).sum(),
        "both": lambda x, w: list(Both.apply(x, w)[:3:2]),
        "both, four": lambda x, w: list(Both.apply(x, w)[:4]),
        "both, one used": lambda x, w: Both.apply(x, w)[2] * 2,
        "both, all": lambda x, w: Both.apply(x, w)[1],
        "setup": lambda x, w: Setup.apply(x * x + 1, 1.5),
        "reversed": lambda x, w: Reverse.apply((x @ w).tanh(), 0.5),
        "reversed view": lambda x, w: Reverse.apply(x, 0.5),
        "summed": lambda x, w: Summed.apply(x, w[:, 0]).tanh(),
        "no gradient": lambda x, w: NoGradient.apply(x.tanh(), x.exp()),
        "twice": lambda x, w: Swish.apply(Swish.apply(x, 1.5), 1.5),
    }


NAMES = list(of(torch))


def inputs(dtype="float64"):
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((4, 3)).astype(dtype), rng.standard_normal((3, 3)).astype(dtype)]
    return [ta.tensor(a, requires_grad=True) for a in arrays], [torch.tensor(a, requires_grad=True) for a in arrays]


@pytest.mark.parametrize("name", NAMES)
def test_function_gradients_as_torch(name):
    ours, theirs = inputs()
    found = []
    for library, leaves in ((ta, ours), (torch, theirs)):
        out = of(library)[name](*leaves)
        outs = list(out) if isinstance(out, list | tuple) else [out]
        row = [*outs]
        if any(t.requires_grad for t in outs):
            total = sum((t * t.detach().cos()).sum() for t in outs)
            grads = library.autograd.grad(total, leaves, create_graph=True, allow_unused=True)
            row += grads
            again = sum((g * g).sum() for g in grads if g is not None and g.requires_grad)
            if not isinstance(again, int):
                row += library.autograd.grad(again, leaves, allow_unused=True)
        found.append(row)
    assert [t is None for t in found[0]] == [t is None for t in found[1]]
    for a, b in zip(*found, strict=True):
        if a is not None:
            assert a.requires_grad == b.requires_grad and tuple(a.shape) == tuple(b.shape)
            np.testing.assert_allclose(a.detach().cpu().numpy(), b.detach().numpy(), rtol=1e-12, atol=1e-13)


def test_function_outputs_as_torch():
    ours, theirs = inputs()

    def seen_by(library, x):
        seen = []

        class Parts(library.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                return x.argmax(1), [1, 2], x * 2, "text", None

            @staticmethod
            def backward(ctx, *gradients):
                seen.append([None if g is None else tuple(g.shape) for g in gradients])
                return gradients[2]

        out = Parts.apply(x)
        out[2].sum().backward()
        seen += [type(out), [getattr(t, "requires_grad", t) for t in out]]
        with library.no_grad():
            seen.append([getattr(t, "requires_grad", t) for t in Parts.apply(x)])
        return seen

    assert seen_by(ta, ours[0]) == seen_by(torch, theirs[0])


def test_function_of_float16_sees_float16():
    seen = []

    class Double(ta.autograd.Function):
        @staticmethod
        def forward(ctx, x, y):
            seen.append(x.dtype)
            ctx.save_for_backward(x)
            return x * 2, y * 2

        @staticmethod
        def backward(ctx, g, h):
            seen.extend([g.dtype, h.dtype, ctx.saved_tensors[0].dtype])
            return g * 2, h * 2

    x, y = ta.ones(3, dtype=ta.float16, requires_grad=True), ta.full((2,), 0.1, requires_grad=True)
    a, b = Double.apply(x, y)
    (a.sum() + b.sum()).backward()
    assert seen == [ta.float16, ta.float16, ta.float32, ta.float16]
    assert b.tolist() == (y * 2).tolist()
    assert (a.dtype, x.grad.dtype, y.grad.tolist()) == (ta.float16, ta.float16, [2.0, 2.0])


def faulty(what):
    class Faulty(ta.autograd.Function):
        @staticmethod
        def forward(ctx, x, y):
            if what == "dirty":
                ctx.mark_dirty(x)
            ctx.save_for_backward(x)
            return x * y

        @staticmethod
        def backward(ctx, g):
            (x,) = ctx.saved_tensors
            return {"few": g, "many": (g, g, g), "kind": (g.array, None), "shape": (g[:1, :1].repeat(5, 1), None)}.get(
                what, (g, x)
            )

    return Faulty


@pytest.mark.parametrize(
    ("what", "error", "words"),
    [
        ("few", RuntimeError, "Faulty.backward returned 1 gradients for 2 arguments"),
        ("many", RuntimeError, "Faulty.backward returned 3 gradients for 2 arguments"),
        ("kind", TypeError, "Faulty.backward returned a ndarray; expected tensors and None"),
        ("shape", RuntimeError, "its rule gave a gradient of shape"),
        ("dirty", NotImplementedError, "cannot change its inputs in place"),
        ("written", RuntimeError, "changed it in place before backward"),
        ("twice", RuntimeError, "backward a second time through Faulty"),
    ],
)
def test_function_faults_are_sentences(what, error, words):
    (x, y), _ = inputs()
    z = x * 1

    def run():
        out = faulty(what).apply(z, y[:1])
        if what == "written":
            z.add_(1)
        for _ in range(1 + (what == "twice")):
            out.sum().backward()

    with pytest.raises(error, match=words):
        run()


def test_function_written_output_is_refused():
    class Exp(ta.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            y = x.exp()
            ctx.save_for_backward(y)
            return y

        @staticmethod
        def backward(ctx, g):
            return g * ctx.saved_tensors[0]

    x = ta.ones(3, requires_grad=True)
    y = Exp.apply(x)
    y.mul_(2)
    with pytest.raises(RuntimeError, match=r"Exp .* saved 'saved' .* mul_"):
        y.sum().backward()


def test_function_output_that_is_its_input_shares_the_version():
    (x, w), _ = inputs()
    z = x * 1
    out = of(ta)["reversed view"](z, w)
    squares = out * out
    z.add_(1)
    with pytest.raises(RuntimeError, match="changed it in place before backward"):
        squares.sum().backward()


def test_function_without_methods_is_refused():
    class Empty(ta.autograd.Function):
        pass

    with pytest.raises(NotImplementedError, match=r"static method forward\(ctx, \*args\)"):
        Empty.apply(ta.ones(2))


def test_once_differentiable_refuses_second_derivatives():
    class Square(ta.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        @once_differentiable
        def backward(ctx, g):
            return ta.from_numpy(g.numpy() * 2 * ctx.saved_tensors[0].numpy())

    x = ta.tensor([3.0], requires_grad=True)
    assert ta.grad(Square.apply(x).sum(), x)[0].item() == 6.0
    (slope,) = ta.grad(Square.apply(x).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable was differentiated a second time"):
        slope.sum().backward()


def test_function_gradcheck_passes_and_finds_faults():
    (x, w), _ = inputs()
    for name in ("swish", "both", "setup"):
        function = of(ta)[name]
        assert ta.gradcheck(
            lambda x, w, function=function: tuple(t for t in [*function(x, w)] if t.requires_grad), (x, w)
        )
        assert ta.gradgradcheck(lambda x, w, function=function: sum(t.sum() for t in [*function(x, w)]), (x, w))
    with pytest.raises(ta.debug.GradcheckError, match="backward gives"):
        ta.gradcheck(of(ta)["reversed"], (x, w))


def test_function_releases_what_it_saved():
    (x, w), _ = inputs()
    for name in ("exp", "both"):
        out = of(ta)[name](x, w)
        call = (out if isinstance(out, ta.Tensor) else out[0]).node
        while call.op.name not in ("Exp", "Both"):
            call = call.edges[0]
        gc.collect()
        gc.disable()
        try:
            alive = weakref.ref(call)
            del out, call
            assert alive() is None, "no cycle may keep a call"
        finally:
            gc.enable()


def test_tools_see_a_function_as_one_operation():
    (x, w), _ = inputs()
    names = []

    class Names(ta.engine.observer.Observer):
        def before_forward(self, op, inputs, options):
            names.append(op.name)

    swish = of(ta)["swish"]
    with Names(), ta.detect_anomaly():
        swish(x, w).sum().backward()
    assert names == ["Swish", "sum"]
    picture = ta.viz.graph(swish, x, w, mode="operations")
    assert not picture.error and "graph of function: 1 operations" in repr(picture)
    plain = swish(x, w)
    again = ta.checkpoint(swish, x, w)
    for a, b in zip(ta.grad(plain.sum(), x), ta.grad(again.sum(), x), strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    with pytest.raises(ta.debug.anomaly.AnomalyError, match="Swish"), ta.detect_anomaly():
        swish(x * np.inf, w)


def test_reentrant_checkpoint_written_as_a_function():
    """The pattern by which PyTorch's users recompute: a walk inside of a walk."""

    class Recompute(ta.autograd.Function):
        @staticmethod
        def forward(ctx, run, x):
            ctx.run = run
            ctx.save_for_backward(x)
            return run(x)

        @staticmethod
        def backward(ctx, g):
            x = ctx.saved_tensors[0].detach().requires_grad_()
            with ta.enable_grad():
                out = ctx.run(x)
            ta.autograd.backward(out, g)
            return None, x.grad

    layer = ta.nn.Linear(3, 2)
    x = ta.randn(4, 3, requires_grad=True)
    layer(x).tanh().sum().backward()
    expected = [p.grad.numpy() for p in (x, *layer.parameters())]
    x.grad = None
    layer.zero_grad()
    Recompute.apply(layer, x).tanh().sum().backward()
    for p, want in zip((x, *layer.parameters()), expected, strict=True):
        np.testing.assert_allclose(p.grad.numpy(), want, rtol=1e-6)


def test_function_that_wants_no_zeros_gets_none_as_in_pytorch():
    seen = []
    for library in (ta, torch):

        class Twice(library.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                ctx.set_materialize_grads(False)
                ctx.mark_non_differentiable(count := x.detach() > 0)
                return x * 2, x * 3, count

            @staticmethod
            def backward(ctx, first, second, count):
                seen.append((first is None, second is None, count is None))
                return first * 2 if second is None else second * 3 if first is None else first * 2 + second * 3

        seen.clear()
        for use, slope in ((lambda a, b: a, 2.0), (lambda a, b: b, 3.0), (lambda a, b: a + b, 5.0)):
            x = library.ones(2, dtype=library.float64, requires_grad=True)
            use(*Twice.apply(x)[:2]).sum().backward()
            assert x.grad.tolist() == [slope, slope]
        assert seen == [(False, True, True), (True, False, True), (False, False, True)]


def test_grad_of_a_batch_of_output_gradients():
    found = []
    for library in (ta, torch):
        x, y = (library.ones(2, 3, dtype=library.float64, requires_grad=True) for _ in range(2))
        out, options = (x**3).sum(1), {"is_grads_batched": True, "allow_unused": True, "create_graph": True}
        batch = library.eye(2, dtype=library.float64)
        slopes, none = library.autograd.grad(out, (x, y), (batch,), **options)
        assert none is None
        found += [slopes.detach().numpy(), library.autograd.grad(slopes.sum(), x)[0].numpy()]
    np.testing.assert_array_equal(found[0], found[2])
    np.testing.assert_array_equal(found[1], found[3])


def test_grad_takes_all_options_of_pytorch():
    (x, w), (xt, wt) = inputs()
    for library, a, b in ((ta, x, w), (torch, xt, wt)):
        grads = library.autograd.grad((a * a).sum(), [a, b], only_inputs=True, materialize_grads=True)
        assert [g.shape == t.shape for g, t in zip(grads, (a, b), strict=True)] == [True, True]
        assert not grads[1].any()
    with pytest.raises(RuntimeError, match="allow_unused=True to get None there, or materialize_grads=True"):
        ta.grad((x * x).sum(), [x, w])


def test_set_detect_anomaly_switches_and_restores():
    nan = ta.tensor(np.nan, requires_grad=True)
    switch = ta.debug.set_detect_anomaly(True)
    try:
        with pytest.raises(ta.debug.AnomalyError):
            nan * 2
        with ta.debug.set_detect_anomaly(False):
            nan * 2
        with ta.debug.set_detect_anomaly(True, check_nan=False):
            nan * 2
        with pytest.raises(ta.debug.AnomalyError):
            nan * 2
    finally:
        switch.__exit__()
    nan * 2


def test_parameter_attributes_survive_copies():
    p = ta.nn.Parameter(ta.ones(2))
    p.no_decay, p.tags = True, ["a"]
    layer = ta.nn.Linear(2, 2)
    layer.weight.lr_scale = 0.5
    for twin in (copy.deepcopy(p), pickle.loads(pickle.dumps(p))):
        assert (twin.no_decay, twin.tags) == (True, ["a"]) and twin.tags is not p.tags
        assert isinstance(twin, ta.nn.Parameter) and twin.requires_grad
    assert copy.deepcopy(layer).weight.lr_scale == 0.5 and layer.double().weight.lr_scale == 0.5


def test_function_backward_differentiates_by_saved_leaves():
    class Adjoint(ta.autograd.Function):
        @staticmethod
        def forward(ctx, x, w):
            ctx.save_for_backward(x, w)
            return (x * w).sin()

        @staticmethod
        def backward(ctx, g):
            x, w = ctx.saved_tensors
            with ta.enable_grad():
                x = x.detach().requires_grad_()
                out = (x * w).sin()
                return ta.grad(out, (x, w), g)

    x = ta.tensor([0.5, 2.0], dtype=ta.float64)
    w = ta.tensor([1.0, 3.0], dtype=ta.float64, requires_grad=True)
    Adjoint.apply(x, w).sum().backward()
    assert ta.allclose(w.grad, x * (x * w.detach()).cos())
