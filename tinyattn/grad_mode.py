"""Whether operations are recorded: no_grad and its like. As torch.autograd.grad_mode."""

from __future__ import annotations

from typing import Any

from tinyattn.engine.modes import Function, Mode, entered, grad_mode, with_or_without_brackets


@with_or_without_brackets
def no_grad() -> Mode:
    """Record nothing: `with no_grad():`, or `@no_grad()` before a function. As torch.no_grad.

    >>> x = ta.ones(2, requires_grad=True)
    >>> with ta.no_grad():
    ...     (x * 2).requires_grad
    False
    """
    return Mode(grad_mode, False)


@with_or_without_brackets
def enable_grad() -> Mode:
    """Record again inside a `no_grad` block. As torch.enable_grad.

    >>> with ta.no_grad(), ta.enable_grad():
    ...     ta.is_grad_enabled()
    True
    """
    return Mode(grad_mode, True)


def inference_mode(mode: bool = True) -> Mode:
    """Record nothing, as `no_grad`; with False, leave recording as it is. As torch.inference_mode.

    >>> with ta.inference_mode():
    ...     ta.is_grad_enabled()
    False
    """
    return Mode(grad_mode, not mode and grad_mode.get())


class set_grad_enabled(Mode):  # noqa: N801 - torch's name
    """Switch recording at once; as a context manager or decorator, only there. As torch.set_grad_enabled.

    Raises TypeError for anything but True and False.

    >>> with ta.set_grad_enabled(False):
    ...     ta.is_grad_enabled()
    False
    """

    def __init__(self, mode: bool) -> None:
        if not isinstance(mode, bool):
            raise TypeError(f"set_grad_enabled: got {mode!r}; expected True or False")
        super().__init__(grad_mode, mode)
        self._before = grad_mode.get()
        grad_mode.set(mode)

    def __call__(self, function: Function) -> Function:
        grad_mode.set(self._before)  # a decorator changes the function alone
        return Mode(grad_mode, self._value)(function)

    def _previous(self) -> Any:  # a block ends with the mode before the call that switched, nested ones do not
        return grad_mode.get() if any(mode is self for mode, _ in entered.get()) else self._before


def is_grad_enabled() -> bool:
    """Return whether operations are recorded here. As torch.is_grad_enabled.

    >>> ta.is_grad_enabled()
    True
    """
    return grad_mode.get()
