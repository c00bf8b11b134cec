"""Facts from the hub: against a small server that behaves as the hub does."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.hub.files import QWEN3, qwen3_tensors, safetensors
from tests.hub.server import COMMIT, TOKEN, FakeHub, serving
from vllm_operator.hub.errors import (
    GatedModelError,
    HubError,
    HubUnavailableError,
    InvalidModelError,
    ModelNotFoundError,
)
from vllm_operator.hub.hugging_face import HuggingFaceHub


@pytest.fixture
def server() -> Iterator[FakeHub]:
    with serving() as hub:
        yield hub


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    with httpx.Client(follow_redirects=True, timeout=10, trust_env=False) as client:
        yield client


def put(server: FakeHub, name: str = "org/model", **config: Any) -> dict[str, bytes]:
    a = {key: value for key, value in qwen3_tensors().items() if ".0." in key}
    b = {key: value for key, value in qwen3_tensors().items() if ".0." not in key}
    files = {
        "README.md": b"x",
        "config.json": json.dumps({**QWEN3, **config}).encode(),
        "model-00001-of-00002.safetensors": safetensors(a) + b"\0" * 5_000_000,
        "model-00002-of-00002.safetensors": safetensors(b),
        "pytorch_model.bin": b"\0" * 1000,
    }
    files["model.safetensors.index.json"] = json.dumps(
        {
            "metadata": {},
            "weight_map": {key: f"model-0000{1 if key in a else 2}-of-00002.safetensors" for key in qwen3_tensors()},
        }
    ).encode()
    server.repositories[name] = files
    return files


def test_facts_by_ranged_reads(server: FakeHub, client: httpx.Client) -> None:
    put(server)
    found = HuggingFaceHub(client, endpoint=server.url).read("org/model")
    assert found.commit == COMMIT
    assert found.facts.architecture == "Qwen3ForCausalLM"
    assert found.facts.weights.source == "headers"
    assert found.facts.weights.total == 2 * (2 * 256 * 64 + 64 + 2 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 64 * 128 + 128))
    assert server.sent < 500_000
    # every file is read at the commit of the listing, so that an upload meanwhile mixes nothing
    assert all(COMMIT in path for path, _ in server.requests if "/resolve/" in path)


def test_server_without_ranges(server: FakeHub, client: httpx.Client) -> None:
    put(server)
    server.ignore_ranges = True
    assert HuggingFaceHub(client, endpoint=server.url).read("org/model").facts.weights.source == "headers"


def test_long_header(server: FakeHub, client: httpx.Client) -> None:
    many = {f"model.layers.0.mlp.experts.{i}.down_proj.weight": ("BF16", (1, 1)) for i in range(5000)}
    files = put(server)
    files["model-00001-of-00002.safetensors"] = safetensors(many)
    facts = HuggingFaceHub(client, endpoint=server.url).read("org/model").facts
    assert facts.weights.layers[0].experts == 10_000


def test_gated(server: FakeHub, client: httpx.Client) -> None:
    put(server)
    server.gated.add("org/model")
    with pytest.raises(
        GatedModelError, match=r"access denied to org/model.*accept the licence.*hub\.tokenSecretRef"
    ) as caught:
        HuggingFaceHub(client, endpoint=server.url).read("org/model")
    assert not caught.value.retry
    with pytest.raises(GatedModelError, match="the token has no access") as caught:
        HuggingFaceHub(client, endpoint=server.url, token="hf_other").read("org/model")
    assert "hf_other" not in str(caught.value)
    assert HuggingFaceHub(client, endpoint=server.url, token=TOKEN).read("org/model").commit == COMMIT


def test_private_and_missing(server: FakeHub, client: httpx.Client) -> None:
    put(server)
    server.private.add("org/model")
    for name in ("org/model", "org/nothing"):
        with pytest.raises(ModelNotFoundError, match=f"no such model: {name}.*if it is private"):
            HuggingFaceHub(client, endpoint=server.url).read(name)
    with pytest.raises(ModelNotFoundError, match="no such model: org/nothing"):
        HuggingFaceHub(client, endpoint=server.url, token=TOKEN).read("org/nothing")
    assert HuggingFaceHub(client, endpoint=server.url, token=TOKEN).read("org/model").commit == COMMIT


def test_no_such_revision(server: FakeHub, client: httpx.Client) -> None:
    put(server)
    with pytest.raises(ModelNotFoundError, match="no revision 'v9'"):
        HuggingFaceHub(client, endpoint=server.url).read("org/model", revision="v9")
    assert HuggingFaceHub(client, endpoint=server.url).read("org/model", revision=COMMIT).commit == COMMIT


def test_not_an_id(client: httpx.Client, server: FakeHub) -> None:
    put(server, "a--b/c..d")
    with pytest.raises(ModelNotFoundError):
        HuggingFaceHub(client, endpoint=server.url).read("a--b/c..d")


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_hub_in_trouble(server: FakeHub, client: httpx.Client, status: int) -> None:
    server.broken = status
    with pytest.raises(HubUnavailableError, match=str(status)) as caught:
        HuggingFaceHub(client, endpoint=server.url).read("org/model")
    assert caught.value.retry


def test_something_else_answers(server: FakeHub, client: httpx.Client) -> None:
    server.broken = 200
    with pytest.raises(HubUnavailableError, match="does not answer as a Hugging Face hub"):
        HuggingFaceHub(client, endpoint=server.url).read("org/model")


def test_offline(client: httpx.Client) -> None:
    with pytest.raises(HubUnavailableError, match=r"cannot reach http://127\.0\.0\.1:1"):
        HuggingFaceHub(client, endpoint="http://127.0.0.1:1").read("org/model")


def test_timeout(server: FakeHub) -> None:
    def slow(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadTimeout("too slow", request=request)

    with (
        httpx.Client(transport=httpx.MockTransport(slow)) as client,
        pytest.raises(HubUnavailableError, match="ReadTimeout"),
    ):
        HuggingFaceHub(client).read("org/model")


def test_invalid_config(server: FakeHub, client: httpx.Client) -> None:
    put(server)["config.json"] = b"{"
    with pytest.raises(InvalidModelError, match="no JSON"):
        HuggingFaceHub(client, endpoint=server.url).read("org/model")


def test_token_goes_to_the_hub_only(server: FakeHub, client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_operator")
    put(server)
    HuggingFaceHub(client, endpoint=server.url).read("org/model")
    assert not any("Authorization" in headers or "authorization" in headers for _, headers in server.requests)


def test_a_header_that_would_fill_the_memory_is_not_read(server: FakeHub, client: httpx.Client) -> None:
    files = put(server)
    files["model-00001-of-00002.safetensors"] = (90_000_000).to_bytes(8, "little") + b"{" * 300_000
    with pytest.raises(InvalidModelError, match="90000000 bytes"):
        HuggingFaceHub(client, endpoint=server.url).read("org/model")
    assert server.sent < 2_000_000


@pytest.mark.parametrize(
    ("config", "rank"),
    [({"r": 8}, 8), ({"r": 8, "rank_pattern": {"q_proj": 64}}, 64), ({"r": 16, "rank_pattern": None}, 16)],
)
def test_rank_of_an_adapter(server: FakeHub, client: httpx.Client, config: dict[str, Any], rank: int) -> None:
    server.repositories["org/sql"] = {"adapter_config.json": json.dumps(config).encode()}
    assert HuggingFaceHub(client, endpoint=server.url).read_adapter("org/sql").rank == rank


def test_what_is_no_adapter(server: FakeHub, client: httpx.Client) -> None:
    server.repositories["org/none"] = {"adapter_config.json": b"{}"}
    with pytest.raises(InvalidModelError, match="has no rank"):
        HuggingFaceHub(client, endpoint=server.url).read_adapter("org/none")
    with pytest.raises(HubError):
        HuggingFaceHub(client, endpoint=server.url).read_adapter("org/missing")
