"""The command line: ``python -m tests.cluster up|down|status|kubeconfig|image|env``."""

import argparse
import shlex
import sys

from .local import PROFILES, LocalCluster
from .progress import Progress
from .settings import OPERATOR_IMAGE, ClusterError


def _status(cluster: LocalCluster) -> int:
    rows = cluster.status()
    if not rows:
        print("no cluster: `python -m tests.cluster up` makes one")
        return 1
    print(f"profile: {cluster.profile}")
    table = [("COMPONENT", "PID", "HEALTH", "ADDRESS", "LOG")]
    table += [(row.name, str(row.pid or "-"), row.health, row.address or "-", str(row.log)) for row in rows]
    widths = [max(len(line[column]) for line in table) for column in range(5)]
    for line in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    return 0 if all(row.health == "ok" for row in rows) else 1


def main() -> int:
    """Run one command and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="start the cluster, or repair what is broken in it")
    up.add_argument("--profile", choices=sorted(PROFILES), default="full")
    commands.add_parser("down", help="stop all and remove the state (the cache of programs stays)")
    commands.add_parser("status", help="table of the components")
    commands.add_parser("kubeconfig", help="print the kubeconfig's path")
    commands.add_parser("env", help="print shell lines that set KUBECONFIG and PATH")
    image = commands.add_parser("image", help="build the repository's Dockerfile and import it into the real node")
    image.add_argument("--tag", default=OPERATOR_IMAGE)
    arguments = parser.parse_args()
    try:
        cluster = LocalCluster.load()
        match arguments.command:
            case "up":
                cluster.up(profile=arguments.profile, progress=Progress())
                print(f"export KUBECONFIG={shlex.quote(str(cluster.kubeconfig))}")
            case "down":
                cluster.down(Progress())
            case "status":
                return _status(cluster)
            case "kubeconfig":
                print(cluster.kubeconfig)
            case "image":
                print(cluster.build_image(tag=arguments.tag, progress=Progress()))
            case "env":
                for name, value in cluster.environment().items():
                    print(f"export {name}={shlex.quote(value)}")
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
