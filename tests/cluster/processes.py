"""Daemons that outlive the command that started them, and are stopped by their own pid only.

Each component has one JSON record: how it is started, its pid and the pid's start time. The start time (field 22 of
/proc/PID/stat) tells our process from another one that was given the same pid later. Records hold all that is
needed to start the component again, so any process can kill and restart it: tests of failures need that.
"""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .commands import wait_until
from .settings import ClusterError


@dataclass(frozen=True)
class Spec:
    """How a component is started, and the address shown in the status table."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    address: str = ""
    # Programs that only lead a tree (the kubelet's shims, for one) are stopped gently and given this long.
    grace_seconds: float = 10.0


def _stat(pid: int) -> tuple[str, int] | None:
    """Return (state letter, start time in clock ticks) of a process, or None when there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rsplit(")", 1)[1].split()
    return fields[0], int(fields[19])


def _has_threads(pid: int) -> bool:
    """Tell whether threads are left beside the first: a killed process shows as a zombie while they still hold its ports."""
    try:
        return len(os.listdir(f"/proc/{pid}/task")) > 1
    except OSError:
        return False


class Processes:
    """The daemons of one cluster, known by the records under its state directory."""

    def __init__(self, *, records: Path, logs: Path) -> None:
        """Keep records in one folder and logs in another."""
        self._records = records
        self._logs = logs
        self._children: list[subprocess.Popen[bytes]] = []

    def names(self) -> list[str]:
        """Return the components that have a record, oldest first."""
        with contextlib.suppress(OSError):
            files = sorted(self._records.glob("*.json"), key=lambda path: self._read(path.stem).get("order", 0))
            return [path.stem for path in files]
        return []

    def log(self, name: str) -> Path:
        """Return the component's log."""
        return self._logs / f"{name}.log"

    def address(self, name: str) -> str:
        """Return the address the component was recorded with."""
        return str(self._read(name).get("address", ""))

    def pid(self, name: str) -> int | None:
        """Return the pid when the recorded process is really the one that runs now."""
        record = self._read(name)
        pid = record.get("pid")
        if not isinstance(pid, int):
            return None
        with contextlib.suppress(OSError):
            os.waitpid(pid, os.WNOHANG)  # a child of ours that died would stay a zombie
        stat = _stat(pid)
        if stat is None or stat[1] != record.get("start_ticks") or (stat[0] in "ZX" and not _has_threads(pid)):
            return None
        return pid

    def paused(self, name: str) -> bool:
        """Tell whether the process is stopped by SIGSTOP."""
        pid = self.pid(name)
        stat = _stat(pid) if pid else None
        return stat is not None and stat[0] == "T"

    def differs(self, spec: Spec) -> bool:
        """Tell whether the running process was started in another way than ``spec`` says."""
        record = self._read(spec.name)
        return record.get("argv") != list(spec.argv) or record.get("env") != dict(spec.env)

    def ensure(self, spec: Spec) -> bool:
        """Start the component unless it already runs just so. Return whether it was started."""
        if self.pid(spec.name) is not None and not self.differs(spec):
            if self.paused(spec.name):
                self.signal(spec.name, signal.SIGCONT)
            return False
        self.stop(spec.name)
        self._write(
            spec.name,
            {
                "argv": list(spec.argv),
                "env": dict(spec.env),
                "address": spec.address,
                "grace_seconds": spec.grace_seconds,
                "order": time.time(),
            },
        )
        self.start(spec.name)
        return True

    def start(self, name: str) -> None:
        """Start a recorded component that is not running."""
        if self.pid(name) is not None:
            return
        record = self._read(name)
        if not record:
            raise ClusterError(f"no component is called {name!r}; there are {', '.join(self.names()) or 'none'}")
        self._logs.mkdir(parents=True, exist_ok=True)
        with self.log(name).open("ab") as output:
            # Its own session: it neither gets the terminal's signals nor ends with the command that started it.
            child = subprocess.Popen(
                record["argv"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
                env={**_plain_environment(), **record["env"]},
                start_new_session=True,
            )
        self._children.append(child)
        stat = _stat(child.pid)
        self._write(name, {**record, "pid": child.pid, "start_ticks": stat[1] if stat else -1})

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal to the component's own process; an error when it does not run."""
        pid = self.pid(name)
        if pid is None:
            raise ClusterError(f"{name} is not running")
        os.kill(pid, number)

    def kill(self, name: str) -> None:
        """End the process at once (SIGKILL) and wait until it is gone; the record stays, for `start`."""
        if self.pid(name) is not None:
            self.signal(name, signal.SIGKILL)
            wait_until(f"{name} to be gone", lambda: self.pid(name) is None, timeout=10)

    def stop(self, name: str) -> None:
        """End the process gently, then firmly."""
        pid = self.pid(name)
        if pid is None:
            return
        grace = float(self._read(name).get("grace_seconds", 10.0))
        with contextlib.suppress(ProcessLookupError, ClusterError):
            self.signal(name, signal.SIGTERM)
            self.signal(name, signal.SIGCONT)
        deadline = time.monotonic() + grace
        while self.pid(name) is not None and time.monotonic() < deadline:
            time.sleep(0.05)
        self.kill(name)

    def forget(self, name: str) -> None:
        """Remove the record of a stopped component."""
        (self._records / f"{name}.json").unlink(missing_ok=True)

    def _read(self, name: str) -> dict[str, Any]:
        try:
            record = json.loads((self._records / f"{name}.json").read_text())
        except (OSError, ValueError):
            return {}
        return record if isinstance(record, dict) else {}

    def _write(self, name: str, record: Mapping[str, object]) -> None:
        self._records.mkdir(parents=True, exist_ok=True)
        fresh = self._records / f".{name}.{os.getpid()}"
        fresh.write_text(json.dumps(record, indent=1))
        fresh.replace(self._records / f"{name}.json")


def _plain_environment() -> dict[str, str]:
    """Return the few variables daemons get: what a user exported must not change how the cluster behaves."""
    return {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/",
        "LANG": "C.UTF-8",
    }
