"""Devices: names, moving, refusals, training without a hidden copy. On the GPU of gpus.py."""

from __future__ import annotations

import copy
import ctypes
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from gpus import counting, memory_limited, only_where_counted
from oracle import host

import tinyattn as ta
import tinyattn.nn.functional as F
from tinyattn import backends, data, models, nn, ops, optim, train

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.usefixtures("gpu")


# --- names ---


def test_tensors_say_where_they_are():
    x = ta.ones(2, device="cuda")
    assert x.device == "cuda:0" and x.is_cuda and x.device.index == 0
    assert ta.ones(2).device == "cpu" and not ta.ones(2).is_cuda
    assert repr(x) == "tensor([1., 1.], device='cuda:0')"
    assert repr(x.long().requires_grad) == "False" and "dtype=uint8, device='cuda:0'" in repr(x.to(ta.uint8))


# --- moving ---


def test_moving_there_and_back():
    x = ta.tensor([[1.0, 2.0], [3.0, 4.0]])
    there = x.cuda()
    assert there.device == "cuda:0" and there.cpu().tolist() == x.tolist() == there.tolist()
    assert x.cpu() is x and there.to("cuda") is there and there.cuda(0) is there
    assert x.to("cuda", ta.float64).dtype == ta.float64 and there.to(x).device == "cpu"
    there[0, 0] = 9
    assert x[0, 0] == 1
    assert there.cpu().T.tolist() == there.T.cpu().tolist()


@pytest.mark.parametrize("dtype", ["float32", "int64"])
@pytest.mark.parametrize(
    "index", [[1, 1], [2, 0, 2, 2], [], ([0, 0, 1], [1, -2, 1]), (slice(None), [0, 0, -1])], ids=str
)
def test_setitem_with_repeated_indices_keeps_the_last_value_as_on_the_cpu(index, dtype):
    results = []
    for device in ("cpu", "cuda"):
        shape = np.zeros((3, 3))[np.array(index, int) if index == [] else index].shape
        v = ta.arange(1, 1 + int(np.prod(shape)), device=device).reshape(shape).to(dtype).detach()
        out = ops.setitem(ta.zeros(3, 3, dtype=dtype, device=device), v, ops.indexing.write_index(index, v.array))
        results.append([out.tolist()])
        if dtype == "float32":
            v.requires_grad_()
            y = ta.zeros(3, 3, device=device)
            y[index] = v
            weights = ta.arange(9, device=device).reshape(3, 3).float()
            results[-1] += [y.tolist(), ta.grad((y * weights).sum(), v)[0].tolist()]
    assert results[0] == results[1]


def test_gradients_of_another_device_are_refused():
    x = ta.ones(2, device="cuda", requires_grad=True)
    with pytest.raises(RuntimeError, match="grad: the gradient has device cpu; expected cuda:0"):
        x.grad = ta.ones(2)
    with pytest.raises(RuntimeError, match="backward: the gradient has device cpu; expected cuda:0"):
        (x * 2).backward(ta.ones(2))
    y = x * 2
    y.register_hook(lambda g: g.cpu())
    with pytest.raises(RuntimeError, match=r"the result of hook <lambda> on mul .* has device cpu; expected cuda:0"):
        y.sum().backward()
    x.sum().backward(ta.tensor(3.0))  # a single number is moved, as in PyTorch
    assert x.grad.tolist() == [3, 3]


def test_gradients_find_their_way_back():
    x, w = ta.tensor([1.0, 2.0], requires_grad=True), ta.tensor([3.0, 4.0], device="cuda", requires_grad=True)
    y = ((x * 2).cuda() * w).cpu() * x
    y.sum().backward()
    assert x.grad.device == "cpu" and x.grad.tolist() == [12.0, 32.0]
    assert w.grad.device == "cuda:0" and w.grad.tolist() == [2.0, 8.0]
    (g,) = ta.grad((x.cuda() ** 3).sum(), x, create_graph=True)
    (h,) = ta.grad(g.sum(), x)
    assert h.tolist() == [6.0, 12.0]


def test_modules_move_in_place():
    net = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    before = list(net.parameters())
    net(ta.ones(2, 3)).sum().backward()
    assert net.cuda() is net and [id(p) for p in net.parameters()] == [id(p) for p in before]
    assert all(p.is_cuda and p.requires_grad and (p.grad is None or p.grad.is_cuda) for p in net.parameters())
    net(ta.ones(2, 3, device="cuda")).sum().backward()
    out = net.to(ta.ones(1, dtype=ta.float64))(ta.ones(2, 3, dtype=ta.float64))
    assert out.device == "cpu" and out.dtype == ta.float64
    model = models.AttentionClassifier(8, 4, 1, 2, 8, 8).to("cuda")
    assert model.patch_index.is_cuda and model(ta.zeros(2, 8, 8, device="cuda")).shape == (2, 10)


def test_layers_are_made_where_they_are_wanted():
    for layer in (
        nn.Linear(2, 3, device="cuda"), nn.Embedding(4, 2, device="cuda"), nn.LayerNorm(3, device="cuda"),
        nn.MultiheadAttention(4, 2, device="cuda"), nn.TransformerEncoderLayer(4, 2, 8, device="cuda"),
    ):  # fmt: skip
        assert {p.device for p in layer.parameters()} == {"cuda:0"}


MADE = {
    "tensor": lambda **o: ta.tensor([1, 2], **o), "as_tensor": lambda **o: ta.as_tensor([1, 2], **o), "zeros": lambda **o: ta.zeros(2, **o),
    "ones": lambda **o: ta.ones(2, **o), "full": lambda **o: ta.full((2,), 3, **o), "empty": lambda **o: ta.empty(2, **o),
    "arange": lambda **o: ta.arange(1, 9, 2, **o), "linspace": lambda **o: ta.linspace(0, 1, 5, **o), "eye": lambda **o: ta.eye(3, **o),
    "rand": lambda **o: ta.rand(2, **o), "randn": lambda **o: ta.randn(2, **o), "randint": lambda **o: ta.randint(5, (2,), **o),
    "randperm": lambda **o: ta.randperm(5, **o), "zeros_like": lambda **o: ta.zeros_like(ta.ones(2), **o), "randn_like": lambda **o: ta.randn_like(ta.ones(2), **o),
}  # fmt: skip


@pytest.mark.parametrize("name", MADE)
def test_made_on_a_device(name):
    here, there = MADE[name](), MADE[name](device="cuda")
    assert (here.device, there.device) == ("cpu", "cuda:0")
    assert (here.shape, here.dtype) == (there.shape, there.dtype)
    if "rand" not in name:
        assert here.tolist() == there.tolist()
    ta.set_default_device("cuda")
    try:
        assert MADE[name]().device == "cuda:0"
        assert MADE[name](device="cpu").device == "cpu"
    finally:
        ta.set_default_device(None)


def test_copies_and_pickles_stay_on_their_device():
    x = ta.tensor([1.0, 2.0], device="cuda", requires_grad=True)
    for twin in (copy.deepcopy(x), pickle.loads(pickle.dumps(x))):
        assert twin.is_cuda and twin.requires_grad and twin.tolist() == [1.0, 2.0] and twin.array is not x.array


def test_several_gpus():
    if ta.cuda.device_count() < 2:
        pytest.skip("there is one GPU")
    a, b = ta.ones(2, device="cuda:1", requires_grad=True), ta.ones(2, device="cuda")
    (a * a @ ta.ones(2, 2, device="cuda:1")).sum().backward()
    assert a.grad.device == "cuda:1" and ta.zeros(1, device="cuda").device == "cuda:0"
    assert (b + a.to("cuda:0")).device == "cuda:0" and b.to("cuda:1").tolist() == [1.0, 1.0]
    with ta.cuda.device(1):
        assert ta.cuda.current_device() == 1 and ta.ones(1).cuda().device == "cuda:1"
    assert ta.cuda.current_device() == 0
    with pytest.raises(RuntimeError, match="found at least two devices, cuda:1 and cuda:0"):
        a + b
    with pytest.raises(RuntimeError, match=r"'cuda:7' is not there; this machine has \d GPU"):
        ta.ones(1, device="cuda:7")


def test_cross_entropy_of_a_bad_label_on_the_second_gpu_is_an_error_once():
    if ta.cuda.device_count() < 2:
        pytest.skip("there is one GPU")
    scores = ta.zeros(2, 3, device="cuda:1", requires_grad=True)
    F.cross_entropy(scores, ta.tensor([0, 7], device="cuda:1"))
    backends.gpu().runtime.deviceSynchronize()
    ta.ones(1, device="cuda:0")
    with pytest.raises(IndexError, match="7 at position"):
        backends.check()
    optimizer = optim.SGD([scores], 1.0)
    F.cross_entropy(scores, ta.tensor([0, 1], device="cuda:1")).backward()
    optimizer.step()
    assert scores[0, 0].item() > 0  # the flag is down on its own GPU, so the step counts


# --- refusals ---


def test_no_array_without_a_copy():
    x = ta.ones(2, device="cuda")
    for attempt in (x.numpy, lambda: np.asarray(x), lambda: np.array(x), lambda: ta.from_numpy(x.array)):
        with pytest.raises(TypeError):
            attempt()
    with pytest.raises(
        TypeError, match=r"can't convert cuda:0 device type tensor to numpy\. Use Tensor\.cpu\(\) to copy"
    ):
        x.numpy()
    assert x.cpu().numpy().tolist() == [1.0, 1.0] and x[0].item() == 1.0 and float(x[0]) == 1.0


MIXED = {
    "add": lambda a, b: a + b, "matmul": lambda a, b: a @ b, "cat": lambda a, b: ta.cat([a, b]), "where": lambda a, b: ta.where(a > 0, a, b),
    "linear": lambda a, b: F.linear(a, b), "loss": lambda a, b: F.mse_loss(a, b), "array": lambda a, b: a + b.cpu().numpy(),
    "embedding": lambda a, b: F.embedding(ta.tensor([0, 1]), a), "labels": lambda a, b: F.cross_entropy(a, ta.tensor([0, 1])),
}  # fmt: skip


@pytest.mark.parametrize("name", MIXED)
def test_mixed_devices_are_refused(name):
    a, b = ta.ones(2, 2, device="cuda", requires_grad=True), ta.ones(2, 2)
    with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device, but found at least two dev"):
        MIXED[name](a, b)


def test_single_numbers_come_along():
    a, half = ta.ones(2, device="cuda", requires_grad=True), ta.tensor(0.5, requires_grad=True)
    (a * half).sum().backward()
    assert a.grad.tolist() == [0.5, 0.5] and half.grad.device == "cpu" and half.grad.item() == 2.0
    assert (a + ta.tensor(1.0)).tolist() == [2.0, 2.0] and (ta.tensor(3) - a).device == "cuda:0"


def test_indices_may_come_from_the_processor_but_not_the_other_way_round():
    x = ta.arange(6, device="cuda").reshape(2, 3)
    for index in ([1, 0], ta.tensor([1, 0]), np.array([1, 0]), ta.tensor([1, 0], device="cuda")):
        assert x[index].tolist() == [[3, 4, 5], [0, 1, 2]] and x[:, index].is_cuda
    with pytest.raises(RuntimeError, match=r"on the CPU was indexed by one on a GPU: .*index.cpu\(\)"):
        x.cpu()[ta.tensor([0], device="cuda")]


def test_writing_across_devices_is_a_copy_that_was_asked_for():
    x = ta.zeros(2, 3, device="cuda")
    x[0] = ta.ones(3)
    x[1, [0, 2]] = ta.tensor([5.0, 6.0])
    x[:, 1].copy_(ta.tensor([8.0, 9.0]))
    assert x.tolist() == [[1.0, 8.0, 1.0], [5.0, 9.0, 6.0]] and x.is_cuda
    assert ta.zeros(3).copy_(x[0]).tolist() == [1.0, 8.0, 1.0]


# --- indices out of range ---

WRONG = {
    "embedding": (lambda d: F.embedding(ta.tensor([[0, 1], [7, 2]], device=d), ta.ones(4, 3, device=d)), "embedding: index 7 at position (1, 0) is out of range; expected 0 to 3"),
    "negative": (lambda d: F.embedding(ta.tensor([9, -1], device=d), ta.ones(4, 3, device=d)), "embedding: index -1 at position (1,) is out of range; expected 0 to 3"),
    "a class": (lambda d: F.cross_entropy(ta.ones(3, 4, device=d), ta.tensor([0, 4, 5], device=d)), "cross_entropy: class 5 at position (2,) is out of range; expected 0 to 3"),
    "gather": (lambda d: ta.gather(ta.ones(2, 3, device=d), 1, ta.tensor([[3], [0]], device=d)), "gather: index 3 at position (0, 0) is out of range; expected 0 to 2"),
    "index_select": (lambda d: ta.index_select(ta.ones(2, 3, device=d), 0, ta.tensor(2, device=d)), "index_select: index 2 at position () is out of range; expected 0 to 1"),
    "one_hot": (lambda d: F.one_hot(ta.tensor([1, 3], device=d), 3), "one_hot: class 3 at position (1,) is out of range; expected 0 to 2"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_an_index_out_of_range_is_the_same_error_on_every_device(name):
    call, message = WRONG[name]
    with pytest.raises(IndexError) as here:
        call("cpu")
    assert str(here.value) == message
    out = call("cuda")
    with pytest.raises(IndexError) as there:
        out.cpu()
    assert str(there.value) == message
    ta.cuda.synchronize()  # raised once


@pytest.mark.parametrize("write", [False, True])
def test_plain_indexing_out_of_range(write):
    x, index = ta.ones(3, 2, device="cuda"), ta.tensor([0, 5], device="cuda")
    if write:
        x[:, index] = 1.0
    else:
        x[index]
    with pytest.raises(IndexError, match="is out of range; expected"):
        ta.cuda.synchronize()
    assert x[ta.tensor([-1, -3], device="cuda")].tolist() == [[1.0, 1.0]] * 2


@pytest.mark.parametrize("make", [optim.SGD, optim.Adam, lambda p: optim.SGD(p, momentum=0.9)])
def test_no_weight_is_spoiled_by_a_bad_label(make):
    layer = nn.Linear(3, 4, device="cuda")
    optimizer = make(layer.parameters())
    labels = ta.tensor([0, 1], device="cuda")

    def step(labels):
        loss = F.cross_entropy(layer(ta.ones(2, 3, device="cuda")), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    step(labels)
    before = host(layer.weight)
    bad = ta.tensor([0, 9], device="cuda")
    with pytest.raises(IndexError, match=r"class 9 at position \(1,\)"):
        [step(bad) for _ in range(3)]  # at the latest, the next step says so
    np.testing.assert_array_equal(host(layer.weight), before)
    counts = [s["step"].item() for s in optimizer.state.values() if "step" in s]
    assert set(counts) <= {1.0}  # what was not done is not counted
    step(labels)
    assert not np.array_equal(host(layer.weight), before)


@pytest.mark.parametrize("make", [optim.SGD, optim.Adam, lambda p: optim.SGD(p, momentum=0.9)])
def test_a_step_whose_error_is_not_known_yet_does_nothing(make, monkeypatch):
    """As on a GPU that lags behind: the processor has gone on when the flag goes up."""
    weight = ta.ones(4, 3, device="cuda", requires_grad=True)
    optimizer = make([weight])
    for index, known in (([0, 1], True), ([0, 9], False), ([1, 1], False)):
        with monkeypatch.context() as patch:
            if not known:
                patch.setattr(backends, "check", lambda: None)
            optimizer.zero_grad()
            F.embedding(ta.tensor(index, device="cuda"), weight).sum().backward()
            optimizer.step()
        if known:
            before = host(weight)
    with pytest.raises(IndexError, match=r"embedding: index 9 at position \(1,\)"):
        ta.cuda.synchronize()
    np.testing.assert_array_equal(host(weight), before)
    assert all(state["step"].item() == 1.0 for state in optimizer.state.values() if "step" in state)


@only_where_counted
@pytest.mark.parametrize(
    "make", [optim.AdamW, lambda p: optim.SGD(p, momentum=0.9), optim.SGD], ids=["adamw", "momentum", "sgd"]
)
def test_a_step_of_an_optimizer_is_a_launch_or_two(make):
    """One for all parameters of the default model, and one that counts steps where the optimizer needs them."""
    model = models.AttentionClassifier().to("cuda")
    optimizer = make(model.parameters())
    counts = "step" in optimizer.state_names(optimizer.param_groups[0])
    for _ in range(2):
        for p in model.parameters():
            p.grad = ta.ones_like(p)
        with counting() as cost:
            optimizer.step()
    assert len([*model.parameters()]) > 20 and cost["launch"] == 1 + counts
    with counting() as cost:
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    assert cost["launch"] == 3  # the norm of all shares, the whole norm, all gradients
    assert not cost["upload"] + cost["download"] + cost["synchronise"]


class _Still(optim.Adam):
    """Another update: it must not be passed over for Adam's."""

    def update(self, param, grad, state, group):
        super().update(param, grad * 0, state, group)


def test_another_update_is_called_for_each_parameter():
    layer = nn.Linear(2, 2).to("cuda")
    before = host(layer.weight)
    layer(ta.ones(1, 2, device="cuda")).sum().backward()
    _Still(layer.parameters()).step()
    np.testing.assert_array_equal(host(layer.weight), before)


# --- random numbers ---


def test_streams_of_random_numbers_on_a_gpu():
    a, b = (ta.Generator("cuda").manual_seed(5) for _ in range(2))
    x = ta.randn(1000, device="cuda", generator=a)
    assert x.tolist() == ta.randn(1000, device="cuda", generator=b).tolist()
    state = a.get_state()
    more = ta.rand(7, device="cuda", generator=a).tolist()
    assert (
        more
        == ta.rand(7, device="cuda", generator=b.set_state(state)).tolist()
        != ta.rand(7, device="cuda", generator=b).tolist()
    )
    assert abs(x.mean().item()) < 0.1 and abs(x.std().item() - 1) < 0.1
    with pytest.raises(RuntimeError, match="Expected a 'cuda:0' device type for generator but found 'cpu'"):
        ta.rand(2, device="cuda", generator=ta.Generator())
    assert sorted(ta.randperm(50, device="cuda").tolist()) == list(range(50)) != ta.randperm(50, device="cuda").tolist()
    drawn = ta.randint(-2, 3, (500,), device="cuda").tolist()
    assert set(drawn) == {-2, -1, 0, 1, 2}


def test_one_seed_for_all_devices():
    found = []
    for _ in range(2):
        ta.manual_seed(3)
        found.append(
            (ta.rand(3).tolist(), ta.rand(3, device="cuda").tolist(), F.dropout(ta.ones(9, device="cuda")).tolist())
        )
    assert found[0] == found[1]


def test_checkpoint_draws_the_same_masks_again():
    x = ta.ones(50, device="cuda", requires_grad=True)
    (g,) = ta.grad((ta.checkpoint(lambda x: F.dropout(x * 1.0) * x, x)).sum(), x)
    assert set(g.tolist()) == {0.0, 4.0}


@only_where_counted
def test_checkpoint_never_synchronises():
    x = ta.rand(50, device="cuda").requires_grad_()  # so the GPU has a generator
    with counting() as cost:
        ta.checkpoint(lambda x: F.dropout(x * 1.0) * x, x).sum().backward()
    assert not cost["download"] + cost["synchronise"]


# --- optimizers follow ---


@pytest.mark.parametrize("make", [optim.Adam, lambda p: optim.SGD(p, 0.1, momentum=0.9)])
def test_optimizers_follow_their_parameters(make):
    results = []
    for moves in (("cpu", "cpu"), ("cuda", "cpu"), ("cpu", "cuda")):
        layer = nn.Linear(3, 2)
        with ta.no_grad():
            layer.weight.copy_(ta.arange(6).reshape(2, 3) * 0.1)
            layer.bias.zero_()
        optimizer = make(layer.parameters())
        for device in moves:
            layer.to(device)
            for _ in range(2):
                optimizer.zero_grad()
                (layer(ta.ones(1, 3, device=device)) ** 2).sum().backward()
                optimizer.step()
        assert all(v.device == p.device for p in layer.parameters() for v in optimizer.state[p].values())
        results.append(host(layer.weight))
    for result in results[1:]:
        np.testing.assert_allclose(result, results[0], rtol=1e-5)


def test_state_is_restored_onto_the_device_of_the_parameters():
    saved = []
    for device in ("cuda", "cpu"):
        layer = nn.Linear(3, 2, device=device)
        optimizer = optim.Adam(layer.parameters())
        if saved:
            layer.load_state_dict(saved[0])
            optimizer.load_state_dict(saved[1])
        layer(ta.ones(1, 3, device=device)).sum().backward()
        optimizer.step()
        saved = [layer.state_dict(), optimizer.state_dict()]
    assert {s["exp_avg"].device for s in optimizer.state.values()} == {"cpu"}
    assert [s["step"].item() for s in optimizer.state.values()] == [2.0, 2.0]


def test_a_parameter_without_a_gradient_is_not_counted():
    a, b = (ta.ones(2, device="cuda", requires_grad=True) for _ in range(2))
    optimizer = optim.Adam([a, b])
    for params in ([a, b], [a], [a], [b]):
        optimizer.zero_grad()
        sum((p * p).sum() for p in params).backward()
        optimizer.step()
    assert [optimizer.state[p]["step"].item() for p in (a, b)] == [3.0, 2.0]


# --- a training run ---


def digits():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 64)
    images = rng.integers(0, 60, (64, 8, 8)).astype(np.uint8)
    images[np.arange(64), labels * 2, :] += 150  # a bright row for each class
    return images, labels


def run(device, epochs=6, dropout=0.0):
    """A short training of the classifier; its losses, its model, and what each step cost."""
    ta.manual_seed(1)
    model = models.AttentionClassifier(8, 4, 1, 2, 16, 16, 4, dropout=dropout).to(device)
    optimizer = optim.AdamW(model.parameters(), 5e-3)
    images, labels = (ta.tensor(a, device=device) for a in digits())
    loader = data.DataLoader((images, labels), 16, shuffle=True, generator=ta.Generator().manual_seed(2))
    losses, costs = [], []
    for _ in range(epochs):
        total, batches = ta.zeros((), device=device), iter(loader)
        for _ in range(len(loader)):
            with counting() as cost:
                x, y = next(batches)
                loss = F.cross_entropy(model(x), y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total += loss.detach()
            costs.append(cost)
        losses.append(total.item())
    return losses, model, costs


@only_where_counted
def test_training_is_the_cpu_s_without_a_hidden_copy():
    here, there = run("cpu"), run("cuda")
    np.testing.assert_allclose(there[0], here[0], rtol=1e-3)
    assert there[0][-1] < there[0][0] / 2
    for i, cost in enumerate(there[2]):
        assert not cost["download"] and not cost["synchronise"]
        expected = 1 if i % 4 == 0 else 0  # the order of the pass
        assert cost["upload"] == expected + (i == 0)  # and, once, which parameters have gradients
    images = digits()[0]
    np.testing.assert_allclose(train.predict(there[1], images), train.predict(here[1], images), atol=1e-3)


@only_where_counted
@pytest.mark.parametrize("score", ["additive", "multihead"])
def test_the_article_s_model_trains_there(score):
    losses = {}
    for device in ("cpu", "cuda"):
        ta.manual_seed(0)
        model = models.AttentionModel(6, 8, 4, score=score, image_size=8).to(device)
        optimizer = optim.Adam(model.parameters(), 1e-2)
        images, labels = (ta.tensor(a, device=device) for a in digits())
        losses[device] = []
        for _ in range(3):
            with counting() as cost:
                loss = F.cross_entropy(model(images), labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            assert not cost["download"] + cost["synchronise"]
            losses[device].append(loss.item())
    np.testing.assert_allclose(losses["cuda"], losses["cpu"], rtol=1e-4)


def test_shifts_happen_where_the_images_are():
    images = ta.arange(2 * 3 * 4 * 5, device="cuda").reshape(2, 3, 4, 5).to(ta.uint8)
    out = data.random_shift(images, 1, ta.Generator("cuda").manual_seed(1))
    assert out.is_cuda and out.dtype == np.uint8 and out.shape == images.shape
    offsets = ta.Generator("cuda").manual_seed(1).random.integers(0, 2, size=(2, 2), endpoint=True)
    expected = backends.cpu.shift(host(images), ta.Tensor._from(offsets).cpu().numpy(), 1)
    np.testing.assert_array_equal(host(out), expected)


def test_data_parallel_leaves_the_batch_whole():
    model = nn.DataParallel(nn.Linear(3, 2), 4).to("cuda")
    out = model(ta.ones(8, 3, device="cuda"))
    assert out.is_cuda and out.shape == (8, 2)
    assert out.node.op.name == "linear"


# --- looking into the engine ---


def test_gradients_are_checked_on_a_gpu():
    x = ta.tensor(np.random.default_rng(0).normal(size=(2, 3)), device="cuda", requires_grad=True)
    w = ta.tensor(np.random.default_rng(1).normal(size=(4, 3)), device="cuda", requires_grad=True)
    assert ta.gradcheck(lambda x, w: F.gelu(F.linear(x, w)).softmax(-1), [x, w])
    wrong = ta.Operation(lambda F, x: x * x, name="wrong", x=lambda F, g, x: g * x)
    with pytest.raises(RuntimeError, match=r"backward gives .*, finite differences"):
        ta.gradcheck(lambda x: wrong(x), [x])


def test_anomalies_are_seen_on_a_gpu():
    x = ta.tensor([-1.0, 2.0], device="cuda", requires_grad=True)
    with pytest.raises(RuntimeError, match=r"log .* made 1 NaN in 2 elements"), ta.detect_anomaly():
        ta.log(x)


# --- products ---


@only_where_counted
def test_tensor_cores_round_only_where_that_was_asked_for():
    from tinyattn.backends.cuda import products

    x, found = {d: ta.ones(2, 2, device="cuda", dtype=d) for d in ("float16", "float32", "float64")}, {}
    compute = ctypes.c_int.in_dll(products.library(), "last_compute")
    assert ta.get_float32_matmul_precision() == "highest"
    try:
        for precision in ("highest", "high", "medium"):
            ta.set_float32_matmul_precision(precision)
            for dtype, matrix in x.items():
                assert (matrix @ matrix).tolist() == [[2.0, 2.0]] * 2
                found[precision, dtype] = compute.value
    finally:
        ta.set_float32_matmul_precision("highest")
    single, double, rounded = 68, 70, 77  # cublasComputeType_t: 32F, 64F, 32F_FAST_TF32
    assert found == {
        (precision, dtype): double if dtype == "float64" else single if precision == "highest" else rounded
        for precision in ("highest", "high", "medium") for dtype in x
    }  # fmt: skip
    with pytest.raises(ValueError, match="precision='tf32'; expected 'highest', 'high' or 'medium'"):
        ta.set_float32_matmul_precision("tf32")


MATRICES = {
    "rows": lambda a: a, "columns": lambda a: a.mT.contiguous().mT, "every second": lambda a: ta.cat([a, a], -1)[..., ::2],
    "a slice": lambda a: ta.cat([a, a], -1)[..., : a.shape[-1]], "of one matrix": lambda a: a[:1].expand(a.shape),
    "heads": lambda a: a.transpose(0, 1).contiguous().transpose(0, 1), "reversed": lambda a: a.flip(0),
}  # fmt: skip


@pytest.mark.parametrize("left", MATRICES)
@pytest.mark.parametrize("right", MATRICES)
@pytest.mark.parametrize(
    "sizes", [(3, 4, 5), (1, 4, 5), (3, 1, 5), (3, 4, 1), (1, 1, 1), (0, 4, 5), (3, 0, 5)], ids=str
)
def test_products_of_matrices_wherever_their_elements_lie(left, right, sizes):
    n, k, m = sizes
    a, b = ta.randn(2, 3, n, k, device="cuda"), ta.randn(2, 3, k, m, device="cuda")
    a, b = MATRICES[left](a), MATRICES[right](b)
    np.testing.assert_allclose(host(a @ b), host(a) @ host(b), rtol=1e-5, atol=1e-5)


def test_matmul_of_matrices_in_reverse_order():
    a, b = ta.randn(3, 2, 4, device="cuda"), ta.randn(3, 4, 2, device="cuda")
    backwards = backends.of(a.array).matmul(a.array[::-1], b.array)  # cuBLAS refuses a negative step
    np.testing.assert_allclose(backwards.get(), host(a)[::-1] @ host(b), rtol=1e-5, atol=1e-5)


@only_where_counted
def test_matmul_gives_cublas_at_most_65535_matrices_of_float16(monkeypatch):
    from tinyattn.backends.cuda import products

    counts, call = [], products._call
    monkeypatch.setattr(products, "_call", lambda name, *args: (counts.append(args[-3].value), call(name, *args)))
    a, b = (ta.arange(70_000 * n, device="cuda").reshape(-1, *shape) % 7 for n, shape in ((2, (1, 2)), (4, (2, 2))))
    for dtype, portions in ((ta.float16, [65_535, 4_465]), (ta.float32, [70_000])):
        counts.clear()
        products._handle()
        found = products.matmul(a.to(dtype).array, b.to(dtype).array)
        np.testing.assert_array_equal(found.get(), host(a) @ host(b))
        assert counts[-len(portions) :] == portions


def test_matmul_on_the_default_streams_of_threads_shares_no_workspace():
    import cupy

    from tinyattn.backends.cuda import products

    def handle() -> int:
        with cupy.cuda.Stream.ptds:
            return products._handle().value

    with ThreadPoolExecutor(1) as other:
        assert handle() == handle() != other.submit(handle).result()


# --- what CuPy does otherwise than PyTorch ---


def test_cupy_array_on_the_left_is_our_operation():
    import cupy

    x = ta.ones(3, device="cuda", requires_grad=True)
    for found in (cupy.arange(3.0, dtype="float32") * x, cupy.ones((2, 3), "float32") @ x):
        assert isinstance(found, ta.Tensor) and found.requires_grad


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_floor_divide_and_remainder_are_those_of_the_cpu(dtype):
    numbers = [0.0, -0.0, 1, -1, 0.1, -0.1, 0.3, 0.7, 3, -5, 7, 1e4, -1e4, np.inf, -np.inf, np.nan]
    a = ta.tensor(numbers * len(numbers), dtype=dtype)
    b = ta.tensor([x for x in numbers for _ in numbers], dtype=dtype)
    for operation in (ta.floor_divide, ta.remainder):
        ours, wanted = host(operation(a.cuda(), b.cuda())), host(operation(a, b))
        np.testing.assert_array_equal(ours, wanted)
        numeric = ~np.isnan(wanted)
        np.testing.assert_array_equal(np.signbit(ours[numeric]), np.signbit(wanted[numeric]))  # -0 too


@pytest.mark.parametrize("name", ["max", "min", "argmax", "argmin", "sum", "mean", "prod", "any", "all"])
def test_reductions_of_one_number_take_dim(name):
    found, wanted = (getattr(x, name)(0) for x in (ta.tensor(3.0, device="cuda"), ta.tensor(3.0)))
    for ours, theirs in zip(*((r if isinstance(r, tuple) else (r,)) for r in (found, wanted)), strict=True):
        assert ours.tolist() == theirs.tolist()


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int8", "int32", "int64", "float16", "float32"])
def test_embedding_of_every_dtype_copies_its_rows(dtype):
    table = np.arange(15).reshape(5, 3).astype(dtype)
    found = F.embedding(ta.tensor([[4, 0], [2, 4]], device="cuda"), ta.from_numpy(table).cuda())
    assert found.is_cuda and found.dtype == dtype
    assert found.tolist() == table[[[4, 0], [2, 4]]].tolist()


WEIGHT, ROWS, LABELS = [1.5, -2.0, 0.5], [[1, 2, 4], [3, 0, 1]], [0, 2]
ONE_DTYPE = {
    "gelu": lambda x, w: F.gelu(x),
    "linear_gelu": lambda x, w: F.linear_gelu(x, x, approximate="tanh"),
    "softmax": lambda x, w: F.softmax(x, -1, dtype=x.dtype),
    "cross_entropy": lambda x, w: F.cross_entropy(x, ta.tensor(LABELS), reduction="none"),
    "layer_norm": lambda x, w: F.layer_norm(x, (3,), w),
    "layer_norm_bias": lambda x, w: F.layer_norm(x, (3,), None, w),
    "attention": lambda x, w: F.scaled_dot_product_attention(x, x, x),
    "packed_attention": lambda x, w: F.packed_attention(x[None], 1),
}


@pytest.mark.parametrize(
    "dtypes", ["int64 int64", "uint8 float32", "float32 float64", "float64 float32", "float16 float32"]
)
@pytest.mark.parametrize("name", ONE_DTYPE)
def test_kernel_of_integers_and_mixed_dtypes_is_that_of_the_cpu(name, dtypes):
    (x, weight), found = (np.array(a, dtype) for a, dtype in zip((ROWS, WEIGHT), dtypes.split(), strict=True)), []
    for device in ("cpu", "cuda"):
        ta.set_default_device(device)
        out = ONE_DTYPE[name](ta.tensor(x), ta.tensor(weight))
        found.append(out.cpu())
    assert found[0].dtype == found[1].dtype == (x.dtype if x.dtype.kind == "f" else ta.float32)
    assert ta.allclose(*found, atol=1e-3 if x.dtype == "float16" else 1e-6)


def test_layer_norm_of_mixed_dtypes_gives_each_its_gradient():
    found = []
    for device in ("cpu", "cuda"):
        x = ta.tensor(ROWS, dtype=ta.float32, device=device, requires_grad=True)
        weight = ta.tensor(WEIGHT, dtype=ta.float64, device=device, requires_grad=True)
        (F.layer_norm(x, (3,), weight) ** 2).sum().backward()
        assert (x.grad.dtype, weight.grad.dtype) == (ta.float32, ta.float64)
        found += [x.grad.cpu(), weight.grad.cpu()]
    assert ta.allclose(found[0], found[2], atol=1e-5) and ta.allclose(found[1], found[3], atol=1e-5)


def test_pow_of_infinity_and_zero_is_that_of_the_cpu():
    x = ta.tensor([-np.inf, -0.0, 0.1, 3.0])
    for exponent in (0.5, 2, -1, 3):
        np.testing.assert_array_equal((x.cuda() ** exponent).tolist(), (x**exponent).tolist())
        assert ta.signbit(x.cuda() ** exponent).tolist() == ta.signbit(x**exponent).tolist()


@pytest.mark.parametrize("name", ["argmax", "argmin"])
def test_argmax_of_several_nan_is_the_first(name):
    for values in ([[1, np.nan, np.nan, 3], [2, 5, 5, -1]], [[-np.inf, np.inf, np.nan, np.nan], [0.0, -0.0, 0, 0]]):
        x = ta.tensor(values)
        for dim in (None, 0, 1):
            assert getattr(x.cuda(), name)(dim).tolist() == getattr(x, name)(dim).tolist()


SHARING = {
    "indices": lambda x: x.__setitem__(ta.tensor([1, 0]), x),
    "repeated indices": lambda x: x.__setitem__(ta.tensor([[0, -2], [1, 0]]), ta.arange(12.0).reshape(2, 2, 3)),
    "repeated in two axes": lambda x: x.__setitem__((ta.tensor([0, 0, 1]), ta.tensor([1, -2, 1])), ta.arange(3.0)),
    "repeated columns": lambda x: x.__setitem__((slice(None), ta.tensor([0, 0, -1])), ta.arange(3.0) + 1),
    "mask": lambda x: x.__setitem__(x >= 0, x.flatten()[[0] * 6]),
    "rows below": lambda x: x[1:].copy_(x[:-1]),
    "elements before": lambda x: x.flatten()[1:].copy_(x.flatten()[:-1]),
    "slice": lambda x: x.__setitem__(slice(0, 1), x[1:]),
    "one row": lambda x: x.__setitem__(ta.tensor([0, 1]), x[1]),
}


@pytest.mark.parametrize("name", SHARING)
def test_setitem_of_memory_it_reads_or_writes_twice_is_that_of_the_cpu(name):
    found = []
    for device in ("cpu", "cuda"):
        ta.set_default_device(device)
        x = ta.arange(6.0).reshape(2, 3)
        SHARING[name](x)
        found.append(x.tolist())
    assert found[0] == found[1]


# --- ta.cuda ---


def test_what_there_is():
    assert ta.cuda.is_available() and ta.cuda.why_not() == "" and ta.cuda.device_count() >= 1
    assert ta.cuda.current_device() == 0 and ta.cuda.get_device_name() == ta.cuda.get_device_name("cuda:0") != ""
    assert ta.cuda.get_device_capability() >= (5, 0)
    free, total = ta.cuda.mem_get_info()
    assert 0 < free <= total
    with pytest.raises(ValueError, match="is not a GPU"):
        ta.cuda.get_device_name("cpu")
    ta.cuda.synchronize()


def test_memory_in_use_and_its_peak():
    before = ta.cuda.memory_allocated()
    x = ta.zeros(1 << 20, device="cuda")
    assert ta.cuda.memory_allocated() - before == 4 << 20
    ta.cuda.reset_peak_memory_stats()
    y = ta.zeros(1 << 20, device="cuda")
    del y
    assert ta.cuda.max_memory_allocated() == before + (8 << 20)
    assert ta.cuda.memory_allocated() == before + (4 << 20) <= ta.cuda.memory_reserved()
    del x
    ta.cuda.empty_cache()
    assert ta.cuda.memory_allocated() == before


@only_where_counted
def test_max_memory_allocated_counts_each_gpu_and_no_failure():
    ta.cuda.reset_peak_memory_stats(1)
    before = ta.cuda.max_memory_allocated(1)
    x = ta.zeros(1 << 20, device="cuda:1")
    assert ta.cuda.max_memory_allocated(1) - before == 4 << 20
    with memory_limited(4 << 20, 1), pytest.raises(MemoryError, match="Out of memory"):
        ta.zeros(1 << 24, device=x.device)
    assert ta.cuda.max_memory_allocated(1) - before == 4 << 20


# --- the two libraries ---


def test_both_libraries_have_the_same_functions():
    import inspect

    from tinyattn.backends import cpu, cuda

    own = {"from_dlpack"}
    names = {
        n
        for n in vars(cpu)
        if not n.startswith("_") and callable(getattr(cpu, n)) and not inspect.ismodule(getattr(cpu, n))
    }
    assert {n for n in names if not hasattr(cuda, n)} == set()
    for name in sorted(names - own):
        a, b = getattr(cpu, name), getattr(cuda, name)
        if inspect.isfunction(a) and inspect.isfunction(b):
            mine, theirs = inspect.signature(a).parameters, inspect.signature(b).parameters
            assert list(mine) == list(theirs), name
            assert [p.default for p in mine.values()] == [p.default for p in theirs.values()], name
