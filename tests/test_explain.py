"""A corpus of faults: each must be found, with the operation and the line marked `# here`."""

from __future__ import annotations

import inspect
import threading

import numpy as np
import pytest

import tinyattn as ta
import tinyattn.nn.functional as F
from tinyattn import models, nn
from tinyattn.debug.explaining import VERDICTS, explain

RNG = np.random.default_rng(0)
FAULTS = []


def fault(symptom, verdict, culprit, module="", recorded=True):
    """A function that returns a parameter and how the loss is computed from it.

    symptom: what backward() leaves in .grad; recorded: whether the graph alone tells it, or what it says.
    """
    return lambda make: FAULTS.append(pytest.param(make, symptom, verdict, culprit, module, recorded, id=make.__name__))


def leaf(*shape, scale=1.0):
    return ta.tensor(RNG.uniform(0.5, 1.5, shape) * scale, dtype=ta.float32, requires_grad=True)


def marked_line(function):
    """file:line of the line that ends in `# here`; None if none does."""
    lines, first = inspect.getsourcelines(function)
    return next((f"{__file__}:{first + i}" for i, line in enumerate(lines) if line.rstrip().endswith("# here")), None)


class Net(nn.Module):
    """Two layers, and one that nobody calls."""

    def __init__(self, between=None):
        super().__init__()
        self.first, self.second = nn.Sequential(nn.Linear(3, 4)), nn.Linear(4, 2)
        self.spare = nn.Linear(2, 2)
        self.between = between or nn.Identity()

    def forward(self, x):
        return self.second(self.between(self.first(x)))  # here


X = ta.tensor(RNG.normal(size=(5, 3)), dtype=ta.float32)


class Between(nn.Module):
    """A layer of one function."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


# --- None: never used, or cut off ---


@fault("None", "unused", None, "spare", recorded=False)
def a_layer_that_is_never_called():
    net = Net()
    return net.spare.weight, lambda: net(X).square().mean()


@fault("None", "unused", None, recorded=False)
def a_tensor_that_goes_nowhere():
    w, v = leaf(3), leaf(3)

    def loss():
        unused = w * 2
        assert unused.shape == (3,)
        return v.sum()

    return w, loss


@fault("None", "detached", "detach", recorded=False)
def a_detach_in_between():
    w, v = leaf(3), leaf(3)

    def loss():
        hidden = w * 2
        target = hidden.detach()  # here
        return (target * v).exp().mean()

    return w, loss


@fault("None", "detached", "mul", recorded=False)
def raw_data_comes_back():
    w, v = leaf(3), leaf(3)

    def loss():
        hidden = (w * 2).exp()
        values = ta.from_numpy(hidden.array[1:])
        return (values * v[1:]).sum()  # here

    return w, loss


@fault("None", "detached", "mul", recorded=False)
def a_copy_comes_back():
    w, v = leaf(3), leaf(3)

    def loss():
        hidden = ta.tensor((w * 2).exp().tolist())
        return (hidden * v).sum()  # here

    return w, loss


@fault("None", "detached", "mul", recorded=False)
def an_item_comes_back():
    w, v = leaf(3), leaf(3)

    def loss():
        scale = w.square().mean().item()
        return (v * scale).sum()  # here

    return w, loss


@fault("None", "detached", "sum", recorded=False)
def a_new_leaf_from_old_data():
    w = leaf(3)

    def loss():
        hidden = ta.tensor((w * 3).numpy(), requires_grad=True)
        return hidden.sum()  # here

    return w, loss


@fault("None", "no_grad", "tanh", "between", recorded=False)
def a_block_under_no_grad():
    def frozen(h):
        with ta.no_grad():
            return h.tanh()  # here

    net, loss = net_with(frozen)
    return net.first[0].weight, loss


@fault("None", "no_grad", "mul", recorded=False)
def a_buffer_filled_under_no_grad():
    w, v, buffer = leaf(3), leaf(3), ta.zeros(3)

    def loss():
        with ta.no_grad():
            buffer.copy_(w * 2)  # here
        return (buffer * v).sum()

    return w, loss


@fault("None", "integers", "cast", recorded=False)
def a_cast_to_integers():
    w, v = leaf(4, scale=3.0), leaf(10)

    def loss():
        levels = (w * 2).long()  # here
        return v[levels].sum() + F.embedding(levels, leaf(10, 2)).mean()

    return w, loss


@fault("None", "integers", "gt", recorded=False)
def a_comparison():
    w, v = leaf(4), leaf(4)

    def loss():
        gate = w > 1  # here
        return (gate.float() * v).sum()

    return w, loss


@fault("None", "integers", "argmax", recorded=False)
def an_argmax_as_an_index():
    w, table = leaf(5, 4), leaf(4, 2)

    def loss():
        chosen = (w * 2).argmax(1)  # here
        return table[chosen].sum()

    return w, loss


@fault("not kept", "not_a_leaf", "mul")
def a_scaled_parameter_is_no_leaf():
    w = leaf(3) * 0.1  # here
    return w, lambda: w.square().sum()


@fault("None", "frozen", None)
def a_frozen_parameter():
    w = leaf(3)
    w.requires_grad_(False)
    return w, lambda: (w * leaf(3)).sum()


# --- zero: flat, hidden, thrown away ---


def net_with(function):
    net = Net(Between(function))
    return net, lambda: net(X).square().mean()


@fault("zero", "dead_relu", "relu", "between")
def a_dead_relu():
    net, loss = net_with(lambda h: F.relu(h - 100))  # here
    return net.first[0].weight, loss


@fault("zero", "dead_relu", "relu", "between")
def the_layer_after_a_dead_relu():
    net, loss = net_with(lambda h: F.relu(h - 100))  # here
    return net.second.weight, loss


@fault("zero", "saturated", "sigmoid", "between")
def a_saturated_sigmoid():
    net, loss = net_with(lambda h: ta.sigmoid(h * 1e-3 + 25))  # here
    return net.first[0].bias, loss


@fault("zero", "saturated", "tanh", "between")
def a_saturated_tanh():
    net, loss = net_with(lambda h: (h + 50).tanh())  # here
    return net.first[0].weight, loss


@fault("zero", "saturated", "softmax", "between")
def a_saturated_softmax():
    net, loss = net_with(lambda h: F.softmax(h * 1e6, -1))  # here
    return net.first[0].weight, loss


@fault("zero", "saturated", "gelu", "between")
def a_gelu_far_out():
    net, loss = net_with(lambda h: F.gelu(h - 40))  # here
    return net.first[0].weight, loss


def wide_middle(bias, weight):
    """A LinearGELU between two layers, with all its weights and biases the same."""
    middle = nn.LinearGELU(4, 4)
    with ta.no_grad():
        middle.weight.fill_(weight)
        middle.bias.fill_(bias)
    net = Net(middle)
    return net.first[0].weight, lambda: net(X).square().mean()


@fault("zero", "saturated", "linear_gelu", "between")
def a_fused_gelu_far_out():
    return wide_middle(bias=-60.0, weight=0.01)


@fault("zero", "times_zero", "linear_gelu", "between")
def a_fused_linear_map_of_zeros():
    return wide_middle(bias=1.0, weight=0.0)


@fault("zero", "cancelled", "softmax")
def a_sum_of_probabilities():
    w = leaf(2, 4)
    return w, lambda: F.softmax(w, -1).sum()  # here


@fault("zero", "cancelled", "sub")
def a_difference_with_itself():
    w = leaf(3)

    def loss():
        y = w.exp()
        return (y - y).sum()  # here

    return w, loss


@fault("zero", "masked", "attention")
def a_mask_that_hides_everything():
    q, k, v, mask = leaf(2, 3, 4), leaf(2, 3, 4), leaf(2, 3, 4), ta.zeros(3, 3, dtype=ta.bool)

    def loss():
        mixed = F.scaled_dot_product_attention(q, k, v, mask)  # here
        return mixed.square().sum() + v.mean()

    return k, loss


@fault("not finite", "masked", "softmax", recorded="nan")
def a_softmax_over_a_masked_row():
    w, mask = leaf(3, 4), ta.tensor([[0.0] * 4, [-np.inf] * 4, [0.0, -np.inf] * 2])

    def loss():
        scores = w * 2 + mask
        return F.softmax(scores, -1).square().sum()  # here

    return w, loss


@fault("zero", "clamped", "clamp")
def a_clamp_below_all_values():
    w = leaf(3, 4)

    def loss():
        y = (w + 10).clamp(-1, 1)  # here
        return y.square().mean()

    return w, loss


@fault("zero", "not_selected", "where")
def a_where_that_takes_the_other_side():
    w, v = leaf(3, 4), leaf(3, 4)

    def loss():
        y = ta.where(w.detach() > 5, w, v)  # here
        return y.square().mean()

    return w, loss


@fault("zero", "not_selected", "maximum")
def a_maximum_that_takes_the_other_side():
    w, v = leaf(3, 4), leaf(3, 4)

    def loss():
        return ta.maximum(w, v + 10).mean()  # here

    return w, loss


@fault("zero", "not_selected", "masked_fill")
def a_fill_of_everything():
    w = leaf(3)

    def loss():
        y = w.exp().masked_fill(ta.ones(3) > 0, 1.0)  # here
        return y.sum()

    return w, loss


@fault("zero", "not_selected", "getitem")
def a_class_token_that_is_dropped():
    token, patches, w = leaf(1, 4), leaf(3, 4), leaf(4, 4)

    def loss():
        x = ta.cat([token, patches])
        x = F.gelu(F.layer_norm(F.linear(x, w), (4,)))
        x = x[1:]  # here
        return x.square().mean()

    return token, loss


@fault("zero", "dead_relu", "relu")
def some_rows_die():
    token, patches = leaf(1, 4), leaf(3, 4)

    def loss():
        x = ta.cat([token - 9, patches])
        x = (x * 2).transpose(0, 1)
        x = F.relu(x)  # here
        return x.exp().mean()

    return token, loss


@fault("zero", "overwritten", "setitem")
def an_assignment_over_everything():
    w = leaf(3)

    def loss():
        y = w * 2
        y[:] = 1.0  # here
        return y.sum()

    return w, loss


@fault("zero", "times_zero", "mul")
def a_factor_of_zero():
    w, gate = leaf(3), ta.zeros(3, requires_grad=True)

    def loss():
        y = w.exp() * gate  # here
        return y.sum()

    return w, loss


@fault("zero", "times_zero", "linear", "second")
def a_last_layer_that_starts_at_zero():
    net = Net()
    with ta.no_grad():
        net.second.weight.zero_()

    return net.first[0].weight, lambda: net(X).sub(1).square().mean()


@fault("zero", "dropped", "dropout", "between")
def a_dropout_of_everything():
    net, loss = net_with(lambda h: F.dropout(h, 1.0))  # here
    return net.first[0].weight, loss


@fault("zero", "flat", "sign")
def a_staircase():
    w = leaf(3)
    return w, lambda: (w * 2).sign().sum()  # here


@fault("zero", "stationary", "square")
def a_loss_at_its_minimum():
    w = leaf(3)
    target = w.detach() * 2
    return w, lambda: F.mse_loss(w * 2, target)  # here


@fault("zero", "hook", "mul")
def a_hook_that_zeroes():
    w = leaf(3)

    def loss():
        y = w * 2  # here
        y.register_hook(lambda g: g * 0)
        return y.exp().sum()

    return w, loss


@fault("tiny", "saturated", "sigmoid", "between")
def a_sigmoid_that_barely_passes():
    net, loss = net_with(lambda h: ta.sigmoid(h - 30))  # here
    return net.first[0].weight, loss


@fault("tiny", "vanishing", "sigmoid")
def fifty_layers():
    w = leaf(3)

    def loss():
        h = w * 1
        for _ in range(50):
            h = (h * 0.9).sigmoid()  # here
        return h.sum()

    return w, loss


# --- not finite, huge ---


@fault("not finite", "overflow", "exp", "between")
def an_exponential_that_overflows():
    net, loss = net_with(lambda h: (h * 1e4).abs().exp())  # here
    return net.first[0].weight, loss


@fault("not finite", "overflow", "exp")
def an_overflow_beside_a_nan_that_does_not_matter():
    w = leaf(4)

    def loss():
        shown = (w - 9).log().mean()
        assert np.isnan(shown.item())
        y = w * 300
        return y.exp().mean()  # here

    return w, loss


@fault("not finite", "nan", "log")
def a_logarithm_of_negative_numbers():
    w = leaf(4)

    def loss():
        p = (w - 1).log()  # here
        return p.square().sum()

    return w, loss


@fault("not finite", "nan_given", "linear", "first.0", recorded="nan")
def a_nan_in_a_weight_of_an_earlier_layer():
    net, loss = net_with(lambda h: h)
    net.first[0].weight.data[0, 0] = np.nan
    return net.second.weight, loss


@fault("not finite", "nan", "div", recorded="infinite_slope")  # the quotient itself is not saved
def zero_by_zero():
    w = leaf(4)

    def loss():
        y = w - w.detach()
        return (y / y.abs().sum()).sum()  # here

    return w, loss


@fault("not finite", "infinite_slope", "sqrt")
def a_distance_of_zero():
    w = leaf(4)

    def loss():
        difference = w - w.detach()
        return difference.abs().sum().sqrt()  # here

    return w, loss


@fault("not finite", "nan", "sqrt")
def where_does_not_help_a_square_root():
    w = leaf(4)

    def loss():
        y = w - w.detach()
        root = y.sqrt()  # here
        return ta.where(y > 0, root, 0.0).sum()

    return w, loss


@fault("huge", "huge", "div")
def a_division_by_nearly_nothing():
    w = leaf(3)

    def loss():
        y = w.exp()
        y = y / (w.detach().mean() * 1e-6)  # here
        return y.mean()

    return w, loss


# --- the test of all of them ---


def symptom_of(parameter):
    g = parameter.grad
    if g is None:
        return "not kept" if parameter.requires_grad and not parameter.is_leaf else "None"
    size = float(abs(g.array).max())
    return (
        "not finite"
        if not np.isfinite(g.array).all()
        else "zero"
        if size == 0
        else "tiny"
        if size < 1e-7
        else "huge"
        if size > 1e3
        else "healthy"
    )


@pytest.mark.parametrize(("make", "symptom", "verdict", "culprit", "module", "recorded"), FAULTS)
def test_explain_finds_the_culprit(make, symptom, verdict, culprit, module, recorded):
    parameter, loss = make()
    before = parameter.grad
    found = explain(parameter, loss)
    assert (found.verdict, found.culprit, found.module) == (verdict, culprit, module), str(found)
    if culprit:
        assert found.site == (marked_line(make) or marked_line(Net.forward)), str(found)
        assert str(found).count("<==== here") == 1
        assert found.path[0] == "loss"
    assert VERDICTS[verdict][1] in str(found)
    assert parameter.grad is before  # asking changes nothing

    alone = explain(parameter, loss())  # of the graph alone
    assert alone.verdict == (recorded if isinstance(recorded, str) else verdict if recorded else "unrecorded"), str(
        alone
    )
    if recorded:
        assert (alone.culprit, alone.site) == (found.culprit, found.site)

    value = loss()  # and the fault is a real one
    if value.requires_grad:
        value.backward()
    assert symptom_of(parameter) == symptom


def test_explain_corpus_covers_every_verdict():
    assert len(FAULTS) >= 12
    assert {row.values[2] for row in FAULTS} | {"healthy", "unrecorded", "no_rule", "zero"} == set(VERDICTS)


def test_explain_does_not_blame_cat_for_few_elements():
    w, others = leaf(1), leaf(5000)

    def loss():
        h = ta.cat([w, others])
        for _ in range(14):
            h = h.sigmoid()
        return h.sum()

    found = explain(w, loss)
    assert (found.verdict, found.culprit) == ("vanishing", "sigmoid"), str(found)


def test_explain_uses_the_longest_parameter_name():
    net = Net()

    def part_first():
        return net.first(X).mean() + net(X).mean()

    def whole_first():
        return net(X).mean() + net.first(X).mean()

    for loss in (part_first, whole_first):
        assert "'first.0.weight'" in str(explain(net.first[0].weight, loss))


def test_explain_calls_a_new_model_healthy():
    model = models.AttentionClassifier(image_size=8, patch_size=4, hidden_dim=16, mlp_dim=32, num_layers=1)
    images, labels = ta.rand(4, 8, 8), ta.tensor([1, 2, 3, 4])
    for name, parameter in model.named_parameters():
        found = explain(parameter, lambda: F.cross_entropy(model(images), labels))
        assert found.verdict == "healthy", str(found)
        assert f"'{name}'" in str(found) and parameter.grad is None


def test_explain_finds_a_cancelled_key_bias():
    query, key, value, bias = leaf(2, 3, 4), leaf(2, 3, 4), leaf(2, 3, 4), leaf(4)

    def loss():
        shifted = key + bias
        return F.scaled_dot_product_attention(query, shifted, value).square().sum()

    found = explain(bias, loss, tiny=1e-5)  # up to rounding, all scores of a query move together
    assert (found.verdict, found.culprit) == ("cancelled", "add"), str(found)


def test_explain_names_an_operation_without_rule():
    @ta.operation(a=lambda F, g: g)
    def half(F, a, b):
        return a + b * 0

    a, b = leaf(3), leaf(3)
    found = explain(b, lambda: half(a, b).sum())
    assert (found.verdict, found.culprit) == ("no_rule", "half"), str(found)


def test_explain_finds_nan_in_data():
    w, x = leaf(3), ta.tensor([1.0, np.nan, 2.0])
    found = explain(w, lambda: (w * x).sum())
    assert (found.verdict, found.culprit) == ("nan_given", "mul") and "'b', (3,) float32" in str(found)


def test_explain_shortens_long_paths_around_the_culprit():
    w = leaf(3)

    def loss():
        h = w * 1
        for k in range(100):
            h = h * 0.0 if k == 50 else h + 1
        return h.sum()

    path = explain(w, loss).path
    assert len(path) < 20 and path.count("...") == 2
    assert path[-1] == "<- this tensor" and "sum" in path[1]


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: explain([1.0], leaf(1).sum()), TypeError, "expected a parameter, which is a Tensor, got list"),
        (lambda: explain(leaf(1), 3.0), TypeError, "expected a loss, or a function that computes it, got float"),
        (lambda: explain(leaf(1), lambda: 3.0), TypeError, "must return the loss, a Tensor; it gave float"),
        (lambda: after_backward(lambda w, loss: explain(w, loss)), RuntimeError, "has walked this graph and freed what it saved"),
        (lambda: after_backward(lambda w, loss: explain(w, loss.exp())), RuntimeError, "explain a function"),
    ],
)  # fmt: skip
def test_explain_refuses_wrong_arguments(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


def after_backward(ask):
    w = leaf(2)
    loss = (w * w).sum()
    loss.backward()
    return ask(w, loss)


def test_explain_refuses_a_loss_that_is_not_scalar():
    w = leaf(2)
    with pytest.raises(RuntimeError, match="only for a single number"):
        explain(w, lambda: w * 2)


def test_explain_works_in_another_thread():
    w, answers = leaf(2), []
    thread = threading.Thread(target=lambda: answers.append(explain(w, lambda: (w * 0.0).sum()).verdict))
    thread.start()
    thread.join()
    assert answers == ["times_zero"]
