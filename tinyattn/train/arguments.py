"""The command line of a training script: what is wrong is said in one sentence, before any work."""

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
from tinyattn.files.whole import FileFormatError
from tinyattn.train.errors import NonFiniteError, RefusedError


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that reports one sentence, takes no abbreviations, and can check recorded settings.

    Options have no defaults here: what `given` returns is what stands on the command line, so that
    `settle` can tell it from what an earlier run recorded, and that from the script's defaults.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            argument_default=argparse.SUPPRESS,
            **options,
        )
        self._source = ""  # where the words come from that are looked at, if not from the command line

    def error(self, message: str) -> NoReturn:
        """End with exit code 2 and one sentence on standard error."""
        self.exit(2, f"{self.prog}: {self._source}{message}; {self.prog} --help lists what can be said.\n")

    def given(self, words: Sequence[str] | None = None) -> dict[str, Any]:
        """The options among these words (those of the command line), and no others."""
        found, unknown = self.parse_known_args(words)
        if unknown:
            word = unknown[0].partition("=")[0]
            near = difflib.get_close_matches(word, self._option_string_actions, n=1)
            self.error(f"there is no option {word}" + (f" (is {near[0]} meant?)" if near else ""))
        return vars(found)

    def settle(
        self,
        given: Mapping[str, Any],
        recorded: Mapping[str, Any],
        defaults: Mapping[str, Any],
        *,
        free: Collection[str],
        source: str | os.PathLike[str] = "",
    ) -> argparse.Namespace:
        """The settings of a run: what was given, else what an earlier run recorded, else the defaults.

        free: names of options that a resumed run may change; others may be repeated, with the recorded
        value. source: the file that the record comes from.
        """
        anew = {*given} & {*free}
        self._source = f"{source}: "
        checked = self.given(self._words({name: value for name, value in recorded.items() if name not in anew}))
        self._source = ""
        for name, value in given.items():
            before = {**defaults, **checked}.get(name)
            if recorded and name not in free and value != before:
                self.error(
                    f"{self.flag(name)} {value} cannot be changed when a run is resumed, which began with "
                    f"{before}; leave it out, or begin a new run"
                )
        return argparse.Namespace(**{**defaults, **checked, **given})

    def flag(self, name: str) -> str:
        """The option as it is written, --batch-size for batch_size."""
        return next((a.option_strings[-1] for a in self._actions if a.dest == name and a.option_strings), name)

    def _words(self, recorded: Mapping[str, Any]) -> list[str]:
        """The command line that says what was recorded: it is checked as one that somebody typed."""
        words = []
        for name, value in recorded.items():
            if name not in {action.dest for action in self._actions}:
                self.error(f"there is no setting {name!r}")
            if value is not None and value is not False:
                words.append(self.flag(name) + ("" if value is True else f"={value}"))
        return words


def device(word: str) -> str:
    """A device that can be used here: "cpu", "cuda", or "cuda:1"."""
    try:
        where = backends.full_name(named(word))
        backends.get(where)  # there, or the error says why not
    except (ValueError, ImportError, RuntimeError) as why:
        raise argparse.ArgumentTypeError(" ".join(str(why).split()).removesuffix(".")) from None
    return str(where)


def whole_number(text: str) -> int:
    """An argument that must be a whole number above 0."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    if int(text) >= 2**31:
        raise argparse.ArgumentTypeError(f"{text!r} is more than can be counted: {2**31 - 1} at most")
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
    """An argument that must be a folder that is there."""
    if not os.path.isdir(os.path.expanduser(text)):
        state = "is a file, not a folder" if os.path.exists(os.path.expanduser(text)) else "does not exist"
        raise argparse.ArgumentTypeError(f"{text!r} {state}")
    return os.path.expanduser(text)


def new_folder(text: str) -> str:
    """An argument that must be a folder, or a path where one can be made."""
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


def exit_code(main: Callable[[], int], name: str) -> int:
    """Run a script's `main`; what can go wrong becomes one sentence on standard error and an exit code.

    2 for what was refused before any work, 1 for what ended the work, 130 for Ctrl-C. Mistakes of
    the script itself keep their traceback.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # so that a log shows how far a killed run came
    try:
        return main()
    except KeyboardInterrupt:
        code, said = 130, "stopped by Ctrl-C."
    except (RefusedError, FileFormatError, ImportError) as error:
        code, said = 2, str(error)
    except BrokenPipeError:  # nobody reads what is printed any more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except NonFiniteError as error:
        code, said = 1, str(error)
    except OSError as error:
        code, said = 1, f"{error.filename} cannot be used ({error.strerror})." if error.filename else str(error)
    print(f"{name}: {said}", file=sys.stderr)
    return code
