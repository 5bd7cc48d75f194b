"""Output that every terminal takes: characters that its encoding lacks are written in ASCII."""

from __future__ import annotations

import codecs
import contextlib
import sys
from collections.abc import Iterator

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
    if character in _FALLBACK:
        return _FALLBACK[character]
    if 0x2500 <= ord(character) <= 0x259F:  # lines of boxes, and blocks
        return "-" if character in "─━═╌╍┄┅┈┉" else "|" if character in "│┃║╎╏┆┇┊┋" else "+"
    return "?"


codecs.register_error("metagrad", _in_ascii)


@contextlib.contextmanager
def any_terminal() -> Iterator[None]:
    """Let standard output and standard error take every character, for as long as this is entered."""
    before = []
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            before.append((stream, stream.errors))
            stream.reconfigure(errors="metagrad")
    try:
        yield
    finally:
        for stream, errors in before:
            with contextlib.suppress(ValueError, OSError):  # closed meanwhile, or its terminal is gone
                stream.reconfigure(errors=errors)
