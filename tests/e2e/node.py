"""Reaching into the real node: processes of a pod, and the API server's record of who wrote what."""

import json
import os
import re
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Object = dict[str, Any]
WRITES = frozenset({"create", "update", "patch", "delete", "deletecollection"})


def processes(pod: Mapping[str, Any], *, command: str = "") -> list[int]:
    """Return the pids of a pod's processes, by their cgroup, without the pause container's.

    `command`: only processes whose command line contains this.
    """
    uid = str(pod["metadata"]["uid"])
    ids = {str(each["containerID"]).rpartition("/")[2] for each in pod["status"]["containerStatuses"]}
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            groups = (entry / "cgroup").read_text()
            words = (entry / "cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
        except OSError:
            continue
        mine = uid in groups.replace("_", "-") and any(container in groups for container in ids)
        if mine and command in words:
            found.append(int(entry.name))
    return sorted(found)


def pause(pids: list[int]) -> None:
    """Stop processes in their tracks."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)


def resume(pids: list[int]) -> None:
    """Let paused processes go on."""
    for pid in pids:
        os.kill(pid, signal.SIGCONT)


def kill(pids: list[int]) -> None:
    """Kill processes without a chance to say goodbye."""
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


@dataclass(frozen=True)
class Request:
    """One line of the audit log."""

    verb: str
    resource: str
    subresource: str
    namespace: str
    name: str
    at: str
    """RFC 3339, when the API server got it."""
    pod: str
    """The pod that asked, as its token says; empty for others."""

    @property
    def is_write(self) -> bool:
        """Whether it changes something."""
        return self.verb in WRITES

    def __str__(self) -> str:
        what = f"{self.resource}/{self.subresource}" if self.subresource else self.resource
        return f"{self.verb} {what} {self.namespace}/{self.name}"


class Audit:
    """What one user asked of the API server from now on."""

    def __init__(self, log: Path, user: str) -> None:
        self._log = log
        self._user = user
        self._offset = log.stat().st_size

    def _lines(self) -> Iterator[Object]:
        with self._log.open("rb") as file:
            assert file.seek(0, os.SEEK_END) >= self._offset, "the audit log was rotated: nothing can be said about it"
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return  # Being written.
                yield json.loads(line)

    def requests(self) -> list[Request]:
        """Return every request so far, without dry runs and leases: those change nothing of anybody's."""
        found: list[Request] = []
        for line in self._lines():
            where = line.get("objectRef") or {}
            mine = line.get("user", {}).get("username") == self._user
            dry = re.search(r"[?&]dryRun=", str(line.get("requestURI", "")))
            if mine and not dry and line.get("stage") == "ResponseComplete" and where.get("resource") != "leases":
                request = Request(
                    verb=line["verb"],
                    resource=where.get("resource", ""),
                    subresource=where.get("subresource", ""),
                    namespace=where.get("namespace", ""),
                    name=where.get("name", ""),
                    at=line["requestReceivedTimestamp"],
                    pod="".join(line["user"].get("extra", {}).get("authentication.kubernetes.io/pod-name", ())),
                )
                found.append(request)
        return found

    def writes(self, namespace: str) -> list[Request]:
        """Return what was written in a namespace."""
        return [request for request in self.requests() if request.is_write and request.namespace == namespace]

    def child_writes(self, namespace: str) -> list[Request]:
        """Return what was written to anything but the model's status and events."""
        return [each for each in self.writes(namespace) if each.resource not in ("vllmmodels", "events")]

    def looked_at(self, namespace: str, name: str, *, by: str) -> int:
        """Return how often a pod of the operator has read the model: each pass begins with that."""
        wanted = ("get", "vllmmodels", "", namespace, name, by)
        return sum(
            (each.verb, each.resource, each.subresource, each.namespace, each.name, each.pod) == wanted
            for each in self.requests()
        )
