"""A real vLLM outside of the cluster, with TLS and a key: a process of this machine, on the address that pods reach it at."""

import contextlib
import os
import secrets
import signal
import socket
import ssl
import subprocess
from pathlib import Path

import httpx

from tests.certificates import Authority
from tests.cluster.vllm_env import environment_path, model_path

from .api import eventually

NAME = "far-away"
"""What it calls its model."""


class Outside:
    """The server; started and stopped as the test wants it."""

    def __init__(self, folder: Path, address: str) -> None:
        self.folder = folder
        self.address = address
        self.authority = Authority(folder)
        self.authority.server(f"IP:{address}")
        self.key = f"sk-{secrets.token_urlsafe(24)}"
        with socket.socket() as held:
            held.bind((address, 0))
            self.port = int(held.getsockname()[1])
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Base URL, as people copy it: with /v1."""
        return f"https://{self.address}:{self.port}/v1"

    @property
    def log(self) -> Path:
        """What it said."""
        return self.folder / "vllm.log"

    def start(self, *options: str, seconds: float, **variables: str) -> None:
        """Start it, with more options and variables, and wait until it answers."""
        words = [
            *(
                "nice",
                "-n",
                "5",
                str(environment_path() / "bin" / "python"),
                "-m",
                "vllm.entrypoints.openai.api_server",
            ),
            *("--model", str(model_path()), "--served-model-name", NAME, "--max-model-len", "256", "--enforce-eager"),
            *("--host", self.address, "--port", str(self.port), "--shutdown-timeout", "5"),
            *("--ssl-certfile", str(self.folder / "server.crt"), "--ssl-keyfile", str(self.folder / "server.key")),
            *options,
        ]
        own = {
            "VLLM_API_KEY": self.key,
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "HF_HUB_OFFLINE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "PATH": f"{environment_path() / 'bin'}:/usr/local/bin:/usr/bin:/bin",
            "HOME": str(self.folder),
            **variables,
        }
        kept = {name: value for name, value in os.environ.items() if name in ("LANG", "TMPDIR")}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                words,
                env={**kept, **own},
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                start_new_session=True,
            )
        context = ssl.create_default_context(cadata=self.authority.certificate)

        def answers() -> bool:
            assert self._process is not None
            assert self._process.poll() is None, self.log.read_text()[-3000:]
            try:
                where = f"https://{self.address}:{self.port}/health"
                return httpx.get(where, verify=context, trust_env=False, timeout=5).status_code == 200
            except httpx.HTTPError:
                return False

        eventually("vLLM outside answers", answers, seconds=seconds)

    def stop(self) -> None:
        """End it, with all its processes."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=30)
        with contextlib.suppress(ProcessLookupError):
            # Its engine is a process of its own.
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=10)
