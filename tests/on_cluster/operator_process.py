"""The operator as a process of the test: started, watched and stopped by its own pid."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from .api import NotYetError, wait_until

OPERATOR = Path(__file__).resolve().parent.parent.parent / "operator"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class OperatorProcess:
    """`python -m vllm_operator run` with a kubeconfig and flags of its own.

    `supervised`: started again whenever it ends by itself, as a Deployment does; `restarts` counts how often.
    """

    def __init__(self, *, kubeconfig: Path, flags: Sequence[str], log: Path, supervised: bool = False) -> None:
        self.log = log
        self.restarts = 0
        self._kubeconfig = kubeconfig
        self._flags = list(flags)
        self._supervised = supervised
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()
        self._supervisor: threading.Thread | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self, *, ready: bool = True, timeout: float = 60.0) -> "OperatorProcess":
        self._stopping.clear()
        self._spawn()
        if self._supervised:
            self._supervisor = threading.Thread(target=self._supervise, daemon=True)
            self._supervisor.start()
        if ready:
            self.wait_ready(timeout=timeout)
        return self

    def _spawn(self) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("VLLM_OPERATOR_")}
        environment |= {"KUBECONFIG": str(self._kubeconfig), "PYTHONPATH": str(OPERATOR), "PYTHONUNBUFFERED": "1"}
        for name in ("KUBERNETES_SERVICE_HOST", "POD_NAME", "POD_NAMESPACE"):
            environment.pop(name, None)
        command = [sys.executable, "-m", "vllm_operator", "run", "--http-address", f"127.0.0.1:{self._port}"]
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                [*command, *self._flags], stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment
            )

    def _supervise(self) -> None:
        while not self._stopping.is_set():
            process = self._process
            assert process is not None
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=0.1)
            if process.returncode is not None and not self._stopping.wait(1.0):
                self.restarts += 1
                self._spawn()

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def wait_ready(self, *, timeout: float = 60.0) -> None:
        def ready() -> bool:
            if not self.running and not self._supervised:
                raise NotYetError(
                    f"the operator ended with {self._process and self._process.returncode}:\n{self.tail()}"
                )
            return self._get("/readyz").status_code == 200

        wait_until(lambda: f"the operator's /readyz; the end of its log:\n{self.tail()}", ready, timeout=timeout)

    def wait_leading(self, *, timeout: float = 60.0) -> float:
        return wait_until(
            lambda: f"the operator to lead; the end of its log:\n{self.tail()}",
            lambda: self.metric("vllm_operator_leader") == 1,
            timeout=timeout,
        )

    def _get(self, path: str) -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{self._port}{path}", timeout=5, trust_env=False)

    def healthy(self) -> bool:
        return self._get("/healthz").status_code == 200

    def metric(self, name: str, **labels: str) -> float:
        """Sum of a metric's samples with these labels."""
        return sum(
            sample.value
            for family in text_string_to_metric_families(self._get("/metrics").text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def stop(self, *, timeout: float = 40.0) -> int:
        """SIGTERM and wait; SIGKILL when that takes too long. The exit status."""
        self._stopping.set()
        if self._supervisor is not None:
            self._supervisor.join()
            self._supervisor = None
        process = self._process
        if process is None:
            return 0
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._process = None
        return int(process.returncode)

    def kill(self) -> None:
        """SIGKILL: no lease is released."""
        self._stopping.set()
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def lines(self) -> list[dict[str, Any]]:
        """The log, parsed; a line that is no JSON (a traceback at start) becomes a message of level raw."""
        if not self.log.exists():
            return []
        found: list[dict[str, Any]] = []
        for text in self.log.read_text(errors="replace").splitlines():
            try:
                found.append(json.loads(text))
            except ValueError:
                found.append({"level": "raw", "logger": "", "message": text})
        return found

    def bugs(self) -> list[dict[str, Any]]:
        """Log lines that speak of a bug: tracebacks of the operator's own, and whatever is no log line at all."""
        return [
            line
            for line in self.lines()
            if line["level"] == "raw"
            or "bug in the operator" in line["message"]
            or "never retrieved" in line["message"]
            or (
                "exception" in line and line["logger"].startswith("vllm_operator") and " ended: " not in line["message"]
            )
        ]

    def complaints(self) -> list[str]:
        """Messages of level warning and above."""
        return [line["message"] for line in self.lines() if line["level"] not in ("debug", "info")]

    def tail(self, lines: int = 25) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:]) if self.log.exists() else ""

    # what it uses

    def rss_mib(self) -> float:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        return float("nan")

    def cpu_seconds(self) -> float:
        """User and system time so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure_for(seconds: float) -> None:
    """Let time pass because a rate over it is what is measured."""
    time.sleep(seconds)
