"""Gradients of whole functions: what starts the engine's walk.

gradients.py   grad() and backward()
transforms.py  vjp, jvp, jacobian, hessian, hvp: derivatives as functions
function.py    Function: operations with gradients of their own, written on tensors
recompute.py   checkpoint(): compute again in the backward pass instead of saving
"""

from tinyattn.autograd.function import Function, FunctionCtx, once_differentiable
from tinyattn.autograd.gradients import backward, grad
from tinyattn.autograd.recompute import checkpoint
from tinyattn.autograd.transforms import hessian, hvp, jacobian, jvp, vjp
