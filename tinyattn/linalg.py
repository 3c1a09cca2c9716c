"""Norms, products and factors under their names in torch.linalg."""

from tinyattn.ops.assembling import multi_dot
from tinyattn.ops.factors import inv, matrix_exp, qr, solve
from tinyattn.ops.norms import linalg_norm as norm
from tinyattn.ops.norms import matrix_norm, vector_norm

__all__ = ["inv", "matrix_exp", "matrix_norm", "multi_dot", "norm", "qr", "solve", "vector_norm"]
