"""Parts of the example scripts: options, models, data and pictures that are not in the scripts themselves.

Each script imports `run_script` first, and ends with it. From then on a package that is not installed ends
the script with one sentence and exit code 2. A clone works without having been installed.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import NoReturn

EXAMPLES = Path(__file__).resolve().parents[1]
SCRIPT = Path(sys.argv[0])


def run_script(main: Callable[[], int], advice: Mapping[type[BaseException], str] | None = None) -> NoReturn:
    """End with the exit code of a script's `main`; see `train.exit_code`."""
    from tinyattn import train

    sys.exit(train.exit_code(main, SCRIPT.name, advice))


def _report(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """Print one sentence for a package that is not installed, and a traceback for every other error."""
    missing = runpy.run_path(str(EXAMPLES.parent / "tinyattn/extras.py"))["missing"]  # without NumPy
    if not isinstance(error, ModuleNotFoundError) or not (sentence := missing(error)):
        return sys.__excepthook__(kind, error, traceback)
    print(f"{SCRIPT.name}: {sentence}", file=sys.stderr)
    raise SystemExit(2)


if SCRIPT.resolve().parent == EXAMPLES:  # not where a test or a notebook imports a script
    sys.excepthook = _report
sys.path.append(str(EXAMPLES.parent))  # where tinyattn is, if it is not installed
