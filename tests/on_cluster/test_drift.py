"""Vanished children come back, hand edits are put back: with the real API server's own defaulting."""

import json
from functools import partial
from typing import Any

from tests.apiserver import ApiError
from vllm_operator.api.names import LABEL_MODEL
from vllm_operator.cluster import kinds

from .api import Api, model, settled, wait_until
from .conftest import Log, Operators
from .workbench import Workbench, chart_rules

CHILDREN = tuple(kind for kind in kinds.CHILD_KINDS if kind is not kinds.NETWORK_POLICY)
"""What a model with a route of its own has."""


def _with_all_children(product: str) -> dict[str, Any]:
    """A model that has a child of every kind. Its gateway need not exist for the route to be made."""
    route = {"parentRefs": [{"name": "some-gateway"}], "hostnames": ["llm.example.com"]}
    return model("whole", product=product, replicas=2, route=route)


def _rolled_out(api: Api, namespace: str) -> bool:
    found = api.deployment(namespace, "whole")
    return all(api.find(kind, namespace, "whole") is not None for kind in CHILDREN) and (
        found["status"].get("availableReplicas") == 2 and settled(api.model(namespace, "whole"))
    )


def test_vanished_children_come_back(api: Api, operators: Operators, namespace: str, product: str, say: Log) -> None:
    operators()
    api.create_model(namespace, _with_all_children(product))
    wait_until("all children", lambda: _rolled_out(api, namespace))
    for kind in CHILDREN:
        uid = api.get(kind, namespace, "whole")["metadata"]["uid"]
        spec = api.get(kind, namespace, "whole")["spec"]
        api.delete(kind, namespace, "whole")

        def back(kind: kinds.Kind = kind, uid: str = uid) -> bool:
            found = api.find(kind, namespace, "whole")
            return found is not None and bool(found["metadata"]["uid"] != uid)

        seconds = wait_until(f"the {kind} to come back", back, timeout=15)
        say(f"{kind} is back after {seconds * 1000:.0f} ms")
        again = api.get(kind, namespace, "whole")["spec"]
        for volatile in ("clusterIP", "clusterIPs"):
            again.pop(volatile, None)
            spec.pop(volatile, None)
        assert again == spec
    # A revision is the memory of what was decided; it is made anew from the same inputs, under the same name.
    (revision,) = api.items(kinds.CONTROLLER_REVISION, namespace, f"{LABEL_MODEL}=whole")
    template = api.deployment(namespace, "whole")["spec"]["template"]
    api.delete(kinds.CONTROLLER_REVISION, namespace, revision["metadata"]["name"])
    api.edit(namespace, "whole", {"replicas": 3})  # Revisions are not watched: the next pass notices.
    wait_until(
        "the revision to come back",
        lambda: api.find(kinds.CONTROLLER_REVISION, namespace, revision["metadata"]["name"]) is not None,
    )
    assert api.deployment(namespace, "whole")["spec"]["template"] == template


def _edits() -> dict[kinds.Kind, list[dict[str, Any]]]:
    image = {"spec": {"template": {"spec": {"containers": [{"name": "vllm", "image": "example.com/not-vllm:1"}]}}}}
    variable = {
        "spec": {"template": {"spec": {"containers": [{"name": "vllm", "env": [{"name": "HF_HOME", "value": "/x"}]}]}}}
    }
    return {
        kinds.DEPLOYMENT: [
            {"spec": {"replicas": 5}},
            image,
            variable,
            {"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}},
            {"spec": {"progressDeadlineSeconds": 7}},
            {"metadata": {"labels": {LABEL_MODEL: "another"}}},
        ],
        kinds.SERVICE: [
            {"spec": {"selector": {"app": "another"}}},
            {"spec": {"ports": [{"port": 8000, "targetPort": 9}]}},
            {"metadata": {"labels": {"app.kubernetes.io/managed-by": "somebody"}}},
        ],
        kinds.POD_DISRUPTION_BUDGET: [
            {"spec": {"maxUnavailable": 2}},
            {"spec": {"maxUnavailable": None, "minAvailable": 2}},
            {"metadata": {"labels": {LABEL_MODEL: None}}},
        ],
        kinds.HTTP_ROUTE: [
            {"spec": {"hostnames": ["elsewhere.example.com"]}},
            {"spec": {"parentRefs": [{"name": "another-gateway"}]}},
            {"spec": {"rules": [{"backendRefs": [{"name": "another", "port": 80}]}]}},
        ],
    }


def _wanted(obj: dict[str, Any]) -> dict[str, Any]:
    """What must be as before. Selectors may have a key more, which is somebody else's."""
    return {"spec": obj["spec"], "labels": obj["metadata"].get("labels"), "owners": obj["metadata"]["ownerReferences"]}


def test_hand_edits_are_put_back(api: Api, operators: Operators, namespace: str, product: str, say: Log) -> None:
    operators()
    api.create_model(namespace, _with_all_children(product))
    wait_until("all children", lambda: _rolled_out(api, namespace))
    slowest = 0.0
    for kind, edits in _edits().items():
        for edit in edits:
            before = _wanted(api.get(kind, namespace, "whole"))
            # Strategic merge, as kubectl edit does for the built-in kinds; custom resources know only merge patches.
            words = "merge" if kind is kinds.HTTP_ROUTE or "minAvailable" in str(edit) else "strategic-merge"
            patched = api.request(
                "PATCH",
                kind.path(namespace, "whole"),
                body=edit,
                query={"fieldManager": "kubectl-edit"},
                content_type=f"application/{words}-patch+json",
            )
            assert _wanted(patched) != before, f"the edit {edit} changes nothing"
            seconds = wait_until(
                partial(_difference, api, namespace, kind, edit, before),
                partial(_is, api, namespace, kind, before),
                timeout=15,
            )
            slowest = max(slowest, seconds)
    say(f"every edit put back within {slowest * 1000:.0f} ms")
    operators.rest()


def _is(api: Api, namespace: str, kind: kinds.Kind, wanted: dict[str, Any]) -> bool:
    return _wanted(api.get(kind, namespace, "whole")) == wanted


def _difference(api: Api, namespace: str, kind: kinds.Kind, edit: dict[str, Any], wanted: dict[str, Any]) -> str:
    return f"{edit} to be put back in the {kind}:\n{_wanted(api.get(kind, namespace, 'whole'))}\nbefore:\n{wanted}"


def test_the_policy_of_a_model_behind_the_gateway(
    bench: Workbench, api: Api, operators: Operators, namespace: str, product: str
) -> None:
    """Made, put back, and taken away by an operator that may make none: its gateway has been switched off."""
    role = f"{bench.role}-gateway"
    bench.make_cluster_role(role, [*chart_rules(), *chart_rules("gateway-operator-rules.yaml")])
    without, operators.identity = operators.identity, bench.identity(namespaces=[namespace], role=role)
    peers = [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "gateway"}}}]
    operator = operators(
        "--gateway-url=http://gateway.example", f"--model-network-policy-from={json.dumps(peers)}", replica="on"
    )
    api.create_model(namespace, model("whole", product=product))
    wait_until("the model to be rolled out", lambda: settled(api.model(namespace, "whole")))
    before = _wanted(api.get(kinds.NETWORK_POLICY, namespace, "whole"))
    assert before["spec"]["ingress"] == [{"from": peers}]
    edits: list[dict[str, Any]] = [
        {"spec": {"ingress": [{}]}},
        {"spec": {"podSelector": {"matchLabels": {"app": "another"}}}},
        {"spec": {"policyTypes": ["Ingress", "Egress"]}},
    ]
    for edit in edits:
        patched = api.merge(kinds.NETWORK_POLICY, namespace, "whole", edit)
        assert _wanted(patched) != before, f"the edit {edit} changes nothing"
        wait_until(
            partial(_difference, api, namespace, kinds.NETWORK_POLICY, edit, before),
            partial(_is, api, namespace, kinds.NETWORK_POLICY, before),
            timeout=15,
        )
    operators.rest()
    template = api.deployment(namespace, "whole")["spec"]["template"]
    operator.stop()
    operators.identity = without
    operators(replica="off")
    wait_until("the policy to go", lambda: api.find(kinds.NETWORK_POLICY, namespace, "whole") is None)
    operators.rest()
    assert api.deployment(namespace, "whole")["spec"]["template"] == template


def test_what_others_add_is_left_alone(api: Api, operators: Operators, namespace: str, product: str) -> None:
    """`kubectl rollout restart`, an annotation of an admission webhook, a label of a cost tool."""
    operators()
    api.create_model(namespace, _with_all_children(product))
    wait_until("all children", lambda: _rolled_out(api, namespace))
    operators.rest()
    mark = operators.bench.audit.mark()
    for kind in CHILDREN:
        api.merge(kind, namespace, "whole", {"metadata": {"annotations": {"example.com/added": "by us"}}})
    operators.bench.cluster.kubectl("rollout", "restart", "-n", namespace, "deployment/whole")
    wait_until("the restarted pods", lambda: _rolled_out(api, namespace))
    operators.rest()
    assert [request for request in operators.writes(mark) if request.resource not in ("vllmmodels", "events")] == []
    for kind in CHILDREN:
        assert api.get(kind, namespace, "whole")["metadata"]["annotations"]["example.com/added"] == "by us"


def test_somebody_elses_object_is_not_taken(api: Api, operators: Operators, namespace: str, product: str) -> None:
    operators()
    foreign = {"metadata": {"name": "taken"}, "spec": {"ports": [{"port": 80}], "selector": {"app": "theirs"}}}
    api.create(kinds.SERVICE, namespace, foreign)
    api.create_model(namespace, model("taken", product=product))

    def says_so() -> bool:
        found = api.model(namespace, "taken").get("status") or {}
        return any(each["reason"] == "ChildConflict" for each in found.get("conditions") or [])

    wait_until("ChildConflict to be said", says_so)
    assert api.get(kinds.SERVICE, namespace, "taken")["spec"]["selector"] == {"app": "theirs"}
    api.delete(kinds.VLLM_MODEL, namespace, "taken")
    wait_until("the model's children to go", lambda: api.find(kinds.DEPLOYMENT, namespace, "taken") is None)
    try:
        assert api.get(kinds.SERVICE, namespace, "taken")["spec"]["selector"] == {"app": "theirs"}
    except ApiError as error:
        raise AssertionError("somebody else's Service was deleted") from error
