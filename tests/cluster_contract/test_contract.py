"""What the operator relies on, of the in-memory cluster and of a real API server alike."""

import copy

import pytest

from vllm_operator.api.names import Key
from vllm_operator.cluster import kinds, kubernetes
from vllm_operator.cluster.base import Object
from vllm_operator.cluster.errors import ApiError, Category
from vllm_operator.cluster.kinds import Kind

from .objects import condition, deployment, first_container, model, obj, owner, service, status
from .worlds import World, eventually

UNKNOWN = Kind("made-up.example.com/v1", "Thing", "things")
UNKNOWN_IN_KNOWN_GROUP = Kind("apps/v1", "Thing", "things")
KEY_NAME = "qwen3"


def version(found: dict) -> str:
    return str(found["metadata"]["resourceVersion"])


# -- get and list ------------------------------------------------------------------------------------------------------


async def test_a_missing_object_is_none(world: World) -> None:
    assert await world.cluster.get(kinds.SERVICE, Key(world.namespace, "none")) is None
    assert await world.cluster.get(kinds.SERVICE, Key("no-such-namespace", "none")) is None


async def test_get_returns_what_was_applied(world: World) -> None:
    applied = await world.cluster.apply(kinds.SERVICE, service(world.namespace))
    found = await world.cluster.get(kinds.SERVICE, Key(world.namespace, KEY_NAME))
    assert found is not None
    assert found["apiVersion"] == "v1"
    assert found["kind"] == "Service"
    assert found["spec"] == applied["spec"]
    assert found["metadata"]["uid"] == applied["metadata"]["uid"]


async def test_the_log_of_a_pod_that_is_not_there(world: World) -> None:
    with pytest.raises(ApiError) as caught:
        await world.cluster.read_log(Key(world.namespace, "none"), "vllm", most=10)
    assert caught.value.category is Category.NOT_FOUND


async def test_list_by_labels_in_a_namespace(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubernetes, "LIST_LIMIT", 3)
    for number in range(10):
        labels = {"parity": "even" if number % 2 == 0 else "odd", "all": "yes"}
        await world.cluster.apply(
            kinds.CONTROLLER_REVISION,
            obj(kinds.CONTROLLER_REVISION, world.namespace, f"r{number}", labels=labels, data={}, revision=number),
        )
    everything = await world.cluster.list(kinds.CONTROLLER_REVISION, namespace=world.namespace)
    assert [one["metadata"]["name"] for one in everything] == [f"r{number}" for number in range(10)]
    assert {(one["apiVersion"], one["kind"]) for one in everything} == {("apps/v1", "ControllerRevision")}
    odd = await world.cluster.list(
        kinds.CONTROLLER_REVISION, namespace=world.namespace, labels={"parity": "odd", "all": "yes"}
    )
    assert [one["revision"] for one in odd] == [1, 3, 5, 7, 9]
    assert await world.cluster.list(kinds.CONTROLLER_REVISION, namespace=world.namespace, labels={"parity": "x"}) == []
    assert await world.cluster.list(kinds.CONTROLLER_REVISION, namespace="no-such-namespace") == []


async def test_list_in_all_namespaces(world: World) -> None:
    mark = {"contract": world.namespace}
    await world.cluster.apply(
        kinds.CONTROLLER_REVISION,
        obj(kinds.CONTROLLER_REVISION, world.namespace, "here", labels=mark, data={}, revision=1),
    )
    found = await world.cluster.list(kinds.CONTROLLER_REVISION, labels=mark)
    assert [one["metadata"]["namespace"] for one in found] == [world.namespace]


# -- apply -------------------------------------------------------------------------------------------------------------


async def test_apply_makes_updates_and_leaves_alone(world: World) -> None:
    first = await world.cluster.apply(kinds.SERVICE, service(world.namespace))
    assert first["metadata"]["uid"]
    assert first["metadata"]["creationTimestamp"].endswith("Z")
    again = await world.cluster.apply(kinds.SERVICE, service(world.namespace))
    assert version(again) == version(first)
    changed = await world.cluster.apply(kinds.SERVICE, service(world.namespace, publishNotReadyAddresses=True))
    assert version(changed) != version(first)
    assert changed["metadata"]["uid"] == first["metadata"]["uid"]
    assert changed["spec"]["clusterIP"] == first["spec"]["clusterIP"]
    back = await world.cluster.apply(kinds.SERVICE, service(world.namespace))
    assert "publishNotReadyAddresses" not in back["spec"]


async def test_apply_removes_what_it_no_longer_names(world: World) -> None:
    wanted = deployment(
        world.namespace,
        container={
            "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
            "args": ["--a", "--b"],
            "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}],
            "resources": {"limits": {"cpu": "1", "memory": "2Gi"}},
        },
    )
    wanted["metadata"]["labels"] = {"one": "1", "two": "2"}
    wanted["metadata"]["annotations"] = {"one": "1"}
    wanted["spec"]["template"]["spec"]["volumes"] = [{"name": "shm", "emptyDir": {"medium": "Memory"}}]
    await world.cluster.apply(kinds.DEPLOYMENT, wanted)

    less = deployment(
        world.namespace, container={"env": [{"name": "B", "value": "2"}], "resources": {"limits": {"cpu": "1"}}}
    )
    less["metadata"]["labels"] = {"two": "2"}
    result = await world.cluster.apply(kinds.DEPLOYMENT, less)
    container = first_container(result)
    assert container["env"] == [{"name": "B", "value": "2"}]
    assert container["resources"] == {"limits": {"cpu": "1"}}
    assert "args" not in container
    assert "volumeMounts" not in container
    assert "volumes" not in result["spec"]["template"]["spec"]
    assert result["metadata"]["labels"] == {"two": "2"}
    assert "one" not in result["metadata"].get("annotations", {})


async def test_a_changed_key_of_a_list_replaces_the_element(world: World) -> None:
    await world.cluster.apply(kinds.SERVICE, service(world.namespace))
    moved = service(world.namespace, ports=[{"name": "http", "port": 9000, "targetPort": "http"}])
    result = await world.cluster.apply(kinds.SERVICE, moved)
    assert result["spec"]["ports"] == [{"name": "http", "port": 9000, "targetPort": "http", "protocol": "TCP"}]


async def test_a_hand_edit_of_our_field_is_put_back(world: World) -> None:
    wanted = deployment(world.namespace, container={"env": [{"name": "A", "value": "ours"}]})
    await world.cluster.apply(kinds.DEPLOYMENT, wanted)
    key = Key(world.namespace, KEY_NAME)

    def by_hand(live: dict) -> None:
        first_container(live)["env"][0]["value"] = "theirs"
        first_container(live)["image"] = "theirs"

    edited = await world.edit(kinds.DEPLOYMENT, key, by_hand)
    assert first_container(edited)["image"] == "theirs"
    result = await world.cluster.apply(kinds.DEPLOYMENT, wanted)
    assert first_container(result)["env"] == [{"name": "A", "value": "ours"}]
    assert first_container(result)["image"] == first_container(wanted)["image"]


async def test_what_was_deleted_by_hand_is_put_back(world: World) -> None:
    wanted = deployment(world.namespace, container={"env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]})
    await world.cluster.apply(kinds.DEPLOYMENT, wanted)
    await world.edit(kinds.DEPLOYMENT, Key(world.namespace, KEY_NAME), lambda live: first_container(live)["env"].pop(0))
    result = await world.cluster.apply(kinds.DEPLOYMENT, wanted)
    assert sorted(env["name"] for env in first_container(result)["env"]) == ["A", "B"]


async def test_what_another_manager_adds_is_kept(world: World) -> None:
    wanted = deployment(world.namespace, container={"env": [{"name": "A", "value": "1"}]})
    await world.cluster.apply(kinds.DEPLOYMENT, wanted)

    def by_hand(live: dict) -> None:
        first_container(live)["env"].append({"name": "THEIRS", "value": "x"})
        live["spec"]["template"]["metadata"]["annotations"] = {"kubectl.kubernetes.io/restartedAt": "now"}
        live["spec"]["template"]["spec"]["containers"].append({"name": "sidecar", "image": "sidecar:1"})

    await world.edit(kinds.DEPLOYMENT, Key(world.namespace, KEY_NAME), by_hand)
    first_container(wanted)["env"] = [{"name": "A", "value": "2"}, {"name": "C", "value": "3"}]
    result = await world.cluster.apply(kinds.DEPLOYMENT, wanted)
    assert {env["name"]: env["value"] for env in first_container(result)["env"]} == {"A": "2", "C": "3", "THEIRS": "x"}
    assert [one["name"] for one in result["spec"]["template"]["spec"]["containers"]] == ["vllm", "sidecar"]
    assert result["spec"]["template"]["metadata"]["annotations"] == {"kubectl.kubernetes.io/restartedAt": "now"}


async def test_overwrite_takes_back_a_list_whose_key_was_edited(world: World) -> None:
    wanted = service(world.namespace)
    made = await world.cluster.apply(kinds.SERVICE, wanted)
    key = Key(world.namespace, KEY_NAME)
    await world.edit(kinds.SERVICE, key, lambda live: live["spec"]["ports"][0].update(port=9999))
    result = await world.cluster.overwrite(kinds.SERVICE, wanted)
    assert [port["port"] for port in result["spec"]["ports"]] == [8000]
    assert result["spec"].get("clusterIP") == made["spec"].get("clusterIP")
    assert await world.cluster.get(kinds.SERVICE, key) is not None
    unchanged = await world.cluster.apply(kinds.SERVICE, wanted)
    assert version(unchanged) == version(result)


async def test_overwrite_takes_away_what_others_added_and_what_we_drop_later_goes(world: World) -> None:
    wanted = deployment(world.namespace, container={"env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]})
    await world.cluster.apply(kinds.DEPLOYMENT, wanted)

    def by_hand(live: dict) -> None:
        first_container(live)["env"] = [{"name": "A", "value": "theirs"}, {"name": "THEIRS", "value": "x"}]

    await world.edit(kinds.DEPLOYMENT, Key(world.namespace, KEY_NAME), by_hand)
    result = await world.cluster.overwrite(kinds.DEPLOYMENT, wanted)
    assert first_container(result)["env"] == [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]
    first_container(wanted)["env"] = [{"name": "B", "value": "2"}]
    result = await world.cluster.apply(kinds.DEPLOYMENT, wanted)
    assert first_container(result)["env"] == [{"name": "B", "value": "2"}]


async def test_overwrite_what_is_not_there(world: World) -> None:
    with pytest.raises(ApiError) as caught:
        await world.cluster.overwrite(kinds.SERVICE, service(world.namespace))
    assert caught.value.category is Category.NOT_FOUND


async def test_a_field_edited_by_hand_and_dropped_by_us_stays_with_its_editor(world: World) -> None:
    await world.cluster.apply(kinds.VLLM_MODEL, model(world.namespace, labels={"a": "ours", "b": "ours"}))
    key = Key(world.namespace, KEY_NAME)
    await world.edit(kinds.VLLM_MODEL, key, lambda live: live["metadata"]["labels"].update(a="theirs"))
    result = await world.cluster.apply(kinds.VLLM_MODEL, model(world.namespace))
    assert result["metadata"]["labels"] == {"a": "theirs"}


async def test_a_field_that_both_apply_stays_until_both_drop_it(world: World) -> None:
    await world.cluster.apply(kinds.VLLM_MODEL, model(world.namespace, labels={"shared": "x"}))
    await world.apply_as(kinds.VLLM_MODEL, model(world.namespace, labels={"shared": "x", "theirs": "y"}), "argo")
    kept = await world.cluster.apply(kinds.VLLM_MODEL, model(world.namespace))
    assert kept["metadata"]["labels"] == {"shared": "x", "theirs": "y"}
    gone = await world.apply_as(kinds.VLLM_MODEL, model(world.namespace), "argo")
    assert "labels" not in gone["metadata"]


async def test_apply_takes_fields_by_force(world: World) -> None:
    await world.apply_as(kinds.SERVICE, service(world.namespace, sessionAffinity="ClientIP"), "argo")
    result = await world.cluster.apply(kinds.SERVICE, service(world.namespace, sessionAffinity="None"))
    assert result["spec"]["sessionAffinity"] == "None"
    with pytest.raises(ApiError) as caught:
        await world.apply_as(kinds.SERVICE, service(world.namespace, sessionAffinity="ClientIP"), "argo", force=False)
    assert caught.value.category is Category.CONFLICT


async def test_an_object_made_by_create_keeps_its_fields_when_apply_drops_them(world: World) -> None:
    """create and apply are two managers of one name: what is created should not be applied later, or the reverse."""
    lease = obj(kinds.LEASE, world.namespace, "lease", labels={"a": "b"}, spec={"holderIdentity": "one"})
    await world.cluster.create(kinds.LEASE, lease)
    result = await world.cluster.apply(kinds.LEASE, obj(kinds.LEASE, world.namespace, "lease", spec={}))
    assert result["metadata"]["labels"] == {"a": "b"}
    assert result["spec"]["holderIdentity"] == "one"


async def test_apply_with_the_uid_of_another_object_is_refused(world: World) -> None:
    wanted = service(world.namespace)
    wanted["metadata"]["uid"] = "11111111-2222-4333-8444-555555555555"
    with pytest.raises(ApiError) as caught:
        await world.cluster.apply(kinds.SERVICE, wanted)
    assert caught.value.category is Category.CONFLICT
    await world.cluster.apply(kinds.SERVICE, service(world.namespace))
    with pytest.raises(ApiError) as caught:
        await world.cluster.apply(kinds.SERVICE, wanted)
    assert (caught.value.category, caught.value.field) == (Category.INVALID, "metadata.uid")


async def test_apply_with_an_old_resource_version_is_a_conflict(world: World) -> None:
    made = await world.cluster.apply(kinds.SERVICE, service(world.namespace))
    await world.cluster.apply(kinds.SERVICE, service(world.namespace, publishNotReadyAddresses=True))
    wanted = service(world.namespace)
    wanted["metadata"]["resourceVersion"] = version(made)
    with pytest.raises(ApiError) as caught:
        await world.cluster.apply(kinds.SERVICE, wanted)
    assert (caught.value.category, caught.value.reason) == (Category.CONFLICT, "Conflict")


# -- status and generation ---------------------------------------------------------------------------------------------


async def test_status_and_spec_are_written_apart(world: World) -> None:
    made = await world.cluster.apply(kinds.VLLM_MODEL, {**model(world.namespace), "status": {"revision": "ignored"}})
    assert "status" not in made
    wanted = status(world.namespace, observedGeneration=1, revision="r1", conditions=[condition()])
    result = await world.cluster.apply_status(kinds.VLLM_MODEL, {**wanted, "spec": {"model": "not/looked-at"}})
    assert result["status"] == wanted["status"]
    assert result["spec"]["model"] == "Qwen/Qwen3-8B"
    assert result["metadata"]["generation"] == made["metadata"]["generation"] == 1
    assert version(result) != version(made)
    again = await world.cluster.apply_status(kinds.VLLM_MODEL, wanted)
    assert version(again) == version(result)
    kept = await world.cluster.apply(kinds.VLLM_MODEL, model(world.namespace, replicas=2))
    assert kept["status"] == wanted["status"]


async def test_status_fields_and_conditions_that_are_dropped_go(world: World) -> None:
    await world.cluster.apply(kinds.VLLM_MODEL, model(world.namespace))
    full: dict = {
        "revision": "r1",
        "conditions": [condition("Ready"), condition("Stalled")],
        "engine": {"version": "0.11.0"},
    }
    await world.cluster.apply_status(kinds.VLLM_MODEL, status(world.namespace, **full))
    result = await world.cluster.apply_status(
        kinds.VLLM_MODEL, status(world.namespace, conditions=[condition("Ready", "False")])
    )
    assert result["status"] == {"conditions": [condition("Ready", "False")]}
    result = await world.cluster.apply_status(kinds.VLLM_MODEL, status(world.namespace, conditions=[], revision="r2"))
    assert result["status"] == {"revision": "r2"}


async def test_a_status_emptied_by_an_explicit_empty_map_is_refused(world: World) -> None:
    """The API server leaves null where a map lost all its fields: a map is left out, never applied empty."""
    await world.cluster.apply(kinds.VLLM_MODEL, model(world.namespace))
    await world.cluster.apply_status(kinds.VLLM_MODEL, status(world.namespace, revision="r1"))
    with pytest.raises(ApiError) as caught:
        await world.cluster.apply_status(kinds.VLLM_MODEL, status(world.namespace))
    assert caught.value.category is Category.INVALID
    assert caught.value.field == "status"
    left_out = status(world.namespace)
    del left_out["status"]
    assert "status" not in await world.cluster.apply_status(kinds.VLLM_MODEL, left_out)


async def test_status_of_what_is_not_there(world: World) -> None:
    with pytest.raises(ApiError) as caught:
        await world.cluster.apply_status(kinds.VLLM_MODEL, status(world.namespace, revision="r1"))
    assert caught.value.category is Category.NOT_FOUND


async def test_a_controllers_status_is_no_change_of_spec(world: World) -> None:
    made = await world.cluster.apply(
        kinds.HTTP_ROUTE, obj(kinds.HTTP_ROUTE, world.namespace, "route", spec={"parentRefs": [{"name": "main"}]})
    )
    parents = [
        {
            "parentRef": {"name": "main", "group": "gateway.networking.k8s.io", "kind": "Gateway"},
            "controllerName": "example.com/gateway",
            "conditions": [condition("Accepted")],
        }
    ]
    changed = await world.set_status(kinds.HTTP_ROUTE, Key(world.namespace, "route"), {"parents": parents})
    assert changed["status"] == {"parents": parents}
    assert changed["metadata"]["generation"] == made["metadata"]["generation"]
    again = await world.cluster.apply(
        kinds.HTTP_ROUTE, obj(kinds.HTTP_ROUTE, world.namespace, "route", spec={"parentRefs": [{"name": "main"}]})
    )
    assert version(again) == version(changed)


async def test_generation_counts_changes_of_the_spec(world: World) -> None:
    async def generation(**spec: object) -> int:
        result = await world.cluster.apply(kinds.VLLM_MODEL, model(world.namespace, **spec))  # type: ignore[arg-type]
        return int(result["metadata"]["generation"])

    assert await generation() == 1
    assert await generation(labels={"a": "b"}) == 1
    assert await generation(replicas=3) == 2
    assert await generation(replicas=3) == 2
    key = Key(world.namespace, KEY_NAME)
    annotated = await world.edit(kinds.VLLM_MODEL, key, lambda live: live["metadata"].update(annotations={"a": "b"}))
    assert annotated["metadata"]["generation"] == 2


async def test_which_kinds_count_generations(world: World) -> None:
    budget = obj(
        kinds.POD_DISRUPTION_BUDGET,
        world.namespace,
        "budget",
        spec={"maxUnavailable": 1, "selector": {"matchLabels": {"a": "b"}}},
    )
    assert (await world.cluster.apply(kinds.POD_DISRUPTION_BUDGET, budget))["metadata"]["generation"] == 1
    policy = obj(kinds.NETWORK_POLICY, world.namespace, "policy", spec={"podSelector": {}})
    assert (await world.cluster.apply(kinds.NETWORK_POLICY, policy))["metadata"]["generation"] == 1
    assert (await world.cluster.apply(kinds.DEPLOYMENT, deployment(world.namespace)))["metadata"]["generation"] == 1
    assert "generation" not in (await world.cluster.apply(kinds.SERVICE, service(world.namespace)))["metadata"]
    lease = obj(kinds.LEASE, world.namespace, "lease", spec={"holderIdentity": "one"})
    assert "generation" not in (await world.cluster.create(kinds.LEASE, lease))["metadata"]


async def test_annotations_count_as_a_change_of_a_deployment(world: World) -> None:
    await world.cluster.apply(kinds.DEPLOYMENT, deployment(world.namespace))
    before = await world.cluster.apply(kinds.DEPLOYMENT, deployment(world.namespace, minReadySeconds=1))
    # The deployment controller's own annotation counts too, so only the direction is certain.
    annotated = deployment(world.namespace, minReadySeconds=1)
    annotated["metadata"]["annotations"] = {"example.com/a": "b"}
    after = await world.cluster.apply(kinds.DEPLOYMENT, annotated)
    assert after["metadata"]["generation"] > before["metadata"]["generation"]


# -- create, replace, delete -------------------------------------------------------------------------------------------


async def test_a_lease_is_made_once_and_written_by_who_read_it_last(world: World) -> None:
    spec = {"holderIdentity": "one", "leaseDurationSeconds": 15, "renewTime": "2026-01-01T00:00:00.000000Z"}
    made = await world.cluster.create(kinds.LEASE, obj(kinds.LEASE, world.namespace, "lease", spec=spec))
    assert made["spec"] == spec
    with pytest.raises(ApiError) as caught:
        await world.cluster.create(kinds.LEASE, obj(kinds.LEASE, world.namespace, "lease", spec=spec))
    assert caught.value.category is Category.CONFLICT
    assert caught.value.reason == "AlreadyExists"
    taken = await world.cluster.replace(kinds.LEASE, {**made, "spec": {**spec, "holderIdentity": "two"}})
    assert taken["spec"]["holderIdentity"] == "two"
    assert version(taken) != version(made)
    with pytest.raises(ApiError) as caught:
        await world.cluster.replace(kinds.LEASE, {**made, "spec": {**spec, "holderIdentity": "three"}})
    assert caught.value.category is Category.CONFLICT
    assert caught.value.reason == "Conflict"


async def test_a_released_lease_has_an_empty_holder(world: World) -> None:
    made = await world.cluster.create(
        kinds.LEASE, obj(kinds.LEASE, world.namespace, "lease", spec={"holderIdentity": "one"})
    )
    released = await world.cluster.replace(kinds.LEASE, {**made, "spec": {"holderIdentity": ""}})
    assert released["spec"] == {"holderIdentity": ""}


async def test_a_lease_needs_a_resource_version_to_be_replaced(world: World) -> None:
    lease = obj(kinds.LEASE, world.namespace, "lease", spec={"holderIdentity": "one"})
    await world.cluster.create(kinds.LEASE, lease)
    with pytest.raises(ApiError) as caught:
        await world.cluster.replace(kinds.LEASE, lease)
    assert caught.value.category is Category.INVALID
    assert caught.value.field == "metadata.resourceVersion"


async def test_replacing_a_lease_that_is_gone_makes_it_again(world: World) -> None:
    """So a holder that lost its Lease must not take a successful replace for proof that it held on."""
    lease = obj(kinds.LEASE, world.namespace, "lease", spec={"holderIdentity": "one"})
    lease["metadata"]["resourceVersion"] = "1"
    result = await world.cluster.replace(kinds.LEASE, lease)
    assert result["spec"]["holderIdentity"] == "one"


async def test_replacing_what_is_gone(world: World) -> None:
    with pytest.raises(ApiError) as caught:
        await world.cluster.replace(kinds.DEPLOYMENT, deployment(world.namespace))
    assert caught.value.category is Category.NOT_FOUND


async def test_a_controller_revisions_data_never_changes(world: World) -> None:
    def revision(data: dict, number: int = 1) -> dict:
        return obj(kinds.CONTROLLER_REVISION, world.namespace, "revision", data=data, revision=number)

    made = await world.cluster.apply(kinds.CONTROLLER_REVISION, revision({"plan": {"b": 1, "a": "<é>"}}))
    again = await world.cluster.apply(kinds.CONTROLLER_REVISION, revision({"plan": {"a": "<é>", "b": 1}}))
    assert version(again) == version(made)
    newer = await world.cluster.apply(kinds.CONTROLLER_REVISION, revision({"plan": {"a": "<é>", "b": 1}}, 2))
    assert newer["revision"] == 2
    with pytest.raises(ApiError) as caught:
        await world.cluster.apply(kinds.CONTROLLER_REVISION, revision({"plan": {"a": 2}}))
    assert caught.value.category is Category.INVALID
    assert caught.value.field == "data"


async def test_a_controller_revision_is_written_in_one_way_only(world: World) -> None:
    """Its data is compared byte by byte, and apply and JSON bodies differ in bytes."""

    def revision(name: str, number: int) -> dict:
        return obj(kinds.CONTROLLER_REVISION, world.namespace, name, data={"plan": {"a": 1}}, revision=number)

    made = await world.cluster.apply(kinds.CONTROLLER_REVISION, revision("applied", 1))
    with pytest.raises(ApiError) as caught:
        await world.cluster.replace(kinds.CONTROLLER_REVISION, {**made, "revision": 2})
    assert caught.value.field == "data"
    await world.cluster.create(kinds.CONTROLLER_REVISION, revision("created", 1))
    with pytest.raises(ApiError) as caught:
        await world.cluster.apply(kinds.CONTROLLER_REVISION, revision("created", 2))
    assert caught.value.field == "data"


async def test_an_event_is_made(world: World) -> None:
    regarding = {"apiVersion": "v1", "kind": "Service", "name": "s", "namespace": world.namespace}
    event = obj(
        kinds.EVENT, world.namespace, "event", eventTime="2026-01-01T00:00:00.123456Z", type="Normal", reason="Tested",
        action="Test", note="all is well", reportingController="vllm-operator.io", reportingInstance="one",
        regarding=regarding,
    )  # fmt: skip
    result = await world.cluster.create(kinds.EVENT, event)
    assert result["note"] == "all is well"
    assert result["eventTime"] == "2026-01-01T00:00:00.123456Z"
    bad = {**event, "metadata": {"name": "bad", "namespace": world.namespace}, "type": "Odd"}
    with pytest.raises(ApiError) as caught:
        await world.cluster.create(kinds.EVENT, bad)
    assert caught.value.category is Category.INVALID
    assert caught.value.field == "type"


async def test_delete(world: World) -> None:
    key = Key(world.namespace, KEY_NAME)
    assert await world.cluster.delete(kinds.SERVICE, key) is False
    made = await world.cluster.apply(kinds.SERVICE, service(world.namespace))
    with pytest.raises(ApiError) as caught:
        await world.cluster.delete(kinds.SERVICE, key, uid="11111111-2222-4333-8444-555555555555")
    assert caught.value.category is Category.CONFLICT
    assert await world.cluster.delete(kinds.SERVICE, key, uid=made["metadata"]["uid"]) is True
    assert await world.cluster.get(kinds.SERVICE, key) is None
    assert await world.cluster.delete(kinds.SERVICE, key, uid=made["metadata"]["uid"]) is False
    assert await world.cluster.delete(kinds.SERVICE, Key("no-such-namespace", "x")) is False


async def test_finalizers_hold_an_object(world: World) -> None:
    held = model(world.namespace)
    held["metadata"]["finalizers"] = ["vllm-operator.io/contract-test"]
    made = await world.cluster.apply(kinds.VLLM_MODEL, held)
    key = Key(world.namespace, KEY_NAME)
    assert await world.cluster.delete(kinds.VLLM_MODEL, key) is True
    found = await world.cluster.get(kinds.VLLM_MODEL, key)
    assert found is not None
    assert found["metadata"]["deletionTimestamp"]
    assert found["metadata"]["generation"] == made["metadata"]["generation"] + 1
    assert await world.cluster.delete(kinds.VLLM_MODEL, key) is True
    await world.edit(kinds.VLLM_MODEL, key, lambda live: live["metadata"].pop("finalizers"))
    assert await world.cluster.get(kinds.VLLM_MODEL, key) is None


async def test_what_an_object_owns_goes_with_it(world: World) -> None:
    first = await world.cluster.apply(kinds.VLLM_MODEL, model(world.namespace, "first"))
    second = await world.cluster.apply(kinds.VLLM_MODEL, model(world.namespace, "second"))
    one = service(world.namespace, "one")
    one["metadata"]["ownerReferences"] = [owner(first)]
    both = service(world.namespace, "both")
    both["metadata"]["ownerReferences"] = [owner(first), owner(second)]
    await world.cluster.apply(kinds.SERVICE, one)
    await world.cluster.apply(kinds.SERVICE, both)
    await world.cluster.delete(kinds.VLLM_MODEL, Key(world.namespace, "first"))

    async def gone() -> bool:
        return await world.cluster.get(kinds.SERVICE, Key(world.namespace, "one")) is None

    async def released() -> bool:
        found = await world.cluster.get(kinds.SERVICE, Key(world.namespace, "both"))
        assert found is not None, "an owner is left"
        return bool(found["metadata"].get("ownerReferences") == [owner(second)])

    await eventually("the owned Service to be deleted", gone)
    await eventually("the lost owner to be forgotten", released)


async def test_what_is_made_for_an_owner_that_is_gone_goes_too(world: World) -> None:
    made = await world.cluster.apply(kinds.VLLM_MODEL, model(world.namespace))
    await world.cluster.delete(kinds.VLLM_MODEL, Key(world.namespace, KEY_NAME))
    late = service(world.namespace, "late")
    late["metadata"]["ownerReferences"] = [owner(made)]
    await world.cluster.apply(kinds.SERVICE, late)

    async def gone() -> bool:
        return await world.cluster.get(kinds.SERVICE, Key(world.namespace, "late")) is None

    await eventually("the late Service to be deleted", gone)


# -- what is refused ---------------------------------------------------------------------------------------------------


async def test_a_namespace_that_is_not_there(world: World) -> None:
    for attempt in (
        world.cluster.apply(kinds.SERVICE, service("no-such-namespace")),
        world.cluster.create(kinds.SERVICE, service("no-such-namespace")),
        world.cluster.apply(kinds.VLLM_MODEL, model("no-such-namespace")),
    ):
        with pytest.raises(ApiError) as caught:
            await attempt
        assert caught.value.category is Category.TERMINATING
        assert "no-such-namespace" in caught.value.message


async def test_a_namespace_that_is_going(world: World) -> None:
    going = await world.terminating_namespace()
    for attempt in (
        world.cluster.apply(kinds.SERVICE, service(going)),
        world.cluster.create(kinds.LEASE, obj(kinds.LEASE, going, "lease", spec={})),
        world.cluster.apply(kinds.VLLM_MODEL, model(going)),
    ):
        with pytest.raises(ApiError) as caught:
            await attempt
        assert caught.value.category is Category.TERMINATING
        assert caught.value.status == 403
        assert "being terminated" in caught.value.message
    assert await world.cluster.get(kinds.SERVICE, Key(going, KEY_NAME)) is None


@pytest.mark.parametrize("kind", [UNKNOWN, UNKNOWN_IN_KNOWN_GROUP], ids=["group", "kind"])
async def test_a_kind_that_is_not_installed(world: World, kind: Kind) -> None:
    thing = obj(kind, world.namespace, "thing")
    key = Key(world.namespace, "thing")
    for attempt in (
        world.cluster.get(kind, key),
        world.cluster.list(kind),
        world.cluster.list(kind, namespace=world.namespace),
        world.cluster.apply(kind, thing),
        world.cluster.apply_status(kind, thing),
        world.cluster.create(kind, thing),
        world.cluster.replace(kind, thing),
        world.cluster.delete(kind, key),
    ):
        with pytest.raises(ApiError) as caught:
            await attempt
        assert caught.value.category is Category.NOT_INSTALLED


async def test_invalid_objects_name_the_field(world: World) -> None:
    other_selector = deployment(world.namespace)
    other_selector["spec"]["selector"] = {"matchLabels": {"another": "label"}}
    no_containers = deployment(world.namespace)
    no_containers["spec"]["template"]["spec"]["containers"] = []
    bad_label = service(world.namespace)
    bad_label["metadata"]["labels"] = {"a": "not a label"}
    no_mount = deployment(world.namespace, container={"volumeMounts": [{"name": "none", "mountPath": "/x"}]})
    no_model = model(world.namespace)
    del no_model["spec"]["model"]

    def policy(peer: Object) -> Object:
        spec = {"podSelector": {}, "ingress": [{"from": [peer]}]}
        return obj(kinds.NETWORK_POLICY, world.namespace, "policy", spec=spec)

    cases = [
        (kinds.DEPLOYMENT, other_selector, "spec.template.metadata.labels"),
        (kinds.DEPLOYMENT, no_containers, "spec.template.spec.containers"),
        (kinds.DEPLOYMENT, no_mount, "spec.template.spec.containers[0].volumeMounts[0].name"),
        (kinds.DEPLOYMENT, deployment(world.namespace, "Not_A_Name"), "metadata.name"),
        (kinds.DEPLOYMENT, deployment(world.namespace, replicas=-1), "spec.replicas"),
        (kinds.SERVICE, bad_label, "metadata.labels"),
        (kinds.SERVICE, service(world.namespace, ports=[{"port": 70000}]), "spec.ports[0].port"),
        (kinds.NETWORK_POLICY, policy({}), "spec.ingress[0].from[0]"),
        (
            kinds.NETWORK_POLICY,
            policy({"podSelector": {}, "ipBlock": {"cidr": "10.0.0.0/8"}}),
            "spec.ingress[0].from[0]",
        ),
        (kinds.VLLM_MODEL, no_model, "spec.model"),
        (kinds.VLLM_MODEL, model(world.namespace, replicas=-1), "spec.replicas"),
    ]
    for kind, bad, field in cases:
        with pytest.raises(ApiError) as caught:
            await world.cluster.apply(kind, bad)
        error = caught.value
        assert (error.category, error.status, error.field) == (Category.INVALID, 422, field), error.message
        assert field in error.message
        assert await world.cluster.get(kind, Key(world.namespace, bad["metadata"]["name"])) is None


async def test_what_cannot_change(world: World) -> None:
    await world.cluster.apply(kinds.DEPLOYMENT, deployment(world.namespace))
    other = deployment(world.namespace)
    other["spec"]["selector"] = {"matchLabels": {"another": "label"}}
    other["spec"]["template"]["metadata"]["labels"] = {"another": "label"}
    with pytest.raises(ApiError) as caught:
        await world.cluster.apply(kinds.DEPLOYMENT, other)
    assert (caught.value.category, caught.value.field) == (Category.INVALID, "spec.selector")
    await world.cluster.apply(kinds.SERVICE, service(world.namespace))
    with pytest.raises(ApiError) as caught:
        await world.cluster.apply(kinds.SERVICE, service(world.namespace, clusterIP="None"))
    assert (caught.value.category, caught.value.field) == (Category.INVALID, "spec.clusterIPs[0]")


async def test_a_default_strategy_blocks_recreate(world: World) -> None:
    """rollingUpdate that the API server filled in is nobody's, so apply does not remove it: always name it."""
    await world.cluster.apply(kinds.DEPLOYMENT, deployment(world.namespace, "defaulted"))
    with pytest.raises(ApiError) as caught:
        await world.cluster.apply(
            kinds.DEPLOYMENT, deployment(world.namespace, "defaulted", strategy={"type": "Recreate"})
        )
    assert caught.value.field == "spec.strategy.rollingUpdate"
    rolling = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    await world.cluster.apply(kinds.DEPLOYMENT, deployment(world.namespace, "named", strategy=rolling))
    result = await world.cluster.apply(
        kinds.DEPLOYMENT, deployment(world.namespace, "named", strategy={"type": "Recreate"})
    )
    assert result["spec"]["strategy"] == {"type": "Recreate"}


async def test_a_service_account_that_is_no_longer_named_stays(world: World) -> None:
    """The API server mirrors serviceAccountName in serviceAccount, which nobody owns, and reads it back from there."""
    named = deployment(world.namespace)
    named["spec"]["template"]["spec"]["serviceAccountName"] = "runner"
    await world.cluster.apply(kinds.DEPLOYMENT, named)
    result = await world.cluster.apply(kinds.DEPLOYMENT, deployment(world.namespace))
    assert result["spec"]["template"]["spec"]["serviceAccountName"] == "runner"
    both = deployment(world.namespace, "both")
    both["spec"]["template"]["spec"].update(serviceAccountName="runner", serviceAccount="runner")
    await world.cluster.apply(kinds.DEPLOYMENT, both)
    result = await world.cluster.apply(kinds.DEPLOYMENT, deployment(world.namespace, "both"))
    assert "serviceAccountName" not in result["spec"]["template"]["spec"]


async def test_what_does_not_fit_the_schema_is_invalid_and_says_where(world: World) -> None:
    """Server-side apply answers HTTP 500 to these; a retry would never help."""
    twice = deployment(world.namespace, container={"env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]})
    cases = [
        (kinds.DEPLOYMENT, deployment(world.namespace, bogus=1), "spec.bogus"),
        (kinds.DEPLOYMENT, deployment(world.namespace, container={"images": "x"}), "images"),
        (kinds.DEPLOYMENT, deployment(world.namespace, replicas="many"), "spec.replicas"),
        (kinds.DEPLOYMENT, twice, "env"),
        (kinds.SERVICE, service(world.namespace, port=1), "spec.port"),
        (kinds.VLLM_MODEL, model(world.namespace, bogus=1), "spec.bogus"),
        (kinds.VLLM_MODEL, model(world.namespace, engine={"maxModelLength": 1}), "spec.engine.maxModelLength"),
    ]
    for kind, bad, field in cases:
        with pytest.raises(ApiError) as caught:
            await world.cluster.apply(kind, bad)
        assert caught.value.category is Category.INVALID, caught.value.message
        assert caught.value.field.endswith(field)
        assert field in caught.value.message
    await world.cluster.apply(kinds.VLLM_MODEL, model(world.namespace))
    with pytest.raises(ApiError) as caught:
        await world.cluster.apply_status(kinds.VLLM_MODEL, status(world.namespace, bogus=1))
    assert (caught.value.category, caught.value.field) == (Category.INVALID, "status.bogus")


async def test_create_refuses_unknown_fields_too(world: World) -> None:
    lease = obj(kinds.LEASE, world.namespace, "lease", spec={"holder": "one"})
    with pytest.raises(ApiError) as caught:
        await world.cluster.create(kinds.LEASE, lease)
    assert (caught.value.category, caught.value.status) == (Category.INVALID, 400)
    assert 'unknown field "spec.holder"' in caught.value.message


async def test_objects_given_back_with_managed_fields_are_refused(world: World) -> None:
    await world.cluster.apply(kinds.SERVICE, service(world.namespace))
    live = copy.deepcopy(service(world.namespace))
    live["metadata"]["managedFields"] = [
        {
            "manager": "x",
            "operation": "Apply",
            "apiVersion": "v1",
            "fieldsType": "FieldsV1",
            "fieldsV1": {"f:spec": {}},
        }
    ]
    with pytest.raises(ApiError) as caught:
        await world.cluster.apply(kinds.SERVICE, live)
    assert caught.value.category is Category.INVALID
