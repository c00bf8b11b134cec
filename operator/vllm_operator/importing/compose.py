"""A service of a compose file → what it runs."""

import re
from collections.abc import Mapping
from typing import Any

import yaml

from vllm_operator.importing.container import Run, mount
from vllm_operator.importing.errors import ImportRefused
from vllm_operator.importing.shell import DOLLAR, interpolate, read_script, unknown

_LOOKS_LIKE = re.compile(r"^[ \t]*(services|image|command|entrypoint|container_name)[ \t]*:", re.MULTILINE)
_SERVICE_KEYS = frozenset({"image", "command", "build"})

NEEDLESS = frozenset(
    [
        "container_name",
        "depends_on",
        "expose",
        "healthcheck",
        "hostname",
        "init",
        "ipc",
        "logging",
        "networks",
        "platform",
        "ports",
        "profiles",
        "pull_policy",
        "restart",
        "stdin_open",
        "stop_grace_period",
        "stop_signal",
        "tty",
    ]
)
"""Keys of a service whose work Kubernetes or the operator does anyway."""


def looks_like_compose(text: str) -> bool:
    """Whether a text is more likely a compose file than a command."""
    return _LOOKS_LIKE.search(text) is not None and text.lstrip()[:1] not in ("-", "'", '"')


def read_compose(text: str, *, service: str | None) -> tuple[Run, list[str] | None, list[str] | None]:
    """A compose file, or one service of it → what is run without its words, its command, and its entrypoint.

    Raises ImportRefused.
    """
    try:
        document = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        where = getattr(error, "problem_mark", None)
        raise ImportRefused(
            "this looks like a compose file, but is no YAML" + (f": line {where.line + 1}" if where is not None else "")
        ) from error
    return _read_service(_choose(document, service))


def _choose(document: Any, wanted: str | None) -> dict[Any, Any]:
    """The service that is meant."""
    if not isinstance(document, dict):
        raise ImportRefused("this looks like a compose file, but has no services")
    if "services" not in document and _SERVICE_KEYS & document.keys():
        return document
    services = document.get("services", document)
    if not isinstance(services, dict):
        raise ImportRefused("services of the compose file is no mapping")
    found: dict[str, dict[Any, Any]] = {str(name): each for name, each in services.items() if isinstance(each, dict)}
    if wanted is not None:
        if wanted not in found:
            raise ImportRefused(f"there is no service {wanted}; there are {', '.join(found) or 'none'}")
        return found[wanted]
    likely = [
        name
        for name, each in found.items()
        if any(_mentions_vllm(each.get(key)) for key in ("image", "command", "entrypoint"))
    ]
    if len(found) == 1:
        likely = list(found)
    if len(likely) != 1:
        raise ImportRefused(f"which service? Name it with --service: {', '.join(likely or found) or 'there is none'}")
    return found[likely[0]]


def _mentions_vllm(value: Any) -> bool:
    return any(isinstance(each, str) and "vllm" in each for each in (value if isinstance(value, list) else [value]))


def _read_service(service: Mapping[str, Any]) -> tuple[Run, list[str] | None, list[str] | None]:
    run = Run()
    for key, value in service.items():
        match key:
            case "image":
                run.image = interpolate(_text(value))
            case "environment":
                _environment(run, value)
            case "volumes":
                for each in value if isinstance(value, list) else ():
                    if isinstance(each, dict):
                        run.mounts.append((_text(each.get("source")), _text(each.get("target"))))
                    else:
                        mount(run, interpolate(_text(each)))
            case "shm_size":
                run.shared_memory = interpolate(_text(value))
            case "mem_limit":
                run.memory = interpolate(_text(value))
            case "cpus":
                run.cpus = interpolate(_text(value))
            case "deploy":
                _deploy(run, value)
            case "env_file":
                run.notes.append(
                    "env_file is not read: add its variables to spec.engine.env, and those that are secret to a Secret"
                )
            case "command" | "entrypoint":
                pass
            case _ if key not in NEEDLESS and not str(key).startswith("x-"):
                run.notes.append(f"{key} of the compose service is left out")
        if key in NEEDLESS:
            run.needless.append(str(key))
    return run, _words(service, "command"), _words(service, "entrypoint")


def _words(service: Mapping[str, Any], key: str) -> list[str] | None:
    """A command as a list, or as text that is split as a shell splits words. Raises ImportRefused."""
    value = service.get(key)
    if value is None:
        return None
    if isinstance(value, list):
        return [interpolate(_text(each)) for each in value]
    if not isinstance(value, str):
        raise ImportRefused(f"{key} of the compose service is neither text nor a list")
    # variables are replaced before the text is split; a $ that is left is for no shell
    statements = read_script(interpolate(value).replace("$", DOLLAR)).statements
    if len(statements) > 1:
        raise ImportRefused(f"{key} of the compose service is several commands: give one")
    words = [word for each in statements for word in (*_assignments(each.environment), *each.words)]
    return [word.replace(DOLLAR, "$") for word in words]


def _assignments(environment: Mapping[str, str]) -> list[str]:
    return [f"{name}={value}" for name, value in environment.items()]


def _text(value: Any) -> str:
    """A scalar of YAML as the text that it stands for. Raises ImportRefused for anything else."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | dict):
        raise ImportRefused("the compose service has a list or a mapping where a text belongs")
    try:
        return str(value)
    except ValueError as error:
        raise ImportRefused("the compose service has a number that is too long") from error


def _environment(run: Run, value: Any) -> None:
    if isinstance(value, dict):
        pairs = [(str(name), None if text is None else interpolate(_text(text))) for name, text in value.items()]
    elif isinstance(value, list):
        split = [interpolate(_text(each)).partition("=") for each in value]
        pairs = [(name, text if equals else None) for name, equals, text in split]
    else:
        raise ImportRefused("environment of the compose service is neither a mapping nor a list")
    for name, text in pairs:
        run.environment[name] = unknown(name) if text is None else text


def _deploy(run: Run, value: Any) -> None:
    if not isinstance(value, dict):
        raise ImportRefused("deploy of the compose service is no mapping")
    replicas = value.get("replicas")
    if isinstance(replicas, int) and not isinstance(replicas, bool):
        run.replicas = replicas
    resources = value.get("resources")
    resources = resources if isinstance(resources, dict) else {}
    limits = resources.get("limits")
    if isinstance(limits, dict):
        run.memory = _text(limits["memory"]) if "memory" in limits else run.memory
        run.cpus = _text(limits["cpus"]) if "cpus" in limits else run.cpus
    reservations = resources.get("reservations")
    devices = reservations.get("devices") if isinstance(reservations, dict) else None
    for device in devices if isinstance(devices, list) else ():
        if isinstance(device, dict):
            count, ids = device.get("count"), device.get("device_ids")
            run.gpus = count if isinstance(count, int) else len(ids) if isinstance(ids, list) else None
            run.needless.append("GPUs of deploy")
    left = [str(key) for key in value if key not in ("replicas", "resources", "restart_policy", "mode")]
    if left:
        run.notes.append(f"deploy.{', deploy.'.join(left)} of the compose service is left out")
