"""Nothing is left: models deleted in the middle of it, namespaces that go away with models in them."""

import random
import threading
import time

import pytest

from tests.apiserver import ApiError, Object
from vllm_operator.api.names import LABEL_MANAGED_BY, MANAGED_BY
from vllm_operator.cluster import kinds

from .api import Api, model, settled, wait_until
from .conftest import Log, Operators
from .workbench import Workbench

OWNED = (*kinds.CHILD_KINDS, kinds.CONTROLLER_REVISION, kinds.POD)


def _left(api: Api, namespace: str) -> list[str]:
    return [
        f"{kind}/{each['metadata']['name']}"
        for kind in OWNED
        for each in api.items(kind, namespace, f"{LABEL_MANAGED_BY}={MANAGED_BY}")
    ]


@pytest.mark.timeout(300)
def test_100_models_created_and_deleted_with_random_delays(
    api: Api, operators: Operators, namespace: str, product: str, say: Log
) -> None:
    operators()
    dice = random.Random(7)
    plan = [(f"m{number % 40}", dice.uniform(0, 0.4), dice.random() < 0.3) for number in range(100)]
    rounds = 0
    lock = threading.Lock()
    names = {name for name, _, _ in plan}

    def life(name: str) -> None:
        """Each name is made and deleted several times, one life right after the other."""
        nonlocal rounds
        for each, delay, edited in plan:
            if each != name:
                continue
            api.create_model(namespace, model(name, product=product, replicas=2))
            time.sleep(delay)  # When exactly the deletion hits the pass under way is what is drawn by lot here.
            if edited:
                api.edit(namespace, name, {"engine": {"maxModelLen": 4096}})
            api.delete(kinds.VLLM_MODEL, namespace, name)
            with lock:
                rounds += 1

    threads = [threading.Thread(target=life, args=(name,)) for name in sorted(names)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert rounds == 100
    # One that stays, so that it is seen that the operator still works.
    api.create_model(namespace, model("stays", product=product))
    wait_until("the last model to be rolled out", lambda: settled(api.model(namespace, "stays")), timeout=90)
    api.delete(kinds.VLLM_MODEL, namespace, "stays")
    seconds = wait_until(
        lambda: f"all to go; left: {_left(api, namespace)[:20]}", lambda: not _left(api, namespace), timeout=120
    )
    operators.rest(quiet=10)
    assert _left(api, namespace) == [], "something was made after its model was gone"
    say(f"{rounds} lives; the last owned object went after {seconds:.1f} s")


@pytest.mark.timeout(240)
def test_namespace_goes_away_with_models_in_it(
    bench: Workbench, api: Api, cluster_operators: Operators, product: str, say: Log
) -> None:
    operators = cluster_operators
    operator = operators()
    namespace = bench.namespace("leaving")
    models = [model(f"m{number}", product=product, replicas=2) for number in range(20)]
    api.create_models(namespace, models)
    wait_until("some children", lambda: len(api.items(kinds.DEPLOYMENT, namespace)) >= 10)
    # While the operator still works on it, with edits up to the end.
    api.request("DELETE", f"/api/v1/namespaces/{namespace}")
    for number in range(20):
        _try_edit(api, namespace, f"m{number}", {"engine": {"maxModelLen": 1024 + number}})

    def gone() -> bool:
        try:
            api.request("GET", f"/api/v1/namespaces/{namespace}")
        except ApiError as error:
            return error.status == 404
        return False

    seconds = wait_until(f"namespace {namespace} to go", gone, timeout=120)
    operators.rest(quiet=5)
    complaints = operator.complaints()
    say(f"the namespace went after {seconds:.1f} s; {len(complaints)} warnings, {len(operator.lines())} log lines")
    assert not [line for line in operator.lines() if line["level"] == "error"], complaints[:10]
    assert len(complaints) <= 20, complaints[:30]
    # The same namespace again, as `kubectl delete namespace` and a fresh start do.
    api.request("POST", "/api/v1/namespaces", body={"metadata": {"name": namespace}})
    wait_until(
        "a ServiceAccount", lambda: api.request("GET", f"/api/v1/namespaces/{namespace}/serviceaccounts/default")
    )
    api.create_model(namespace, models[0])
    wait_until("the model to be rolled out anew", lambda: settled(api.model(namespace, "m0")), timeout=60)


def _try_edit(api: Api, namespace: str, name: str, spec: Object) -> None:
    try:
        api.edit(namespace, name, spec)
    except ApiError as error:
        if error.status not in (404, 409):
            raise
