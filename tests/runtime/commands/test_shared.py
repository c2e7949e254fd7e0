import io
import sys

from irstd.runtime.commands.shared import track


class Terminal(io.StringIO):
    """Somebody who watches."""

    def isatty(self) -> bool:
        return True


def terminal_for(monkeypatch):
    """Set in the test itself: pytest gives each phase of a test a standard error of its own."""
    seen = Terminal()
    monkeypatch.setattr(sys, "stderr", seen)
    monkeypatch.setenv("TERM", "xterm")
    return seen


def test_a_person_sees_the_bar_and_what_is_said(monkeypatch):
    terminal = terminal_for(monkeypatch)
    said = []

    def say(item):
        said.append(item)
        return "" if item is None else f"loss {item}"

    assert list(track([3, 2, 1], label="training", count=3, say=say)) == [3, 2, 1]
    assert {1, 2, 3} <= set(said)
    assert "training" in terminal.getvalue() and "loss 1" in terminal.getvalue()


def test_nobody_sees_a_bar_in_a_log(monkeypatch):
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    assert list(track("ab", label="training", count=2)) == ["a", "b"]
    assert log.getvalue() == ""


def test_a_dumb_terminal_sees_no_bar(monkeypatch):
    terminal = terminal_for(monkeypatch)
    monkeypatch.setenv("TERM", "dumb")
    assert list(track("ab", label="training", count=2)) == ["a", "b"]
    assert terminal.getvalue() == ""
