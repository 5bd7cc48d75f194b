"""One call at a time, until it is closed: what every object that steps arrays in place needs."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any, Self, TypeVar

Method = TypeVar("Method", bound=Callable[..., Any])


class Guarded:
    """An object whose :func:`exclusive` methods run one at a time; a second thread is told so, not made to wait.

    Compiled loops run without the interpreter's lock, so two threads that step one object would mix their steps.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._closed = False

    def close(self) -> None:
        """End its use: later calls are refused. Closing twice is allowed; arrays that were handed out stay valid."""
        if not self._closed:
            if not self._lock.acquire(blocking=False):
                raise refusal(self, "close")
            self._closed = True  # and the lock is kept for ever

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._closed

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def exclusive(method: Method) -> Method:
    """Let a method of a :class:`Guarded` object run only while no other such method of it runs."""

    @functools.wraps(method)
    def guarded(self, *args, **kwargs):
        lock = self._lock
        if not lock.acquire(False):
            raise refusal(self, method.__name__)
        try:
            return method(self, *args, **kwargs)
        finally:
            lock.release()

    return guarded  # type: ignore[return-value]


def refusal(guarded: Guarded, method: str) -> RuntimeError:
    """Why a call cannot run now."""
    kind = type(guarded).__name__
    if guarded.closed:
        return RuntimeError(f"{method}() after close(): this {kind} can no longer be used")
    return RuntimeError(f"{method}() while another thread is inside this {kind}: give each thread an object of its own")
