"""Methods and dtypes of PyTorch that are not here, and what is said of them."""

from __future__ import annotations

from typing import Any

import tinyattn as ta

NOT_HERE = "is not part of tinyattn, which covers what attention models use of PyTorch"
ABSENT = """
angle as_strided_ as_strided_scatter cauchy_ ccol_indices cdouble cfloat chalf
col_indices conj_physical_ const_data_ptr crow_indices dense_dim dequantize dim_order eig float_power_ frexp gcd gcd_
geometric_ geqrf grad_dtype hash_tensor histogram i0 i0_ igamma igamma_ igammac igammac_ imag index int_repr ipu
is_distributed is_ipu is_maia is_mtia is_set_to is_sparse_csr is_vulkan isreal istft lcm lcm_ ldexp ldexp_ log_normal_
lstsq lu lu_solve map2_ module_load mtia mvlgamma mvlgamma_ narrow_copy new_empty_strided nextafter nextafter_
nonzero_static orgqr ormqr polygamma_ q_per_channel_axis q_per_channel_scales q_per_channel_zero_points q_scale
q_zero_point qscheme reinforce resize resize_as resize_as_sparse_ row_indices slice_inverse smm solve sparse_dim
sparse_mask sparse_resize_ sparse_resize_and_clear_ sspaddmm stft storage_type symeig to_mkldnn to_padded_tensor
to_sparse_bsc to_sparse_bsr to_sparse_csc to_sparse_csr triangular_solve unsafe_chunk unsafe_split
unsafe_split_with_sizes xpu
"""  # of the methods of tensors


class Absent:
    """A method of PyTorch's tensors that those here lack: reading it raises AttributeError in one sentence."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: Any) -> Any:
        raise AttributeError(f"Tensor.{self.name} {NOT_HERE}")


FORMATS = {  # bits, eps, largest, smallest normal number and resolution of the floating-point dtypes that are not here
    "torch.bfloat16": (16, 2.0**-7, (2 - 2.0**-7) * 2.0**127, 2.0**-126, 0.01),
    "torch.float8_e4m3fn": (8, 2.0**-3, 448.0, 2.0**-6, 1.0),
    "torch.float8_e5m2": (8, 2.0**-2, 57344.0, 2.0**-14, 1.0),
}


class finfo(ta.finfo):  # noqa: N801 - torch's name
    """The limits of a floating-point dtype, also of those that tensors do not have. As torch.finfo."""

    def __init__(self, dtype: Any = None) -> None:
        if repr(dtype) in FORMATS:  # a Refused name
            self.dtype = repr(dtype).removeprefix("torch.")
            self.bits, self.eps, self.max, self.tiny, self.resolution = FORMATS[repr(dtype)]
            self.min, self.smallest_normal = -self.max, self.tiny
        else:
            super().__init__(dtype)
