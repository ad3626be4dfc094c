"""What is costly to open or to read, kept for the next who asks: open slides, blocks of pixels."""

import os
from collections import OrderedDict
from collections.abc import Callable
from threading import Lock
from typing import Any, Generic, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class Kept(Generic[Key, Value]):
    """The most recently used values, made when they are first asked for. Safe for threads.

    A value that is slow to make holds up only those who want this one, and is made once for all of them. A copy in
    another process begins empty: neither a lock nor an open file may be taken over from the process that forked it.
    """

    def __init__(self, make: Callable[[Key], Value], limit: int) -> None:
        """Args:
        make: key -> value. A value frees what it holds when its last name is dropped.
        limit: how many are kept.
        """
        self._make, self._limit = make, limit
        self._state = _State[Key, Value]()

    def get(self, key: Key) -> Value:
        """The value of `key`. Raises what `make` raises; the next call then tries again."""
        state = self._mine()
        with state.lock:
            place = state.places.get(key)
            if place is not None:
                state.places.move_to_end(key)
            else:
                place = state.places[key] = _Place[Value]()
                if len(state.places) > self._limit:
                    # Only the name is dropped: another thread may be reading from the value.
                    state.places.popitem(last=False)
        if place.value is None:
            with place.lock:
                if place.value is None:
                    place.value = (self._make(key),)
        return place.value[0]

    def forget(self, key: Key) -> None:
        """Make the value anew when it is asked for again."""
        state = self._mine()
        with state.lock:
            state.places.pop(key, None)

    def _mine(self) -> "_State[Key, Value]":
        state = self._state
        if state.process != os.getpid():
            state = self._state = _State[Key, Value]()
        return state

    def __reduce__(self) -> tuple[Any, ...]:
        return Kept, (self._make, self._limit)


class _State(Generic[Key, Value]):
    """What belongs to one process."""

    def __init__(self) -> None:
        self.process, self.lock = os.getpid(), Lock()
        self.places: OrderedDict[Key, _Place[Value]] = OrderedDict()


class _Place(Generic[Value]):
    """A value, once it is made, and the lock of those who wait for it."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.value: tuple[Value] | None = None
