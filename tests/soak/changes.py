"""What is done to the cluster while the load goes on."""

import itertools
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.apiserver import Object
from tests.cluster import LocalCluster
from tests.cluster.images import VLLM_MOUNT
from tests.demo.installation import gateway_values
from tests.e2e import node
from tests.e2e.api import eventually
from tests.e2e.world import GATEWAY_PODS, LOAD_SECONDS, World, key_secret, sample

from .load import LoadProcess, Orders

NOTHING = "nothing changes"
AGENT_PORT = 8081
STAND_IN = Path(__file__).with_name("stand_in.py")
FOLDER = "/stand-in"
VLLM = "real"
STEADY, SCALED, ROLLED, PAIR = "steady", "scaled", "rolled", "pair"
"""Models of the stand-in: nothing happens to the first; the last has two pods, one of which is replaced now and then."""


def stand_in(name: str, *, replicas: int = 1) -> Object:
    """A model like the sample, whose pods run the stand-in."""
    container = {
        "name": "vllm",
        "command": [f"{VLLM_MOUNT}/bin/python", f"{FOLDER}/{STAND_IN.name}", "--served-model-name", name],
        "volumeMounts": [{"name": "stand-in", "mountPath": FOLDER}],
    }
    volume = {"name": "stand-in", "configMap": {"name": "stand-in"}}
    document = sample(replicas=replicas, podTemplate={"spec": {"containers": [container], "volumes": [volume]}})
    document["metadata"]["name"] = name
    return document


class Scene:
    """The models behind the gateway, the callers' keys, and what can be done to them."""

    def __init__(self, world: World, *, outage: float) -> None:
        """`outage`: seconds for which the API server is down each time."""
        self.world = world
        self.url = ""
        self._outage = outage
        self._namespace = ""
        self._load: LoadProcess | None = None
        self._numbers = itertools.count(1)
        self._key, self._key_name = new_key(), "key-0"
        self._added: list[str] = []
        self._http = httpx.Client(trust_env=False)

    def build(self) -> Orders:
        """Install the operator with its gateway, and models; return what can be asked for when all serve."""
        world = self.world
        world.reinstall(gateway=gateway_values(world.cluster.envoy_image()))
        self._namespace = world.make_namespace()
        program = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "stand-in"},
            "data": {STAND_IN.name: STAND_IN.read_text()},
        }
        real = sample()
        real["metadata"]["name"] = VLLM
        stand_ins = [stand_in(name, replicas=2 if name == PAIR else 1) for name in (STEADY, SCALED, ROLLED, PAIR)]
        world.apply(self._namespace, program, key_secret("team", **{self._key_name: self._key}), real, *stand_ins)
        self.url = world.operator.gateway_url()
        for each in (real, *stand_ins):
            world.wait_ready(self._namespace, each["metadata"]["name"], seconds=LOAD_SECONDS)
        self._known(self._key)
        return Orders(NOTHING, self._key, (STEADY, SCALED, ROLLED, PAIR), (VLLM,))

    def attach(self, load: LoadProcess) -> None:
        """Tell which load must ask for something else before and after a change."""
        self._load = load

    @property
    def load(self) -> LoadProcess:
        assert self._load is not None, "there is no load yet"
        return self._load

    # models

    def add_a_model(self) -> None:
        """It is asked for as soon as it is Ready."""
        name = f"guest-{next(self._numbers)}"
        self.world.apply(self._namespace, stand_in(name))
        self.world.wait_ready(self._namespace, name)
        self._added.append(name)
        self.load.order(stand_ins=(*self.load.orders.stand_ins, name))

    def remove_a_model(self) -> None:
        """What is under way at that moment is finished."""
        if not self._added:
            self.add_a_model()
        name = self._added.pop(0)
        self.load.order(stand_ins=tuple(each for each in self.load.orders.stand_ins if each != name))
        self.world.api.delete("models", self._namespace, name)
        eventually(
            "its pods are gone",
            lambda: not self.world.pods(self._namespace, name),
            seconds=180,
        )

    def scale(self) -> None:
        """From one pod to three and back."""
        for replicas in (3, 1):
            self.world.edit(self._namespace, SCALED, {"replicas": replicas})
            self.world.wait_ready(self._namespace, SCALED)

    def roll_out(self) -> None:
        """Another variable in the pod template."""
        variable = {"name": "ROUND", "value": str(next(self._numbers))}
        before = sample()["spec"]["engine"]["env"]
        self.world.edit(self._namespace, ROLLED, {"engine": {"env": [*before, variable]}})
        self.world.wait_ready(self._namespace, ROLLED)

    def roll_out_vllm(self) -> None:
        """Another context length."""
        found = self.world.api.get("models", self._namespace, VLLM)["spec"]["engine"]["maxModelLen"]
        self.world.edit(self._namespace, VLLM, {"engine": {"maxModelLen": 1024 if found == 512 else 512}})
        self.world.wait_ready(self._namespace, VLLM, seconds=LOAD_SECONDS)

    # keys

    def replace_the_key(self) -> None:
        """A new one is added, the clients use it, the old one is taken away."""
        old, old_name = self._key, self._key_name
        self._key, self._key_name = new_key(), f"key-{next(self._numbers)}"
        self.world.api.patch("secrets", self._namespace, "team", {"stringData": {self._key_name: self._key}})
        self._known(self._key)
        self.load.order(key=self._key)
        self.world.api.patch("secrets", self._namespace, "team", {"data": {old_name: None}})
        self._known(old, status=401)

    def _known(self, key: str, *, status: int = 200) -> None:
        """Wait until every pod of the gateway answers this to a key."""
        for pod in self.world.gateway_pods():
            self._answers(f"http://{pod['status']['podIP']}:8000/v1/models", status, key=key)

    def _answers(self, url: str, status: int, *, key: str = "", seconds: float = 60) -> None:
        def look() -> bool:
            headers = {"authorization": f"Bearer {key}"} if key else {}
            return self._http.get(url, headers=headers).status_code == status

        eventually(f"{url} answers {status}", look, seconds=seconds)

    # the gateway itself, and what tells it

    def kill_the_agents(self) -> None:
        """All at once, with SIGKILL; they come back by themselves."""
        pods = self.world.gateway_pods()
        for pod in pods:
            self._kill_agent(pod)
        for pod in pods:
            self._agent_is_back(pod)

    @staticmethod
    def _kill_agent(pod: Object) -> None:
        killed = node.processes(pod, command="-m vllm_operator gateway")
        assert len(killed) == 1, killed
        node.kill(killed)

    def _agent_is_back(self, pod: Object) -> None:
        self._answers(f"http://{pod['status']['podIP']}:{AGENT_PORT}/readyz", 200, seconds=120)

    def replace_the_gateway(self) -> None:
        """`kubectl rollout restart`, until the last of the old pods is gone."""
        operator = self.world.operator
        words = ("rollout", "restart", f"deployment/{operator.release}-gateway")
        self.world.cluster.kubectl("-n", operator.namespace, *words)
        operator.gateway_url()
        eventually(
            "the old pods are gone",
            lambda: len(self.world.api.list("pods", operator.namespace, labels=GATEWAY_PODS)) == 2,
            seconds=180,
        )

    def no_operator(self) -> None:
        """Meanwhile a model's pod is replaced, which Kubernetes does alone."""
        operator, namespace = self.world.operator, self._namespace
        scale = ("-n", operator.namespace, "scale", f"deployment/{operator.release}")
        self.world.cluster.kubectl(*scale, "--replicas=0")
        eventually("no operator", lambda: not self.world.operator_pods(), seconds=60)
        leaving = self.world.pods(namespace, PAIR)[0]["metadata"]["name"]
        self.world.api.delete("pods", namespace, leaving)

        def replaced() -> bool:
            pods = self.world.pods(namespace, PAIR)
            names = {pod["metadata"]["name"] for pod in pods}
            return len(pods) == 2 and leaving not in names and all(_ready(pod) for pod in pods)

        eventually("another pod is in its place", replaced, seconds=180)
        self.world.cluster.kubectl(*scale, "--replicas=1")
        self.world.wait_for_leader()
        self.world.wait_ready(namespace, PAIR)

    def no_api_server(self) -> None:
        """It is killed and comes back after the outage; one agent is killed meanwhile and finds nobody to ask."""
        cluster, pods = self.world.cluster, self.world.gateway_pods()
        cluster.kill("kube-apiserver")
        try:
            self._kill_agent(pods[0])
            time.sleep(self._outage)
        finally:
            cluster.start("kube-apiserver")
        eventually("the API server is back", cluster.answers, seconds=120)
        self.world.wait_for_leader(seconds=180)
        for pod in pods:
            self._agent_is_back(pod)
        for name in (*self.load.orders.stand_ins, VLLM):
            self.world.wait_ready(self._namespace, name)


def new_key() -> str:
    """A key for callers."""
    return f"sk-{secrets.token_urlsafe(24)}"


def _ready(pod: Object) -> bool:
    conditions = {each["type"]: each["status"] for each in pod["status"].get("conditions") or ()}
    return conditions.get("Ready") == "True"


@dataclass(frozen=True)
class Change:
    """One kind of change."""

    name: str
    """On the command line."""
    title: str
    make: Callable[[Scene], None]
    local: bool = False
    """Only done to a cluster that is this machine's own."""

    def possible(self, world: World) -> bool:
        """Whether it may be done there."""
        return not self.local or type(world.cluster) is LocalCluster


CHANGES: Sequence[Change] = (
    Change("add", "a model is added", Scene.add_a_model),
    Change("keys", "a key is replaced", Scene.replace_the_key),
    Change("agents", "the agents are killed (-9)", Scene.kill_the_agents),
    Change("scale", "a model is scaled, 1 → 3 → 1", Scene.scale),
    Change("rollout", "a model is rolled out", Scene.roll_out),
    Change("remove", "a model is removed", Scene.remove_a_model),
    Change("gateway", "the gateway's pods are replaced", Scene.replace_the_gateway),
    Change("operator", "no operator, and a pod is replaced", Scene.no_operator),
    Change("apiserver", "no API server", Scene.no_api_server, local=True),
    Change("vllm", "vLLM itself is rolled out", Scene.roll_out_vllm),
)
