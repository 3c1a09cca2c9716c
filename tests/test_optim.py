"""Optimizers, schedules and clipping beside torch.optim: the same numbers at every step."""

from __future__ import annotations

import copy
import json
import math
import pickle
from contextlib import nullcontext

import numpy as np
import pytest
from answers import answer, as_arrays, torch

import tinyattn as ta
from tinyattn import nn, optim
from tinyattn.backends import cpu
from tinyattn.nn import utils
from tinyattn.optim import fused, lr_scheduler

ON_EVERY_DEVICE = """
    test_optimizers_fifty_steps_as_torch test_optimizer_takes_options_of_implementation_and_tensor_lr
    test_foreign_optimizer_with_step_alone_as_torch test_parameter_groups_have_their_own_options
    test_zero_grad_deletes_or_zeroes_gradients test_subclass_with_only_step_trains_as_sgd
    test_step_closure_has_gradients_and_returns_loss test_step_between_forward_and_backward_raises
    test_step_refuses_gradient_of_another_shape test_step_leaves_frozen_parameters_alone
    test_loaded_optimizer_continues_bit_for_bit test_optimizer_load_takes_the_parameters_dtype
    test_clip_grad_norm_of_tiny_gradients_as_torch
    test_clip_grad_norm_of_generators_and_mixed_dtypes test_clip_grad_norm_error_if_nonfinite
    test_clip_grad_value_as_torch test_clip_grad_of_a_saved_gradient_raises
""".split()

SHAPES = [(3, 4), (5,), (), (2, 1, 3), (0, 2)]
TOLERANCE = {"float64": {"rtol": 1e-12, "atol": 1e-14}, "float32": {"rtol": 2e-5, "atol": 2e-6}}


def leaves(dtype="float64", shapes=SHAPES, seed=0, library=ta):
    """Parameters of the same random numbers in either library."""
    rng = np.random.default_rng(seed)
    return [library.tensor(rng.standard_normal(shape).astype(dtype), requires_grad=True) for shape in shapes]


def twins(shapes):
    """The same leaves in both libraries."""
    return leaves(shapes=shapes), leaves(shapes=shapes, library=torch)


def give_gradients(parameters, rng, skip=None, library=ta):
    for i, p in enumerate(parameters):
        g = rng.standard_normal(tuple(p.shape)).astype(str(p.dtype).removeprefix("torch."))
        p.grad = None if i == skip else library.tensor(g)


def assert_same(ours, theirs, dtype="float64"):
    """Tensors and arrays equal, in any nesting."""
    for a, b in zip(ours, as_arrays(theirs), strict=True):
        if isinstance(b, np.ndarray):
            assert a.dtype == np.dtype(dtype)
            np.testing.assert_allclose(as_arrays(a), b, **TOLERANCE[dtype])
        else:
            assert_same(a, b, dtype)


def assert_same_state(ours, theirs, dtype="float64"):
    assert [*ours] == [*theirs]
    for name, value in ours.items():
        np.testing.assert_allclose(as_arrays(value), as_arrays(theirs[name]), **TOLERANCE[dtype])


def one(value=1.0):
    return ta.tensor([value], requires_grad=True)


# --- the algorithms ---

STEPS = [
    ("SGD", {}),
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "weight_decay": 0.2}),
    ("SGD", {"lr": 0.1, "maximize": True}),
    ("SGD", {"lr": 0.1, "momentum": 0.9}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.3}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1, "maximize": True}),
    ("SGD", {"lr": 0.1, "momentum": 0.5, "dampening": 0.1, "weight_decay": 0.1, "maximize": True}),
    ("Adam", {}),
    ("Adam", {"lr": 0.1}),
    ("Adam", {"lr": 0.1, "betas": (0.5, 0.7)}),
    ("Adam", {"lr": 0.1, "betas": (0.0, 0.0), "eps": 1e-3}),
    ("Adam", {"lr": 0.1, "eps": 0.1}),
    ("Adam", {"lr": 0.1, "weight_decay": 0.3}),
    ("Adam", {"lr": 0.1, "amsgrad": True}),
    ("Adam", {"lr": 0.1, "maximize": True}),
    ("Adam", {"lr": 0.1, "amsgrad": True, "maximize": True, "weight_decay": 0.1}),
    ("Adam", {"lr": 0.1, "weight_decay": 0.1, "decoupled_weight_decay": True}),
    ("AdamW", {}),
    ("AdamW", {"lr": 0.1}),
    ("AdamW", {"lr": 0.1, "weight_decay": 0.0}),
    ("AdamW", {"lr": 0.1, "weight_decay": 0.5, "amsgrad": True, "maximize": True}),
    ("RMSprop", {}),
    ("RMSprop", {"lr": 0.1, "alpha": 0.7, "eps": 1e-3, "weight_decay": 0.2, "momentum": 0.9}),
    ("RMSprop", {"alpha": 0.5, "centered": True, "eps": 0.1}),
    ("RMSprop", {"momentum": 0.5, "centered": True, "eps": 0.1, "weight_decay": 0.1, "maximize": True}),
    ("Adagrad", {}),
    ("Adagrad", {"lr": 0.1, "lr_decay": 0.2, "weight_decay": 0.3, "maximize": True}),
    ("Adagrad", {"lr": 0.1, "initial_accumulator_value": 0.5, "eps": 0.01}),
    ("Adadelta", {}),
    ("Adadelta", {"lr": 0.3, "rho": 0.8, "eps": 0.01, "weight_decay": 0.3, "maximize": True}),
    ("Adamax", {}),
    ("Adamax", {"lr": 0.1, "betas": (0.8, 0.9), "eps": 0.01, "weight_decay": 0.3, "maximize": True}),
    ("NAdam", {"lr": 0.01}),
    (
        "NAdam",
        {"lr": 0.01, "betas": (0.8, 0.9), "weight_decay": 0.3, "momentum_decay": 0.1, "decoupled_weight_decay": True},
    ),
    ("RAdam", {"lr": 0.1}),
    ("ASGD", {}),
    ("ASGD", {"lr": 0.1, "lambd": 0.02, "alpha": 0.5, "t0": 20, "weight_decay": 0.1, "maximize": True}),
    ("Rprop", {}),
    ("Rprop", {"lr": 0.1, "etas": (0.3, 1.5), "step_sizes": (0.05, 0.5), "maximize": True}),
    ("RAdam", {"lr": 0.01, "betas": (0.8, 0.7), "eps": 0.01, "weight_decay": 0.3, "decoupled_weight_decay": True}),
]
NAMES = [f"{name}-{'-'.join(f'{k}={v}' for k, v in options.items())}" for name, options in STEPS]
FUSED = [name for name, _ in STEPS].index("RMSprop")  # so many of them have kernels


@pytest.mark.parametrize("by_definition", [False, True], ids=["kernel", "definition"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("name", "options"), STEPS, ids=NAMES)
def test_optimizers_fifty_steps_as_torch(name, options, dtype, by_definition):
    def steps(library):
        """The parameters after every tenth step, and the state after the last."""
        parameters, found = leaves(dtype, library=library), []
        optimizer = getattr(library.optim, name)(parameters, **options)
        rng = np.random.default_rng(1)
        for i in range(50):
            give_gradients(parameters, rng, i % 7, library)  # a parameter now and then has no gradient
            optimizer.step()
            found += [p.clone() for p in parameters] if i % 10 == 9 else []
        return found, [[*optimizer.state[p].items()] for p in parameters]

    with ta.definitions() if by_definition else nullcontext():
        (ours, our_state), (theirs, their_state) = as_arrays(steps(ta)), answer(lambda: steps(torch))
    assert_same(ours, theirs, dtype)
    for p, q in zip(our_state, their_state, strict=True):
        assert_same_state(dict(p), dict(q), dtype)


LBFGS = [
    {}, {"lr": 0.1, "history_size": 3, "max_iter": 8}, {"line_search_fn": "strong_wolfe"},
    {"lr": 0.01, "line_search_fn": "strong_wolfe", "history_size": 2, "max_iter": 7},
    {"line_search_fn": "strong_wolfe", "max_eval": 5}, {"tolerance_grad": 1.0}, {"tolerance_change": 0.1},
]  # fmt: skip


@pytest.mark.parametrize("options", LBFGS, ids=str)
def test_lbfgs_evaluates_what_torchs_does(options):
    def steps(library):
        """The loss of every evaluation and step, and the parameters after them, of a valley with a bend."""
        (w, v), losses = leaves("float64", [(3,), (2, 2)], library=library), []
        unused = library.ones(2, requires_grad=True)
        optimizer = library.optim.LBFGS([w, unused, v], **options)

        def closure():
            optimizer.zero_grad()
            loss = 20 * ((v[0] - w[:2] ** 2) ** 2).sum() + ((1 - w) ** 2).sum() + (v**4).sum()
            loss.backward()
            losses.append(loss.item())
            return loss

        for _ in range(3):
            losses.append(optimizer.step(closure).item())
            if "tolerance_grad" not in options:  # else the first step may be the last
                again = library.optim.LBFGS([w, unused, v], **options)
                again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
                optimizer = again
        losses += [optimizer.state[w].get(count, 0) for count in ("func_evals", "n_iter")]
        return losses, [w.clone(), v.clone()], repr(optimizer)

    (losses, ours, text), (expected, theirs, expected_text) = steps(ta), answer(lambda: steps(torch))
    np.testing.assert_allclose(losses, expected, rtol=1e-8)
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine.detach().cpu().numpy(), np.asarray(other), rtol=1e-7)
    assert text == expected_text


def test_lbfgs_needs_a_closure_and_one_group():
    with pytest.raises(TypeError, match="needs a closure"):
        optim.LBFGS([one()]).step()
    with pytest.raises(ValueError, match="2 parameter groups"):
        optim.LBFGS([{"params": [one()]}, {"params": [one()]}])
    with pytest.raises(ValueError, match="line_search_fn='armijo'"):
        optim.LBFGS([one()], line_search_fn="armijo")


ADAM = {"lr": 0.1, "beta1": 0.9, "beta2": 0.99, "eps": 1e-8, "maximize": False}
KERNELS = [
    ("plain", {"weight_decay": 0.0, "decoupled": False}, False),
    ("L2", {"weight_decay": 0.1, "decoupled": False}, False),
    ("decoupled", {"weight_decay": 0.1, "decoupled": True}, False),
    ("amsgrad", {"weight_decay": 0.0, "decoupled": False}, True),
    ("all", {"weight_decay": 0.1, "decoupled": True, "maximize": True}, True),
]
LAYOUTS = {
    "contiguous": lambda rng: rng.standard_normal((7, 9)),
    "transposed": lambda rng: rng.standard_normal((7, 9)).T,
    "strided": lambda rng: rng.standard_normal((14, 9))[::2],
    "0-d": lambda rng: rng.standard_normal(()) + np.zeros(()),
    "empty": lambda rng: np.zeros((0, 3)),
    "in blocks": lambda rng: rng.standard_normal(200_003),
    "strided and long": lambda rng: rng.standard_normal((2, 100_000)).T,
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("options", "amsgrad"), [k[1:] for k in KERNELS], ids=[k[0] for k in KERNELS])
@pytest.mark.parametrize("step", [3, 128])  # at the second one denormal moments are looked for
def test_adam_kernel_is_its_definition(step, options, amsgrad, layout, dtype):
    rng = np.random.default_rng(0)
    p, g, m, v, top = (np.asarray(LAYOUTS[layout](rng)).astype(dtype, order="K") for _ in range(5))
    v, top = np.asarray(v * v), np.asarray(top * top) if amsgrad else None
    before, options = g.copy(), ADAM | options
    expected = optim.adam_definition(p, g, m, v, top, step, **options)
    cpu.adam_step(p, g, m, v, top, step, **options)
    tight = {"rtol": 1e-13, "atol": 1e-15} if dtype == np.float64 else {"rtol": 1e-5, "atol": 1e-6}
    for got, want in zip((p, m, v, top), expected, strict=True):
        if want is not None:
            assert got.dtype == dtype == want.dtype
            np.testing.assert_allclose(got, want, **tight)
    np.testing.assert_array_equal(g, before)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_sgd_kernel_is_its_definition(layout):
    rng = np.random.default_rng(0)
    p, g, b = (np.asarray(LAYOUTS[layout](rng)) for _ in range(3))
    options = {"lr": 0.1, "momentum": 0.9, "dampening": 0.2, "weight_decay": 0.1, "maximize": True}
    for nesterov, first in [(False, False), (False, True), (True, False), (True, True)]:
        how = {**options, "nesterov": nesterov}
        want_p, want_b = optim.sgd_definition(p, g, None if first else b, **how)
        cpu.sgd_step(p, g, b, first=first, **how)
        np.testing.assert_allclose(p, want_p, rtol=1e-14)
        np.testing.assert_allclose(b, want_b, rtol=1e-14)


def test_optimizer_options_as_numpy_scalars_widen_nothing():
    for name in ("SGD", "Adam", "AdamW"):
        p = ta.tensor([1.0, 2.0], requires_grad=True)
        options = {"lr": np.float64(0.1), "weight_decay": np.float32(0.5)}
        optimizer = getattr(optim, name)([p], **options)
        p.grad = ta.ones(2)
        optimizer.step()
        assert p.dtype == ta.float32
        assert all(s.dtype == ta.float32 for s in optimizer.state[p].values())
        assert type(optimizer.param_groups[0]["lr"]) is float


def test_adam_step_with_numpy_scalars_stays_float32():
    rng = np.random.default_rng(0)
    arrays = [rng.random(1000, dtype=np.float32) for _ in range(4)]
    options = {**ADAM, "weight_decay": 0.1, "decoupled": False}
    scalars = {key: value if type(value) is bool else np.float64(value) for key, value in options.items()}
    once, again = [a.copy() for a in arrays], [a.copy() for a in arrays]
    cpu.adam_step(*once, None, 1, **options)
    cpu.adam_step(*again, None, 1, **scalars)
    for a, b in zip(once, again, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("name", "kernel"), [("SGD", "sgd_step"), ("Adam", "adam_step")])
def test_optimizer_definitions_run_without_the_kernel(name, kernel, monkeypatch):
    monkeypatch.delattr(cpu, kernel)
    p = one()
    p.grad = ta.ones(1)
    with ta.definitions():
        getattr(optim, name)([p], lr=0.5).step()
    np.testing.assert_allclose(p.tolist(), [0.5])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_optimizers_with_infinite_gradients_as_torch(name):
    def steps(library):
        p, found = library.ones(7, requires_grad=True), []
        optimizer = getattr(library.optim, name)([p], lr=0.1)
        for infinity in (math.inf, -math.inf):
            p.grad = library.tensor([infinity, -infinity, math.nan, 1e30, 1e-30, 0.0, 1.0])
            optimizer.step()
            found.append(p.clone())
        return found

    assert_same(steps(ta), answer(lambda: steps(torch)), "float32")


def test_adam_flushes_denormal_moments_to_zero():
    p = ta.ones(3, requires_grad=True)
    optimizer = optim.Adam([p])
    p.grad = ta.ones(3)
    optimizer.step()
    p.grad = ta.zeros(3)
    for _ in range(1023):
        optimizer.step()
    assert optimizer.state[p]["exp_avg"].cpu().numpy().tolist() == [0.0, 0.0, 0.0]


# --- small parameters together ---


def unbundled(name):
    """An optimizer that is never fused, because its `update` is not the library's."""

    class Single(getattr(optim, name)):
        def update(self, param, grad, state, group):
            super().update(param, grad, state, group)

    return Single


def pair(name, options, shapes, dtype="float32", change=lambda params: params):
    """Twice the same parameters, with an optimizer that bundles them and one that never does."""
    both = []
    for together in (True, False):
        params = change(leaves(dtype, shapes))
        optimizer = (getattr(optim, name) if together else unbundled(name))(params, **options)
        both.append((params, optimizer))
    return both


def step_pair(both, i, without=()):
    """Give both the same gradients, none to parameters `without`; let both step and agree to the last bit."""
    for params, optimizer in both:
        rng = np.random.default_rng(i)
        for k, p in enumerate(params):
            gradient = rng.standard_normal(p.shape)
            p.grad = None if k in without else ta.tensor(gradient, dtype=p.dtype)
        optimizer.step()
    (ours, bundling), (others, single) = both
    for p, q in zip(ours, others, strict=True):
        np.testing.assert_array_equal(p.detach().cpu().numpy(), q.detach().cpu().numpy())
        assert p.dtype == q.dtype
        assert [*bundling.state.get(p, {})] == [*single.state.get(q, {})]
        for name, value in bundling.state.get(p, {}).items():
            assert (value.shape, value.dtype) == (single.state[q][name].shape, single.state[q][name].dtype)
            np.testing.assert_array_equal(value.cpu().numpy(), single.state[q][name].cpu().numpy())


def bundled(optimizer):
    """The parameters that are updated together, by their places."""
    places = {p: k for k, p in enumerate(optimizer._parameters())}
    kept = fused._bundles.get(optimizer, {}).values()
    return [sorted(places[p] for p in bundle.params) for bundles in kept for bundle in bundles.bundles]


MANY = [*SHAPES, (7,), (3, 3), (1,)]


@pytest.mark.parametrize("by_definition", [False, True], ids=["kernel", "definition"])
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
@pytest.mark.parametrize(("name", "options"), STEPS[:FUSED], ids=NAMES[:FUSED])
def test_bundled_parameters_step_as_single_ones(name, options, dtype, by_definition):
    both = pair(name, options, MANY, dtype)
    for i in range(12):
        without = {0, 3} if i in (3, 4) else {i} if i > 5 else {2} if i < 3 else ()
        if by_definition:
            with ta.definitions():
                step_pair(both, i, without)
        else:
            step_pair(both, i, without)
    assert bundled(both[0][1]) == [[*range(8)]]
    assert bundled(both[1][1]) == []


def halves(params):
    """The first two are parts of one array, and the next ones share some of it."""
    whole = np.linspace(-1, 1, 12, dtype=np.float32)
    parts = [whole[:4], whole[4:8], whole[2:6], whole[8:], whole[3:]]
    return [ta.from_numpy(part).requires_grad_() for part in parts] + params


def transposed(params):
    params[0].array = params[0].array.T.copy().T
    return params


def widened(params):
    for p in params[3:]:
        p.array = p.array.astype("float64")
    return params


def frozen(params):
    params[4].requires_grad_(False)
    return params


KINDS = [  # shapes, what is done to the parameters, which are then together, which never have gradients
    ("large ones alone", [*MANY, (128, 256), (32769,)], None, [[*range(9)]], ()),
    ("at most so many together", [(32000,)] * 20, None, [[*range(8)], [*range(8, 16)], [*range(16, 20)]], ()),
    ("just as many as fit", [(32768,)] * 12, None, [[*range(8)], [*range(8, 12)]], ()),
    ("few are not worth it", [(3,)] * 3, None, [], ()),
    ("four are", [(3,)] * 4, None, [[*range(4)]], ()),
    ("strided", MANY, transposed, [[*range(1, 8)]], ()),
    ("two dtypes", [*MANY, (1,)], widened, [[3, 4, 5, 6, 7, 8]], ()),
    ("shared memory", [(2,), (2, 2)], halves, [[0, 1, 3, 5, 6]], ()),
    ("frozen", MANY, frozen, [[0, 1, 2, 3, 5, 6, 7]], {4}),
]


@pytest.mark.parametrize(("name", "options"), [("AdamW", {"lr": 0.1}), ("SGD", {"lr": 0.1, "weight_decay": 0.1})])
@pytest.mark.parametrize(("shapes", "change", "together", "without"), [k[1:] for k in KINDS], ids=[k[0] for k in KINDS])
def test_which_parameters_are_bundled(name, options, shapes, change, together, without):
    both = pair(name, options, shapes, change=change or (lambda params: params))
    arrays = [p.array for p in both[0][0]]
    for i in range(4):
        step_pair(both, i, without)
    assert bundled(both[0][1]) == together
    assert all(p.array is array for p, array in zip(both[0][0], arrays, strict=True))  # never moved elsewhere
    assert not any(p in both[0][1].state for k, p in enumerate(both[0][0]) if k in without)


def add_group(params, optimizer):
    more = leaves("float32", [(2,)] * 4, seed=9)
    optimizer.add_param_group({"params": more, "lr": 0.3})
    params += more


def append(params, optimizer):
    params.append(ta.ones(3, requires_grad=True))
    optimizer.param_groups[0]["params"].append(params[-1])


def replace_array(params, optimizer):
    params[1].array = params[1].array + 1


def widen_arrays(params, optimizer):
    for p in params:
        p.array = p.array.astype("float64")


def share_array(params, optimizer):
    params[7].array = params[6].array.reshape(-1)[8:]


def replace_state(params, optimizer):
    optimizer.state[params[1]]["exp_avg"] = ta.ones(5)


def replace_step(params, optimizer):
    optimizer.state[params[1]]["step"].array = np.array(9, np.float32)


def new_option(**options):
    return lambda params, optimizer: optimizer.param_groups[0].update(options)


EVENTS = {
    "a group is added": add_group,
    "a parameter is appended": append,
    "parameters in another order": lambda params, o: o.param_groups[0]["params"].reverse(),
    "an array is replaced": replace_array,
    "arrays become float64": widen_arrays,
    "two arrays become one": share_array,
    "the group becomes empty": lambda params, o: o.param_groups[0]["params"].clear(),
    "a state is replaced": replace_state,
    "a step count is replaced": replace_step,
    "a state is written to": lambda params, o: o.state[params[1]]["exp_avg_sq"].mul_(2.0),
    "a parameter is written to": lambda params, o: params[1].detach().fill_(3.0),
    "one state is forgotten": lambda params, o: o.state.pop(params[1]),
    "all state is forgotten": lambda params, o: o.state.clear(),
    "its own state is loaded": lambda params, o: o.load_state_dict(o.state_dict()),
    "a state with gaps is loaded": lambda params, o: o.load_state_dict(
        {**o.state_dict(), "state": {k: s for k, s in o.state_dict()["state"].items() if k % 2}}
    ),
    "AMSGrad from now on": new_option(amsgrad=True),
    "AMSGrad no more": new_option(amsgrad=False),
    "another rate": new_option(lr=0.5, betas=(0.5, 0.6)),
}


@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize("event", EVENTS.values(), ids=EVENTS)
def test_bundles_follow_changes_between_steps(event, amsgrad):
    both = pair("Adam", {"lr": 0.1, "amsgrad": amsgrad}, MANY)
    for i in range(4):
        step_pair(both, i, {3} if i < 2 else ())
    for params, optimizer in both:
        event(params, optimizer)
    for i in range(4, 9):
        step_pair(both, i)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["copy", "pickle"])
def test_optimizer_copy_and_pickle_continue_independently(copied):
    both = pair("Adam", {"lr": 0.1}, MANY)
    for i in range(4):
        step_pair(both, i)
    (_, optimizer) = both[0]
    twin = copied(optimizer)
    assert bundled(twin) == []
    step_pair([([*twin._parameters()], twin), copy.deepcopy(both[1])], 4)
    step_pair(both, 4)
    assert bundled(twin) == bundled(optimizer) == [[*range(8)]]


def test_bundles_are_made_once_and_share_scratch():
    params = leaves("float32", [(32000,)] * 24)
    optimizer = optim.Adam([{"params": params[:20]}, {"params": params[20:]}])
    for i in range(5):
        give_gradients(params, np.random.default_rng(0))
        optimizer.step()
        if i == 1:
            made = dict(fused._bundles[optimizer])
    assert fused._bundles[optimizer] == made
    several, one = ([bundle.values.base for bundle in kept.bundles] for kept in made.values())
    assert len(several) == 3 and all(scratch is several[0] for scratch in several)
    assert [several[0].shape, one[0].shape] == [(2, 1 << 18), (2, 128000)]


def test_step_increments_version_counters_once():
    params = leaves("float32", MANY)
    optimizer = optim.Adam(params)
    for i in range(4):
        give_gradients(params, np.random.default_rng(i), skip=i)
        before = [p.storage.version for p in params]
        optimizer.step()
        assert [p.storage.version - b for p, b in zip(params, before, strict=True)] == [k != i for k in range(8)]
        assert {p.storage.writer[0] for p, b in zip(params, before, strict=True) if p.storage.version > b} == {
            "Adam.step"
        }


@pytest.mark.parametrize(("name", "kernel"), [("SGD", "sgd_step"), ("Adam", "adam_step")])
def test_bundle_runs_need_one_kernel_call(name, kernel, monkeypatch):
    params = leaves("float32", [(3,)] * 20)
    optimizer, counted, run = getattr(optim, name)(params), [], getattr(cpu, kernel)
    monkeypatch.setattr(cpu, kernel, lambda *args, **options: (counted.append(args[0].size), run(*args, **options)))
    gradients = [ta.ones(3) for _ in params]
    calls = []
    for missing in [(), (), (10,), (3,), (0, 1, 2, 3, 5, 6, 7, 8, 9)]:
        for k, (p, g) in enumerate(zip(params, gradients, strict=True)):
            p.grad = None if k in missing else g
        counted.clear()
        optimizer.step()
        calls.append(sorted(counted))
    assert calls[:3] == [[3] * 20, [60], [27, 30]]  # number 10 has now seen a step less than its neighbours
    assert calls[3] == ([3, 3, 3, 3, 18, 27] if name == "Adam" else [3, 3, 3, 48])
    assert calls[4] == ([3, 3, 27] if name == "Adam" else [3, 30])


def test_subclass_with_its_own_update_is_not_fused():
    class Normed(optim.Adam):
        def update(self, param, grad, state, group):
            super().update(param, grad / np.linalg.norm(grad), state, group)

    class Signs(optim.Optimizer):
        def update(self, param, grad, state, group):
            state.setdefault("seen", ta.zeros_like(param)).array += 1
            param.array -= group["lr"] * np.sign(grad)

    for make in (lambda params: Normed(params), lambda params: Signs(params, {"lr": 0.1})):
        params, others = leaves("float32", MANY), leaves("float32", MANY)
        optimizer, alone = make(params), [make([p]) for p in others]
        for i in range(3):
            give_gradients(params, np.random.default_rng(i))
            give_gradients(others, np.random.default_rng(i))
            optimizer.step()
            for single in alone:
                single.step()
        assert bundled(optimizer) == []
        for p, q in zip(params, others, strict=True):
            np.testing.assert_array_equal(p.detach().numpy(), q.detach().numpy())
    assert all((optimizer.state[p]["seen"].numpy() == 3).all() for p in params)


class PlainSGD(optim.Optimizer):
    """A subclass as PyTorch's users write it: nothing but defaults and step()."""

    def __init__(self, params, rate=0.1, momentum=0.5):
        super().__init__(params, {"rate": rate, "momentum": momentum})

    @ta.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                state["steps"] = state.get("steps", 0) + 1
                state["buffer"] = group["momentum"] * state["buffer"] + p.grad if "buffer" in state else p.grad.clone()
                p -= group["rate"] * state["buffer"]


def test_subclass_with_only_step_trains_as_sgd():
    def steps_of_torch():
        theirs, rng, found = leaves(library=torch), np.random.default_rng(0), []
        oracle = torch.optim.SGD(theirs, 0.1, momentum=0.5)
        for i in range(6):
            give_gradients(theirs, rng, i % 4, torch)
            oracle.step()
            found.append([p.clone() for p in theirs])
        return found

    ours, rng = leaves(), np.random.default_rng(0)
    optimizer = PlainSGD(ours)
    for i, theirs in enumerate(answer(steps_of_torch)):
        give_gradients(ours, rng, i % 4)
        assert optimizer.step() is None
        assert_same(ours, theirs)
        if i == 2:
            saved = copy.deepcopy(optimizer.state_dict())
            optimizer = PlainSGD(ours, rate=7.0)
            optimizer.load_state_dict(saved)
    assert [optimizer.state[p]["steps"] for p in ours] == [4, 4, 5, 5, 6]
    assert all(type(optimizer.state[p]["steps"]) is int for p in ours)
    optimizer.zero_grad()
    assert all(p.grad is None for p in ours)


def test_optimizer_without_step_or_update_is_refused():
    p = one()
    p.grad = ta.ones(1)
    with pytest.raises(NotImplementedError, match=r"Optimizer defines neither step\(\) nor update\(\)"):
        optim.Optimizer([p], {}).step()


def test_step_with_a_wrong_gradient_changes_no_group():
    p, q = one(), ta.ones(2, requires_grad=True)
    optimizer = optim.SGD([{"params": p}, {"params": q}], lr=1.0)
    p.grad, q.grad = ta.ones(1), ta.ones(2)
    q.grad.array = np.ones(3, "float32")
    with pytest.raises(ValueError, match=r"gradient of shape \(3,\)"):
        optimizer.step()
    assert p.tolist() == [1.0]


def test_old_pickle_of_an_optimizer_still_loads():
    """Written with caches as attributes, which are no longer read."""
    both = pair("Adam", {"lr": 0.1}, MANY)
    for i in range(3):
        step_pair(both, i)
    (_, optimizer) = both[0]
    old = optim.Adam.__new__(optim.Adam)
    vars(old).update({**vars(copy.deepcopy(optimizer)), "_bundles": {}, "_counters": {}})
    old = pickle.loads(pickle.dumps(old))
    step_pair([([*old._parameters()], old), copy.deepcopy(both[1])], 3)


BASE = np.zeros(12)
MEMORY = [
    ([], set()),
    ([BASE[:6], BASE[6:]], set()),
    ([BASE[6:], BASE[:6]], set()),
    ([BASE[:6], BASE[5:]], {1}),
    ([BASE[5:], BASE[:6]], {0}),
    ([BASE, BASE], {1}),
    ([BASE, BASE[2:3], BASE[4:]], {1, 2}),
    ([BASE[:4], BASE[3:6], BASE[5:8]], {1}),
    ([np.zeros(1), np.zeros(3), np.zeros(0)], set()),
    ([np.zeros(0), BASE[1:], BASE[:1]], set()),
]


@pytest.mark.parametrize(("arrays", "places"), MEMORY)
def test_overlapping_arrays_are_found(arrays, places):
    assert cpu.overlapping(arrays) == places


# --- parameters and groups ---


def test_parameter_groups_have_their_own_options():
    def steps(library):
        p, rng, found = leaves(library=library), np.random.default_rng(2), []
        groups = [{"params": p[:2], "lr": 0.5}, {"params": p[2], "betas": (0.3, 0.4)}]
        optimizer = library.optim.AdamW(groups, lr=0.1)
        for i in range(6):
            if i == 3:
                optimizer.add_param_group({"params": p[3:], "weight_decay": 0.9})
            give_gradients(p, rng, library=library)
            optimizer.step()
            found.append([each.clone() for each in p])
        assert [g["lr"] for g in optimizer.param_groups] == [0.5, 0.1, 0.1]
        return found

    assert_same(steps(ta), answer(lambda: steps(torch)))


def test_parameter_group_dict_is_not_modified():
    group = {"params": [one()]}
    optim.SGD([group])
    assert [*group] == ["params"]


def test_optimizer_keeps_parameter_names():
    model = nn.Linear(3, 2)
    optimizer = optim.Adam(model.named_parameters())
    assert optimizer.param_groups[0]["param_names"] == ["weight", "bias"]
    assert optimizer.param_groups[0]["params"][0] is model.weight
    saved = optim.Adam(model.parameters()).state_dict()
    optimizer.load_state_dict(saved)
    assert optimizer.state_dict()["param_groups"][0]["param_names"] == ["weight", "bias"]


def test_zero_grad_deletes_or_zeroes_gradients():
    p = one()
    optimizer = optim.SGD([p])
    optimizer.zero_grad(set_to_none=False)
    assert p.grad is None
    p.grad = ta.ones(1)
    optimizer.zero_grad(set_to_none=False)
    assert p.grad.cpu().numpy().tolist() == [0.0]
    optimizer.zero_grad()
    assert p.grad is None


def test_step_closure_has_gradients_and_returns_loss():
    p = one(3.0)
    optimizer = optim.SGD([p], lr=0.5)

    def closure():
        optimizer.zero_grad()
        loss = (p * p).sum()
        loss.backward()
        return loss

    with ta.no_grad():
        assert optimizer.step(closure).item() == 9.0
    assert p.tolist() == [0.0]
    assert optimizer.step() is None


def test_step_between_forward_and_backward_raises():
    p = one(2.0)
    optimizer = optim.Adam([p])
    loss = (p * p).sum()
    p.grad = ta.ones(1)
    optimizer.step()
    with pytest.raises(RuntimeError, match=r"Adam\.step"):
        loss.backward()


def test_step_refuses_gradient_of_another_shape():
    p = ta.ones(2, 3, requires_grad=True)
    optimizer = optim.SGD([p])
    p.grad = ta.ones(2, 3)
    p.grad.array = np.ones(3, "float32")
    with pytest.raises(ValueError, match=r"gradient of shape \(3,\), .* \(2, 3\)"):
        optimizer.step()


def test_step_leaves_frozen_parameters_alone():
    frozen, free = ta.ones(1), one()
    optimizer = optim.SGD([frozen, free], lr=1.0)
    (frozen * free).sum().backward()
    optimizer.step()
    assert frozen.tolist() == [1.0]
    assert free.tolist() == [0.0]


@pytest.mark.parametrize(("name", "options"), [("Adam", {}), ("SGD", {"momentum": 0.9})])
def test_optimizer_repr_as_torch(name, options):
    p, q = one(), torch.ones(1, requires_grad=True)
    mine = repr(getattr(optim, name)([{"params": [p]}, {"params": [one()], "lr": 0.5}], **options))
    groups = [{"params": [q]}, {"params": [torch.ones(1, requires_grad=True)], "lr": 0.5}]
    extra = ("foreach", "capturable", "differentiable", "fused")
    lines = repr(getattr(torch.optim, name)(groups, **options)).splitlines()
    assert mine.splitlines() == [line for line in lines if line.strip().split(":")[0] not in extra]


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "Adadelta", "Adamax", "NAdam", "RAdam"])
def test_optimizer_takes_options_of_implementation_and_tensor_lr(name):
    (p,), (q,) = twins(shapes=[(3,)])
    how = {"foreach": False, "differentiable": False} | (
        {"fused": False} if name in ("SGD", "Adam", "AdamW", "Adagrad") else {}
    )
    ours = getattr(optim, name)([p], lr=ta.tensor(0.25), maximize=True, **how)
    theirs = getattr(torch.optim, name)([q], lr=torch.tensor(0.25, dtype=torch.float64), maximize=True, **how)
    for _ in range(3):
        give_gradients([p], np.random.default_rng(0))
        give_gradients([q], np.random.default_rng(0), library=torch)
        ours.step()
        theirs.step()
    assert_same([p], [q])
    assert ours.param_groups[0]["lr"] == 0.25


class Foreign:
    """An optimizer as other people write it, on either library's Optimizer."""

    def __new__(cls, library, params, **options):
        class Lion(library.optim.Optimizer):
            def __init__(self, params, lr=1e-2, betas=(0.9, 0.99), weight_decay=0.1):
                super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

            def __setstate__(self, state):
                super().__setstate__(state)

            @library.no_grad()
            def step(self, closure=None):
                loss = None
                if closure is not None:
                    with library.enable_grad():
                        loss = closure()
                for group in self.param_groups:
                    for p in group["params"]:
                        if p.grad is None:
                            continue
                        state = self.state[p]
                        if len(state) == 0:
                            state["step"], state["exp_avg"] = 0, library.zeros_like(p)
                        state["step"] += 1
                        beta1, beta2 = group["betas"]
                        p.data.mul_(1 - group["lr"] * group["weight_decay"])
                        update = state["exp_avg"].clone().mul_(beta1).add_(p.grad, alpha=1 - beta1).sign_()
                        p.add_(update, alpha=-group["lr"])
                        state["exp_avg"].mul_(beta2).add_(p.grad, alpha=1 - beta2)
                return loss

        return Lion(params, **options)


def test_foreign_optimizer_with_step_alone_as_torch():
    ours, theirs = twins(shapes=[(3, 4), (5,)])
    optimizer, oracle = Foreign(ta, ours[:1]), Foreign(torch, theirs[:1])
    optimizer.add_param_group({"params": ours[1:], "lr": 0.5})
    oracle.add_param_group({"params": theirs[1:], "lr": 0.5})
    for turn in range(6):
        if turn == 3:
            optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        losses = [o.step(lambda ps=ps: (ps[0] ** 2).sum()) for o, ps in ((optimizer, ours), (oracle, theirs))]
        np.testing.assert_allclose(losses[0].item(), losses[1].item(), rtol=1e-12)
        give_gradients(ours, np.random.default_rng(turn))
        give_gradients(theirs, np.random.default_rng(turn), library=torch)
        optimizer.step()
        oracle.step()
        assert_same(ours, theirs)
    assert optimizer.state[ours[0]]["step"] == oracle.state[theirs[0]]["step"]
    ours[0].grad = None
    optimizer.zero_grad(set_to_none=False)
    assert ours[0].grad is None and not ours[1].grad.any()


TWICE = one()
REFUSED = [
    (lambda: optim.SGD([one()], lr=-1.0), ValueError, "lr must be a finite number of at least 0.*-1"),
    (lambda: optim.SGD([one()], lr=math.nan), ValueError, "lr must be .*nan"),
    (lambda: optim.SGD([one()], lr=math.inf), ValueError, "lr must be .*inf"),
    (lambda: optim.SGD([one()], lr="big"), TypeError, "lr must be a number.*'big'"),
    (lambda: optim.SGD([one()], momentum=-0.1), ValueError, "momentum must be"),
    (lambda: optim.SGD([one()], dampening=math.nan), ValueError, "dampening must be"),
    (lambda: optim.SGD([one()], weight_decay=-1), ValueError, "weight_decay must be"),
    (lambda: optim.SGD([one()], nesterov=True), ValueError, "nesterov needs a momentum"),
    (lambda: optim.SGD([one()], momentum=0.9, dampening=0.1, nesterov=True), ValueError, "dampening=0.1"),
    (lambda: optim.Adam([one()], betas=(1.0, 0.9)), ValueError, r"betas\[0\] must be in \[0, 1\).*1.0"),
    (lambda: optim.Adam([one()], betas=(0.9, -0.1)), ValueError, r"betas\[1\]"),
    (lambda: optim.Adam([one()], betas=0.9), TypeError, "betas must be a pair"),
    (lambda: optim.Adam([one()], eps=-1e-8), ValueError, "eps must be"),
    (lambda: optim.Adam([{"params": [one()], "lr": -2.0}]), ValueError, "lr must be .*-2"),
    (lambda: optim.Adam([], fuse=True), TypeError, "Adam has no option 'fuse'"),
    (lambda: optim.SGD([one()], differentiable=True), ValueError, "differentiable=True is not supported"),
    (lambda: optim.RMSprop([one()], alpha=-0.5), ValueError, "alpha must be"),
    (lambda: optim.Adagrad([one()], lr_decay=-0.5), ValueError, "lr_decay must be"),
    (lambda: optim.Adam([]), ValueError, "empty parameter list"),
    (lambda: optim.Adam(one()), TypeError, "list of tensors.* a single Tensor"),
    (lambda: optim.Adam(3), TypeError, "list of tensors.* 3"),
    (lambda: optim.Adam({"params": one()}), TypeError, "can only change tensors.*'params'"),
    (lambda: optim.Adam({one()}), TypeError, "set"),
    (lambda: optim.Adam([np.ones(1)]), TypeError, "can only change tensors.*ndarray"),
    (lambda: optim.Adam([one() * 2]), ValueError, "can't optimize a non-leaf Tensor"),
    (lambda: optim.Adam([ta.tensor([1, 2])]), ValueError, "int64"),
    (lambda: optim.Adam([TWICE, TWICE]), ValueError, "more than once"),
    (lambda: optim.Adam([{"params": TWICE}, {"params": [TWICE]}]), ValueError, "more than once"),
    (lambda: optim.Adam([("a", one()), one()]), ValueError, "without a name"),
    (lambda: optim.Adam([{"lr": 1.0}]), TypeError, "under 'params'"),
    (
        lambda: optim.Adam([("a", one())]).add_param_group({"params": one()}),
        ValueError,
        "some parameter groups .* have names",
    ),
]


@pytest.mark.parametrize(("make", "error", "words"), REFUSED)
def test_optimizer_refuses_invalid_arguments(make, error, words):
    with pytest.raises(error, match=words):
        make()


# --- saving and loading ---


def in_groups(library, name, options, params):
    groups = [{"params": params[:2]}, {"params": params[2:], "lr": 0.2}]
    return getattr(library, name)(groups, **options)


CROSSING = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9}),
    ("Adam", {"lr": 0.1, "amsgrad": True}),
    ("AdamW", {"lr": 0.1}),
    ("RMSprop", {"lr": 0.1, "momentum": 0.9, "centered": True, "eps": 0.1}),
    ("Adagrad", {"lr": 0.1, "lr_decay": 0.1}),
    ("NAdam", {"lr": 0.1}),
]


@pytest.mark.parametrize(("name", "options"), CROSSING)
def test_optimizer_state_dict_crosses_to_torch_and_back(name, options):
    ours, theirs = leaves(), leaves(library=torch)
    optimizer, oracle = (in_groups(optim, name, options, ours), in_groups(torch.optim, name, options, theirs))
    for i in range(3):
        for library, params in ((ta, ours), (torch, theirs)):
            give_gradients(params, np.random.default_rng(i), 1, library)
        optimizer.step()
        oracle.step()
    mine, torchs = optimizer.state_dict(), oracle.state_dict()
    assert [*mine] == [*torchs] == ["state", "param_groups"]
    assert [*mine["state"]] == [*torchs["state"]]
    for place in torchs["state"]:
        assert_same_state(mine["state"][place], torchs["state"][place])
    for group, theirs_group in zip(mine["param_groups"], torchs["param_groups"], strict=True):
        assert group == {key: theirs_group[key] for key in group}

    into_torch = copy.deepcopy(torchs)
    for place, state in mine["state"].items():
        into_torch["state"][place] = {k: torch.tensor(v.cpu().numpy()) for k, v in state.items()}
    into_torch["param_groups"] = mine["param_groups"]
    new_ours, new_theirs = leaves(seed=5), leaves(seed=5, library=torch)
    optimizer, oracle = (in_groups(optim, name, {}, new_ours), in_groups(torch.optim, name, {}, new_theirs))
    optimizer.load_state_dict(torchs)
    oracle.load_state_dict(into_torch)
    for i in range(3):
        for library, params in ((ta, new_ours), (torch, new_theirs)):
            give_gradients(params, np.random.default_rng(i), library=library)
        optimizer.step()
        oracle.step()
        assert_same(new_ours, new_theirs)


@pytest.mark.parametrize(("name", "options"), CROSSING)
def test_loaded_optimizer_continues_bit_for_bit(name, options):
    ours = leaves("float32")
    first = in_groups(optim, name, options, ours)
    gradients = [np.random.default_rng(i).standard_normal(9).astype("float32") for i in range(6)]

    def step(optimizer, params, i):
        for p in params:
            p.grad = ta.tensor(np.resize(gradients[i], p.shape))
        optimizer.step()

    for i in range(3):
        step(first, ours, i)
    copies = [p.detach().clone().requires_grad_() for p in ours]
    second = in_groups(optim, name, {}, copies)
    second.load_state_dict(first.state_dict())
    for i in range(3, 6):
        step(first, ours, i)
        step(second, copies, i)
        for p, q in zip(ours, copies, strict=True):
            np.testing.assert_array_equal(p.detach().cpu().numpy(), q.detach().cpu().numpy())


def test_optimizer_load_takes_the_parameters_dtype():
    p, q = one(), ta.tensor([1.0], dtype=ta.float64, requires_grad=True)
    narrow, wide = optim.Adam([p]), optim.Adam([q])
    p.grad = ta.ones(1)
    narrow.step()
    wide.load_state_dict(narrow.state_dict())
    assert wide.state[q]["exp_avg"].dtype == ta.float64
    assert wide.state[q]["step"].item() == 1.0


def broken(change):
    """An Adam of one parameter, and its state_dict after one step, changed by `change`."""
    p = one()
    optimizer = optim.Adam([p])
    p.grad = ta.ones(1)
    optimizer.step()
    saved = optimizer.state_dict()
    saved = {"state": {0: dict(saved["state"][0])}, "param_groups": [dict(saved["param_groups"][0])]}
    return optimizer, change(saved) or saved


DAMAGED = [
    (lambda s: [1], "'state' and 'param_groups'"),
    (lambda s: {"state": {}}, "'state' and 'param_groups'.*'state'"),
    (lambda s: {**s, "param_groups": []}, r"groups of \[\] tensors.*\[1\]"),
    (lambda s: s["param_groups"][0].update(params=[0, 1]), r"\[2\]"),
    (lambda s: s["param_groups"][0].pop("betas"), "no 'betas'.*not saved by Adam"),
    (lambda s: s["param_groups"][0].update(lr=math.nan), "lr must be"),
    (lambda s: s["state"].update({7: {}}), "parameter 7"),
    (lambda s: s["state"][0].pop("exp_avg"), "no 'exp_avg'"),
    (lambda s: s["state"][0].update(exp_avg=ta.ones(2)), r"shape \(2,\).*\(1,\)"),
    (lambda s: s["state"][0].update(step=math.nan), "'step'"),
    (lambda s: s["state"][0].update(step=-1), "'step'"),
]


@pytest.mark.parametrize(("change", "words"), DAMAGED)
def test_optimizer_load_that_fails_changes_nothing(change, words):
    optimizer, saved = broken(lambda s: None if isinstance(r := change(s), str | tuple | ta.Tensor) else r)
    before = repr(optimizer.state_dict())
    with pytest.raises(ValueError, match=words):
        optimizer.load_state_dict(saved)
    assert repr(optimizer.state_dict()) == before


def test_adamw_refuses_the_state_of_adam():
    with pytest.raises(ValueError, match="a state saved by Adam goes into Adam"):
        optim.AdamW([one()]).load_state_dict(optim.Adam([one()]).state_dict())


# --- schedules ---

SCHEDULES = {
    "lambda": lambda s, o: s.LambdaLR(o, lambda epoch: 0.95**epoch),
    "lambda for each group": lambda s, o: s.LambdaLR(o, [lambda e: 0.9**e, lambda e: 1 / (e + 1)]),
    "step": lambda s, o: s.StepLR(o, 7),
    "step, gamma": lambda s, o: s.StepLR(o, step_size=30, gamma=0.5),
    "constant": lambda s, o: s.ConstantLR(o),
    "constant, long": lambda s, o: s.ConstantLR(o, factor=0.25, total_iters=40),
    "linear": lambda s, o: s.LinearLR(o),
    "linear, up": lambda s, o: s.LinearLR(o, start_factor=1e-3, total_iters=33),
    "linear, down": lambda s, o: s.LinearLR(o, start_factor=1.0, end_factor=0.0, total_iters=60),
    "cosine": lambda s, o: s.CosineAnnealingLR(o, T_max=100),
    "cosine, up and down": lambda s, o: s.CosineAnnealingLR(o, T_max=13, eta_min=1e-3),
    "cosine, of one": lambda s, o: s.CosineAnnealingLR(o, T_max=1),
    "warm-up, then cosine": lambda s, o: s.SequentialLR(
        o, [s.LinearLR(o, 0.01, total_iters=20), s.CosineAnnealingLR(o, 80)], milestones=[20]
    ),
    "three in a row": lambda s, o: s.SequentialLR(
        o, [s.ConstantLR(o, 0.1, 3), s.StepLR(o, 4), s.LambdaLR(o, lambda e: 1 / (1 + e))], [10, 50]
    ),
    "all at once": lambda s, o: s.ChainedScheduler(
        [s.LinearLR(o, 0.1, total_iters=10), s.StepLR(o, 30), s.CosineAnnealingLR(o, 100)], o
    ),
}


def two_groups(library, tensors):
    return library.SGD([{"params": tensors[0]}, {"params": tensors[1], "lr": 0.03}], lr=1.0)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("make", SCHEDULES.values(), ids=SCHEDULES)
def test_schedules_hundred_epochs_as_torch(make):
    def rates(library):
        optimizer, found = two_groups(library.optim, leaves(shapes=[(1,), (1,)], library=library)), []
        schedule = make(library.optim.lr_scheduler, optimizer)
        for _ in range(100):
            found.append(schedule.get_last_lr())
            assert [g["lr"] for g in optimizer.param_groups] == found[-1]
            assert optimizer.param_groups[0]["initial_lr"] == 1.0
            optimizer.step()
            schedule.step()
        return np.array(found)

    np.testing.assert_allclose(rates(ta), answer(lambda: rates(torch)), rtol=1e-12, atol=1e-18)


@pytest.mark.parametrize("stop", [0, 1, 9, 10, 20, 57])
@pytest.mark.parametrize("make", SCHEDULES.values(), ids=SCHEDULES)
def test_loaded_schedule_continues(make, stop):
    whole, left, right = (two_groups(optim, leaves(shapes=[(1,), (1,)])) for _ in range(3))
    uninterrupted, first = make(lr_scheduler, whole), make(lr_scheduler, left)
    for _ in range(stop):
        uninterrupted.step()
        first.step()
    second = make(lr_scheduler, right)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))  # plain numbers and lists
    right.load_state_dict(left.state_dict())
    for _ in range(30):
        assert second.get_last_lr() == uninterrupted.get_last_lr()
        assert [g["lr"] for g in right.param_groups] == uninterrupted.get_last_lr()
        second.step()
        uninterrupted.step()


@pytest.mark.parametrize("make", [m for n, m in SCHEDULES.items() if n in ("step", "cosine", "linear, up")])
def test_schedule_loads_state_of_torch(make):
    ours, theirs = (leaves(shapes=[(1,), (1,)], library=library) for library in (ta, torch))
    optimizer, oracle = two_groups(optim, ours), two_groups(torch.optim, theirs)
    mine, torchs = make(lr_scheduler, optimizer), make(torch.optim.lr_scheduler, oracle)
    for _ in range(9):
        oracle.step()
        torchs.step()
    mine.load_state_dict(torchs.state_dict())
    optimizer.load_state_dict(oracle.state_dict())
    for _ in range(9):
        torchs.step()
        mine.step()
        np.testing.assert_allclose(mine.get_last_lr(), torchs.get_last_lr(), rtol=1e-13)


EXACT = {
    "milestones": lambda s, o: s.MultiStepLR(o, [3, 20, 20, 40], gamma=0.3),
    "exponential": lambda s, o: s.ExponentialLR(o, 0.93),
    "multiplicative": lambda s, o: s.MultiplicativeLR(o, [lambda e: 0.9, lambda e: 1 - 1 / (e + 2)]),
    "polynomial": lambda s, o: s.PolynomialLR(o, 50, power=1.7),
    "restarts": lambda s, o: s.CosineAnnealingWarmRestarts(o, 7, 2, eta_min=1e-3),
    "restarts of one length": lambda s, o: s.CosineAnnealingWarmRestarts(o, 9),
    "triangles": lambda s, o: s.CyclicLR(o, 0.01, [0.3, 0.2], 5, 8),
    "falling triangles": lambda s, o: s.CyclicLR(o, 0.01, 0.3, 5, mode="triangular2", cycle_momentum=False),
    "exponential triangles": lambda s, o: s.CyclicLR(o, 0.01, 0.3, 5, mode="exp_range", gamma=0.97),
    "own triangles": lambda s, o: s.CyclicLR(o, 0.01, 0.3, 5, scale_fn=lambda x: 1 / x),
    "one cycle": lambda s, o: s.OneCycleLR(o, [0.3, 0.1], total_steps=60),
    "one cycle, three ways": lambda s, o: s.OneCycleLR(
        o, 0.3, epochs=4, steps_per_epoch=15, pct_start=0.4, anneal_strategy="linear", three_phase=True
    ),
    "one cycle without momentum": lambda s, o: s.OneCycleLR(o, 0.3, 60, cycle_momentum=False),
    "step": lambda s, o: s.StepLR(o, 7),
    "lambda": lambda s, o: s.LambdaLR(o, lambda epoch: 0.95**epoch),
    "warm-up, then restarts": lambda s, o: s.SequentialLR(
        o, [s.PolynomialLR(o, 10), s.CosineAnnealingWarmRestarts(o, 20)], milestones=[13]
    ),
}


def momenta(optimizer):
    return [group.get("momentum", group.get("betas", [0])) for group in optimizer.param_groups]


def with_momentum(library, tensors, kind):
    options = {"momentum": 0.9} if kind == "SGD" else {}
    return getattr(library, kind)([{"params": tensors[0]}, {"params": tensors[1], "lr": 0.03}], lr=1.0, **options)


@pytest.mark.parametrize("kind", ["SGD", "Adam"])
@pytest.mark.parametrize("make", EXACT.values(), ids=EXACT)
def test_schedules_sixty_steps_equal_torch_exactly(make, kind):
    ours, theirs = twins(shapes=[(1,), (1,)])
    optimizer, oracle = with_momentum(optim, ours, kind), with_momentum(torch.optim, theirs, kind)
    mine, torchs = make(lr_scheduler, optimizer), make(torch.optim.lr_scheduler, oracle)
    for step in range(60):
        assert mine.get_last_lr() == torchs.get_last_lr(), step
        assert [g["lr"] for g in optimizer.param_groups] == mine.get_last_lr()
        assert momenta(optimizer) == momenta(oracle), step
        if step == 30:  # go on in new ones, from a saved state
            state, rates = json.loads(json.dumps(mine.state_dict())), optimizer.state_dict()
            optimizer = with_momentum(optim, ours, kind)
            mine = make(lr_scheduler, optimizer)
            optimizer.load_state_dict(rates)
            mine.load_state_dict(state)
        oracle.step()
        mine.step()
        torchs.step()


@pytest.mark.parametrize("name", ["milestones", "polynomial", "restarts", "triangles", "one cycle, three ways"])
def test_new_schedules_load_state_of_torch(name):
    ours, theirs = twins(shapes=[(1,), (1,)])
    optimizer, oracle = with_momentum(optim, ours, "SGD"), with_momentum(torch.optim, theirs, "SGD")
    mine, torchs = EXACT[name](lr_scheduler, optimizer), EXACT[name](torch.optim.lr_scheduler, oracle)
    for _ in range(9):
        oracle.step()
        torchs.step()
    mine.load_state_dict(torchs.state_dict())
    optimizer.load_state_dict(oracle.state_dict())
    for _ in range(9):
        torchs.step()
        mine.step()
        assert mine.get_last_lr() == torchs.get_last_lr()


def test_warm_restarts_take_fractions_of_epochs():
    ours, theirs = twins(shapes=[(1,), (1,)])
    mine = lr_scheduler.CosineAnnealingWarmRestarts(two_groups(optim, ours), 3, 2, 1e-3)
    torchs = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(two_groups(torch.optim, theirs), 3, 2, 1e-3)
    for step in range(60):
        mine.step(step / 4)
        torchs.step(step / 4)
        assert mine.get_last_lr() == torchs.get_last_lr()


PLATEAUS = [
    {},
    {"patience": 2, "factor": 0.5, "cooldown": 2},
    {"mode": "max", "patience": 1, "threshold": 0.1, "min_lr": [0.2, 0.01]},
    {"mode": "max", "threshold_mode": "abs", "threshold": 0.05, "patience": 0},
    {"threshold_mode": "abs", "patience": 3, "eps": 0.01},
]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("options", PLATEAUS)
def test_reduce_on_plateau_sixty_metrics_equal_torch_exactly(options):
    ours, theirs = twins(shapes=[(1,), (1,)])
    optimizer, oracle = two_groups(optim, ours), two_groups(torch.optim, theirs)
    mine = lr_scheduler.ReduceLROnPlateau(optimizer, verbose=True, **options)
    torchs = torch.optim.lr_scheduler.ReduceLROnPlateau(oracle, **options)
    metrics = np.random.default_rng(0).random(60) - np.arange(60) * (0.01 if options.get("mode") != "max" else -0.01)
    for i, metric in enumerate(metrics):
        mine.step(ta.tensor(metric))
        torchs.step(torch.tensor(metric))
        assert mine.get_last_lr() == torchs.get_last_lr() == [g["lr"] for g in optimizer.param_groups]
        assert (mine.best, mine.num_bad_epochs) == (torchs.best, torchs.num_bad_epochs)
        if i == 30:
            mine.load_state_dict(torchs.state_dict())
            torchs.load_state_dict(mine.state_dict())


@pytest.mark.parametrize("library", [ta.optim, torch.optim], ids=["tinyattn", "torch"])
def test_foreign_schedule_with_step_count(library):
    class Noam(library.lr_scheduler._LRScheduler):
        def __init__(self, optimizer, warmup, last_epoch=-1, verbose=False):
            self.warmup = warmup
            super().__init__(optimizer, last_epoch)

        def get_lr(self):
            last_epoch = max(1, self._step_count)
            scale = self.warmup**0.5 * min(last_epoch ** (-0.5), last_epoch * self.warmup ** (-1.5))
            return [base * scale for base in self.base_lrs]

    tensors = ta if library is ta.optim else torch
    optimizer = library.SGD([tensors.ones(1, requires_grad=True)], lr=1.0)
    schedule, rates = Noam(optimizer, 4), []
    for _ in range(6):
        rates += schedule.get_last_lr()
        optimizer.step()
        schedule.step()
    np.testing.assert_allclose(rates, [min(t**-0.5 * 2, t / 4) for t in range(1, 7)], rtol=1e-12)


JUMPS = {
    "StepLR": (2, 0.1),
    "MultiStepLR": ([2, 4], 0.5),
    "ExponentialLR": (0.9,),
    "CosineAnnealingLR": (4,),
    "LinearLR": (0.1, 1.0, 5),
    "PolynomialLR": (5, 2.0),
    "LambdaLR": (lambda epoch: 1 / (1 + epoch),),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", JUMPS)
def test_schedule_step_goes_to_any_epoch(name):
    found = []
    for library in (ta, torch):
        parameter = library.ones(1, requires_grad=True)
        optimizer = library.optim.SGD([parameter], lr=1.0)
        schedule = getattr(library.optim.lr_scheduler, name)(optimizer, *JUMPS[name])
        rates = []
        for epoch in (0, 1, 1, 5, 3, None, 0):
            optimizer.step()
            schedule.step(epoch)
            rates.append(optimizer.param_groups[0]["lr"])
        found.append((rates, schedule.last_epoch))
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-12)
    assert found[0][1] == found[1][1]


def test_schedule_refuses_epochs_that_are_no_whole_numbers():
    schedule = lr_scheduler.StepLR(sgd(), 1)
    for epoch in (1.5, -1):
        with pytest.raises(ValueError, match=f"StepLR is at epoch 0, and cannot go to {epoch}"):
            schedule.step(epoch)


def test_loaded_schedule_copies_its_state():
    schedule = lr_scheduler.LambdaLR(sgd(), lambda epoch: 0.5)
    saved = schedule.state_dict()
    schedule.load_state_dict(saved)
    saved["base_lrs"][0] = saved["_last_lr"][0] = 99.0
    assert schedule.get_last_lr() == [0.5e-3]
    schedule.step()
    assert schedule.get_last_lr() == [0.5e-3]


def test_schedule_rates_are_python_floats():
    schedule = lr_scheduler.LambdaLR(sgd(), lambda epoch: np.float64(0.5))
    assert type(schedule.get_last_lr()[0]) is type(schedule.optimizer.param_groups[0]["lr"]) is float


RESUMED = {
    "step": lambda s, o, e: s.StepLR(o, 7, last_epoch=e),
    "steps": lambda s, o, e: s.MultiStepLR(o, [3, 8], last_epoch=e),
    "constant": lambda s, o, e: s.ConstantLR(o, last_epoch=e),
    "line up": lambda s, o, e: s.LinearLR(o, 1e-3, total_iters=33, last_epoch=e),
    "exponential": lambda s, o, e: s.ExponentialLR(o, 0.9, last_epoch=e),
    "multiplicative": lambda s, o, e: s.MultiplicativeLR(o, lambda t: 1 - 0.01 * t, last_epoch=e),
    "polynomial": lambda s, o, e: s.PolynomialLR(o, 30, 2.0, last_epoch=e),
    "cosine": lambda s, o, e: s.CosineAnnealingLR(o, 100, last_epoch=e),
    "cosine, up and down": lambda s, o, e: s.CosineAnnealingLR(o, 13, 1e-3, last_epoch=e),
    "restarts": lambda s, o, e: s.CosineAnnealingWarmRestarts(o, 4, last_epoch=e),
    "lambda": lambda s, o, e: s.LambdaLR(o, lambda t: 0.95**t, last_epoch=e),
}


@pytest.mark.parametrize("name", RESUMED)
def test_schedule_last_epoch_continues_as_in_pytorch(name):
    """The optimizer's state has the rate of the next epoch, which the new schedule keeps."""
    found = {}
    for library, parameter in ((ta, one()), (torch, torch.ones(1, requires_grad=True))):
        make, schedules = RESUMED[name], library.optim.lr_scheduler
        optimizer, again = (library.optim.SGD([parameter], lr=1.0) for _ in range(2))
        whole, rates = make(schedules, optimizer, -1), []
        for _ in range(6):
            optimizer.step()
            whole.step()
        again.load_state_dict(optimizer.state_dict())
        part = make(schedules, again, whole.last_epoch - 1)
        for _ in range(20):
            assert part.last_epoch == whole.last_epoch
            rates += [part.get_last_lr()[0], whole.get_last_lr()[0]]
            for schedule in (part, whole):
                schedule.optimizer.step()
                schedule.step()
        found[library] = rates
    np.testing.assert_allclose(found[ta], found[torch], rtol=1e-12)
    np.testing.assert_allclose(found[ta][::2], found[ta][1::2], rtol=1e-12)


def test_schedule_lengths_may_be_floats():
    for name, length in (
        ("StepLR", 3.0),
        ("CosineAnnealingLR", 6.0),
        ("CosineAnnealingLR", 4.5),
        ("CosineAnnealingLR", 2.25),
    ):
        found = []
        for library, parameter in ((ta, one()), (torch, torch.ones(1, requires_grad=True))):
            schedule = getattr(library.optim.lr_scheduler, name)(library.optim.SGD([parameter], lr=1.0), length)
            rates = []
            for _ in range(15):
                schedule.optimizer.step()
                schedule.step()
                rates.append(schedule.get_last_lr()[0])
            found.append(rates)
        np.testing.assert_allclose(*found, rtol=1e-9, atol=1e-15)


def grown():
    optimizer = optim.SGD([one()])
    schedule = lr_scheduler.StepLR(optimizer, 1)
    optimizer.add_param_group({"params": one()})
    schedule.step()


def loaded(saved):
    lr_scheduler.StepLR(optim.SGD([one()]), 3).load_state_dict(saved)


def sgd():
    return optim.SGD([one()])


MISTIMED = [
    (lambda: lr_scheduler.StepLR("sgd", 3), TypeError, "needs an Optimizer, but got str"),
    (lambda: lr_scheduler.StepLR(sgd(), 0), ValueError, "step_size must be at least 1"),
    (lambda: lr_scheduler.StepLR(sgd(), 2.5), TypeError, "whole number.*2.5"),
    (lambda: lr_scheduler.StepLR(sgd(), 3, last_epoch=4), KeyError, "no 'initial_lr'"),
    (lambda: lr_scheduler.CosineAnnealingLR(sgd(), 0), ValueError, "T_max must be at least 1"),
    (lambda: lr_scheduler.LinearLR(sgd(), start_factor=0.0), ValueError, "start_factor must be above 0"),
    (lambda: lr_scheduler.LinearLR(sgd(), end_factor=1.5), ValueError, "end_factor must be at least 0"),
    (lambda: lr_scheduler.LinearLR(sgd(), total_iters=-1), ValueError, "total_iters must be at least 0"),
    (lambda: lr_scheduler.ConstantLR(sgd(), factor=2.0), ValueError, "factor must be"),
    (lambda: lr_scheduler.LambdaLR(sgd(), [abs, abs]), ValueError, "2 functions.* 1 parameter groups"),
    (lambda: lr_scheduler.SequentialLR(sgd(), [], []), ValueError, "at least one schedule"),
    (lambda: lr_scheduler.ChainedScheduler([]), ValueError, "at least one schedule"),
    (lambda: lr_scheduler.ChainedScheduler(["warm-up"], sgd()), TypeError, "is a str; expected a schedule"),
    (lambda: SCHEDULES["warm-up, then cosine"](lr_scheduler, sgd()).load_state_dict({}), ValueError, "0 schedules"),
    (lambda: lr_scheduler.SequentialLR(sgd(), [lr_scheduler.StepLR(sgd(), 1)], []), ValueError, "another optimizer"),
    (
        lambda: lr_scheduler.SequentialLR(o := sgd(), [lr_scheduler.StepLR(o, 1)] * 2, [3, 2]),
        ValueError,
        "1 epochs in rising order",
    ),
    (lambda: lr_scheduler.LRScheduler(sgd()), NotImplementedError, "does not define get_lr"),
    (lambda: lr_scheduler.OneCycleLR(sgd(), 1.0), ValueError, "needs its length"),
    (lambda: lr_scheduler.OneCycleLR(optim.Adagrad([one()]), 1.0, 9), ValueError, "neither momentum nor betas"),
    (lambda: lr_scheduler.OneCycleLR(sgd(), [1.0, 2.0], 9), ValueError, "max_lr has 2 values"),
    (lambda: [s.step() for s in [lr_scheduler.OneCycleLR(sgd(), 1.0, 2)] * 3], ValueError, "step 3 is after the last"),
    (lambda: lr_scheduler.CyclicLR(sgd(), 0.1, 1.0, mode="square"), ValueError, "mode must be one of 'triangular'"),
    (lambda: lr_scheduler.CosineAnnealingWarmRestarts(sgd(), 2).step(-1), ValueError, "epoch -1; expected at least 0"),
    (lambda: lr_scheduler.ReduceLROnPlateau(sgd(), factor=2.0), ValueError, "factor is 2.0"),
    (grown, ValueError, "made for 1 parameter groups.* now has 2"),
    (lambda: loaded({}), ValueError, "not saved by a StepLR"),
    (
        lambda: loaded(lr_scheduler.StepLR(two_groups(optim, [one(), one()]), 3).state_dict()),
        ValueError,
        "2 learning rates.* 1 parameter groups",
    ),
]


@pytest.mark.parametrize(("make", "error", "words"), MISTIMED)
def test_schedule_refuses_invalid_arguments(make, error, words):
    with pytest.raises(error, match=words):
        make()


def test_schedules_of_schedules():
    optimizer = optim.SGD([one()], lr=1.0)
    s = lr_scheduler
    inner = s.SequentialLR(optimizer, [s.ConstantLR(optimizer, 0.5, 9), s.StepLR(optimizer, 2, 0.5)], [2])
    both = s.ChainedScheduler([s.StepLR(optimizer, 1, 0.5), s.ConstantLR(optimizer, 0.5, 2)])
    outer = s.SequentialLR(optimizer, [inner, both], milestones=[6])
    rates = []
    for _ in range(10):
        rates += outer.get_last_lr()
        outer.step()
    assert rates == [0.5, 0.5, 1.0, 1.0, 0.5, 0.5, 0.5, 0.25, 0.25, 0.125]


@pytest.mark.parametrize("decay", [None, 0.75])
def test_averaged_model_as_torch(decay):
    means = []
    for library in (ta, torch):
        swa = library.optim.swa_utils
        model = library.nn.Sequential(library.nn.Linear(1, 1), library.nn.BatchNorm1d(1))
        mean = swa.AveragedModel(model, avg_fn=swa.get_ema_avg_fn(decay) if decay else None)
        for value in (1.0, 4.0, -2.5):
            library.nn.init.constant_(model[0].weight, value)
            model[1].running_mean.fill_(value)
            mean.update_parameters(model)
        means.append({key: float(value) for key, value in mean.state_dict().items()})
        means[-1].pop("module.0.bias")
    assert means[0] == means[1]


@pytest.mark.parametrize("options", [(2, "linear"), (5, "cos"), (0, "cos")])
def test_swalr_moves_to_its_rate_as_torch(options):
    rates = []
    for library in (ta, torch):
        parameters = [{"params": [library.ones(1, requires_grad=True)], "lr": lr} for lr in (1.0, 0.2)]
        optimizer = library.optim.SGD(parameters, lr=0.1)
        schedule, found = library.optim.swa_utils.SWALR(optimizer, [0.5, 0.4], *options), []
        for _ in range(7):
            found += schedule.get_last_lr()
            optimizer.step()
            schedule.step()
        rates.append(found)
    np.testing.assert_allclose(*rates, rtol=1e-12)
    for arguments, message in (
        ((0.1, -1), "anneal_epochs"),
        ((0.1, 1, "fast"), "anneal_strategy"),
        (([0.1] * 3,), "swa_lr"),
    ):
        with pytest.raises(ValueError, match=message):
            ta.optim.swa_utils.SWALR(ta.optim.SGD([ta.ones(1, requires_grad=True)], lr=1.0), *arguments)


def test_update_bn_takes_the_statistics_of_all_batches_as_torch():
    found = []
    for library in (ta, torch):
        model = library.nn.Sequential(library.nn.BatchNorm1d(2), library.nn.InstanceNorm1d(2, track_running_stats=True))
        model[0].momentum = 0.3
        batches = [(library.arange(8.0).reshape(2, 2, 2).sin() * k, "label") for k in (1, 2, 3)]
        library.optim.swa_utils.update_bn(batches, model.eval())
        assert not model.training and model[0].momentum == 0.3 and int(model[0].num_batches_tracked) == 3
        found.append([model[0].running_mean.tolist(), model[0].running_var.tolist()])
    np.testing.assert_allclose(*found, rtol=1e-5)


# --- clipping ---

GRADIENTS = {
    "ordinary": [[3.0, -4.0], [12.0]],
    "short": [[0.01, 0.02], [-0.01]],
    "barely short": [[1.49, 0.0], [0.05]],
    "zero": [[0.0, 0.0], [0.0]],
    "no parameter has one": [None, None],
    "one parameter has none": [None, [5.0]],
    "overflowing square": [[1e20, 1.0], [1.0]],
    "infinite": [[math.inf, 1.0], [1.0]],
    "NaN": [[math.nan, 1.0], [1.0]],
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("norm_type", [2.0, 1.0, 3.0, 0.0, math.inf])
@pytest.mark.parametrize("gradients", GRADIENTS.values(), ids=GRADIENTS)
def test_clip_grad_norm_as_torch(gradients, norm_type):
    def clipped(library):
        parameters = leaves("float32", [(len(g or ()),) for g in gradients], library=library)
        for p, g in zip(parameters, gradients, strict=True):
            p.grad = None if g is None else library.tensor(g)
        total = library.nn.utils.clip_grad_norm_(parameters, 1.5, norm_type)
        return as_arrays([total, *(p.grad for p in parameters if p.grad is not None)])

    for ours, theirs in zip(clipped(ta), answer(lambda: clipped(torch)), strict=True):
        assert (ours.dtype, ours.shape) == (np.float32, theirs.shape)
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_clip_grad_norm_of_tiny_gradients_as_torch():
    def clipped(library):
        p = library.ones(1, requires_grad=True)
        p.grad = library.tensor([2e-6])
        library.nn.utils.clip_grad_norm_([p], 1e-6)
        return p.grad

    np.testing.assert_allclose(as_arrays(clipped(ta)), answer(lambda: clipped(torch)), rtol=1e-6)


def test_clip_grad_norm_of_generators_and_mixed_dtypes():
    p, q = one(), ta.tensor([1.0], dtype=ta.float64, requires_grad=True)
    p.grad, q.grad = ta.tensor([3.0]), ta.tensor([4.0], dtype=ta.float64)
    empty = ta.zeros(0, requires_grad=True)
    empty.grad = ta.zeros(0)
    for norm_type, want in [(2.0, 5.0), (1.0, 7.0), (math.inf, 4.0), (-math.inf, 3.0)]:
        total = utils.clip_grad_norm_((t for t in (p, empty, q)), 10.0, norm_type)
        assert total.item() == want
        assert total.dtype == ta.float64
    assert utils.clip_grad_norm_(p, 1.5).item() == 3.0
    np.testing.assert_allclose(p.grad.cpu().numpy(), [1.5], rtol=1e-6)


def test_clip_grad_norm_error_if_nonfinite():
    p = one()
    p.grad = ta.tensor([math.inf])
    with pytest.raises(RuntimeError, match=r"norm .* of inf"):
        utils.clip_grad_norm_([p], 1.0, error_if_nonfinite=True)
    assert p.grad.tolist() == [math.inf]


@pytest.mark.parametrize("limit", [-1.0, math.nan])
def test_clip_grad_refuses_negative_limits(limit):
    with pytest.raises(ValueError, match="max_norm must be"):
        utils.clip_grad_norm_([one()], limit)
    with pytest.raises(ValueError, match="clip_value must be"):
        utils.clip_grad_value_([one()], limit)


def test_clip_grad_value_as_torch():
    def clipped(library):
        p, without = library.zeros(5, requires_grad=True), library.ones(1, requires_grad=True)
        p.grad = library.tensor([-3.0, -0.5, 0.5, math.inf, math.nan])
        library.nn.utils.clip_grad_value_([p, without], 1.0)
        return p.grad

    np.testing.assert_array_equal(as_arrays(clipped(ta)), answer(lambda: clipped(torch)))


@pytest.mark.parametrize("clip", [utils.clip_grad_norm_, utils.clip_grad_value_])
def test_clip_grad_of_a_saved_gradient_raises(clip):
    p, weight = one(), one(2.0)
    p.grad = ta.ones(1)
    penalty = (weight * p.grad).sum()
    clip([p], 0.5)
    with pytest.raises(RuntimeError, match=clip.__name__):
        penalty.backward()


def test_averaged_model_averages_lists_as_in_pytorch():
    found = []
    for library in (ta, torch):
        swa, layer = library.optim.swa_utils, library.nn.Linear(1, 1)
        mean = swa.AveragedModel(layer, multi_avg_fn=swa.get_ema_multi_avg_fn(0.9))
        for value in (1.0, 2.0, 4.0):
            with library.no_grad():
                layer.weight.fill_(value)
            mean.update_parameters(layer)
        found.append(mean.module.weight.item())
    assert found[0] == pytest.approx(found[1], rel=1e-6)


@pytest.mark.parametrize("use_buffers", [False, True])
@pytest.mark.parametrize("decay", [None, 0.75])
def test_averaged_model_averages_tied_weights_and_buffers_once(decay, use_buffers):
    means = []
    for library in (ta, torch):
        swa, model = library.optim.swa_utils, library.nn.Module()
        model.first, model.last = library.nn.Linear(1, 1, bias=False), library.nn.Linear(1, 1, bias=False)
        model.last.weight = model.first.weight
        model.register_buffer("scale", library.zeros(1), persistent=False)
        average = swa.get_ema_avg_fn(decay) if decay else None
        mean = swa.AveragedModel(model, avg_fn=average, use_buffers=use_buffers)
        for value in (1.0, 4.0, -2.5):
            library.nn.init.constant_(model.first.weight, value)
            model.scale.fill_(value)
            mean.update_parameters(model)
        means.append([mean.module.last.weight.item(), mean.module.scale.item()])
    assert means[0] == means[1]
