"""What surrounds a training loop: the run's folder, checkpoints, the session that keeps them, evaluation, statistics of
layers, and a command-line parser."""

from tinyattn.train.run import Follower, RefusedError, Run
from tinyattn.train.run import changed_versions, fingerprint, git_state, versions
from tinyattn.train.checkpoints import Checkpoints, NonFiniteError, RandomStates
from tinyattn.train.tally import BadBatch, Tally, batch_is_not_finite, step_if_finite
from tinyattn.train.session import Progress, Session, StopSignals
from tinyattn.train.watch import LayerStats, predict
from tinyattn.train.loading import LoadedRun, load_run
from tinyattn.train.parser import Parser, exit_code

__all__ = [name for name, x in globals().items() if getattr(x, "__module__", "").startswith("tinyattn.train.")]
