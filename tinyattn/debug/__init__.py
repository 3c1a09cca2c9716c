"""Debugging tools: gradient checks, anomaly detection, explanations of gradients, memory, and time."""

from tinyattn.debug.anomaly import AnomalyError, detect_anomaly, set_detect_anomaly
from tinyattn.debug.explaining import Explanation, explain
from tinyattn.debug.differences import GradcheckError, NotDifferentiableError, gradcheck, gradgradcheck
from tinyattn.debug.memory import MemoryLedger, memory_ledger
from tinyattn.debug.profiling import Profile, profile

__all__ = [
    "AnomalyError", "Explanation", "GradcheckError", "MemoryLedger", "NotDifferentiableError", "Profile",
    "detect_anomaly", "explain", "gradcheck", "gradgradcheck", "memory_ledger", "profile",
    "set_detect_anomaly",
]  # fmt: skip
