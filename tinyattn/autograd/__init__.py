"""Gradients of whole functions: grad and backward, transforms (vjp, jvp, jacobian, hessian, hvp), recomputation."""

from tinyattn.autograd.gradients import backward, grad
