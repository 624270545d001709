import threading
import time

import pytest

from lipo_e_ray.progress import Message, Snapshot, Waiting, clock, one_at_a_time
from lipo_e_ray.search.hyperband import Position
from lipo_e_ray.types import Observation

BEST = Observation("p", 49, 128)


def snapshot(done=10, rung=1, bracket=2, rate=20.0, best=BEST, opened=1) -> Snapshot:
    position = Position(
        bracket=bracket,
        brackets=9,
        open=opened,
        stage="hyperband",
        rung=rung,
        rungs=4,
        fidelity=32,
        done=0,
        planned=5000,
        incumbent=best,
    )
    return Snapshot(position, done, rate, calls=1300, failed=2, engines_ready=3, engines=4)


def test_other_open_brackets_are_counted():
    assert "| bracket 3/9 (+2) |" in str(snapshot(opened=3))


def test_unknown_is_said_and_not_guessed():
    shown = str(snapshot(rate=0.0, best=None))
    assert "best none yet" in shown
    assert shown.endswith("left unknown")


def test_time_left_is_the_rest_over_the_rate():
    assert snapshot(done=4000, rate=10.0).seconds_left == 100
    assert snapshot(done=6000, rate=10.0).seconds_left == 0
    assert snapshot(rate=0.0).seconds_left is None


def test_every_event_is_a_line():
    assert str(Message("asking the model")) == "asking the model"
    assert (str(Waiting("a GPU")), str(Waiting(""))) == ("waiting: a GPU", "waiting for nothing")


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (754, "12:34"), (3661, "1:01:01")])
def test_clock(seconds, text):
    assert clock(seconds) == text


def test_a_listener_is_called_by_one_thread_at_a_time():
    inside, most = [], []

    def listen(event):
        inside.append(event)
        time.sleep(0.01)
        most.append(len(inside))
        inside.remove(event)

    tell = one_at_a_time(listen)
    threads = [threading.Thread(target=tell, args=(Message(str(i)),)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 4
