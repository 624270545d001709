import io
import threading
import time
from itertools import pairwise

import pytest
from rich.console import Console

from lipo_e_ray.app.display import Display
from lipo_e_ray.progress import Message, Waiting
from tests.test_progress import snapshot


@pytest.fixture
def out():
    return io.StringIO()


@pytest.fixture
def display(out):
    with Display(Console(file=out, width=60)) as display:
        yield display


def test_a_line_says_all_of_it(display, out):
    display(snapshot())
    assert out.getvalue() == (
        "[ 0:00] hyperband | bracket 3/9 | rung 2/4 (32 examples) | evaluations 10/5,000 | speed 20.0/s | "
        "best 38.3% error on 128 examples | calls 1,300 (2 failed) | engines 3/4 | left ~4:10\n"
    )


def test_one_line_for_each_change_of_place(display, out):
    for shown in (snapshot(), snapshot(done=20), snapshot(rung=2), snapshot(rung=2, done=30), snapshot(bracket=3)):
        display(shown)
    assert [line.split(" | ")[1:3] for line in out.getvalue().splitlines()] == [
        ["bracket 3/9", "rung 2/4 (32 examples)"],
        ["bracket 3/9", "rung 3/4 (32 examples)"],
        ["bracket 4/9", "rung 2/4 (32 examples)"],
    ]


def test_sentences_are_text_and_stay_on_their_line(display, out):
    display(Message("[red]new[/red] :smile:\x1b[2J\ntwo"))
    assert out.getvalue() == "[ 0:00] [red]new[/red] :smile: [2J two\n"


def wait_for(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_heartbeat_repeats_the_newest_state(out):
    with Display(Console(file=out), heartbeat=0.02) as display:
        wait_for(lambda: "still: starting" in out.getvalue())
        display(snapshot(done=77))
        wait_for(lambda: "still: hyperband | bracket 3/9" in out.getvalue())
        display(Message("measuring"))
        wait_for(lambda: "still: measuring" in out.getvalue())
    written = out.getvalue()
    time.sleep(0.06)
    assert out.getvalue() == written
    assert not [t for t in threading.enumerate() if t.name == "display-heartbeat"]


def test_a_line_at_least_every_30_seconds_also_when_nothing_changes(out):
    """On a clock of its own: the thread sleeps as long as ``beat`` says, here 3 s longer each time."""
    clock, written = [0.0], [0.0]
    display = Display(Console(file=out, width=60), now=lambda: clock[0])
    display(snapshot(rate=0.0))
    while clock[0] < 600:
        sleep = display.beat()
        if out.getvalue().count("\n") > len(written):
            written.append(clock[0])
        display(snapshot(rate=0.0))  # no change: no line, and none is put off
        clock[0] += sleep + 3
    assert max(after - before for before, after in pairwise(written)) <= 30
    assert written[-1] > 570


def test_a_heartbeat_says_what_the_run_waits_for(out):
    clock = [0.0]
    display = Display(Console(file=out, width=60), now=lambda: clock[0])
    display(Message("asking the model"))
    display(Waiting("engine 2 waits for 0.9 GPU, for 65 s"))
    clock[0] = 20.0
    display.beat()
    display(Waiting(""))
    clock[0] = 40.0
    display.beat()
    assert out.getvalue().splitlines()[1:] == [
        "[ 0:20] still: asking the model | engine 2 waits for 0.9 GPU, for 65 s",
        "[ 0:40] still: asking the model",
    ]


def test_in_a_terminal_a_panel_holds_the_facts_and_goes_away(out):
    console = Console(file=out, force_terminal=True, width=100, color_system=None)
    with Display(console) as display:
        display(snapshot())
        display(Message("engines ready"))
        wait_for(lambda: "rung 2/4" in out.getvalue())
    shown = out.getvalue()
    for fact in ("bracket 3/9", "10/5,000", "38.3% error on 128 examples", "~4:10", "20.0/s", "engines ready"):
        assert fact in shown
    assert not display._live.is_started


def test_stop_twice_does_nothing(display):
    display.stop()
    display.stop()
