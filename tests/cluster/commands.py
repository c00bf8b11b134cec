"""Running a program to its end, with an error a reader can act on when it fails."""

import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from .settings import ClusterError


def tail(path: Path, lines: int = 25) -> str:
    """Return the last lines of a log, or a note that there is none."""
    try:
        data = path.read_bytes()[-20_000:]
    except OSError:
        return f"(no log at {path})"
    return "\n".join(data.decode(errors="replace").splitlines()[-lines:])


def run(
    argv: Sequence[str | Path],
    *,
    stdin: str | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float = 120.0,
    log: Path | None = None,
    nice: bool = False,
) -> str:
    """Run a program and return its standard output.

    ``env`` adds to the environment. With ``log`` all output goes to that file (returned text is empty) and its tail is
    shown on failure. ``nice`` lowers the priority, for builds.
    """
    words = [str(word) for word in argv]
    shown = " ".join(words[:6]) + (" …" if len(words) > 6 else "")
    if nice:
        words = ["nice", "-n", "10", *words]
    try:
        if log is not None:
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("ab") as output:
                result = subprocess.run(
                    words,
                    input=None if stdin is None else stdin.encode(),
                    stdout=output,
                    stderr=output,
                    cwd=cwd,
                    env={**os.environ, **(env or {})},
                    timeout=timeout,
                    check=False,
                )
        else:
            result = subprocess.run(
                words,
                input=None if stdin is None else stdin.encode(),
                capture_output=True,
                cwd=cwd,
                env={**os.environ, **(env or {})},
                timeout=timeout,
                check=False,
            )
    except FileNotFoundError as error:
        raise ClusterError(f"the program {words[0]!r} is not installed on this machine ({shown})") from error
    except subprocess.TimeoutExpired as error:
        detail = f"\n{tail(log)}" if log is not None else ""
        raise ClusterError(f"no end after {timeout:.0f} s: {shown}{detail}") from error
    if result.returncode != 0:
        detail = tail(log) if log is not None else (result.stderr + result.stdout).decode(errors="replace")[-4000:]
        raise ClusterError(f"exit status {result.returncode} from: {shown}\n{detail.strip()}")
    return "" if log is not None else result.stdout.decode(errors="replace")


def wait_until(
    what: str,
    ready: Callable[[], bool],
    *,
    timeout: float,
    log: Path | None = None,
    interval: float = 0.1,
) -> None:
    """Wait for a condition with a deadline; on failure name it and show the end of the log that should explain it."""
    deadline = time.monotonic() + timeout
    last: Exception | None = None
    while True:
        try:
            if ready():
                return
            last = None
        except (ClusterError, OSError) as error:
            last = error
        if time.monotonic() > deadline:
            reason = f"\nlast error: {last}" if last else ""
            detail = f"\nend of {log}:\n{tail(log)}" if log is not None else ""
            raise ClusterError(f"waited {timeout:.0f} s in vain for: {what}{reason}{detail}")
        time.sleep(interval)
