"""Values that are kept for the next who asks."""

import multiprocessing
import pickle
import threading
import time

import pytest

from g2l.data.kept import Kept


def test_the_most_recently_used_stay() -> None:
    made: list[int] = []

    def make(key: int) -> list[int]:
        made.append(key)
        return [key]

    kept = Kept(make, 2)
    one = kept.get(1)
    kept.get(2)
    assert kept.get(1) is one
    kept.get(3)  # 2 goes: 1 was used after it
    assert kept.get(1) is one and made == [1, 2, 3]
    kept.get(2)
    assert made == [1, 2, 3, 2]
    kept.forget(1)
    assert kept.get(1) == [1] and made == [1, 2, 3, 2, 1]


def test_a_slow_one_holds_up_only_those_who_want_it_and_is_made_once() -> None:
    go, made = threading.Event(), []

    def make(key: str) -> str:
        made.append(key)
        if key == "slow":
            assert go.wait(10)
        return key

    kept = Kept(make, 8)
    waiting = [threading.Thread(target=kept.get, args=("slow",)) for _ in range(3)]
    for thread in waiting:
        thread.start()
    while "slow" not in made:
        time.sleep(0.001)
    assert kept.get("quick") == "quick" and all(thread.is_alive() for thread in waiting)
    go.set()
    for thread in waiting:
        thread.join(10)
    assert sorted(made) == ["quick", "slow"]


def test_what_cannot_be_made_is_tried_again() -> None:
    answers = iter([ValueError("once"), None])

    def make(key: int) -> int:
        answer = next(answers)
        if answer:
            raise answer
        return key

    kept = Kept(make, 1)
    with pytest.raises(ValueError, match="once"):
        kept.get(5)
    assert kept.get(5) == 5


def _same(kept: Kept[int, object], known: int, answer: "multiprocessing.SimpleQueue[bool]") -> None:
    answer.put(id(kept.get(0)) == known)


def _fresh(key: int) -> object:
    return object()


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
def test_another_process_begins_with_nothing() -> None:
    kept = Kept(_fresh, 2)
    held = kept.get(0)
    context = multiprocessing.get_context("fork")
    answer = context.SimpleQueue()
    # a lock that another thread holds at the time of the fork is never released in the child
    with kept._state.lock:
        child = context.Process(target=_same, args=(kept, id(held), answer))
        child.start()
        child.join(60)
    assert not answer.empty() and not answer.get()
    copy = pickle.loads(pickle.dumps(kept))  # noqa: S301  our own bytes
    assert copy.get(0) is not held and kept.get(0) is held
