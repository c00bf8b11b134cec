"""Log lines."""

import json
import logging
import sys
from collections.abc import Iterator

import pytest

from vllm_operator.app.logs import JsonFormatter, configure


@pytest.fixture(autouse=True)
def _root_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.parametrize(
    "message", ["plain", 'with "quotes"', "two\nlines", "\r\n\t\x00", "tensor × pipeline", "\u2028"]
)
def test_one_json_object_a_line(capsys: pytest.CaptureFixture[str], message: str) -> None:
    configure(log_format="json", level="info")
    logging.getLogger("vllm_operator.x").warning("%s", message)
    out = capsys.readouterr().err
    assert out.count("\n") == 1
    line = json.loads(out)
    assert line["message"] == message
    assert line["level"] == "warning"
    assert line["logger"] == "vllm_operator.x"
    assert line["time"].endswith("Z")


def test_a_traceback_is_in_the_same_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure(log_format="json", level="info")
    try:
        raise KeyError("inner")
    except KeyError:
        logging.getLogger("x").exception("it failed")
    out = capsys.readouterr().err
    assert out.count("\n") == 1
    line = json.loads(out)
    assert line["message"] == "it failed"
    assert "KeyError: 'inner'" in line["exception"]


def test_levels(capsys: pytest.CaptureFixture[str]) -> None:
    configure(log_format="json", level="warning")
    logging.getLogger("x").info("quiet")
    logging.getLogger("x").warning("loud")
    assert "quiet" not in (out := capsys.readouterr().err)
    assert "loud" in out


def test_text(capsys: pytest.CaptureFixture[str]) -> None:
    configure(log_format="text", level="info")
    logging.getLogger("x").info("a message")
    assert capsys.readouterr().err.endswith("INFO    a message\n")


@pytest.mark.parametrize("name", ["httpx", "httpcore", "kubernetes", "aiohttp.access"])
def test_libraries_that_log_each_request_are_quiet(capsys: pytest.CaptureFixture[str], name: str) -> None:
    configure(log_format="json", level="debug")
    logging.getLogger(name).info("GET /?token=secret")
    assert capsys.readouterr().err == ""


def test_time_is_that_of_the_record() -> None:
    record = logging.LogRecord("x", logging.INFO, "f", 1, "m", (), None)
    record.created = 0.5
    assert json.loads(JsonFormatter().format(record))["time"] == "1970-01-01T00:00:00.500Z"
    assert sys.stderr is not None
