"""LoRA adapters: a real vLLM loads and unloads them while it serves."""

import base64
import functools
import json
import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.apiserver import Object
from tests.lora import adapter_files
from tests.serving.test_adapters import VLLM

from .api import condition, eventually
from .gateway import MODEL, PROMPT, Gateway
from .outside import NAME, Outside
from .world import LOAD_SECONDS, World, sample

ADAPTED = "adapted"
ADAPTERS = {"sql": (8, 1), "law": (8, 2), "large": (17, 3)}
"""Folder below /adapters → the adapter's rank and seed."""
SQL = {"name": "sql", "source": "/adapters/sql", "rank": 8}


def config_map(name: str, files: Mapping[str, bytes]) -> Object:
    data = {each: base64.b64encode(content).decode() for each, content in files.items()}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "binaryData": data}


@pytest.fixture(scope="module")
def adapted(world: World, gateway: Gateway) -> Iterator[str]:
    """A model that is ready for adapters, whose files a ConfigMap holds: they are small."""
    folders = {
        name: config_map(f"adapter-{name}", adapter_files(rank=rank, seed=seed))
        for name, (rank, seed) in ADAPTERS.items()
    }
    document = sample(adapters=[])
    document["metadata"]["name"] = ADAPTED
    document["spec"]["podTemplate"] = {
        "spec": {
            "containers": [
                {
                    "name": "vllm",
                    "volumeMounts": [{"name": f"adapter-{name}", "mountPath": f"/adapters/{name}"} for name in folders],
                }
            ],
            "volumes": [{"name": f"adapter-{name}", "configMap": {"name": f"adapter-{name}"}} for name in folders],
        }
    }
    world.apply(gateway.namespace, *folders.values(), document)
    world.wait_ready(gateway.namespace, ADAPTED, seconds=LOAD_SECONDS)
    yield ADAPTED
    world.api.delete("models", gateway.namespace, ADAPTED)


def wanted(world: World, gateway: Gateway, *adapters: Object) -> None:
    world.edit(gateway.namespace, ADAPTED, {"adapters": list(adapters)})


def said(world: World, gateway: Gateway) -> dict[str, tuple[str, str]]:
    """Adapter → state, and pods that have it."""
    status = world.api.get("models", gateway.namespace, ADAPTED)["status"]
    return {each["name"]: (each["state"], each["pods"]) for each in status.get("adapters") or ()}


def until(world: World, gateway: Gateway, **states: tuple[str, str]) -> None:
    def look() -> bool:
        found = said(world, gateway)
        assert found == states, found
        return True

    eventually(f"status.adapters is {states}", look, seconds=60)


def pod_of(world: World, gateway: Gateway) -> tuple[str, int]:
    """The model's pod, and how often its container was started again."""
    pod = world.pod(gateway.namespace, ADAPTED)
    (container,) = pod["status"]["containerStatuses"]
    return pod["metadata"]["uid"], container["restartCount"]


def ask(gateway: Gateway, name: str) -> httpx.Response:
    return gateway.ask("/v1/completions", {"model": name, "prompt": PROMPT, "max_tokens": 8, "temperature": 0})


def text_of(gateway: Gateway, name: str) -> str:
    """What is answered in that name, as soon as it is."""

    def answered() -> str | None:
        answer = ask(gateway, name)
        assert answer.status_code == 200, answer.text
        # An empty answer is one, too.
        return f"[{answer.json()['choices'][0]['text']}]"

    return eventually(f"{name} answers", answered, seconds=30)


def test_they_come_and_go_while_the_pod_stays(world: World, gateway: Gateway, adapted: str) -> None:
    before = pod_of(world, gateway)
    assert before[1] == 0
    assert ask(gateway, "sql").status_code == 404
    plain = text_of(gateway, adapted)

    wanted(world, gateway, SQL)
    until(world, gateway, sql=("Loaded", "1/1"))
    first = text_of(gateway, "sql")
    assert first != plain, "the adapter changes what is said"
    assert text_of(gateway, adapted) == plain
    long_name = f"{gateway.namespace}/{adapted}/sql"
    assert text_of(gateway, long_name) == first
    client = gateway.client()
    answer = client.chat.completions.create(
        model="sql", messages=[{"role": "user", "content": PROMPT}], max_completion_tokens=8
    )
    assert answer.model == "sql"
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 0
    assert {each.id for each in client.models.list()} == {MODEL, adapted, "sql"}
    listed = client.models.retrieve("sql").model_extra or {}
    assert (listed["parent"], listed["ready"]) == (f"{gateway.namespace}/{adapted}", True)

    wanted(world, gateway, {**SQL, "source": "/adapters/law"})
    eventually("the other adapter answers", lambda: text_of(gateway, "sql") not in (plain, first), seconds=30)
    until(world, gateway, sql=("Loaded", "1/1"))

    wanted(world, gateway)
    until(world, gateway)
    eventually("it is not there any more", lambda: ask(gateway, "sql").status_code == 404, seconds=30)
    with pytest.raises(openai.NotFoundError, match=f"`sql` does not exist.*`{adapted}`"):
        client.completions.create(model="sql", prompt=PROMPT)
    assert text_of(gateway, adapted) == plain
    assert pod_of(world, gateway) == before


def test_what_vllm_refuses_is_told(world: World, gateway: Gateway, adapted: str) -> None:
    before = pod_of(world, gateway)
    wanted(world, gateway, SQL, {"name": "large", "source": "/adapters/large"})
    until(world, gateway, sql=("Loaded", "1/1"), large=("Failed", "0/1"))
    model = world.api.get("models", gateway.namespace, ADAPTED)
    assert "LoRA rank 17 is greater than max_lora_rank 16" in model["status"]["adapters"][1]["message"]
    assert condition(model, "Ready")["status"] == "True"

    def told() -> httpx.Response | None:
        answer = ask(gateway, "large")
        return answer if answer.status_code == 503 and "AdapterFailed: " in answer.text else None

    assert int(eventually("callers are told why", told, seconds=30).headers["retry-after"]) > 0
    assert text_of(gateway, "sql")
    assert {"AdapterFailed", "AdapterLoaded"} <= {
        each["reason"] for each in world.events(gateway.namespace, ADAPTED)
    }, "both are events"
    assert pod_of(world, gateway) == before


def test_a_pod_that_comes_later_has_them_before_it_is_asked(world: World, gateway: Gateway, adapted: str) -> None:
    wanted(world, gateway, SQL)
    until(world, gateway, sql=("Loaded", "1/1"))
    pod = world.pod(gateway.namespace, ADAPTED)
    world.api.delete("pods", gateway.namespace, pod["metadata"]["name"], force=True)
    statuses: list[int] = []

    def again() -> bool:
        statuses.append(ask(gateway, "sql").status_code)
        name = world.pod(gateway.namespace, ADAPTED)["metadata"]["name"]
        return name != pod["metadata"]["name"] and statuses[-1] == 200

    eventually("the new pod answers for it", again, seconds=LOAD_SECONDS)
    assert set(statuses) <= {200, 502, 503, 504}, "never a 404: of a pod that lacks it nothing is asked"
    until(world, gateway, sql=("Loaded", "1/1"))


@pytest.mark.parametrize("path", ["/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/adapters", "/adapters/sql"])
def test_callers_change_no_adapters(world: World, gateway: Gateway, adapted: str, path: str) -> None:
    body = {"model": adapted, "lora_name": "own", "lora_path": "/adapters/law", "name": "own", "src": "/adapters/law"}
    assert gateway.ask(path, body).status_code == 404
    assert ask(gateway, "own").status_code == 404


def test_vllm_answers_as_other_tests_believe(tmp_path: Path) -> None:
    """The stand-in of tests/serving/test_adapters.py, held to the real one. It needs no cluster."""
    for name, (rank, seed) in {"sql": (8, 1), "law": (8, 2), "large": (64, 3)}.items():
        (tmp_path / "adapters" / name).mkdir(parents=True)
        for file, content in adapter_files(rank=rank, seed=seed).items():
            (tmp_path / "adapters" / name / file).write_bytes(content)
    real = Outside(tmp_path, "127.0.0.1")
    stand_in = VLLM()
    lora = ("--enable-lora", "--max-lora-rank", "16", "--max-loras", "4", "--max-cpu-loras", "16")
    try:
        real.start(*lora, seconds=LOAD_SECONDS, VLLM_ALLOW_RUNTIME_LORA_UPDATING="True")
        context = ssl.create_default_context(cadata=real.authority.certificate)
        with httpx.Client(base_url=real.url.removesuffix("/v1"), verify=context, trust_env=False, timeout=60) as client:
            _compare(client, real.key, stand_in, tmp_path)
    finally:
        real.stop()


def _compare(client: httpx.Client, key: str, stand_in: VLLM, folder: Path) -> None:
    own = {"authorization": f"Bearer {key}"}

    def there(path: str) -> str:
        return path.replace("/adapters/", f"{folder}/adapters/")

    def both(path: str, **body: Any) -> int:
        status, text = stand_in.answer(path, body)
        real = {**body, "lora_path": there(body["lora_path"])} if "lora_path" in body else body
        answer = client.post(path, json=real, headers=own)
        assert (answer.status_code, _message(answer.text)) == (status, _message(text)), body
        return status

    load = functools.partial(both, "/v1/load_lora_adapter")
    unload = functools.partial(both, "/v1/unload_lora_adapter")
    assert load(lora_name="sql", lora_path="/adapters/sql") == 200
    assert load(lora_name="sql", lora_path="/adapters/sql") == 400
    assert load(lora_name="sql", lora_path="/adapters/law") == 400
    assert load(lora_name="sql", lora_path="/adapters/law", load_inplace=True) == 200
    assert load(lora_name="large", lora_path="/adapters/large") == 500
    assert load(lora_name="team/sql:v2", lora_path="/adapters/sql") == 200
    assert load(lora_name="missing", lora_path="org/missing") == 404
    listed = client.get("/v1/models", headers=own).json()["data"]
    found = {each["id"]: (each["root"], each["parent"]) for each in listed if each["id"] != NAME}
    assert found == {name: (there(path), NAME) for name, path in stand_in.adapters.items()}
    texts = set()
    for name in (NAME, "sql", "team/sql:v2"):
        asked = {"model": name, "prompt": PROMPT, "max_tokens": 8, "temperature": 0}
        answer = client.post("/v1/completions", json=asked, headers=own)
        assert (answer.status_code, answer.json()["model"]) == (200, name)
        texts.add(answer.json()["choices"][0]["text"])
    assert len(texts) == 3, "each adapter changes what is said"
    assert unload(lora_name="sql") == 200
    assert unload(lora_name="sql") == 404
    body = {"lora_name": "x", "lora_path": "/x"}
    assert client.post("/v1/load_lora_adapter", json=body).status_code == 401
    # Why adapters need a gateway: here vLLM asks for no key.
    assert client.post("/adapters", json={"name": "own", "src": there("/adapters/sql")}).status_code == 200


def _message(text: str) -> str:
    try:
        return str(json.loads(text)["error"]["message"])
    except ValueError:
        return text
