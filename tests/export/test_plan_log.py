import io
import signal
import threading

import pytest

from irstd.export.plan_log import BuildLog, Progress, StatusLine


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_what_matters_of_a_log_is_kept():
    log = BuildLog()
    assert (log.memory_bytes, log.tell_errors()) == (None, "it does not say why")
    for text in (
        "Layers:\nName: a",
        "Total Activation Memory: 800 bytes",
        "Total Weights Memory: 100 bytes",
        "Total Activation Memory: 900 bytes",  # of a second GPU
        "Total Host Persistent Memory: 80 bytes",
    ):
        log.keep(text, is_error=False)
    for text in ("one", "two\n", "In catchCudaError: error 35", "three", "four"):
        log.keep(text, is_error=True)
    assert log.dumps == ["Layers:\nName: a"]
    assert log.memory_bytes == 1000
    assert log.tell_errors() == "two; three; four"


def test_progress_tells_the_phases_that_run():
    seen = []
    progress = Progress(seen.append)
    progress.begin("Building", 3)
    progress.begin("Timing", 10)
    assert progress.step("Timing", 0)
    progress.end("Timing")
    assert progress.step("Building", 0)
    progress.end("Building")
    progress.end("never begun")
    assert seen == [
        "Building 0/3",
        "Building 0/3, Timing 0/10",
        "Building 0/3, Timing 1/10",
        "Building 1/3",
    ]


def test_an_interrupt_stops_the_build_at_its_next_step_and_a_second_one_the_process():
    progress = Progress(lambda text: None)
    before = signal.getsignal(signal.SIGINT)
    with progress.stopped_by_user():
        assert progress.step("Building", 0)
        signal.raise_signal(signal.SIGINT)
        assert progress.is_cancelled
        assert not progress.step("Building", 1)
        assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) == before


def test_a_thread_has_no_say_in_interrupts():
    progress, seen = Progress(lambda text: None), []

    def build():
        with progress.stopped_by_user():
            seen.append(signal.getsignal(signal.SIGINT))

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=build)
    thread.start()
    thread.join()
    assert seen == [before]


def test_a_person_sees_one_line(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    with StatusLine("TensorRT", terminal) as line:
        line("Building 1/3")
        line("Building 2/3")  # too soon to be read
    assert terminal.getvalue() == "\r\x1b[KTensorRT: Building 1/3 (0 s)\r\x1b[K"


@pytest.mark.parametrize("terminal", [io.StringIO, Terminal])
def test_a_file_and_a_dumb_terminal_see_nothing(terminal, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    stream = terminal()
    with StatusLine("TensorRT", stream) as line:
        line("Building 1/3")
    assert stream.getvalue() == ""
