"""Operators, constructors and Python's protocols give what they give in PyTorch: the same program, the same numbers."""

from __future__ import annotations

import copy
import operator
import pickle
import tracemalloc
import types
import warnings

import numpy as np
import pytest
import torch

import tinyattn as ta

ON_EVERY_DEVICE = (
    "test_binary_and_in_place_operators",
    "test_creation_with_every_dtype",
    "test_programs_give_what_they_give_in_pytorch",
)

# --- operators: every dtype with every kind of operand ---

DTYPES = "bool uint8 int32 int64 float16 float32 float64".split()
BINARY = "add sub mul truediv floordiv mod pow and_ or_ xor lshift rshift eq ne lt le gt ge".split()
IN_PLACE = "iadd isub imul itruediv ifloordiv imod ipow iand ior ixor ilshift irshift".split()
NUMBERS = [True, 3, -2, 300, 0, 2.5, *(np.dtype(dtype).type(2) for dtype in DTYPES if dtype != "bool")]


def array(kind, values):
    dtype, dims = kind
    return np.array(values if dims else values[2]).astype(dtype)


KINDS = [(dtype, dims) for dtype in DTYPES for dims in (0, 1)]
OPERANDS = [*KINDS, *NUMBERS]


def explained(name, kind, other, theirs):
    """Where our answer is not PyTorch's: it lets a number wrap around that uint8 cannot hold, and True be a power;
    an integer divided by 0 raises on the CPU alone."""
    if ta.get_default_device() != "cpu" and theirs == "raises":
        return name in "floordiv mod ifloordiv imod".split()
    if kind[0] == "uint8" and type(other) is int and other in (-2, 300):
        return name in "lt le gt ge floordiv mod pow ifloordiv imod".split()
    return kind[0] == "bool" and other is True and name in ("pow", "ipow")


def outcome(run, left, right):
    """The dtype and the numbers of `run(left, right)`, or "raises"."""
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            out = run(left, right)
    except (TypeError, ValueError, RuntimeError, ArithmeticError):
        return "raises"
    out = out.cpu().numpy()
    return str(out.dtype), out


def differs(ours, theirs):
    if "raises" in (ours, theirs):
        return ours is not theirs
    tolerance = {"float16": 1e-3, "float32": 1e-6}.get(ours[0], 1e-14)
    if ours[0] != theirs[0] or ours[1].shape != theirs[1].shape:
        return True
    return not np.allclose(ours[1], theirs[1], rtol=tolerance, atol=0, equal_nan=True)


def in_place(run):
    def write(left, right):
        assert run(left, right) is left
        return left

    return write


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind[0]}-{kind[1]}d")
def test_binary_and_in_place_operators(kind):
    found = []
    for name in BINARY + IN_PLACE:
        function = getattr(operator, name)
        forms = [function, lambda a, b, f=function: f(b, a)] if name in BINARY else [in_place(function)]
        for form, other in ((form, other) for form in forms for other in OPERANDS):
            results = []
            for make in (lambda a: ta.tensor(a, device=ta.get_default_device()), torch.tensor):
                right = make(array(other, [2, 1, 1])) if type(other) is tuple else other
                results.append(outcome(form, make(array(kind, [1, 0, 3])), right))
            if differs(*results) and not explained(name, kind, other, results[1]):
                found.append((name, form is not forms[0], other, *results))
    assert not found, f"{len(found)} differences, such as {found[:5]}"


# --- functions that make tensors, with every dtype ---

CREATED = """
zeros(2,3) zeros((2,3)) zeros([2]) zeros(0) zeros(()) zeros(size=(2,)) ones(2,3) ones(()) ones(size=(2,)) empty(2,0)
full((2,),1) full((2,),2.5) full((),True) full((2,),-1) full([2],fill_value=3)
full((2,),300) full((2,),float('inf')) full((2,),np.float32(2)) full((2,),np.float64(2)) full((2,),np.int32(2))
full((2,),t.tensor(2.5)) full((2,),t.tensor(2)) full(size=(2,),fill_value=1)
arange(5) arange(1,7,2) arange(0.0,1,0.25) arange(5.0) arange(3,0,-1) arange(0) arange(start=1,end=4) arange(end=4)
arange(np.int64(3)) arange(np.float32(3)) arange(t.tensor(3)) arange(t.tensor(3.0)) arange(0,1,0.1) arange(2.5)
arange(1,5,1.5) arange(-2,2)
linspace(0,1,5) linspace(0,10,4) linspace(0,1,1) linspace(0,1,0) linspace(-3,3,steps=4)
linspace(start=1,end=2,steps=3) linspace(5,1,4) linspace(t.tensor(0.),t.tensor(1.),3)
eye(2) eye(2,3) eye(3,m=1) eye(0) eye(n=2)
tensor([1,2]) tensor([1.5,2]) tensor(1) tensor(1.5) tensor(True) tensor([True,False]) tensor([]) tensor([[1,2],[3,4]])
tensor(np.ones(2)) tensor(np.float32(1)) tensor(np.int16(1)) tensor(np.array([1,2],dtype=np.int8))
tensor(t.tensor([1.5])) tensor(t.tensor([1,2],dtype=t.int32)) tensor([t.tensor(1),2]) tensor([1,2.5,True])
tensor((1,2)) tensor(range(3)) tensor([-1,2]) tensor([300]) tensor([2.7,-1.2]) tensor(float('nan')) tensor([1e40])
tensor(2**40) tensor([np.int32(1),np.int32(2)]) tensor([np.uint8(3)]) tensor([np.bool_(True)])
tensor([[np.float32(1)]]) tensor(np.zeros((0,3)))
as_tensor([1,2]) as_tensor(1.5) as_tensor(np.ones(2)) as_tensor(t.ones(2)) as_tensor(t.tensor([1,2]))
as_tensor(np.int32(1)) as_tensor(data=[1]) as_tensor(True)
zeros_like(F) zeros_like(I) zeros_like(B) ones_like(F) ones_like(I) ones_like(B) empty_like(F[:0]) full_like(F,2)
full_like(I,2) full_like(I,2.7) full_like(B,1) full_like(F,True) full_like(I,-1) full_like(F,1e40)
full_like(input=F,fill_value=1) zeros_like(input=F)
F.new_zeros(2,3) I.new_zeros((2,)) F.new_ones(2) B.new_ones(2) I.new_full((2,),2.7) F.new_full((2,),3)
B.new_full((),2) I.new_tensor([1.5]) F.new_tensor([1]) F.new_tensor(t.tensor([1,2])) I.new_empty(0)
F.new_zeros(size=(2,)) F.new_tensor(3)
""".split()


def stricter(form, dtype):
    """Where one of both refuses: we take NumPy's numbers of any kind, and refuse to space booleans or wrapped numbers."""
    if form.startswith("linspace"):
        return dtype == "bool" or (dtype == "uint8" and "-3" in form)
    return "np.float32" in form or "np.bool" in form


def created(library, form, dtype):
    names = {"t": library, "np": np, "F": library.tensor([1.5, 2]), "I": library.tensor([1, 2], dtype=library.int32)}
    names["B"] = library.tensor([True, False])
    call = form if form[0] in "FIB" else f"t.{form}"
    return outcome(lambda *_: eval(call if dtype is None else f"{call[:-1]}, dtype=t.{dtype})", names), None, None)


@pytest.mark.parametrize("dtype", [None, "int8", "int16", *DTYPES])
def test_creation_with_every_dtype(dtype):
    results = {form: [created(library, form, dtype) for library in (ta, torch)] for form in CREATED}
    found = {form: each for form, each in results.items() if differs(*each)}
    unexplained = {form: each for form, each in found.items() if not ("raises" in each and stricter(form, dtype))}
    assert not unexplained


# --- one program, run on both; what it leaves in `out` is compared ---

PROGRAMS = """
out = x = t.arange(6).reshape(2, 3); r = x[1]; r //= 2; r += 1; r %= 3; r **= 2; r <<= 2; r >>= 1; r |= 3; r ^= 1; r &= 6
out = x = t.arange(6.0).reshape(2, 3); r = x[:, 1]; r //= 2; r -= 0.5; r *= 3; r /= 2; r **= 2
out = ~t.tensor([1, 0]), t.tensor([6]) & 3, ~t.tensor([True]), -t.tensor([1], dtype=t.uint8)
out = t.arange(6)[t.tensor([1, 0, 1, 0, 0, 1], dtype=t.uint8)]
out = t.tensor([1, -8, 5]) << t.tensor([-1, 70, 63]), t.tensor([1, -8, 5]) >> t.tensor([-1, 70, 63]), 1 << t.tensor([5, 64])
out = t.tensor([200, 3], dtype=t.uint8) << 1, t.tensor([200, 3], dtype=t.uint8) >> 9, t.tensor([-3, 3], dtype=t.int8) >> -1
out = t.bitwise_left_shift(t.tensor([1, 2]), 2), t.bitwise_right_shift(5, t.tensor([1, 2])), t.tensor([4]).bitwise_right_shift_(1)
out = t.Tensor([1, 2]), t.Tensor(3).shape, t.Tensor(2, 3).shape, t.Tensor().shape, t.Tensor(np.zeros((2, 1))), t.Tensor((2, 3))
out = t.Tensor(t.Size([2, 3])).shape, t.Tensor([[True, 2]]), t.Tensor(t.tensor([1, 2])), t.Tensor(np.int64(3)).shape
out = t.FloatTensor(2, 3).shape, t.LongTensor([2, 3]), t.LongTensor((2, 3)), t.LongTensor(t.tensor([1])), t.ByteTensor([[1]])
out = t.LongTensor(np.zeros(3)), t.FloatTensor(range(3)), t.DoubleTensor([1]), t.BoolTensor([0, 2]), t.HalfTensor([1])
x = t.ones(2); y = t.Tensor(x); y += 1; out = x
x = t.ones(2, requires_grad=True); t.Tensor(x * 2).sum().backward(); out = x.grad, t.Tensor(x).requires_grad
out = t.tensor([np.float64(1.5)]), t.tensor([np.zeros(2)]), t.tensor([np.float32(1.5)]), t.tensor([1.5, np.float64(2)])
out = t.tensor([t.tensor(1.5, dtype=t.float64)]), t.tensor([t.tensor(True), 2]), t.tensor([True, 2.0]), t.tensor([[], []])
out = t.full((2,), np.sqrt(2.0)), t.full((2,), True), t.full((2,), t.tensor(2.5)), t.full((2,), 7), t.full((), np.float32(3))
out = t.ones(2) == [1, 1], t.ones(2) != [1, 1], t.ones(2) == None, t.ones(2) == "a", t.ones(2) != (1, 1)
x = t.zeros(3); x[0] = t.tensor([5.0]); x[1] = t.tensor([[6.0]]); out = x
x = t.zeros(3, 2); x[0] = t.tensor([[5.0, 6]]); x[1:] = t.tensor([[[7.0, 8]]]); x[2, 0] = t.tensor([9]); out = x
x = t.zeros(3); x[t.tensor([0, 1])] = t.tensor([5.0]); x[x == 0] = t.tensor([2.0]); out = x
x = t.zeros(3, requires_grad=True); y = x * 1; y[0] = t.tensor([[5.0]]); (y * y).sum().backward(); out = y.detach(), x.grad
s = t.zeros(2, 3, 4).shape; out = s.numel(), s[1:].numel(), (s + (2,)).numel(), ((2,) + s).numel(), (s * 2).numel(), (2 * s)[0]
s = t.Size([2, 3]); out = isinstance(s, tuple), s == (2, 3), s.numel(), t.Size().numel(), t.zeros(s).size().numel(), len({s, (2, 3)})
x = t.zeros(2); y = copy.copy(x); y.add_(1); out = x, y
x = t.ones(2, requires_grad=True); y = copy.copy(x * 3); out = y.requires_grad, y.is_leaf, y.grad, y.detach()
out = [v for v in t.nn.Linear(2, 2).__dict__ if v == "weight"], copy.copy(t.nn.Parameter(t.ones(2))).requires_grad
x = t.tensor([1.0, 1, 1, 2], requires_grad=True); x.median().backward(); out = x.grad
x = t.tensor([[1.0, 1, 3, 3, 3], [2, 2, 2, 2, 2]], requires_grad=True); (x.median() * 2).backward(); out = x.grad
x = t.tensor([1.0, 1, 3, 3, 3], requires_grad=True); x.median(0).values.backward(); out = x.grad
x = t.tensor([1.0, np.nan, np.nan], requires_grad=True); x.median().backward(); out = x.grad, t.zeros(0).median()
x = t.tensor([[1.0, 0, 3, 0, 2], [0, 0, 1, 1, 1]], requires_grad=True); (x.cumprod(1) ** 2).sum().backward(); out = x.grad
x = t.zeros(3, dtype=t.uint8); out = x.fill_(255).clone(), x.fill_(-1).clone(), x.fill_(-255).clone(), x.fill_(2.9).clone()
x = t.zeros(3, dtype=t.int8); out = x.fill_(-0.5).clone(), x.fill_(126.9).clone(), x.fill_(True).clone(), x.fill_(-128).clone()
out = F.scaled_dot_product_attention(*[t.zeros(1, 0, 4)] * 3), F.scaled_dot_product_attention(t.ones(1, 2, 4), *[t.ones(1, 0, 4)] * 2)
out = F.scaled_dot_product_attention(t.zeros(1, 0, 4), *[t.ones(1, 3, 4)] * 2), F.scaled_dot_product_attention(*[t.zeros(0, 2, 4)] * 3)
out = t.nn.MultiheadAttention(8, 2).head_dim, t.cuda.manual_seed(0), t.cuda.manual_seed_all(0)
out = t.zeros(2).half(), t.zeros(2).double(), t.ones(2).bool(), t.ones(2).byte(), t.ones(2).int(), t.ones(2).long().float()
""".strip().split("\n")


def plain(out):
    """Numbers, dtypes and shapes, without the class of tensors."""
    if isinstance(out, ta.Tensor | torch.Tensor):
        a = out.detach().cpu().numpy()
        return str(a.dtype), a.shape, a.tolist()
    return [plain(x) for x in out] if isinstance(out, list | tuple) else out


def result(library, program):
    functional = library.nn.functional
    names = {"t": library, "F": functional, "np": np, "copy": copy}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's, of uint8 masks and lists of arrays
        exec(program, names)
    return plain(names["out"])


@pytest.mark.parametrize("program", PROGRAMS)
def test_programs_give_what_they_give_in_pytorch(program):
    np.testing.assert_equal(result(ta, program), result(torch, program))


@pytest.mark.parametrize(
    "program",
    [
        "t.tensor([1.5]) << 1", "t.tensor([True]) >> t.tensor([True])", "t.tensor([True]) - 1.5 - t.tensor([True])",
        "1 - t.tensor([True])", "t.ones(2) < [1, 1]", "t.ones(2) >= None", "t.Tensor(2.5)", "t.Tensor(True)", "t.Tensor('ab')",
        "t.LongTensor(t.zeros(2))", "t.ByteTensor([300])", "t.Tensor(-1)", "t.Tensor(2, [3])", "t.zeros(3, dtype=t.uint8).fill_(-0.5)",
        "t.zeros(3, dtype=t.int8).fill_(127.9)", "t.zeros(3, dtype=t.uint8).fill_(-256)", "t.ones(2).__setitem__(0, t.ones(2))",
        "t.zeros(0, dtype=t.int64).median(0)",
    ],
)  # fmt: skip
def test_both_refuse(program):
    for library in (ta, torch):
        with pytest.raises((TypeError, RuntimeError, ValueError, IndexError)):
            exec(program, {"t": library})


# --- what has no counterpart in PyTorch, or is compared by other means ---


def test_attention_with_mask_and_is_causal_is_refused_or_equal():
    q = torch.ones(1, 2, 4)
    mask = torch.ones(2, 2, dtype=torch.bool)
    with pytest.raises(RuntimeError):
        torch.nn.functional.scaled_dot_product_attention(q, q, q, mask, is_causal=True)
    ours = ta.ones(1, 2, 4)
    with pytest.raises((RuntimeError, ValueError), match="is_causal"):
        ta.nn.functional.scaled_dot_product_attention(ours, ours, ours, ta.tensor(mask.numpy()), is_causal=True)


def test_copy_shares_the_version_counter():
    x = ta.ones(2, requires_grad=True)
    y = x * 2
    z = (y * y).sum()
    with ta.no_grad():
        copy.copy(y).zero_()
    with pytest.raises(RuntimeError, match="changed it in place"):
        z.backward()


def test_pickled_tensors_and_parameters_keep_dtype_and_class():
    for x in (ta.tensor([1, 2]), ta.nn.Parameter(ta.ones(2, dtype=ta.float64)), ta.zeros(2, requires_grad=True)):
        again = pickle.loads(pickle.dumps(x))
        assert type(again) is type(x) and again.dtype == x.dtype and again.requires_grad == x.requires_grad
        assert again.tolist() == x.tolist()


def test_no_grad_holds_inside_a_generator_function_and_not_outside():
    @ta.no_grad()
    def batches():
        assert not ta.is_grad_enabled()
        sent = yield 1
        assert sent == 5 and not ta.is_grad_enabled()
        yield 2

    made = batches()
    assert isinstance(made, types.GeneratorType)
    assert next(made) == 1 and ta.is_grad_enabled()
    assert made.send(5) == 2 and ta.is_grad_enabled()


def test_modes_that_end_out_of_order_restore_their_own():
    outer, inner = ta.no_grad(), ta.enable_grad()
    outer.__enter__()
    inner.__enter__()
    outer.__exit__(None, None, None)  # not the innermost: its own entry is found, and the grad mode before it returns
    assert ta.is_grad_enabled()
    inner.__exit__(None, None, None)
    assert not ta.is_grad_enabled()  # as it was when `inner` began
    ta.set_grad_enabled(True)


def test_cuda_settings_do_nothing_without_a_gpu():
    if not ta.cuda.is_available():
        assert ta.cuda.empty_cache() is None and ta.cuda.manual_seed(0) is None
        assert ta.cuda.manual_seed_all(0) is None


def test_is_floating_point_of_tensors_and_dtypes():
    for dtype in DTYPES:
        theirs = getattr(torch, dtype)
        assert ta.is_floating_point(getattr(ta, dtype)) == theirs.is_floating_point
        assert ta.ones(1, dtype=dtype).is_floating_point() == torch.ones(1, dtype=theirs).is_floating_point()


def test_gradient_of_cumprod_takes_memory_in_proportion():
    x = ta.full((20, 2000), 0.9, requires_grad=True)
    tracemalloc.start()
    x.cumprod(1).sum().backward()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * x.nbytes


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 3, 4), (2, 3, 2, 2)])
@pytest.mark.parametrize("name", ["softmax", "log_softmax", "softmin"])
def test_softmax_without_dim_takes_the_axis_of_pytorch(name, shape):
    x = np.random.default_rng(0).standard_normal(shape)
    with pytest.warns(UserWarning, match="Implicit dimension choice"):
        expected = getattr(torch.nn.functional, name)(torch.tensor(x))
    layer = {"softmax": "Softmax", "log_softmax": "LogSoftmax", "softmin": "Softmin"}[name]
    for function in (getattr(ta.nn.functional, name), getattr(ta.nn, layer)()):
        with pytest.warns(UserWarning, match=f"axis . of {x.ndim} is taken; pass dim="):
            np.testing.assert_allclose(function(ta.tensor(x)).numpy(), expected.numpy(), rtol=1e-12)
