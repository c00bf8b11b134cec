"""The gateway of the Helm chart: off by default, apart from the operator, safe to restart."""

import json
from typing import Any

import pytest
import yaml

from tests.cluster.settings import ENVOY_REQUIREMENT
from vllm_operator.gateway.bootstrap import READY_PATH

from .support import (
    CHART,
    NAMESPACE,
    KubernetesObject,
    container,
    environment,
    identity,
    of_kind,
    of_the_gateway,
    of_the_operator,
    only,
    operator_module,
    program,
    render,
    run,
)
from .test_chart import VARIANTS

ON: dict[str, Any] = {"gateway": {"enabled": True}}
EVERYTHING = VARIANTS["gateway, everything on"]
HOSTILE = {"app.kubernetes.io/name": "other", "app.kubernetes.io/instance": "other"}
"""Labels that would hide pods from what looks for them."""


def _gateway(values: dict[str, Any] | None = None) -> list[KubernetesObject]:
    return of_the_gateway(render(ON if values is None else values))


def _deployment(values: dict[str, Any] | None = None) -> KubernetesObject:
    return only(_gateway(values), "Deployment")


def _with(**gateway: Any) -> dict[str, Any]:
    return {"gateway": {"enabled": True, **gateway}}


@pytest.mark.parametrize("name", ["default", "some namespaces", "everything on", "as little as possible", "long names"])
def test_it_is_off_by_default_and_leaves_the_operators_objects_alone(name: str) -> None:
    """But for the operator's variables, its rules and its way to the agents, which other tests look at."""
    values = VARIANTS[name]
    off = render(values)
    assert not of_the_gateway(off)
    more = {"gateway": {"enabled": True, "serviceAccount": {"create": False, "name": "gateway"}}}
    on = {identity(thing): thing for thing in of_the_operator(render(values | more))}
    assert list(on) == [identity(thing) for thing in off]
    changed = {identity(thing)[0] for thing in off if on[identity(thing)] != thing}
    assert changed <= {"Deployment", "ClusterRole", "Role", "NetworkPolicy"}


def _selectors(objects: list[KubernetesObject]) -> list[tuple[Any, dict[str, str]]]:
    """What finds pods, and by which labels."""
    found = []
    for thing in objects:
        spec = thing.get("spec", {})
        if thing["kind"] == "Service":
            found.append((identity(thing), spec["selector"]))
        elif thing["kind"] == "NetworkPolicy":
            found.append((identity(thing), spec["podSelector"]["matchLabels"]))
        elif thing["kind"] in {"Deployment", "PodDisruptionBudget"}:
            found.append((identity(thing), spec["selector"]["matchLabels"]))
        if thing["kind"] == "Deployment":
            for constraint in spec["template"]["spec"]["topologySpreadConstraints"]:
                found.append((identity(thing), constraint["labelSelector"]["matchLabels"]))
    return found


@pytest.mark.parametrize("release", ["vllm-operator", "other"])
def test_nothing_finds_the_pods_of_both(release: str) -> None:
    """Two Deployments that find each other's pods fight for ever, and a Service would send requests to the operator."""
    hostile = {"app.kubernetes.io/name": "vllm-operator", "app.kubernetes.io/instance": "vllm-operator"}
    values = EVERYTHING | {"commonLabels": hostile, "podLabels": hostile}
    values["gateway"] = values["gateway"] | {"podLabels": hostile}
    objects = render(values, release=release)
    for own, other in ((of_the_gateway, of_the_operator), (of_the_operator, of_the_gateway)):
        pods = only(own(objects), "Deployment")["spec"]["template"]["metadata"]["labels"]
        for what, labels in _selectors(own(objects)):
            assert labels.items() <= pods.items(), what
        for what, labels in _selectors(other(objects)):
            assert not labels.items() <= pods.items(), what
    assert len(_selectors(of_the_gateway(objects))) == 6


def test_service_monitors_find_their_own_services_only() -> None:
    objects = render(EVERYTHING)
    for own, port in ((of_the_operator, 8080), (of_the_gateway, 8081)):
        monitor = only(own(objects), "ServiceMonitor")
        labels = monitor["spec"]["selector"]["matchLabels"]
        ports = [
            each["port"]
            for service in of_kind(objects, "Service")
            if labels.items() <= service["metadata"]["labels"].items()
            for each in service["spec"]["ports"]
            if each["name"] in {endpoint["port"] for endpoint in monitor["spec"]["endpoints"]}
        ]
        assert ports == [port]
    endpoints = only(_gateway(EVERYTHING), "ServiceMonitor")["spec"]["endpoints"]
    assert [endpoint["path"] for endpoint in endpoints] == ["/metrics", "/metrics/envoy"]
    assert all(endpoint["relabelings"][0]["targetLabel"] == "metrics_path" for endpoint in endpoints)
    assert not of_kind(render(ON), "ServiceMonitor")


def test_the_three_containers_agree_about_ports_and_files() -> None:
    deployment = _deployment(_with(largestBody="100Mi"))
    bootstrap, envoy, agent = (container(deployment, name) for name in ("bootstrap", "envoy", "agent"))
    command, *arguments = bootstrap["args"]
    assert command == "gateway-bootstrap"
    flags = dict(zip(arguments[::2], arguments[1::2], strict=True))
    assert flags == {
        "--output": "/etc/envoy/envoy.json",
        "--port": "8000",
        "--admin-port": "9901",
        "--xds-port": "9902",
        "--largest-body": "100Mi",
        "--node": "$(POD_NAME)",
    }
    assert [entry["name"] for entry in bootstrap["env"]] == ["POD_NAME"]
    assert envoy["command"] == ["envoy"]
    assert envoy["args"] == [
        *("-c", flags["--output"], "--log-level", "warning", "--component-log-level", "config:error,misc:error"),
        *("--concurrency", "2", "--disable-hot-restart"),
    ]
    assert agent["command"] == ["python3", "-m", "vllm_operator.app.supervisor", "gateway"]
    assert environment(deployment, "agent") == {
        "VLLM_OPERATOR_HTTP_ADDRESS": "0.0.0.0:8081",
        "VLLM_OPERATOR_ADMIN_PORT": flags["--admin-port"],
        "VLLM_OPERATOR_XDS_PORT": flags["--xds-port"],
        "VLLM_OPERATOR_LARGEST_BODY": flags["--largest-body"],
        "VLLM_OPERATOR_LOG_FORMAT": "json",
        "VLLM_OPERATOR_LOG_LEVEL": "info",
    }
    assert {entry["name"] for entry in agent["env"]} >= {"POD_NAME", "POD_NAMESPACE"}
    assert [(port["name"], port["containerPort"]) for port in envoy["ports"]] == [("http", int(flags["--port"]))]
    assert [(port["name"], port["containerPort"]) for port in agent["ports"]] == [("agent", 8081)]
    assert bootstrap["image"] == agent["image"] == container(only(render(), "Deployment"), "operator")["image"]


def test_the_agent_looks_where_the_operator_looks() -> None:
    variables = environment(_deployment(ON | {"watchNamespaces": ["a", "b"]}), "agent")
    assert variables["VLLM_OPERATOR_NAMESPACES"] == "a,b"


def test_a_pod_leaves_when_no_request_is_under_way() -> None:
    deployment = _deployment()
    pod = deployment["spec"]["template"]["spec"]
    # The kubelet ends sidecars after all other containers, and the agent ends when Envoy has no request.
    assert [each["name"] for each in pod["containers"]] == ["agent"]
    assert container(deployment, "envoy")["restartPolicy"] == "Always"
    assert not any("lifecycle" in each for each in pod["containers"] + pod["initContainers"])
    assert pod["terminationGracePeriodSeconds"] == 330
    assert deployment["spec"]["strategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
    }


def test_probes() -> None:
    deployment = _deployment()
    agent, envoy = container(deployment, "agent"), container(deployment, "envoy")
    # An agent that is away changes nothing.
    assert not [name for name in agent if name.endswith("Probe")]
    assert envoy["readinessProbe"]["httpGet"] == {"path": READY_PATH, "port": "http"}
    assert envoy["readinessProbe"]["periodSeconds"] <= 2
    assert envoy["livenessProbe"]["tcpSocket"] == {"port": "http"}
    assert envoy["livenessProbe"]["periodSeconds"] * envoy["livenessProbe"]["failureThreshold"] >= 60


def test_only_the_agent_has_the_token() -> None:
    """Envoy reads what strangers send; the token reads Secrets."""
    deployment = _deployment()
    pod = deployment["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    mounts = {
        each["name"]: {mount["name"] for mount in each["volumeMounts"]}
        for each in pod["containers"] + pod["initContainers"]
    }
    assert mounts == {"bootstrap": {"envoy"}, "envoy": {"envoy"}, "agent": {"tmp", "token"}}
    assert {volume["name"] for volume in pod["volumes"]} == {"envoy", "tmp", "token"}
    [mount] = container(deployment, "envoy")["volumeMounts"]
    assert mount["readOnly"] is True


def test_envoys_image() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())["gateway"]["envoy"]["image"]
    assert container(_deployment(), "envoy")["image"] == f"{values['repository']}:{values['tag']}"
    tested = ENVOY_REQUIREMENT.partition("==")[2]
    assert values["tag"] == f"distroless-v{tested}", "not the version that tests/gateway runs"
    digest = "sha256:" + "ab" * 32
    image = {"repository": "r.example.com/envoy", "tag": "x", "digest": digest, "pullPolicy": "Always"}
    envoy = container(_deployment(_with(envoy={"image": image})), "envoy")
    assert (envoy["image"], envoy["imagePullPolicy"]) == (f"r.example.com/envoy@{digest}", "Always")


def test_resources() -> None:
    deployment = _deployment()
    assert container(deployment, "envoy")["resources"] == {
        "requests": {"cpu": "200m", "memory": "256Mi"},
        "limits": {"memory": "1Gi"},
    }
    # A quota that wants requests wants them of init containers too.
    for name in ("agent", "bootstrap"):
        assert container(deployment, name)["resources"] == {
            "requests": {"cpu": "50m", "memory": "128Mi"},
            "limits": {"memory": "512Mi"},
        }


def test_everything_that_is_set_arrives() -> None:
    deployment = _deployment(EVERYTHING)
    spec, pod = deployment["spec"], deployment["spec"]["template"]["spec"]
    envoy = container(deployment, "envoy")
    assert spec["replicas"] == 3
    assert envoy["command"] == ["/usr/local/bin/envoy"]
    flags = dict(zip(envoy["args"][:-1:2], envoy["args"][1::2], strict=True))
    assert (flags["--log-level"], flags["--concurrency"]) == ("info", "4")
    assert environment(deployment, "agent")["VLLM_OPERATOR_LOG_FORMAT"] == "text"
    assert environment(deployment, "agent")["VLLM_OPERATOR_LARGEST_BODY"] == "512Mi"
    operator = only(of_the_operator(render(EVERYTHING)), "Deployment")
    networks = {
        environment(each, name)["VLLM_OPERATOR_EXTERNAL_NETWORKS"]
        for each, name in ((deployment, "agent"), (operator, "operator"))
    }
    assert networks == {"10.20.0.0/16,fd00:1::/64"}
    assert pod["terminationGracePeriodSeconds"] == 600
    assert pod["priorityClassName"] == "system-cluster-critical"
    assert pod["nodeSelector"] == {"kubernetes.io/os": "linux", "pool": "front"}
    assert pod["tolerations"] == [{"key": "front", "operator": "Exists"}]
    assert pod["affinity"] == {"nodeAffinity": {}}
    assert pod["imagePullSecrets"] == [{"name": "registry"}]
    [constraint] = pod["topologySpreadConstraints"]
    assert constraint["topologyKey"] == "topology.kubernetes.io/zone"
    metadata = spec["template"]["metadata"]
    assert metadata["labels"]["sidecar.istio.io/inject"] == "false"
    assert metadata["labels"]["team"] == "platform"
    assert metadata["annotations"] == {"kubectl.kubernetes.io/default-container": "envoy", "example.com/note": "yes"}
    account = only(_gateway(EVERYTHING), "ServiceAccount")
    assert account["metadata"]["annotations"] == {"example.com/role": "gateway"}
    assert account["metadata"]["name"] == pod["serviceAccountName"] == "vllm-operator-gateway"


def test_replicas_prefer_different_nodes() -> None:
    deployment = _deployment()
    assert deployment["spec"]["replicas"] == 2
    [constraint] = deployment["spec"]["template"]["spec"]["topologySpreadConstraints"]
    assert (constraint["topologyKey"], constraint["whenUnsatisfiable"]) == ("kubernetes.io/hostname", "ScheduleAnyway")


@pytest.mark.parametrize(("replicas", "expected"), [(0, 0), (1, 0), (2, 1), (3, 1)])
def test_disruption_budget_only_where_it_does_not_block_drains(replicas: int, expected: int) -> None:
    budgets = of_kind(render(_with(replicas=replicas)), "PodDisruptionBudget")
    assert [budget["spec"]["maxUnavailable"] for budget in budgets] == [1] * expected
    assert not of_kind(render(_with(replicas=replicas, podDisruptionBudget={"enabled": False})), "PodDisruptionBudget")


def test_services() -> None:
    front, metrics = of_kind(_gateway(), "Service")
    assert (front["metadata"]["name"], front["spec"]["type"]) == ("vllm-operator-gateway", "ClusterIP")
    assert [(port["port"], port["targetPort"]) for port in front["spec"]["ports"]] == [(80, "http")]
    assert metrics["metadata"]["name"] == "vllm-operator-gateway-metrics"
    assert [(port["port"], port["targetPort"]) for port in metrics["spec"]["ports"]] == [(8081, "agent")]
    changed = of_kind(_gateway(EVERYTHING), "Service")[0]
    assert (changed["spec"]["type"], changed["spec"]["ports"][0]["port"]) == ("LoadBalancer", 8080)
    assert changed["metadata"]["annotations"] == {"example.com/lb": "inner"}
    assert len(of_kind(_gateway(ON | {"metrics": {"service": {"enabled": False}}}), "Service")) == 1


def test_the_operator_is_told_the_url() -> None:
    def url(values: dict[str, Any]) -> str | None:
        return environment(only(of_the_operator(render(values)), "Deployment")).get("VLLM_OPERATOR_GATEWAY_URL")

    assert url({}) is None
    assert url(ON) == f"http://vllm-operator-gateway.{NAMESPACE}.svc.cluster.local"
    assert url(_with(service={"port": 8080}) | {"clusterDomain": "example.org", "fullnameOverride": "x"}) == (
        f"http://x-gateway.{NAMESPACE}.svc.example.org:8080"
    )


def test_one_route_leads_everything_to_it_without_timeouts() -> None:
    assert not of_kind(render(ON), "HTTPRoute")
    objects = _gateway(EVERYTHING)
    route = only(objects, "HTTPRoute")
    assert route["spec"] == {
        "parentRefs": [{"namespace": "gateways", "name": "inference", "sectionName": "https"}],
        "hostnames": ["llm.example.com", "*.llm.example.com"],
        "rules": [{"backendRefs": [{"name": "vllm-operator-gateway", "port": 8080}]}],
    }
    service = of_kind(objects, "Service")[0]
    assert service["metadata"]["name"] == "vllm-operator-gateway"
    assert service["spec"]["ports"][0]["port"] == 8080
    assert "hostnames" not in only(_gateway(_with(route={"parentRefs": [{"name": "x"}]})), "HTTPRoute")["spec"]


def test_network_policy() -> None:
    assert not of_kind(render(ON), "NetworkPolicy")
    plain = only(_gateway(ON | {"networkPolicy": {"enabled": True}}), "NetworkPolicy")["spec"]
    assert plain["policyTypes"] == ["Ingress"]
    assert plain["ingress"] == [
        {"ports": [{"port": "http", "protocol": "TCP"}]},
        {"ports": [{"port": "agent", "protocol": "TCP"}]},
    ]
    closed = only(_gateway(EVERYTHING), "NetworkPolicy")["spec"]
    requests, metrics = closed["ingress"]
    assert requests["from"] == EVERYTHING["gateway"]["networkPolicyFrom"]
    operator = only(of_the_operator(render(EVERYTHING)), "Deployment")["spec"]["selector"]
    assert metrics["from"] == [*EVERYTHING["networkPolicy"]["metricsFrom"], {"podSelector": operator}]
    assert closed["policyTypes"] == ["Ingress", "Egress"]
    assert {port["port"] for rule in closed["egress"] for port in rule["ports"]} == {53, 443, 6443, 8000, 16443}


def test_the_operator_finds_the_gateways_pods_and_may_ask_their_agents() -> None:
    assert "VLLM_OPERATOR_GATEWAY_PODS" not in environment(only(render(), "Deployment"))
    objects = render(EVERYTHING | {"nameOverride": "a", "podLabels": HOSTILE}, release="some-release")
    text = environment(only(of_the_operator(objects), "Deployment"))["VLLM_OPERATOR_GATEWAY_PODS"]
    found = operator_module("app.settings")._gateway_pods(text)
    assert found.namespace == NAMESPACE
    chosen = [
        each
        for each in of_kind(objects, "Deployment")
        if found.labels.items() <= each["spec"]["template"]["metadata"]["labels"].items()
    ]
    assert chosen == of_kind(of_the_gateway(objects), "Deployment")
    (port,) = container(chosen[0], "agent")["ports"]
    assert port["containerPort"] == operator_module("api.names").AGENT_PORT
    # Where only some may talk to whom.
    egress = only(of_the_operator(objects), "NetworkPolicy")["spec"]["egress"]
    (rule,) = [each for each in egress if each.get("ports") == [{"port": port["containerPort"], "protocol": "TCP"}]]
    assert rule["to"] == [{"podSelector": chosen[0]["spec"]["selector"]}]
    without = only(render(VARIANTS["everything on"]), "NetworkPolicy")["spec"]["egress"]
    assert len(without) == len(egress) - 1


def _model_peers(objects: list[KubernetesObject]) -> list[dict[str, Any]] | None:
    """Who may reach the pods of models, as the operator is told."""
    text = environment(only(of_the_operator(objects), "Deployment")).get("VLLM_OPERATOR_MODEL_NETWORK_POLICY_FROM")
    return None if text is None else json.loads(text)


@pytest.mark.parametrize(
    "values",
    [
        ON,
        EVERYTHING,
        ON | {"nameOverride": "a", "fullnameOverride": "b"},
        _with(podLabels=HOSTILE) | {"podLabels": HOSTILE, "commonLabels": HOSTILE},
    ],
    ids=["plain", "everything", "other names", "hostile labels"],
)
def test_the_pods_of_models_let_the_gateway_and_the_operator_in(values: dict[str, Any]) -> None:
    objects = render(values, release="some-release", namespace="some-namespace")
    peers = _model_peers(objects)
    assert peers is not None
    for deployment in of_kind(objects, "Deployment"):
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        chosen = [peer for peer in peers[:2] if peer["podSelector"]["matchLabels"].items() <= labels.items()]
        assert [peer["namespaceSelector"] for peer in chosen] == [
            {"matchLabels": {"kubernetes.io/metadata.name": "some-namespace"}}
        ], "each is let in once, and nothing else of the cluster"
        assert deployment["metadata"]["namespace"] == "some-namespace"
    assert peers[2:] == values["gateway"].get("modelNetworkPolicy", {}).get("from", [])
    operator_module("workload.peers").read_peers(json.dumps(peers))


def test_models_have_no_policy_unless_there_is_a_gateway_and_it_is_wanted() -> None:
    assert _model_peers(render()) is None
    assert _model_peers(render({"gateway": {"modelNetworkPolicy": {"from": [{"podSelector": {}}]}}})) is None
    assert _model_peers(render(_with(modelNetworkPolicy={"enabled": False}))) is None


def test_notes_name_the_address() -> None:
    command = [program("helm"), "install", "vllm-operator", str(CHART), "--namespace", NAMESPACE, "--dry-run=client"]
    result = run([*command, "--set", "gateway.enabled=true"])
    assert result.returncode == 0, result.stderr
    notes = result.stdout.split("NOTES:", 1)[1]
    assert f"http://vllm-operator-gateway.{NAMESPACE}.svc.cluster.local/v1" in notes
    assert "defaultGateway" not in notes, "it is not used where there is a gateway"


def test_the_dashboard_is_where_grafana_finds_it() -> None:
    assert not of_kind(render(ON), "ConfigMap")
    found = only(_gateway(_with(dashboard={"enabled": True})), "ConfigMap")
    assert found["metadata"]["name"] == "vllm-operator-gateway-dashboard"
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
    [(name, text)] = found["data"].items()
    assert name.endswith(".json")
    # Grafana's words in braces are not Helm's.
    assert text == (CHART / "files/dashboards/gateway.json").read_text()
    more = {"grafana_dashboard": "yes", "folder": "models", "app.kubernetes.io/name": "other"}
    labels = only(_gateway(_with(dashboard={"enabled": True, "labels": more})), "ConfigMap")["metadata"]["labels"]
    assert (labels["grafana_dashboard"], labels["folder"]) == ("yes", "models")
    assert labels["app.kubernetes.io/name"] == "vllm-operator-gateway"


def test_the_dashboards_panels_do_not_overlap() -> None:
    """What they ask for is looked at by tests/gateway/test_dashboard.py."""
    board = json.loads((CHART / "files/dashboards/gateway.json").read_text())
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    covered: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & covered, panel["title"]
        assert max(x for x, _ in cells) < 24
        covered |= cells
        assert panel["type"] == "row" or panel["targets"]
        assert panel["title"]
