"""What surrounds a training loop: the run's folder and its checkpoints, signals, the progress bar, evaluation,
statistics of layers."""

from tinyattn.train.arguments import Parser, exit_code
from tinyattn.train.checkpoints import Checkpoints
from tinyattn.train.environment import changed_versions, fingerprint, git_state, versions
from tinyattn.train.evaluate import predict
from tinyattn.train.errors import NonFiniteError, RefusedError
from tinyattn.train.nonfinite import BadBatch, batch_is_not_finite, step_if_finite
from tinyattn.train.progress import Progress
from tinyattn.train.random_states import RandomStates
from tinyattn.train.run import Run
from tinyattn.train.signals import StopSignals
from tinyattn.train.tally import Tally
from tinyattn.train.watch import LayerStats

__all__ = [
    "BadBatch", "Checkpoints", "LayerStats", "NonFiniteError", "Parser", "Progress", "RandomStates", "RefusedError",
    "Run", "StopSignals", "Tally", "batch_is_not_finite", "changed_versions", "exit_code", "fingerprint", "git_state",
    "predict", "step_if_finite", "versions",
]  # fmt: skip
