"""What surrounds a training loop: the folder a run writes to, the progress bar, the evaluation."""

from tinyattn.train.evaluate import predict
from tinyattn.train.progress import Progress
from tinyattn.train.run import Run

__all__ = ["Progress", "Run", "predict"]
