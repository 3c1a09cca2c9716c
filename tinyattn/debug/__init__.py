"""Finding out why: checked gradients, the first NaN, what a gradient is made of, who holds the memory."""

from tinyattn.debug.anomaly import AnomalyError, detect_anomaly
from tinyattn.debug.explain import Explanation, explain
from tinyattn.debug.gradcheck import GradcheckError, NotDifferentiableError, gradcheck, gradgradcheck
from tinyattn.debug.memory import MemoryLedger, memory_ledger

__all__ = [
    "AnomalyError", "Explanation", "GradcheckError", "MemoryLedger", "NotDifferentiableError", "detect_anomaly",
    "explain", "gradcheck", "gradgradcheck", "memory_ledger",
]  # fmt: skip
