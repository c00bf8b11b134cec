"""Benchmarks: the operator's process against a real API server with simulated GPU nodes.

One JSON object a line on standard output, progress on standard error. The control plane is the one of
VLLM_OPERATOR_CLUSTER_SLOT; it is started, and stopped again, when it does not run.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.apiserver import Object
from tests.cluster import LocalCluster
from tests.on_cluster.api import condition, model, settled
from tests.on_cluster.api import wait_until as wait_closely
from tests.on_cluster.operator_process import OperatorProcess, measure_for
from tests.on_cluster.workbench import Identity, Workbench
from tests.sizing.published import GPUS, configs, published
from vllm_operator.api.names import LABEL_MANAGED_BY, MANAGED_BY
from vllm_operator.cluster import kinds
from vllm_operator.sizing.memory import LATEST, EngineOptions
from vllm_operator.sizing.planner import Planner, Wanted

from . import gateway
from .figures import machine, percentile, versions
from .watch import Watch

PODS_PER_NODE = 240


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def wait_until(what: str, ready: Callable[[], bool], *, timeout: float) -> float:
    """As the tests' own, but asks seldom: lists of 1,000 models, asked for again and again, would be what is measured."""
    return wait_closely(what, ready, timeout=timeout, interval=1.0)


def emit(name: str, unit: str, values: Sequence[float], **more: Any) -> None:
    """One line of results. A single value stands as `value`, several as p50, p99 and max."""
    line: dict[str, Any] = {"name": name, "unit": unit, "n": len(values)}
    if len(values) == 1:
        line["value"] = round(values[0], 4)
    else:
        line |= {
            "p50": round(percentile(values, 0.5), 4),
            "p99": round(percentile(values, 0.99), 4),
            "max": round(max(values), 4),
        }
    line |= {**more, "versions": versions(), "machine": machine(), "load": round(os.getloadavg()[0], 1)}
    print(json.dumps(line, ensure_ascii=False), flush=True)


@dataclass
class Bench:
    """What the measurements share."""

    workbench: Workbench
    namespace: str
    identity: Identity
    product: str
    lease: str = "bench"

    def operator(self) -> OperatorProcess:
        """Started again when it ends by itself, as by a Deployment: on a busy machine it may lose its lease."""
        return self.workbench.operator(self.identity, namespaces=[self.namespace], lease=self.lease, supervised=True)

    def bodies(self, prefix: str, count: int) -> list[Object]:
        return [model(f"{prefix}-{number}", product=self.product) for number in range(count)]

    def watch(self) -> Watch:
        return Watch(self.workbench.api.access, kinds.DEPLOYMENT.path(self.namespace))

    def create(self, body: Object) -> float:
        """Create a model; the time at which the request was sent, by this process's clock."""
        sent = time.monotonic()
        self.workbench.api.create_model(self.namespace, body)
        return sent

    def all_settled(self, count: int) -> bool:
        found = self.workbench.api.items(kinds.VLLM_MODEL, self.namespace)
        return len(found) == count and all(settled(each) for each in found)

    def all_reported(self, count: int) -> bool:
        """Every model has a status of its newest generation."""
        found = self.workbench.api.items(kinds.VLLM_MODEL, self.namespace)
        return len(found) == count and all(condition(each) for each in found)

    def clear(self) -> float:
        """Delete all models and wait until all that they own is gone; the seconds."""
        api = self.workbench.api
        api.request("DELETE", kinds.VLLM_MODEL.path(self.namespace))
        labels = f"{LABEL_MANAGED_BY}={MANAGED_BY}"
        return wait_until(
            "all children to go",
            lambda: (
                not any(
                    api.items(kind, self.namespace, labels)
                    for kind in (*kinds.CHILD_KINDS, kinds.CONTROLLER_REVISION, kinds.POD)
                )
            ),
            timeout=600,
        )


def one_after_the_other(bench: Bench, count: int) -> None:
    """`kubectl apply` to Deployment and edit to roll-out, each when the one before has come through."""
    created: list[float] = []
    edited: list[float] = []
    with bench.watch() as watch:
        for body in bench.bodies("one", count):
            name = body["metadata"]["name"]
            sent = bench.create(body)
            created.append(watch.wait(name, generation=1) - sent)
        emit("apply to Deployment, one after the other", "s", created)
        wait_until("the models to settle", lambda: bench.all_settled(count), timeout=300)
        for body in bench.bodies("one", count):
            name = body["metadata"]["name"]
            before = watch.generation(name)
            sent = time.monotonic()
            bench.workbench.api.edit(bench.namespace, name, {"engine": {"maxModelLen": 4096}})
            edited.append(watch.wait(name, generation=before + 1) - sent)
    emit("edit to changed Deployment, one after the other", "s", edited)


def burst(bench: Bench, count: int) -> None:
    """Many models at once, as a GitOps tool applies a repository."""
    bodies = bench.bodies(f"burst{count}", count)
    begun = time.monotonic()
    with bench.watch() as watch, ThreadPoolExecutor(16) as pool:
        sent = dict(zip((each["metadata"]["name"] for each in bodies), pool.map(bench.create, bodies), strict=True))
        created = time.monotonic() - begun
        seconds = [watch.wait(name, generation=1, timeout=600) - at for name, at in sent.items()]
        last = max(watch.seen(name) for name in sent) - begun
    emit(f"apply to Deployment, burst of {count}", "s", seconds)
    emit(f"all Deployments of a burst of {count}", "s", [last], creating=round(created, 2))


def edit_all(bench: Bench, count: int) -> None:
    """One edit to each of many models at once."""
    names = [each["metadata"]["name"] for each in bench.bodies(f"burst{count}", count)]
    with bench.watch() as watch, ThreadPoolExecutor(16) as pool:
        before = {name: watch.generation(name) for name in names}

        def edit(name: str) -> float:
            sent = time.monotonic()
            bench.workbench.api.edit(bench.namespace, name, {"engine": {"maxModelLen": 4096}})
            return sent

        sent = dict(zip(names, pool.map(edit, names), strict=True))
        seconds = [watch.wait(name, generation=before[name] + 1, timeout=600) - at for name, at in sent.items()]
    emit(f"edit to changed Deployment, burst of {count}", "s", seconds)


def at_rest(bench: Bench, operator: OperatorProcess, count: int, seconds: float) -> None:
    """What the operator costs when nothing happens."""
    audit = bench.workbench.audit
    audit.wait_for_rest(bench.identity.user, timeout=600)
    mark, cpu, begun = audit.mark(), operator.cpu_seconds(), time.monotonic()
    measure_for(seconds)
    requests = audit.since(mark, bench.identity.user)
    minutes = (time.monotonic() - begun) / 60
    writes = sum(request.is_write for request in requests)
    emit(f"writes a minute at rest, {count} models", "1/min", [writes / minutes])
    emit(f"reads a minute at rest, {count} models", "1/min", [(len(requests) - writes) / minutes])
    emit(f"CPU at rest, {count} models", "s/min", [(operator.cpu_seconds() - cpu) / minutes])
    emit(f"resident memory at rest, {count} models", "MiB", [operator.rss_mib()])


def restart(bench: Bench, operator: OperatorProcess, count: int) -> OperatorProcess:
    """An operator that starts with many models: how long until it has looked at all, and what it asks and writes."""
    audit = bench.workbench.audit
    audit.wait_for_rest(bench.identity.user, timeout=600)
    operator.stop()
    mark, begun = audit.mark(), time.monotonic()
    operator = bench.operator().start()
    ready = time.monotonic() - begun
    wait_until("a pass over every model", lambda: passes(operator) >= count, timeout=600)
    seconds = time.monotonic() - begun
    cpu = operator.cpu_seconds()
    audit.wait_for_rest(bench.identity.user, quiet=10, timeout=600)
    requests = audit.since(mark, bench.identity.user)
    writes = [request for request in requests if request.is_write]
    emit(f"restart with {count} models, first pass over all", "s", [seconds], to_ready=round(ready, 2))
    emit(f"restart with {count} models, CPU", "s", [cpu])
    emit(f"restart with {count} models, requests", "1", [len(requests)])
    emit(f"restart with {count} models, writes", "1", [len(writes)], what=sorted({str(each) for each in writes})[:5])
    return operator


def passes(operator: OperatorProcess) -> float:
    """Reconcile passes so far."""
    return operator.metric("vllm_operator_reconcile_seconds_count")


def run(workbench: Workbench, *, quick: bool, many: int, rest: float, only: str = "") -> None:
    """All measurements, one after the other."""
    namespace = workbench.namespace("bench")
    product = workbench.gpu_nodes(gpus=PODS_PER_NODE, count=-(-2 * many // PODS_PER_NODE))
    bench = Bench(workbench, namespace, workbench.identity(namespaces=[namespace]), product)
    operator = bench.operator().start()
    running = operator
    try:
        operator.wait_leading()
        for title, step in steps(bench, quick=quick, many=many, rest=rest):
            if only not in title:
                continue
            say(f"{title} …")
            begun = time.monotonic()
            running = step(running) or running
            say(f"{title}: done in {time.monotonic() - begun:.0f} s")
            if running.restarts:
                say(f"  the operator was restarted {running.restarts} times: the figures above are not to be trusted")
        for line in running.bugs():
            say(f"the operator's log speaks of a bug: {line}")
    finally:
        running.stop()
        operator.stop()


Step = Callable[[OperatorProcess], OperatorProcess | None]


def steps(bench: Bench, *, quick: bool, many: int, rest: float) -> Iterable[tuple[str, Step]]:
    """The measurements in order."""
    few, some = (20, 50) if quick else (100, 200)

    def then_clear(measure: Callable[[], None]) -> Step:
        def step(_: OperatorProcess) -> None:
            measure()
            say(f"  cleared in {bench.clear():.1f} s")

        return step

    def fifty(operator: OperatorProcess) -> None:
        bench.workbench.api.create_models(bench.namespace, bench.bodies("rest", 50))
        wait_until("50 models to settle", lambda: bench.all_settled(50), timeout=300)
        at_rest(bench, operator, 50, rest)
        bench.clear()

    def crowd(_: OperatorProcess) -> None:
        burst(bench, many)
        seconds = wait_until(f"{many} models to be reported on", lambda: bench.all_reported(many), timeout=900)
        say(f"  reported on after {seconds:.0f} s")
        seconds = wait_until(f"{many} models to settle", lambda: bench.all_settled(many), timeout=1200)
        say(f"  settled after {seconds:.0f} s more")

    yield f"{few} models one after the other", then_clear(lambda: one_after_the_other(bench, few))
    yield "50 models at rest", fifty
    yield f"a burst of {some}", then_clear(lambda: burst(bench, some))
    yield f"a burst of {many}", crowd
    yield f"{many} models at rest", lambda operator: at_rest(bench, operator, many, rest)
    yield f"a restart with {many} models", lambda operator: restart(bench, operator, many)
    yield f"an edit to each of {many} models", lambda _: edit_all(bench, many)


def plans() -> None:
    """Plans per second on one core: every published model, each with 11 pools to choose from and several wishes."""
    wishes = [
        Wanted(max_model_len=length, concurrency=concurrency, options=EngineOptions(version=LATEST))
        for length in (None, 4096, 8192)
        for concurrency in (1, 4, 16)
    ]
    models = [published(name) for name in configs()]

    def all_of_them(planners: Sequence[Planner]) -> float:
        started = time.process_time()
        for planner in planners:
            for wish in wishes:
                planner.plan(wish, GPUS)
        return len(planners) * len(wishes) / (time.process_time() - started)

    fresh = [Planner(facts) for facts in models]
    emit(f"plans over {len(GPUS)} pools, models never seen before", "1/s", [all_of_them(fresh)])
    emit(f"plans over {len(GPUS)} pools, again", "1/s", [all_of_them(fresh)])
    one = GPUS[6:7]
    started = time.process_time()
    for planner in fresh:
        for wish in wishes:
            planner.plan(wish, one)
    emit("plans on one pool", "1/s", [len(fresh) * len(wishes) / (time.process_time() - started)])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer models and shorter rests: about two minutes")
    parser.add_argument("--models", type=int, default=None, metavar="N", help="size of the crowd (1000; quick: 200)")
    parser.add_argument("--only", default="", metavar="WORDS", help="only the steps with these words in their titles")
    parser.add_argument("--rest", type=float, default=None, metavar="SECONDS", help="length of a rest (120; quick: 30)")
    arguments = parser.parse_args()
    if arguments.only.lower() in "plans":
        say("plans")
        plans()
    if arguments.only.lower() in "gateway":
        say("gateway")
        gateway.run(emit, say, quick=arguments.quick)
    if arguments.only.lower() in ("plans", "gateway"):
        return 0
    many = arguments.models or (200 if arguments.quick else 1000)
    rest = arguments.rest or (30.0 if arguments.quick else 120.0)
    cluster = LocalCluster.running()
    started = cluster is None
    if cluster is None:
        cluster = LocalCluster.load().up(profile="control-plane")
    try:
        with tempfile.TemporaryDirectory(prefix="vllm-operator-bench-") as folder:
            workbench = Workbench(cluster, Path(folder))
            try:
                run(workbench, quick=arguments.quick, many=many, rest=rest, only=arguments.only)
            finally:
                workbench.close()
    finally:
        if started:
            cluster.down()
    return 0


if __name__ == "__main__":
    sys.exit(main())
