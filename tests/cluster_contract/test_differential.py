"""Random histories of applies and hand edits: both clusters must tell the same story at each step."""

import copy
import json
import random
from collections.abc import Callable
from typing import Any

import pytest

from vllm_operator.api.names import Key
from vllm_operator.cluster import kinds
from vllm_operator.cluster.base import Object
from vllm_operator.cluster.errors import ApiError
from vllm_operator.cluster.kinds import Kind

from .objects import condition, first_container, status
from .objects import deployment as build_deployment
from .objects import model as build_model
from .worlds import MemoryWorld, RealWorld, World, comparable, differences

STEPS = 14


def some(rng: random.Random, names: str, make: Callable[[str], Any]) -> list[Any]:
    """Elements for some of the names, in any order."""
    chosen = rng.sample(names.split(), rng.randint(0, len(names.split())))
    return [make(name) for name in chosen]


def some_map(rng: random.Random, names: str) -> dict[str, str]:
    return {name: rng.choice("12") for name in rng.sample(names.split(), rng.randint(0, len(names.split())))}


def random_model(rng: random.Random) -> Object:
    spec: Object = {"env": some(rng, "A B C", lambda name: {"name": name, "value": rng.choice("12")})}
    if rng.random() < 0.5:
        spec["replicas"] = rng.randint(1, 3)
    if rng.random() < 0.6:
        spec["engine"] = {"maxModelLen": rng.choice(["auto", "32k"]), **({"seed": 1} if rng.random() < 0.5 else {})}
    if rng.random() < 0.4:
        spec["servedModelNames"] = some(rng, "x y z", str) or ["x"]
    result = build_model("", **spec)
    result["metadata"]["labels"] = some_map(rng, "l m n")
    return result


def random_status(rng: random.Random) -> Object:
    conditions = some(rng, "Ready Accepted Serving", lambda name: condition(name, rng.choice(["True", "False"])))
    fields: Object = {"conditions": conditions, "observedGeneration": rng.randint(1, 2)}
    if rng.random() < 0.5:
        fields["revision"] = rng.choice(["r1", "r2"])
    return status("", **fields)


def random_deployment(rng: random.Random) -> Object:
    mounts = some(rng, "a b c", lambda name: {"name": name, "mountPath": f"/{name}"})
    container: Object = {
        "env": some(rng, "A B C", lambda name: {"name": name, "value": rng.choice(["1", "2", ""])}),
        "ports": some(rng, "1 2 3", lambda name: {"containerPort": int(name), "name": f"p{name}"}),
        "volumeMounts": mounts,
    }
    if rng.random() < 0.5:
        container["resources"] = {"limits": {"cpu": rng.choice(["1", "500m"])}, "requests": some_map(rng, "cpu memory")}
        container["resources"]["requests"] = {
            name: "0.25" if name == "cpu" else "1Mi" for name in container["resources"]["requests"]
        }
    if rng.random() < 0.5:
        container["args"] = some(rng, "--x --y", str)
    if rng.random() < 0.5:
        container["readinessProbe"] = {"httpGet": {"path": "/h", "port": 1}, "periodSeconds": rng.choice([5, 10])}
    result = build_deployment("", container=container)
    pod = result["spec"]["template"]["spec"]
    pod["volumes"] = [{"name": name, "emptyDir": {}} for name in "abc"]
    if rng.random() < 0.5:
        pod["tolerations"] = some(rng, "t u", lambda name: {"key": name, "operator": "Exists"})
    if rng.random() < 0.5:
        pod["securityContext"] = {"fsGroup": rng.randint(1, 2)}
    result["spec"]["strategy"] = {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": rng.randint(1, 2), "maxUnavailable": 0},
    }
    result["metadata"]["annotations"] = some_map(rng, "a b")
    return result


def edit_model(rng: random.Random) -> Callable[[Object], None]:
    value = rng.choice("345")

    def mutate(live: Object) -> None:
        live["metadata"].setdefault("labels", {})[rng_choice] = value
        env = live["spec"].setdefault("env", [])
        for one in env:
            if one["name"] == env_name:
                one["value"] = value
                return
        env.append({"name": env_name, "value": value})

    rng_choice, env_name = rng.choice("lmno"), rng.choice("ABCD")
    return mutate


def edit_deployment(rng: random.Random) -> Callable[[Object], None]:
    name, value, how = rng.choice("ABCD"), rng.choice("345"), rng.choice(["env", "drop", "annotation", "image"])

    def mutate(live: Object) -> None:
        container = first_container(live)
        env = [one for one in container.get("env", []) if one["name"] != name]
        match how:
            case "env":
                container["env"] = [*env, {"name": name, "value": value}]
            case "drop":
                container["env"] = env
            case "annotation":
                live["spec"]["template"]["metadata"].setdefault("annotations", {})[name] = value
            case _:
                container["image"] = f"theirs:{value}"

    return mutate


async def attempt(world: World, act: Callable[[World], Any]) -> Object:
    """What came of a step: the object, or the error's category and field."""
    try:
        return comparable(await act(world))
    except ApiError as error:
        return {"error": error.category.value, "field": error.field}


async def run(real: RealWorld, rng: random.Random, kind: Kind, build: Callable, edit: Callable) -> None:
    worlds: tuple[World, World] = (MemoryWorld(), real)
    history: list[tuple[str, Any]] = []
    for _ in range(STEPS):
        choice = rng.random()
        if kind == kinds.VLLM_MODEL and choice < 0.2 and history:
            wanted = random_status(rng)
            history.append(("status", wanted))
            act = lambda world, wanted=wanted: world.cluster.apply_status(kind, _in(world, wanted))  # noqa: E731
        elif choice < 0.6 or not history:
            wanted = build(rng)
            history.append(("apply", wanted))
            act = lambda world, wanted=wanted: world.cluster.apply(kind, _in(world, wanted))  # noqa: E731
        elif choice < 0.75:
            wanted = build(rng)
            history.append(("argo", wanted))
            act = lambda world, wanted=wanted: world.apply_as(kind, _in(world, wanted), "argo")  # noqa: E731
        else:
            mutate = edit(rng)
            history.append(("edit", mutate))
            act = lambda world, mutate=mutate: world.edit(kind, Key(world.namespace, "qwen3"), mutate)  # noqa: E731
        results = [await attempt(world, act) for world in worlds]
        assert differences(results[0], results[1]) == [], _told(history)
        if kind == kinds.VLLM_MODEL:
            found = [await world.cluster.get(kind, Key(world.namespace, "qwen3")) for world in worlds]
            generations = [one and one["metadata"]["generation"] for one in found]
            assert generations[0] == generations[1], _told(history)


def _told(history: list[tuple[str, Any]]) -> str:
    """A failing history, for its reader."""
    return "\n".join(f"{how} {json.dumps(what, default=repr)}" for how, what in history)


def _in(world: World, wanted: Object) -> Object:
    result = copy.deepcopy(wanted)
    result["metadata"]["namespace"] = world.namespace
    return result


@pytest.mark.cluster
@pytest.mark.parametrize("seed", range(8))
async def test_models(real: RealWorld, seed: int) -> None:
    await run(real, random.Random(f"model {seed}"), kinds.VLLM_MODEL, random_model, edit_model)


@pytest.mark.cluster
@pytest.mark.parametrize("seed", range(8))
async def test_deployments(real: RealWorld, seed: int) -> None:
    await run(real, random.Random(f"deployment {seed}"), kinds.DEPLOYMENT, random_deployment, edit_deployment)
