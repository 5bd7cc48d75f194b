"""A run as a process: signals that ask it to stop, and a terminal that may not know every character.

The first signal lets a run finish what it is at and save, the second stops it at once.
"""

from __future__ import annotations

import codecs
import contextlib
import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def resume_command(folder: Path, command: str = "train") -> str:
    """The command that goes on with a run; ``sweep`` is that of a study."""
    name = os.fspath(folder)
    # A name that starts with a dash would be read as an option.
    return f"metagrad {command} --resume {shlex.quote(f'./{name}' if name.startswith('-') else name)}"


class Stopped(KeyboardInterrupt):
    """The signal ``number`` stopped the run; the message says how to go on."""

    def __init__(self, number: int, message: str = "") -> None:
        super().__init__(message)
        self.number = number


class Stopping:
    """While entered, SIGINT, SIGTERM and SIGHUP raise :class:`Stopped`; those that the process ignores stay ignored.

    Python calls handlers in the main thread alone, so elsewhere nothing is installed. ``asked`` is the signal that came
    first while stopping was deferred.
    """

    def __init__(self, folder: Path) -> None:
        self.asked: int | None = None
        self._folder = folder
        self._deferred = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stopping:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if (before := signal.getsignal(number)) not in (signal.SIG_IGN, None):
                    self._before[number] = before
                    signal.signal(number, self._handle)
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
        if isinstance(error, Stopped):
            name = signal.Signals(error.number).name
            written = (self._folder / "config.json").is_file()
            advice = f"go on with `{resume_command(self._folder)}`" if written else "nothing was trained yet"
            raise Stopped(error.number, f"stopped by {name}; {advice}") from None

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Put off the first signal: the body looks at :attr:`asked`, and is left by :class:`Stopped` if it is set."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False
        if self.asked is not None:
            raise Stopped(self.asked)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self._deferred or self.asked is not None:
            raise Stopped(number)
        self.asked = number
        text = f"metagrad: {signal.Signals(number).name}: finishing the iteration; once more to stop at once\n"
        with contextlib.suppress(OSError):  # the terminal may be gone
            os.write(2, text.encode())


_FALLBACK = {
    "±": "+-", "…": "...", "–": "-", "—": "-", "−": "-", "×": "x", "≥": ">=", "≤": "<=", "→": "->", "·": ".",
    "‘": "'", "’": "'", "“": '"', "”": '"', "•": "*", "θ": "theta", "η": "eta", "φ": "phi", "γ": "gamma", "λ": "lambda",
}  # fmt: skip


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    """What to write for characters that cannot be encoded."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_replacement, error.object[error.start : error.end])), error.end


def _replacement(character: str) -> str:
    if 0x2500 <= ord(character) <= 0x259F:  # lines of boxes, and blocks
        return "-" if character in "─━═╌╍┄┅┈┉" else "|" if character in "│┃║╎╏┆┇┊┋" else "+"
    return _FALLBACK.get(character, "?")


codecs.register_error("metagrad", _in_ascii)


@contextlib.contextmanager
def any_terminal() -> Iterator[None]:
    """Let standard output and standard error take every character, for as long as this is entered."""
    before = [(stream, stream.errors) for stream in (sys.stdout, sys.stderr) if hasattr(stream, "reconfigure")]
    for stream, _ in before:
        stream.reconfigure(errors="metagrad")
    try:
        yield
    finally:
        for stream, errors in before:
            with contextlib.suppress(ValueError, OSError):  # closed meanwhile, or its terminal is gone
                stream.reconfigure(errors=errors)
