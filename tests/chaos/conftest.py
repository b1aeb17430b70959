"""Prints the table of faults once all are over."""

import pytest

from tests.chaos.faults import table


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Fault, what happens, seconds to recover."""
    for line in table():
        terminalreporter.write_line(line)
