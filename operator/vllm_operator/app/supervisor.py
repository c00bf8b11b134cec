"""Starts a subcommand of vllm-operator, and starts it again when it ends by itself.

For the gateway's agent. Were it a container's first process, its end would end the container, and Kubernetes would take the whole
pod out of the Service, though its Envoy serves on with what it was told: agents that crash at the same time would be an outage.
Imports nothing but the standard library, so that it needs little memory and has little to fail at.
"""

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from types import FrameType

FIRST_PAUSE = 0.2
"""Seconds until it is started again; twice as long each time that it has not lasted."""
LONGEST_PAUSE = 20.0
LASTED = 60.0
"""Seconds after which a run counts as one that lasted."""


def supervise(command: Sequence[str]) -> int:
    """Run a command until SIGTERM or SIGINT, which it gets too and may take its time to heed; its last exit status."""
    child: subprocess.Popen[bytes] | None = None
    asked = 0

    def forward(number: int, _: FrameType | None) -> None:
        nonlocal asked
        asked = number
        if child is not None and child.poll() is None:
            child.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, forward)
    pause = FIRST_PAUSE
    while True:
        began = time.monotonic()
        child = subprocess.Popen(command)  # noqa: S603 — this very program
        if asked:
            child.send_signal(asked)  # It came between two runs.
        status = child.wait()
        if asked:
            return status
        if time.monotonic() - began > LASTED:
            pause = FIRST_PAUSE
        print(
            f"vllm-operator: the agent ended with {status}; started again in {pause:g} s", file=sys.stderr, flush=True
        )
        end = time.monotonic() + pause
        while not asked and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, 0.1))  # A signal does not end a sleep: it goes on for what is left.
        if asked:
            return 0
        pause = min(2 * pause, LONGEST_PAUSE)


def main() -> int:
    """Supervise the subcommand of the command line."""
    return supervise([sys.executable, "-m", "vllm_operator", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
