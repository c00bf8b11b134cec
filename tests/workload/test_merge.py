"""Strategic merge of spec.podTemplate."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.workload.bundles import pod_template
from vllm_operator.api.conditions import Reason
from vllm_operator.api.errors import Refusal
from vllm_operator.workload.merge import merge_pod_template

BASE: dict[str, Any] = {
    "metadata": {"labels": {"a": "1"}},
    "spec": {
        "containers": [
            {
                "name": "vllm",
                "image": "i",
                "command": ["x", "y"],
                "env": [{"name": "A", "value": "1"}, {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "p"}}}],
                "ports": [{"name": "http", "containerPort": 8000, "protocol": "TCP"}],
                "volumeMounts": [{"name": "cache", "mountPath": "/c"}],
                "livenessProbe": {"httpGet": {"path": "/health"}, "periodSeconds": 10},
                "lifecycle": {"preStop": {"sleep": {"seconds": 15}}},
            }
        ],
        "volumes": [{"name": "cache", "emptyDir": {"sizeLimit": "1Gi"}}],
        "tolerations": [{"key": "a"}],
        "imagePullSecrets": [{"name": "one"}],
        "topologySpreadConstraints": [{"topologyKey": "z", "whenUnsatisfiable": "DoNotSchedule", "maxSkew": 1}],
        "hostAliases": [{"ip": "1.1.1.1", "hostnames": ["a"]}],
    },
}


def merged(spec: dict[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = merge_pod_template(BASE, {"spec": spec})["spec"]
    return result


def merged_container(patch: dict[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = merged({"containers": [{"name": "vllm", **patch}]})["containers"][0]
    return result


CONTAINER_CASES: list[tuple[str, dict[str, Any], str, Any]] = [
    ("scalar replaced", {"image": "j"}, "image", "j"),
    ("atomic list replaced", {"command": ["z"]}, "command", ["z"]),
    ("null deletes", {"image": None}, "image", None),
    (
        "env by name, new at the end",
        {"env": [{"name": "C", "value": "3"}, {"name": "A", "value": "2"}]},
        "env",
        [{"name": "A", "value": "2"}, BASE["spec"]["containers"][0]["env"][1], {"name": "C", "value": "3"}],
    ),
    (
        "value takes valueFrom's place",
        {"env": [{"name": "B", "value": "2"}]},
        "env",
        [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
    ),
    ("env deleted", {"env": [{"name": "A", "$patch": "delete"}, {"name": "B", "$patch": "delete"}]}, "env", []),
    ("env replaced", {"env": [{"$patch": "replace"}, {"name": "C"}]}, "env", [{"name": "C"}]),
    (
        "ports by number and protocol",
        {"ports": [{"containerPort": 8000, "hostPort": 1}, {"containerPort": 8000, "protocol": "UDP"}]},
        "ports",
        [
            {"name": "http", "containerPort": 8000, "protocol": "TCP", "hostPort": 1},
            {"containerPort": 8000, "protocol": "UDP"},
        ],
    ),
    (
        "mounts by path",
        {"volumeMounts": [{"mountPath": "/c", "name": "other"}]},
        "volumeMounts",
        [{"name": "other", "mountPath": "/c"}],
    ),
    (
        "a probe's action takes the other's place",
        {"livenessProbe": {"exec": {"command": ["true"]}}},
        "livenessProbe",
        {"exec": {"command": ["true"]}, "periodSeconds": 10},
    ),
    (
        "a hook's action takes the other's place",
        {"lifecycle": {"preStop": {"exec": {"command": ["true"]}}}},
        "lifecycle",
        {"preStop": {"exec": {"command": ["true"]}}},
    ),
    ("object replaced", {"livenessProbe": {"$patch": "replace", "grpc": {}}}, "livenessProbe", {"grpc": {}}),
    ("object deleted", {"livenessProbe": {"$patch": "delete"}}, "livenessProbe", None),
]


@pytest.mark.parametrize(
    ("patch", "field", "expected"), [case[1:] for case in CONTAINER_CASES], ids=[case[0] for case in CONTAINER_CASES]
)
def test_container(patch: dict[str, Any], field: str, expected: Any) -> None:
    assert merged_container(patch).get(field) == expected


def test_lists_of_the_pod() -> None:
    result = merged(
        {
            "containers": [{"name": "sidecar", "image": "s"}],
            "volumes": [{"name": "cache", "hostPath": {"path": "/x"}}, {"name": "new", "emptyDir": {}}],
            "tolerations": [{"key": "b"}],
            "imagePullSecrets": [{"name": "two"}],
            "topologySpreadConstraints": [
                {"topologyKey": "z", "whenUnsatisfiable": "ScheduleAnyway", "maxSkew": 2},
                {"topologyKey": "z", "whenUnsatisfiable": "DoNotSchedule", "minDomains": 2},
            ],
            "hostAliases": [{"ip": "1.1.1.1", "hostnames": ["b"]}],
        }
    )
    assert [container["name"] for container in result["containers"]] == ["vllm", "sidecar"]
    assert result["volumes"] == [{"name": "cache", "hostPath": {"path": "/x"}}, {"name": "new", "emptyDir": {}}]
    assert result["tolerations"] == [{"key": "b"}]
    assert result["imagePullSecrets"] == [{"name": "one"}, {"name": "two"}]
    assert result["topologySpreadConstraints"] == [
        {"topologyKey": "z", "whenUnsatisfiable": "DoNotSchedule", "maxSkew": 1, "minDomains": 2},
        {"topologyKey": "z", "whenUnsatisfiable": "ScheduleAnyway", "maxSkew": 2},
    ]
    assert result["hostAliases"] == [{"ip": "1.1.1.1", "hostnames": ["b"]}]


def test_a_volume_keeps_its_source_when_only_that_is_changed() -> None:
    assert merged({"volumes": [{"name": "cache", "emptyDir": {"medium": "Memory"}}]})["volumes"] == [
        {"name": "cache", "emptyDir": {"sizeLimit": "1Gi", "medium": "Memory"}}
    ]


def test_nulls_and_directives_in_new_values_are_carried_out() -> None:
    result = merged({"initContainers": [{"name": "i", "image": None, "env": [{"$patch": "replace"}, {"name": "A"}]}]})
    assert result["initContainers"] == [{"name": "i", "env": [{"name": "A"}]}]


@pytest.mark.parametrize(
    ("patch", "path"),
    [
        ({"containers": "vllm"}, "spec.containers"),
        ({"containers": [{"name": "a"}, {"name": "a"}]}, r"spec.containers\[1\] names 'a' a second time"),
        ({"containers": [{"name": ["a"]}]}, r"spec.containers\[0\].name is a list"),
        ({"containers": ["vllm"]}, r"spec.containers\[0\]"),
        ({"containers": [{"image": "x"}]}, r"spec.containers\[0\] has no name"),
        ({"containers": [{"name": "vllm", "env": [{"value": "1"}]}]}, r"env\[0\] has no name"),
        ({"initContainers": {"name": "x"}}, "spec.initContainers is an object"),
        ({"$setElementOrder/containers": []}, "directive"),
        ({"containers": [{"name": "vllm", "livenessProbe": {"$patch": "shred"}}]}, "shred"),
        ({"tolerations": {"key": "a"}}, "must be a list"),
        ({"volumes": [{"name": "cache", "emptyDir": "x"}]}, "must be an object"),
    ],
)
def test_what_cannot_be_merged_is_refused(patch: dict[str, Any], path: str) -> None:
    with pytest.raises(Refusal, match=path) as caught:
        merged(patch)
    assert caught.value.reason is Reason.INVALID_POD_TEMPLATE
    assert caught.value.message.startswith("spec.podTemplate")


NAMES = st.sampled_from(["vllm", "a", "b"])
SCALARS = st.one_of(st.none(), st.integers(0, 3), st.sampled_from(["", "x"]))
CONTAINERS: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {"name": NAMES},
    optional={
        "image": SCALARS,
        "command": st.lists(st.sampled_from(["x", "$(A)"]), max_size=2),
        "env": st.lists(
            st.fixed_dictionaries({"name": NAMES}, optional={"value": SCALARS, "$patch": st.just("delete")}),
            max_size=3,
            unique_by=lambda variable: variable["name"],
        ),
        "volumeMounts": st.lists(
            st.fixed_dictionaries({"mountPath": st.sampled_from(["/c", "/d"]), "name": NAMES}),
            max_size=2,
            unique_by=lambda mount: mount["mountPath"],
        ),
        "livenessProbe": st.one_of(st.none(), st.just({"tcpSocket": {"port": 1}})),
    },
)
PATCHES = st.fixed_dictionaries(
    {},
    optional={
        "containers": st.lists(CONTAINERS, max_size=3, unique_by=lambda container: container["name"]),
        "volumes": st.lists(
            st.fixed_dictionaries(
                {"name": st.sampled_from(["cache", "new"])},
                optional={"emptyDir": st.just({}), "nfs": st.just({"path": "/"})},
            ),
            max_size=2,
            unique_by=lambda volume: str(volume["name"]),
        ),
        "nodeSelector": st.one_of(st.none(), st.dictionaries(NAMES, st.sampled_from(["x", "y"]), max_size=2)),
        "tolerations": st.lists(st.fixed_dictionaries({"key": NAMES}), max_size=2),
    },
)


@given(PATCHES)
def test_merging_twice_is_merging_once(patch: dict[str, Any]) -> None:
    before = copy.deepcopy((BASE, patch))
    once = merge_pod_template(BASE, {"spec": patch})
    assert merge_pod_template(once, {"spec": patch}) == once
    assert (BASE, patch) == before


@given(PATCHES)
def test_nothing_merged_has_two_elements_of_one_key(patch: dict[str, Any]) -> None:
    spec = merge_pod_template(BASE, {"spec": patch})["spec"]
    for names in (
        [container["name"] for container in spec["containers"]],
        [volume["name"] for volume in spec["volumes"]],
        *[[variable["name"] for variable in container.get("env") or ()] for container in spec["containers"]],
        *[[mount["mountPath"] for mount in container.get("volumeMounts") or ()] for container in spec["containers"]],
    ):
        assert len(names) == len(set(names))


def test_an_empty_patch_changes_nothing() -> None:
    assert merge_pod_template(BASE, {}) == BASE
    plain = pod_template({"model": "a/b"})
    assert pod_template({"model": "a/b", "podTemplate": {"spec": {}}}) == plain
    assert pod_template({"model": "a/b", "podTemplate": {"metadata": {}}}) == plain
