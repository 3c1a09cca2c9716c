"""tinyattn.as_torch: models written for PyTorch run unchanged, and give PyTorch's numbers."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(path.stem for path in (ROOT / "tests/models").glob("*.py") if path.stem != "run")
SCRIPTS = [name for name in FILES if name.startswith("train_")]
MODELS = [name for name in FILES if name not in SCRIPTS]
TOLERANCE = {"float64": 1e-11, "float32": 1e-5}


def python(*arguments: str, inside: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """A new process, in which the other library has not been imported."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=inside, env=environment)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, request):
    """The folder with what models and scripts give in a dtype: one process for each library trains all those wanted."""
    items = [item.callspec.params for item in request.session.items if "trained" in getattr(item, "fixturenames", ())]
    wanted = {(each.get("dtype", "float64"), each.get("model") or each["script"]) for each in items}

    @functools.cache
    def folder(dtype):
        made = tmp_path_factory.mktemp(dtype)
        names = sorted(name for its_dtype, name in wanted if its_dtype == dtype)
        models = [name for name in names if name not in SCRIPTS]
        for library, its_names in (("torch", names), ("tinyattn", models)):  # scripts: by `tinyattn run`
            ran = python(str(ROOT / "tests/models/run.py"), str(made), dtype, library, *its_names)
            assert ran.returncode == 0, ran.stderr[-2000:]
        return made

    return folder


def results(folder, name):
    """What PyTorch and what tinyattn saved."""
    failed = [path.read_text() for path in folder.glob(f"{name}.*.error")]
    assert not failed, failed[0]
    theirs, ours = (dict(np.load(folder / f"{name}.{library}.npz")) for library in ("torch", "tinyattn"))
    assert sorted(ours) == sorted(theirs)
    return theirs, ours


@pytest.mark.parametrize("dtype", ["float64", pytest.param("float32", marks=pytest.mark.slow)])
@pytest.mark.parametrize("model", MODELS)
def test_foreign_model_trains_as_in_pytorch(model, dtype, trained):
    theirs, ours = results(trained(dtype), model)
    for key in theirs:
        scale = TOLERANCE[dtype] * (
            50 if "trained" in key and dtype == "float32" else 1
        )  # Adam divides by small numbers
        np.testing.assert_allclose(ours[key], theirs[key], rtol=scale, atol=scale, err_msg=key)
        assert ours[key].dtype == theirs[key].dtype, key


@pytest.mark.parametrize("script", SCRIPTS)
def test_foreign_script_trains_as_in_pytorch(script, trained):
    folder = trained("float64")
    files = (str(folder / f"{script}.{name}.npz") for name in ("weights", "tinyattn"))
    ran = python("-m", "tinyattn", "run", str(ROOT / f"tests/models/{script}.py"), *files)
    assert ran.returncode == 0, ran.stderr[-3000:]
    theirs, ours = results(folder, script)
    assert (folder / f"{script}.torch.txt").read_text() == ran.stdout
    assert theirs["losses"][-1] < theirs["losses"][0]
    for key in theirs:
        np.testing.assert_allclose(ours[key], theirs[key], rtol=1e-9, atol=1e-10, err_msg=key)


@pytest.mark.slow
def test_the_script_of_the_page_learns_as_the_page_says(tmp_path):
    page = (ROOT / "docs/as-torch.md").read_text(encoding="utf-8")
    script, printed = (re.search(f"^```{kind}\n(.*?)^```", page, re.M | re.S)[1] for kind in ("python", "text"))
    (tmp_path / "find_the_one.py").write_text(script, encoding="utf-8")
    ran = python("-m", "tinyattn", "run", "find_the_one.py", inside=tmp_path)
    said, errors = (
        (re.sub(r"0\.\d{3}", "?", text) for text in (ran.stdout, printed)),
        re.findall(r"0\.\d{3}", ran.stdout),
    )
    assert next(said) == next(said), ran.stderr
    assert float(errors[-1]) < 0.03 < float(errors[0])
    command = re.search(r"^python -m tinyattn (graph .*)$", page, re.M)[1]
    drawn = python("-m", "tinyattn", *command.split(), inside=tmp_path)
    assert drawn.returncode == 0 and "encoder" in (tmp_path / "finder.html").read_text(encoding="utf-8"), drawn.stderr


def test_run_gives_a_script_its_arguments_and_folder(tmp_path):
    (tmp_path / "helper.py").write_text("value = 7")
    (tmp_path / "script.py").write_text(
        "import sys, helper, torch\n"
        "print(sys.argv[1:], helper.value, __name__, type(torch.ones(1)).__module__)\nsys.exit(int(sys.argv[2]))"
    )
    ran = python("-m", "tinyattn", "run", str(tmp_path / "script.py"), "--epochs", "3")
    assert (ran.returncode, ran.stdout) == (3, "['--epochs', '3'] 7 __main__ tinyattn.tensors\n")
    ran = python("-m", "tinyattn", "run", "nowhere.py")
    assert (ran.returncode, ran.stderr) == (2, "tinyattn run: nowhere.py is not a file\n")
    ran = python("-m", "tinyattn", "run")
    assert (ran.returncode, ran.stderr) == (2, "tinyattn run: name a script: python -m tinyattn run train.py\n")


def test_run_shows_an_error_from_the_line_of_the_script(tmp_path):
    (tmp_path / "script.py").write_text("import torch\ntorch.ones(2) @ torch.ones(3)\n")
    ran = python("-m", "tinyattn", "run", "script.py", inside=tmp_path)
    first, where, *_ = ran.stderr.splitlines()
    assert (ran.returncode, first) == (1, "Traceback (most recent call last):")
    assert where.startswith('  File "script.py", line 2')


def test_graph_draws_a_foreign_model(tmp_path):
    program = "import torch\nclass Net(torch.nn.Module):\n    def forward(self, x):\n        return torch.relu(x)\n"
    (tmp_path / "net.py").write_text(program)
    drawn = "-m", "tinyattn", "graph", "net.py:Net", "--input", "2x3"
    ran = python(*drawn, "--as-torch", inside=tmp_path)
    assert ran.returncode == 0 and (tmp_path / "graph.html").exists(), ran.stderr
    ran = python(*drawn, inside=tmp_path)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr == (
        "tinyattn graph: Net is a model of PyTorch; add --as-torch, which gives its module tinyattn for torch\n"
    )
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')")
    ran = python(*drawn, inside=tmp_path)
    expected = "tinyattn graph: net.py imports PyTorch, which is not installed; add --as-torch to give it tinyattn\n"
    assert (ran.returncode, ran.stderr) == (2, expected)


def test_graph_imports_a_script_that_parses_its_command_line(tmp_path):
    program = "import argparse, torch\nargparse.ArgumentParser().parse_args()\nNet = torch.nn.ReLU\n"
    (tmp_path / "train.py").write_text(program)
    ran = python("-m", "tinyattn", "graph", "train.py:Net", "--as-torch", "--input", "2x3", inside=tmp_path)
    assert ran.returncode == 0, ran.stderr


def test_as_torch_training_names():
    program = """
import io
import tinyattn.as_torch
import torch
from torch.autograd.function import Function, once_differentiable
from torch.autograd import Variable, gradcheck, set_detect_anomaly
from torch.nn.parallel import DistributedDataParallel
from torch.optim.optimizer import Optimizer
from torch.optim.lr_scheduler import _LRScheduler, LRScheduler, OneCycleLR
from torch.optim.swa_utils import SWALR, AveragedModel, update_bn
from torch.nn.utils.weight_norm import weight_norm
from torch.utils.checkpoint import checkpoint, checkpoint_sequential
from torch.utils.data import ConcatDataset, IterableDataset, RandomSampler, default_collate, random_split
from torch.utils.data.dataset import Dataset
from torch.utils.data.distributed import DistributedSampler
from torch.utils.data.sampler import Sampler
from torch.nn.common_types import _size_2_t
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.nn.utils import clip_grad_norm, clip_grad_norm_
import torch.multiprocessing as mp
assert clip_grad_norm is clip_grad_norm_ and mp.Process and not torch.is_autocast_enabled()
with torch.autograd.no_grad(), torch.profiler.record_function("part"):
    assert not torch.is_grad_enabled() and torch.ger(torch.ones(2), torch.ones(3)).shape == (2, 3)
old = torch.zeros(2, 3, dtype=torch.float64)
assert old.new(4, 5).shape == (4, 5) and old.new([1, 2]).tolist() == [1, 2] and old.new(1).dtype == torch.float64
assert not (old.is_sparse or old.is_quantized) and old.layout == torch.strided and old.is_cpu
assert isinstance(torch.nn.GRU(2, 3), torch.nn.RNNBase) and not isinstance(torch.nn.Linear(2, 3), torch.nn.RNNBase)
norm = torch.nn.SyncBatchNorm.convert_sync_batchnorm(torch.nn.BatchNorm2d(3))
assert norm(torch.ones(2, 3, 2, 2)).shape == (2, 3, 2, 2)
torch.set_default_tensor_type(torch.DoubleTensor)
assert torch.ones(1).dtype == torch.float64
torch.set_default_tensor_type("torch.FloatTensor")
assert torch.ones(1).dtype == torch.float32
layers = torch.nn.Sequential(*[torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Tanh()) for _ in range(5)])
x = torch.randn(2, 3, requires_grad=True)
for y in (checkpoint_sequential(layers, 2, x, use_reentrant=False), checkpoint(layers, x, use_reentrant=True)):
    assert torch.allclose(y, layers(x)) and y.requires_grad
wrapped = torch.nn.DataParallel(layers, device_ids=[0])
assert torch.equal(wrapped(x), layers(x)) and next(iter(wrapped.state_dict())).startswith("module.")
file = io.BytesIO()
torch.save({"state": wrapped.module.state_dict(), "n": 1}, file, _use_new_zipfile_serialization=False)
file.seek(0)
assert torch.load(file, map_location="cpu", weights_only=False)["n"] == 1
assert torch.float32.is_floating_point and x.dtype.is_floating_point and not x.long().dtype.is_floating_point
assert torch.float16.itemsize == 2 and torch.int8.is_signed and not torch.float64.is_complex
for memory in (torch.contiguous_format, torch.channels_last, torch.preserve_format):
    assert x.clone(memory_format=memory).contiguous(memory_format=memory).to(memory_format=memory).equal(x)
with set_detect_anomaly(True):
    try:
        torch.log(x - x)
    except RuntimeError as error:
        print(error)
"""
    ran = python("-c", program)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("forward: log")


def test_as_torch_names_of_libraries_and_tutorials(tmp_path):
    program = """
import warnings
import tinyattn.as_torch
import torch
from torch import nn
from torch.distributions import Categorical, Normal
from torch.distributions.categorical import Categorical as same
from torch.fx import wrap
from torch.func import functional_call
from torch.hub import HASH_REGEX, download_url_to_file, urlparse
from torch.jit.annotations import BroadcastingList2, List
from torch.hub import _get_torch_home
torch._C._log_api_usage_once('torchvision.models')
from torch.nn.modules.transformer import _get_activation_fn, _get_clones
from torch.nn.utils import parametrizations, parametrize, spectral_norm, weight_norm
from torch.nn.utils.parametrizations import weight_norm as by_parametrization
from torch.optim.optimizer import Optimizer, required
from torch.testing import assert_close
assert wrap(len) is len and HASH_REGEX.search("a-12.pth") and not torch.compiler.is_compiling()
assert torch.nn.utils.weight_norm is weight_norm and parametrizations.weight_norm is by_parametrization
layer = spectral_norm(weight_norm(nn.Linear(2, 3), "bias", None))
assert layer(torch.ones(1, 2)).shape == (1, 3) and parametrize.is_parametrized(by_parametrization(nn.Linear(2, 3)))
x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
assert torch.embedding(x, torch.tensor([1])).tolist() == [[3.0, 4.0]]
turns = torch.polar(torch.ones(2), torch.zeros(2))
assert torch.view_as_real(torch.view_as_complex(x) * turns).equal(x) and torch.real(torch.fft.fft(x)).shape == (2, 2)
seen = torch.fft.fftshift(torch.fft.fft2(x))
assert torch.allclose(torch.abs(seen), torch.tensor([[0.0, 4.0], [2.0, 10.0]]), atol=1e-6) and torch.angle(seen)[0, 1] > 3.14
assert torch.abs(-x).equal(x) and torch.sparse.torch.eye(2).index_select(dim=0, index=torch.tensor([1])).tolist() == [[0.0, 1.0]]
assert torch.promote_types(torch.int64, torch.float16) == torch.float16 and torch.real(x) is x
assert repr(x) == "tensor([[1., 2.],\\n        [3., 4.]])" and f"{x.shape} {x.size()}" == "torch.Size([2, 2]) torch.Size([2, 2])"
assert repr(nn.Parameter(x / 2)).startswith("Parameter containing:\\ntensor([[0.5000, 1.0000],")
assert torch.autograd.functional.jacobian(torch.square, x[0]).tolist() == [[2.0, 0.0], [0.0, 4.0]]
assert torch.cuda.is_available() or torch.cuda.memory_allocated() == 0
assert torch.nn.functional.upsample_bilinear(x[None, None], scale_factor=2)[0, 0, -1, -1] == 4.0
assert same is Categorical and Categorical(logits=x).sample((3,)).shape == (3, 2)
assert torch.special.expit(torch.zeros(())).item() == 0.5 and torch.special.erf(torch.zeros(())).item() == 0
import importlib.util
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
assert importlib.util.find_spec("torch") and not isinstance(x, (torch.fx.Proxy, torch._C.Value))
assert torch.zeros(2, layout=torch.strided, pin_memory=False, out=torch.ones(2)).tolist() == [0, 0]
assert torch.empty(2, memory_format=torch.contiguous_format).shape == (2,)
assert torch.range(0, 1, 0.5).tolist() == [0, 0.5, 1] and torch.scalar_tensor(3).dtype == torch.float32
assert torch.fill(x, 2.0).sum() == 8 and torch.vdot(x[0], x[1]) == 11 and torch.special.ndtr(torch.zeros(())) == 0.5
gathered = [torch.zeros(2, 2)]
torch.distributed.all_gather(gathered, x)
assert gathered[0].equal(x) and isinstance(nn.GRUCell(2, 2), nn.RNNCellBase) and nn.Linear(2, 2).compile() is None
causal = create_block_mask(lambda b, h, q, k: q >= k, None, None, 2, 2)
assert flex_attention(x[None, None], x[None, None], x[None, None], block_mask=causal)[0, 0, 0].equal(x[0])
types = torch.FloatTensor, torch.LongTensor, torch.DoubleTensor
assert [isinstance(x, kind) for kind in types] == [True, False, False] and torch.LongTensor([1]).dtype == torch.int64
assert torch.distributed.nn.all_reduce(x) is x
assert [isinstance(x, getattr(torch.cuda, name)) for name in ("FloatTensor", "HalfTensor")] == [False, False]
assert f"{x.sum()} {x[0, 0]:.2f} {torch.tensor(3)}" == "10.0 1.00 3"
linear = nn.Linear(2, 2)
out = functional_call(linear, {"weight": x}, (x,))
assert_close(out, x @ x.T + linear.bias)
assert linear.weight is not x and required is not None
torch.optim.SGD([torch.ones(2)], lr=0.1).step()  # nothing to train, as in PyTorch
assert nn.GRU(2, 3)._flat_weights_names == ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"]
for wrong in (lambda: assert_close(x, x + 1e-3), lambda: torch._assert(False, "no")):
    try:
        wrong()
    except AssertionError as error:
        print(error)
with warnings.catch_warnings(record=True) as caught:
    from torch.utils.tensorboard import SummaryWriter
    with SummaryWriter("runs") as writer:
        writer.add_scalar("loss", 1.0, 0)
print(caught[0].message)
"""
    ran = python("-W", "always", "-c", program, inside=tmp_path)
    assert ran.returncode == 0, ran.stderr
    said = ran.stdout.splitlines()
    assert said[0].startswith("Tensor-likes are not close") and said[1:] == [
        "no", "SummaryWriter: tinyattn writes no TensorBoard files; its methods have no effect",
    ]  # fmt: skip


def test_as_torch_out_writes_into_a_given_tensor():
    program = """
import pickle
import tinyattn.as_torch
import torch
a, c = torch.tensor([[3.0, 1.0], [2.0, 4.0]]), torch.zeros(2, 2)
before = id(c)
assert torch.matmul(a, a, out=c) is c and c.equal(a @ a) and id(c) == before
part = torch.zeros(3, 2)
torch.add(a, 1, out=part[1:])
assert part.tolist() == [[0, 0], [4, 2], [3, 5]]
torch.mul(a, 2, out=(wide := torch.zeros(2, 2, dtype=torch.float64)))
assert wide.dtype == torch.float64 and wide.equal((a * 2).double())
torch.sum(a, 0, out=(other := torch.zeros(7)))
assert other.tolist() == [5, 5]
values, places = torch.zeros(2), torch.zeros(2, dtype=torch.int64)
torch.max(a, 1, out=(values, places))
assert values.tolist() == [3, 4] and places.tolist() == [0, 1]
assert pickle.loads(pickle.dumps(torch.add)) is torch.add and torch.linalg.cross(c[:, [0, 0, 1]], c[:, [1, 0, 0]]).shape == (2, 3)
with torch.no_grad():
    torch.exp(a.requires_grad_(), out=c)
for refused in (lambda: torch.exp(a, out=c), lambda: torch.cat([a, a], out=c)):
    try:
        refused()
    except RuntimeError as error:
        print(error)
"""
    ran = python("-c", program)
    assert ran.returncode == 0, ran.stderr
    lines = ran.stdout.splitlines()
    assert [line.partition(",")[0] for line in lines] == [
        f"{n}: out= does not support gradients" for n in ("exp", "cat")
    ]


def test_as_torch_takes_factors_before_tensors():
    program = """
import tinyattn.as_torch
import torch
from torch.utils.hooks import RemovableHandle
p, g = torch.ones(2), torch.tensor([2.0, 4.0])
assert p.add_(-0.5, g) is p and p.tolist() == [0, -1]
assert p.addcmul_(2, g, g).tolist() == [8, 31] and p.addcdiv_(-2, g, g).tolist() == [6, 29]
assert torch.add(p, 2, g).equal(p + 2 * g) and p.sub(3, g).equal(torch.sub(p, g, alpha=3)) and p.add(g).equal(p + g)
assert torch.addcmul(p, 2, g, g, out=torch.zeros(2)).equal(torch.addcmul(p, g, g, value=2))
assert isinstance(torch.ones(1, requires_grad=True).register_hook(print), RemovableHandle)
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.futures import Future
from torch.nn.modules.module import _addindent
assert not isinstance(p, ZeroRedundancyOptimizer) and Future[int] is Future and _addindent("a\\nb", 2) == "a\\n  b"
assert not isinstance(torch.nn.Linear(1, 1), torch.jit.ScriptModule) and issubclass(torch.jit.ScriptModule, torch.nn.Module)
assert isinstance(torch.nn.ReLU6(), torch.nn.Hardtanh) and repr(torch.nn.ReLU6()) == "ReLU6()" and torch.nn.ReLU6().max_val == 6
assert repr(torch.nn.Embedding(3, 2, max_norm=1.0, norm_type=1.0)) == "Embedding(3, 2, max_norm=1.0, norm_type=1.0)"
whole = torch.zeros(4, 3)
memory = whole[1:].unfold(0, 2, 1)[1:].untyped_storage()
assert memory.data_ptr() == whole.untyped_storage().data_ptr() == whole.data_ptr() and memory.nbytes() == len(memory) == 48
assert torch.randint_like(whole, high=1).sum() == 0
class Relative(torch.optim.Optimizer):  # it chooses its rate itself
    def __init__(self, params, lr=None):
        super().__init__(params, {"lr": lr})
assert Relative([torch.ones(1)]).param_groups[0]["lr"] is None
"""
    ran = python("-c", program)
    assert ran.returncode == 0, ran.stderr


def test_as_torch_star_imports_bring_pytorchs_names_and_no_modules():
    program = """
    import tinyattn.as_torch
    import random, math, types
    from torch import *
    from torch.nn import *
    from torch.nn.functional import *
    from torch.optim import *
    from torch.utils.data import *
    from torch.autograd import *
    assert random.random() < 1 and math.pi == pi and 'data' not in globals()
    assert functional.relu is relu and init.xavier_uniform_ and lr_scheduler.StepLR
    model = Linear(2, 3)
    for x, in DataLoader(TensorDataset(ones(4, 2)), 2):
        loss = softmax(model(Variable(x)), 1).max() + sum(abs(x))
    loss.backward(), Adam(model.parameters()).step()
    """
    ran = python("-c", textwrap.dedent(program))
    assert ran.returncode == 0, ran.stderr


def test_as_torch_grad_fn_leads_to_the_inputs():
    program = """
import tinyattn.as_torch
import torch
x = torch.ones(2, requires_grad=True)
y = (2 * x.sin() + 1).grad_fn
names = []
while y is not None:
    names.append(y.name())
    assert isinstance(y, torch.autograd.graph.Node) and repr(y).startswith(f"<{names[-1]} object at 0x")
    last, y = y, y.next_functions[0][0] if y.next_functions else None
print(*names, last.variable is x)
class MyCube(torch.autograd.Function):
    forward = staticmethod(lambda ctx, x: x**3)
assert MyCube.apply(x).grad_fn.name() == "MyCubeBackward" and repr(MyCube.apply(x)).endswith("grad_fn=<MyCubeBackward>)")
assert torch.accelerator.is_available() == torch.cuda.is_available() and torch.accelerator.device_count() == torch.cuda.device_count()
with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
    profile.step()
assert "tinyattn.profile()" in profile.key_averages().table(sort_by="cpu_time_total", row_limit=5)
"""
    ran = python("-c", program)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "AddBackward0 MulBackward0 SinBackward0 AccumulateGrad True\n"


SPARSE = """
import torch
where, given = torch.tensor([[0, 1, 1, 2], [2, 0, 0, 1]]), torch.tensor([3.0, 4.0, 5.0, 6.0], requires_grad=True)
matrix = torch.sparse_coo_tensor(where, given, (3, 3)).coalesce()
x = torch.tensor([[1.0, 0.0], [2.0, 3.0]], requires_grad=True)
y = torch.sparse.mm(matrix, torch.arange(6.0).reshape(3, 2)).sum() + 2 * torch.sparse.mm(x.to_sparse(), torch.ones(2, 2)).sum()
(y + torch.spmm(matrix, torch.ones(3, 1)).sum() + torch.sparse.sum(matrix)).backward()
print(y.item(), given.grad.tolist(), x.grad.tolist(), matrix.to_dense().tolist(), matrix.indices().tolist(), matrix._nnz())
print(matrix.values().tolist(), torch.sparse_coo_tensor(where, [1, 2, 3, 4]).shape, torch.eye(2).bool().to_sparse().indices().tolist())
print(torch.sparse_coo_tensor([[1, 0]], torch.ones(2, 3), (2, 3)).to_dense().shape, torch.sparse.FloatTensor(where, given).is_coalesced() is None)
"""


def test_as_torch_sparse_tensors_are_dense_with_pytorchs_values_and_gradients():
    theirs, ours = python("-W", "ignore", "-c", SPARSE), python("-c", "import tinyattn.as_torch" + SPARSE)
    assert ours.returncode == theirs.returncode == 0 and ours.stdout == theirs.stdout, (
        ours.stdout + theirs.stdout + ours.stderr
    )


MISSING = {
    "import torch; torch.sparse.softmax": "torch.sparse.softmax is not part of tinyattn",
    "import torch; torch.sparse_coo_tensor([[0]], [1.0], requires_grad=True)": "sparse_coo_tensor: requires_grad=True",
    "from torch.utils.cpp_extension import CUDA_HOME, load; load('kernel')": "load is not part of tinyattn, which compiles no C++",
    "import torch.masked": "torch.masked is not part of tinyattn",
    "from torch.nn import FractionalMaxPool2d": "torch.nn.FractionalMaxPool2d is not part of tinyattn",
    "import torch; torch.ones(2).geqrf()": "Tensor.geqrf is not part of tinyattn, which covers what attention models",
    "import torch; torch.ones(2).bfloat16()": "Tensor.bfloat16 is not part of tinyattn, whose floating-point dtypes",
    "import torch; torch.ones(2).storage()": "Tensor.storage is not part of tinyattn, which has Tensor.untyped_storage",
    "import torch; torch.optim.SparseAdam([])": "torch.optim.SparseAdam is not part of tinyattn, whose gradients are dense",
    "import torch; torch.linalg.eig(torch.eye(2))": "torch.linalg.eig is not part of tinyattn, whose numbers are real; use eigh",
    "import io, torch; torch.save(torch.nn.ReLU(), io.BytesIO())": "ta.save: the state is a ReLU",
    "import torch; torch.ops.mine.absent": "torch.ops.mine.absent is not registered; torch.library.custom_op registers",
    "import torch; torch.zeros(1, device=torch.device('meta'))": "device='meta' is no device",
    "import torch; x: torch.cuda.CUDAGraph | None; torch.cuda.CUDAGraph()": "torch.cuda.CUDAGraph is not part of tinyattn",
    "import torch; torch.bfloat16()": "torch.bfloat16 is not part of tinyattn",
}


def test_as_torch_names_what_is_missing():
    program = f"""
import tinyattn.as_torch
for program in {list(MISSING)}:
    try:
        exec(program)
    except Exception as error:
        print(error)
"""
    ran = python("-c", program)
    said = ran.stdout.splitlines()
    assert all(message in line for message, line in zip(MISSING.values(), said, strict=True)), ran.stdout + ran.stderr


def test_as_torch_and_run_refuse_to_mix_with_pytorch():
    program = f"""
import sys, torch
from tinyattn.__main__ import main
found = main(["run", {__file__!r}])
try:
    import tinyattn.as_torch
except ImportError as error:
    print(error, file=sys.stderr)
sys.exit(found)
"""
    ran = python("-c", program)
    assert ran.returncode == 2 and ran.stderr.count("PyTorch is already imported in this process") == 2


def test_as_torch_settings_without_effect():
    program = """
import tinyattn.as_torch
import torch
import torch.backends.cudnn as cudnn
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.checkpoint import checkpoint
from torch.cuda.amp import GradScaler, autocast
cudnn.benchmark = True
scaler = GradScaler(enabled=False)
model = torch.compile(torch.nn.Linear(2, 1).to(torch.device("cuda" if torch.cuda.is_available() else "cpu")))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
before = model.weight.tolist()
with torch.amp.autocast(device_type="cpu", dtype=torch.bfloat16), torch.no_grad():
    assert not model(torch.ones(3, 2)).requires_grad
for (x,) in DataLoader(TensorDataset(torch.ones(4, 2)), batch_size=2):
    scaler.scale(model(x).sum()).backward()
scaler.unscale_(optimizer)
scaler.step(optimizer)
scaler.update()
assert model.weight.tolist() != before and torch.__version__ and not torch.jit.is_scripting()
"""
    ran = python("-c", program)
    assert ran.returncode == 0, ran.stderr


def test_as_torch_streams_trees_and_bases():
    program = """
from collections import defaultdict
import tinyattn.as_torch
import torch
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.dropout import _DropoutNd
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten
from torch.utils.checkpoint import get_device_states, set_device_states
state = torch.get_rng_state()
with torch.random.fork_rng(devices=get_device_states()[0], enabled=True):
    first = torch.rand(3)
assert torch.equal(torch.rand(3), first)
torch.set_rng_state(state)
assert torch.equal(torch.rand(3), first)
leaves, spec = tree_flatten({"a": [1, (2, 3)], "b": None})
assert leaves == [1, 2, 3, None] and tree_unflatten(leaves, spec) == spec
assert tree_map(lambda x: x * 2, (1, [2])) == (2, [4])
doubled = tree_map(lambda x: x * 2, defaultdict(list, a=1))
assert doubled["a"] == 2 and doubled["b"] == []
kinds = [(_BatchNorm, "BatchNorm1d"), (_ConvNd, "ConvTranspose2d"), (_DropoutNd, "AlphaDropout")]
assert all(issubclass(getattr(torch.nn, name), base) for base, name in kinds)
assert not issubclass(torch.nn.InstanceNorm2d, _BatchNorm) and not torch.is_autocast_enabled()
encoding = torch.zeros(2)
assert torch.sigmoid_(encoding) is encoding and encoding.tolist() == [0.5, 0.5]
class Swish(torch.autograd.Function):
    @staticmethod
    def forward(ctx, i):
        ctx.save_for_backward(i)
        return i * torch.sigmoid(i)

    @staticmethod
    def backward(ctx, grad_output):
        sigmoid = torch.sigmoid(ctx.saved_variables[0])
        return grad_output * (sigmoid * (1 + ctx.saved_variables[0] * (1 - sigmoid)))
i = torch.ones(2, dtype=torch.float64, requires_grad=True)
assert torch.autograd.gradcheck(Swish.apply, (i,))
scores = torch.arange(6.0).reshape(2, 3)
weights = torch.softmax(scores, -1)
expected = torch.autograd.functional.vjp(lambda x: torch.softmax(x, -1), scores, scores)[1]
assert torch.allclose(torch._softmax_backward_data(scores, weights, -1, torch.float32), expected)
first = torch.seed()
assert torch.initial_seed() == first != torch.seed() and isinstance(first, int)
assert isinstance(torch.nn.utils.skip_init(torch.nn.Linear, 2, 3), torch.nn.Linear)
encoding.require_grad = False  # a slip in published models, which PyTorch accepts
"""
    ran = python("-c", program)
    assert ran.returncode == 0, ran.stderr


def test_as_torch_further_names_of_pytorch():
    program = """
import io, pickle
import tinyattn.as_torch
import torch
from torch import nn
from torch.distributions import Beta, Independent, Normal, TransformedDistribution, constraints, kl_divergence
from torch.distributions.transforms import AffineTransform, TanhTransform, Transform
from torch.distributions.kl import register_kl
from torch.nn.parameter import UninitializedParameter
x = torch.tensor([[4.0, 1.0], [2.0, 3.0]])
assert torch.allclose(torch.det(x), torch.tensor(10.0)) and torch.allclose(x.logdet().exp(), x.det())
assert torch.allclose(torch.linalg.matrix_norm(x, ord=2), torch.linalg.svdvals(x)[0]) and x.pinverse().shape == (2, 2)
U, S, V = torch.svd(x)
assert torch.allclose(U @ torch.diag(S) @ V.T, x, atol=1e-5) and torch.linalg.eigh(x + x.T).eigenvalues.shape == (2,)
try:
    torch.linalg.cholesky(-x)
except torch.linalg.LinAlgError as error:
    assert "cholesky" in str(error)
assert torch.erfc(torch.zeros(1)).item() == 1 and torch.special.gammaln(torch.tensor(4.0)).item() > 1.79
y = torch.ones(3).scatter_(0, torch.tensor([1]), 5.0, reduce="multiply")
assert y.tolist() == [1, 5, 1] and torch.scatter(y, 0, torch.tensor([0, 0]), torch.tensor([2.0, 3.0]), reduce="multiply")[0] == 6
assert y.apply_(lambda v: v + 1).tolist() == [2, 6, 2] and y.map_(torch.arange(3.0), lambda a, b: a * b).tolist() == [0, 6, 4]
assert y.resize_(2, 2).shape == (2, 2) and y.resize_as_(torch.zeros(1)).tolist() == [0] and y.set_(x) is y and y.equal(x)
assert x[1:].storage_offset() == 2
assert not x.is_conj() and x.is_signed() and x.msort().shape == (2, 2) and torch.is_nonzero(torch.tensor(1)) and x.name is None
assert torch.typename(x) == "torch.FloatTensor"
assert x.renorm(2, 0, 1.0).norm(dim=1).max() < 1.001 and x.index_reduce(0, torch.tensor([0]), x[1:], "amax")[0].tolist() == [4, 3]
assert torch.poisson(torch.full((1000,), 3.0)).mean().sub(3).abs() < 0.3
pooled, at = nn.MaxPool2d(2, return_indices=True)(x[None, None])
assert nn.MaxUnpool2d(2)(pooled, at).sum() == 4 and nn.RReLU()(x).equal(x) and not isinstance(x, UninitializedParameter)
assert nn.ConvTranspose3d(2, 3, 2)(torch.ones(1, 2, 1, 1, 1)).shape == (1, 3, 2, 2, 2) and nn.InstanceNorm3d(2)(torch.randn(1, 2, 2, 2, 2)).mean().abs() < 1e-5
class Clip(Transform):  # of a program's own
    domain = codomain = constraints.real
    def __init__(self):
        super().__init__(cache_size=1)
    def _call(self, x): return 2 * x
    def _inverse(self, y): return y / 2
    def log_abs_det_jacobian(self, x, y): return torch.full_like(x, 2.0).log()
squashed = TransformedDistribution(Normal(torch.zeros(2), 1.0), [Clip(), TanhTransform(cache_size=1)])
assert squashed.log_prob(squashed.rsample((3,))).shape == (3, 2) and Beta(2.0, 2.0).sample().shape == ()
assert kl_divergence(Independent(Normal(torch.zeros(2), 1.0), 1), Independent(Normal(torch.ones(2), 1.0), 1)).item() == 1
torch.set_autocast_enabled(False), torch.clear_autocast_cache()
start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
start.record(), end.record()
assert start.elapsed_time(end) >= 0 and issubclass(torch.cuda.OutOfMemoryError, Exception) and torch.OutOfMemoryError
torch.cuda.set_rng_state_all(torch.cuda.get_rng_state_all())
with torch.cuda.stream(torch.cuda.current_stream()):
    pass
for given in (torch.optim.Adafactor([nn.Parameter(x)]), torch.linalg.solve_triangular(x, x, upper=True)):
    pass
"""
    ran = python("-c", program)
    assert ran.returncode == 0, ran.stderr


def test_as_torch_has_every_method_of_pytorchs_tensors_or_says_that_it_has_not():
    listed = python("-c", "import torch; print(*[n for n in dir(torch.Tensor) if n[0] != '_'])").stdout.split()
    program = f"""
import tinyattn.as_torch
import torch
for name in {listed}:
    try:
        getattr(torch.Tensor, name)
    except AttributeError as error:
        assert str(error).startswith(f"Tensor.{{name}} is not part of tinyattn, which covers"), error
"""
    ran = python("-c", program)
    assert len(listed) > 600 and ran.returncode == 0, ran.stderr


HOOKS = """
import torch
from torch import nn
events, model = [], nn.Sequential(nn.Sequential(nn.Linear(2, 2)), nn.Linear(2, 2))
model[0].register_state_dict_pre_hook(lambda m, prefix, keep: events.append(("before", prefix, keep)))
model[1]._register_state_dict_hook(lambda m, state, prefix, meta: events.append(("after", prefix, sorted(state))))
model._register_state_dict_hook(lambda m, state, prefix, meta: {f"x.{k}": v for k, v in state.items()})
state = model.state_dict()
events.append(sorted(state))
state = {k[2:]: v for k, v in state.items()}
events.append(repr(model.load_state_dict(state)))
opt = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1)
other = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1)
pre = opt.register_step_pre_hook(lambda o, args, kwargs: events.append(("pre", o is opt, args == (opt,), kwargs)))
opt.register_step_post_hook(lambda o, args, kwargs: events.append(("post", o is opt)))
torch.optim.lr_scheduler.StepLR(opt, 1)
opt.step(), other.step(), pre.remove(), opt.step()
print(*events, sep="\\n")
"""


LIBRARIES = """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Buffer(torch.ones(2)), nn.Buffer(torch.zeros(3), persistent=False)
        self.plain, self.weight = torch.ones(1), nn.Parameter(torch.ones(1))
net = Net()
print(list(net.state_dict()), [n for n, _ in net.named_buffers()], net.b.size(), isinstance(net.a, nn.Buffer), isinstance(net.plain, nn.Buffer))
net.b, net.a = nn.Buffer(torch.ones(4)), torch.zeros(2)
print(list(net.state_dict()), net.a.sum().item(), net.double().b.dtype == torch.float64)
meta = torch.device("meta")
print(meta.type, meta == torch.device("cpu"), isinstance(meta, torch.device), isinstance(torch.device("cpu"), torch.device), str(meta))
def cube(x: torch.Tensor) -> torch.Tensor:
    return x**3
torch.library.custom_op("mine::cube", cube, mutates_args=())
torch.library.register_fake("mine::cube", torch.empty_like)
torch.library.register_autograd("mine::cube", lambda ctx, g: g * ctx.saved_tensors[0], setup_context=lambda ctx, inputs, output: ctx.save_for_backward(inputs[0]))
import torch._dynamo.config
torch._dynamo.config.cache_size_limit = 64
import torch._inductor.config
x = torch.tensor([2.0, 3.0], requires_grad=True)
torch.ops.mine.cube(x).sum().backward()
print(torch.ops.mine.cube(x).tolist(), x.grad.tolist())
from torch._higher_order_ops.associative_scan import associative_scan
rows = torch.arange(1.0, 7.0).reshape(2, 3)
for reverse in (False, True):
    print(associative_scan(lambda a, b: a + b, rows, 1, reverse, combine_mode="generic").tolist())
    decayed = associative_scan(lambda a, b: (a[0] * b[0], a[1] * b[0] + b[1]), (rows / 8, rows), 1, reverse, combine_mode="generic")
    print([t.tolist() for t in decayed])
for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2", "float32"):
    info = torch.finfo(getattr(torch, name))
    print(info.bits, info.eps, info.max, info.min, info.tiny, info.smallest_normal, info.dtype)
zeros = (nn.init.sparse_(torch.empty(10, 4), 0.25) == 0).sum(0).tolist()
print(zeros, torch.zeros(1, dtype=torch.uint16).dtype == torch.uint16, torch.cuda.CUDAGraph and "named")
try:
    torch._check(False, lambda: "no")
except RuntimeError as error:
    print(error)
try:
    nn.init.sparse_(torch.empty(2), 0.5)
except ValueError:
    print("two dimensions")
"""


def test_as_torch_names_of_large_libraries_have_pytorchs_values():
    theirs, ours = python("-W", "ignore", "-c", LIBRARIES), python("-c", "import tinyattn.as_torch" + LIBRARIES)
    assert theirs.returncode == 0 and ours.stdout == theirs.stdout, (
        ours.stdout + ours.stderr + theirs.stdout + theirs.stderr
    )


def test_as_torch_modules_without_forward_raise_as_in_pytorch():
    program = """
import torch
from torch._C import device
class Bare(torch.nn.Module):
    pass
for module in (Bare(), torch.nn.ModuleList()):
    try:
        module(1, 2)
    except NotImplementedError as error:
        print(error)
print(Bare.forward is torch.nn.Module.forward, torch.nn.Linear.forward is torch.nn.Module.forward, device("cpu") == torch.device("cpu"))
"""
    theirs, ours = python("-c", program), python("-c", "import tinyattn.as_torch" + program)
    assert ours.returncode == 0 and ours.stdout == theirs.stdout, ours.stdout + ours.stderr


def test_as_torch_hooks_run_as_in_pytorch():
    ours, theirs = (python("-c", first + HOOKS) for first in ("import tinyattn.as_torch", ""))
    assert ours.returncode == theirs.returncode == 0, ours.stderr + theirs.stderr
    assert ours.stdout == theirs.stdout


def same_prints(*programs: str) -> None:
    """Compare what a program prints here and in PyTorch."""
    ours, theirs = (
        python("-W", "ignore", "-c", "\n".join((first, *programs))) for first in ("import tinyattn.as_torch", "")
    )
    assert ours.returncode == theirs.returncode == 0, ours.stderr + theirs.stderr
    assert ours.stdout == theirs.stdout


SHOW = """
import torch
from torch import nn
import torch.nn.functional as F
torch.set_default_dtype(torch.float64)
def plain(x):
    if torch.is_tensor(x):
        return tuple(x.shape), [round(v, 9) + 0.0 for v in x.detach().double().reshape(-1).tolist()], x.requires_grad
    if isinstance(x, dict):
        return {k: plain(v) for k, v in x.items()}
    return [plain(v) for v in x] if isinstance(x, (list, tuple)) else round(x, 9) if isinstance(x, float) else x
def show(*values):
    print(*map(plain, values))
x = torch.tensor([0.5, -1.0, 2.0])
a = torch.tensor([[4.0, 1.0, 0.5], [1.0, 3.0, 0.2], [0.5, 0.2, 2.0]])
"""

FUNC = """
from torch.func import functional_call, grad, grad_and_value, hessian, jacfwd, jacrev, jvp, stack_module_state, vjp, vmap
cube = lambda x: (x**3).sum()
show(grad(cube)(x), grad_and_value(cube)(x), grad(grad(torch.sin))(x[0]), hessian(cube)(x), jacfwd(torch.exp)(x))
show(grad(lambda a, b: (a * b**2).sum(), (0, 1))(x, x + 1), grad(lambda a, b: ((a * b).sum(), a.sum()), 1, has_aux=True)(x, x))
show(grad(lambda d: (d["u"] * d["v"][0]).sum())({"u": x, "v": [x + 1]}), jacrev(lambda a, b: (a @ b, a.sin()), 1)(a, x))
show(jacrev(lambda d: d["u"] ** 2)({"u": x}), grad(lambda a, b: a.sum())(x, None), jacrev(lambda x: (x * 2, x))(x)[0])
out, pull = vjp(lambda a, b: (a * b, b.sum()), x, x + 2)
show(out, pull((x, torch.tensor(3.0))))
out, pull = vjp(torch.tanh, x)
show(out, pull(torch.ones(3)), pull(x))
show(jvp(torch.tanh, (x,), (x + 1,)), jvp(lambda a, b: a @ b, (a, x), (a, x)))
w = torch.ones(3, requires_grad=True)
g = grad(lambda x: (w * x**2).sum())(x)  # of another tensor that requires a gradient
g.sum().backward()
show(g, w.grad, grad(cube)(w), torch.autograd.grad(grad(cube)(w).sum(), w))
show(vmap(torch.dot)(a, a), vmap(torch.dot, (None, 0))(x, a), vmap(lambda v: v * 2, in_dims=1, out_dims=1)(a), torch.vmap(torch.sum)(a))
show(vmap(grad(cube))(a), vmap(lambda d, k: (d["u"] * k, d), in_dims=({"u": 0}, None))({"u": a}, 2.0))
model = nn.Linear(3, 2)
model.load_state_dict({"weight": a[:2], "bias": x[:2]})
params = {k: v.detach() for k, v in model.named_parameters()}
loss = lambda p, v, y: F.cross_entropy(functional_call(model, p, (v[None],)), y[None])
show(vmap(grad(loss), (None, 0, 0))(params, a, torch.tensor([0, 1, 1])))
stacked, buffers = stack_module_state([model, model])
show(stacked, buffers, vmap(lambda p, v: functional_call(model, p, (v,)), (0, None))(stacked, x))
"""

NAMES = """
import torch.distributions as D
from torch.utils.data import ChainDataset, DataLoader, IterableDataset
show(torch.spmm(a, a), a.clone().addmm_(1, -2, a, a), torch.addmm(3, a, a, a), torch.addmm(3, a, -1, a, a), a.addmm(2, a, a), x.addmv(2, 3, a, x))
show(torch.addr(2, a, 3, x, x), a[None].baddbmm(2, 3, a[None], a[None]), torch.addbmm(2, a, a[None], a[None]), x.clone().addmv_(2, -1, a, x))
show(a.split(split_size=[1, 2], dim=-1), a.split(2), torch.split(a, split_size_or_sections=2, dim=1))
p = nn.Parameter(x.clone())
p.grad = x * 10
total = nn.utils.get_total_norm([p.grad, a])
nn.utils.clip_grads_with_norm_([p], 1.0, total)
show(total, p.grad, nn.utils.get_total_norm([a, x], float("inf")), nn.utils.get_total_norm([]))
L = torch.linalg.cholesky(a)
for upper in (False, True):
    show(torch.cholesky_solve(a[:, :2], L.mT if upper else L, upper=upper), torch.cholesky_inverse(L.mT if upper else L, upper=upper))
show(torch.linalg.matrix_rank(a), torch.linalg.matrix_rank(a[:, :2] @ a[:2]), torch.linalg.cond(a), torch.linalg.cond(a, 1), torch.linalg.multi_dot([x, a, a, x]))
tall, right = torch.cat([a, a * a]).requires_grad_(), torch.cat([a, a])[:, :2]
found = torch.linalg.lstsq(tall, right)
show(found.solution, found.residuals.numel(), torch.linalg.lstsq(tall.detach(), right, driver="gelsd").residuals, torch.autograd.grad(found.solution.sum(), tall), torch.linalg.lstsq(a, a[:, :1]).solution)
each = [x.clone(), x + 1]
torch._foreach_mul_(each, 2), torch._foreach_add_(each, [x, x], alpha=3), torch._foreach_addcmul_(each, [x, x], each, value=0.5)
torch._foreach_addcdiv_(each, [x, x], [x + 3, x + 4], [1.0, 2.0]), torch._foreach_lerp_(each, [x, x], 0.25), torch._foreach_maximum_(each, -1.0)
show(each, torch._foreach_norm(each), torch._foreach_sqrt([x.abs()]), torch._foreach_div(each, [2.0, 4.0]), torch._foreach_pow(each, 2))
mix = D.MixtureSameFamily(D.Categorical(logits=torch.zeros(2, 3)), D.Normal(x.expand(2, 3), torch.ones(2, 3)))
show(mix.log_prob(x[:2]), mix.mean, mix.variance, mix.batch_shape == (2,), tuple(mix.sample((5,)).shape))
mix = D.MixtureSameFamily(D.Categorical(logits=x), D.Independent(D.Normal(a, a), 1))
show(mix.log_prob(x), mix.mean, mix.variance, tuple(mix.sample((4,)).shape), mix.event_shape == (3,))
loss = nn.TripletMarginWithDistanceLoss(distance_function=lambda u, v: 1 - F.cosine_similarity(u, v), swap=True, margin=0.5)
show(loss(a, a * a, a.flip(0)), F.triplet_margin_with_distance_loss(a, a * a, a.flip(0), reduction="none"))
for make in (lambda s: D.Cauchy(x, s), lambda s: D.Gumbel(x, s), lambda s: D.HalfNormal(s), lambda s: D.LogNormal(x, s),
             lambda s: D.Weibull(s, s + 0.5), lambda s: D.Poisson(s), lambda s: D.StudentT(s), lambda s: D.StudentT(s, x, s)):
    scale = torch.tensor([0.7, 1.6, 3.0], requires_grad=True)
    d, entropy = make(scale), None
    value = torch.tensor([2.0, 1.0, 3.0])
    kind = type(d).__name__
    if kind != "Poisson":
        entropy = d.entropy()
    draw = d.sample((20000,))
    log_prob = d.log_prob(value)
    show(kind, log_prob, torch.autograd.grad(log_prob.sum(), scale), entropy, d.mean, d.variance, tuple(draw.shape), bool(draw.isfinite().all()))
    if kind not in ("Cauchy", "StudentT"):
        assert ((draw.mean(0) - d.mean).abs() < 0.1 * (d.variance.sqrt() + 0.1)).all() or kind == "LogNormal", (kind, draw.mean(0), d.mean)
show(torch.linalg.vander(x, N=3), torch.linalg.diagonal(a[None].expand(2, 3, 3), offset=1), torch.linalg.vecdot(a, x))
class Count(IterableDataset):
    def __init__(self, n): self.n = n
    def __iter__(self): return iter(range(self.n))
    def __len__(self): return self.n
print([b.tolist() for b in DataLoader(ChainDataset([Count(3), Count(2)]), 2)], len(ChainDataset([Count(3), Count(2)])))
"""

EXTRA = """
class Counted(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.scale, self.calls = nn.Linear(1, 1), nn.Parameter(torch.ones(1)), 0
    def get_extra_state(self):
        return {"calls": self.calls}
    def set_extra_state(self, state):
        self.calls = state["calls"]
model, other = (nn.Sequential(Counted(), nn.Sequential(Counted())) for _ in range(2))
model[0].calls, model[1][0].calls = 3, 4
state = model.state_dict()
print(list(state), state["0._extra_state"], list(model.state_dict(prefix="x.")), list(Counted().state_dict()))
torch.save(state, "state.pt")
print(other.load_state_dict(torch.load("state.pt")), other[0].calls, other[1][0].calls)
del state["0._extra_state"]
print(other.load_state_dict(state, strict=False).missing_keys)
for module, given in ((other, state), (nn.Linear(1, 1), {**nn.Linear(1, 1).state_dict(), "_extra_state": 1})):
    try:
        module.load_state_dict(given)
    except RuntimeError as error:
        print("extra_state" in str(error))
print(list(nn.Linear(1, 1).state_dict()))
"""


@pytest.mark.parametrize("program", [FUNC, NAMES], ids=["func", "names"])
def test_as_torch_names_of_training_scripts_give_pytorchs_numbers(program):
    same_prints(SHOW, program)


def test_as_torch_extra_state_of_modules(tmp_path):
    same_prints(SHOW, f"import os; os.chdir({str(tmp_path)!r})", EXTRA)


OLDER = """
import numpy
from torch.autograd import Variable
w = torch.ones(2, requires_grad=True)
v = Variable(w * 2, requires_grad=True)  # as in gradient penalties: a leaf, although w * 2 has a graph
(v**2).sum().backward()
show(w.grad, v.grad, v.is_leaf, Variable(w).requires_grad, Variable(nn.Parameter(x)), Variable(torch.tensor([1, 2])), Variable(data=x))
given = torch.zeros(2)
show(Variable(given, requires_grad=True), given, Variable().shape, Variable(given).data_ptr() == given.data_ptr())
print([isinstance(t, Variable) for t in (w, given, nn.Parameter(x), 1.0, x.numpy())], type(w) == Variable)
print([isinstance(t.dtype, torch.dtype) for t in (x, w, x.long(), x > 0, x.half())], isinstance("float32", torch.dtype))
show(torch.ByteTensor(torch.ByteStorage.from_buffer(b"abcd")).view(2, 2))
show(*torch.frombuffer(bytearray(8), dtype=torch.int16, count=2, offset=4), torch.frombuffer(x.numpy(), dtype=torch.float64))
found = [1]
found += torch.tensor([2, 3])  # as predictions += output.argmax(1)
show(found, [0] * torch.tensor(2), torch.tensor(2) * (1,), "ab" * torch.tensor(3), 2 * x + numpy.ones(3), (1,) + a.shape)
for wrong in (lambda: x + [1.0, 2.0, 3.0], lambda: (1.0, 2.0, 3.0) / x, lambda: x @ [1.0, 2.0, 3.0], lambda: x * range(3)):
    try:
        print(wrong())
    except TypeError:
        print("refused")
loader = torch.utils.data.DataLoader(x, 2, pin_memory=True)
print(loader.pin_memory, loader.persistent_workers, loader.timeout, isinstance(nn.GRU(1, 1), nn.modules.rnn.RNNBase))
tables = torch.optim.__dict__["SGD"], torch.optim.lr_scheduler.__dict__["StepLR"], vars(nn)["Linear"], F.__dict__["relu"]
print([f.__name__ for f in tables], nn.init.__dict__["ones_"] is nn.init.ones_, "float32" in vars(torch))
for wrong in (lambda: Variable(x.numpy()), lambda: Variable(x, requires_grad=True, volatile=True)):
    try:
        wrong()
    except Exception as error:
        print(type(error).__name__)
"""

STATES = """
import collections, copy, io
torch.save({"model": nn.Linear(1, 1).state_dict(), "epoch": 3}, file := io.BytesIO())
file.seek(0)
read = torch.load(file)
print([type(x).__name__ for x in (read, read["model"], read["epoch"])])
model = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm2d(1), nn.DataParallel(nn.Dropout(0.5)))
nn.init.ones_(model[0].weight), nn.init.zeros_(model[0].bias)
state = model.state_dict()
print(type(state) is collections.OrderedDict, dict(state._metadata), copy.deepcopy(state)._metadata == state._metadata)
print(model[0].state_dict(), model, model.state_dict(prefix="x.")._metadata.keys(), type(model.state_dict(destination={})))
class Old(nn.Module):
    _version = 3
    def _load_from_state_dict(self, state, prefix, local_metadata, *rest):
        print(prefix, local_metadata.get("version"))
        super()._load_from_state_dict(state, prefix, local_metadata, *rest)
nn.Sequential(Old(), nn.ModuleDict({"a": Old()})).load_state_dict(nn.Sequential(Old(), nn.ModuleDict({"a": Old()})).state_dict())
nn.Sequential(Old()).load_state_dict({})
print(isinstance(model[2], nn.parallel.DistributedDataParallel), type(model[2]).__name__)
print([(c.output_padding, c.transposed) for c in (nn.Conv1d(1, 1, 1), nn.Conv2d(1, 1, 1), nn.ConvTranspose2d(1, 1, 2, 2, output_padding=1))])
print(torch.optim.AdamW([torch.ones(1, requires_grad=True)], betas=[0.9, 0.98]).param_groups[0]["betas"])
data = torch.utils.data
sampler = data.RandomSampler([1, 2], replacement=True, num_samples=10**10)  # endless, as minGPT's
print(next(iter(data.DataLoader(data.TensorDataset(torch.zeros(2)), sampler=sampler, batch_size=3)))[0].shape, len(sampler))
"""

LU = """
A = torch.tensor([[[0.5, 2.0, -1.0], [4.0, 1.0, 0.5], [-2.0, 3.0, 1.5]], [[1.0, 0.0, 2.0], [0.5, -3.0, 1.0], [2.5, 1.0, 0.5]]])
for shape in ((slice(None),) * 3, (0, slice(None), slice(2)), (slice(None), slice(2))):
    B = A[shape].clone().requires_grad_()
    P, L, U = torch.linalg.lu(B)
    (g,) = torch.autograd.grad((L**2).sum() + (U**3).sum(), B, create_graph=True)
    show(P, L, U, g, torch.autograd.grad((g**2).sum(), B)[0])
for upper in (True, False):
    show(torch.triangular_solve(A[..., :2], A, upper), A.triangular_solve(A, upper, transpose=True, unitriangular=True).solution)
B = A.clone().requires_grad_()
LU, pivots = torch.linalg.lu_factor(B)
b = torch.ones(2, 3, 1)
solution = torch.linalg.lu_solve(LU, pivots, b)
show(LU, pivots, torch.lu(A), torch.lu_unpack(LU, pivots, unpack_pivots=False), solution, torch.lu_solve(b, LU, pivots))
show(torch.autograd.grad(solution.sum(), B)[0], A.lu()[1], torch.linalg.lu(torch.ones(3, 3)), str(pivots.dtype)[-5:])
for wrong in (lambda: torch.linalg.lu_factor(torch.ones(2, 2)), lambda: torch.linalg.lu(A, pivot=False), lambda: torch.linalg.lu(x)):
    try:
        wrong()
    except RuntimeError:
        print("refused")
"""

PRUNE = """
from torch.nn.utils import prune
def net():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 3))
    for i, p in enumerate(model.parameters()):
        p.data = torch.linspace(-1, 1.5, p.numel()).sin().mul(3 + i).cos().view(p.shape)
    return model
image = torch.linspace(-1, 1, 16).view(1, 1, 4, 4)
model = net()
same = prune.l1_unstructured(model[2], name="weight", amount=0.3) is model[2]
prune.l1_unstructured(model[2], "weight", 0.5), prune.ln_structured(model[2], "weight", 1, n=2, dim=0)
prune.ln_structured(model[0], "weight", amount=0.5, n=float("inf"), dim=0), prune.l1_unstructured(model[2], "bias", 2)
show(same, dict(model.state_dict()), model(image), len(model[2]._forward_pre_hooks), prune.is_pruned(model))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
model(image).pow(2).sum().backward(), optimizer.step()
show(model[2].weight_orig, model[2].weight_orig.grad, model(image), [name for name, _ in model.named_parameters()])
prune.remove(model[2], "weight"), prune.remove(model[2], "bias"), prune.remove(model[0], "weight")
show(dict(model.state_dict()), prune.is_pruned(model), isinstance(model[2].weight, nn.Parameter), model(image))
model = net()
pairs = [(model[0], "weight"), (model[2], "weight")]
for amount in (0.2, 5):
    prune.global_unstructured(pairs, pruning_method=prune.L1Unstructured, amount=amount)
show([m.weight_mask for m, _ in pairs], [m.weight for m, _ in pairs])
class Alternate(prune.BasePruningMethod):
    PRUNING_TYPE = "unstructured"
    def compute_mask(self, t, default_mask):
        mask = default_mask.clone()
        mask.view(-1)[::2] = 0
        return mask
model = net()
Alternate.apply(model[2], "bias"), prune.random_unstructured(model[0], "weight", 3), prune.random_structured(model[2], "weight", 1, dim=1)
prune.custom_from_mask(model[0], "bias", mask=torch.tensor([0, 1])), prune.l1_unstructured(net()[2], "bias", 1, importance_scores=x)
show(model[2].bias_mask, model[0].weight_mask.sum(), model[2].weight_mask.sum(), model[0].bias, prune.identity(net()[2], "bias").bias)
for wrong in (-0.1, 1.5, 4, "a"):
    try:
        prune.l1_unstructured(net()[2], "bias", wrong)
    except Exception as error:
        print(type(error).__name__)
try:
    prune.remove(net()[2], "bias")
except ValueError:
    print("not pruned")
"""


@pytest.mark.parametrize("program", [OLDER, STATES, LU, PRUNE], ids=["Variable", "state_dict", "lu", "prune"])
def test_as_torch_names_of_public_repositories_give_pytorchs_numbers(program):
    same_prints(SHOW, program)
