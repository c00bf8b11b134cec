"""The operator may do what it does, and nothing else."""

import importlib
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from .support import (
    CHART,
    MANIFESTS,
    NAMESPACE,
    KubernetesObject,
    identity,
    kustomize,
    of_kind,
    of_the_gateway,
    of_the_operator,
    operator_module,
    render,
)

Rule = dict[str, Any]
GATEWAY: dict[str, Any] = {"gateway": {"enabled": True}}


def _rules(name: str) -> list[Rule]:
    rules: list[Rule] = yaml.safe_load((CHART / "files" / "rbac" / name).read_text())
    return rules


def _grants(rules: list[Rule]) -> set[tuple[str, str, str]]:
    return {
        (group, resource, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def _roles() -> Iterator[tuple[str, KubernetesObject]]:
    sources = {
        "chart": render(),
        "chart for some namespaces": render({"watchNamespaces": ["a"], "defaultGateway": "gateways/inference"}),
        "chart with the gateway": render(GATEWAY),
        "chart with the gateway for some namespaces": render({"watchNamespaces": ["a"], **GATEWAY}),
        "kustomize base": kustomize(MANIFESTS / "base"),
    }
    for source, objects in sources.items():
        for thing in of_kind(objects, "ClusterRole") + of_kind(objects, "Role"):
            yield source, thing


def test_no_role_has_a_wildcard() -> None:
    for source, role in _roles():
        for rule in role["rules"]:
            for field in ("apiGroups", "resources", "verbs", "resourceNames", "nonResourceURLs"):
                assert not any("*" in entry for entry in rule.get(field, [])), f"{source}: {identity(role)} {rule}"


def test_nobody_can_raise_their_own_rights() -> None:
    for source, role in _roles():
        for group, resource, verb in _grants(role["rules"]):
            assert group != "rbac.authorization.k8s.io", f"{source}: {identity(role)}"
            assert verb not in {"escalate", "bind", "impersonate"}, f"{source}: {identity(role)}"
            assert resource not in {"pods/exec", "pods/attach", "serviceaccounts/token", "nodes/proxy"}, (
                f"{source}: {identity(role)}"
            )


def test_secrets_are_read_by_name_only() -> None:
    """Listing or watching Secrets would show the operator all of them; it needs only those that a model names."""
    verbs = {
        verb for group, resource, verb in _grants(_rules("cluster-rules.yaml")) if (group, resource) == ("", "secrets")
    }
    assert verbs <= {"get"}


def test_the_operator_never_writes_to_a_spec() -> None:
    writes = {"create", "update", "patch", "delete", "deletecollection"}
    for name in ("cluster-rules.yaml", "own-namespace-rules.yaml"):
        grants = _grants(_rules(name))
        assert (
            not {verb for group, resource, verb in grants if (group, resource) == ("vllm-operator.io", "vllmmodels")}
            & writes
        )


def test_everything_that_is_watched_may_be_listed_and_watched() -> None:
    """A watch that is forbidden ends the operator's process, so a handler without its rule is a crash loop in the cluster."""
    kopf = importlib.import_module("kopf")
    registry = kopf.OperatorRegistry()
    operator_module("app.handlers").register(
        registry,
        want_model=lambda key, uid, generation: None,
        want=lambda key, delay: None,
        want_gateway=lambda key: None,
        want_nodes=lambda event, node: None,
        gateway_api=True,
        network_policies=True,
    )
    watched = {(handler.selector.group, handler.selector.any_name) for handler in registry._watching.get_all_handlers()}
    assert ("vllm-operator.io", "vllmmodels") in watched
    needed = {(group, resource, verb) for group, resource in watched for verb in ("list", "watch")}
    assert not needed - _grants(_rules("cluster-rules.yaml")) - _grants(_rules("node-rules.yaml"))


def test_leases_are_only_granted_in_the_own_namespace() -> None:
    assert not [grant for grant in _grants(_rules("cluster-rules.yaml")) if grant[1] == "leases"]
    own = _grants(_rules("own-namespace-rules.yaml"))
    assert {grant for grant in own if grant[1] != "leases"} == {
        ("", "pods", "get"),  # its own pod, for its image
        ("", "pods", "list"),  # the gateway's
    }


@pytest.mark.parametrize("gateway", [{}, GATEWAY], ids=["no gateway", "gateway"])
@pytest.mark.parametrize("values", [{}, {"watchNamespaces": ["a", "b"]}], ids=["everywhere", "some namespaces"])
def test_every_binding_leads_from_the_account_to_a_role(values: dict[str, Any], gateway: dict[str, Any]) -> None:
    objects = render(values | gateway)
    known = {identity(thing) for thing in objects}
    bindings = of_kind(objects, "ClusterRoleBinding") + of_kind(objects, "RoleBinding")
    assert bindings
    for binding in bindings:
        kind, namespace, _ = identity(binding)
        reference = binding["roleRef"]
        assert (reference["kind"], namespace, reference["name"]) in known, kind
        [subject] = binding["subjects"]
        assert ("ServiceAccount", subject["namespace"], subject["name"]) in known


def test_watching_some_namespaces_needs_no_rights_in_the_cluster_but_for_nodes() -> None:
    some = {"watchNamespaces": ["a", "b"], "rbac": {"aggregateRoles": False}}
    [nodes] = of_kind(render(some), "ClusterRole")
    assert nodes["rules"] == _rules("node-rules.yaml")
    assert [nodes] == of_kind(render(some | GATEWAY), "ClusterRole")
    objects = render({**some, "rbac": {"aggregateRoles": False, "nodes": False}})
    assert not of_kind(objects, "ClusterRole")
    assert not of_kind(objects, "ClusterRoleBinding")
    rules = _rules("cluster-rules.yaml")
    granted = {thing["metadata"]["namespace"]: thing["rules"] for thing in of_kind(objects, "Role")}
    assert granted["a"] == granted["b"] == rules + _rules("log-rules.yaml")
    assert granted[NAMESPACE] == _rules("own-namespace-rules.yaml")


def test_logs_may_be_kept_from_the_operator() -> None:
    for values in ({}, {"watchNamespaces": ["a"]}):
        objects = render({**values, "rbac": {"podLogs": False}})
        roles = of_kind(objects, "ClusterRole") + of_kind(objects, "Role")
        assert not [grant for role in roles for grant in _grants(role["rules"]) if grant[1] == "pods/log"]


def test_a_gateway_elsewhere_can_still_be_read() -> None:
    objects = render({"watchNamespaces": ["a"], "defaultGateway": "gateways/inference"})
    [role] = [thing for thing in of_kind(objects, "Role") if thing["metadata"]["namespace"] == "gateways"]
    assert _grants(role["rules"]) == {("gateway.networking.k8s.io", "gateways", "get")}
    assert len(of_kind(render({"watchNamespaces": ["a"], "defaultGateway": "a/inference"}), "Role")) == 2


def test_the_gateway_has_its_own_rights_and_the_operator_may_make_keys_for_it() -> None:
    objects = render(GATEWAY)
    [cluster] = of_kind(of_the_gateway(objects), "ClusterRole")
    assert not of_kind(of_the_gateway(objects), "Role")
    assert cluster["rules"] == _rules("gateway-rules.yaml")
    accounts = {
        subject["name"]
        for kind in ("ClusterRoleBinding", "RoleBinding")
        for binding in of_kind(of_the_gateway(objects), kind)
        for subject in binding["subjects"]
    }
    assert accounts == {"vllm-operator-gateway"}
    [operator] = [thing for thing in of_kind(objects, "ClusterRole") if thing["metadata"]["name"] == "vllm-operator"]
    more = _grants(operator["rules"]) - _grants(_rules("cluster-rules.yaml")) - _grants(_rules("log-rules.yaml"))
    assert more == {
        ("", "secrets", "create"),
        ("networking.k8s.io", "networkpolicies", "create"),
        ("networking.k8s.io", "networkpolicies", "patch"),
    }
    assert operator["rules"][-2:] == _rules("gateway-operator-rules.yaml")


def test_the_policies_of_a_gateway_that_is_gone_may_be_taken_away_and_none_made() -> None:
    """Policies that are left let nobody in."""
    verbs = {verb for _, resource, verb in _grants(_rules("cluster-rules.yaml")) if resource == "networkpolicies"}
    assert verbs == {"get", "list", "watch", "delete"}


def test_the_gateway_writes_nothing() -> None:
    grants = _grants(_rules("gateway-rules.yaml"))
    assert {resource for _, resource, _ in grants} == {"vllmmodels", "endpointslices", "secrets"}
    assert {verb for _, _, verb in grants} <= {"get", "list", "watch"}


def test_the_gateway_of_some_namespaces_reads_the_secrets_of_these_only() -> None:
    """The namespace of the default Gateway has a Role of the same name, the operator's: no models, so no secrets."""
    objects = render({"watchNamespaces": ["a", NAMESPACE], "defaultGateway": "gateways/inference", **GATEWAY})
    assert not of_kind(of_the_gateway(objects), "ClusterRole")
    granted = {identity(thing)[1:]: thing["rules"] for thing in of_kind(of_the_gateway(objects), "Role")}
    assert granted == {
        ("a", "vllm-operator-gateway"): _rules("gateway-rules.yaml"),
        (NAMESPACE, "vllm-operator-gateway"): _rules("gateway-rules.yaml"),
    }
    elsewhere = [thing for thing in of_kind(objects, "Role") if thing["metadata"]["namespace"] == "gateways"]
    assert of_the_operator(elsewhere) == elsewhere
    assert len({identity(thing) for thing in objects}) == len(objects)


def test_people_with_the_standard_roles_may_use_models() -> None:
    roles = {thing["metadata"]["name"]: thing for thing in of_kind(render(), "ClusterRole")}
    prefix = "rbac.authorization.k8s.io/aggregate-to-"

    def rights(standard_role: str) -> set[tuple[str, str]]:
        return {
            (resource, verb)
            for role in roles.values()
            if role["metadata"]["labels"].get(prefix + standard_role) == "true"
            for _, resource, verb in _grants(role["rules"])
        }

    read = {("vllmmodels", verb) for verb in ("get", "list", "watch")} | {
        ("vllmmodels/scale", "get"),
        ("vllmmodels/status", "get"),
    }
    write = {("vllmmodels", verb) for verb in ("create", "delete", "deletecollection", "patch", "update")}
    write |= {("vllmmodels/scale", verb) for verb in ("patch", "update")}
    assert rights("view") == read
    assert rights("edit") == rights("admin") == read | write


def test_without_rbac_only_the_roles_for_people_are_made() -> None:
    objects = render({"rbac": {"create": False}})
    assert {thing["metadata"]["name"] for thing in of_kind(objects, "ClusterRole")} == {
        "vllm-operator-view",
        "vllm-operator-edit",
    }
    assert not of_kind(objects, "Role")
    assert not [thing for thing in of_the_gateway(render({"rbac": {"create": False}, **GATEWAY})) if "roleRef" in thing]
