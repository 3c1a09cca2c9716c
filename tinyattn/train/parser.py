"""The command line of a training script: validated before any work, with errors of one sentence."""

from __future__ import annotations

import argparse
import difflib
import io
import math
import os
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from tinyattn import backends
from tinyattn.backends import device as named
from tinyattn.extras import missing
from tinyattn.files.texts import printable
from tinyattn.files.whole import FileFormatError
from tinyattn.train.checkpoints import NonFiniteError
from tinyattn.train.run import RefusedError, Run


class Parser(argparse.ArgumentParser):
    """An ArgumentParser with one-sentence errors, no abbreviations, and settings recorded by an earlier run.

    Options have no defaults here: `given` returns only what is on the command line, so that `settle` can tell it from
    what an earlier run recorded, and that from the script's defaults.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            argument_default=argparse.SUPPRESS,
            **options,
        )

    def error(self, message: str) -> NoReturn:
        """End with exit code 2 and one sentence on standard error."""
        self.exit(2, f"{self.prog}: {printable(message)}; {self.prog} --help lists the options.\n")

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Parse these words (default: the command line). The error for an unknown option names the nearest one."""
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            word = unknown[0].partition("=")[0]
            near = difflib.get_close_matches(word, self._option_string_actions, n=1)
            self.error(f"there is no option {word}" + (f" (is {near[0]} meant?)" if near else ""))
        return found

    def given(self, words: Sequence[str] | None = None) -> dict[str, Any]:
        """Parse these words (default: the command line) and return the options among them, and no others."""
        return vars(self.parse_args(words))

    def settle(
        self, given: Mapping[str, Any], run: Run | None, defaults: Mapping[str, Any], *, free: Collection[str]
    ) -> argparse.Namespace:
        """Merge the settings of a run: those given, else those that a resumed run recorded, else the defaults.

        free: names of options that a resumed run may change; others may be repeated, with the recorded value.
        """
        if run is None:
            return argparse.Namespace(**{**defaults, **given})
        recorded = {k: v for k, v in run.config["arguments"].items() if not (k in free and k in given)}
        before = {**defaults, **self._validated(recorded, defaults, run.folder / "config.json")}
        for name, value in given.items():
            if name not in free and value != before[name]:
                flag = next(word for word, option in self._option_string_actions.items() if option.dest == name)
                self.error(
                    f"{flag} {value} cannot be changed when a run is resumed, which began with "
                    f"{before[name]}; leave it out, or begin a new run"
                )
        return argparse.Namespace(**{**before, **given})

    def _validated(self, recorded: Mapping[str, Any], defaults: Mapping[str, Any], path: Path) -> dict[str, Any]:
        """Check settings from a file, which may have been edited, by the rules for the command line."""
        options = {action.dest: action for action in self._actions if action.dest in defaults}  # not --help
        found = {}
        for name, value in recorded.items():
            if name not in options:
                self.error(f"{path}: there is no setting {name!r}")
            option, flag = options[name], options[name].nargs == 0
            found[name] = value
            if (value is None and defaults[name] is None) or (flag and isinstance(value, bool)):
                continue
            try:
                if flag:
                    raise argparse.ArgumentError(option, f"{value!r} is neither true nor false")
                found[name] = self._get_value(option, str(value))
                self._check_value(option, found[name])
            except argparse.ArgumentError as error:
                self.error(f"{path}: {error}")
        return found


def device(word: str) -> str:
    """An argument that must be an available device: "cpu", "cuda", or "cuda:1"."""
    try:
        where = backends.full_name(named(word))
        backends.get(where)  # raises if it is not available
    except (ValueError, ImportError, RuntimeError) as why:
        raise argparse.ArgumentTypeError(" ".join(str(why).split()).removesuffix(".")) from None
    return str(where)


def whole_number(text: str) -> int:
    """An argument that must be a whole number above 0."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    if int(text) >= 2**31:
        raise argparse.ArgumentTypeError(f"{text!r} is too large: {2**31 - 1} at most")
    return int(text)


def integer(text: str) -> int:
    """An argument that must be a whole number of either sign."""
    if not text.removeprefix("-").isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


def positive_number(text: str) -> float:
    """An argument that must be a finite number above 0."""
    return _number(text, "a number above 0", lambda value: 0 < value < math.inf)


def probability(text: str) -> float:
    """An argument that must be at least 0 and below 1."""
    return _number(text, "a number of at least 0 and below 1", lambda value: 0 <= value < 1)


def _number(text: str, wanted: str, allowed: Callable[[float], bool]) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not allowed(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}")
    return value


def folder(text: str) -> str:
    """An argument that must be an existing folder."""
    if not os.path.isdir(os.path.expanduser(text)):
        state = "is a file, not a folder" if os.path.exists(os.path.expanduser(text)) else "does not exist"
        raise argparse.ArgumentTypeError(f"{text!r} {state}")
    return os.path.expanduser(text)


def new_folder(text: str) -> str:
    """An argument that must be a writable folder, or a path where one can be created."""
    path = Path(os.path.expanduser(text))
    try:
        nearest = next(p for p in (path, *path.parents) if p.exists())
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text!r} cannot be a folder ({error.strerror})") from None
    if not text or not nearest.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} cannot be a folder" + (f": {nearest} is a file" if text else ""))
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise argparse.ArgumentTypeError(f"{text!r} cannot be written to: {nearest} is read-only")
    return str(path)


def open_streams() -> None:
    """Let standard output show every line at once, and any character; give standard streams that are closed a place.

    A closed standard error (2>&-) goes to standard output. Otherwise its messages would be lost, and the next file
    that is opened would get its number, and with it what libraries print.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.dup2(1, 2) if number == 2 else os.open(os.devnull, os.O_RDWR)  # which gets the lowest free number
    if isinstance(sys.stdout, io.TextIOWrapper):  # by lines, so that a log is complete up to the moment of a kill
        errors = "backslashreplace" if sys.stdout.errors == "strict" else sys.stdout.errors  # a name beyond ASCII
        sys.stdout.reconfigure(line_buffering=True, errors=errors)
    sys.stderr = sys.stderr or sys.stdout or open(os.devnull, "w")  # noqa: SIM115 (for good)


def exit_code(main: Callable[[], int], name: str, advice: Mapping[type[BaseException], str] | None = None) -> int:
    """Run a script's `main` and return its exit code; an error of a known kind becomes one line on standard error.

    2 for what was refused before any work, 1 for what ended the work, 130 for Ctrl-C, 141 for a closed pipe. Errors of
    any other kind are raised. advice: by class, what to print after an error with exit code 1.
    """
    open_streams()
    try:
        return main()
    except BrokenPipeError:  # standard output was closed
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        code, said = 130, "stopped by Ctrl-C."
    except (RefusedError, FileFormatError, ImportError) as error:
        known = missing(error) if isinstance(error, ModuleNotFoundError) else ""
        code, said = 2, known or str(error)
    except (NonFiniteError, OSError, MemoryError) as error:
        code, said = 1, str(error)
        if isinstance(error, MemoryError):
            said = f"out of memory ({said.rstrip('.')})." if said else "out of memory."
        if isinstance(error, OSError) and error.filename:
            said = f"{error.filename} cannot be used ({error.strerror})."
        said += next((f" {text}" for kind, text in (advice or {}).items() if isinstance(error, kind)), "")
    print(f"{name}: {printable(said)}", file=sys.stderr)
    return code
