"""Norms under their names in torch.linalg."""

from tinyattn.ops.norms import linalg_norm as norm
from tinyattn.ops.norms import vector_norm

__all__ = ["norm", "vector_norm"]
