"""Peers of NetworkPolicies, as an installation names them."""

import json
from typing import Any

import pytest

from vllm_operator.workload.peers import read_peers

MONITORING = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}


@pytest.mark.parametrize(
    "peer",
    [
        MONITORING,
        {"podSelector": {}},
        {**MONITORING, "podSelector": {"matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]}},
        {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}},
        {"ipBlock": {"cidr": "2001:db8::/32"}},
    ],
)
def test_a_peer_comes_back_as_the_api_server_shows_it(peer: dict[str, Any]) -> None:
    (read,) = read_peers(json.dumps([peer]))
    assert read.as_json() == peer


def test_what_is_empty_within_a_selector_is_left_out_and_an_empty_selector_is_not() -> None:
    """The API server does the same: a difference would be taken for an edit by hand."""
    exists = {"key": "a", "operator": "Exists"}
    peer = {
        "podSelector": {"matchLabels": {}, "matchExpressions": [{**exists, "values": []}]},
        "namespaceSelector": {"matchLabels": {}, "matchExpressions": None},
    }
    (read,) = read_peers(json.dumps([peer]))
    assert read.as_json() == {"podSelector": {"matchExpressions": [exists]}, "namespaceSelector": {}}


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("[", "the list: Invalid JSON"),
        ('{"podSelector":{}}', "the list: "),
        ("[{}]", "0: Value error, write podSelector, namespaceSelector, both, or ipBlock alone"),
        ('[{"podSelector":{},"ipBlock":{"cidr":"10.0.0.0/8"}}]', "0: Value error, write podSelector"),
        ('[{"podSelector":{}},{"podselector":{}}]', "1.podselector: Extra inputs are not permitted"),
        ('[{"podSelector":{"app":"x"}}]', "0.podSelector.app: Extra"),
        ('[{"ipBlock":{"cidr":"10.0.0.1"}}]', "'10.0.0.1' is no range of addresses"),
        ('[{"ipBlock":{"cidr":"10.0.0.1/8"}}]', "has host bits set"),
        ('[{"ipBlock":{"cidr":"10.0.0.0/8","except":["10.1.0.0"]}}]', "0.ipBlock.except: "),
    ],
)
def test_what_is_wrong_is_named(text: str, part: str) -> None:
    with pytest.raises(ValueError) as raised:
        read_peers(text)
    assert part in str(raised.value)
