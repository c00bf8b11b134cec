"""The process that starts the gateway's agent again."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SUPERVISE = "import sys; from vllm_operator.app import supervisor as s; s.FIRST_PAUSE = 0.05; sys.exit(s.supervise(sys.argv[1:]))"


@contextmanager
def supervised(script: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    words = [sys.executable, "-c", SUPERVISE, sys.executable, "-c", script, *arguments]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        # What it has started ends with it, unless it ends by force.
        process.terminate()
        process.communicate(timeout=20)


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_what_ends_by_itself_or_is_killed_is_started_again() -> None:
    with supervised("import os, time; print(os.getpid(), flush=True); time.sleep(60)") as process:
        first = int(line(process))
        os.kill(first, signal.SIGKILL)
        second = int(line(process))
        assert second != first
        assert process.poll() is None
        os.kill(second, signal.SIGKILL)
        assert int(line(process)) not in (first, second)


def test_it_ends_with_what_it_supervises_when_asked_to() -> None:
    script = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('leaving', flush=True), time.sleep(0.3), sys.exit(3)))\n"
        "print('up', flush=True); time.sleep(60)"
    )
    with supervised(script) as process:
        assert line(process) == "up"
        process.terminate()
        assert line(process) == "leaving"
        assert process.wait(20) == 3


def test_asked_between_two_runs_it_starts_no_other(tmp_path: Path) -> None:
    with supervised("import sys; sys.exit(1)") as process:
        assert process.stderr is not None
        assert "ended with 1" in process.stderr.readline()
        for _ in range(6):
            process.stderr.readline()
        process.terminate()
        assert process.wait(20) in (0, 1, -signal.SIGTERM)


def test_it_imports_the_standard_library_only() -> None:
    """It must outlive what it supervises, whatever is wrong with that."""
    script = (
        "import sys; import vllm_operator.app.supervisor; print(*sorted({m.partition('.')[0] for m in sys.modules}))"
    )
    said = subprocess.run(
        [sys.executable, "-S", "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "operator")},
    )
    others = set(said.stdout.split()) - sys.stdlib_module_names - {"vllm_operator", "__main__"}
    assert not others
