"""`docker run` (also podman's and nerdctl's): its own options, the image, and what the image is given."""

from collections.abc import Sequence

from vllm_operator.importing.container import Run, mount, read_mount
from vllm_operator.importing.errors import ImportRefused
from vllm_operator.importing.shell import unknown

PROGRAMS = frozenset({"docker", "podman", "nerdctl"})

# fmt: off
SWITCHES = frozenset((
    "detach", "disable-content-trust", "help", "init", "interactive", "no-healthcheck", "oom-kill-disable", "privileged", "publish-all",
    "quiet", "read-only", "replace", "rm", "sig-proxy", "tls-verify", "tty", "use-api-socket",
))
"""Options of `docker run` without a value."""

VALUED = frozenset((
    "add-host", "annotation", "attach", "authfile", "blkio-weight", "blkio-weight-device", "cap-add", "cap-drop", "cgroup-conf",
    "cgroup-parent", "cgroupns", "cgroups", "cidfile", "cpu-count", "cpu-percent", "cpu-period", "cpu-quota", "cpu-rt-period",
    "cpu-rt-runtime", "cpu-shares", "cpus", "cpuset-cpus", "cpuset-mems", "detach-keys", "device", "device-cgroup-rule",
    "device-read-bps", "device-read-iops", "device-write-bps", "device-write-iops", "dns", "dns-opt", "dns-option", "dns-search",
    "domainname", "entrypoint", "env", "env-file", "expose", "gpus", "group-add", "health-cmd", "health-interval", "health-retries",
    "health-start-interval", "health-start-period", "health-timeout", "hostname", "io-maxbandwidth", "io-maxiops", "ip", "ip6", "ipc",
    "isolation", "kernel-memory", "label", "label-file", "link", "link-local-ip", "log-driver", "log-opt", "mac-address", "memory",
    "memory-reservation", "memory-swap", "memory-swappiness", "mount", "name", "net", "net-alias", "network", "network-alias",
    "oom-score-adj", "pid", "pidfile", "pids-limit", "platform", "pod", "publish", "pull", "restart", "runtime", "secret",
    "security-opt", "shm-size", "stop-signal", "stop-timeout", "storage-opt", "sysctl", "systemd", "tmpfs", "ulimit", "user", "userns",
    "uts", "volume", "volume-driver", "volumes-from", "workdir",
))
"""Options of `docker run` with a value."""

SHORT = {
    "a": "attach", "c": "cpu-shares", "d": "detach", "e": "env", "h": "hostname", "i": "interactive", "l": "label", "m": "memory",
    "P": "publish-all", "p": "publish", "q": "quiet", "t": "tty", "u": "user", "v": "volume", "w": "workdir",
}

NEEDLESS = frozenset((
    "attach", "cidfile", "detach", "detach-keys", "disable-content-trust", "expose", "gpus", "help", "hostname", "init", "interactive",
    "ipc", "log-driver", "log-opt", "name", "platform", "publish", "publish-all", "pull", "quiet", "replace", "restart", "rm",
    "sig-proxy", "stop-signal", "stop-timeout", "tty",
))
"""Options whose work Kubernetes or the operator does anyway."""
# fmt: on

GLOBAL_VALUED = frozenset(
    ["--config", "-c", "--context", "-H", "--host", "-l", "--log-level", "--tlscacert", "--tlscert", "--tlskey"]
)
"""Options of `docker` itself with a value."""


def read_docker_run(words: Sequence[str], environment: dict[str, str]) -> tuple[Run, list[str], str | None]:
    """`docker run …` → what is run without its words, what the image is given, and --entrypoint.

    `environment`: of the docker command itself; `-e NAME` takes its value from there. Raises ImportRefused.
    """
    rest = list(words[1:])
    while rest and rest[0].startswith("-"):
        option = rest.pop(0)
        if option in GLOBAL_VALUED and rest:
            rest.pop(0)
    if rest[:1] == ["container"]:
        rest.pop(0)
    if rest[:1] not in (["run"], ["create"]):
        raise ImportRefused(f"{words[0]} {rest[0] if rest else ''}: only `{words[0]} run` starts a container")
    rest.pop(0)
    run = Run()
    entrypoint: str | None = None
    while rest and rest[0].startswith("-") and len(rest[0]) > 1:
        word = rest.pop(0)
        if word == "--":
            break
        for name, value in _options(word, rest):
            if name == "entrypoint":
                entrypoint = value
            else:
                _take(run, name, value, environment)
    if not rest:
        raise ImportRefused(f"{words[0]} run names no image")
    run.image = rest.pop(0)
    return run, rest, entrypoint


def _options(word: str, rest: list[str]) -> list[tuple[str, str]]:
    """The options in a word, with their values; takes a value from `rest` where one stands there. Raises ImportRefused."""

    def following(flag: str) -> str:
        if not rest:
            raise ImportRefused(f"{flag} has no value")
        return rest.pop(0)

    if word.startswith("--"):
        name, equals, value = word[2:].partition("=")
        if name in SWITCHES:
            return [(name, value)] if value != "false" else []
        if not equals and name not in VALUED:
            raise ImportRefused(
                f"--{name} is no option of docker run that is known here: write its value as --{name}=..., or remove it"
            )
        return [(name, value if equals else following(word))]
    found = []
    letters = word[1:]
    while letters:
        letter, letters = letters[0], letters[1:]
        name = SHORT.get(letter, "")
        if not name:
            raise ImportRefused(f"-{letter} is no option of docker run")
        if name in SWITCHES:
            found.append((name, ""))
            continue
        found.append((name, letters.removeprefix("=") if letters else following(f"-{letter}")))
        break
    return found


def _take(run: Run, name: str, value: str, environment: dict[str, str]) -> None:
    if name in NEEDLESS:
        run.needless.append(f"--{name}")
    match name:
        case "env":
            variable, equals, text = value.partition("=")
            run.environment[variable] = text if equals else environment.get(variable, unknown(variable))
        case "gpus":
            number = value.removeprefix("count=")
            run.gpus = int(number) if number.isascii() and number.isdecimal() and len(number) < 5 else None
        case "shm-size":
            run.shared_memory = value
        case "memory":
            run.memory = value
        case "cpus":
            run.cpus = value
        case "volume":
            mount(run, value)
        case "mount":
            read_mount(run, value.split(","))
        case "env-file":
            run.notes.append(
                "--env-file is not read: add its variables to spec.engine.env, and those that are secret to a Secret"
            )
        case _ if name not in NEEDLESS:
            run.notes.append(f"--{name} of docker run is left out")
