"""The operator with less than it needs says what is missing. That the chart's rules are enough is asserted after every test."""

import copy
from functools import partial

from vllm_operator.cluster import kinds

from .api import Api, condition, model, settled, wait_until
from .conftest import Operators
from .workbench import RBAC, Workbench, chart_rules


def _without(resource: str, verb: str) -> list[dict]:
    rules = copy.deepcopy(chart_rules())
    for rule in list(rules):
        if resource in rule["resources"]:
            rule["resources"].remove(resource)
            rules.append({**rule, "resources": [resource], "verbs": [each for each in rule["verbs"] if each != verb]})
    return [rule for rule in rules if rule["resources"]]


def test_missing_permission_is_named(
    bench: Workbench, api: Api, operators: Operators, namespace: str, product: str
) -> None:
    operators.may_be_denied = True
    role = f"{bench.role}-services"
    bench.make_cluster_role(role, _without("services", "patch"))
    operators.identity = bench.identity(namespaces=[namespace], role=role)
    operator = operators()
    api.create_model(namespace, model("qwen", product=product))
    wait_until(
        lambda: f"PermissionDenied: {api.model(namespace, 'qwen').get('status')}",
        lambda: condition(api.model(namespace, "qwen"), "Accepted").get("reason") == "PermissionDenied",
    )
    accepted = condition(api.model(namespace, "qwen"), "Accepted")
    assert accepted["status"] == "False"
    assert "Service" in accepted["message"]
    assert 'cannot patch resource "services"' in accepted["message"]
    assert condition(api.model(namespace, "qwen"))["reason"] == "PermissionDenied"
    assert api.find(kinds.DEPLOYMENT, namespace, "qwen") is not None, "what is allowed is done"
    # Granted, it goes on by itself; an edit only makes it look at once.
    api.request("PUT", f"{RBAC}/clusterroles/{role}", body={"metadata": {"name": role}, "rules": chart_rules()})
    wait_until(
        "the rule to be known",
        lambda: api.request(
            "POST",
            "/apis/authorization.k8s.io/v1/subjectaccessreviews",
            body={
                "spec": {
                    "user": operators.identity.user,
                    "resourceAttributes": {"namespace": namespace, "verb": "patch", "resource": "services"},
                }
            },
        )["status"]["allowed"],
    )
    api.edit(namespace, "qwen", {"replicas": 2})
    wait_until("the model to be rolled out", lambda: settled(api.model(namespace, "qwen")))
    assert operator.healthy()


def test_all_namespaces_with_the_charts_cluster_role(
    bench: Workbench, api: Api, cluster_operators: Operators, product: str
) -> None:
    """As the chart installs it by default: one ClusterRole, models in several namespaces."""
    cluster_operators()
    namespaces = [bench.namespace(), bench.namespace()]
    for namespace in namespaces:
        api.create_model(namespace, model("qwen", product=product, replicas=2))

    def pruned(namespace: str) -> bool:
        return api.find(kinds.POD_DISRUPTION_BUDGET, namespace, "qwen") is None

    def rolled_out(namespace: str) -> bool:
        return settled(api.model(namespace, "qwen"))

    for namespace in namespaces:
        wait_until(f"the model of {namespace}", partial(rolled_out, namespace), timeout=60)
        assert not pruned(namespace)
        api.edit(namespace, "qwen", {"replicas": 1})
        wait_until("the PodDisruptionBudget to be pruned", partial(pruned, namespace))
