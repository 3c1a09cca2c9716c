"""Wrong calls, one row each: the message names what was given, what was expected, and what to do."""

from __future__ import annotations

import copy

import numpy as np
import pytest

import tinyattn as ta
import tinyattn.nn.functional as F
from tinyattn import data, models, nn, optim


def leaf(*values: float) -> ta.Tensor:
    return ta.tensor([float(v) for v in values], requires_grad=True)


def backward_twice():
    x = leaf(1)
    y = (x.exp() * 2).sum()
    y.backward()
    y.backward()


def changed_in_place():
    x = leaf(1, 2)
    y = x * 2
    z = (y * y).sum()
    y.add_(1)
    z.backward()


def wrong_rule(rule):
    twice = ta.Operation(lambda F, x: x * 2, name="twice", x=rule)
    twice(ta.ones(2, 3, requires_grad=True)).sum().backward()


def sgd(lr=0.1, **options):
    return optim.SGD([leaf(1)], lr, **options)


def load(**changes):
    model = nn.Linear(2, 3)
    model.load_state_dict({**model.state_dict(), **changes})


ints = ta.tensor([1, 2])
A = F.scaled_dot_product_attention
ROWS = [
    # --- what a newcomer mistypes ---
    (lambda: ta.zeros(2.5), TypeError, "2.5 is given for a dimension or a size; expected an integer"),
    (lambda: nn.Linear(784 / 2, 10), TypeError, "392.0 is given for a dimension or a size"),
    (lambda: F.softmax(ta.ones(3), "0"), TypeError, "'0' is given for a dimension or a size"),
    (lambda: ta.randn(2, dtype=ta.int64), TypeError, "randn: dtype int64 cannot hold fractions"),
    (lambda: ta.rand_like(ta.ones(2, dtype=ta.int64)), TypeError, "rand: dtype int64 cannot hold fractions"),
    (lambda: ta.randint(0, 10), ValueError, r"randint: no integer lies from 0 to 0 - 1; call randint\(low, high, size\)"),
    (lambda: ta.cat(ta.ones(2), ta.ones(2)), TypeError, r"cat: got one tensor of shape \(2,\); write cat\(\[a, b\]\)"),
    (lambda: ta.stack(ta.ones(2, 2)), TypeError, "stack: got one tensor"),
    (lambda: ta.vstack(ta.ones(2, 2)), TypeError, "vstack: got one tensor"),
    (lambda: ta.column_stack(ta.ones(2, 2)), TypeError, "column_stack: got one tensor"),
    (lambda: ta.compile(5), TypeError, "compile: expected a function or a module, got int"),
    (lambda: ta.Operation(lambda xp, x: None, name="f")(ta.ones(1)), TypeError, "f: its forward gave a NoneType"),
    (lambda: optim.Adam([leaf(1)], learning_rate=0.1), TypeError, "Adam has no option 'learning_rate'; it has lr, betas, eps"),
    (lambda: ta.save("/no/folder/x.safetensors", {}), FileNotFoundError, "its folder does not exist"),
    # --- the walk ---
    (backward_twice, RuntimeError, "backward a second time through exp .*freed .*retain_graph=True"),
    (changed_in_place, RuntimeError, r"mul \(made at .*test_errors.py.* saved .* add_ at .*test_errors.py.*clone\(\)"),
    (lambda: ta.ones(1).sum().backward(), RuntimeError, "does not require a gradient, so there is no graph to walk"),
    (lambda: leaf(1, 2).argmax().backward(), RuntimeError, "int64.*turned into integers"),
    (lambda: (leaf(1, 2) * 2).backward(), RuntimeError, r"only for a single number, and this tensor has shape \(2,\).*loss.mean"),
    (lambda: leaf(1, 2).backward(ta.ones(3)), RuntimeError, r"has shape \(3,\), but the tensor has shape \(2,\)"),
    (lambda: ta.grad(leaf(1) * 2, ta.ones(1)), RuntimeError, r"input 0 \(shape \(1,\)\) does not require a gradient"),
    (lambda: ta.grad(leaf(1) * 2, leaf(1)), RuntimeError, "do not depend on input 0 .*allow_unused=True"),
    (lambda: ta.grad([leaf(1), leaf(2)], [leaf(1)], [ta.ones(1)]), ValueError, "2 outputs but 1 gradients"),
    (lambda: ta.tensor([1], requires_grad=True), RuntimeError, "int64 cannot require a gradient: only floating-point"),
    (lambda: (leaf(1) * 2).requires_grad_(False), RuntimeError, r"only on leaves.*mul .*detach\(\)"),
    (lambda: ta.grad(ta.ones(1), []), RuntimeError, "grad: inputs is empty"),
    (lambda: ta.ones(1).retain_grad(), RuntimeError, "requires no gradient, so none will come"),
    (lambda: ta.ones(1).register_hook(print), RuntimeError, "requires no gradient, so none will come"),
    (lambda: leaf(1).add_(1), RuntimeError, r"a leaf that requires a gradient .*no_grad\(\)"),
    (lambda: leaf(1, 2)[:1].mul_(2), RuntimeError, r"a view of a leaf that requires a gradient.*clone\(\)"),
    (lambda: ta.ones(3).expand(2, 3).add_(1), RuntimeError, r"add_: several elements .*\(2, 3\) .*one and the same number.*clone\(\)"),
    (lambda: ta.ones(3, 1).expand(3, 2).__setitem__(0, 1), RuntimeError, r"__setitem__: several elements .*\(3, 2\).*clone\(\)"),
    (lambda: ta.from_numpy(np.broadcast_to(1.0, 1)).add_(1), RuntimeError, r"add_: this tensor's memory is read-only.*clone\(\)"),
    (lambda: wrong_rule(lambda F, g: g.T), RuntimeError, r"twice .*gave a gradient of shape \(3, 2\) for an input of shape \(2, 3\)"),
    (lambda: wrong_rule(lambda F, g: g[:1]), RuntimeError, r"gave a gradient of shape \(1, 3\) for an input of shape \(2, 3\)"),
    (lambda: ta.operation(y=lambda F, g: g)(lambda F, x: x), TypeError, r"\['y'\] in its rules; they may name"),
    (lambda: ta.operation(x=lambda F, g, z: g)(lambda F, x: x), TypeError, r"\['z'\] in its rules; they may name"),
    (lambda: ta.operation(x=lambda F, g: g)(lambda x: x), TypeError, "after its first, the array library xp"),
    (lambda: ta.operation(x=lambda g, x: g)(lambda F, x: x), TypeError, r"\['g', 'x'\]; its first one is the array"),
    (lambda: ta.operation(lambda F, x: x), TypeError, "operation takes a rule for each input by its name: @ta.op"),
    # --- making tensors ---
    (lambda: ta.tensor([[1, 2], [3]]), ValueError, "nested lists must have equal lengths"),
    (lambda: ta.tensor("three"), TypeError, "expected numbers.*got str"),
    (lambda: ta.tensor(1j), TypeError, "expected numbers.*complex"),
    (lambda: ta.tensor(None), TypeError, "expected numbers.*got NoneType"),
    (lambda: ta.tensor(1, dtype="complex64"), TypeError, "dtype 'complex64' is not supported; expected bool, an integer or float"),
    (lambda: ta.tensor(1, dtype="floaty"), TypeError, "dtype 'floaty' is not supported"),
    (lambda: ta.from_numpy([1, 2]), TypeError, "expected a NumPy array, got list"),
    (lambda: ta.ones(2, device="tpu"), ValueError, "device='tpu' is no device; expected 'cpu', 'cuda' or 'cuda:1'"),
    (lambda: ta.ones(2).to("tpu"), (TypeError, ValueError), "tpu"),
    (lambda: ta.arange(0, 5, -1), ValueError, "steps of -1 never lead from 0 to 5"),
    (lambda: ta.randint(3, 3, (2,)), ValueError, "no integer lies from 3 to 3 - 1"),
    (lambda: ta.zeros(-1), ValueError, "size.*-1"),
    (lambda: ta.eye(-2), ValueError, "sizes -2"),
    (lambda: ta.set_default_dtype("int64"), TypeError, "got int64; expected float16, float32 or float64"),
    # --- out of tensors ---
    (lambda: bool(ta.ones(2)), RuntimeError, r"shape \(2,\) is neither true nor false; reduce it with .any\(\) or .all\(\)"),
    (lambda: ta.ones(2).item(), RuntimeError, r"shape \(2,\) is not a single number"),
    (lambda: len(ta.tensor(1.0)), TypeError, "0-d tensor has no length"),
    (lambda: iter(ta.tensor(1.0)), TypeError, "0-d tensor cannot be iterated"),
    (lambda: [1, 2][ta.tensor(0.0)], TypeError, "only integer tensors can be an index, this one has dtype float32"),
    (lambda: np.add.reduce(ta.ones(2)), TypeError, "np.add.reduce does not work on a tinyattn Tensor"),
    (lambda: np.cbrt(ta.ones(2)), TypeError, r"np.cbrt does not work .*\.numpy\(\)"),
    (lambda: copy.deepcopy(leaf(1) * 2), RuntimeError, "only leaves can be deep-copied.*mul"),
    (lambda: leaf(1).__dlpack__(), BufferError, r"DLPack carries no gradient; export x.detach\(\)"),
    # --- operations ---
    (lambda: ta.ones(2, 3) + ta.ones(4), RuntimeError, r"add: shapes \(2, 3\) and \(4,\) do not broadcast"),
    (lambda: ta.ones(2, 3).maximum(ta.ones(2)), RuntimeError, r"maximum: shapes \(2, 3\) and \(2,\) do not broadcast"),
    (lambda: ta.where(ta.ones(3) > 0, ta.ones(2), 0.0), RuntimeError, r"where: shapes \(3,\) and \(2,\) .*do not broadcast"),
    (lambda: ta.ones(2, 3) @ ta.ones(4, 5), RuntimeError, r"\(2, 3\) and \(4, 5\) do not fit: 3 columns .* meet 4 rows"),
    (lambda: ta.ones(2) @ ta.tensor(1.0), RuntimeError, r"a 0-d tensor needs \* instead"),
    (lambda: ta.bmm(ta.ones(2, 3, 4), ta.ones(3, 4, 5)), RuntimeError, "batches of 2 and 3 matrices"),
    (lambda: ta.mm(ta.ones(2), ta.ones(2)), RuntimeError, "expected 2 dimensions each"),
    (lambda: ta.outer(ta.ones(2, 2), ta.ones(2)), RuntimeError, "expected two vectors"),
    (lambda: ta.einsum("ij,jk->ik", ta.ones(2, 3)), ValueError, "names 2 operands, got 1"),
    (lambda: ta.einsum("ij->ik", ta.ones(2, 3)), ValueError, "output 'ik' .*must name labels of the inputs"),
    (lambda: ta.einsum("ij,jk->ik", ta.ones(2, 3), ta.ones(4, 5)), RuntimeError, "label 'j' has size 3 and, in operand 1, 4"),
    (lambda: ta.ones(2).sum(3), IndexError, "dimension 3 is out of range for a tensor with 1; expected -1 to 0"),
    (lambda: ta.ones(2, 2).sum((0, -2)), ValueError, "names a dimension twice"),
    (lambda: ta.ones(0).max(), IndexError, r"shape \(0,\) is empty"),
    (lambda: ta.ones(0).argmax(), IndexError, r"shape \(0,\) is empty"),
    (lambda: ints.mean(), TypeError, r"mean: the tensor has dtype int64; cast it first \(x.float\(\)\)"),
    (lambda: ints.std(), TypeError, "the tensor has dtype int64; cast it first"),
    (lambda: ta.ones(2).var(unbiased=True, correction=0), ValueError, "unbiased or correction, not both"),
    (lambda: ta.ones(4).reshape(3, -1), RuntimeError, r"shape \(4,\) holds 4 elements and cannot become \(3, -1\)"),
    (lambda: ta.ones(2, 3).permute(0, 0), RuntimeError, "must name each of the 2 dimensions once"),
    (lambda: ta.ones(2).expand(3), RuntimeError, r"\(2,\) cannot be expanded to \(3,\)"),
    (lambda: ta.cat([ta.ones(2, 3), ta.ones(2, 4)]), RuntimeError, r"tensor 1 has shape \(2, 4\) and tensor 0 \(2, 3\)"),
    (lambda: ta.stack([ta.ones(2), ta.ones(3)]), RuntimeError, "tensors must have one shape"),
    (lambda: ta.cat([]), ValueError, "expected at least one tensor, got none"),
    (lambda: ta.ones(5).split([2, 2]), ValueError, r"sizes \[2, 2\] must add up to 5"),
    (lambda: ta.ones(5).chunk(0), ValueError, "chunks=0; expected at least 1"),
    (lambda: F.pad(ta.ones(3), (1, 2, 3)), ValueError, r"must hold a \(before, after\)"),
    (lambda: F.pad(ta.ones(3), (3, 0), "reflect"), ValueError, "too wide to reflect axis 0 of size 3"),
    (lambda: ta.ones(3)[5], IndexError, "index 5 is out of bounds for axis 0 with size 3"),
    (lambda: ta.ones(3)[ta.ones(2)], IndexError, "indices must be integers or booleans, got float32"),
    (lambda: ta.ones(3)["a"], IndexError, "ind"),
    (lambda: ta.gather(ta.ones(3), 0, ta.tensor([5])), IndexError, r"gather: index 5 at position \(0,\) is out of range; expected 0 to 2"),
    (lambda: ta.index_select(ta.ones(3), 0, ta.tensor([-1])), IndexError, r"index -1 at position \(0,\)"),
    (lambda: ta.ones(2).clamp(), ValueError, "give min, max, or both; got neither"),
    (lambda: ints**-1, ValueError, "integers to a negative power"),
    (lambda: ta.ones(2).div(2, rounding_mode="up"), ValueError, "rounding_mode='up'; expected None, 'floor' or 'trunc'"),
    (lambda: (ints > 0) - (ints > 0), TypeError, "booleans cannot be subtracted"),
    (lambda: ta.where(ta.ones(2), 1.0, 0.0), TypeError, "the condition has dtype float32; expected bool"),
    (lambda: ints.masked_fill(ints > 0, 0.5), TypeError, "0.5 does not fit into int64"),
    (lambda: ints.add_(0.5), TypeError, "cannot be stored in int64"),
    (lambda: ta.ones(2).add_(ta.ones(3, 2)), RuntimeError, r"add_: the result has shape \(3, 2\) and does not fit into \(2,\)"),
    # --- layers and losses ---
    (lambda: F.linear(ta.ones(2, 3), ta.ones(5, 4)), RuntimeError, r"input \(2, 3\) and weight \(5, 4\) do not fit.*out_features, in_features"),
    (lambda: F.embedding(ta.tensor([[1, 7]]), ta.ones(5, 2)), IndexError, r"index 7 at position \(0, 1\) is out of range; expected 0 to 4"),
    (lambda: F.embedding(ta.ones(2), ta.ones(5, 2)), TypeError, "indices have dtype float32; expected integers"),
    (lambda: F.embedding(ints, ta.ones(5, 2), padding_idx=9), ValueError, "padding_idx=9 is out of range for 5 rows"),
    (lambda: F.layer_norm(ta.ones(2, 3), (4,)), RuntimeError, r"normalized_shape=\(4,\) must equal the last sizes of the input, \(2, 3\)"),
    (lambda: ta.tensor(1.0).cumsum(1), IndexError, "dimension 1 is out of range for a tensor with 0"),
    (lambda: F.dropout(ta.ones(2), 1.5), ValueError, "p=1.5; a probability lies between 0 and 1"),
    (lambda: F.gelu(ta.ones(2), "fast"), ValueError, "approximate='fast'; expected 'none' or 'tanh'"),
    (lambda: F.packed_attention(ta.ones(2, 3, 12), 5), RuntimeError, r"qkv \(2, 3, 12\) with 5 heads; expected \(\.\.\., tokens, 3 dim\)"),
    (lambda: A(ta.ones(2, 3), ta.ones(2, 4), ta.ones(2, 3)), RuntimeError, r"query \(2, 3\), key \(2, 4\).*agree in their last axis"),
    (lambda: A(ta.ones(2, 3), ta.ones(4, 3), ta.ones(5, 3)), RuntimeError, "key and value must agree in their second last axis"),
    (lambda: A(ta.ones(2, 3), ta.ones(4, 3), ta.ones(4, 3), ta.ones(3, 4)), RuntimeError, r"attn_mask \(3, 4\) does not broadcast to the scores \(2, 4\)"),
    (lambda: A(ta.ones(2, 3), ta.ones(4, 3), ta.ones(4, 3), ta.ones(2, 4), is_causal=True), ValueError, "attn_mask or is_causal=True, not both"),
    (lambda: F.cross_entropy(ta.ones(2, 3), ta.tensor([0, 3])), IndexError, r"class 3 at position \(1,\) is out of range; expected 0 to 2"),
    (lambda: F.cross_entropy(ta.ones(2, 3), ta.tensor([0, 1, 2])), ValueError, r"need class numbers of shape \(2,\), got \(3,\)"),
    (lambda: F.cross_entropy(ta.ones(2, 3), ta.ones(2)), RuntimeError, "class numbers must be integers"),
    (lambda: F.cross_entropy(ta.ones(2, 3), ta.tensor([0, 1]), ta.ones(2)), ValueError, "expected one number a class"),
    (lambda: F.cross_entropy(ta.ones(2, 3), ta.tensor([0, 1]), label_smoothing=2), ValueError, "label_smoothing=2; expected 0 to 1"),
    (lambda: F.mse_loss(ta.ones(2), ta.ones(2), "avg"), ValueError, "reduction='avg'; expected 'mean', 'sum' or 'none'"),
    (lambda: F.one_hot(ta.tensor([0, 4]), 3), IndexError, r"class 4 at position \(1,\)"),
    (lambda: F.binary_cross_entropy_with_logits(ta.ones(2), ta.ones(3)), ValueError, "must have one shape"),
    (lambda: nn.Linear(2, 3)(ta.ones(4, 5)), RuntimeError, r"input \(4, 5\) and weight \(3, 2\) do not fit"),
    (lambda: nn.Linear(2, 3).wieght, AttributeError, "no attribute 'wieght'.*weight"),
    (lambda: load(wieght=ta.ones(3, 2)), RuntimeError, "wieght.*weight"),
    (lambda: load(weight=ta.ones(2, 3)), RuntimeError, r"weight.*\(2, 3\).*\(3, 2\)"),
    (lambda: nn.MultiheadAttention(10, 3), ValueError, "10.*3"),
    (lambda: models.AttentionClassifier(hidden_dim=10, num_heads=3), ValueError, "hidden_dim=10 must be a multiple of num_heads=3"),
    (lambda: models.AttentionClassifier()(ta.ones(2, 27, 27)), (ValueError, RuntimeError), "27"),
    # --- optimizers ---
    (lambda: sgd(-0.1), ValueError, "lr.*-0.1"),
    (lambda: sgd(float("nan")), ValueError, "lr.*nan"),
    (lambda: sgd(momentum=-1), ValueError, "momentum.*-1"),
    (lambda: optim.Adam([leaf(1)], betas=(0.9, 1.0)), ValueError, "1.0"),
    (lambda: optim.Adam([leaf(1)], eps=-1), ValueError, "eps"),
    (lambda: optim.Adam([]), ValueError, "empty|no parameters"),
    (lambda: optim.Adam([leaf(1) * 2]), ValueError, "leaf"),
    (lambda: optim.StepLR(sgd(), step_size=0), ValueError, "step_size"),
    (lambda: sgd().load_state_dict({"state": {}, "param_groups": []}), ValueError, "group"),
    # --- data ---
    (lambda: data.DataLoader((np.ones(3), np.ones(4))), ValueError, "3.*4"),
    (lambda: data.DataLoader(np.ones(3), batch_size=0), ValueError, "batch_size is 0, but it must be 1 or more"),
    (lambda: data.load("cifar"), ValueError, "data is 'cifar', but it must be"),
    (lambda: data.load_mnist("no/such/folder"), ValueError, "no/such/folder"),
    (lambda: data.random_shift(np.ones((2, 3, 3)), -1), ValueError, "-1"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "message"), ROWS, ids=[f"{i}-{m[:30]}" for i, (_, _, m) in enumerate(ROWS)])
def test_refusals_say_what_and_why(call, kind, message):
    with pytest.raises(kind, match=message) as error:
        call()
    assert type(error.value) not in (KeyError, AssertionError)
    assert str(error.value).count(". ") <= 4  # a sentence or a few, no treatise


def test_errors_table_has_enough_rows():
    assert len(ROWS) >= 100
