"""Numbers and arrays of every dtype, in operations, writes and constructors: PyTorch's value, or one sentence."""

from __future__ import annotations

import copy
import math
import operator
import pickle
import warnings

import numpy as np
import pytest
from answers import torch
from hypothesis import example, given
from hypothesis import strategies as st

import tinyattn as ta

ON_EVERY_DEVICE = ("test_deepcopy_keeps_the_sharing_of_memory_as_torch_does",)

DTYPES = ("bool", "uint8", "int8", "int16", "int32", "int64", "float32", "float64")
INTEGERS = DTYPES[1:6]
MASK = [True, False, True]


def values(dtype):
    if dtype == "bool":
        return st.booleans()
    if dtype.startswith("float"):
        return st.sampled_from([0.0, 1.0, -1.0, 0.1, -2.5, 7.0, 1e30, math.inf, -math.inf, math.nan])
    info = np.iinfo(dtype)
    return st.one_of(st.integers(info.min, info.max), st.sampled_from([info.min, info.max, 0, 1, 2, 3, 7, 100]))


ARRAYS = st.sampled_from(DTYPES).flatmap(
    lambda dtype: st.lists(values(dtype), min_size=3, max_size=3).map(lambda x: np.array(x, dtype))
)
NUMBERS = st.one_of(
    st.booleans(),
    st.integers(-300, 300),
    st.sampled_from([0, 2**31, -(2**31), 2**63 - 1, -(2**63), 70000]),
    st.sampled_from([0.0, 0.1, -0.5, 1.5, 2.0, 127.5, 1e39, -1e300, math.inf, -math.inf, math.nan]),
)


def both(function, *inputs):
    """What `function(library, *tensors)` returns in both libraries, or the error that it raises there."""
    found = []
    for library, wrap in ((ta, ta.tensor), (torch, torch.from_numpy)):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found.append(function(library, *(wrap(x.copy()) if isinstance(x, np.ndarray) else x for x in inputs)))
        except (RuntimeError, TypeError, ValueError, ZeroDivisionError, OverflowError) as error:
            found.append(error)
    return found


def agree(ours, theirs, stricter=False):
    """Whether both gave the same numbers in the same dtype, or both an error; `stricter`: ours alone may be one."""
    if isinstance(ours, Exception):
        assert len(str(ours)) < 250, ours
        return stricter or isinstance(theirs, Exception)
    if isinstance(theirs, Exception):
        return False
    a, b = ours.numpy(), theirs.numpy()
    tolerance = 1e-5 if a.dtype == np.float32 else 1e-12
    close = np.allclose(a, b, rtol=tolerance, atol=0, equal_nan=True) if a.dtype.kind == "f" else np.array_equal(a, b)
    return a.dtype == b.dtype and a.shape == b.shape and close


def same(function, *inputs, stricter=False):
    with np.errstate(all="ignore"):
        ours, theirs = both(function, *inputs)
        assert agree(ours, theirs, stricter), (inputs, ours, theirs)


# --- two tensors, a tensor and a number ---

ARITHMETIC = {
    "add": lambda lib, a, b: a + b,
    "mul": lambda lib, a, b: a * b,
    "floor": lambda lib, a, b: lib.div(a, b, rounding_mode="floor"),
    "trunc": lambda lib, a, b: lib.div(a, b, rounding_mode="trunc"),
    "floor_divide": lambda lib, a, b: a // b,
    "remainder": lambda lib, a, b: a % b,
    "bitwise_and": lambda lib, a, b: a & b,
    "bitwise_or": lambda lib, a, b: a | b,
    "bitwise_xor": lambda lib, a, b: a ^ b,
    "eq": lambda lib, a, b: a == b,
    "lt": lambda lib, a, b: a < b,
    "ge": lambda lib, a, b: a >= b,
}


def hangs_in_torch(name, a, b):
    """PyTorch's own overflow of the smallest integer divided by -1, or by what wraps around to -1, ends the process."""
    wraps = type(b) is int and (b + 1) % 2 ** (8 * a.dtype.itemsize) == 0
    return name in ("floor", "trunc", "floor_divide", "remainder") and (wraps or np.any(np.asarray(b) == -1))


def of_infinity(name, *inputs):
    """Infinities divided with rounding are NaN in NumPy, and infinite or NaN in PyTorch, by the vector length."""
    return name in ("floor", "floor_divide", "remainder", "trunc") and any(
        np.asarray(x).dtype.kind == "f" and not (np.isfinite(x) & (np.abs(x) < 1e20)).all() for x in inputs
    )


@pytest.mark.parametrize("name", ARITHMETIC)
@given(ARRAYS, ARRAYS)
def test_arithmetic_of_mixed_dtypes_agrees_with_torch(name, a, b):
    if not hangs_in_torch(name, a, b) and not of_infinity(name, a, b):
        same(ARITHMETIC[name], a, b)


@pytest.mark.parametrize("name", ARITHMETIC)
@given(ARRAYS, NUMBERS)
def test_arithmetic_with_numbers_agrees_with_torch(name, a, b):
    if hangs_in_torch(name, a, b) or of_infinity(name, a, b):
        return
    if name in ("eq", "lt", "ge") and a.dtype.kind in "iu" and isinstance(b, int):  # PyTorch wraps the number around
        exact = getattr(operator, name)
        assert ARITHMETIC[name](ta, ta.tensor(a), b).tolist() == [exact(v, b) for v in a.tolist()]
        return
    # PyTorch wraps a number around before it divides by it
    same(ARITHMETIC[name], a, b, stricter=name in ("floor", "trunc", "floor_divide", "remainder"))


@given(ARRAYS, ARRAYS, st.one_of(st.integers(-3, 300), st.sampled_from([0.5, 2.0, -1.5])))
@example(np.ones(1, "int8"), np.ones(1, "int8"), 128)
@example(np.ones(1, "int8"), np.ones(1, "int8"), -128)
def test_add_and_sub_scale_in_the_dtype_of_the_result(a, b, alpha):
    same(lambda lib, a, b: lib.add(a, b, alpha=alpha), a, b)
    if a.dtype != bool and b.dtype != bool:  # which PyTorch refuses to subtract
        same(lambda lib, a, b: lib.sub(a, b, alpha=alpha), a, b)
        same(lambda lib, a, b: a.sub_(b, alpha=alpha), a, b)


def test_add_alpha_of_uint8_and_of_float64_is_exact():
    assert ta.add(ta.zeros(1), ta.tensor([200], dtype=ta.uint8), alpha=2).tolist() == [400]
    assert ta.add(ta.zeros(1, dtype=ta.float64), 0.1, alpha=3).tolist() == [0.1 * 3]
    with pytest.raises(TypeError, match=r"sub: alpha is 0\.5, and the sum has dtype int64"):
        ta.sub(ta.tensor([1]), ta.tensor([1]), alpha=0.5)


@given(ARRAYS, ARRAYS)
def test_where_and_clamp_of_mixed_dtypes_agree_with_torch(a, b):
    same(lambda lib, a, b: lib.where(lib.tensor(MASK), a, b), a, b)
    if "bool" not in (a.dtype, b.dtype):
        same(lambda lib, a, b: lib.clamp(a, max=b), a, b)


@given(ARRAYS, NUMBERS)
def test_where_and_clamp_with_numbers_agree_with_torch(a, b):
    same(lambda lib, a: lib.where(lib.tensor(MASK), a, b), a)
    if a.dtype != bool:  # a number beyond the dtype clamps nothing, and PyTorch clamps at what it wraps to
        same(lambda lib, a: lib.clamp(a, min=b), a, stricter=True)


@given(ARRAYS, st.one_of(st.integers(-3, 9), st.sampled_from([0.5, 2.0, -1.0])))
def test_pow_with_numbers_agrees_with_torch(a, b):
    if a.dtype.kind != "f" or (np.abs(a) < 1e20).all():
        same(lambda lib, a: a**b, a)


def test_pow_of_booleans_and_normal_of_integers_are_refused():
    with pytest.raises(TypeError, match="booleans have no powers"):
        ta.tensor([True]) ** ta.tensor([True])
    for method in ("normal_", "uniform_"):
        with pytest.raises(TypeError, match=f"{method}: a tensor of int64 cannot hold fractions"):
            getattr(ta.tensor([1, 2]), method)()


# --- integer division ---


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("name", ["floor", "trunc", "remainder"])
def test_integer_division_by_zero_is_refused(name, dtype):
    one, zero = ta.tensor([[3, 1]], dtype=dtype), ta.tensor([2, 0], dtype=dtype)
    for b, where in ((zero, r" at position \(1,\)"), (0, "")):
        with pytest.raises(ZeroDivisionError, match=f"the divisor is 0{where}, and integers have no infinity"):
            ARITHMETIC[name](ta, one, b)
    with pytest.raises(ZeroDivisionError):
        ARITHMETIC[name](ta, 1, zero)
    assert ARITHMETIC[name](ta, one[:0], zero).shape == (0, 2)  # nothing is divided
    assert ARITHMETIC[name](ta, one, 0.0).dtype == ta.float32


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64"])
def test_division_of_the_smallest_integer_is_exact(dtype):
    least = int(np.iinfo(dtype).min)
    x = ta.tensor([least, least, least + 1, -7, 7], dtype=dtype)
    for by in (3, -3, 7, 2):
        floor, trunc = x // by, ta.div(x, by, rounding_mode="trunc")
        assert floor.dtype == trunc.dtype == (x % by).dtype == dtype
        assert floor.tolist() == [v // by for v in x.tolist()]
        assert (x % by).tolist() == [v % by for v in x.tolist()]
        assert trunc.tolist() == [abs(v) // abs(by) * (1 if (v < 0) == (by < 0) else -1) for v in x.tolist()]


def test_floor_division_of_floats_is_exact():
    x = np.array([1.0, 0.3, -1.0, 7.0, 5.5, 1e30], np.float32)
    same(lambda lib, x: x // 0.1, x)
    same(lambda lib, x: x % 0.1, x[:5])
    assert (ta.tensor([1.0], dtype=ta.float64) // 0.1).tolist() == [9.0]
    assert (7 // ta.tensor([2, -2])).tolist() == [3, -4]
    assert (7 % ta.tensor([2, -2])).tolist() == [1, -1]


def test_sign_of_booleans_is_a_new_tensor():
    x = ta.tensor([True, False])
    x.sign().fill_(True)
    assert x.tolist() == [True, False]


# --- numbers that a dtype cannot hold ---


def write_first(lib, x, value):
    x[0] = value
    return x


STORES = {
    "fill_": lambda lib, x, v: x.fill_(v),
    "full": lambda lib, x, v: lib.full((3,), v, dtype=x.dtype),
    "full_like": lambda lib, x, v: lib.full_like(x, v),
    "masked_fill": lambda lib, x, v: x.masked_fill(lib.tensor(MASK), v),
    "item assignment": write_first,
    "pad": lambda lib, x, v: lib.nn.functional.pad(x, (1, 0), value=v),
}


@pytest.mark.parametrize("name", STORES)
@given(ARRAYS, NUMBERS)
def test_numbers_are_stored_as_in_torch_or_refused(name, a, v):
    if name == "pad" and (a.dtype == bool or (isinstance(v, int) and abs(v) > 2**53)):
        return  # which PyTorch takes as a float64
    fraction = name == "masked_fill" and v % 1 and a.dtype.kind != "f"  # which we refuse
    same(lambda lib, x: STORES[name](lib, x, v), a, stricter=fraction)


@given(st.sampled_from(INTEGERS), NUMBERS)
def test_tensor_takes_numbers_as_torch_does(dtype, v):
    ours, theirs = both(lambda lib: lib.tensor([v, 1], dtype=getattr(lib, dtype)))
    assert agree(ours, theirs), (ours, theirs)


@pytest.mark.parametrize("store", [*STORES.values(), lambda lib, x, v: lib.tensor([v], dtype=x.dtype)])
@pytest.mark.parametrize(
    ("dtype", "v"), [("uint8", 300), ("uint8", -256), ("int8", 128), ("int64", 2**63), ("uint8", 255.5)]
)
def test_overflow_is_one_sentence(store, dtype, v):
    x = ta.zeros(3, dtype=dtype)
    with pytest.raises(
        (RuntimeError, TypeError), match=r"cannot be converted to u?int.* without overflow|does not fit"
    ):
        store(ta, x, v)
    assert x.tolist() == [0, 0, 0]


def test_other_makers_refuse_what_they_cannot_hold():
    for make in (
        lambda: ta.linspace(0, 300, 3, dtype=ta.uint8), lambda: ta.arange(0, 400, 100, dtype=ta.uint8),
        lambda: ta.randint(300, 400, (2,), dtype=ta.uint8), lambda: ta.tensor([2**63]), lambda: ta.tensor(2**63),
        lambda: ta.zeros(2, dtype=ta.uint8).masked_fill(ta.tensor([True, False]), ta.tensor(300)),
        lambda: ta.full((1,), 1e39), lambda: ta.zeros(1).masked_fill(ta.tensor([True]), -1e39),
    ):  # fmt: skip
        with pytest.raises(RuntimeError, match=r"cannot be converted to .* without overflow"):
            make()
    assert ta.arange(0, 300, 100, dtype=ta.uint8).tolist() == [0, 100, 200]


def test_float64_tensors_store_numbers_exactly():
    x = ta.zeros(4, dtype=ta.float64)
    x[0] = 0.1
    x[1:3] = [0.2, 0.3]
    x[3:].fill_(0.7)
    assert x.tolist() == [0.1, 0.2, 0.3, 0.7]


def test_integers_wrap_around_in_sums_and_products():
    x = ta.tensor([1, 200], dtype=ta.uint8)
    assert [(x + 300).tolist(), (x * -1).tolist(), (x - 2).tolist()] == [[45, 244], [255, 56], [255, 198]]
    assert [(x < 300).tolist(), (x == -1).tolist()] == [[True, True], [False, False]]
    with pytest.raises(RuntimeError, match="300 cannot be converted to uint8 without overflow; expected 0 to 255"):
        x // 300


# --- in place ---

IN_PLACE = {
    "iadd": operator.iadd, "imul": operator.imul, "ifloordiv": operator.ifloordiv, "imod": operator.imod,
    "iand": operator.iand, "ior": operator.ior, "ixor": operator.ixor,
}  # fmt: skip
NAMES = {"ifloordiv": "floor_divide", "imod": "remainder"}


@pytest.mark.parametrize("name", IN_PLACE)
@given(ARRAYS, st.one_of(ARRAYS, NUMBERS))
def test_in_place_operators_write_as_in_torch(name, a, b):
    if hangs_in_torch(NAMES.get(name), a, b) or of_infinity(NAMES.get(name), a, b):
        return
    same(lambda lib, a, b: IN_PLACE[name](a, b), a, b, stricter=name in NAMES)


@pytest.mark.parametrize("name", [*IN_PLACE, "isub", "ipow"])
def test_in_place_operator_on_a_view_changes_its_base(name):
    x = ta.tensor([[9, 8], [7, 6]])
    row = before = x[1]
    row = getattr(operator, name)(row, 2)
    expected = getattr(operator, name)(np.array([7, 6]), 2)
    assert row is before
    assert x.tolist() == [[9, 8], expected.tolist()]


@pytest.mark.parametrize("name", [*IN_PLACE, "isub", "itruediv"])
def test_in_place_operator_refuses_a_result_of_a_higher_kind(name):
    for x, other in ((ta.tensor([4, 2]), 0.5), (ta.tensor([True, False]), 2)):
        if name == "isub" and x.dtype == bool:
            continue
        kept = x.tolist()
        with pytest.raises(TypeError, match=r"cannot be stored in|expected integers or booleans"):
            getattr(operator, name)(x, other)
        assert x.tolist() == kept


# --- bits ---


@given(ARRAYS)
def test_bitwise_not_agrees_with_torch(a):
    same(lambda lib, a: ~a, a)


def test_bitwise_operators_refuse_floats_in_one_sentence():
    x = ta.tensor([1.5])
    for call in (lambda: ~x, lambda: x & x, lambda: ta.tensor([1]) | 0.5, lambda: 1.5 ^ ta.tensor([1])):
        with pytest.raises(TypeError, match=r"bitwise_\w+: got float32; expected integers or booleans"):
            call()


def test_bitwise_takes_both_orders_and_numpy():
    x = ta.tensor([6, 5])
    assert [(3 & x).tolist(), (8 | x).tolist(), (3 ^ x).tolist()] == [[2, 1], [14, 13], [5, 6]]
    assert [(np.array([3, 3]) & x).tolist(), np.invert(x).tolist()] == [[2, 1], [-7, -6]]
    assert ta.logical_and(x, ta.tensor([0, 2])).tolist() == [False, True]
    assert (~ta.tensor([True, False])).tolist() == [False, True]


# --- arrays of NumPy ---

MAKERS = {"from_numpy": ta.from_numpy, "as_tensor": ta.as_tensor, "tensor": ta.tensor, "Tensor": ta.Tensor}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_array_subclasses_become_plain_arrays(make, tmp_path):
    np.save(tmp_path / "a.npy", np.arange(4.0).reshape(2, 2))
    for array in (
        np.arange(4.0).reshape(2, 2).view(np.matrix), np.arange(4.0).reshape(2, 2).view(np.recarray),
        np.load(tmp_path / "a.npy", mmap_mode="r"), np.load(tmp_path / "a.npy", mmap_mode="r+"),
    ):  # fmt: skip
        x = make(array)
        assert type(x.array) is np.ndarray
        assert (x * x).tolist() == [[v * v for v in row] for row in np.asarray(array).tolist()]
        copies = make in (ta.tensor, ta.Tensor)
        if not copies:
            assert np.shares_memory(x.array, array)
        if not copies and not array.flags.writeable:
            with pytest.raises(RuntimeError, match="read-only"):
                x.zero_()


REFUSED = {
    "masked": np.ma.array([1.0, 2.0], mask=[False, True]), "big-endian": np.array([1, 2], ">i4"),
    "structured": np.zeros(2, [("a", int)]), "record": np.rec.array([(1, 2.0)], dtype=[("a", int), ("b", float)]),
    "datetime": np.zeros(2, "M8[s]"), "duration": np.zeros(2, "m8[s]"), "object": np.array([1, None]),
    "string": np.array(["a"]), "bytes": np.array([b"a"]), "longdouble": np.zeros(2, np.longdouble),
    "complex": np.zeros(2, complex),
}  # fmt: skip


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize("array", REFUSED.values(), ids=REFUSED)
def test_arrays_that_are_not_plain_numbers_are_refused(make, array):
    if array.dtype == np.float64 or array.dtype.itemsize > 8 or array.dtype.kind != "f":
        with pytest.raises(TypeError) as error:
            make(array)
        assert len(str(error.value)) < 250


def test_byte_order_and_masks_are_named():
    with pytest.raises(TypeError, match=r"in this machine's byte order: array\.astype"):
        ta.from_numpy(np.array([1.0], ">f4"))
    with pytest.raises(TypeError, match="not supported"):
        ta.zeros(2, dtype=">f4")
    for given_ in (np.ma.array([1.0], mask=[True]), [np.ma.array([1.0], mask=[True])]):
        with pytest.raises(TypeError, match=r"tensors have no mask; fill it first: array.filled\(0\)"):
            ta.tensor(given_)
    assert ta.tensor(np.array([1, 258], ">i4"), dtype=ta.int64).tolist() == [1, 258]


# --- einsum ---

SIZES = st.sampled_from([1, 1, 2, 3])


@given(
    st.lists(st.text("ijk", max_size=3), min_size=1, max_size=3), st.text("ijk", max_size=3), st.booleans(),
    st.lists(st.tuples(SIZES, SIZES, SIZES), min_size=3, max_size=3), st.tuples(st.booleans(), st.booleans()),
)  # fmt: skip
def test_einsum_of_repeated_and_broadcast_labels_agrees_with_torch(terms, output, explicit, shapes, dots):
    operands, spelled = [], []
    for i, (term, shape) in enumerate(zip(terms, shapes, strict=False)):
        extra = dots[i % 2]
        shape = (*shape[: len(term)], *((shape[i],) if extra else ()))
        spelled.append(term + ("..." if extra else ""))
        operands.append(np.arange(1.0, 1.0 + math.prod(shape)).reshape(shape))
    equation = ",".join(spelled) + (f"->{output}" + ("..." if any(dots[: len(terms)]) else "") if explicit else "")
    same(lambda lib, *xs: lib.einsum(equation, *xs), *operands)


def test_einsum_refuses_unequal_sizes_of_a_repeated_label():
    with pytest.raises(RuntimeError, match=r"label 'i' repeats in operand 0 of shape \(1, 4\); expected equal sizes"):
        ta.einsum("ii->i", ta.ones(1, 4))
    for wrong in ("......i->i", "i1->i", "i.->i", "i->......i"):
        with pytest.raises(ValueError, match="expected letters"):
            ta.einsum(wrong, ta.ones(3))
    assert ta.einsum("ii,i->i", ta.ones(1, 1), ta.ones(4)).tolist() == [1, 1, 1, 1]


# --- deep copies ---


def aliases(lib):
    base = lib.arange(12.0)
    views = [base[2:4], base[::3], base.reshape(3, 4).T, base[5], base[:1].expand(3), base[4:4], base.unfold(0, 3, 2)]
    return [base, *views, lib.as_strided(base, (2, 3), (5, 1), 1), lib.ones(2)]


def test_deepcopy_keeps_the_sharing_of_memory_as_torch_does():
    traces = []
    for lib in (ta, torch):
        original = aliases(lib)
        twins = copy.deepcopy(original)
        twins[0].add_(100)
        twins[1][0] = -1.0
        twins[3][1, 1] = -2.0
        traces.append([[x.tolist() for x in part] for part in (original, twins)])
    assert traces[0] == traces[1]


def test_deepcopy_keeps_views_detached_leaves_and_counters_together():
    x = ta.ones(3, requires_grad=True)
    x2, flat2 = copy.deepcopy([x, x.detach()])
    y = x2 * x2
    flat2.add_(1)
    assert x2.tolist() == [2, 2, 2]
    assert x.tolist() == [1, 1, 1]
    with pytest.raises(RuntimeError, match="changed it in place before backward"):
        y.sum().backward()


def test_deepcopy_of_a_module_keeps_tied_weights_and_buffers_that_are_views():
    module = ta.nn.Linear(3, 3)
    module.tied = module.weight
    module.part = ta.nn.Parameter(module.weight.detach())
    module.register_buffer("row", module.weight.detach()[1])
    twin = copy.deepcopy(module)
    with ta.no_grad():
        twin.weight.zero_()
    assert twin.tied is twin.weight
    assert not twin.row.any()
    assert not twin.part.any()
    assert module.row.any()


def test_deepcopy_of_memory_with_gaps_is_right():
    backing = bytearray(np.arange(6.0).tobytes())
    owner = np.ndarray((3,), np.float64, backing, 0, (16,))  # every other number of foreign memory
    x = ta.from_numpy(owner)
    twins = copy.deepcopy([x, x[1:], ta.from_numpy(np.arange(3)[::-1])])
    assert [t.tolist() for t in twins] == [[0, 2, 4], [2, 4], [2, 1, 0]]


# --- PyTorch's dtypes of data, comparisons, indices ---

NUMBER = {"float64": np.float64(1.5), "float32": np.float32(1.5), "float16": np.float16(1.5), "uint8": np.uint8(3)}
DATA = {
    **{f"[{name}]": [x] for name, x in NUMBER.items()}, **{f"[2.0, {name}]": [2.0, x] for name, x in NUMBER.items()},
    **{f"[[{name}], [2]]": [[x], [2]] for name, x in NUMBER.items() if name != "float16"}, "float64": np.float64(1.5),
    "[array]": [np.zeros(2)], "[array32]": [np.zeros(2, np.float32)], "[int32]": [np.int32(1)], "numbers": [1, 2.5],
}  # fmt: skip


@pytest.mark.parametrize("data", DATA.values(), ids=DATA)
@pytest.mark.filterwarnings("ignore:Creating a tensor from a list")
def test_tensor_of_numpy_numbers_has_the_dtype_of_torch(data):
    assert str(ta.tensor(data).dtype) == str(torch.tensor(data).dtype).removeprefix("torch.")


@pytest.mark.parametrize("dtype", ["float64", "float32", "uint8"])
def test_tensor_of_tensors_has_the_dtype_of_torch(dtype):
    for rest in ([], [1.0]):
        ours, theirs = both(lambda lib, rest=rest: lib.tensor([lib.tensor(1, dtype=getattr(lib, dtype)), *rest]))
        assert agree(ours, theirs), (ours, theirs)


@pytest.mark.parametrize("value", [np.sqrt(2.0), np.float32(2), np.int32(1), True, 1, 1.5, np.float64(1)])
def test_full_has_the_dtype_of_torch(value):
    same(lambda lib: lib.full((2,), value))
    with pytest.raises(TypeError, match="full: fill_value='a'; expected a real number"):
        ta.full((2,), "a")


def test_comparison_with_a_list_is_false_as_in_torch():
    for lib in (ta, torch):
        assert (lib.ones(2) == [1, 1]) is False
        assert (lib.ones(2) != (1, 1)) is True


@pytest.mark.parametrize("index", [np.array([1, 0, 1], np.uint8), [True, False, True]])
def test_uint8_index_is_a_mask_as_in_torch(index):
    index = ta.tensor(index)
    x = ta.tensor([5, 6, 7])
    assert x[index].tolist() == x[index.numpy()].tolist() == [5, 7]
    x[index] = 0
    assert x.tolist() == [0, 6, 0]
    with pytest.raises(IndexError):
        ta.ones(2)[index]


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_one_number_is_assigned_to_any_index_as_in_torch(shape):
    def assign(lib, index, value):
        x = lib.zeros(2, 2, requires_grad=True)
        y = x * 1
        value = (value * 1).requires_grad_() if value.requires_grad else value
        y[index] = value
        z = lib.zeros(2, 2)
        z[index] = value.detach()
        return y.detach() + 10 * z

    for index in (0, (0, 1), (slice(None), 1), ...):
        if len(shape) <= 1 or index is not ...:
            same(lambda lib, value, index=index: assign(lib, index, value), np.full(shape, 5.0, np.float32))


# --- names of devices ---


@pytest.mark.parametrize(
    ("given", "name", "type", "index"),
    [(("cpu",), "cpu", "cpu", None), (("cpu:0",), "cpu", "cpu", None), (("cuda",), "cuda", "cuda", None),
     (("cuda:1",), "cuda:1", "cuda", 1), (("cuda", 2), "cuda:2", "cuda", 2), ((3,), "cuda:3", "cuda", 3)],
)  # fmt: skip
def test_names_of_devices(given, name, type, index):
    device = ta.device(*given)
    assert (device, device.type, device.index) == (name, type, index)
    assert eval(repr(device), {"device": ta.device}) == device == pickle.loads(pickle.dumps(device))
    assert pickle.loads(pickle.dumps(device)).index == index


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "cpu:1", "cuda:1:2", "", "CUDA", True])
def test_what_is_no_device(name):
    with pytest.raises(ValueError, match="is no device; expected 'cpu', 'cuda' or 'cuda:1'"):
        ta.zeros(1, device=name)
