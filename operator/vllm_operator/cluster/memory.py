"""An API server in memory, for tests: the same answers as the real one for what the operator asks.

tests/cluster_contract/ holds it to what a real API server does. Known simplifications: one version of each kind, no CEL
rules, no admission plug-ins, no pod controllers, and managedFields are kept but not shown.
"""

import asyncio
import random
import uuid
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

from vllm_operator.api.names import FIELD_MANAGER, Key
from vllm_operator.cluster import kinds
from vllm_operator.cluster.base import Object, key_of
from vllm_operator.cluster.errors import ApiError, Category, classify
from vllm_operator.cluster.kinds import CONTROLLER_REVISION, SERVICE, Kind
from vllm_operator.cluster.memory_fields import (
    EMPTY,
    FieldSet,
    SchemaError,
    compare,
    field_set,
    merge,
    prune,
    show,
)
from vllm_operator.cluster.memory_schema import RULES, InvalidError, KindRules, normalised, validate_metadata

_Answer = TypeVar("_Answer")

Owner = tuple[str, str, str]
"""A field manager's entry: name, operation (Apply or Update) and subresource."""

_SYSTEM_METADATA = frozenset(
    [
        "creationTimestamp",
        "deletionGracePeriodSeconds",
        "deletionTimestamp",
        "generation",
        "managedFields",
        "name",
        "namespace",
        "resourceVersion",
        "selfLink",
        "uid",
    ]
)
"""Metadata that no manager owns; the API server alone writes it."""


_MODIFIED = "the object has been modified; please apply your changes to the latest version and try again"


@dataclass(frozen=True)
class Call:
    """One call to the cluster, as a fault hook sees it."""

    verb: str
    """get, list, apply, apply_status, create, replace or delete."""
    kind: Kind
    key: Key
    """For a list: the namespace (empty: all) and an empty name."""
    attempt: int
    """Counts the calls with this verb, kind and key, from 1."""


@dataclass(frozen=True)
class Fault:
    """What goes wrong with a call."""

    error: ApiError | None = None
    """Raised instead of an answer."""
    after: bool = False
    """True: the write is done and the answer is lost. False: nothing is done."""
    delay: float = 0.0
    """Seconds that the call takes, by the cluster's `sleep`."""


FaultHook = Callable[[Call], Fault | None]


@dataclass(frozen=True)
class Write:
    """A write that the operator asked for and that was carried out."""

    verb: str
    kind: Kind
    key: Key
    changed: bool
    """Whether the object's resourceVersion changed, or it was deleted."""


@dataclass
class _Stored:
    """An object and who owns its fields."""

    obj: Object
    owners: dict[Owner, FieldSet] = field(default_factory=dict)
    last_apply: tuple[str, str, Object, str] | None = None
    """Manager, subresource, configuration and resulting resourceVersion of the newest apply.

    The same again changes nothing, and is answered without work.
    """
    applied: bool = False
    """Whether an apply made it. Of a ControllerRevision the API server keeps the data's bytes as they came, and compares
    bytes to tell whether the data changed: what an apply made can only be applied, what a create made never again."""


@dataclass
class _Namespace:
    terminating: bool = False


class MemoryCluster:
    """An API server in memory. The asynchronous methods are the operator's, the others are the test's hands."""

    def __init__(
        self,
        *,
        namespaces: Iterable[str] = ("default",),
        now: Callable[[], datetime] | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        faults: FaultHook | None = None,
    ) -> None:
        """`now` gives creationTimestamp its time; `sleep` is how a delayed call waits."""
        self.faults = faults
        """Asked before each call; None: nothing goes wrong."""
        self.writes: list[Write] = []
        """Writes of the operator, oldest first. Dry runs and refused writes are not among them."""
        self.logs: dict[tuple[Key, str], str] = {}
        """What containers have written, by pod and container."""
        self.requests: Counter[tuple[str, str]] = Counter()
        """Calls of the operator by verb and kind, failed ones too."""
        self._now = now or (lambda: datetime.now(UTC))
        self._sleep = sleep
        self._rules: dict[Kind, KindRules] = dict(RULES)
        self._namespaces = {name: _Namespace() for name in namespaces}
        self._objects: dict[Kind, dict[Key, _Stored]] = defaultdict(dict)
        self._uids: dict[str, tuple[Kind, Key]] = {}
        self._owned: dict[str, set[tuple[Kind, Key]]] = defaultdict(set)
        self._attempts: Counter[tuple[str, Kind, Key]] = Counter()
        self._watchers: list[Callable[[str, Object], None]] = []
        self._version = 0
        self._uid = 0
        self._address = 1

    # -- the operator's side: see Cluster ------------------------------------------------------------------------------

    async def get(self, kind: Kind, key: Key) -> Object | None:
        """See Cluster.get."""

        def work() -> Object | None:
            stored = self._objects[kind].get(key)
            return None if stored is None else _copy(stored.obj)

        return await self._call("get", kind, key, work)

    async def list(
        self, kind: Kind, *, namespace: str | None = None, labels: Mapping[str, str] | None = None
    ) -> list[Object]:
        """See Cluster.list. Ordered by namespace and name, as etcd has them."""

        def work() -> list[Object]:
            return [
                _copy(stored.obj)
                for key, stored in sorted(self._objects[kind].items())
                if (namespace is None or key.namespace == namespace) and _has_labels(stored.obj, labels or {})
            ]

        return await self._call("list", kind, Key(namespace or "", ""), work)

    async def apply(self, kind: Kind, obj: Object) -> Object:
        """See Cluster.apply."""
        key = key_of(obj)
        config = _copy(obj)
        return await self._call(
            "apply",
            kind,
            key,
            lambda: self._apply(kind, key, config, subresource="", manager=FIELD_MANAGER),
        )

    async def apply_status(self, kind: Kind, obj: Object) -> Object:
        """See Cluster.apply_status."""
        key = key_of(obj)
        config = _copy(obj)
        return await self._call(
            "apply_status",
            kind,
            key,
            lambda: self._apply(kind, key, config, subresource="status", manager=FIELD_MANAGER),
        )

    async def create(self, kind: Kind, obj: Object) -> Object:
        """See Cluster.create."""
        obj = _copy(obj)
        metadata = obj["metadata"]
        if not metadata.get("name") and metadata.get("generateName"):
            self._uid += 1
            metadata["name"] = f"{metadata['generateName']}{self._uid:05x}"
        key = key_of(obj)
        return await self._call("create", kind, key, lambda: self._create(kind, key, obj))

    async def replace(self, kind: Kind, obj: Object) -> Object:
        """See Cluster.replace."""
        key = key_of(obj)
        obj = _copy(obj)
        return await self._call("replace", kind, key, lambda: self._replace(kind, key, obj))

    async def overwrite(self, kind: Kind, obj: Object) -> Object:
        """See Cluster.overwrite."""
        key = key_of(obj)
        obj = _copy(obj)

        def work() -> Object:
            stored = self._objects[kind].get(key)
            if stored is None:
                raise _not_found(kind, key)
            self._update(kind, key, {**_body(stored.obj), "spec": obj["spec"]}, stored, manager=FIELD_MANAGER)
            self._objects[kind][key].owners.pop((FIELD_MANAGER, "Update", ""), None)
            return self._apply(kind, key, obj, subresource="", manager=FIELD_MANAGER)

        return await self._call("overwrite", kind, key, work)

    async def delete(self, kind: Kind, key: Key, *, uid: str | None = None) -> bool:
        """See Cluster.delete. What the object owns is deleted in a later turn of the event loop."""
        return await self._call("delete", kind, key, lambda: self._delete_checked(kind, key, uid))

    async def read_log(self, pod: Key, container: str, *, most: int) -> str:
        """See Cluster.read_log. `logs` has what tests put there."""

        def work() -> str:
            if pod not in self._objects[kinds.POD]:
                raise _not_found(kinds.POD, pod)
            return self.logs.get((pod, container), "").encode()[:most].decode(errors="replace")

        return await self._call("get", kinds.POD, pod, work)

    async def _call(self, verb: str, kind: Kind, key: Key, work: Callable[[], _Answer]) -> _Answer:
        """Do the work in one go, with a turn of the event loop before and after it, as a network has."""
        self.requests[verb, kind.kind] += 1
        self._attempts[verb, kind, key] += 1
        attempt = self._attempts[verb, kind, key]
        fault = (self.faults(Call(verb, kind, key, attempt)) if self.faults else None) or Fault()
        await asyncio.sleep(0)
        if fault.delay:
            await self._sleep(fault.delay)
        if fault.error is not None and not fault.after:
            raise fault.error
        if kind not in self._rules:
            raise classify(404, "404 page not found\n")
        before = self._version
        answer = work()
        if verb not in ("get", "list"):
            self.writes.append(Write(verb, kind, key, self._version != before))
        await asyncio.sleep(0)
        if fault.error is not None:
            raise fault.error
        return answer

    # -- writes --------------------------------------------------------------------------------------------------------

    def _apply(
        self,
        kind: Kind,
        key: Key,
        config: Object,
        *,
        subresource: str,
        manager: str,
        force: bool = True,
    ) -> Object:
        rules = self._rules[kind]
        if subresource and not rules.status:
            raise _failure(404, "NotFound", "the server could not find the requested resource")
        metadata = config["metadata"]
        if metadata.get("managedFields"):
            raise _failure(400, "BadRequest", "metadata.managedFields must be nil")
        stored = self._objects[kind].get(key)
        if stored is None and subresource:
            raise _not_found(kind, key)
        self._check_preconditions(kind, key, stored, metadata, creating=stored is None, applying=True)
        _check_schema(kind, rules, config)
        if stored is not None and stored.last_apply == (manager, subresource, config, _version_of(stored.obj)):
            return _copy(stored.obj)
        body = _body(config)
        if subresource:
            body = {"status": body.get("status", {})} if "status" in body else {}
        elif rules.status:
            body.pop("status", None)
        live = _body(stored.obj) if stored is not None else {}
        owner: Owner = (manager, "Apply", subresource)
        owners = dict(stored.owners) if stored is not None else {}
        before = owners.get(owner, EMPTY)
        owners[owner] = field_set(body, rules.node)
        merged = merge(live, body, rules.node)
        if kind == CONTROLLER_REVISION and stored is not None and not stored.applied and merged != live:
            raise _invalid(kind, key, InvalidError(("data", "Invalid value: field is immutable")))
        merged = prune(merged, rules.node, before=before, owned=EMPTY.union(*owners.values())) or {}
        change = compare(live, merged, rules.node)
        for other, fields in list(owners.items()):
            if other == owner:
                continue
            lost = fields & (change.modified | change.added)
            if lost and not force:
                raise _failure(409, "Conflict", f'Apply failed with {len(lost)} conflict: conflict with "{other[0]}"')
            owners[other] = fields - lost - change.removed
        result = self._finish(kind, key, merged, owners, stored, status_only=bool(subresource))
        now_stored = self._objects[kind].get(key)
        if now_stored is not None:
            now_stored.last_apply = (manager, subresource, config, _version_of(now_stored.obj))
            now_stored.applied = stored is None or stored.applied
        return result

    def _create(self, kind: Kind, key: Key, obj: Object, *, manager: str = FIELD_MANAGER) -> Object:
        if key in self._objects[kind]:
            raise _failure(
                409, "AlreadyExists", f'{_plural(kind)} "{key.name}" already exists', name=key.name, kind=kind.plural
            )
        if obj["metadata"].get("resourceVersion"):
            raise _failure(500, "", "resourceVersion should not be set on objects to be created")
        self._check_namespace(kind, key)
        _check_schema(kind, self._rules[kind], obj, strict_decoding=True)
        return self._update(kind, key, _body(obj), None, manager=manager)

    def _replace(self, kind: Kind, key: Key, obj: Object, *, manager: str = FIELD_MANAGER) -> Object:
        rules = self._rules[kind]
        stored = self._objects[kind].get(key)
        metadata = obj["metadata"]
        if stored is None and rules.update_creates:
            if metadata.get("resourceVersion") and kind == SERVICE:
                raise _conflict(kind, key, _MODIFIED)
            self._check_preconditions(kind, key, None, metadata, creating=True)
            metadata.pop("resourceVersion", None)
            return self._create(kind, key, obj, manager=manager)
        if stored is None:
            raise _not_found(kind, key)
        _check_schema(kind, rules, obj, strict_decoding=True)
        if not metadata.get("resourceVersion") and not rules.unconditional:
            raise _invalid(
                kind,
                key,
                InvalidError(("metadata.resourceVersion", "Invalid value: 0: must be specified for an update")),
            )
        self._check_preconditions(kind, key, stored, metadata, creating=False)
        if kind == CONTROLLER_REVISION and stored.applied:
            raise _invalid(kind, key, InvalidError(("data", "Invalid value: field is immutable")))
        return self._update(kind, key, _body(obj), stored, manager=manager)

    def _update(
        self, kind: Kind, key: Key, body: Object, stored: _Stored | None, *, manager: str, subresource: str = ""
    ) -> Object:
        """Write all of an object (or all of its status) as a field manager that does not apply."""
        rules = self._rules[kind]
        live = _body(stored.obj) if stored is not None else {}
        if subresource:
            body = {**live, "status": body.get("status", {})}
        elif rules.status:
            body.pop("status", None)
            if "status" in live:
                body["status"] = live["status"]
        body = self._round_trip(kind, key, body, stored)
        change = compare(live, body, rules.node)
        taken = change.added | change.modified
        owner: Owner = (manager, "Update", subresource)
        owners = dict(stored.owners) if stored is not None else {}
        for other, fields in list(owners.items()):
            owners[other] = fields - change.removed - (taken if other != owner else EMPTY)
        owners[owner] = owners.get(owner, EMPTY) | taken
        return self._finish(kind, key, body, owners, stored, status_only=bool(subresource))

    def _round_trip(self, kind: Kind, key: Key, body: Object, stored: _Stored | None) -> Object:
        """The body as the API server writes it: without what is empty, with defaults."""
        rules = self._rules[kind]
        if rules.typed:
            body = normalised(body, rules.node)
            body.setdefault("metadata", {})
        else:
            metadata = normalised(body.get("metadata", {}), rules.node.child("metadata")) or {}
            body = {**body, "metadata": metadata}
            null = _first_null(body)
            if null:
                raise _invalid(
                    kind, key, InvalidError((null, f'Invalid value: "null": {null} in body must not be null'))
                )
        rules.default(body)
        if kind == SERVICE and body["spec"].get("type") != "ExternalName":
            spec = body["spec"]
            if not spec.get("clusterIP"):
                self._address += 1
                old = stored.obj["spec"].get("clusterIP") if stored is not None else None
                spec["clusterIP"] = old or f"10.96.{self._address // 250}.{self._address % 250 + 1}"
            spec["clusterIPs"] = [spec["clusterIP"]]
        return body

    def _finish(
        self,
        kind: Kind,
        key: Key,
        body: Object,
        owners: dict[Owner, FieldSet],
        stored: _Stored | None,
        *,
        status_only: bool,
    ) -> Object:
        """Default, validate and store a body unless it is what is there already; returns the object."""
        rules = self._rules[kind]
        body = self._round_trip(kind, key, _copy(body), stored)
        owners = {owner: fields for owner, fields in owners.items() if fields}
        old = stored.obj if stored is not None else None
        system: Object
        if old is None:
            system = {
                "name": key.name, "namespace": key.namespace, "uid": self._next_uid(),
                "creationTimestamp": _timestamp(self._now()),
            }  # fmt: skip
            if rules.generation:
                system["generation"] = 1
        else:
            system = {name: value for name, value in old["metadata"].items() if name in _SYSTEM_METADATA}
            if rules.generation and not status_only and _spec_changed(rules, _body(old), body):
                system["generation"] += 1
        obj: Object = {
            "apiVersion": kind.api_version, "kind": kind.kind, **body, "metadata": {**body["metadata"], **system},
        }  # fmt: skip
        try:
            if not status_only:
                validate_metadata(obj)
            rules.validate(obj, old)
        except InvalidError as error:
            raise _invalid(kind, key, error) from error
        except SchemaError as error:
            raise _typed_failure(kind, key, error) from error
        if stored is not None and obj == stored.obj and owners == stored.owners:
            return _copy(obj)
        obj["metadata"]["resourceVersion"] = str(self._version + 1)
        if obj["metadata"].get("deletionTimestamp") and not obj["metadata"].get("finalizers"):
            self._forget(kind, key)
            return _copy(obj)
        self._store(kind, key, obj, owners)
        return _copy(obj)

    def _delete_checked(self, kind: Kind, key: Key, uid: str | None) -> bool:
        stored = self._objects[kind].get(key)
        if stored is None:
            return False
        found = stored.obj["metadata"]["uid"]
        if uid is not None and uid != found:
            raise _conflict(
                kind, key,
                f"the UID in the precondition ({uid}) does not match the UID in record ({found}). "
                "The object might have been deleted and then recreated",
            )  # fmt: skip
        self._delete(kind, key)
        return True

    def _delete(self, kind: Kind, key: Key) -> None:
        """Delete an object, or mark it when finalizers hold it."""
        stored = self._objects[kind].get(key)
        if stored is None:
            return
        metadata = stored.obj["metadata"]
        if not metadata.get("finalizers"):
            self._forget(kind, key)
        elif not metadata.get("deletionTimestamp"):
            obj = _copy(stored.obj)
            obj["metadata"]["deletionTimestamp"] = _timestamp(self._now())
            obj["metadata"]["deletionGracePeriodSeconds"] = 0
            if "generation" in obj["metadata"]:
                obj["metadata"]["generation"] += 1
            self._store(kind, key, obj, stored.owners)

    # -- storage -------------------------------------------------------------------------------------------------------

    def _store(self, kind: Kind, key: Key, obj: Object, owners: dict[Owner, FieldSet]) -> None:
        self._version += 1
        obj["metadata"]["resourceVersion"] = str(self._version)
        old = self._objects[kind].get(key)
        self._unlink(kind, key)
        self._objects[kind][key] = _Stored(obj, owners, applied=old is not None and old.applied)
        self._uids[obj["metadata"]["uid"]] = (kind, key)
        references = obj["metadata"].get("ownerReferences") or []
        for reference in references:
            self._owned[reference["uid"]].add((kind, key))
        if references:
            self._later(lambda: self._collect(kind, key))
        self._tell("ADDED" if old is None else "MODIFIED", obj)

    def _forget(self, kind: Kind, key: Key) -> None:
        stored = self._objects[kind][key]
        self._version += 1
        self._unlink(kind, key)
        del self._objects[kind][key]
        uid = stored.obj["metadata"]["uid"]
        del self._uids[uid]
        stored.obj["metadata"]["resourceVersion"] = str(self._version)
        self._tell("DELETED", stored.obj)
        for dependent in sorted(self._owned.get(uid, ()), key=str):
            self._later(lambda dependent=dependent: self._collect(*dependent))  # type: ignore[misc]  # default as capture

    def _unlink(self, kind: Kind, key: Key) -> None:
        stored = self._objects[kind].get(key)
        for reference in (stored.obj["metadata"].get("ownerReferences") or []) if stored is not None else []:
            self._owned[reference["uid"]].discard((kind, key))

    def _collect(self, kind: Kind, key: Key) -> None:
        """What the garbage collector does with one object: delete it when all its owners are gone."""
        stored = self._objects[kind].get(key)
        references = stored.obj["metadata"].get("ownerReferences") if stored is not None else None
        if stored is None or not references:
            return
        kept = [
            reference
            for reference in references
            if (owner := self._uids.get(reference["uid"])) is not None and owner[1].namespace == key.namespace
        ]
        if not kept:
            self._delete(kind, key)
        elif len(kept) < len(references):
            self.edit(kind, key, lambda obj: obj["metadata"].update(ownerReferences=kept), manager="garbage-collector")

    @staticmethod
    def _later(work: Callable[[], None]) -> None:
        """Do it in a later turn of the event loop; at once when there is no loop."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            work()
            return
        loop.call_soon(work)

    def _tell(self, event: str, obj: Object) -> None:
        for callback in list(self._watchers):
            callback(event, _copy(obj))

    def _next_uid(self) -> str:
        self._uid += 1
        return str(uuid.UUID(int=self._uid, version=4))

    def _check_namespace(self, kind: Kind, key: Key) -> None:
        """Refuse to make an object in a namespace that is gone or going."""
        if not kind.namespaced:
            return
        namespace = self._namespaces.get(key.namespace)
        if namespace is None:
            raise _failure(
                404, "NotFound", f'namespaces "{key.namespace}" not found', name=key.namespace, kind="namespaces"
            )
        if namespace.terminating:
            message = f"unable to create new content in namespace {key.namespace} because it is being terminated"
            raise _failure(
                403,
                "Forbidden",
                f'{_plural(kind)} "{key.name}" is forbidden: {message}',
                name=key.name,
                kind=kind.plural,
                causes=[{"reason": "NamespaceTerminating", "message": message, "field": "metadata.namespace"}],
            )

    def _check_preconditions(
        self, kind: Kind, key: Key, stored: _Stored | None, metadata: Object, *, creating: bool, applying: bool = False
    ) -> None:
        uid = metadata.get("uid")
        if creating:
            if uid:
                raise _conflict(
                    kind,
                    key,
                    f"uid mismatch: the provided object specified uid {uid}, and no existing object was found",
                )
            self._check_namespace(kind, key)
            return
        assert stored is not None
        found = stored.obj["metadata"]["uid"]
        if uid and uid != found and applying:
            raise _invalid(kind, key, InvalidError(("metadata.uid", f'Invalid value: "{uid}": field is immutable')))
        if uid and uid != found:
            raise _conflict(kind, key, f"Precondition failed: UID in precondition: {uid}, UID in object meta: {found}")
        version = metadata.get("resourceVersion")
        if version and version != _version_of(stored.obj):
            raise _conflict(kind, key, _MODIFIED)

    # -- the test's hands ----------------------------------------------------------------------------------------------

    @property
    def resource_version(self) -> str:
        """Newest resourceVersion: it changes with each write that changes something."""
        return str(self._version)

    def peek(self, kind: Kind, key: Key) -> Object | None:
        """The object as it is, uncounted."""
        stored = self._objects[kind].get(key)
        return None if stored is None else _copy(stored.obj)

    def objects(self, kind: Kind, namespace: str | None = None) -> Sequence[Object]:
        """All objects of a kind, uncounted, ordered by namespace and name."""
        return [
            _copy(stored.obj)
            for key, stored in sorted(self._objects[kind].items())
            if namespace is None or key.namespace == namespace
        ]

    def owned_fields(
        self, kind: Kind, key: Key, manager: str = FIELD_MANAGER, operation: str = "Apply"
    ) -> Sequence[str]:
        """Fields that a manager owns, as the API server would name them, sorted."""
        stored = self._objects[kind][key]
        return sorted(
            show(path)
            for (name, how, _), fields in stored.owners.items()
            if (name, how) == (manager, operation)
            for path in fields
        )

    def put(self, kind: Kind, obj: Object, *, manager: str = "kubectl") -> Object:
        """Make or overwrite an object as somebody else; a status in `obj` is written too."""
        obj = _copy(obj)
        key = key_of(obj)
        self._require(kind)
        status = obj.get("status") if self._rules[kind].status else None
        obj["metadata"].pop("resourceVersion", None)
        stored = self._objects[kind].get(key)
        if stored is None:
            result = self._create(kind, key, obj, manager=manager)
        else:
            result = self._update(kind, key, _body(obj), stored, manager=manager)
        return self.set_status(kind, key, status, manager=manager) if status is not None else result

    def edit(self, kind: Kind, key: Key, mutate: Callable[[Object], object], *, manager: str = "kubectl") -> Object:
        """Change an object by hand, as kubectl edit does: `mutate` changes it in place. Its status is not changed."""
        stored = self._existing(kind, key)
        obj = _copy(stored.obj)
        mutate(obj)
        return self._update(kind, key, _body(obj), stored, manager=manager)

    def apply_as(self, kind: Kind, obj: Object, manager: str, *, force: bool = True, subresource: str = "") -> Object:
        """Server-side apply as somebody else."""
        self._require(kind)
        return self._apply(kind, key_of(obj), _copy(obj), subresource=subresource, manager=manager, force=force)

    def set_status(self, kind: Kind, key: Key, status: Object, *, manager: str = "controller") -> Object:
        """Write the whole status of an object, as a controller does."""
        stored = self._existing(kind, key)
        return self._update(kind, key, {"status": _copy(status)}, stored, manager=manager, subresource="status")

    def remove(self, kind: Kind, key: Key) -> None:
        """Delete an object as somebody else; finalizers hold it, and what it owns follows."""
        self._existing(kind, key)
        self._delete(kind, key)

    def watch(self, callback: Callable[[str, Object], None]) -> Callable[[], None]:
        """Call back with ADDED, MODIFIED or DELETED and the object on each change; returns what ends it."""
        self._watchers.append(callback)
        return lambda: self._watchers.remove(callback)

    def add_namespace(self, name: str) -> None:
        """Make a namespace; nothing when it is there."""
        self._namespaces.setdefault(name, _Namespace())

    def terminate_namespace(self, name: str) -> None:
        """Delete a namespace: its objects go unless finalizers hold them, and it stays Terminating."""
        self._namespaces[name].terminating = True
        for kind, objects in list(self._objects.items()):
            for key in [key for key in objects if key.namespace == name]:
                self._delete(kind, key)

    def remove_namespace(self, name: str) -> None:
        """Take a namespace away with all that is in it, finalizers or not."""
        for kind, objects in list(self._objects.items()):
            for key in [key for key in objects if key.namespace == name]:
                self._forget(kind, key)
        del self._namespaces[name]

    def uninstall(self, kind: Kind) -> None:
        """Make a kind unknown, as if its CRD were deleted."""
        for key in list(self._objects[kind]):
            self._forget(kind, key)
        self._rules.pop(kind, None)

    def install(self, kind: Kind, rules: KindRules | None = None) -> None:
        """Make a kind known; without rules, those of the kind's own table, else a CRD with status and no schema."""
        custom = KindRules(status=True, generation=True, unconditional=False, typed=False)
        self._rules[kind] = rules or RULES.get(kind, custom)

    def _require(self, kind: Kind) -> None:
        if kind not in self._rules:
            raise classify(404, "404 page not found\n")

    def _existing(self, kind: Kind, key: Key) -> _Stored:
        self._require(kind)
        stored = self._objects[kind].get(key)
        if stored is None:
            raise _not_found(kind, key)
        return stored


# -- ready-made faults -------------------------------------------------------------------------------------------------

_WRITES = frozenset({"apply", "apply_status", "create", "replace", "delete"})


def http_error(status: int, *, retry_after: float | None = None) -> ApiError:
    """The error that an HTTP status of the API server becomes; status 0: no answer."""
    if status == 0:
        return ApiError(
            "no answer from the API server: injected", category=Category.TRANSIENT, status=0, reason="NoAnswer"
        )
    body = {"kind": "Status", "message": f"injected HTTP {status}", "reason": "", "details": {"name": "injected"}}
    return classify(status, body, retry_after=retry_after)


def fail_times(
    times: int, status: int, *, verb: str | None = None, kind: Kind | None = None, after: bool = False
) -> FaultHook:
    """The first `times` calls (with this verb, of this kind) fail with an HTTP status."""
    left = times

    def hook(call: Call) -> Fault | None:
        nonlocal left
        if left <= 0 or (verb is not None and call.verb != verb) or (kind is not None and call.kind != kind):
            return None
        left -= 1
        return Fault(http_error(status), after=after)

    return hook


def random_faults(rng: random.Random, rate: float) -> FaultHook:
    """Each call fails with this probability: no answer, 429, 500 or 503; half of the failed writes were carried out."""

    def hook(call: Call) -> Fault | None:
        if rng.random() >= rate:
            return None
        status = rng.choice((0, 429, 500, 503))
        # Only an answer that is lost can follow a write that was carried out; 429 and 503 come from before the storage.
        after = call.verb in _WRITES and status in (0, 500) and rng.random() < 0.5
        return Fault(http_error(status, retry_after=1.0 if status == 429 else None), after=after)

    return hook


class Outage:
    """A fault hook: while it is `on`, nothing answers."""

    def __init__(self, *, on: bool = True) -> None:
        self.on = on

    def __call__(self, call: Call) -> Fault | None:
        """What becomes of a call."""
        return Fault(http_error(0)) if self.on else None


def outage() -> Outage:
    """An outage that lasts until its `on` is set to False."""
    return Outage()


# -- small things ------------------------------------------------------------------------------------------------------


_Json = TypeVar("_Json")


def _copy(value: _Json) -> _Json:
    """A deep copy of JSON; much faster than copy.deepcopy."""
    copied: Any = _copied(value)
    return copied  # type: ignore[no-any-return]  # the same shape as it came


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _copied(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_copied(inner) for inner in value]
    return value


def _body(obj: Object) -> Object:
    """What managers can own of an object, copied."""
    metadata = {
        name: _copy(value) for name, value in (obj.get("metadata") or {}).items() if name not in _SYSTEM_METADATA
    }
    body = {name: _copy(value) for name, value in obj.items() if name not in ("apiVersion", "kind", "metadata")}
    return {"metadata": metadata, **body} if metadata else body


def _spec_changed(rules: KindRules, old: Object, new: Object) -> bool:
    outside = ("metadata", "status")
    if {name: value for name, value in old.items() if name not in outside} != {
        name: value for name, value in new.items() if name not in outside
    }:
        return True
    if not rules.generation_on_annotations:
        return False
    return bool((old.get("metadata") or {}).get("annotations") != (new.get("metadata") or {}).get("annotations"))


def _version_of(obj: Object) -> str:
    return str(obj["metadata"].get("resourceVersion", ""))


def _timestamp(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _has_labels(obj: Object, labels: Mapping[str, str]) -> bool:
    found = obj["metadata"].get("labels") or {}
    return all(found.get(name) == value for name, value in labels.items())


def _first_null(value: Any, path: str = "") -> str:
    """Path of the first null, empty when there is none."""
    if value is None:
        return path
    inside: Iterable[tuple[str, Any]] = ()
    if isinstance(value, dict):
        inside = ((f"{path}.{name}".lstrip("."), inner) for name, inner in value.items())
    elif isinstance(value, list):
        inside = ((f"{path}[{number}]", inner) for number, inner in enumerate(value))
    return next((found for place, inner in inside if (found := _first_null(inner, place))), "")


def _plural(kind: Kind) -> str:
    return f"{kind.plural}.{kind.group}" if kind.group else kind.plural


def _failure(
    status: int,
    reason: str,
    message: str,
    *,
    name: str | None = None,
    kind: str = "",
    causes: list[Object] | None = None,
) -> ApiError:
    """The error for a metav1.Status, classified as the real client does."""
    details: Object = {"kind": kind, "causes": causes or []}
    if name is not None:
        details["name"] = name
    return classify(status, {"kind": "Status", "reason": reason, "message": message, "details": details})


def _not_found(kind: Kind, key: Key) -> ApiError:
    return _failure(404, "NotFound", f'{_plural(kind)} "{key.name}" not found', name=key.name, kind=kind.plural)


def _conflict(kind: Kind, key: Key, problem: str) -> ApiError:
    message = f'Operation cannot be fulfilled on {_plural(kind)} "{key.name}": {problem}'
    return _failure(409, "Conflict", message, name=key.name, kind=kind.plural)


def _invalid(kind: Kind, key: Key, error: InvalidError) -> ApiError:
    shown = f"{kind.kind}.{kind.group}" if kind.group else kind.kind
    problems = [f"{field}: {problem}" for field, problem in error.causes]
    listed = problems[0] if len(problems) == 1 else f"[{', '.join(problems)}]"
    causes = [{"field": field, "message": problem, "reason": "FieldValueInvalid"} for field, problem in error.causes]
    message = f'{shown} "{key.name}" is invalid: {listed}'
    return _failure(422, "Invalid", message, name=key.name, kind=kind.kind, causes=causes)


def _typed_failure(kind: Kind, key: Key, error: SchemaError) -> ApiError:
    """What server-side apply says of an object that does not fit the schema: HTTP 500, without a reason."""
    place = f"{key}; {kind.api_version}, Kind={kind.kind}"
    return _failure(500, "", f"failed to create typed patch object ({place}): {error}")


def _check_schema(kind: Kind, rules: KindRules, obj: Object, *, strict_decoding: bool = False) -> None:
    try:
        rules.check(obj)
    except SchemaError as error:
        if not strict_decoding:
            raise _typed_failure(kind, key_of(obj), error) from error
        unknown = f'unknown field "{error.path.lstrip(".")}"'
        raise _failure(
            400,
            "BadRequest",
            f'{kind.kind} in version "{kind.api_version.rpartition("/")[2]}" cannot be handled as a {kind.kind}: '
            f"strict decoding error: {unknown if 'not declared' in error.problem else error}",
        ) from error
