"""What the gateway reads from the cluster's objects."""

import base64
from pathlib import Path
from typing import Any

import pytest

from tests.certificates import Authority
from tests.schema_fields import Field, spec_fields, variants
from tests.workload.bundles import parse
from vllm_operator.api.conditions import Reason
from vllm_operator.api.crd import crd
from vllm_operator.api.endpoint import Server
from vllm_operator.api.errors import Refusal
from vllm_operator.api.names import Key
from vllm_operator.gateway import gather as gathering
from vllm_operator.gateway.gather import (
    Found,
    Gathered,
    external_host,
    gather,
    keep_model,
    keep_secret,
    keep_slice,
    named_secrets,
)
from vllm_operator.gateway.render import CLUSTER, render
from vllm_operator.gateway.state import Endpoint, GatewayModel, GatewayState
from vllm_operator.reconcile.external import build_target, external_fields
from vllm_operator.reconcile.references import LoadedReferences
from vllm_operator.workload.not_implemented import check_implemented

Object = dict[str, Any]
KEY = "sk-0123456789abcdef"
WELL = [{"type": kind, "status": "True", "reason": "Well"} for kind in ("Accepted", "Serving", "Ready")]


def model(name: str = "qwen", *, namespace: str = "models", status: Object | None = None, **spec: Any) -> Object:
    return {
        "metadata": {"name": name, "namespace": namespace, "creationTimestamp": "2026-11-21T10:00:00Z", "uid": "1"},
        "spec": {"model": "a/b", **spec},
        "status": status or {},
    }


def slice_of(name: str = "qwen", *addresses: str, namespace: str = "models", **conditions: bool) -> Object:
    return {
        "metadata": {
            "name": f"{name}-x1",
            "namespace": namespace,
            "labels": {"kubernetes.io/service-name": name, "vllm-operator.io/model": name},
        },
        "endpoints": [{"addresses": [each], "conditions": {"ready": True, **conditions}} for each in addresses],
        "ports": [{"name": "http", "port": 8000}],
    }


def secret(
    name: str = "keys",
    *,
    namespace: str = "models",
    labels: Object | None = None,
    annotations: Object | None = None,
    **data: str,
) -> Object:
    return {
        "metadata": {"name": name, "namespace": namespace, "labels": labels or {}, "annotations": annotations or {}},
        "data": {each: base64.b64encode(value.encode()).decode() for each, value in data.items()},
    }


def read(
    *objects: Object,
    slices: tuple[Object, ...] = (),
    secrets: tuple[Object, ...] = (),
    keys: Any = None,
    found: dict[str, Found] | None = None,
) -> Gathered:
    return gather(
        map(keep_model, objects),
        map(keep_slice, slices),
        map(keep_secret, secrets),
        keys or {},
        found=found or {},
        largest_body=1024,
    )


def one(*args: Any, **rest: Any) -> GatewayModel:
    (found,) = read(*args, **rest).state.models
    return found


def test_a_model_that_serves() -> None:
    status = {"servedModelNames": ["qwen", "chat", "models/qwen"], "maxModelLen": 4096}
    found = one(model(status=status), slices=(slice_of("qwen", "10.0.0.2", "10.0.0.1"),))
    assert found.key == Key("models", "qwen")
    assert found.served_model_names == ("qwen", "chat")
    assert found.endpoints == (Endpoint("10.0.0.1", 8000), Endpoint("10.0.0.2", 8000))
    assert (found.waiting, found.max_model_len, found.created) == (None, 4096, "2026-11-21T10:00:00Z")


@pytest.mark.parametrize(
    "found",
    [
        slice_of("qwen", "10.0.0.1", ready=False),
        slice_of("qwen", "10.0.0.1", terminating=True),
        slice_of("other", "10.0.0.1"),
        slice_of("qwen", "10.0.0.1", namespace="elsewhere"),
        {**slice_of("qwen", "10.0.0.1"), "ports": [{"name": "metrics", "port": 9}]},
        {**slice_of("qwen", "10.0.0.1"), "ports": None},
        {**slice_of("qwen"), "endpoints": None},
        {
            **slice_of("qwen", "10.0.0.1"),
            "metadata": {
                "name": "x",
                "namespace": "models",
                "labels": {"kubernetes.io/service-name": "another", "vllm-operator.io/model": "qwen"},
            },
        },
    ],
)
def test_what_is_no_pod_to_be_asked(found: Object) -> None:
    assert one(model(), slices=(found,)).endpoints == ()


def both(*addresses: str, **conditions: bool) -> Gathered:
    """A model with these pods, of which 10.0.0.1 and 10.0.0.2 answer Envoy."""
    answering = {Key("models", "qwen"): frozenset({Endpoint("10.0.0.1", 8000), Endpoint("10.0.0.2", 8000)})}
    slices = [keep_slice(slice_of("qwen", *addresses, namespace="models", **conditions))]
    return gather([keep_model(model())], slices, [], {}, largest_body=1024, answering=answering)


def test_pods_that_answer_though_none_is_ready() -> None:
    """An API server that was away for a minute calls all pods unready when it is back."""
    found = both("10.0.0.1", "10.0.0.3", ready=False)
    assert found.unsure == {Key("models", "qwen")}
    assert found.state.models[0].endpoints == (Endpoint("10.0.0.1", 8000),)
    assert found.state.models[0].waiting is None


@pytest.mark.parametrize(
    ("addresses", "conditions"),
    [(("10.0.0.3",), {"ready": False}), (("10.0.0.1",), {"ready": False, "terminating": True}), ((), {})],
    ids=["it does not answer", "it is about to end", "it is gone"],
)
def test_pods_that_are_not_asked_when_none_is_ready(addresses: tuple[str, ...], conditions: dict[str, bool]) -> None:
    assert both(*addresses, **conditions).state.models[0].endpoints == ()


def test_a_pod_that_is_ready_stands_for_all() -> None:
    slices = [slice_of("qwen", "10.0.0.1", ready=False), slice_of("qwen", "10.0.0.3")]
    answering = {Key("models", "qwen"): frozenset({Endpoint("10.0.0.1", 8000)})}
    found = gather([keep_model(model())], map(keep_slice, slices), [], {}, largest_body=1024, answering=answering)
    assert found.unsure == frozenset()
    assert found.state.models[0].endpoints == (Endpoint("10.0.0.3", 8000),)


def test_why_it_does_not_serve() -> None:
    assert one(model()).waiting == "Pending: the operator has not looked at it yet"
    ready = {"type": "Ready", "status": "False", "reason": "DoesNotFit", "message": "needs 66 GiB\nof 40"}
    assert one(model(status={"conditions": [ready]})).waiting == "DoesNotFit: needs 66 GiB of 40"
    long = one(model(status={"conditions": [{**ready, "message": "x" * 999}]})).waiting
    assert long is not None
    assert len(long) < gathering.LONGEST_REASON + 20
    assert long.endswith("…")
    soon = one(model(status={"conditions": [{**ready, "status": "True"}]})).waiting
    assert soon == "Starting: its pods are about to be known to the gateway"
    # Pods that answer are asked, whatever the operator thinks of the newest edit.
    assert one(model(status={"conditions": [ready]}), slices=(slice_of("qwen", "10.0.0.1"),)).waiting is None


def test_a_model_without_a_route_is_not_the_gateways() -> None:
    assert read(model(route={"enabled": False})).state.models == ()
    assert len(read(model(route={"enabled": True})).state.models) == 1


def test_a_model_that_goes_is_gone() -> None:
    going = model()
    going["metadata"]["deletionTimestamp"] = "2026-11-21T11:00:00Z"
    assert read(going).state.models == ()


A, B = Key("models", "a"), Key("team-b", "b")
SECRETS = (secret("a", k=KEY), secret("b", namespace="team-b", labels={"tier": "gold"}, k=f"{KEY}-b"))


@pytest.mark.parametrize(
    ("auth", "callers"),
    [
        (None, {A}),
        ({}, {A}),
        ({"mode": "keys"}, {A}),
        ({"mode": "none"}, None),
        ({"mode": "none", "callers": [{"name": "a"}]}, None),
        ({"callers": []}, set()),
        ({"callers": [{}]}, {A}),
        ({"callers": [{"name": "a"}]}, {A}),
        ({"callers": [{"name": "b"}]}, set()),
        ({"callers": [{"namespace": "team-b"}]}, {B}),
        ({"callers": [{"namespace": "team-b", "name": "a"}]}, set()),
        ({"callers": [{}, {"namespace": "team-b", "name": "b"}]}, {A, B}),
        ({"callers": [{"namespace": "team-b", "matchLabels": {"tier": "gold"}}]}, {B}),
        ({"callers": [{"namespace": "team-b", "matchLabels": {"tier": "iron"}}]}, set()),
        ({"callers": [{"matchLabels": {"tier": "gold"}}]}, set()),
    ],
)
def test_who_may_use_it(auth: Object | None, callers: set[Key] | None) -> None:
    spec: Object = {} if auth is None else {"auth": auth}
    assert one(model(**spec), secrets=SECRETS).callers == (None if callers is None else frozenset(callers))


def test_the_key_that_vllm_asks_for() -> None:
    keys = {(Key("models", "qwen-engine-key"), "api-key"): "generated", (Key("models", "mine"), "k"): "given"}
    assert one(model(), keys=keys).upstream_key == "generated"
    given = model(auth={"apiKeySecretRef": {"name": "mine", "key": "k"}})
    assert one(given, keys=keys).upstream_key == "given"
    assert one(model("other"), keys=keys).upstream_key is None


def test_keys() -> None:
    found = read(secrets=(secret("a", one=KEY, two=f"{KEY}2\n"), secret("b", three=f"{KEY}3"))).state.keys
    assert [(str(each.secret), each.name, each.value) for each in found] == [
        ("models/a", "one", KEY),
        ("models/a", "two", f"{KEY}2"),
        ("models/b", "three", f"{KEY}3"),
    ]


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ({"bad": "sk-12"}, "too short"),
        ({"bad": ""}, "too short"),
        ({"bad": "sk-with a blank-in-it"}, "printable ASCII"),
        ({"bad": "sk-two-lines-\nof-a-text"}, "printable ASCII"),
        ({"bad": "sk-schlüssel-0123456789"}, "printable ASCII"),
        ({"good": KEY, "bad": KEY}, "key good"),
    ],
)
def test_what_cannot_be_a_key_hides_no_other(data: dict[str, str], problem: str) -> None:
    """Envoy takes all keys or none: two that are the same would lock everybody out."""
    found = read(secrets=(secret("z", fine=f"{KEY}-fine"), secret("keys", labels=None, annotations=None, **data)))
    assert f"{KEY}-fine" in {each.value for each in found.state.keys}
    assert len({each.value for each in found.state.keys}) == len(found.state.keys)
    (said,) = found.problems
    assert problem in said
    assert said.startswith("Secret models/keys, key ")
    assert not any(value in said for value in data.values() if len(value) > 3)


PER_MINUTE, CONCURRENT = "vllm-operator.io/requests-per-minute", "vllm-operator.io/concurrent-requests"


def test_limits() -> None:
    both = secret("a", annotations={PER_MINUTE: "60", CONCURRENT: "8"}, k=KEY, l=f"{KEY}-l")
    one = secret("c", annotations={PER_MINUTE: "1000001", CONCURRENT: "10000"}, k=f"{KEY}-c")
    found = read(secrets=(both, secret("b", k=f"{KEY}-b"), one))
    limits = [(each.requests_per_minute, each.concurrent_requests) for each in found.state.keys]
    assert limits == [(60, 8), (60, 8), (None, None), (None, 10_000)]
    (said,) = found.problems
    assert said == f"Secret models/c: {PER_MINUTE} is '1000001'; write a whole number from 1 to 1000000"


@pytest.mark.parametrize("value", ["", "0", "10001", "-1", "1.5", "8 ", "1e3", "many", "٠", "²", "9" * 5000])
def test_what_is_no_limit(value: str) -> None:
    found = read(secrets=(secret("c", annotations={CONCURRENT: value}, k=KEY),))
    assert [each.concurrent_requests for each in found.state.keys] == [None]
    (said,) = found.problems
    assert said == f"Secret models/c: {CONCURRENT} is {value[:20]!r}; write a whole number from 1 to 10000"


def test_fallback() -> None:
    assert one(model(route={"fallback": "other"})).fallback == Key("models", "other")


def test_what_is_no_base64_or_no_text() -> None:
    broken = {**secret("keys"), "data": {"bad": "***", "worse": base64.b64encode(b"\xff" * 20).decode()}}
    found = read(secrets=(broken,))
    assert found.state.keys == ()
    assert len(found.problems) == 2


def test_nothing_of_a_secret_is_shown() -> None:
    found = read(model(), secrets=(secret("a", one=KEY),), keys={(Key("models", "qwen-engine-key"), "api-key"): KEY})
    assert KEY not in repr(found)


def test_what_is_not_read_is_not_kept() -> None:
    kept = keep_model(model(engine={"env": [{"name": "A", "value": "b"}]}, status={"gpus": 1, "conditions": None}))
    assert set(kept["spec"]) == {"model"}
    assert kept["status"] == {"conditions": []}


OUTSIDE = {
    "url": "https://api.example.com/openai/v1",
    "apiKeySecretRef": {"name": "there", "key": "token"},
    "modelNames": {"small": "org/small:2"},
}
AT = {"api.example.com": Found(("192.0.2.7", "192.0.2.8"))}
THERE = {(Key("models", "there"), "token"): "sk-elsewhere"}


def outside(*, conditions: Any = WELL, **fields: Any) -> Object:
    status = {"conditions": conditions, "maxModelLen": 2048}
    return model("gpt", servedModelNames=["large", "small"], external={**OUTSIDE, **fields}, status=status)


def test_a_model_outside() -> None:
    found = one(outside(), keys=THERE, found=AT)
    assert found.waiting is None
    assert found.endpoints == (Endpoint("192.0.2.7", 443), Endpoint("192.0.2.8", 443))
    assert found.upstream_key == "sk-elsewhere"
    assert found.max_model_len == 2048
    assert found.external is not None
    assert (found.external.server, found.external.ca) == (Server("api.example.com", path_prefix="/openai"), None)
    assert found.external.model_names == {"large": "a/b", "small": "org/small:2"}
    assert one(outside(apiKeySecretRef=None), found=AT).upstream_key is None, "and no key that is made for vLLM"


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (one(outside(), found=AT), "ReferenceNotFound: Secret there with the key token is not there"),
        (one(outside(), keys=THERE), "Unreachable: its name has not been looked up yet"),
        (one(outside(url="https://-"), keys=THERE, found=AT), "InvalidSpec: spec.external.url: - is no name of a host"),
        (
            one(outside(caSecretRef={"name": "there", "key": "token"}), keys=THERE, found=AT),
            "TLSFailed: Secret there, key token, is no certificate (PEM)",
        ),
        (
            one(outside(caSecretRef={"name": "ca", "key": "ca.crt"}), keys=THERE, found=AT),
            "ReferenceNotFound: Secret ca with the key ca.crt is not there",
        ),
        (one(outside(conditions=[]), keys=THERE, found=AT), "Pending: the operator has not looked at it yet"),
        (
            one(
                outside(conditions=[
                    {"type": "Accepted", "status": "True"},
                    {"type": "Serving", "status": "False"},
                    {"type": "Ready", "status": "False", "reason": "ApiKeyRejected", "message": "it refuses the key"},
                ]),
                keys=THERE,
                found=AT,
            ),
            "ApiKeyRejected: it refuses the key",
        ),
    ],
)  # fmt: skip
def test_a_model_outside_that_is_not_asked(found: GatewayModel, why: str) -> None:
    assert (found.waiting, found.endpoints) == (why, ())
    render(GatewayState(models=(found,)))


def _needs_gateway() -> list[Field]:
    def needs(field: Field) -> bool:
        try:
            check_implemented(parse(variants(field)[1]), gateway=False)
        except Refusal as refusal:
            return refusal.reason is Reason.NEEDS_GATEWAY
        return False

    # Of adapters the gateway reads the status: see below, and tests/workload/test_every_field.py.
    return [each for each in spec_fields(crd()) if needs(each) and not each.path.startswith("spec.adapters")]


@pytest.mark.parametrize("field", _needs_gateway(), ids=lambda field: field.path)
def test_every_field_of_the_gateway_changes_what_envoy_is_told(field: Field, tmp_path: Path) -> None:
    """The other half of tests/workload/test_every_field.py: what the operator leaves to the gateway, the gateway does."""
    authorities = (Authority(tmp_path, f"authority-{number}").certificate for number in range(8))
    values: dict[tuple[Key, str], str] = {}
    specs = variants(field)
    secrets = [secret("a", k=KEY)]
    for number, spec in enumerate(specs):
        for place, caller in enumerate((spec.get("auth") or {}).get("callers") or ()):
            name, namespace = caller.get("name", f"s{number}{place}"), caller.get("namespace", "models")
            labels = caller.get("matchLabels")
            secrets.append(secret(name, namespace=namespace, labels=labels, k=f"{KEY}-{number}-{place}"))

    def told(spec: Object) -> object:
        own = model(served_model_names=["chat"], **{name: value for name, value in spec.items() if name != "model"})
        # Another one of the same name, that weights share requests with; and what each fallback may be.
        other = model("other", route={"weight": 5})
        for each in (own, other):
            each["spec"]["servedModelNames"] = ["chat"]
        if "external" in spec:
            own["spec"]["servedModelNames"] = ["chat", *(spec["external"].get("modelNames") or ())]
            own["status"] |= said_of(own, spec)
        elif (spec.get("route") or {}).keys() & {"clampMaxTokens", "dropUnsupportedTools"}:
            own["status"] |= {"maxModelLen": 4096, "capabilities": {"tools": False}}
        external = spec.get("external") or {}
        for reference in sorted(named_secrets(keep_model(own))):
            is_key = reference[0].name == (external.get("apiKeySecretRef") or {}).get("name")
            values.setdefault(reference, f"sk-{reference}" if is_key else next(authorities))
        fallbacks = {each["route"]["fallback"] for each in specs if "fallback" in each.get("route", {})}
        # While it does not serve itself, its fallback matters.
        serving = {"other", *fallbacks} if fallbacks else {"other", "qwen"}
        slices = tuple(slice_of(name, f"10.0.0.{number}") for number, name in enumerate(sorted(serving), 1))
        models = (own, other, *(model(name, auth={"mode": "none"}) for name in sorted(fallbacks)))
        found = {host: Found((f"192.0.2.{len(host)}",)) for each in models if (host := external_host(each))}
        state = read(*models, slices=slices, secrets=tuple(secrets), keys=values, found=found).state
        return render(state).by_type, own["status"]

    def said_of(own: Object, spec: Object) -> Object:
        parsed = parse(spec)
        references = LoadedReferences()
        target = build_target(own, Key("models", "qwen"), parsed, references)
        fields = external_fields(parsed, target, None, {})
        return {**{name: value for name, value in fields.items() if value}, "conditions": WELL}

    first, second = map(told, specs)
    assert first != second, f"{field.path} has no effect"


def test_fields_of_the_gateway_are_found() -> None:
    assert len(_needs_gateway()) >= 6


def with_pods(*names: str) -> Object:
    """An EndpointSlice with these pods, at 10.0.0.1 and what follows."""
    found = slice_of("qwen", *(f"10.0.0.{number}" for number in range(1, len(names) + 1)))
    for endpoint, name in zip(found["endpoints"], names, strict=True):
        endpoint["targetRef"] = {"kind": "Pod", "name": name}
    return found


def loaded(**lacks: list[str]) -> Object:
    """A status with two adapters, of which pods lack some."""
    return {
        "maxModelLen": 4096,
        "adapters": [
            {"name": "sql", "source": "org/sql", "state": "Loaded", "pods": "2/2"},
            {"name": "law", "source": "org/law", "state": "Failed", "pods": "0/2", "message": "rank  64\nis too high"},
            {"name": "gone", "source": "org/gone", "state": "Unloading", "pods": "1/2"},
        ],
        "adapterPods": [{"name": name, **({"lacks": each} if each else {})} for name, each in lacks.items()],
    }


def adapters_of(status: Object, *pods: str, **fields: Any) -> tuple[GatewayModel, ...]:
    found = read(model(status=status, **fields), slices=(with_pods(*pods),)).state.models
    assert found[0].key == Key("models", "qwen")
    return found[1:]


def test_adapters_are_models_of_their_own() -> None:
    sql, law = adapters_of(loaded(a=["law"], b=["law"]), "a", "b", route={"fallback": "other", "weight": 3})
    assert (sql.key, sql.parent) == (Key("models", "qwen/sql"), Key("models", "qwen"))
    assert (sql.served_model_names, sql.max_model_len, sql.weight, sql.fallback) == (("sql",), 4096, 3, None)
    assert (sql.endpoints, sql.waiting) == ((Endpoint("10.0.0.1", 8000), Endpoint("10.0.0.2", 8000)), None)
    assert sql.shares_pods
    assert (law.endpoints, law.waiting) == ((), "AdapterFailed: rank 64 is too high")


@pytest.mark.parametrize("status", [loaded(a=["law"], b=["law", "sql"]), loaded(a=["law"])])
def test_only_pods_that_have_an_adapter_are_asked_for_it(status: Object) -> None:
    """One that lacks it, and one that has just become ready and that the operator has not looked at."""
    sql, law = adapters_of(status, "a", "b")
    assert (sql.endpoints, sql.waiting, sql.shares_pods) == ((Endpoint("10.0.0.1", 8000),), None, False)
    clusters = render(GatewayState(models=(sql, law))).by_type[CLUSTER]
    assert list(clusters) == ["model/models/qwen/sql"]


def test_adapters_of_a_model_that_does_not_serve_say_why() -> None:
    status = {
        **loaded(a=[]),
        "conditions": [{"type": "Ready", "status": "False", "reason": "Starting", "message": "x"}],
    }
    for each in adapters_of(status):
        assert (each.endpoints, each.waiting) == ((), "Starting: x")
