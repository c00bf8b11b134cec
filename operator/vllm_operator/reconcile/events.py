"""Our own event recorder: kopf's needs the context of one of its handlers."""

import logging
from collections.abc import Callable
from datetime import datetime

from vllm_operator.api.names import FIELD_MANAGER, content_hash
from vllm_operator.api.text import shorten
from vllm_operator.api.types import API_VERSION, KIND
from vllm_operator.cluster import kinds
from vllm_operator.cluster.base import Cluster, Object
from vllm_operator.cluster.errors import ApiError
from vllm_operator.reconcile.report import Happening

log = logging.getLogger(__name__)

NOTE_LIMIT = 1024
"""Most characters of a note, by the API."""


class EventRecorder:
    """Writes events about models. An event that cannot be written is only logged: it must hold nothing up."""

    def __init__(self, cluster: Cluster, clock: Callable[[], datetime], *, instance: str) -> None:
        self._cluster = cluster
        self._clock = clock
        self._instance = instance[:128] or FIELD_MANAGER

    async def record(self, model: Object, happening: Happening) -> None:
        """Write one event."""
        metadata = model["metadata"]
        now = self._clock()
        time = now.isoformat(timespec="microseconds").replace("+00:00", "Z")
        digest = content_hash([metadata["uid"], time, happening.reason, happening.message])
        note = happening.message
        event: Object = {
            "apiVersion": kinds.EVENT.api_version,
            "kind": kinds.EVENT.kind,
            "metadata": {"name": f"{metadata['name'][:200]}.{digest}", "namespace": metadata["namespace"]},
            "eventTime": time,
            "reportingController": "vllm-operator.io/controller",
            "reportingInstance": self._instance,
            "action": happening.action,
            "reason": happening.reason,
            "type": happening.type,
            "note": shorten(note, NOTE_LIMIT),
            "regarding": {
                "apiVersion": API_VERSION,
                "kind": KIND,
                "name": metadata["name"],
                "namespace": metadata["namespace"],
                "uid": metadata["uid"],
                "resourceVersion": metadata.get("resourceVersion", ""),
            },
        }
        try:
            await self._cluster.create(kinds.EVENT, event)
        except ApiError as error:
            log.info(
                "event %s about %s/%s is lost: %s", happening.reason, metadata["namespace"], metadata["name"], error
            )
