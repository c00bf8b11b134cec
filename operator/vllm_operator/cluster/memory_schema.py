"""What the in-memory cluster knows of kinds: their fields, how lists merge, defaults, and what is refused.

It is the part of the API server's knowledge that the operator's objects touch, not all of it. The contract suite
compares what both make of the operator's own objects.
"""

import base64
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from typing import Any

from pydantic import ValidationError

from vllm_operator.api.crd import crd
from vllm_operator.api.types import VLLMModel
from vllm_operator.cluster import kinds
from vllm_operator.cluster.base import Object
from vllm_operator.cluster.kinds import Kind
from vllm_operator.cluster.memory_fields import (
    ANY,
    BOOLEAN,
    INTEGER,
    STRING,
    STRINGS,
    Node,
    check,
)


def _struct(names: str, **nodes: Node) -> Node:
    """A map with just these fields; `nodes` are those that are more than an unchecked value."""
    return Node(fields=nodes, known=frozenset(names.split()) | nodes.keys(), type="object")


def _list(element: Node, *keys: str, **defaults: Any) -> Node:
    """A list whose elements are told apart by keys."""
    return Node(element=element, keys=keys, defaults=defaults, type="array")


def _plain(element: Node) -> Node:
    """A list that is one value, with known elements."""
    return Node(element=element, atomic=True, type="array")


_SELECTOR = Node(
    fields={"matchLabels": STRINGS},
    known=frozenset({"matchLabels", "matchExpressions"}),
    atomic=True,
    type="object",
)

METADATA = _struct(
    "annotations creationTimestamp deletionGracePeriodSeconds deletionTimestamp generateName generation managedFields "
    "name namespace resourceVersion selfLink uid",
    labels=STRINGS,
    annotations=STRINGS,
    finalizers=Node(type="array"),
    ownerReferences=_list(
        Node(
            known=frozenset(["apiVersion", "blockOwnerDeletion", "controller", "kind", "name", "uid"]),
            atomic=True,
            type="object",
        ),
        "uid",
    ),
)

_REFERENCE = Node(atomic=True, type="object")
_HANDLER = {"exec": _struct("command"), "httpGet": _struct("host httpHeaders path port scheme"), "tcpSocket": ANY}
_PROBE = _struct(
    "terminationGracePeriodSeconds",
    failureThreshold=INTEGER,
    initialDelaySeconds=INTEGER,
    periodSeconds=INTEGER,
    successThreshold=INTEGER,
    timeoutSeconds=INTEGER,
    grpc=_struct("port service"),
    **_HANDLER,
)
_SECURITY = _struct(
    "appArmorProfile procMount runAsGroup runAsUser seLinuxOptions windowsOptions",
    allowPrivilegeEscalation=BOOLEAN,
    privileged=BOOLEAN,
    readOnlyRootFilesystem=BOOLEAN,
    runAsNonRoot=BOOLEAN,
    capabilities=_struct("add drop"),
    seccompProfile=_struct("localhostProfile type"),
)
_CONTAINER = _struct(
    "args command restartPolicy restartPolicyRules resizePolicy stdin stdinOnce terminationMessagePath "
    "terminationMessagePolicy tty workingDir",
    name=STRING,
    image=STRING,
    imagePullPolicy=STRING,
    env=_list(
        _struct(
            "name",
            value=STRING,
            valueFrom=_struct(
                "",
                configMapKeyRef=_REFERENCE,
                fieldRef=_REFERENCE,
                fileKeyRef=_REFERENCE,
                resourceFieldRef=_REFERENCE,
                secretKeyRef=_REFERENCE,
            ),
        ),
        "name",
    ),
    envFrom=Node(type="array"),
    lifecycle=_struct("stopSignal", postStart=_struct("sleep", **_HANDLER), preStop=_struct("sleep", **_HANDLER)),
    livenessProbe=_PROBE,
    readinessProbe=_PROBE,
    startupProbe=_PROBE,
    ports=_list(
        _struct("hostIP name protocol", containerPort=INTEGER, hostPort=INTEGER),
        "containerPort",
        "protocol",
        protocol="TCP",
    ),
    resources=_struct("", claims=_list(ANY, "name"), limits=Node(type="object"), requests=Node(type="object")),
    securityContext=_SECURITY,
    volumeDevices=_list(ANY, "devicePath"),
    volumeMounts=_list(
        _struct("mountPath mountPropagation name readOnly recursiveReadOnly subPath subPathExpr"), "mountPath"
    ),
)
_VOLUME = _struct(
    "awsElasticBlockStore azureDisk azureFile cephfs cinder csi ephemeral fc flexVolume flocker gcePersistentDisk "
    "gitRepo glusterfs image iscsi nfs photonPersistentDisk portworxVolume quobyte rbd scaleIO storageos vsphereVolume",
    name=STRING,
    configMap=_struct("defaultMode items name optional"),
    downwardAPI=_struct("defaultMode items"),
    emptyDir=_struct("medium sizeLimit"),
    hostPath=_struct("path type"),
    persistentVolumeClaim=_struct("claimName readOnly"),
    projected=_struct("defaultMode sources"),
    secret=_struct("defaultMode items optional secretName"),
)
POD_SPEC = _struct(
    "activeDeadlineSeconds affinity automountServiceAccountToken dnsConfig dnsPolicy enableServiceLinks "
    "ephemeralContainers hostIPC hostNetwork hostPID hostUsers hostname hostnameOverride nodeName os overhead "
    "preemptionPolicy priority priorityClassName readinessGates resources restartPolicy runtimeClassName schedulerName "
    "schedulingGroup serviceAccount serviceAccountName setHostnameAsFQDN shareProcessNamespace subdomain",
    containers=_list(_CONTAINER, "name"),
    initContainers=_list(_CONTAINER, "name"),
    hostAliases=_list(ANY, "ip"),
    imagePullSecrets=_list(_REFERENCE, "name"),
    nodeSelector=Node(values=STRING, atomic=True, type="object"),
    resourceClaims=_list(ANY, "name"),
    schedulingGates=_list(ANY, "name"),
    securityContext=_struct(
        "appArmorProfile fsGroup fsGroupChangePolicy runAsGroup runAsNonRoot runAsUser seLinuxChangePolicy "
        "seLinuxOptions supplementalGroups supplementalGroupsPolicy sysctls windowsOptions",
        seccompProfile=_struct("localhostProfile type"),
    ),
    terminationGracePeriodSeconds=INTEGER,
    tolerations=_plain(_struct("effect key operator tolerationSeconds value")),
    topologySpreadConstraints=_list(
        _struct(
            "matchLabelKeys maxSkew minDomains nodeAffinityPolicy nodeTaintsPolicy topologyKey whenUnsatisfiable",
            labelSelector=_SELECTOR,
        ),
        "topologyKey",
        "whenUnsatisfiable",
    ),
    volumes=_list(_VOLUME, "name"),
)
_STATUS = Node(fields={"conditions": _list(ANY, "type")}, type="object")


def _object(*names: str, **nodes: Node) -> Node:
    return _struct(" ".join(("apiVersion", "kind", *names)), metadata=METADATA, **nodes)


DEPLOYMENT = _object(
    spec=_struct(
        "paused",
        minReadySeconds=INTEGER,
        progressDeadlineSeconds=INTEGER,
        replicas=INTEGER,
        revisionHistoryLimit=INTEGER,
        selector=_SELECTOR,
        strategy=_struct("type", rollingUpdate=_struct("maxSurge maxUnavailable")),
        template=_struct("", metadata=METADATA, spec=POD_SPEC),
    ),
    status=_STATUS,
)
SERVICE = _object(
    spec=_struct(
        "allocateLoadBalancerNodePorts clusterIP clusterIPs externalIPs externalName externalTrafficPolicy "
        "healthCheckNodePort internalTrafficPolicy ipFamilies ipFamilyPolicy loadBalancerClass loadBalancerIP "
        "loadBalancerSourceRanges publishNotReadyAddresses sessionAffinity sessionAffinityConfig trafficDistribution "
        "type",
        ports=_list(
            _struct("appProtocol name protocol targetPort", port=INTEGER, nodePort=INTEGER),
            "port",
            "protocol",
            protocol="TCP",
        ),
        selector=Node(values=STRING, atomic=True, type="object"),
    ),
    status=_STATUS,
)
POD_DISRUPTION_BUDGET = _object(
    spec=_struct("maxUnavailable minAvailable unhealthyPodEvictionPolicy", selector=_SELECTOR), status=_STATUS
)
_PEERS = _plain(
    _struct(
        "", podSelector=_SELECTOR, namespaceSelector=_SELECTOR, ipBlock=_struct("cidr", **{"except": _plain(STRING)})
    )
)
_POLICY_PORTS = _plain(_struct("port protocol", endPort=INTEGER))
NETWORK_POLICY = _object(
    spec=_struct(
        "",
        podSelector=_SELECTOR,
        policyTypes=_plain(STRING),
        ingress=_plain(_struct("", ports=_POLICY_PORTS, **{"from": _PEERS})),
        egress=_plain(_struct("", ports=_POLICY_PORTS, to=_PEERS)),
    )
)
HTTP_ROUTE = _object(spec=_struct("hostnames parentRefs rules useDefaultGateways"), status=Node(type="object"))
GATEWAY = _object(
    spec=Node(fields={"listeners": _list(ANY, "name")}, type="object"),
    status=Node(fields={"conditions": _list(ANY, "type"), "listeners": _list(ANY, "name")}, type="object"),
)
POD = _object(spec=POD_SPEC, status=_STATUS)
NODE = _object(spec=ANY, status=ANY)
"""Only ever read by the operator; what a test puts is kept as it is."""
JOB = _object(spec=ANY, status=ANY)
"""Made and deleted whole, never changed."""
LEASE = _object(
    spec=_struct(
        "acquireTime preferredHolder renewTime strategy",
        holderIdentity=STRING,
        leaseDurationSeconds=INTEGER,
        leaseTransitions=INTEGER,
    )
)
EVENT = _object(
    "action", "deprecatedCount", "deprecatedFirstTimestamp", "deprecatedLastTimestamp", "deprecatedSource", "eventTime",
    "note", "reason", "related", "reportingController", "reportingInstance", "type",
    regarding=_REFERENCE, series=_struct("lastObservedTime", count=INTEGER),
)  # fmt: skip
CONTROLLER_REVISION = _object(data=Node(raw=True), revision=INTEGER)


def _from_schema(schema: Mapping[str, Any]) -> Node:
    """The node of a CRD's schema."""
    if schema.get("x-kubernetes-int-or-string"):
        return ANY
    if "properties" in schema:
        fields = {name: _from_schema(inner) for name, inner in schema["properties"].items()}
        known = None if schema.get("x-kubernetes-preserve-unknown-fields") else frozenset(fields)
        return Node(fields=fields, known=known, type="object")
    match schema.get("type", ""):
        case "object" if isinstance(schema.get("additionalProperties"), Mapping):
            return Node(values=_from_schema(schema["additionalProperties"]), type="object")
        case "array":
            keys = tuple(schema.get("x-kubernetes-list-map-keys", ()))
            return Node(element=_from_schema(schema["items"]), keys=keys, atomic=not keys, type="array")
        case "number":
            return INTEGER
        case name:
            return Node(type=name)


VLLM_MODEL_SCHEMA: Mapping[str, Any] = crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
VLLM_MODEL = replace(
    _from_schema(VLLM_MODEL_SCHEMA), fields={**_from_schema(VLLM_MODEL_SCHEMA).fields, "metadata": METADATA}
)
CONFIG_MAP = _object("binaryData", "immutable", data=STRINGS)
SECRET = _object("immutable", "type", data=STRINGS, stringData=STRINGS)


class InvalidError(Exception):
    """A validation rule of the kind is broken."""

    def __init__(self, *causes: tuple[str, str]) -> None:
        super().__init__("; ".join(f"{field}: {problem}" for field, problem in causes))
        self.causes = causes
        """Pairs of field and problem."""


# -- defaults: each changes an object in place -------------------------------------------------------------------------


def _default(target: Object, **values: Any) -> None:
    for name, value in values.items():
        if target.get(name) is None:
            target[name] = value


def _each(values: Any) -> Iterator[Object]:
    """Elements of a list that are maps; nothing for whatever else stands there."""
    if isinstance(values, list):
        yield from (value for value in values if isinstance(value, dict))


def _inner(target: Object, *names: str) -> Object:
    """A nested map; an empty one that is not part of the object when there is none."""
    for name in names:
        value = target.get(name)
        if not isinstance(value, dict):
            return {}
        target = value
    return target


def _pull_policy(image: str) -> str:
    name, _, digest = image.partition("@")
    tag = name.rpartition("/")[2].partition(":")[2]
    return "Always" if not digest and tag in ("", "latest") else "IfNotPresent"


def _default_handler(handler: Object) -> None:
    if isinstance(handler.get("httpGet"), dict):
        _default(handler["httpGet"], path="/", scheme="HTTP")
    if isinstance(handler.get("grpc"), dict):
        _default(handler["grpc"], service="")


def _default_container(container: Object) -> None:
    _default(
        container,
        resources={},
        terminationMessagePath="/dev/termination-log",
        terminationMessagePolicy="File",
        imagePullPolicy=_pull_policy(str(container.get("image", ""))),
    )
    for port in _each(container.get("ports")):
        _default(port, protocol="TCP")
    for env in _each(container.get("env")):
        if isinstance(_inner(env, "valueFrom").get("fieldRef"), dict):
            _default(env["valueFrom"]["fieldRef"], apiVersion="v1")
        if isinstance(_inner(env, "valueFrom").get("resourceFieldRef"), dict):
            _default(env["valueFrom"]["resourceFieldRef"], divisor="0")
    for name in ("livenessProbe", "readinessProbe", "startupProbe"):
        probe = container.get(name)
        if isinstance(probe, dict):
            _default(probe, timeoutSeconds=1, periodSeconds=10, successThreshold=1, failureThreshold=3)
            _default_handler(probe)
    for name in ("postStart", "preStop"):
        _default_handler(_inner(container, "lifecycle", name))
    _canonicalise(container)


def _canonicalise(holder: Object) -> None:
    """Make the quantities in a container's or claim's resources canonical."""
    for amounts in ("limits", "requests"):
        resources = _inner(holder, "resources", amounts)
        for resource, amount in resources.items():
            resources[resource] = canonical_quantity(amount)


def _default_volume(volume: Object) -> None:
    if not any(name != "name" for name in volume):
        volume["emptyDir"] = {}
    for source in ("configMap", "secret", "downwardAPI", "projected"):
        if isinstance(volume.get(source), dict):
            _default(volume[source], defaultMode=0o644)
    if isinstance(volume.get("hostPath"), dict):
        _default(volume["hostPath"], type="")
    if isinstance(volume.get("image"), dict):
        _default(volume["image"], pullPolicy=_pull_policy(str(volume["image"].get("reference", ""))))
    if isinstance(volume.get("emptyDir"), dict) and volume["emptyDir"].get("sizeLimit") is not None:
        volume["emptyDir"]["sizeLimit"] = canonical_quantity(volume["emptyDir"]["sizeLimit"])
    for item in _each(_inner(volume, "downwardAPI").get("items")):
        if isinstance(item.get("fieldRef"), dict):
            _default(item["fieldRef"], apiVersion="v1")
    for source_object in _each(_inner(volume, "projected").get("sources")):
        if isinstance(source_object.get("serviceAccountToken"), dict):
            _default(source_object["serviceAccountToken"], expirationSeconds=3600)
    claim = _inner(volume, "ephemeral", "volumeClaimTemplate")
    if claim:
        _default(claim, metadata={}, spec={})
        _default(claim["spec"], volumeMode="Filesystem")
        _canonicalise(claim["spec"])


def default_pod_spec(spec: Object) -> None:
    """Defaults of a pod's spec, in a template or in a pod."""
    _default(
        spec,
        restartPolicy="Always",
        terminationGracePeriodSeconds=30,
        dnsPolicy="ClusterFirst",
        securityContext={},
        schedulerName="default-scheduler",
    )
    # The old name of the field is kept in step, so that dropping only the new one takes nothing away.
    account = spec.get("serviceAccountName") or spec.get("serviceAccount")
    if account:
        spec.update(serviceAccountName=account, serviceAccount=account)
    for container in (*_each(spec.get("containers")), *_each(spec.get("initContainers"))):
        _default_container(container)
    for volume in _each(spec.get("volumes")):
        _default_volume(volume)


def _default_deployment(obj: Object) -> None:
    spec = obj.setdefault("spec", {})
    _default(spec, replicas=1, revisionHistoryLimit=10, progressDeadlineSeconds=600, strategy={}, template={})
    strategy = spec["strategy"]
    _default(strategy, type="RollingUpdate")
    if strategy["type"] == "RollingUpdate":
        _default(strategy, rollingUpdate={})
        _default(strategy["rollingUpdate"], maxUnavailable="25%", maxSurge="25%")
    _default(spec["template"], metadata={}, spec={})
    default_pod_spec(spec["template"]["spec"])
    _default(obj, status={})


def _default_pod(obj: Object) -> None:
    spec = obj.setdefault("spec", {})
    default_pod_spec(spec)
    for container in (*_each(spec.get("containers")), *_each(spec.get("initContainers"))):
        limits = _inner(container, "resources", "limits")
        if limits:
            _default(container["resources"], requests={})
            container["resources"]["requests"] = {**limits, **container["resources"]["requests"]}
    _default(spec, enableServiceLinks=True, serviceAccountName="default", serviceAccount="default")
    _default(obj, status={})
    _default(obj["status"], phase="Pending", qosClass="BestEffort")


def _default_service(obj: Object) -> None:
    spec = obj.setdefault("spec", {})
    _default(spec, type="ClusterIP", sessionAffinity="None")
    for port in _each(spec.get("ports")):
        _default(port, protocol="TCP", targetPort=port.get("port"))
    if spec["type"] != "ExternalName":
        _default(spec, ipFamilies=["IPv4"], ipFamilyPolicy="SingleStack", internalTrafficPolicy="Cluster")
    if spec["type"] in ("NodePort", "LoadBalancer"):
        _default(spec, externalTrafficPolicy="Cluster")
    if spec["type"] == "LoadBalancer":
        _default(spec, allocateLoadBalancerNodePorts=True)
    _default(obj, status={})
    _default(obj["status"], loadBalancer={})


def _default_disruption_budget(obj: Object) -> None:
    _default(obj, status={})
    _default(obj["status"], disruptionsAllowed=0, currentHealthy=0, desiredHealthy=0, expectedPods=0)


def _default_network_policy(obj: Object) -> None:
    spec = obj.setdefault("spec", {})
    _default(spec, policyTypes=["Ingress", "Egress"] if spec.get("egress") else ["Ingress"])
    for rule in (*_each(spec.get("ingress")), *_each(spec.get("egress"))):
        for port in _each(rule.get("ports")):
            _default(port, protocol="TCP")


def _default_backend(reference: Object) -> None:
    _default(reference, group="", kind="Service")


def _default_filters(holder: Object) -> None:
    for one in _each(holder.get("filters")):
        if isinstance(one.get("requestRedirect"), dict):
            _default(one["requestRedirect"], statusCode=302)
        if isinstance(_inner(one, "requestMirror").get("backendRef"), dict):
            _default_backend(one["requestMirror"]["backendRef"])
        if isinstance(one.get("cors"), dict):
            _default(one["cors"], maxAge=5)


def _default_http_route(obj: Object) -> None:
    spec = obj.setdefault("spec", {})
    for parent in _each(spec.get("parentRefs")):
        _default(parent, group="gateway.networking.k8s.io", kind="Gateway")
    _default(spec, rules=[{}])
    for rule in _each(spec["rules"]):
        _default(rule, matches=[{"path": {}}])
        for match in _each(rule["matches"]):
            _default(match, path={})
            _default(match["path"], type="PathPrefix", value="/")
            for condition in (*_each(match.get("headers")), *_each(match.get("queryParams"))):
                _default(condition, type="Exact")
        _default_filters(rule)
        for backend in _each(rule.get("backendRefs")):
            _default_backend(backend)
            _default(backend, weight=1)
            _default_filters(backend)


def _default_gateway(obj: Object) -> None:
    for listener in _each(obj.setdefault("spec", {}).get("listeners")):
        _default(listener, allowedRoutes={})
        _default(listener["allowedRoutes"], namespaces={})
        _default(listener["allowedRoutes"]["namespaces"], **{"from": "Same"})
    if "status" not in obj:
        pending = {
            "lastTransitionTime": "1970-01-01T00:00:00Z", "message": "Waiting for controller", "reason": "Pending",
            "status": "Unknown",
        }  # fmt: skip
        obj["status"] = {"conditions": [{**pending, "type": "Accepted"}, {**pending, "type": "Programmed"}]}


def _default_from_schema(value: Any, schema: Mapping[str, Any]) -> None:
    """The defaults that a CRD's schema carries."""
    if isinstance(value, dict):
        for name, inner in schema.get("properties", {}).items():
            if "default" in inner:
                _default(value, **{name: inner["default"]})
            if name in value:
                _default_from_schema(value[name], inner)
    elif isinstance(value, list):
        for element in value:
            _default_from_schema(element, schema.get("items", {}))


def _default_vllm_model(obj: Object) -> None:
    _default_from_schema(obj, VLLM_MODEL_SCHEMA)


def _micro_time(text: Any) -> Any:
    """A metav1.MicroTime as the API server writes it: always six digits."""
    try:
        moment = datetime.fromisoformat(text)
    except (ValueError, TypeError):
        return text
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _default_lease(obj: Object) -> None:
    spec = obj.setdefault("spec", {})
    for name in ("acquireTime", "renewTime"):
        if name in spec:
            spec[name] = _micro_time(spec[name])


def _default_event(obj: Object) -> None:
    _default(obj, deprecatedSource={})
    obj.setdefault("deprecatedFirstTimestamp", None)
    obj.setdefault("deprecatedLastTimestamp", None)
    if "eventTime" in obj:
        obj["eventTime"] = _micro_time(obj["eventTime"])
    if isinstance(obj.get("series"), dict):
        obj["series"]["lastObservedTime"] = _micro_time(obj["series"].get("lastObservedTime"))


def _default_secret(obj: Object) -> None:
    _default(obj, type="Opaque")
    plain = obj.pop("stringData", None)
    if plain:
        encoded = {name: base64.b64encode(value.encode()).decode() for name, value in plain.items()}
        obj["data"] = {**obj.get("data", {}), **encoded}


_BINARY = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50, "Ei": 2**60}
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_QUANTITY = re.compile(r"([+-]?[0-9.]+)(Ki|Mi|Gi|Ti|Pi|Ei|[numkMGTPE]?|[eE][+-]?[0-9]+)")


def canonical_quantity(value: Any) -> Any:
    """A quantity as the API server writes it: 1000m → "1", 1024Mi → "1Gi", 0.5 → "500m"; other values as they are."""
    match = _QUANTITY.fullmatch(str(value))
    if match is None:
        return value
    number, suffix = Decimal(match[1]), match[2]
    if suffix in _BINARY:
        amount = number * _BINARY[suffix]
        if abs(amount) >= 1024 and amount == int(amount):
            whole = int(amount)
            for name, factor in reversed(_BINARY.items()):
                if whole % factor == 0:
                    return f"{whole // factor}{name}"
        suffix = ""
        number = amount
    exponent = int(suffix[1:]) if suffix[:1] in ("e", "E") and len(suffix) > 1 else _DECIMAL[suffix]
    scientific = suffix[:1] in ("e", "E") and len(suffix) > 1
    amount = number.scaleb(exponent)
    if amount == 0:
        return "0"
    for name, power in reversed(_DECIMAL.items()):
        scaled = amount.scaleb(-power)
        if scaled == int(scaled):
            return f"{int(scaled)}{f'e{power}' if scientific and power else '' if scientific else name}"
    return f"{-int(-amount.scaleb(9) // 1)}n"


# -- round trip through the API server's own types ---------------------------------------------------------------------

_ZERO_DROPPED = frozenset(
    [
        "hostIPC",
        "hostNetwork",
        "hostPID",
        "hostPort",
        "initialDelaySeconds",
        "minReadySeconds",
        "nodePort",
        "paused",
        "publishNotReadyAddresses",
        "readOnly",
        "stdin",
        "stdinOnce",
        "tty",
    ]
)
"""Fields whose false or 0 means the same as leaving them out, and is left out by the API server."""

_EMPTY_KEPT = frozenset({"appProtocol", "holderIdentity", "preferredHolder", "runtimeClassName"})
"""String fields that are pointers in the API server's types: an empty string differs from none."""


def normalised(value: Any, node: Node, name: str = "") -> Any:
    """The value as it comes back from the API server's Go types, which leave out what is empty. None: left out."""
    if node.raw:
        return value
    if isinstance(value, dict):
        kept = {}
        for inner_name, inner in value.items():
            child = node.child(inner_name)
            result = normalised(inner, child, inner_name)
            if result is None or (result == "" and _drops_empty(node, inner_name)):
                continue
            kept[inner_name] = result
        is_map = node.values is not None or name in ("limits", "requests", "matchLabels")
        return None if not kept and is_map else kept
    if isinstance(value, list):
        element = node.element or ANY
        return [normalised(inner, element, name) for inner in value] or None
    if name in _ZERO_DROPPED and value in (False, 0):
        return None
    return value


def _drops_empty(node: Node, name: str) -> bool:
    return node.values is None and node.known is not None and name not in _EMPTY_KEPT


# -- validation --------------------------------------------------------------------------------------------------------

_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_LABEL_KEY = re.compile(r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")


def validate_metadata(obj: Object) -> None:
    """Raise InvalidError for a bad name or bad labels."""
    metadata = obj["metadata"]
    name = str(metadata.get("name", ""))
    causes = []
    if not _SUBDOMAIN.fullmatch(name) or len(name) > 253:
        causes.append(
            (
                "metadata.name",
                f'Invalid value: "{name}": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric '
                "characters, '-' or '.', and must start and end with an alphanumeric character",
            )
        )
    for key, value in (metadata.get("labels") or {}).items():
        if not _LABEL_KEY.fullmatch(key):
            causes.append(
                ("metadata.labels", f'Invalid value: "{key}": name part must consist of alphanumeric characters')
            )
        if not _LABEL_VALUE.fullmatch(value):
            causes.append(
                (
                    "metadata.labels",
                    f'Invalid value: "{value}": must be no more than 63 bytes'
                    if len(value) > 63
                    else f'Invalid value: "{value}": a valid label must be an empty string or consist of alphanumeric '
                    "characters, '-', '_' or '.', and must start and end with an alphanumeric character",
                )
            )
    if causes:
        raise InvalidError(*causes)


def _validate_pod_spec(spec: Object, where: str) -> None:
    causes = []
    if not spec.get("containers"):
        causes.append((f"{where}.containers", "Required value"))
    volumes = {volume.get("name") for volume in _each(spec.get("volumes"))}
    for number, container in enumerate(_each(spec.get("containers"))):
        place = f"{where}.containers[{number}]"
        if not _LABEL.fullmatch(str(container.get("name", ""))):
            causes.append((f"{place}.name", f'Invalid value: "{container.get("name", "")}": must be an RFC 1123 label'))
        if not container.get("image"):
            causes.append((f"{place}.image", "Required value"))
        for position, mount in enumerate(_each(container.get("volumeMounts"))):
            if mount.get("name") not in volumes:
                causes.append((f"{place}.volumeMounts[{position}].name", f'Not found: "{mount.get("name")}"'))
        for position, env in enumerate(_each(container.get("env"))):
            if "valueFrom" in env and env.get("value"):
                causes.append(
                    (
                        f"{place}.env[{position}].valueFrom",
                        "Invalid value: may not be specified when `value` is not empty",
                    )
                )
    if causes:
        raise InvalidError(*causes)


def _validate_deployment(obj: Object, old: Object | None) -> None:
    spec = obj["spec"]
    labels = _inner(spec["template"], "metadata").get("labels") or {}
    selector = _inner(spec, "selector").get("matchLabels") or {}
    if not spec.get("selector"):
        raise InvalidError(("spec.selector", "Required value"))
    if any(labels.get(name) != value for name, value in selector.items()):
        shown = json.dumps(labels, separators=(",", ":"))
        raise InvalidError(
            ("spec.template.metadata.labels", f"Invalid value: {shown}: `selector` does not match template `labels`")
        )
    if isinstance(spec.get("replicas"), int) and spec["replicas"] < 0:
        raise InvalidError(("spec.replicas", f"Invalid value: {spec['replicas']}: must be greater than or equal to 0"))
    if spec["strategy"]["type"] == "Recreate" and spec["strategy"].get("rollingUpdate"):
        raise InvalidError(
            ("spec.strategy.rollingUpdate", "Forbidden: may not be specified when strategy `type` is 'Recreate'")
        )
    _validate_pod_spec(spec["template"]["spec"], "spec.template.spec")
    if old is not None and old["spec"].get("selector") != spec.get("selector"):
        shown = json.dumps(spec["selector"], separators=(",", ":"))
        raise InvalidError(("spec.selector", f"Invalid value: {shown}: field is immutable"))


def _validate_pod(obj: Object, old: Object | None) -> None:
    _validate_pod_spec(obj["spec"], "spec")


def _validate_service(obj: Object, old: Object | None) -> None:
    spec = obj["spec"]
    if not spec.get("ports") and spec.get("clusterIP") != "None" and spec["type"] != "ExternalName":
        raise InvalidError(("spec.ports", "Required value"))
    for number, port in enumerate(_each(spec.get("ports"))):
        if not 1 <= port["port"] <= 65535:
            raise InvalidError(
                (f"spec.ports[{number}].port", f"Invalid value: {port['port']}: must be between 1 and 65535")
            )
    if old is not None and spec.get("clusterIP") != old["spec"].get("clusterIP"):
        raise InvalidError(
            ("spec.clusterIPs[0]", f'Invalid value: ["{spec.get("clusterIP")}"]: may not change once set')
        )


def _validate_disruption_budget(obj: Object, old: Object | None) -> None:
    spec = _inner(obj, "spec")
    if "minAvailable" in spec and "maxUnavailable" in spec:
        raise InvalidError(("spec", "Invalid value: minAvailable and maxUnavailable cannot be both set"))


def _validate_network_policy(obj: Object, old: Object | None) -> None:
    spec = obj["spec"]
    for direction, who in (("ingress", "from"), ("egress", "to")):
        for number, rule in enumerate(_each(spec.get(direction))):
            for place, peer in enumerate(_each(rule.get(who))):
                if not peer:
                    raise InvalidError(
                        (f"spec.{direction}[{number}].{who}[{place}]", "Required value: must specify a peer")
                    )
                if "ipBlock" in peer and len(peer) > 1:
                    raise InvalidError(
                        (
                            f"spec.{direction}[{number}].{who}[{place}]",
                            "Forbidden: may not specify both ipBlock and another peer",
                        )
                    )


def _validate_revision(obj: Object, old: Object | None) -> None:
    if obj.get("data") is None:
        raise InvalidError(("data", "Required value: data is mandatory"))
    if old is not None and old.get("data") != obj.get("data"):
        shown = json.dumps(obj.get("data"), separators=(",", ":"))
        raise InvalidError(("data", f"Invalid value: {shown}: field is immutable"))


def _validate_event(obj: Object, old: Object | None) -> None:
    causes = []
    if _inner(obj, "regarding").get("namespace", "") != obj["metadata"].get("namespace"):
        causes.append(("involvedObject.namespace", 'Invalid value: "": does not match event.namespace'))
    for name in ("eventTime", "reportingController", "reportingInstance", "action", "reason"):
        if not obj.get(name):
            causes.append((name, "Required value"))
    if obj.get("type") not in ("Normal", "Warning"):
        causes.append(("type", f'Invalid value: "{obj.get("type", "")}": has invalid value: {obj.get("type", "")}'))
    if len(str(obj.get("note", "")).encode()) > 1024:
        causes.append(("note", "Invalid value: can have at most 1024 bytes"))
    if causes:
        raise InvalidError(*causes)


def _validate_vllm_model(obj: Object, old: Object | None) -> None:
    """Structure, bounds and patterns; the CRD's CEL rules are only known to a real API server."""
    try:
        VLLMModel.model_validate_json(json.dumps(obj), strict=True)
    except ValidationError as error:
        causes = []
        for problem in error.errors():
            place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem["loc"]).lstrip(".")
            missing = problem["type"] == "missing"
            causes.append((place, "Required value" if missing else f"Invalid value: {problem['msg']}"))
        raise InvalidError(*causes) from error


def _nothing(obj: Object) -> None:
    return None


def _no_rules(obj: Object, old: Object | None) -> None:
    return None


@dataclass(frozen=True)
class KindRules:
    """How the API server treats one kind."""

    node: Node = field(default_factory=lambda: Node(fields={"metadata": METADATA, "status": _STATUS}))
    default: Callable[[Object], None] = _nothing
    """Sets defaults in place."""
    validate: Callable[[Object, Object | None], None] = _no_rules
    """Raises InvalidError; gets the object and, on an update, the one before."""
    status: bool = False
    """Has a status subresource."""
    generation: bool = False
    """Counts changes of the spec in metadata.generation."""
    generation_on_annotations: bool = False
    """Deployments count changes of annotations too."""
    unconditional: bool = True
    """An update may leave out resourceVersion."""
    update_creates: bool = False
    """An update of an object that is not there makes it."""
    typed: bool = True
    """Built into the API server: what is empty is left out, quantities are made canonical. False: from a CRD."""

    def check(self, obj: Object) -> None:
        """Raise SchemaError for unknown fields, wrong types and elements with the same keys."""
        check(obj, self.node)


RULES: Mapping[Kind, KindRules] = {
    kinds.VLLM_MODEL: KindRules(
        VLLM_MODEL,
        _default_vllm_model,
        _validate_vllm_model,
        status=True,
        generation=True,
        unconditional=False,
        typed=False,
    ),
    kinds.DEPLOYMENT: KindRules(
        DEPLOYMENT,
        _default_deployment,
        _validate_deployment,
        status=True,
        generation=True,
        generation_on_annotations=True,
    ),
    kinds.CONTROLLER_REVISION: KindRules(CONTROLLER_REVISION, _nothing, _validate_revision),
    kinds.SERVICE: KindRules(SERVICE, _default_service, _validate_service, status=True, update_creates=True),
    kinds.POD_DISRUPTION_BUDGET: KindRules(
        POD_DISRUPTION_BUDGET,
        _default_disruption_budget,
        _validate_disruption_budget,
        status=True,
        generation=True,
        unconditional=False,
    ),
    kinds.NETWORK_POLICY: KindRules(NETWORK_POLICY, _default_network_policy, _validate_network_policy, generation=True),
    kinds.HTTP_ROUTE: KindRules(
        HTTP_ROUTE, _default_http_route, status=True, generation=True, unconditional=False, typed=False
    ),
    kinds.GATEWAY: KindRules(GATEWAY, _default_gateway, status=True, generation=True, unconditional=False, typed=False),
    kinds.POD: KindRules(POD, _default_pod, _validate_pod, status=True, generation=True),
    kinds.NODE: KindRules(NODE, status=True),
    kinds.JOB: KindRules(JOB, status=True),
    kinds.SECRET: KindRules(SECRET, _default_secret),
    kinds.CONFIG_MAP: KindRules(CONFIG_MAP),
    kinds.EVENT: KindRules(EVENT, _default_event, _validate_event),
    kinds.LEASE: KindRules(LEASE, _default_lease, unconditional=False, update_creates=True),
}
"""Every kind that the operator reads or writes."""
