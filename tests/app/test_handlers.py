"""kopf's handlers: events become keys, and nothing else happens."""

import inspect
from collections.abc import Sequence
from typing import Any

import kopf
import pytest

from vllm_operator.api import types
from vllm_operator.api.names import LABEL_MODEL, Key, child_labels
from vllm_operator.app.handlers import CHILD_DELAY, RELIST_DELAY, kopf_settings, register
from vllm_operator.cluster import kinds
from vllm_operator.workload.children import owner_reference


class Captured:
    """A registry with our handlers, and what they want."""

    def __init__(self, *, gateway_api: bool = True, nodes: bool = True, network_policies: bool = True) -> None:
        self.nodes: list[str | None] = []
        self.wanted: list[tuple[Key, float]] = []
        self.models: list[tuple[Key, str, str]] = []
        self.gateways: list[Key] = []
        self.registry = kopf.OperatorRegistry()
        register(
            self.registry,
            want_model=lambda key, uid, version: self.models.append((key, uid, version)),
            want=lambda key, delay: self.wanted.append((key, delay)),
            want_gateway=self.gateways.append,
            want_nodes=(lambda event, node: self.nodes.append(event)) if nodes else None,
            gateway_api=gateway_api,
            network_policies=network_policies,
        )
        self.handlers = {
            handler.selector.any_name or handler.selector.plural: handler
            for handler in self.registry._watching.get_all_handlers()
            if handler.selector is not None
        }

    async def send(
        self,
        plural: str,
        type: str | None,
        name: str,
        labels: dict[str, str] | None = None,
        owners: Sequence[dict[str, Any]] = (),
    ) -> None:
        """Call a handler with some of what kopf calls it with."""
        function: Any = self.handlers[plural].fn
        await function(
            type=type,
            namespace="ns",
            name=name,
            labels=labels or {},
            body={},
            spec={},
            meta={"generation": 7, "labels": labels or {}, "ownerReferences": list(owners)},
            uid="u",
            event={"type": type, "object": {}},
            resource=None,
            logger=None,
        )


CHILDREN = [kind.plural for kind in (*kinds.CHILD_KINDS, kinds.POD, kinds.JOB)]


def test_what_is_watched() -> None:
    captured = Captured()
    assert set(captured.handlers) == {types.PLURAL, *CHILDREN, kinds.GATEWAY.plural, kinds.NODE.plural}
    for kind in (*kinds.CHILD_KINDS, kinds.POD, kinds.VLLM_MODEL, kinds.GATEWAY):
        selector = captured.handlers[kind.plural].selector
        assert selector is not None
        assert f"{selector.group}/{selector.version}".lstrip("/") == kind.api_version


def test_without_the_gateway_api_its_kinds_are_not_watched() -> None:
    assert set(Captured(gateway_api=False).handlers) == {
        types.PLURAL,
        *CHILDREN,
        kinds.NODE.plural,
    } - {kinds.HTTP_ROUTE.plural}


def test_nodes_that_may_not_be_read_are_not_watched() -> None:
    assert kinds.NODE.plural not in Captured(nodes=False).handlers


def test_network_policies_that_may_not_be_read_are_not_watched() -> None:
    left_out = {kinds.NETWORK_POLICY.plural}
    assert set(Captured(network_policies=False).handlers) == set(Captured().handlers) - left_out


async def test_nodes_are_passed_on() -> None:
    captured = Captured()
    await captured.send("nodes", "DELETED", "a")
    assert captured.nodes == ["DELETED"]


def test_secrets_are_not_watched() -> None:
    assert not {"secrets", "configmaps"} & set(Captured().handlers)


def test_all_are_event_handlers_and_coroutines() -> None:
    captured = Captured()
    registry = captured.registry
    assert not registry._changing.get_all_handlers(), "these would leave annotations and finalizers"
    assert not registry._spawning.get_all_handlers()
    assert not registry._indexing.get_all_handlers()
    for handler in captured.handlers.values():
        assert inspect.iscoroutinefunction(handler.fn), "kopf runs others in threads"


@pytest.mark.parametrize("plural", CHILDREN)
def test_only_our_own_children_are_asked_for(plural: str) -> None:
    when: Any = Captured().handlers[plural].when
    assert when(meta={"labels": child_labels("m")})
    assert when(meta={"ownerReferences": [owner_reference("m", "u")]}), "somebody took its labels away"
    assert not when(meta={"labels": {LABEL_MODEL: "m"}})
    assert not when(meta={"ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "m"}]})


@pytest.mark.parametrize("type", [None, "ADDED", "DELETED"])
async def test_a_model_is_wanted_at_once(type: str | None) -> None:
    captured = Captured()
    await captured.send(types.PLURAL, type, "m")
    assert captured.wanted == [(Key("ns", "m"), 0.0)]


async def test_of_a_changed_model_it_is_told_what_is_wanted() -> None:
    captured = Captured()
    await captured.send(types.PLURAL, "MODIFIED", "m")
    assert captured.models == [(Key("ns", "m"), "u", "7/")]
    assert captured.wanted == []


@pytest.mark.parametrize(
    ("type", "delay"),
    [("ADDED", CHILD_DELAY), ("MODIFIED", CHILD_DELAY), ("DELETED", 0.0), (None, RELIST_DELAY)],
)
@pytest.mark.parametrize("plural", CHILDREN)
async def test_a_child_wants_its_model(plural: str, type: str | None, delay: float) -> None:
    """Listed ones too (type None): after a 410 the list is all that tells of what the watch has missed."""
    captured = Captured()
    await captured.send(plural, type, "m-7d9f", child_labels("m"))
    assert captured.wanted == [(Key("ns", "m"), delay)]


async def test_a_child_without_its_labels_is_its_owners() -> None:
    captured = Captured()
    await captured.send("services", "MODIFIED", "m", {}, owners=[owner_reference("m", "u")])
    assert captured.wanted == [(Key("ns", "m"), CHILD_DELAY)]


async def test_a_child_without_label_and_owner_is_nobodys() -> None:
    captured = Captured()
    await captured.send("pods", "ADDED", "p", {})
    assert captured.wanted == []


async def test_a_gateway_wants_its_models() -> None:
    captured = Captured()
    await captured.send("gateways", "MODIFIED", "g")
    assert captured.gateways == [Key("ns", "g")]
    assert captured.wanted == []


def test_kopf_leaves_nothing_on_objects() -> None:
    settings = kopf_settings()
    assert not settings.posting.enabled
    assert settings.peering.standalone
    assert settings.scanning.disabled
    assert settings.queueing.worker_limit is None
    assert settings.watching.client_timeout is not None
    assert settings.watching.server_timeout is not None
    assert settings.watching.client_timeout > settings.watching.server_timeout
