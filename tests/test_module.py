"""What a Module promises: names, order, state, modes, hooks, and errors that say what to do."""

from __future__ import annotations

import collections
import copy
import gc
import pickle
import weakref

import numpy as np
import pytest
from answers import torch

import tinyattn as ta
from tinyattn import nn

F64 = np.dtype("float64")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.scale = nn.Parameter(ta.ones(4))
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(2)])
        self.register_buffer("count", ta.zeros(2, dtype=ta.int64))
        self.register_buffer("cache", ta.zeros(1), persistent=False)
        self.tied = self.first

    def forward(self, x):
        x = self.first(x) * self.scale
        for block in self.blocks:
            x = block(x)
        return x


class TorchNet(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(3, 4)
        self.scale = torch.nn.Parameter(torch.ones(4))
        self.blocks = torch.nn.ModuleList(
            [torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Tanh()) for _ in range(2)]
        )
        self.register_buffer("count", torch.zeros(2, dtype=torch.int64))
        self.register_buffer("cache", torch.zeros(1), persistent=False)
        self.tied = self.first


@pytest.mark.parametrize(
    "names",
    [
        lambda m: [n for n, _ in m.named_parameters()],
        lambda m: [n for n, _ in m.named_parameters(prefix="net", recurse=False)],
        lambda m: [n for n, _ in m.named_parameters(remove_duplicate=False)],
        lambda m: [n for n, _ in m.named_buffers()],
        lambda m: [n for n, _ in m.named_modules()],
        lambda m: [n for n, _ in m.named_modules(prefix="net", remove_duplicate=False)],
        lambda m: [n for n, _ in m.named_children()],
        lambda m: [type(x).__name__ for x in m.children()],
        lambda m: [type(x).__name__.removeprefix("Torch") for x in m.modules()],
        lambda m: [tuple(x.shape) for x in [*m.parameters(), *m.buffers()]],
        lambda m: list(m.state_dict()),
        lambda m: list(m.state_dict(prefix="net.")),
        lambda m: repr(m).removeprefix("Torch"),
    ],
)
def test_module_iteration_as_torch(names):
    assert names(Net()) == names(TorchNet())


def test_state_dict_shares_memory_and_no_history():
    net = Net()
    state = net.state_dict()
    state["scale"].fill_(5.0)
    assert (net.scale.detach().numpy() == 5).all()
    assert not any(t.requires_grad for t in state.values())
    assert net.state_dict(keep_vars=True)["scale"] is net.scale


def test_optimizer_state_dict_crosses_to_torch_and_back():
    ours, theirs = Net(), TorchNet()
    theirs.load_state_dict({n: torch.from_numpy(t.numpy()) for n, t in ours.state_dict().items()})
    for (name, a), b in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy(), err_msg=name)
    other = Net()
    assert repr(other.load_state_dict(theirs.state_dict())) == "<All keys matched successfully>"
    x = ta.randn(2, 3)
    np.testing.assert_array_equal(other(x).detach().numpy(), ours(x).detach().numpy())


@pytest.mark.parametrize(
    "convert",
    [lambda t: t.numpy(), lambda t: t.numpy().astype("float64"), lambda t: t.clone(), lambda t: t.tolist(),
     lambda t: torch.nn.Parameter(torch.from_numpy(t.numpy().copy()), requires_grad=t.dtype.kind == "f")],
)  # fmt: skip
def test_load_state_dict_takes_anything_like_a_tensor(convert):
    source, net = Net(), Net()
    scale = net.scale
    net.load_state_dict({n: convert(t) for n, t in source.state_dict().items()})
    for name, tensor in net.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), source.state_dict()[name].numpy())
        assert tensor.dtype == source.state_dict()[name].dtype
    assert net.scale is scale  # the same parameter, so an optimizer still holds it
    assert net.scale.is_leaf


def broken(**changes):
    state = dict(Net().state_dict())
    for name, value in changes.items():
        if value is None:
            del state[name]
        else:
            state[name] = value
    return state


@pytest.mark.parametrize(
    ("changes", "messages"),
    [
        ({"scale": None}, ["'scale' is missing"]),
        (
            {"scale": None, "scal": ta.ones(4)},
            ["'scale' is missing (nearest given: 'scal')", "'scal' is unexpected (nearest here: 'scale')"],
        ),
        ({"first.wieght": ta.ones(4)}, ["'first.wieght' is unexpected (nearest here: 'first.weight')"]),
        ({"scale": ta.ones(5)}, ["'scale' has shape (5,), but here it is (4,)"]),
        ({"scale": "much"}, ["'scale' is a str, not a tensor"]),
    ],
)  # fmt: skip
def test_load_state_dict_that_fails_changes_nothing(changes, messages):
    net = Net()
    before = {n: t.numpy().copy() for n, t in net.state_dict().items()}
    with pytest.raises(RuntimeError, match="nothing was loaded") as caught:
        net.load_state_dict(broken(**changes))
    for message in messages:
        assert message in str(caught.value)
    for name, tensor in net.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), before[name])


def test_load_state_dict_not_strict():
    net = Net()
    result = net.load_state_dict({"scale": np.full(4, 7.0), "other": np.ones(1)}, strict=False)
    assert result.missing_keys == [n for n in net.state_dict() if n != "scale"]
    assert result.unexpected_keys == ["other"]
    assert "other" in repr(result)
    assert (net.scale.detach().numpy() == 7).all()
    with pytest.raises(RuntimeError, match="shape"):  # as in torch, a wrong shape is never right
        net.load_state_dict({"scale": np.ones(3)}, strict=False)
    with pytest.raises(TypeError, match="got a list; expected a mapping"):
        net.load_state_dict([1])


def test_module_train_eval_apply_freeze_zero_grad():
    net, seen = Net(), []
    assert net.eval() is net
    assert not any(m.training for m in net.modules())
    assert all(m.training for m in net.train().modules())
    net.apply(lambda m: seen.append(type(m).__name__))
    assert seen == ["Linear", "Linear", "Tanh", "Sequential", "Linear", "Tanh", "Sequential", "ModuleList", "Net"]
    net(ta.ones(1, 3)).sum().backward()
    grad = net.scale.grad
    net.zero_grad(set_to_none=False)
    assert (net.scale.grad.numpy() == 0).all()
    assert net.scale.grad.shape == grad.shape
    net.zero_grad()
    assert all(p.grad is None for p in net.parameters())
    net.requires_grad_(False)
    assert not any(p.requires_grad for p in net.parameters())
    with pytest.raises(ValueError, match="mode='yes'; expected True or False"):
        net.train("yes")


def test_module_to_converts_floating_tensors_in_place():
    net = Net()
    scale = net.scale
    net(ta.ones(1, 3)).sum().backward()
    assert net.double() is net
    assert net.scale is scale
    assert {p.dtype for p in net.parameters()} == {F64}
    assert scale.grad.dtype == F64
    assert net.count.dtype == ta.int64
    net.zero_grad()
    net(ta.ones(1, 3, dtype=F64)).sum().backward()
    assert scale.grad.dtype == F64
    assert net.to("cpu").scale.dtype == F64
    assert net.to("cpu", dtype=ta.float32).scale.dtype == ta.float32
    assert net.to(torch_like := np.float64).scale.dtype == np.dtype(torch_like)
    assert net.float().scale.dtype == ta.float32
    with pytest.raises(TypeError, match="expected a floating-point dtype"):
        net.to(ta.int64)
    with pytest.raises(ValueError, match="device"):
        net.to("cpu:7:x")


def test_module_made_as_float64():
    assert nn.Linear(2, 3, dtype=F64).weight.dtype == F64
    assert nn.MultiheadAttention(4, 2, dtype=F64).in_proj_weight.dtype == F64


def test_module_deepcopy_and_pickle():
    net = Net()
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        x = ta.randn(2, 3)
        np.testing.assert_array_equal(twin(x).detach().numpy(), net(x).detach().numpy())
        assert twin.tied is twin.first
        assert twin.scale is not net.scale
        assert isinstance(twin.scale, nn.Parameter)
        twin.scale.detach().fill_(0.0)
        assert (net.scale.detach().numpy() == 1).all()


def test_forward_hooks_see_and_replace():
    layer, seen = nn.Linear(2, 2), []
    x = ta.ones(1, 2)
    plain = layer(x).detach().numpy()
    handles = [
        layer.register_forward_pre_hook(lambda m, args: seen.append(("pre", m is layer, args[0] is x))),
        layer.register_forward_pre_hook(lambda m, args: (args[0] * 2,)),
        layer.register_forward_pre_hook(lambda m, args: args[0] / 2),
        layer.register_forward_pre_hook(lambda m, args, kw: seen.append(("kw", kw)), with_kwargs=True, prepend=True),
        layer.register_forward_hook(lambda m, args, out: out + 1),
        layer.register_forward_hook(lambda m, args, kw, out: out * 10, with_kwargs=True, prepend=True),
    ]
    np.testing.assert_allclose(layer(x).detach().numpy(), plain * 10 + 1, rtol=1e-6)
    assert seen == [("kw", {}), ("pre", True, True)]
    for handle in handles:
        handle.remove()
        handle.remove()
    np.testing.assert_array_equal(layer(x).detach().numpy(), plain)
    with layer.register_forward_hook(lambda m, args, out: 0):
        assert layer(x) == 0
    layer.register_forward_pre_hook(lambda m, args, kw: ((x * 2,), {}), with_kwargs=True)
    np.testing.assert_allclose(layer(input=x).detach().numpy(), layer.forward(x * 2).detach().numpy())


class Twice(nn.Module):
    """Two inputs, two outputs, of which the second input takes part in one."""

    def forward(self, a, b, times=2):
        return a * times, a * b


class TorchTwice(torch.nn.Module):
    def forward(self, a, b, times=2):
        return a * times, a * b


@pytest.mark.parametrize("create_graph", [False, True])
def test_backward_hooks_as_torch(create_graph):
    seen = {}
    for library, module in ((ta, Twice()), (torch, TorchTwice())):
        told = seen[library] = []
        log = [lambda g: None if g is None else g.tolist()]

        def show(what, *gradients, told=told, log=log):
            told.append((what, *[tuple(log[0](g) for g in gs) for gs in gradients]))

        module.register_full_backward_pre_hook(lambda m, go, show=show: show("pre", go))
        module.register_full_backward_hook(lambda m, gi, go, show=show: show("first", gi, go))
        module.register_full_backward_hook(lambda m, gi, go, show=show: show("second", gi, go))
        module.register_full_backward_hook(lambda m, gi, go, show=show: show("ahead", gi, go), prepend=True)
        module.register_full_backward_pre_hook(lambda m, go: tuple(g and g * 10 for g in go) if None in go else None)
        module.register_full_backward_hook(lambda m, gi, go: (gi[0] * 3, gi[1]), prepend=True)
        a, b = (library.tensor(x, dtype=library.float64, requires_grad=True) for x in (2.0, 5.0))
        for combine in (lambda y, z: y + z * z, lambda y, z: z):
            (y, z) = module(a, b, times=7)
            loss = combine(y, z)
            for _ in range(2):  # the second walk starts from nothing
                loss.backward(retain_graph=True, create_graph=create_graph)
                told.append((log[0](a.grad), log[0](b.grad)))
        with library.no_grad():
            module(a, b)
        told.append(log[0](module(a.detach(), b.detach())[0]))
    assert seen[ta] == seen[torch]
    assert seen[ta][0] == ("pre", (1.0, 20.0))


class Cube(nn.Module):
    """x ** 3, whose gradient needs x again."""

    def forward(self, x):
        return x * x * x


class TorchCube(torch.nn.Module):
    def forward(self, x):
        return x * x * x


THROUGH = {  # what is differentiated again: the gradient g of the output y, or a mix of both
    "the gradient": lambda y, g: g,
    "gradient and output": lambda y, g: g * g + y,
    "the gradient twice": lambda y, g: g * g,
}


@pytest.mark.parametrize("combine", THROUGH.values(), ids=THROUGH)
def test_backward_hooks_in_a_double_backward_as_torch(combine):
    results = []
    for library, module, grad in ((ta, Cube(), ta.grad), (torch, TorchCube(), torch.autograd.grad)):
        told = []
        module.register_full_backward_hook(lambda m, gi, go, told=told: told.append((gi[0].item(), go[0].item())))
        module.register_full_backward_hook(lambda m, gi, go: (gi[0] * 0.5,))
        module.register_full_backward_pre_hook(lambda m, go, told=told: told.append(go[0].item()))
        x = library.tensor(2.0, requires_grad=True)
        y = module(x)
        (g,) = grad(y, x, create_graph=True)
        (h,) = grad(combine(y, g), x, create_graph=True)
        (again,) = grad(h, x)
        results.append([g.item(), h.item(), again.item(), told])
    assert results[0] == results[1]


def test_backward_hook_that_halves_halves_the_second_derivative_once():
    module, x = Cube(), ta.tensor(2.0, requires_grad=True)
    module.register_full_backward_hook(lambda m, gi, go: (gi[0] * 0.5,))
    (g,) = ta.grad(module(x), x, create_graph=True)
    assert (g.item(), ta.grad(g, x)[0].item()) == (6.0, 6.0)


def test_backward_hooks_without_input_gradients():
    layer, seen = nn.Linear(2, 3), []
    layer.register_full_backward_hook(lambda m, gi, go: seen.append((gi, go[0].shape)))
    layer(ta.ones(4, 2)).sum().backward()
    assert seen == [((None,), (4, 3))]
    assert layer.weight.grad is not None
    twice, x = Twice(), ta.ones(1, requires_grad=True)
    twice.register_full_backward_hook(lambda m, gi, go: seen.append([g is None for g in gi + go]))
    twice(x, x * 1)[0].sum().backward()  # PyTorch shows zeros for the input that took no part
    assert seen[1] == [False, True, False, True]


def test_backward_hooks_keep_nothing_alive():
    layer, x = nn.Linear(2, 2), ta.ones(1, 2, requires_grad=True)
    layer.register_full_backward_hook(lambda m, gi, go: None)
    gc.disable()
    try:
        y = layer(x)
        node = weakref.ref(y.node)
        y.sum().backward()
        del y
        assert node() is None
    finally:
        gc.enable()
    seen = {}
    for library, module in ((ta, Twice()), (torch, TorchTwice())):
        told = seen[library] = []
        module.register_full_backward_hook(lambda m, gi, go, told=told: told.append([g is None for g in go]))
        a, b = (library.tensor([v], requires_grad=True) for v in (2.0, 5.0))
        y, z = module(a, b)
        if library is ta:
            ta.grad(y.sum() * 7, [y], retain_graph=True)  # stops at the output
        z.sum().backward()
    assert seen[ta] == seen[torch] == [[True, False]]


def test_backward_hooks_and_kinds_of_output():
    class Kind(nn.Module):
        def forward(self, x, kind):
            return kind(x)

    Pair, module, calls = collections.namedtuple("Pair", "left right"), Kind(), []
    module.register_full_backward_hook(lambda m, gi, go: calls.append(go))
    x = ta.ones(2, requires_grad=True)
    pair = module(x, lambda x: Pair(x * 2, "text"))
    assert (type(pair), pair.right, type(module(x, lambda x: [x]))) == (Pair, "text", list)
    pair.left.sum().backward()
    assert [[g is None for g in go] for go in calls] == [[False, True]]
    with pytest.warns(UserWarning, match="Kind returned a dict, so its backward hooks will not be called") as record:
        module(x, lambda x: {"a": x})
    assert record[0].filename == __file__


def test_backward_hook_cannot_change_shapes_or_dtypes():
    layer, x = nn.Linear(2, 2), ta.ones(1, 2, requires_grad=True)
    with layer.register_full_backward_hook(lambda m, gi, go: (None,)):
        layer(x).sum().backward()
        assert x.grad.tolist() == [[0.0, 0.0]]
    for wrong in (ta.ones(2, 2), (ta.ones(1, 2),) * 2, (3.0,), ta.ones(1, 2).double()):
        with (
            layer.register_full_backward_hook(lambda m, gi, go, wrong=wrong: wrong),
            pytest.raises(
                RuntimeError,
                match=r"hook of Linear returned .* for grad_input; expected None, or a tuple \(shape \(1, 2\) float32\)",
            ),
        ):
            layer(x).sum().backward()
    with (
        layer.register_full_backward_pre_hook(lambda m, go: (ta.ones(3),)),
        pytest.raises(RuntimeError, match=r"\(shape \(3,\) float32\) for grad_output"),
    ):
        layer(x).sum().backward()


def test_module_attributes_are_registered_and_replaced():
    net = Net()
    net.scale = nn.Parameter(ta.zeros(4))
    assert next(n for n, _ in net.named_parameters() if n == "scale")
    net.scale = None
    assert "scale" not in dict(net.named_parameters())
    net.tied = None
    assert "tied" not in dict(net.named_children())
    net.count = ta.ones(2, dtype=ta.int64)
    assert (net.state_dict()["count"].numpy() == 1).all()
    net.plain = 3
    net.plain = nn.Linear(1, 1)
    assert "plain" in dict(net.named_children())
    net.plain = nn.Parameter(ta.ones(1))  # of another kind now
    assert "plain" not in dict(net.named_children())
    assert "plain" in dict(net.named_parameters())
    del net.plain, net.cache
    assert not hasattr(net, "plain")
    assert not hasattr(net, "cache")
    assert {"first", "count", "forward"} <= set(dir(net))
    net.other = 1
    del net.other
    assert not hasattr(net, "other")


class Forgot(nn.Module):
    def __init__(self):
        self.layer = nn.Linear(1, 1)


class ForgotAll(nn.Module):
    def __init__(self):
        pass

    def forward(self, x):
        return x


@pytest.mark.parametrize(
    ("act", "error", "message"),
    [
        (lambda: Net().frist, AttributeError, r"Net has no attribute 'frist' \(nearest here: 'first'\)"),
        (lambda: nn.Module()(1), AttributeError, r"Module has no forward\(\); define it"),
        (Forgot, AttributeError, r"call super\(\).__init__\(\) first in Forgot.__init__"),
        (lambda: ForgotAll()(1), AttributeError, r"call super\(\).__init__\(\) first in ForgotAll.__init__"),
        (
            lambda: setattr(Net(), "scale", ta.ones(4)),
            TypeError,
            "Net.scale is a Parameter, and a Tensor cannot replace",
        ),
        (lambda: setattr(Net(), "first", 3), TypeError, "Net.first is a Module, and a int cannot"),
        (lambda: Net().register_buffer("first", 3), TypeError, "'first' is a int; expected a Tensor"),
        (lambda: Net().register_parameter("w", ta.ones(1)), TypeError, "'w' is a Tensor; expected a Parameter"),
        (lambda: Net().add_module("w", 1), TypeError, "'w' is a int; expected a Module"),
        (lambda: Net().register_buffer("a.b", ta.ones(1)), KeyError, "without a dot"),
        (lambda: Net().register_parameter("forward", None), KeyError, "has an attribute 'forward' already"),
        (lambda: nn.ModuleList([nn.Tanh()])[1], IndexError, "index 1 is out of range for a ModuleList of 1 modules"),
    ],
)
def test_module_mistakes_raise_clear_errors(act, error, message):
    with pytest.raises(error, match=message):
        act()


@pytest.mark.parametrize("kind", ["Sequential", "ModuleList"])
def test_module_containers_are_lists(kind):
    def run(n):
        layers = [n.Linear(2, 2), n.Tanh(), n.ReLU(), n.Identity()]
        row = getattr(n, kind)(*layers) if kind == "Sequential" else n.ModuleList(layers)
        shown = [len(row), repr(row[1:3]), repr(row[-1]), [type(m).__name__ for m in row]]
        row.append(n.Sigmoid())
        row.extend([n.SiLU(), n.Tanh()])
        row.insert(1, n.Flatten())
        shown.append(repr(row))
        del row[2]
        row[0] = n.GELU()
        shown.append(repr(row))
        del row[1:3]
        return [*shown, repr(row)]

    assert run(nn) == run(torch.nn)


def test_sequential_runs_and_names():
    net = nn.Sequential({"wide": nn.Linear(2, 4), "tanh": nn.Tanh()})
    x = ta.randn(3, 2)
    np.testing.assert_array_equal(net(x).detach().numpy(), net.tanh(net[0](x)).detach().numpy())
    assert list(net.state_dict()) == ["wide.weight", "wide.bias"]


def test_parameter_shares_memory_and_is_a_leaf():
    source = ta.ones(3)
    parameter = nn.Parameter(source)
    source.fill_(2.0)
    assert (parameter.detach().numpy() == 2).all()  # shared, as in torch
    assert parameter.requires_grad
    assert parameter.is_leaf
    assert isinstance(parameter, ta.Tensor)
    assert not nn.Parameter([1.0], requires_grad=False).requires_grad
    assert repr(parameter).startswith("Parameter containing:\ntensor([2., 2., 2.]")
    assert type(parameter * 2) is ta.Tensor
    assert nn.Parameter(parameter * 2).is_leaf


def test_parameter_shares_its_sources_version_counter():
    source = ta.ones(3)
    parameter = nn.Parameter(source)
    loss = (parameter * parameter).sum()
    source.fill_(2.0)
    with pytest.raises(RuntimeError, match="changed it in place"):
        loss.backward()


# --- containers, paths, conversions, hooks of loading: as in torch.nn ---


def in_both(act):
    """What `act(nn, ones)` gives with both libraries."""
    return act(nn, ta.ones), act(torch.nn, torch.ones)


def layers(n):
    return [n.Linear(2, 2) for _ in range(3)]


CONTAINERS = {
    "Sequential +": lambda n, ones: repr(n.Sequential(n.Tanh()) + n.Sequential(n.ReLU(), n.Tanh())),
    "Sequential +=": lambda n, ones: repr(n.Sequential(n.Tanh()).extend([n.ReLU()]).append(n.Tanh()).insert(0, n.Sigmoid())[1:3]),
    "Sequential pop": lambda n, ones: (repr((s := n.Sequential(*layers(n), n.Tanh())).pop(1)), repr(s), len(s)),
    "ModuleList +": lambda n, ones: repr(n.ModuleList([n.Tanh()]) + n.ModuleList([n.ReLU()])),
    "ModuleList pop": lambda n, ones: (repr((s := n.ModuleList([*layers(n), n.Tanh()])).pop(-1)), list(s.state_dict())),
    "ModuleDict": lambda n, ones: repr(n.ModuleDict({"a": n.Tanh(), "b": n.Linear(2, 3)})),
    "ModuleDict parts": lambda n, ones: [
        (d := n.ModuleDict([["a", n.Tanh()], ["b", n.ReLU()]])).update({"c": n.Linear(1, 1)}), list(d), list(d.keys()), len(d),
        "b" in d, repr(d.pop("b")), repr(d["c"]), list(d.state_dict()), [k for k, _ in d.items()], [repr(v) for v in d.values()],
    ],
    "ParameterList": lambda n, ones: [
        list(n.ParameterList([n.ParameterList([ones(1)]), ones(2)]).state_dict()), len(n.ParameterList([n.Linear(1, 1)])),
        len(p := n.ParameterList([ones(2), n.Parameter(ones(3))])), list(p.append(ones(1)).state_dict()), p[1].tolist(),
        [tuple(x.shape) for x in p.extend([ones(4)])], [tuple(x.shape) for x in p[1:3]], all(x.requires_grad for x in p),
    ],
    "ParameterDict": lambda n, ones: [
        list(p := n.ParameterDict({"a": ones(2), "b": n.Parameter(ones(3))})), list(p.state_dict()), p["a"].requires_grad,
        "c" in p, len(p), [k for k, _ in p.items()], p.pop("a").tolist(), list(p.keys()), p.get("z"),
    ],
    "get_submodule": lambda n, ones: repr(n.Sequential(n.Sequential(n.Tanh(), n.ReLU())).get_submodule("0.1")),
    "get_parameter": lambda n, ones: tuple(n.Sequential(n.Linear(2, 3)).get_parameter("0.weight").shape),
    "get_buffer": lambda n, ones: n.Sequential(n.BatchNorm1d(2)).get_buffer("0.running_var").tolist(),
    "destination": lambda n, ones: list(n.Linear(1, 1).state_dict(destination={"x": 1}, prefix="model.")),
    "type": lambda n, ones: str(n.Linear(1, 1).type("torch.DoubleTensor").weight.dtype).replace("torch.", ""),
    "half": lambda n, ones: str(n.Linear(1, 1).half().weight.dtype).replace("torch.", ""),
    "register_module": lambda n, ones: (m := n.Module(), m.register_module("a", n.Tanh()), repr(m))[2],
    "_get_name": lambda n, ones: n.Tanh()._get_name(),
}  # fmt: skip


@pytest.mark.parametrize("name", CONTAINERS)
def test_module_containers_and_paths_equal_torchs(name):
    ours, theirs = in_both(CONTAINERS[name])
    assert ours == theirs


def test_list_of_modules_grows_in_place():
    rows = first = nn.ModuleList(layers(nn))
    rows += [nn.Tanh()]
    assert rows is first and len(rows) == 4
    assert len(list(nn.ParameterDict({"a": ta.ones(1)}).parameters())) == 1


def test_module_to_takes_arguments_without_effect():
    linear = nn.Linear(1, 1).to(ta.get_default_device(), ta.float64, True, non_blocking=True, memory_format=None)
    assert linear.weight.dtype == F64
    with pytest.raises(TypeError, match=r"Linear.to got \['colour'\]"):
        linear.to(colour=1)


@pytest.mark.parametrize(
    ("act", "error", "message"),
    [
        (lambda: nn.Linear(1, 1).bfloat16(), NotImplementedError, "use half"),
        (lambda: nn.Linear(1, 1).share_memory(), NotImplementedError, "belong to one process"),
        (lambda: nn.Sequential(nn.Linear(1, 1)).get_submodule("1"), AttributeError, "Sequential has no module '1'"),
        (
            lambda: nn.Linear(1, 1).get_parameter("wight"),
            AttributeError,
            "no parameter 'wight'.*nearest here: 'weight'",
        ),
        (lambda: nn.Linear(1, 1).get_buffer("weight"), AttributeError, "has no buffer 'weight'"),
        (lambda: nn.ModuleDict({"a": ta.ones(1)}), TypeError, "'a' is a Tensor; expected a Module"),
        (lambda: nn.ParameterList([3]), TypeError, "'0' is a int; expected a Parameter"),
        (lambda: nn.ParameterList([ta.ones(1)])[1], IndexError, "out of range"),
    ],
)
def test_module_refuses_in_a_sentence(act, error, message):
    with pytest.raises(error, match=message):
        act()


def test_load_pre_hooks_change_the_state():
    inner, seen = nn.Linear(1, 1), []

    def rename(state_dict, prefix, *rest):
        seen.append((prefix, len(rest)))
        state_dict[prefix + "weight"] = state_dict.pop(prefix + "kernel")

    handle = inner._register_load_state_dict_pre_hook(rename)
    inner.register_load_state_dict_pre_hook(lambda module, state, prefix, *rest: seen.append(module is inner))
    net = nn.Sequential(inner)
    given = {"0.kernel": ta.full((1, 1), 3.0), "0.bias": ta.zeros(1)}
    assert repr(net.load_state_dict(given)) == "<All keys matched successfully>"
    assert seen == [("0.", 5), True] and inner.weight.item() == 3 and "0.kernel" in given
    handle.remove()
    with pytest.raises(RuntimeError, match=r"'0\.weight' is missing"):
        net.load_state_dict(given)


def test_load_post_hooks_take_names_away():
    net = nn.Sequential(nn.Linear(1, 1))
    net[0].register_load_state_dict_post_hook(lambda module, result: result.missing_keys.clear())
    net.load_state_dict({"0.weight": ta.full((1, 1), 3.0)})
    assert net[0].weight.item() == 3
    with pytest.raises(RuntimeError, match=r"does not fit Sequential.*more"):
        net.load_state_dict({"0.weight": ta.full((1, 1), 3.0), "more": ta.ones(1)})


def test_load_assigns_dtypes():
    linear, weight = nn.Linear(1, 1), None
    weight = linear.weight
    linear.load_state_dict({"weight": ta.full((1, 1), 3.0, dtype=F64), "bias": ta.zeros(1)}, assign=True)
    assert linear.weight is weight and weight.dtype == F64 and weight.item() == 3 and weight.requires_grad
    assert linear.bias.dtype == ta.float32


def test_global_module_hooks_run_before_the_modules_own_as_in_pytorch():
    from tinyattn.nn import every_module

    found = []
    for library, names in ((nn, every_module), (torch.nn, torch.nn.modules.module)):
        lib, seen = (ta, []) if library is nn else (torch, [])
        model = library.Sequential(library.Linear(2, 2), library.Tanh())

        def note(what, seen=seen):
            return lambda module, *args: seen.append((what, type(module).__name__, len(args)))

        handles = [
            names.register_module_forward_pre_hook(note("pre")),
            names.register_module_forward_hook(note("after")),
            names.register_module_forward_hook(note("with kwargs"), with_kwargs=True),
            names.register_module_full_backward_pre_hook(note("backward pre")),
            names.register_module_full_backward_hook(note("backward")),
            model[0].register_forward_hook(note("own")),
            model[0].register_full_backward_hook(note("own backward")),
        ]
        model(lib.ones((1, 2), requires_grad=True)).sum().backward()
        for handle in handles:
            handle.remove()
        model(lib.ones((1, 2), requires_grad=True)).sum().backward()
        with names.register_module_forward_pre_hook(lambda module, args: (args[0] * 0,)):
            assert (model[1](lib.ones(2)) == 0).all()
        found.append(seen)
    assert found[0] == found[1] and len(found[0]) > 10


def test_compiled_step_runs_global_module_hooks():
    from tinyattn.nn import every_module

    layer, seen = nn.Linear(2, 2), []
    step = ta.compile(ta.no_grad()(lambda x: layer(x)))
    for _ in range(4):
        step(ta.ones(2))
    with every_module.register_module_forward_hook(lambda *args: seen.append(1)):
        for _ in range(3):
            step(ta.ones(2))
    assert len(seen) == 3


@pytest.mark.parametrize("library", [nn, torch.nn], ids=["ours", "torch"])
def test_modules_may_override_load_from_state_dict(library):
    lib = ta if library is nn else torch

    class Frozen(library.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("weight", lib.ones(2))
            self.inner = library.Linear(2, 2)

        def _load_from_state_dict(self, state_dict, prefix, *rest):
            state_dict.pop(prefix + "num_batches_tracked", None)
            super()._load_from_state_dict(state_dict, prefix, *rest)

    model = library.Sequential(library.Linear(2, 2), Frozen())
    state = {name: x + 1 for name, x in model.state_dict().items()}
    given = state | {"1.num_batches_tracked": lib.zeros(())}
    result = model.load_state_dict(given)
    assert not any(result) and "1.num_batches_tracked" in given
    assert all(lib.equal(x, state[name]) for name, x in model.state_dict().items())
    lacking = {name: x for name, x in state.items() if name not in ("1.weight", "1.inner.bias")}
    result = model.load_state_dict(lacking | {"1.other": lib.ones(1)}, strict=False)
    assert sorted(result.missing_keys) == ["1.inner.bias", "1.weight"]
    for wrong in (lacking, state | {"1.other": lib.ones(1)}, state | {"1.weight": lib.ones(3)}):
        with pytest.raises(RuntimeError, match=r"1\.weight|1\.other"):
            model.load_state_dict(wrong)


def test_load_from_state_dict_reports_in_its_lists():
    for library in (nn, torch.nn):
        layer, lib = library.Linear(2, 2), ta if library is nn else torch
        missing, unexpected, errors = [], [], []
        state = {"a.weight": lib.ones((2, 2)), "a.more": lib.ones(1), "other": lib.ones(1)}
        layer._load_from_state_dict(state, "a.", {}, True, missing, unexpected, errors)
        assert (missing, unexpected, errors) == (["a.bias"], ["a.more"], [])
        assert (layer.weight == 1).all()
        layer._load_from_state_dict({"weight": lib.ones(3), "bias": lib.ones(2)}, "", {}, True, [], [], errors)
        assert len(errors) == 1 and "weight" in errors[0]


@pytest.mark.parametrize("library", [nn, torch.nn], ids=["ours", "torch"])
def test_deepcopy_of_a_module_leaves_the_gradients_behind(library):
    layer = library.Linear(2, 1)
    layer(ta.ones((3, 2)) if library is nn else torch.ones((3, 2))).sum().backward()
    twin = copy.deepcopy(layer)
    assert layer.weight.grad is not None and [p.grad for p in twin.parameters()] == [None, None]


def test_train_and_moves_call_the_methods_of_children():
    class Frozen(nn.BatchNorm2d):
        def train(self, mode=True):
            return super().train(False)

    class Cached(nn.Linear):
        def __init__(self):
            super().__init__(2, 2)
            self.cache = ta.ones(2)

        def _apply(self, fn, recurse=True):
            self.cache = fn(self.cache)
            return super()._apply(fn, recurse)

    model = nn.Sequential(nn.Sequential(Frozen(3)), Cached())
    assert [m.training for m in model.train().modules()] == [True, True, False, True]
    assert model.double()[1].cache.dtype == model[1].weight.dtype == F64
    assert model.to_empty(device="cpu")[1].weight.tolist() == [[0.0, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize("values", [(), ((2, 3),), ((2, 3), (1,))], ids=str)
def test_parameter_list_and_dict_print_as_torchs(values):
    for kind in ("ParameterList", "ParameterDict"):
        texts = []
        for library in (ta, torch):
            given = [library.ones(*size) for size in values]
            given = {f"p{i}": x for i, x in enumerate(given)} if kind == "ParameterDict" else given
            texts.append(repr(library.nn.Sequential(getattr(library.nn, kind)(given))))
        assert texts[0] == texts[1].replace("torch.float32", "float32")


def test_set_submodule_replaces_at_a_path():
    net = Net()
    net.set_submodule("blocks.1.0", nn.Identity())
    assert type(net.blocks[1][0]) is nn.Identity and len(net.blocks[1]) == 2
    with pytest.raises(AttributeError, match=r"Net has no module 'blocks\.2'"):
        net.set_submodule("blocks.2", nn.Identity())


def test_parameter_without_data_is_empty():
    assert nn.Parameter().shape == (0,) and nn.Parameter().requires_grad
