"""What surrounds a training loop: a folder for the run, the progress bar, the evaluation, statistics of layers."""

from tinyattn.train.evaluate import predict
from tinyattn.train.progress import Progress
from tinyattn.train.run import Run
from tinyattn.train.watch import LayerStats

__all__ = ["LayerStats", "Progress", "Run", "predict"]
