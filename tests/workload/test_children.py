"""The children beside the pod template, and what holds for all of them."""

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.schema_fields import spec_fields, variants
from tests.workload.bundles import KEY, SETTINGS, UID, build_bundle, build_revision, parse, pod_template
from vllm_operator.api.conditions import Reason
from vllm_operator.api.crd import crd
from vllm_operator.api.errors import Refusal
from vllm_operator.api.names import Key, content_hash
from vllm_operator.workload.children import (
    build_deployment,
    build_http_route,
    build_network_policy,
    build_pod_disruption_budget,
    owner_reference,
    revision_inputs,
    service_url,
)
from vllm_operator.workload.not_implemented import check_implemented
from vllm_operator.workload.peers import read_peers
from vllm_operator.workload.settings import BuildSettings, GatewayRef

MODEL = {"model": "Qwen/Qwen3-8B"}


def deployment(spec: dict[str, Any]) -> dict[str, Any]:
    model = {**MODEL, **spec}
    built = build_deployment(KEY, UID, parse(model), template=pod_template(model), references_hash="abc")
    result: dict[str, Any] = built["spec"]
    return result


def route(spec: dict[str, Any], settings: BuildSettings = SETTINGS) -> dict[str, Any] | None:
    built = build_http_route(KEY, UID, parse({**MODEL, "route": spec}), settings)
    return None if built is None else built["spec"]


@pytest.mark.parametrize(
    ("rollout", "strategy"),
    [
        ({}, {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}),
        ({"strategy": "Auto"}, {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}),
        ({"strategy": "Recreate"}, {"type": "Recreate"}),
        ({"maxSurge": 0}, {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}),
        ({"maxSurge": "0%"}, {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "0%", "maxUnavailable": 1}}),
        (
            {"maxUnavailable": "25%"},
            {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": "25%"}},
        ),
    ],
)
def test_strategy(rollout: dict[str, Any], strategy: dict[str, Any]) -> None:
    assert deployment({"rollout": rollout})["strategy"] == strategy


def test_deadline_is_longer_than_startup_and_min_ready() -> None:
    assert deployment({})["progressDeadlineSeconds"] == 2100
    built = deployment({"startup": {"budget": "24h"}, "rollout": {"minReadySeconds": 86400}})
    assert built["progressDeadlineSeconds"] == 86400 + 300 + 86400
    assert built["minReadySeconds"] == 86400
    assert "minReadySeconds" not in deployment({"rollout": {"minReadySeconds": 0}})


def test_replicas_are_left_to_whoever_scales() -> None:
    assert "replicas" not in deployment({"replicas": 3})


def test_references_hash_is_there_only_with_references() -> None:
    name = "vllm-operator.io/references-hash"
    assert name not in deployment({})["template"]["metadata"]["annotations"]
    spec = {"auth": {"apiKeySecretRef": {"name": "a", "key": "b"}}}
    assert deployment(spec)["template"]["metadata"]["annotations"][name] == "abc"


def test_building_does_not_change_the_template() -> None:
    spec = {**MODEL, "auth": {"apiKeySecretRef": {"name": "a", "key": "b"}}}
    template = pod_template(spec)
    before = copy.deepcopy(template)
    build_deployment(KEY, UID, parse(spec), template=template, references_hash="abc")
    assert template == before


def test_route() -> None:
    assert route({}) == {
        "parentRefs": [{"namespace": "gateways", "name": "main"}],
        "rules": [
            {
                "matches": [{"path": {"type": "PathPrefix", "value": "/team-a/qwen3-8b"}}],
                "filters": [
                    {
                        "type": "URLRewrite",
                        "urlRewrite": {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/"}},
                    }
                ],
                "backendRefs": [{"name": "qwen3-8b", "port": 8000}],
            }
        ],
    }


def test_route_of_the_user() -> None:
    parent = {"name": "edge", "namespace": "x", "sectionName": "https", "port": 443}
    built = route(
        {"parentRefs": [parent], "hostnames": ["a.b"], "pathPrefix": "/", "timeouts": {"backendRequest": "5m"}}
    )
    assert built == {
        "parentRefs": [parent],
        "rules": [
            {
                "matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
                "backendRefs": [{"name": "qwen3-8b", "port": 8000}],
                "timeouts": {"backendRequest": "5m"},
            }
        ],
        "hostnames": ["a.b"],
    }


def test_no_route() -> None:
    assert route({"enabled": False}) is None
    assert route({}, BuildSettings()) is None
    built = route({}, BuildSettings(default_gateway=GatewayRef("a", "b", "c")))
    assert built is not None
    assert built["parentRefs"] == [{"namespace": "a", "name": "b", "sectionName": "c"}]


@pytest.mark.parametrize(("replicas", "there"), [(0, False), (1, False), (2, True), (9, True)])
def test_disruption_budget(replicas: int, there: bool) -> None:
    built = build_pod_disruption_budget(KEY, UID, replicas=replicas)
    assert (built is not None) is there
    if built is not None:
        assert built["spec"]["maxUnavailable"] == 1
        assert built["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


PEERS = read_peers('[{"podSelector":{}}]')


@pytest.mark.parametrize(
    ("spec", "settings", "there"),
    [
        ({}, {}, True),
        ({"auth": {"apiKeySecretRef": {"name": "a", "key": "b"}}}, {}, True),
        ({"route": {"enabled": True, "weight": 1}}, {}, True),
        ({"route": {"parentRefs": [{"name": "edge"}]}}, {}, False),
        ({"route": {"enabled": False}}, {}, False),
        ({}, {"gateway_url": ""}, False),
        ({}, {"model_network_policy_from": ()}, False),
    ],
)
def test_network_policy(spec: dict[str, Any], settings: dict[str, Any], there: bool) -> None:
    made = {"gateway_url": "http://gateway", "model_network_policy_from": PEERS, **settings}
    built = build_network_policy(KEY, UID, parse({**MODEL, **spec}), BuildSettings(**made))
    assert (built is not None) is there
    if built is not None:
        assert built["spec"] == {
            "podSelector": deployment({})["selector"],
            "policyTypes": ["Ingress"],
            "ingress": [{"from": [{"podSelector": {}}]}],
        }


def test_service_url() -> None:
    assert service_url(KEY, "cluster.local") == "http://qwen3-8b.team-a.svc.cluster.local:8000"


def test_revision_inputs_are_what_decides_the_pods() -> None:
    same: list[dict[str, Any]] = [
        {"replicas": 4},
        {"suspend": True},
        {"autoscaling": {"maxReplicas": 2}},
        {"route": {"enabled": False}},
    ]
    for change in same:
        assert revision_inputs(parse({**MODEL, **change})) == revision_inputs(parse(MODEL))
    assert revision_inputs(parse({**MODEL, "engine": {"seed": 1}})) != revision_inputs(parse(MODEL))
    # a null in podTemplate deletes, so it is not the same as nothing
    null = parse({**MODEL, "podTemplate": {"spec": {"tolerations": None}}})
    assert revision_inputs(null)["podTemplate"] == {"spec": {"tolerations": None}}


def test_pods_are_the_same_whatever_is_no_input_of_theirs() -> None:
    changes: list[dict[str, Any]] = [{"replicas": 4}, {"suspend": True}, {"route": {"enabled": False}}]
    for change in changes:
        assert pod_template({**MODEL, **change}) == pod_template(MODEL)


def test_controller_revision() -> None:
    built = build_revision(MODEL)
    inputs = content_hash(revision_inputs(parse(MODEL)))
    assert built["metadata"]["name"] == f"qwen3-8b-{inputs[:12]}"
    assert built["metadata"]["annotations"] == {"vllm-operator.io/inputs-hash": inputs}
    assert (built["revision"], built["data"]) == (1, revision_inputs(parse(MODEL)))


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"autoscaling": {"maxReplicas": 2}}, "spec.autoscaling"),
        ({"defaults": {"temperature": 0}, "external": {"url": "https://a.example"}}, "spec.defaults"),
    ],
)
def test_not_implemented(spec: dict[str, Any], field: str) -> None:
    with pytest.raises(Refusal) as caught:
        check_implemented(parse({**MODEL, **spec}), gateway=True)
    assert caught.value.reason is Reason.NOT_IMPLEMENTED
    assert caught.value.message.startswith(f"{field}: ")


def test_what_asks_for_nothing_passes() -> None:
    check_implemented(parse({**MODEL, "adapters": [], "defaults": {}, "route": {}, "accelerator": {}}), gateway=False)


# ---- what holds for every bundle

FIELDS = spec_fields(crd())


def texts(value: Any) -> Iterator[tuple[str, Any]]:
    """Every field of an object and its value."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key, inner
            yield from texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts(inner)


@st.composite
def specs(draw: st.DrawFn) -> dict[str, Any]:
    """A spec with a few fields set at once."""
    spec: dict[str, Any] = dict(MODEL)
    for field in draw(st.lists(st.sampled_from(FIELDS), max_size=4)):
        spec |= {k: v for k, v in variants(field, base=spec)[draw(st.integers(0, 1))].items() if k != "model"}
    return spec


def shuffled(value: Any) -> Any:
    """The same value with the fields of its objects the other way round."""
    if isinstance(value, dict):
        return {key: shuffled(inner) for key, inner in reversed(value.items())}
    return [shuffled(inner) for inner in value] if isinstance(value, list) else value


@given(specs())
def test_the_same_spec_builds_the_same(spec: dict[str, Any]) -> None:
    before = copy.deepcopy(spec)
    results = []
    for given_spec in (spec, shuffled(spec)):
        try:
            results.append(build_bundle(given_spec))
        except Refusal as refusal:
            results.append([{"refused": refusal.message}])
    assert results[0] == results[1]
    assert spec == before


@given(specs())
def test_what_is_built_is_plain_json_that_has_nothing_empty(spec: dict[str, Any]) -> None:
    try:
        bundle = build_bundle(spec)
    except Refusal:
        return
    assert json.loads(json.dumps(bundle, allow_nan=False)) == bundle
    for child in bundle:
        for key, value in texts(child):
            assert value is not None, key
            assert value != [], key
    pod = bundle[0]["spec"]["template"]["spec"]
    for container in pod["containers"]:
        names = [variable["name"] for variable in container.get("env", [])]
        assert len(names) == len(set(names))
        assert all(isinstance(word, str) and "\0" not in word for word in container.get("command", []))


@given(st.from_regex(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", fullmatch=True))
def test_names_and_labels_fit(name: str) -> None:
    key = Key("n" * 63, name)
    children = build_bundle({**MODEL, "replicas": 2}, key=key)
    assert {child["kind"] for child in children} == {"Deployment", "Service", "PodDisruptionBudget", "HTTPRoute"}
    for child in children:
        assert child["metadata"]["ownerReferences"] == [owner_reference(name, UID)]
        assert len(child["metadata"]["name"]) <= 63
        assert all(len(value) <= 63 for value in child["metadata"]["labels"].values())
    selector = children[0]["spec"]["selector"]["matchLabels"]
    labels = children[0]["spec"]["template"]["metadata"]["labels"]
    assert selector.items() <= labels.items()
    assert children[1]["spec"]["selector"] == selector


FIELD_NAMES = st.sampled_from(
    [
        *(
            "containers",
            "initContainers",
            "volumes",
            "env",
            "envFrom",
            "valueFrom",
            "ports",
            "volumeMounts",
            "resources",
        ),
        *("name", "limits", "requests", "memory", "emptyDir", "sizeLimit", "secret", "projected", "sources", "items"),
        *("secretKeyRef", "secretRef", "configMap", "resourceFieldRef", "divisor", "overhead", "ephemeral", "value"),
        *("volumeClaimTemplate", "spec", "downwardAPI", "livenessProbe", "exec", "lifecycle", "preStop", "mountPath"),
        *("$patch", "restartPolicy", "containerPort", "imagePullSecrets", "topologySpreadConstraints", "tolerations"),
    ]
)
JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-1, 1), st.sampled_from(["", "vllm", "delete", "replace", "1Gi", "x"])
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(FIELD_NAMES, inner, max_size=4)),
    max_leaves=12,
)
POD_SPECS = st.dictionaries(FIELD_NAMES, JSON, max_size=4)


@given(POD_SPECS, st.dictionaries(FIELD_NAMES, JSON, max_size=4), st.dictionaries(FIELD_NAMES, JSON, max_size=4))
def test_a_malformed_pod_template_is_refused_and_nothing_else(
    pod: dict[str, Any], container: dict[str, Any], volume: dict[str, Any]
) -> None:
    patch = {**pod, "containers": [{**container, "name": "vllm"}], "volumes": [{**volume, "name": "x"}]}
    for spec in (pod, patch):
        result = refusal_of({**MODEL, "podTemplate": {"spec": spec}})
        if result is not None:
            assert result.reason is Reason.INVALID_POD_TEMPLATE
            assert result.message.startswith("spec.podTemplate")


def refusal_of(spec: dict[str, Any]) -> Refusal | None:
    """Why a spec is refused; None when it is not."""
    try:
        build_bundle(spec)
    except Refusal as refusal:
        return refusal
    return None
