"""The engine on a cluster in memory, in virtual time: whatever goes wrong, it ends where the spec says, and then rests."""

import asyncio
import base64
import json
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.reconcile.harness import (
    BEHIND,
    KEY,
    OURS,
    Channel,
    Deliver,
    Operator,
    at_once,
    change_spec,
    children,
    gateway,
    make_cluster,
    make_model,
    ours,
    secret,
    settle,
)
from tests.reconcile.virtual import eventually, run_virtual
from tests.reconcile.world import World, condition, is_so
from vllm_operator.api.conditions import Reason
from vllm_operator.api.names import Key
from vllm_operator.cluster import kinds
from vllm_operator.cluster.base import Object
from vllm_operator.cluster.errors import ApiError, classify
from vllm_operator.cluster.memory import Call, Fault, FaultHook, MemoryCluster, http_error, random_faults
from vllm_operator.reconcile.reconciler import Reconciler, Timings
from vllm_operator.serving.probe import ProbeResult, ProbeState
from vllm_operator.workload.settings import BuildSettings, GatewayRef

MANY = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
MODELS = kinds.VLLM_MODEL


def template(cluster: MemoryCluster, key: Key = KEY) -> Object:
    deployment = cluster.peek(kinds.DEPLOYMENT, key)
    assert deployment is not None
    return dict(deployment["spec"]["template"])


def told(cluster: MemoryCluster, reason: Reason) -> bool:
    """Whether an event says this."""
    return any(event["reason"] == reason for event in cluster.objects(kinds.EVENT))


def nothing_left(cluster: MemoryCluster) -> bool:
    return not children(cluster)


# -- coming to rest ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plot:
    """What a story is about."""

    ends_with: list[str]
    settings: BuildSettings | None = None
    first: Object = field(default_factory=dict)
    """More of the spec than the model."""
    last_edit: Object = field(default_factory=dict)


PLOTS = {
    "a route": Plot(["Deployment", "PodDisruptionBudget", "Service"], last_edit={"route": {"enabled": False}}),
    "behind the gateway": Plot(
        ["Deployment", "NetworkPolicy", "PodDisruptionBudget", "Service"],
        settings=BEHIND,
        # With a generated key no two stories would end alike.
        first={"route": {"parentRefs": [{"name": "gateway"}]}, "auth": {"apiKeySecretRef": {"name": "s", "key": "k"}}},
        last_edit={"route": None},
    ),
}


def story(
    plot: Plot,
    *,
    faults: FaultHook | None = None,
    channel: Channel | None = None,
    until: float = 600.0,
    quiet: float = 700.0,
) -> tuple[dict[str, Object], Any]:
    """A model is made and edited twice while things go wrong; what is there once they have stopped."""

    async def main() -> tuple[dict[str, Object], Any]:
        cluster = make_cluster()
        World(cluster)
        cluster.put(kinds.SECRET, secret("s", k="c2VzYW1l"))
        cluster.faults = faults
        async with Operator(cluster, channel=channel or at_once, settings=plot.settings) as operator:
            cluster.put(MODELS, make_model({"model": "Qwen/Qwen3-8B", **plot.first}))
            await asyncio.sleep(3)
            change_spec(cluster, replicas=3, engine={"maxModelLen": 4096})
            await asyncio.sleep(until / 2)
            change_spec(cluster, replicas=2, **plot.last_edit)
            await asyncio.sleep(until / 2)
            cluster.faults = None
            operator.channel = at_once
            await settle(cluster, quiet=quiet)
            assert is_so(cluster, KEY, "Ready", "True")
            before = len(cluster.writes)
            await asyncio.sleep(3600)
            assert cluster.writes[before:] == [], "writes at rest"
            # How many revisions there were depends on which edits were seen at all.
            names = (name for name in children(cluster) if not name.startswith("ControllerRevision"))
            return {name: children(cluster)[name] for name in names}, {
                condition["type"]: (condition["status"], condition["reason"], condition["message"])
                for condition in (cluster.peek(MODELS, KEY) or {})["status"]["conditions"]
            }

    return run_virtual(main)


@pytest.fixture(scope="module", params=PLOTS)
def calm(request: pytest.FixtureRequest) -> tuple[Plot, tuple[dict[str, Object], Any]]:
    """A plot, and what the story ends with when nothing goes wrong."""
    plot = PLOTS[request.param]
    found = story(plot)
    assert sorted(name.split()[0] for name in found[0]) == plot.ends_with
    return plot, found


@MANY
@given(seed=st.integers(0, 2**32), rate=st.sampled_from([0.05, 0.3, 0.6]))
def test_faults_on_every_call_change_nothing_in_the_end(calm: Any, seed: int, rate: float) -> None:
    plot, ending = calm
    assert story(plot, faults=random_faults(random.Random(seed), rate)) == ending


@MANY
@given(seed=st.integers(0, 2**32))
def test_conflicts_and_slow_calls_change_nothing_in_the_end(calm: Any, seed: int) -> None:
    rng = random.Random(seed)

    def hook(call: Call) -> Fault | None:
        chance = rng.random()
        if chance < 0.15:
            return Fault(http_error(409), after=rng.random() < 0.3)
        return Fault(delay=rng.choice((0.5, 20.0, 200.0))) if chance < 0.25 else None

    plot, ending = calm
    assert story(plot, faults=hook) == ending


@pytest.mark.parametrize("fate", ["lost", "doubled", "late", "all of it"])
@pytest.mark.parametrize("seed", range(3))
def test_events_may_be_lost_doubled_and_reordered(calm: Any, fate: str, seed: int) -> None:
    rng = random.Random(seed)

    def channel(event: str, obj: Object, deliver: Deliver) -> None:
        loop = asyncio.get_running_loop()
        what = rng.choice(("lost", "doubled", "late")) if fate == "all of it" else fate
        if what == "lost" and rng.random() < 0.7:
            return
        if what == "late":
            loop.call_later(rng.uniform(0, 30), deliver)
            return
        deliver()
        if what == "doubled":
            loop.call_later(rng.uniform(0, 5), deliver)

    plot, ending = calm
    assert story(plot, channel=channel) == ending


def test_no_event_at_all_is_made_up_for_by_the_listing(calm: Any) -> None:
    plot, ending = calm
    assert story(plot, channel=lambda event, obj, deliver: None, until=2600.0) == ending


def test_nothing_is_written_at_rest_by_a_new_process(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        cluster = make_cluster()
        World(cluster)
        async with Operator(cluster) as first:
            for number in range(5):
                cluster.put(MODELS, make_model({"model": "a/b", "replicas": number}, key=Key("default", f"m{number}")))
            await first.until("Ready", "True", key=Key("default", "m4"))
            await settle(cluster)
        before = len(cluster.writes)
        async with Operator(cluster):
            await asyncio.sleep(1800)
        assert cluster.writes[before:] == []

    run_virtual(main)


def test_an_upgraded_operator_touches_no_child_until_the_spec_is_edited() -> None:
    async def main() -> None:
        cluster = make_cluster()
        World(cluster)
        async with Operator(cluster) as first:
            cluster.put(MODELS, make_model())
            await first.until("Ready", "True")
            await settle(cluster)
        before, found = len(cluster.writes), children(cluster)
        newer = BuildSettings(
            vllm_version="0.99.0",
            image_templates={"nvidia": "elsewhere/vllm:{version}"},
            run_as_user=1000,
            default_gateway=GatewayRef("default", "gateway"),
        )
        async with Operator(cluster, settings=newer) as second:
            await asyncio.sleep(1800)
            assert cluster.writes[before:] == []
            # Drift repair puts back what was decided then, not what would be decided now.
            cluster.remove(kinds.DEPLOYMENT, KEY)
            await settle(cluster, quiet=30)
            assert is_so(cluster, KEY, "Ready", "True")
            assert children(cluster) == found
            # How many there are is no decision about the pods.
            old_template = template(cluster)
            change_spec(cluster, replicas=2)
            await second.until("Ready", "True")
            assert template(cluster) == old_template
            change_spec(cluster, engine={"maxModelLen": 1024})
            await second.until("Ready", "True")
            assert template(cluster)["spec"]["containers"][0]["image"] == "elsewhere/vllm:0.99.0"

    run_virtual(main)


def test_options_that_an_upgraded_operator_would_refuse_are_kept_until_the_spec_is_edited() -> None:
    older, newer = (BuildSettings(vllm_version=version) for version in ("0.26.0", "0.32.0"))
    removed = {"max-num-partial-prefills": 2}

    async def main() -> None:
        cluster = make_cluster()
        World(cluster)
        async with Operator(cluster, settings=older) as first:
            cluster.put(MODELS, make_model({"model": "a/b", "engine": {"args": removed}}))
            await first.until("Ready", "True")
            await settle(cluster)
        before = len(cluster.writes)
        async with Operator(cluster, settings=newer) as second:
            await asyncio.sleep(1800)
            assert cluster.writes[before:] == []
            assert is_so(cluster, KEY, "Accepted", "True")
            old_template = template(cluster)
            change_spec(cluster, engine={"args": removed, "seed": 1})
            await second.until("Accepted", "False", Reason.INVALID_ENGINE_ARGS)
            assert template(cluster) == old_template
            change_spec(cluster, engine={"args": removed, "seed": 1, "version": "0.26.0"})
            await second.until("Ready", "True")

    run_virtual(main)


@pytest.mark.parametrize(
    ("engine", "expected"),
    [
        ({}, {"image": "vllm/vllm-openai:v0.32.0", "version": "0.32.0", "optionsChecked": True}),
        ({"image": "mine:1"}, {"image": "mine:1", "optionsChecked": False}),
        ({"image": "mine:1", "version": "0.31.2"}, {"image": "mine:1", "version": "0.31.2", "optionsChecked": True}),
        ({"version": "99.0.0"}, {"image": "vllm/vllm-openai:v99.0.0", "version": "99.0.0", "optionsChecked": False}),
    ],
)
def test_the_status_says_whether_options_were_checked(engine: dict[str, Any], expected: dict[str, Any]) -> None:
    async def main() -> None:
        cluster = make_cluster()
        World(cluster)
        async with Operator(cluster) as operator:
            cluster.put(MODELS, make_model({"model": "a/b", "engine": engine}))
            await operator.until("Ready", "True")
            model = cluster.peek(MODELS, KEY)
            assert model is not None
            assert model["status"]["engine"] == expected

    run_virtual(main)


# -- drift -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [None, BEHIND], ids=["a route", "behind the gateway"])
def test_vanished_children_come_back(settings: BuildSettings | None) -> None:
    async def main() -> None:
        cluster = make_cluster()
        World(cluster)
        async with Operator(cluster, settings=settings) as operator:
            cluster.put(MODELS, make_model({"model": "a/b", "replicas": 3}))
            await operator.until("Ready", "True")
            await settle(cluster)
            found = children(cluster)
            there = [kind for kind in kinds.CHILD_KINDS if cluster.peek(kind, KEY) is not None]
            assert len(there) == 4
            for kind in there:
                cluster.remove(kind, KEY)
                await eventually(lambda kind=kind: cluster.peek(kind, KEY), within=1)  # type: ignore[misc]
                await settle(cluster, quiet=30)
                assert children(cluster) == found, kind
            for revision in cluster.objects(kinds.CONTROLLER_REVISION):
                cluster.remove(kinds.CONTROLLER_REVISION, Key("default", revision["metadata"]["name"]))
            await settle(cluster)
            assert children(cluster) == found

    run_virtual(main)


EDITS: list[tuple[Any, Callable[[Object], object]]] = [
    (kinds.DEPLOYMENT, lambda obj: obj["spec"].update(replicas=7)),
    (kinds.DEPLOYMENT, lambda obj: obj["spec"]["template"]["spec"]["containers"][0].update(image="other:1")),
    (kinds.DEPLOYMENT, lambda obj: obj["spec"]["template"]["spec"]["containers"][0]["command"].append("--x")),
    (kinds.DEPLOYMENT, lambda obj: obj["spec"]["template"]["spec"]["containers"][0]["env"].pop(0)),
    (kinds.DEPLOYMENT, lambda obj: obj["spec"]["strategy"]["rollingUpdate"].update(maxSurge=3)),
    (kinds.DEPLOYMENT, lambda obj: obj["metadata"]["labels"].pop("vllm-operator.io/model")),
    (kinds.SERVICE, lambda obj: obj["spec"]["ports"][0].update(targetPort=9)),
    (kinds.SERVICE, lambda obj: obj["spec"]["selector"].update({"vllm-operator.io/model": "other"})),
    (kinds.POD_DISRUPTION_BUDGET, lambda obj: obj["spec"].update(maxUnavailable=2)),
    (kinds.NETWORK_POLICY, lambda obj: obj["spec"].update(podSelector={})),
    (kinds.NETWORK_POLICY, lambda obj: obj["spec"]["podSelector"]["matchLabels"].update(a="b")),
    (kinds.NETWORK_POLICY, lambda obj: obj["spec"]["ingress"].append({})),
    (kinds.NETWORK_POLICY, lambda obj: obj["spec"]["ingress"][0].update(ports=[{"port": 1}])),
    (
        kinds.NETWORK_POLICY,
        lambda obj: obj["spec"]["ingress"][0]["from"][1]["ipBlock"].update({"except": ["10.0.0.0/9"]}),
    ),
    (kinds.NETWORK_POLICY, lambda obj: obj["spec"]["policyTypes"].append("Egress")),
    (kinds.HTTP_ROUTE, lambda obj: obj["spec"]["rules"][0]["matches"][0]["path"].update(value="/elsewhere")),
    (kinds.HTTP_ROUTE, lambda obj: obj["metadata"].pop("ownerReferences")),
]


@pytest.mark.parametrize("number", range(len(EDITS)))
def test_hand_edits_are_put_back(number: int) -> None:
    kind, mutate = EDITS[number]

    async def main() -> None:
        cluster = make_cluster()
        World(cluster)
        async with Operator(cluster, settings=BEHIND if kind is kinds.NETWORK_POLICY else None) as operator:
            cluster.put(MODELS, make_model({"model": "a/b", "replicas": 3}))
            await operator.until("Ready", "True")
            await settle(cluster)
            found = children(cluster)
            cluster.edit(kind, KEY, mutate)
            assert children(cluster) != found
            await settle(cluster)
            if kind is kinds.HTTP_ROUTE and "ownerReferences" not in found[f"HTTPRoute {KEY}"]["metadata"]:
                raise AssertionError("the test lost its subject")
            if kind is kinds.HTTP_ROUTE and number == len(EDITS) - 1:
                # Without its owner it is nobody's: taking it over is not ours to decide.
                assert is_so(cluster, KEY, "Accepted", "False", Reason.CHILD_CONFLICT)
            else:
                assert children(cluster) == found

    run_virtual(main)


def test_foreign_fields_stay() -> None:
    async def main() -> None:
        cluster = make_cluster()
        World(cluster)
        async with Operator(cluster) as operator:
            cluster.put(MODELS, make_model())
            await operator.until("Ready", "True")
            await settle(cluster)

            def mutate(obj: Object) -> None:
                obj["metadata"].setdefault("annotations", {})["team"] = "a"
                obj["metadata"]["labels"]["team"] = "a"
                metadata = obj["spec"]["template"]["metadata"]
                metadata["annotations"]["kubectl.kubernetes.io/restartedAt"] = "2026-01-01T00:00:00Z"
                obj["spec"]["template"]["spec"]["containers"].append({"name": "sidecar", "image": "s:1"})

            cluster.edit(kinds.DEPLOYMENT, KEY, mutate)
            edited, before = children(cluster), len(cluster.writes)
            await settle(cluster)
            assert children(cluster) == edited
            assert all(write.kind in (MODELS, kinds.EVENT) for write in cluster.writes[before:])
            change_spec(cluster, engine={"maxModelLen": 1024})
            await operator.until("Ready", "True")
            deployment = cluster.peek(kinds.DEPLOYMENT, KEY)
            assert deployment is not None
            assert deployment["metadata"]["annotations"]["team"] == "a"
            assert [each["name"] for each in template(cluster)["spec"]["containers"]] == ["vllm", "sidecar"]

    run_virtual(main)


# -- deletion ----------------------------------------------------------------------------------------------------------


def _deleted_at(call_number: int, *, again: bool) -> bool:
    """Delete the model (and make it anew) just before the operator's nth call; False when there were fewer calls."""

    async def main() -> bool:
        cluster = make_cluster()
        World(cluster)
        calls = 0
        cut = False

        def hook(call: Call) -> Fault | None:
            nonlocal calls, cut
            calls += 1
            if calls == call_number and cluster.peek(MODELS, KEY) is not None:
                cut = True
                cluster.remove(MODELS, KEY)
                if again:
                    cluster.put(MODELS, make_model({"model": "other/model"}))
            return None

        async with Operator(cluster) as operator:
            cluster.put(MODELS, make_model({"model": "a/b", "replicas": 2}))
            cluster.faults = hook
            await settle(cluster, quiet=20)
            change_spec_if_there(cluster)
            await settle(cluster, quiet=20)
            assert set(operator.results) <= {"ok", "conflict", "invalid"}, operator.results
            if not again and cut:
                assert nothing_left(cluster)
                assert operator.reconciler.states == {}
                assert operator.prober.results(KEY) == {}
                assert set(operator.results) <= {"ok"}
            if again:
                model = cluster.peek(MODELS, KEY)
                assert model is not None
                assert is_so(cluster, KEY, "Ready", "True")
                uids = {
                    owner["uid"]
                    for kind in OURS
                    for obj in cluster.objects(kind)
                    for owner in obj["metadata"]["ownerReferences"]
                }
                assert uids == {model["metadata"]["uid"]}
        return cut

    return run_virtual(main)


def change_spec_if_there(cluster: MemoryCluster) -> None:
    if cluster.peek(MODELS, KEY) is not None:
        change_spec(cluster, engine={"maxModelLen": 1024}, replicas=1, route={"enabled": False})


@pytest.mark.parametrize("again", [False, True], ids=["deleted", "made anew"])
@pytest.mark.parametrize("start", [1, 2, 3])
def test_a_model_may_go_at_every_call(again: bool, start: int) -> None:
    number = start
    while _deleted_at(number, again=again):
        number += 3
    assert number > 40, "the story has become too short to say much"


def test_a_model_made_anew_is_never_given_its_predecessors_status() -> None:
    async def main() -> None:
        cluster = make_cluster()
        World(cluster)
        names: list[Any] = []

        def replace_it(call: Call) -> Fault | None:
            if call.verb == "apply_status" and call.attempt == 1:
                cluster.remove(MODELS, KEY)
                uid = cluster.put(MODELS, make_model({"model": "a/b", "servedModelNames": ["new"]}))["metadata"]["uid"]
                cluster.watch(
                    lambda event, obj: (
                        names.append((obj.get("status") or {}).get("servedModelNames"))
                        if obj["metadata"]["uid"] == uid
                        else None
                    )
                )
            return None

        cluster.faults = replace_it
        async with Operator(cluster) as operator:
            cluster.put(MODELS, make_model({"model": "a/b", "servedModelNames": ["old"]}))
            await operator.until("Ready", "True")
        assert names
        assert all(each == ["new"] for each in names)

    run_virtual(main)


def test_a_lost_deletion_is_found_by_the_listing() -> None:
    async def main() -> None:
        cluster = make_cluster()
        World(cluster)

        def channel(event: str, obj: Object, deliver: Deliver) -> None:
            if event != "DELETED":
                deliver()

        async with Operator(cluster, channel=channel, timings=Timings(resync=86400)) as operator:
            cluster.put(MODELS, make_model())
            await operator.until("Ready", "True")
            cluster.remove(MODELS, KEY)
            await eventually(lambda: not operator.reconciler.states, within=700)
            assert operator.prober.results(KEY) == {}
            assert nothing_left(cluster)

    run_virtual(main)


def test_a_terminating_namespace_is_left_in_peace() -> None:
    async def main() -> None:
        cluster = make_cluster(namespaces=("default", "going"))
        World(cluster)
        key = Key("going", "qwen")
        async with Operator(cluster) as operator:
            model = make_model({"model": "a/b", "replicas": 2}, key=key)
            model["metadata"]["finalizers"] = ["test/hold"]
            cluster.put(MODELS, model)
            await operator.until("Ready", "True", key=key)
            cluster.terminate_namespace("going")
            await asyncio.sleep(600)
            assert children(cluster) == {}
            assert set(operator.results) == {"ok"}
            cluster.remove_namespace("going")
            await settle(cluster)
            assert operator.reconciler.states == {}

    run_virtual(main)


def test_a_namespace_that_begins_to_go_under_a_new_model_is_no_failure() -> None:
    async def main() -> None:
        cluster = make_cluster(namespaces=("default", "going"))
        World(cluster)
        key = Key("going", "qwen")

        def hook(call: Call) -> Fault | None:
            if call.verb == "apply" and call.attempt == 1 and call.kind is kinds.SERVICE:
                cluster.terminate_namespace("going")
            return None

        cluster.faults = hook
        async with Operator(cluster) as operator:
            model = make_model(key=key)
            model["metadata"]["finalizers"] = ["test/hold"]
            cluster.put(MODELS, model)
            await settle(cluster)
            assert children(cluster) == {}
            assert set(operator.results) == {"ok", "terminating"}
            assert condition(cluster, key, "Ready")["reason"] == Reason.TERMINATING
            assert operator.queue.failures(key) == 0

    run_virtual(main)


# -- names -------------------------------------------------------------------------------------------------------------


def test_names_of_63_characters_that_share_their_first_50() -> None:
    async def main() -> None:
        cluster = make_cluster()
        World(cluster)
        keys = [Key("default", "m" * 50 + "-" * 2 + end * 11) for end in "ab"]
        async with Operator(cluster) as operator:
            for key in keys:
                cluster.put(MODELS, make_model({"model": "a/b", "replicas": 2}, key=key))
            for key in keys:
                await operator.until("Ready", "True", key=key)
            await settle(cluster)
            assert len(cluster.objects(kinds.CONTROLLER_REVISION)) == 2
            cluster.remove(MODELS, keys[0])
            await settle(cluster)
            assert is_so(cluster, keys[1], "Ready", "True")
            assert {key_name for kind in OURS for key_name in _models_of(cluster, kind)} == {keys[1].name}

    run_virtual(main)


def _models_of(cluster: MemoryCluster, kind: kinds.Kind) -> set[str]:
    return {owner["name"] for obj in cluster.objects(kind) for owner in obj["metadata"]["ownerReferences"]}


def test_two_models_may_serve_the_same_name() -> None:
    async def main() -> None:
        cluster = make_cluster()
        World(cluster)
        keys = [Key("default", "one"), Key("default", "two")]
        async with Operator(cluster) as operator:
            for key in keys:
                cluster.put(MODELS, make_model({"model": "a/b", "servedModelNames": ["same"]}, key=key))
            for key in keys:
                await operator.until("Ready", "True", key=key)
            routes = cluster.objects(kinds.HTTP_ROUTE)
            assert len({route["spec"]["rules"][0]["matches"][0]["path"]["value"] for route in routes}) == 2

    run_virtual(main)


# -- references --------------------------------------------------------------------------------------------------------

TOKEN_SPEC = {"model": "a/b", "hub": {"tokenSecretRef": {"name": "hf", "key": "token"}}}


def test_a_missing_secret_is_waited_for_and_an_edited_one_rolls_out_and_is_never_shown(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    values = ["hunter2-first-value", "hunter2-second-value"]

    async def main() -> str:
        cluster = make_cluster()
        World(cluster)
        async with Operator(cluster) as operator:
            cluster.put(MODELS, make_model(TOKEN_SPEC))
            await operator.until("Accepted", "False", Reason.REFERENCE_NOT_FOUND)
            assert 'Secret "hf" does not exist in namespace "default"' in condition(cluster, KEY, "Accepted")["message"]
            assert nothing_left(cluster)
            cluster.put(kinds.SECRET, secret("hf", other=""))
            await eventually(lambda: 'has no key "token"' in condition(cluster, KEY, "Accepted")["message"], within=11)
            cluster.put(kinds.SECRET, secret("hf", token=_encode(values[0])))
            await operator.until("Ready", "True", within=20)
            first = template(cluster)
            cluster.put(kinds.SECRET, secret("hf", token=_encode(values[1]), another=_encode("x")))
            await eventually(lambda: template(cluster) != first, within=31)
            await operator.until("Ready", "True")
            second = template(cluster)
            cluster.put(kinds.SECRET, secret("hf", token=_encode(values[1]), another=_encode("y")))
            await settle(cluster)
            assert template(cluster) == second, "another key of the Secret is no input"
            return json.dumps([obj for kind in list(cluster._objects) if kind is not kinds.SECRET
                               for obj in cluster.objects(kind)])  # fmt: skip

    everything = run_virtual(main) + caplog.text
    assert "qwen" in caplog.text
    for value in values:
        assert value not in everything
        assert _encode(value) not in everything


def _encode(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def test_a_bad_edit_keeps_probing_with_the_key_of_the_pods() -> None:
    async def main() -> None:
        cluster = make_cluster()
        World(cluster)
        cluster.put(kinds.SECRET, secret("api", key=_encode("sesame")))
        spec = {"model": "a/b", "auth": {"apiKeySecretRef": {"name": "api", "key": "key"}}}
        async with Operator(cluster) as operator:
            cluster.put(MODELS, make_model(spec))
            await operator.until("Ready", "True")
            assert operator.prober.keys_used[KEY] == {"sesame"}
            change_spec(cluster, hub={"tokenSecretRef": {"name": "absent", "key": "token"}})
            await operator.until("Accepted", "False", Reason.REFERENCE_NOT_FOUND)
            assert operator.prober.keys_used[KEY] == {"sesame"}
            assert is_so(cluster, KEY, "Serving", "True")

    run_virtual(main)


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_a_bad_edit_leaves_the_children_and_a_good_one_goes_on() -> None:
    async def main() -> None:
        cluster = make_cluster()
        World(cluster)
        async with Operator(cluster) as operator:
            cluster.put(MODELS, make_model({"model": "a/b", "replicas": 2}))
            await operator.until("Ready", "True")
            await settle(cluster)
            found, before = children(cluster), len(cluster.writes)
            change_spec(cluster, accelerator={"count": 3}, parallelism={"tensor": 2}, replicas=2)
            await operator.until("Accepted", "False", Reason.INVALID_PARALLELISM)
            await operator.until("Stalled", "True", Reason.INVALID_PARALLELISM)
            await settle(cluster)
            assert children(cluster) == found
            assert all(write.kind in (MODELS, kinds.EVENT) for write in cluster.writes[before:])
            assert is_so(cluster, KEY, "Serving", "True")
            assert is_so(cluster, KEY, "Ready", "False", Reason.INVALID_PARALLELISM)
            # Drift is repaired all the same.
            cluster.remove(kinds.DEPLOYMENT, KEY)
            await settle(cluster)
            assert children(cluster) == found
            change_spec(cluster, parallelism={"tensor": 3})
            await operator.until("Ready", "True")
            limits = template(cluster)["spec"]["containers"][0]["resources"]["limits"]
            assert limits == {"nvidia.com/gpu": "3"}
            assert condition(cluster, KEY, "Stalled") == {}

    run_virtual(main)


def test_suspend_works_while_the_spec_is_refused() -> None:
    async def main() -> None:
        cluster = make_cluster()
        World(cluster)
        async with Operator(cluster) as operator:
            cluster.put(MODELS, make_model())
            await operator.until("Ready", "True")
            change_spec(cluster, accelerator={"count": 3}, parallelism={"tensor": 2}, suspend=True)
            await eventually(lambda: not cluster.objects(kinds.POD), within=5)

    run_virtual(main)


def test_a_foreign_deployment_is_left_alone() -> None:
    async def main() -> None:
        cluster = make_cluster()
        foreign: Object = {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "qwen", "namespace": "default"},
            "spec": {
                "replicas": 5,
                "selector": {"matchLabels": {"app": "x"}},
                "template": {
                    "metadata": {"labels": {"app": "x"}},
                    "spec": {"containers": [{"name": "x", "image": "x"}]},
                },
            },
        }
        before = cluster.put(kinds.DEPLOYMENT, foreign)
        async with Operator(cluster) as operator:
            cluster.put(MODELS, make_model())
            await operator.until("Accepted", "False", Reason.CHILD_CONFLICT)
            assert 'Deployment "qwen" exists' in condition(cluster, KEY, "Accepted")["message"]
            await settle(cluster)
            assert cluster.peek(kinds.DEPLOYMENT, KEY) == before
            model = cluster.peek(MODELS, KEY)
            assert model is not None
            assert model["status"]["replicaSummary"] == "0/1", "the other Deployment's replicas are not ours"
            World(cluster)
            cluster.remove(kinds.DEPLOYMENT, KEY)
            await operator.until("Ready", "True", within=30)

    run_virtual(main)


def _forbidden(message: str) -> ApiError:
    return classify(403, {"kind": "Status", "reason": "Forbidden", "message": message, "details": {"name": "x"}})


DENIALS = [
    ("exceeded quota: gpus, requested: 1, used: 8, limited: 8", Reason.CHILD_REJECTED),
    ('User "system:serviceaccount:a:b" cannot patch resource "x" in API group ""', Reason.PERMISSION_DENIED),
]


@pytest.mark.parametrize("kind", [*kinds.CHILD_KINDS[:2], kinds.CONTROLLER_REVISION, kinds.HTTP_ROUTE], ids=str)
@pytest.mark.parametrize(("message", "reason"), DENIALS)
def test_a_403_to_a_write_says_who_stands_in_the_way(kind: kinds.Kind, message: str, reason: Reason) -> None:
    async def main() -> None:
        cluster = make_cluster()
        World(cluster)
        cluster.faults = lambda call: Fault(_forbidden(message)) if call.verb == "apply" and call.kind is kind else None
        async with Operator(cluster) as operator:
            cluster.put(MODELS, make_model())
            await operator.until("Accepted", "False", reason, within=1)
            assert message in condition(cluster, KEY, "Ready")["message"]
            assert operator.results.count("ok") == len(operator.results)
            before = len(operator.results)
            await asyncio.sleep(600)
            assert len(operator.results) - before < 100, "it is tried again slowly"
            cluster.faults = None
            await operator.until("Ready", "True", within=80)

    run_virtual(main)


def test_a_403_to_a_read_is_shown_at_once() -> None:
    async def main() -> None:
        cluster = make_cluster()
        World(cluster)
        message = 'User "x" cannot get resource "services"'
        cluster.faults = lambda call: Fault(_forbidden(message)) if call.kind is kinds.SERVICE else None
        async with Operator(cluster) as operator:
            cluster.put(MODELS, make_model())
            await operator.until("Accepted", "Unknown", Reason.PERMISSION_DENIED, within=1)
            assert message in condition(cluster, KEY, "Accepted")["message"]
            before = len(cluster.writes)
            await asyncio.sleep(600)
            assert cluster.writes[before:] == []
            cluster.faults = None
            await operator.until("Ready", "True", within=80)

    run_virtual(main)


def test_a_refused_deployment_leaves_what_serves() -> None:
    async def main() -> None:
        cluster = make_cluster()
        World(cluster)
        async with Operator(cluster) as operator:
            cluster.put(MODELS, make_model())
            await operator.until("Ready", "True")
            await settle(cluster)
            found = children(cluster)
            message = "spec.template.spec.containers[0].ports[0].containerPort: Invalid value: 99999"
            refused = classify(422, {"kind": "Status", "message": message, "details": {"name": "qwen"}})
            cluster.faults = lambda call: (
                Fault(refused) if call.verb in ("apply", "overwrite") and call.kind is kinds.DEPLOYMENT else None
            )
            port = {"name": "vllm", "ports": [{"containerPort": 99999}]}
            change_spec(cluster, podTemplate={"spec": {"containers": [port]}})
            await operator.until("Accepted", "False", Reason.INVALID_POD_TEMPLATE, within=1)
            assert message in condition(cluster, KEY, "Accepted")["message"]
            await settle(cluster)
            assert children(cluster) == found
            assert is_so(cluster, KEY, "Serving", "True")
            change_spec(cluster, podTemplate=None, engine={"maxModelLen": 1024})
            await operator.until("Accepted", "False", Reason.INVALID_SPEC, within=1)
            cluster.faults = None
            change_spec(cluster, engine={"maxModelLen": 1025})
            await operator.until("Ready", "True")

    run_virtual(main)


# -- what is there -----------------------------------------------------------------------------------------------------


def test_suspend_and_resume_and_the_number_of_replicas() -> None:
    async def main() -> None:
        cluster = make_cluster()
        World(cluster)

        def budget() -> bool:
            return cluster.peek(kinds.POD_DISRUPTION_BUDGET, KEY) is not None

        async with Operator(cluster) as operator:
            cluster.put(MODELS, make_model({"model": "a/b", "replicas": 3}))
            await operator.until("Ready", "True")
            assert budget()
            first = template(cluster)
            change_spec(cluster, suspend=True)
            await operator.until("Ready", "False", Reason.SUSPENDED)
            await eventually(lambda: not cluster.objects(kinds.POD), within=5)
            assert not budget()
            assert condition(cluster, KEY, "Reconciling") == {} == condition(cluster, KEY, "Stalled")
            change_spec(cluster, suspend=False)
            await operator.until("Ready", "True")
            assert budget()
            change_spec(cluster, replicas=1)
            await eventually(lambda: not budget(), within=5)
            change_spec(cluster, replicas=0)
            await operator.until("Ready", "False", Reason.SCALED_TO_ZERO)
            await settle(cluster)
            assert template(cluster) == first
            assert len(cluster.objects(kinds.CONTROLLER_REVISION)) == 1

    run_virtual(main)


def test_the_route_goes_when_it_is_disabled_and_waits_for_its_gateway() -> None:
    async def main() -> None:
        cluster = make_cluster()
        World(cluster)
        async with Operator(cluster) as operator:
            cluster.put(MODELS, make_model())
            await operator.until("Ready", "True")
            change_spec(cluster, route={"enabled": False})
            await operator.until("RouteReady", "True", Reason.ROUTE_DISABLED)
            assert cluster.peek(kinds.HTTP_ROUTE, KEY) is None
            change_spec(cluster, route={"parentRefs": [{"name": "second"}]})
            await operator.until("Ready", "False", Reason.GATEWAY_NOT_FOUND)
            second = gateway()
            second["metadata"]["name"] = "second"
            cluster.put(kinds.GATEWAY, second)
            await operator.until("Ready", "True", within=5)

    run_virtual(main)


def test_without_the_gateway_api_the_model_says_so_and_goes_on() -> None:
    async def main() -> None:
        cluster = make_cluster()
        World(cluster)
        cluster.uninstall(kinds.HTTP_ROUTE)
        cluster.uninstall(kinds.GATEWAY)
        async with Operator(cluster) as operator:
            cluster.put(MODELS, make_model())
            await operator.until("Serving", "True")
            await operator.until("Ready", "False", Reason.GATEWAY_API_NOT_INSTALLED)
            change_spec(cluster, route={"enabled": False})
            await operator.until("Ready", "True")
            assert set(operator.results) == {"ok"}

    run_virtual(main)


def test_without_a_gateway_the_service_is_the_address() -> None:
    async def main() -> None:
        cluster = make_cluster()
        World(cluster)
        async with Operator(cluster, settings=BuildSettings()) as operator:
            cluster.put(MODELS, make_model())
            await operator.until("RouteReady", "True", Reason.NO_GATEWAY)
            await operator.until("Ready", "True")
            model = cluster.peek(MODELS, KEY)
            assert model is not None
            assert model["status"]["url"] == "http://qwen.default.svc.cluster.local:8000"
            assert cluster.peek(kinds.HTTP_ROUTE, KEY) is None

    run_virtual(main)


def test_going_back_takes_the_old_revision_and_old_ones_are_pruned() -> None:
    async def main() -> None:
        cluster = make_cluster()
        World(cluster)
        async with Operator(cluster) as operator:
            spec = {"model": "a/b", "rollout": {"revisionHistoryLimit": 2}}
            cluster.put(MODELS, make_model(spec))
            await operator.until("Ready", "True")
            first = template(cluster)
            (revision,) = cluster.objects(kinds.CONTROLLER_REVISION)
            change_spec(cluster, engine={"maxModelLen": 1024})
            await operator.until("Ready", "True")
            assert template(cluster) != first
            change_spec(cluster, engine=None)
            await operator.until("Ready", "True")
            assert template(cluster) == first
            again = cluster.peek(kinds.CONTROLLER_REVISION, Key("default", revision["metadata"]["name"]))
            assert again is not None
            assert again["revision"] == 3
            assert again["metadata"]["uid"] == revision["metadata"]["uid"]
            for length in (1025, 1026, 1027):
                change_spec(cluster, engine={"maxModelLen": length})
                await operator.until("Ready", "True")
            await settle(cluster)
            numbers = sorted(obj["revision"] for obj in cluster.objects(kinds.CONTROLLER_REVISION))
            assert numbers == [4, 5, 6]

    run_virtual(main)


def test_without_a_spare_gpu_an_old_pod_goes_first_and_surge_comes_back() -> None:
    async def main() -> None:
        cluster = make_cluster()
        world = World(cluster, room=1)
        async with Operator(cluster) as operator:
            cluster.put(MODELS, make_model())
            await operator.until("Ready", "True")
            change_spec(cluster, engine={"maxModelLen": 1024})
            await operator.until("Ready", "False", Reason.UNSCHEDULABLE, within=5)
            # What it says lasts for milliseconds here; the event stays.
            took = await eventually(lambda: told(cluster, Reason.YIELDING), within=40)
            assert took >= 25, "an autoscaler has some time to bring a node"
            await operator.until("Ready", "True", within=60)
            await settle(cluster)
            deployment = cluster.peek(kinds.DEPLOYMENT, KEY)
            assert deployment is not None
            assert deployment["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
            # With room, nothing is taken down.
            world.room, world.fewest_ready = 2, None
            change_spec(cluster, engine={"maxModelLen": 2048})
            await operator.until("Ready", "True")
            assert world.fewest_ready == 1

    run_virtual(main)


def test_surge_never_yields_even_while_the_spec_is_refused() -> None:
    async def main() -> None:
        cluster = make_cluster()
        world = World(cluster, room=1)
        rollout = {"strategy": "Surge"}
        async with Operator(cluster) as operator:
            cluster.put(MODELS, make_model({"model": "a/b", "rollout": rollout}))
            await operator.until("Ready", "True")
            world.fewest_ready = None
            change_spec(cluster, engine={"maxModelLen": 1024})
            await operator.until("Ready", "False", Reason.UNSCHEDULABLE, within=5)
            change_spec(cluster, accelerator={"count": 3}, parallelism={"tensor": 2})
            await operator.until("Accepted", "False", Reason.INVALID_PARALLELISM)
            await asyncio.sleep(900)
            assert world.fewest_ready == 1

    run_virtual(main)


# -- failures ----------------------------------------------------------------------------------------------------------


def test_a_bug_with_one_model_is_shown_and_stops_no_other(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Reconciler._decide

    async def decide(self: Reconciler, loaded: Any) -> Any:
        if loaded.key == KEY:
            raise KeyError("a bug")
        return await real(self, loaded)

    monkeypatch.setattr(Reconciler, "_decide", decide)

    async def main() -> None:
        cluster = make_cluster()
        World(cluster)
        other = Key("default", "other")
        async with Operator(cluster, workers=1) as operator:
            cluster.put(MODELS, make_model())
            cluster.put(MODELS, make_model(key=other))
            await operator.until("Ready", "Unknown", Reason.INTERNAL_ERROR, within=1)
            await operator.until("Ready", "True", key=other)
            before = len(cluster.writes)
            await asyncio.sleep(1800)
            assert cluster.writes[before:] == []
            assert 25 < operator.results.count("bug") < 60, "it backs off to a minute"
            monkeypatch.undo()
            await operator.until("Ready", "True", within=70)

    run_virtual(main)
    assert "a bug" in caplog.text


def test_a_bug_while_showing_a_failure_ends_no_worker(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> None:
        raise KeyError("twice")

    monkeypatch.setattr(Reconciler, "_decide", broken)
    monkeypatch.setattr(Reconciler, "report_failure", broken)

    async def main() -> None:
        cluster = make_cluster()
        World(cluster)
        async with Operator(cluster, workers=1) as operator:
            cluster.put(MODELS, make_model())
            await asyncio.sleep(5)
            monkeypatch.undo()
            await operator.until("Ready", "True", within=70)

    run_virtual(main)


def test_an_outage_is_shown_when_it_lasts_and_does_not_hammer_the_server() -> None:
    async def main() -> None:
        cluster = make_cluster()
        World(cluster)
        numbers = iter(range(100000))

        def hook(call: Call) -> Fault | None:
            if call.kind is kinds.SERVICE:  # A message that is another each time.
                return Fault(classify(500, {"kind": "Status", "message": f"request {next(numbers)} failed"}))
            return None

        cluster.faults = hook
        async with Operator(cluster) as operator:
            cluster.put(MODELS, make_model())
            await asyncio.sleep(3)
            assert condition(cluster, KEY, "Accepted") == {}
            await operator.until("Accepted", "Unknown", Reason.API_ERROR, within=30)
            before, written = len(operator.results), len(cluster.writes)
            await asyncio.sleep(1800)
            assert len(operator.results) - before < 60
            assert cluster.writes[written:] == []
            cluster.faults = None
            await operator.until("Ready", "True", within=70)

    run_virtual(main)


def test_the_order_of_conditions_is_no_difference() -> None:
    """Server-side apply keeps the order that it finds, not the one that is applied."""

    async def main() -> None:
        cluster = make_cluster()
        World(cluster)
        async with Operator(cluster) as operator:
            cluster.put(MODELS, make_model())
            await operator.until("Ready", "True")
            await settle(cluster)
            written = len(cluster.writes)
            status = (cluster.peek(MODELS, KEY) or {})["status"]
            cluster.set_status(MODELS, KEY, {**status, "conditions": status["conditions"][::-1]})
            await asyncio.sleep(3600)
            assert cluster.writes[written:] == []

    run_virtual(main)


def test_a_pass_that_hangs_is_given_up() -> None:
    async def main() -> None:
        cluster = make_cluster()
        World(cluster)
        hung = False

        def hook(call: Call) -> Fault | None:
            nonlocal hung
            if call.kind is kinds.SERVICE and not hung:
                hung = True
                return Fault(delay=1e9)
            return None

        cluster.faults = hook
        async with Operator(cluster, workers=1) as operator:
            cluster.put(MODELS, make_model())
            await operator.until("Ready", "True", within=130)
            assert operator.results[0] == "timeout"

    run_virtual(main)


def test_an_api_server_that_keeps_another_value_is_not_written_to_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        cluster = make_cluster()
        World(cluster)
        real = cluster.apply

        async def apply(kind: kinds.Kind, obj: Object) -> Object:
            result = await real(kind, obj)
            if kind is not kinds.DEPLOYMENT:
                return result
            # As an admission webhook would.
            return cluster.edit(kind, KEY, lambda stored: stored["spec"].update(progressDeadlineSeconds=7))

        monkeypatch.setattr(cluster, "apply", apply)
        async with Operator(cluster) as operator:
            cluster.put(MODELS, make_model())
            await operator.until("Ready", "True")
            await settle(cluster)
            before = len(cluster.writes)
            await asyncio.sleep(3600)
            assert cluster.writes[before:] == []

    run_virtual(main)


# -- honesty -----------------------------------------------------------------------------------------------------------


def test_ready_follows_the_pods_and_the_probe() -> None:
    async def main() -> None:
        cluster = make_cluster()
        world = World(cluster)
        async with Operator(cluster) as operator:
            cluster.put(MODELS, make_model())
            await operator.until("Ready", "True")
            (pod,) = cluster.objects(kinds.POD)
            name, uid = Key("default", pod["metadata"]["name"]), pod["metadata"]["uid"]
            operator.prober.sick[uid] = ProbeResult(ProbeState.UNHEALTHY, "/health answers 500")
            operator.prober.ask_again(KEY)
            await operator.until("Ready", "False", Reason.HEALTH_CHECK_FAILED, within=1)
            operator.prober.sick.clear()
            operator.prober.ask_again(KEY)
            await operator.until("Ready", "True", within=1)
            world.set_ready(name, False)
            await operator.until("Ready", "False", within=1)
            world.set_ready(name, True)
            await operator.until("Ready", "True", within=1)
            world.broken = ("ImagePullBackOff", "no such image")
            change_spec(cluster, engine={"image": "nowhere/vllm:1"})
            await operator.until("Ready", "False", Reason.IMAGE_PULL_FAILED, within=10)
            assert is_so(cluster, KEY, "Serving", "True"), "the old pod answers"

    run_virtual(main)


def test_the_story_is_told_in_events() -> None:
    async def main() -> None:
        cluster = make_cluster()
        World(cluster)
        async with Operator(cluster) as operator:
            cluster.put(MODELS, make_model())
            await operator.until("Ready", "True")
            await settle(cluster)
            events = cluster.objects(kinds.EVENT)
            told = {(event["type"], event["reason"]) for event in events}
            assert ("Normal", "Accepted") in told
            assert ("Normal", "Ready") in told
            assert all(event["type"] == "Normal" for event in events)
            assert all(event["regarding"]["name"] == "qwen" for event in events)
            assert len(events) <= 5

    run_virtual(main)


def test_every_write_was_worth_it() -> None:
    """From nothing to Ready: each child once, and no more status than there were changes."""

    async def main() -> None:
        cluster = make_cluster()
        World(cluster)
        async with Operator(cluster) as operator:
            cluster.put(MODELS, make_model())
            await operator.until("Ready", "True")
            await settle(cluster)
        writes = ours(cluster.writes)
        assert all(write.changed for write in writes), "an apply that changes nothing"
        by_kind = [write.kind.kind for write in writes if write.kind is not MODELS]
        assert sorted(by_kind) == ["ControllerRevision", "Deployment", "HTTPRoute", "Service"]
        assert len(writes) <= 10

    run_virtual(main)
