"""The gateway for all models, a model behind it, and a team that may use it."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
import openai

from tests.apiserver import Object
from tests.demo.installation import gateway_values

from .world import World, key_secret

MODEL = "storyteller"
"""Not the name of the model that the other tests share: it is older, and so keeps its name."""
PROMPT = "Once upon a time there was a model"
"""Long enough: the CPU build's attention ends in an illegal instruction on processors with AMX when the first prompt is short."""


@dataclass(frozen=True)
class Gateway:
    """The gateway, a model behind it, and a team's key."""

    url: str
    namespace: str
    key: str

    def ask(self, path: str, body: object = None, *, key: str | None = None, **headers: str) -> httpx.Response:
        """POST JSON, or GET without a body, with the team's key (or another; "": none)."""
        key = self.key if key is None else key
        sent = {**({"authorization": f"Bearer {key}"} if key else {}), **headers}
        with httpx.Client(base_url=self.url, timeout=60, trust_env=False) as client:
            return client.get(path, headers=sent) if body is None else client.post(path, json=body, headers=sent)

    def client(self, key: str | None = None) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key or self.key, max_retries=0, timeout=60)


@contextmanager
def running(world: World, document: Object, *, seconds: float, **values: object) -> Iterator[Gateway]:
    """The gateway switched on, with more of its values, and the model served."""
    world.reinstall(gateway={**gateway_values(world.cluster.envoy_image()), **values})
    namespace = world.make_namespace()
    key = f"sk-{secrets.token_urlsafe(24)}"
    document["metadata"]["name"] = MODEL
    world.apply(namespace, key_secret("team", alice=key), document)
    url = world.operator.gateway_url()
    world.wait_ready(namespace, MODEL, seconds=seconds)
    yield Gateway(url, namespace, key)
    world.delete_namespace(namespace)
    world.reinstall()
