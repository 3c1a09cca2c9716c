"""A weight with columns (or rows) of unit length at right angles, for nn.utils.parametrizations.orthogonal."""

from __future__ import annotations

import numpy as np

from tinyattn.nn.module import Module
from tinyattn.ops import creation
from tinyattn.ops.choices import where
from tinyattn.ops.factors import matrix_exp, qr, reflected_eye, reflections, solve
from tinyattn.ops.joins import cat, stack
from tinyattn.ops.mathematics import allclose
from tinyattn.ops.products import matmul
from tinyattn.ops.reductions import sum
from tinyattn.tensors import Tensor

MAPS = ("matrix_exp", "cayley", "householder")


def _orthonormal(matrix: Tensor) -> Tensor:
    """Return the Q of A = Q R in which the diagonal of R is positive."""
    q, r = qr(matrix)
    return q * where(r.diagonal(0, -2, -1) < 0, -1.0, 1.0).unsqueeze(-2).to(q.dtype)


class Orthogonal(Module):
    """Maps any matrix (..., rows, columns) to an orthogonal one, times `base` if there is one."""

    base: Tensor | None

    def __init__(self, orthogonal_map: str, use_trivialization: bool) -> None:
        super().__init__()
        self.orthogonal_map, self.use_trivialization = orthogonal_map, use_trivialization
        if use_trivialization:
            self.register_buffer("base", None)

    def forward(self, x: Tensor) -> Tensor:
        wide = x.shape[-2] < x.shape[-1]
        q = self._mapped(x.transpose(-2, -1) if wide else x)
        if self.use_trivialization and self.base is not None:
            q = matmul(self.base, q)
        return q.transpose(-2, -1) if wide else q

    def _mapped(self, x: Tensor) -> Tensor:
        rows, columns = x.shape[-2:]
        if self.orthogonal_map == "householder":
            vectors = x.tril(-1)
            taus = 2.0 / (1.0 + sum(vectors * vectors, -2))
            one = creation.ones_like(vectors[..., :1, 0])
            steps = [(cat([one, vectors[..., i + 1 :, i]], -1), taus[..., i : i + 1]) for i in range(columns)]
            return reflected_eye(steps, x, columns) * x.diagonal(0, -2, -1).trunc().unsqueeze(-2)
        square = cat([x.tril(), creation.zeros((*x.shape[:-1], rows - columns), dtype=x.dtype, device=x.device)], -1)
        skew = square - square.transpose(-2, -1)
        if self.orthogonal_map == "matrix_exp":
            return matrix_exp(skew)[..., :columns]
        one = creation.eye(rows, dtype=x.dtype, device=x.device)
        return solve(one - skew / 2, one + skew / 2)[..., :columns]

    def right_inverse(self, value: Tensor) -> Tensor:
        """Return the matrix that gives `value`, made orthogonal; with a base, -1 on the diagonal, and a new base."""
        wide = value.shape[-2] < value.shape[-1]
        tall = value.transpose(-2, -1) if wide else value
        rows, columns = tall.shape[-2:]
        if self.use_trivialization:
            if rows != columns:
                drawn = creation.randn(*tall.shape[:-1], rows - columns, dtype=tall.dtype, device=tall.device)
                tall = _orthonormal(cat([tall, drawn], -1))
            else:
                one = creation.eye(rows, dtype=tall.dtype, device=tall.device)
                error = 10 * rows * float(np.finfo(tall.dtype).eps)
                near = allclose(matmul(tall.transpose(-2, -1), tall), one, 1e-5, error)
                tall = tall.clone() if near else _orthonormal(tall)
            self.base = tall
            one = creation.eye(*value.shape[-2:], dtype=value.dtype, device=value.device)
            return (0.0 - one).expand(value.shape).clone()
        if self.orthogonal_map != "householder":
            raise NotImplementedError(
                f"orthogonal: no value can be assigned with orthogonal_map={self.orthogonal_map!r} and "
                "use_trivialization=False; leave use_trivialization as True"
            )
        steps, rows, _ = reflections(tall)
        found = []
        for i, ((v, _), row) in enumerate(zip(steps, rows, strict=True)):
            sign = where(row[..., 0, :1] < 0, -1.0, 1.0).to(v.dtype)
            above = creation.zeros((*v.shape[:-1], i), dtype=v.dtype, device=v.device)
            found.append(cat([above, sign, v[..., 1:]], -1))
        tall = stack(found, -1)
        return tall.transpose(-2, -1).contiguous() if wide else tall
