"""Several processes: collectives, DistributedDataParallel, and what happens when one of them ends. Real ranks by mpirun."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import types
from pathlib import Path

import numpy as np
import pytest

import tinyattn as ta
import tinyattn.nn.functional as F
from tinyattn import data, distributed, nn, optim

ROOT = Path(__file__).parents[1]
DDP = nn.parallel.DistributedDataParallel
with_mpi = pytest.mark.skipif(
    shutil.which("mpirun") is None or importlib.util.find_spec("mpi4py") is None,
    reason="mpirun or mpi4py is missing: apt install openmpi-bin, pip install mpi4py",
)
ENVIRONMENT = {  # as root, with more ranks than cores, without ssh
    "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "OMPI_MCA_plm_rsh_agent": "true", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(ROOT),
}  # fmt: skip
START = """
import json, os, signal, sys, time
import numpy as np
import tinyattn as ta
import tinyattn.nn.functional as F
from tinyattn import distributed, nn, optim
from tinyattn.distributed import ending
distributed.init_process_group("mpi")
rank = distributed.get_rank()
"""


def start(program, ranks=2, folder="."):
    """Run a program in several processes; it may use the names in START."""
    command = ["mpirun", "-n", str(ranks), sys.executable, "-c", START + textwrap.dedent(program), str(folder)]
    return subprocess.run(command, env={**os.environ, **ENVIRONMENT}, capture_output=True, text=True, timeout=200)


def answers(folder, program, ranks=2):
    """The `result` of each rank."""
    end = "\njson.dump(result, open(f'{sys.argv[1]}/{rank}.json', 'w')); distributed.destroy_process_group()"
    done = start(textwrap.dedent(program) + end, ranks, folder)
    assert done.returncode == 0, done.stderr
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(ranks)]


# --- one process: what needs no MPI ---


class Alone:
    """A group of one process, which keeps a list of what it did."""

    name, device, rank, size = "mpi", "cpu", 0, 1

    def __init__(self):
        self.log = []

    def all_reduce(self, array, op):
        self.log.append(array.size)
        return self

    def broadcast(self, array, src):
        return self

    def all_gather(self, out, array):
        out[0] = array
        return self

    def is_completed(self):
        return True

    def wait(self):
        pass


@pytest.fixture
def alone(monkeypatch):
    group = Alone()
    monkeypatch.setattr(distributed, "_group", group)
    return group


def test_distributed_functions_without_a_group_name_init_process_group():
    x = ta.ones(2)
    calls = {
        "all_reduce": lambda: distributed.all_reduce(x), "broadcast": lambda: distributed.broadcast(x, 0),
        "all_gather": lambda: distributed.all_gather([x], x), "barrier": distributed.barrier, "get_rank": distributed.get_rank,
        "get_world_size": distributed.get_world_size, "get_backend": distributed.get_backend,
        "destroy_process_group": distributed.destroy_process_group, "DistributedDataParallel": lambda: DDP(nn.Linear(2, 2)),
    }  # fmt: skip
    for name, call in calls.items():
        with pytest.raises(RuntimeError, match=f"^{name} needs a group of processes: call ta.distributed.init_process"):
            call()


def test_init_process_group_refuses_in_one_sentence(monkeypatch):
    with pytest.raises(ValueError, match="backend='gloo'; expected 'mpi' or 'nccl'"):
        distributed.init_process_group("gloo")
    monkeypatch.setitem(sys.modules, "mpi4py.MPI", None)
    with pytest.raises(
        ImportError, match=r'init_process_group\("mpi"\) needs mpi4py .*: pip install "tinyattn\[mpi\]"'
    ):
        distributed.init_process_group("mpi")
    assert not distributed.is_initialized()


@pytest.mark.usefixtures("alone", "gpu")
def test_distributed_collectives_refuse_what_they_cannot_take():
    x = ta.ones(2)
    for call, kind, message in (
        (lambda: distributed.init_process_group("mpi"), RuntimeError, "there is a group already, with backend 'mpi'"),
        (lambda: distributed.all_reduce(x > 0), TypeError, "booleans have no sum"),
        (lambda: distributed.all_reduce(x.cuda()), RuntimeError, "takes tensors on 'cpu', but this one is on 'cuda:0'"),
        (lambda: distributed.broadcast(x, 1), ValueError, "src=1; expected a rank from 0 to 0"),
        (lambda: distributed.all_gather([x, x], x), ValueError, "tensor_list has 2 tensors; expected 1, one a rank"),
    ):
        with pytest.raises(kind, match=message):
            call()


def test_distributed_data_parallel_sums_buckets_while_backward_goes_on(alone):
    model = nn.Sequential(*[nn.Linear(64, 64) for _ in range(4)])
    net = DDP(model, bucket_cap_mb=64 * 65 * 4 / 2**20)  # one layer in each
    alone.log.clear()

    def watch(layer, args, out):
        out.register_hook(lambda g: alone.log.append("first layer"))

    model[0].register_forward_hook(watch)
    net(ta.ones(3, 64)).sum().backward()
    assert alone.log == [64 * 65] * 3 + ["first layer", 64 * 65]


def test_distributed_data_parallel_names_unused_parameters(alone):
    model = nn.ModuleDict({"used": nn.Linear(2, 2), "unused": nn.Linear(2, 2)})
    model.forward = lambda x: model["used"](x)
    with pytest.raises(
        RuntimeError, match=r"loss on rank 0 does not depend on unused\.weight, unused\.bias; use every"
    ):
        DDP(model)(ta.ones(1, 2)).sum().backward()
    model["used"].zero_grad()
    net = DDP(model, find_unused_parameters=True)
    for _ in range(2):
        net(ta.ones(1, 2)).sum().backward()
    assert model["unused"].weight.grad is None and model["used"].weight.grad.tolist() == [[2.0, 2.0]] * 2


def test_distributed_data_parallel_no_sync_keeps_gradients_to_itself(alone):
    net = DDP(nn.Linear(2, 2))
    alone.log.clear()
    with net.no_sync():
        net(ta.ones(1, 2)).sum().backward()
    assert not alone.log
    (net(ta.ones(1, 2)).sum() + net(ta.ones(1, 2)).sum()).backward()  # one pass, though two forwards
    assert alone.log == [6] and net.module.bias.grad.tolist() == [3.0, 3.0]


def test_distributed_data_parallel_takes_float16_and_shared_weights(alone):
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    model.to(ta.float16)
    model(ta.ones(2, 3, dtype=ta.float16)).sum().backward()
    wanted = [p.grad.tolist() for p in model.parameters()]
    model.zero_grad()
    net = DDP(model)
    net(ta.ones(2, 3, dtype=ta.float16)).sum().backward()
    assert [p.grad.tolist() for p in model.parameters()] == wanted and model[0].weight.grad.dtype == ta.float16


def test_distributed_sampler_takes_rank_and_size_from_the_group(alone):
    assert len(data.DistributedSampler("abcde")) == 5
    alone.size, alone.rank = 2, 1
    assert list(data.DistributedSampler("abcde", shuffle=False)) == [1, 3, 0]
    shares = [list(data.DistributedSampler(range(10), rank=r)) for r in (0, 1)]
    assert sorted(shares[0] + shares[1]) == list(range(10))
    with pytest.raises(ValueError, match="rank is 2, but of 2"):
        data.DistributedSampler("abc", rank=2)


class Communicator:
    """cupyx.distributed's, for two ranks with the same numbers."""

    def all_reduce(self, array, out, op):
        out[...] = {"sum": array + array, "prod": array * array, "min": array, "max": array}[op]

    def broadcast(self, array, root):
        pass

    def all_gather(self, array, out, count):
        out[...] = array

    def barrier(self):
        pass


@pytest.mark.usefixtures("gpu")
def test_distributed_nccl_uses_cupyx_on_the_gpu(monkeypatch):
    started = []

    def init(size, rank, **options):
        started.append((size, rank, options))
        return Communicator()

    module = types.SimpleNamespace(init_process_group=init)
    monkeypatch.setitem(sys.modules, "cupyx.distributed", module)
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}.items():
        monkeypatch.setenv(name, value)
    distributed.init_process_group("nccl")
    try:
        assert started == [(2, 1, {"host": "localhost", "port": 29500, "use_mpi": False})]
        x = ta.tensor([1.0, 2.0], device="cuda")
        distributed.all_reduce(x)
        copies = [ta.zeros(2, device="cuda") for _ in range(2)]
        distributed.all_gather(copies, x)
        assert x.tolist() == copies[1].tolist() == [2.0, 4.0] and distributed.get_backend() == "nccl"
        net = DDP(nn.Linear(2, 1).cuda())
        net(x).sum().backward()
        assert net.module.weight.grad.tolist() == [[2.0, 4.0]]  # the mean of two equal ones
    finally:
        distributed.destroy_process_group()


# --- real ranks ---


@with_mpi
def test_distributed_collectives_of_three_ranks(tmp_path):
    found = answers(
        tmp_path,
        """
        result = {}
        for op in distributed.ReduceOp:
            for dtype in ("float16", "float32", "float64", "int64", "uint8"):
                x = ta.tensor([[rank + 1, 2], [3, 4]], dtype=dtype).T
                if op.name != "AVG" or x.is_floating_point():
                    distributed.all_reduce(x, op)
                    result[f"{op.name} {dtype}"] = x.tolist()
        x = ta.tensor([1.0, rank])
        work = distributed.all_reduce(x[1:], async_op=True)
        assert work.wait() and work.is_completed()
        y = ta.full((2,), rank)
        distributed.broadcast(y, src=2)
        copies = [ta.zeros(1) for _ in range(3)]
        distributed.all_gather(copies, ta.tensor([rank / 2]))
        distributed.barrier()
        result["others"] = [x.tolist(), y.tolist(), [c.item() for c in copies], distributed.get_world_size()]
        """,
        ranks=3,
    )
    wanted = {"SUM": [[6, 9], [6, 12]], "AVG": [[2, 3], [2, 4]], "PRODUCT": [[6, 27], [8, 64]], "MIN": [[1, 3], [2, 4]],
              "MAX": [[3, 3], [2, 4]]}  # fmt: skip
    for rank in found:
        assert rank.pop("others") == [[1, 3], [2, 2], [0, 0.5, 1], 3] and len(rank) == 5 * 5 - 2
        for name, values in rank.items():
            assert values == wanted[name.split()[0]], name


STEPS = """
class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(6, 32), nn.GELU(), nn.LayerNorm(32), nn.Linear(32, 3))
        self.register_buffer("moved", ta.full((1,), float(rank)))

def trained(wrapped, size):
    ta.manual_seed(rank)  # the weights of rank 0 are those of all
    model = Net()
    net = wrapped(model)
    optimizer = optim.SGD(model.parameters(), 0.02, momentum=0.9)
    rng = np.random.default_rng(0)
    for _ in range(100):
        x, y = rng.normal(size=(8, 6)).astype("float32"), rng.integers(0, 3, 8)
        share = slice(rank * size, (rank + 1) * size)
        optimizer.zero_grad()
        F.cross_entropy(net(ta.tensor(x[share])), ta.tensor(y[share])).backward()
        optimizer.step()
    return [t.tolist() for t in model.state_dict().values()]
"""


@with_mpi
def test_distributed_data_parallel_equals_one_process_with_the_whole_batch(tmp_path):
    program = STEPS + textwrap.dedent(
        """
        result = trained(lambda model: nn.parallel.DistributedDataParallel(model, bucket_cap_mb=0.0005), 4)
        """
    )
    first, again = answers(tmp_path, program), answers(tmp_path, program)
    assert first == again and first[0] == first[1]  # bit for bit, on both ranks
    scope = {"nn": nn, "ta": ta, "np": np, "F": F, "optim": optim, "rank": 0}
    exec(STEPS, scope)
    for ours, wanted in zip(first[0], scope["trained"](lambda model: model, 8), strict=True):
        np.testing.assert_allclose(ours, wanted, rtol=0, atol=1e-6)


ENDS = {
    "raises": ("raise ValueError('no more')", "rank 1 of 2 has failed with ValueError: no more; all ranks are ended."),
    "exits": ("ending.PATIENCE = 0.2; sys.exit(1)", "rank 1 of 2 has ended without destroy_process_group(); all ranks are ended."),
    "Ctrl-C": ("os.kill(os.getpid(), signal.SIGINT)", "rank 1 of 2 has failed with KeyboardInterrupt; all ranks are ended."),
    "killed": ("os.kill(os.getpid(), signal.SIGKILL)", "rank 1 with PID"),
    "other model": ("nn.parallel.DistributedDataParallel(nn.Linear(2, 3))", "parameters of rank 1 differ from those of rank 0"),
}  # fmt: skip


@with_mpi
@pytest.mark.parametrize("name", [n if n == "raises" else pytest.param(n, marks=pytest.mark.slow) for n in ENDS])
def test_distributed_rank_that_ends_names_itself_and_ends_the_others(name, tmp_path):
    how, message = ENDS[name]
    mark = "open(sys.argv[1] + '/begun', 'w').close()"  # the start of processes and the imports are not counted
    others = "nn.parallel.DistributedDataParallel(nn.Linear(2, 2)); distributed.barrier()"
    done = start(f"if rank == 1:\n    {mark}; {how}\nelse:\n    {others}\n", folder=tmp_path)
    assert done.returncode != 0 and message in done.stderr
    assert time.time() - (tmp_path / "begun").stat().st_mtime < 10


@with_mpi
@pytest.mark.slow
def test_distributed_program_that_only_ends_has_no_error():
    assert start("distributed.barrier()").returncode == 0


# --- the example ---

EXAMPLE = """
import os, signal, sys
sys.path.insert(0, "examples")
import mnist
from parts import mnist_options
from tinyattn import train
mnist_options.draw = lambda *_: None  # pictures take long, and are tested elsewhere
count = train.Session.count

def counted(session, report):
    count(session, report)
    if os.environ["OMPI_COMM_WORLD_RANK"] == "1" and session.tally.step == 25 and sys.argv[1] != "0":
        os.kill(os.getpid(), int(sys.argv[1]))

train.Session.count = counted
sys.exit(train.exit_code(lambda: mnist.main(sys.argv[2:]), "mnist.py", mnist.ADVICE))
"""


def example(ranks, number, *options):
    """Train the article's model on the digits; rank 1 gets a signal after 25 of 45 steps."""
    command = ["mpirun", "-n", str(ranks), sys.executable, "-c", EXAMPLE, str(int(number)), "--distributed", *options]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **ENVIRONMENT}, capture_output=True, text=True, timeout=300
    )


@with_mpi
@pytest.mark.slow
def test_distributed_example_resumes_after_a_rank_has_died(tmp_path):
    recipe = "--data digits --model article --epochs 1 --checkpoint-every 10 --no-progress --out".split()
    whole = example(2, 0, *recipe, str(tmp_path / "whole"))
    assert whole.returncode == 0 and whole.stdout.count("epoch  1: ") == 1, whole.stderr
    weights = {"whole": ta.load(tmp_path / "whole/article-digits-seed0/model.safetensors")}
    folder = tmp_path / "stopped/article-digits-seed0"
    begin = [*recipe, str(folder.parent)]
    resume = ["--resume", str(folder), "--no-progress"]
    for options, number, said, last in (
        (begin, signal.SIGKILL, "rank 1 with PID", "step-00000020"),
        (resume, signal.SIGTERM, f"Stopped by SIGTERM; mnist.py --resume {folder}", "step-00000025"),
    ):
        done = example(2, number, *options)
        assert done.returncode != 0 and said in done.stderr
        assert max(path.stem for path in (folder / "checkpoints").iterdir()) == last
    again = example(2, 0, *resume)
    assert again.returncode == 0 and f"resumed from {folder}/checkpoints/{last}.safetensors" in again.stdout, (
        again.stderr
    )
    weights["resumed"] = ta.load(folder / "model.safetensors")
    for name, tensor in weights["whole"].items():
        np.testing.assert_array_equal(tensor.numpy(), weights["resumed"][name].numpy())  # bit for bit


@with_mpi
@pytest.mark.slow
def test_distributed_example_refuses_an_unequal_batch(tmp_path):
    done = example(2, 0, "--data", "digits", "--batch-size", "33", "--out", str(tmp_path))
    assert "--batch-size 33 cannot be shared equally among 2 processes; choose a multiple." in done.stderr
    assert not list(tmp_path.iterdir())
