"""A soak of the gateway: steady load on the local cluster while everything behind it changes, one change after the other.

The operator and its gateway are installed by Helm into the local cluster (real API server, kubelet, containerd), which is started,
and stopped again, unless it runs. Most requests are answered by stand-ins for vLLM (tests/soak/stand_in.py), real pods of real models
with another program in them; a few by vLLM itself, which on a CPU could not answer more beside all else. Every request is looked at to its
last byte: it is good when its answer came whole, with all its tokens, and none is sent twice.
"""

import argparse
import itertools
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tests.cluster import ClusterError
from tests.cluster.progress import Progress
from tests.demo.installation import diagnosis
from tests.e2e.world import World, alone, brought_up

from .changes import CHANGES, NOTHING, Change, Scene
from .gateway_log import trouble_in_logs
from .load import Failure, LoadProcess, Rates
from .report import Report

TELL_SECONDS = 10.0
REST_SECONDS = 5.0
"""Between two changes, so that there are figures to compare with."""
MOST_SHOWN = 50
"""Failures that are shown in full."""

_EPILOG = """changes:
{changes}

examples:
  python -m tests.soak --minutes 10 --rate 200
  python -m tests.soak --minutes 1 --only add,remove,keys
  python -m tests.soak --minutes 10 -o json > soak.json

Progress goes to standard error. A change that has begun when the time is over is finished.
exit codes: 0 no request failed, 1 one did or a change did not come about, 2 cluster, gateway or models did not come up, or did not go
"""


class Soak:
    """One run: load, changes, and telling of both."""

    def __init__(self, scene: Scene, load: LoadProcess, progress: Progress) -> None:
        self._scene = scene
        self._load = load
        self._progress = progress
        self._last = (time.monotonic(), 0)
        self.changes: dict[str, list[float]] = defaultdict(list)
        self.failures: list[Failure] = []
        self.trouble: list[str] = []

    def go_on(self, changes: Sequence[Change], *, seconds: float) -> None:
        """Make the changes again and again until the time is over."""
        end = time.monotonic() + seconds
        with self._telling():
            try:
                self._rest(end)
                for change in itertools.cycle(changes):
                    if time.monotonic() >= end or not self._make(change):
                        break
                    self._rest(end)
            except KeyboardInterrupt:
                self.trouble.append("interrupted")

    def _make(self, change: Change) -> bool:
        """Whether it came about."""
        self._progress.say(f"{change.title} …")
        began = time.monotonic()
        self._load.order(change=change.title)
        try:
            change.make(self._scene)
        except (AssertionError, ClusterError) as error:
            self.trouble.append(f"{change.title}: {error}")
            self._progress.say(f"{change.title}: {error}")
            return False
        finally:
            self._load.order(change=NOTHING)
            self.changes[change.title].append(time.monotonic() - began)
        self._progress.say(f"{change.title}: done in {time.monotonic() - began:.1f} s")
        return True

    def _rest(self, end: float) -> None:
        seconds = max(0.0, min(REST_SECONDS, end - time.monotonic()))
        time.sleep(seconds)
        self.changes[NOTHING].append(seconds)

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Say now and then how it stands, and at once what the gateway's logs have on what has failed."""
        stop = threading.Event()

        def tell() -> None:
            while not stop.wait(TELL_SECONDS):
                self.tell()

        thread = threading.Thread(target=tell, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            self.tell()

    def tell(self) -> None:
        """Say how it stands."""
        now, (before, sent) = self._load.counts(), self._last
        self._last = (time.monotonic(), now.sent)
        rate = (now.sent - sent) / (self._last[0] - before)
        self._progress.say(
            f"{now.sent} sent, {rate:.0f}/s, {now.under_way} under way, {now.streams} streams, "
            f"{now.failed} failed, {now.cut} cut"
        )
        for each in now.failures[: max(0, MOST_SHOWN - len(self.failures))]:
            self._progress.say(f"  {each.sample.change}: {each}")
        self.failures += now.failures
        if now.failures and len(self.failures) <= MOST_SHOWN:
            for line in trouble_in_logs(self._scene.world):
                self._progress.say(f"  the gateway's log: {line}")


def soak(world: World, arguments: argparse.Namespace, progress: Progress) -> Report:
    """Run it."""
    scene = Scene(world, outage=arguments.outage)
    with progress.task("operator, gateway and models"):
        orders = scene.build()
    rates = Rates(arguments.rate, arguments.vllm_rate, arguments.streams)
    changes = [each for each in CHANGES if each.name in arguments.only and each.possible(world)]
    with LoadProcess(scene.url, orders, rates) as load:
        scene.attach(load)
        run = Soak(scene, load, progress)
        run.go_on(changes, seconds=60 * arguments.minutes)
        result = load.finish()
        run.failures += [each for each in load.counts().failures if each not in run.failures]
    for change in changes:
        if change.title not in run.changes:
            progress.say(f"there was no time for: {change.title}")
    report = Report(rates, result, run.changes, run.failures, run.trouble)
    if run.trouble:
        for namespace in world.namespaces:
            print(diagnosis(world.cluster, namespace, installation=world.operator), file=sys.stderr)
    return report


def positive(text: str) -> float:
    """A number above 0."""
    number = float(text)
    if not number > 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


def chosen(text: str) -> tuple[str, ...]:
    """Names of changes."""
    names, known = tuple(text.split(",")), [each.name for each in CHANGES]
    if unknown := [name for name in names if name not in known]:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: there are {', '.join(known)}")
    return names


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    listed = "\n".join(f"  {each.name:<10} {each.title}" for each in CHANGES)
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak",
        description=__doc__,
        epilog=_EPILOG.format(changes=listed),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--minutes", type=positive, default=10.0, metavar="N", help="how long it goes on [default: 10]")
    add("--rate", type=positive, default=200.0, metavar="N", help="requests a second, in all [default: 200]")
    add("--vllm-rate", type=positive, default=1.0, metavar="N", help="of these to vLLM itself [default: 1]")
    add("--streams", type=float, default=0.3, metavar="SHARE", help="share that is streamed, 0 to 1 [default: 0.3]")
    add("--outage", type=positive, default=60.0, metavar="SECONDS", help="of the API server, each [default: 60]")
    everything = ",".join(each.name for each in CHANGES)
    add("--only", type=chosen, default=chosen(everything), metavar="A,B", help="only these changes [default: all]")
    add("-o", "--output", choices=("text", "json"), default="text", help="[default: text]")
    arguments = parser.parse_args(words)
    if not 0 <= arguments.streams <= 1:
        parser.error("--streams is a share: 0 to 1")
    if arguments.vllm_rate >= arguments.rate:
        parser.error("--vllm-rate is a part of --rate: make it less")
    return arguments


def main() -> int:
    """Run the command and return the exit status."""
    arguments = parse()
    progress = Progress()
    try:
        with brought_up(progress) as (cluster, image), alone(cluster, image) as world:
            report = soak(world, arguments, progress)
            print(report.json() if arguments.output == "json" else report.text(), flush=True)
    except (AssertionError, ClusterError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0 if report.good else 1


if __name__ == "__main__":
    sys.exit(main())
