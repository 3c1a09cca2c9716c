"""With this folder on PYTHONPATH, `import cupy` finds the stand-in: for tests that start processes."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2]))
del sys.modules["cupy"]  # this module; the import gives what stands there afterwards

import standin  # noqa: E402

standin.install()
