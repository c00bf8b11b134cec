"""A watch that notes when each generation of each object was first seen, for latencies without polling."""

import json
import threading
import time
from typing import Any

import httpx

from tests.apiserver import Access
from tests.on_cluster.api import NotYetError


class Watch:
    """Watches a collection in a thread. Use as a context manager: it watches when the block begins."""

    def __init__(self, access: Access, path: str) -> None:
        self._http = httpx.Client(
            base_url=access.host, verify=access.tls, timeout=httpx.Timeout(10, read=None), trust_env=False
        )
        self._path = path
        self._condition = threading.Condition()
        self._generations: dict[str, int] = {}
        self._first: dict[tuple[str, int], float] = {}
        self._failure: Exception | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._version = ""

    def __enter__(self) -> "Watch":
        found: dict[str, Any] = self._http.get(self._path).raise_for_status().json()
        for item in found["items"]:
            self._note(item)
        self._version = found["metadata"]["resourceVersion"]
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing = True
        # The thread ends with the watch, which the API server ends at its timeout, or with the process.

    def _run(self) -> None:
        query = {"watch": "true", "timeoutSeconds": "1800", "resourceVersion": self._version}
        try:
            with self._http.stream("GET", self._path, params=query) as answer:
                for line in answer.iter_lines():
                    if self._closing:
                        return
                    event = json.loads(line)
                    if event["type"] in ("ADDED", "MODIFIED"):
                        self._note(event["object"])
        except Exception as error:
            self._failure = error
        finally:
            self._http.close()

    def _note(self, item: dict[str, Any]) -> None:
        now = time.monotonic()
        name, generation = item["metadata"]["name"], int(item["metadata"]["generation"])
        with self._condition:
            if generation > self._generations.get(name, 0):
                # Generations in between were not seen by us, but they were there.
                for each in range(self._generations.get(name, 0) + 1, generation + 1):
                    self._first[name, each] = now
                self._generations[name] = generation
                self._condition.notify_all()

    def generation(self, name: str) -> int:
        """The newest generation seen."""
        return self._generations.get(name, 0)

    def seen(self, name: str, generation: int = 1) -> float:
        """When a generation was first seen, by time.monotonic."""
        return self._first[name, generation]

    def wait(self, name: str, *, generation: int, timeout: float = 60.0) -> float:
        """Wait until a generation of an object is there; when it was first seen."""
        with self._condition:
            there = self._condition.wait_for(
                lambda: self._failure is not None or self._generations.get(name, 0) >= generation, timeout
            )
        if self._failure is not None:
            raise self._failure
        if not there:
            raise NotYetError(f"waited {timeout:.0f} s in vain for generation {generation} of {name}")
        return self._first[name, generation]
