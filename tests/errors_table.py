"""How far every operation is from its oracles, at worst: python tests/errors_table.py, which writes docs/correctness.md.

The inputs are PyTorch's own samples (test_torch_samples.py). An error is |ours - oracle| / (1 + |oracle|), relative for
large numbers and absolute for small ones, which is also what `oracle.TOLERANCE` bounds.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import oracle
import pytest
import torch
from mutation import write_docs
from test_torch_samples import OPS, ours

import tinyattn as ta
from tinyattn.debug.differences import GradcheckError, NotDifferentiableError, gradcheck

COLUMNS = ("value", "first order", "second order")
Worst = dict[str, float]


def samples(op: Any, dtype: torch.dtype) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    """The arguments that test_torch_samples.py uses too."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = list(op.sample_inputs("cpu", dtype, requires_grad=op.supports_autograd))
    for sample in found:
        if not {"memory_format", "out"} & sample.kwargs.keys() and not sample.kwargs.get("dropout_p"):
            kwargs = {k: v for k, v in sample.kwargs.items() if k not in ("layout", "pin_memory")}
            yield (sample.input, *sample.args), kwargs


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """The worst |a - b| / (1 + |b|); equal infinities and NaN in the same place are no distance apart."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    alike = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):
        off = np.where(alike, 0.0, np.abs(a - b) / (1 + np.abs(b)))
    return float(np.max(np.nan_to_num(off, nan=np.inf), initial=0.0))


def against_torch(op: Any, dtype: torch.dtype) -> tuple[Worst, int]:
    """The worst errors of values and gradients, and how many samples there were."""
    worst: Worst = {}
    check = oracle.assert_same

    def measure(a: Any, b: np.ndarray, what: str, tolerance: float | None = None) -> None:
        check(a, b, what, tolerance)
        order = re.search(r"of order (\d)", what)
        column = COLUMNS[int(order[1]) if order else 0]
        if a.dtype.kind == "f":
            d = distance(a.detach().numpy(), b)
            worst[column] = max(worst.get(column, 0.0), d)

    count = 0
    second = dtype is torch.float64 and op.supports_gradgrad and "attention" not in op.name
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(oracle, "assert_same", measure)
        for args, kwargs in samples(op, dtype):
            oracle.compare(ours(op.name), op.op, args, kwargs, orders=2 if second else 1)
            count += 1
    return worst, count


def against_differences(op: Any) -> tuple[float | None, Counter[str]]:
    """The worst error of backward against central differences along a random direction; and what gradcheck says."""
    worst, said = None, Counter[str]()
    rng = np.random.default_rng(0)
    for args, kwargs in samples(op, torch.float64):
        inputs, options = oracle.to_ours(args), oracle.to_ours(kwargs)
        leaves = [x for x in oracle.tensors([inputs, options], ta.Tensor) if x.requires_grad]

        def function(*_: Any, inputs: Any = inputs, options: Any = options) -> list[ta.Tensor]:
            return oracle.tensors(ours(op.name)(*inputs, **options), ta.Tensor)

        outputs = [y for y in function() if y.dtype.kind == "f"]
        plain = all(x.dtype == np.float64 for x in (*leaves, *outputs)) and not any(
            np.isnan(y.numpy()).any() for y in outputs
        )
        if not leaves or not plain or not any(y.requires_grad for y in outputs):
            continue
        try:
            gradcheck(function, leaves)
        except NotDifferentiableError:
            said["kinks"] += 1
            continue
        except GradcheckError as error:
            print(f"{op.name} {op.variant_test_name} {args} {kwargs}: {error}", file=sys.stderr)
            said["wrong"] += 1
            continue
        said["samples"] += 1
        state = rng.bit_generator.state
        errors = []
        for step in (1e-4, 1e-6):  # large numbers want the one, jumps and steep slopes the other
            rng.bit_generator.state = state
            errors.append(directional(function, leaves, rng, step))
        worst = max(worst or 0.0, min(errors))
    return worst, said


def directional(function: Any, leaves: Sequence[ta.Tensor], rng: np.random.Generator, step: float) -> float:
    """|u'Jv - numeric| / (1 + |numeric|) for one random u and v."""
    outputs = [y for y in function() if y.requires_grad]
    seeds = [ta.tensor(rng.normal(size=y.shape)) for y in outputs]
    directions = [rng.uniform(0.5, 1, x.shape) * rng.choice([-1, 1], x.shape) for x in leaves]
    found = ta.grad(outputs, leaves, seeds, allow_unused=True)
    backward = sum(float(np.sum(g.numpy() * v)) for g, v in zip(found, directions, strict=True) if g is not None)
    ends = []
    here = [x.array.copy() for x in leaves]
    for h in (step, -step):
        for x, start, v in zip(leaves, here, directions, strict=True):
            x.array[...] = start + h * v
        with ta.no_grad():
            out = function()
        moved = [y for y in out if y.dtype.kind == "f"][: len(seeds)]
        ends.append(sum(float(np.sum(y.numpy() * u.numpy())) for y, u in zip(moved, seeds, strict=True)))
    for x, start in zip(leaves, here, strict=True):
        x.array[...] = start
    return distance(np.asarray(backward), np.asarray((ends[0] - ends[1]) / (2 * step)))


def table() -> str:
    """One row an operation, in Markdown."""
    rows = [
        "| operation | samples | float32 value | first order | float64 value | first order | second order | finite differences |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    most: dict[int, float] = defaultdict(float)
    for op in sorted(OPS, key=lambda op: (op.name.removeprefix("nn.functional.").strip("_"), op.variant_test_name)):
        single, double = torch.float32, torch.float64
        known = op.supported_dtypes("cpu")
        worst32, _ = against_torch(op, single) if single in known else ({}, 0)
        worst64, count = against_torch(op, double) if double in known else ({}, 0)
        if not worst64 and not worst32:
            continue  # results without fractions: equal, or the test fails
        numeric, said = against_differences(op) if op.supports_autograd else (None, Counter())
        cells = [worst32.get(c) for c in COLUMNS[:2]] + [worst64.get(c) for c in COLUMNS] + [numeric]
        for i, cell in enumerate(cells):
            most[i] = max(most[i], cell or 0.0)
        name = f"{op.name.removeprefix('nn.functional.')} {op.variant_test_name}".strip()
        kinks = "".join(f" ({said[what]} {what})" for what in ("kinks", "wrong") if said[what])
        rows.append(f"| `{name}` | {count} | {' | '.join(map(shown, cells))}{kinks} |")
    rows.append(f"| **worst** | | {' | '.join(shown(most[i]) for i in range(6))} |")
    return "\n".join(rows)


def shown(error: float | None) -> str:
    """Two digits; a dash where there is nothing to compare."""
    return "–" if error is None else "0" if error == 0 else f"{error:.1e}"  # noqa: RUF001


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = table()
    print(found)
    write_docs({"errors": found})
    sys.exit(0)
