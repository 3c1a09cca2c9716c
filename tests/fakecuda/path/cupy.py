"""With this folder on PYTHONPATH, `import cupy` finds CuPy on the processor: for tests that start processes."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:] = [place for place in sys.path if Path(place).resolve() != HERE] + [str(HERE.parents[1])]
del sys.modules["cupy"]  # this module; the import gives what is there afterwards

import fakecuda  # noqa: E402

fakecuda.install()
import cupy  # noqa: E402, F401
