"""What a pod template reads."""

from tests.workload.bundles import pod_template
from vllm_operator.workload.references import Reference, pod_references


def test_none_by_default() -> None:
    assert pod_references(pod_template({"model": "a/b"})) == frozenset()
    assert pod_references({}) == frozenset()


def test_of_the_api() -> None:
    spec = {
        "model": "a/b",
        "hub": {"tokenSecretRef": {"name": "hub", "key": "token"}},
        "auth": {"apiKeySecretRef": {"name": "keys", "key": "k"}},
        "engine": {
            "chatTemplate": {"configMapKeyRef": {"name": "templates", "key": "t.jinja"}},
            "imagePullSecrets": [{"name": "registry"}],
            "env": [
                {"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "a", "optional": True}}},
                {"name": "B", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "b"}}},
                {"name": "C", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            ],
        },
    }
    assert pod_references(pod_template(spec)) == {
        Reference("Secret", "hub", "token", False),
        Reference("Secret", "keys", "k", False),
        Reference("ConfigMap", "templates", "t.jinja", False),
        Reference("Secret", "s", "a", True),
        Reference("ConfigMap", "c", "b", False),
    }


def test_of_the_pod_template() -> None:
    spec = {
        "initContainers": [
            {"name": "i", "envFrom": [{"secretRef": {"name": "a"}}, {"configMapRef": {"name": "b", "optional": True}}]}
        ],
        "containers": [
            {"name": "vllm", "env": [{"name": "X", "valueFrom": {"secretKeyRef": {"name": "c", "key": "k"}}}]}
        ],
        "volumes": [
            {"name": "1", "secret": {"secretName": "d"}},
            {"name": "2", "configMap": {"name": "e", "optional": True, "items": [{"key": "x", "path": "x"}]}},
            {
                "name": "3",
                "projected": {
                    "sources": [
                        {"secret": {"name": "f"}},
                        {"configMap": {"name": "g", "items": [{"key": "y", "path": "y"}, {"key": "z", "path": "z"}]}},
                        {"serviceAccountToken": {"path": "token"}},
                    ]
                },
            },
            {"name": "4", "emptyDir": {}},
        ],
    }
    assert pod_references(pod_template({"model": "a/b", "podTemplate": {"spec": spec}})) == {
        Reference("Secret", "a", None, False),
        Reference("ConfigMap", "b", None, True),
        Reference("Secret", "c", "k", False),
        Reference("Secret", "d", None, False),
        Reference("ConfigMap", "e", "x", True),
        Reference("Secret", "f", None, False),
        Reference("ConfigMap", "g", "y", False),
        Reference("ConfigMap", "g", "z", False),
    }
