"""What is logged: a constant sentence, and fields."""

import ast
import io
import json
import logging
import re
import sys
from collections.abc import Iterator

import pytest
import structlog

from tests.support.paths import ROOT
from worker import telemetry

WORKER = ROOT / "worker"
LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}


def calls() -> Iterator[tuple[str, ast.Call]]:
    """Give every call of a logger of the worker, with where it is."""
    for file in sorted(WORKER.rglob("*.py")):
        if "sandbox" in file.parts:
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in LEVELS:
                logger = node.func.value
                if (isinstance(logger, ast.Name) and logger.id == "log") or (
                    isinstance(logger, ast.Attribute) and logger.attr == "_log"
                ):
                    yield f"{file.relative_to(WORKER)}:{node.lineno}", node


@pytest.mark.parametrize(("where", "call"), list(calls()), ids=lambda value: value if isinstance(value, str) else "")
def test_a_message_is_constant_and_all_else_is_a_field(where: str, call: ast.Call) -> None:
    [message] = call.args
    assert isinstance(message, ast.Constant), where
    assert isinstance(message.value, str)
    names = {keyword.arg for keyword in call.keywords}
    assert None not in names  # no **fields: what is logged is to be seen here
    assert names.isdisjoint({"student", "student_id", "login", "user", "user_id", "key", "value", "token"})


def logging_to(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    monkeypatch.setattr(sys, "stderr", stream)
    telemetry.configure_logging("info")
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(stream))  # pytest has its own by then
    return stream


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Give what is logged, as where there is no terminal."""
    return logging_to(io.StringIO(), monkeypatch)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Give what is logged to a terminal."""
    return logging_to(Terminal(), monkeypatch)


def test_what_libraries_log_has_the_same_form(logged: io.StringIO) -> None:
    logging.getLogger("librdkafka").warning("%s:%d is down", "broker", 9092)
    logging.getLogger("librdkafka").info("chatter")
    structlog.get_logger().info("started", web="http://127.0.0.1:9464")
    lines = [json.loads(line) for line in logged.getvalue().splitlines()]
    assert [(line["event"], line["level"]) for line in lines] == [("a library says", "warning"), ("started", "info")]
    assert (lines[0]["library"], lines[0]["text"]) == ("librdkafka", "broker:9092 is down")


def test_no_field_steers_the_terminal_that_it_is_shown_on(terminal: io.StringIO) -> None:
    token = "0123456789abcdef"

    def fail(_secret: str) -> None:
        raise ValueError("\x1b]0;owned\x07")

    try:
        fail(token)
    except ValueError:
        structlog.get_logger().exception("failed", cohort="\x1b[2JL1\u202eIORD\x9b31m")
    shown = re.sub("\x1b\\[[0-9;]*m", "", terminal.getvalue())  # colours of ours
    assert shown.replace("\n", "").isprintable()
    assert r"\u001b[2JL1\u202eIORD\u009b31m" in shown
    assert "ValueError" in shown
    assert token not in shown
