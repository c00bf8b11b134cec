"""A text → what it runs: finds the one command that starts a vLLM, and takes away what stands around it."""

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from vllm_operator.importing.compose import looks_like_compose, read_compose
from vllm_operator.importing.container import Run
from vllm_operator.importing.docker import PROGRAMS, read_docker_run
from vllm_operator.importing.errors import ImportRefused
from vllm_operator.importing.shell import check_text, read_script

_PYTHON = re.compile(r"python(3(\.\d+)?)?")
_API_SERVER = "vllm.entrypoints.openai.api_server"
_COMMAND_LINE = ("vllm", "vllm.entrypoints.cli.main")
_SHELLS = frozenset({"sh", "bash", "dash", "zsh", "ash"})
_PREFIXES = frozenset({"$", "nohup", "exec", "time", "command"})
"""Words in front of a command that mean nothing in a pod."""
WRAPPERS = frozenset(
    [
        "chrt",
        "conda",
        "dumb-init",
        "ionice",
        "mamba",
        "nice",
        "nsys",
        "numactl",
        "pipenv",
        "poetry",
        "stdbuf",
        "taskset",
        "timeout",
        "tini",
        "uv",
        "uvx",
    ]
)
"""Programs that run the rest of their words, which the image may have too."""
_DEEPEST = 3
"""Shells within shells."""


def read_run(text: str, *, service: str | None = None) -> Run:
    """What a text runs: a command line, docker run or a compose file, of which `service` is meant. Raises ImportRefused."""
    text = check_text(text)
    if not text.strip():
        raise ImportRefused("the command is empty")
    if looks_like_compose(text):
        run, command, entrypoint = read_compose(text, service=service)
        return _in_container(run, entrypoint, command or [])
    if service is not None:
        raise ImportRefused("--service is for compose files, and this is none")
    return _of_script(text, {}, depth=0)


def _of_script(text: str, environment: Mapping[str, str], *, depth: int) -> Run:
    """The one command of a text that starts a vLLM."""
    script = read_script(text, environment)
    found: list[Run] = []
    others: list[str] = []
    for statement in script.statements:
        words = list(statement.words)
        around = {**script.exported, **statement.environment}
        run = _start(words, around, depth=depth)
        if run is None:
            others.append(words[0])
            continue
        if statement.redirected:
            run.notes.append("where the output goes is left out: kubectl logs has it")
        found.append(run)
    if not found:
        begins = f"it begins with {others[0][:40]!r}" if others else "it has none"
        raise ImportRefused(
            f"this is no command that starts a vLLM ({begins}): write vllm serve MODEL, docker run ..., or options alone"
        )
    if len(found) > 1:
        raise ImportRefused(f"there are {len(found)} commands that start a vLLM: import each by itself")
    [run] = found
    for word in others:
        run.notes.append(f"the command {word[:40]!r} beside it is left out")
    return run


def _start(words: list[str], environment: Mapping[str, str], *, depth: int) -> Run | None:
    """What a command runs; None when it starts no vLLM."""
    environment = dict(environment)
    while words:
        if words[0] in _PREFIXES:
            words = words[1:]
        elif words[0] == "sudo":
            words = words[1:]
            while words and words[0].startswith("-"):
                words = words[2 if words[0] in ("-u", "-g") else 1 :]
        elif words[0] == "env":
            words = words[1:]
            while words and (words[0].startswith("-") or "=" in words[0]):
                if words[0] in ("-u", "--unset"):
                    environment.pop(words[1] if len(words) > 1 else "", None)
                    words = words[1:]
                elif "=" in words[0]:
                    name, _, value = words[0].partition("=")
                    environment[name] = value
                words = words[1:]
        else:
            break
    if not words:
        return None
    program = PurePosixPath(words[0]).name
    if program in PROGRAMS:
        run, command, entrypoint = read_docker_run(words, environment)
        return _in_container(run, [entrypoint] if entrypoint else None, command)
    if program in _SHELLS:
        return _of_shell(words, environment, depth=depth)
    run = Run(environment=environment)
    return run if _serve(run, words) else None


def _of_shell(words: Sequence[str], environment: Mapping[str, str], *, depth: int) -> Run | None:
    """What `sh -c TEXT` runs."""
    place = next((n for n, word in enumerate(words) if re.fullmatch(r"-[a-z]*c", word)), None)
    if place is None or place + 1 == len(words):
        return None
    if depth == _DEEPEST:
        raise ImportRefused("there are shells within shells: give the command alone")
    run = _of_script(words[place + 1], environment, depth=depth + 1)
    run.environment = {**environment, **run.environment}
    return run


def _in_container(run: Run, entrypoint: Sequence[str] | None, command: Sequence[str]) -> Run:
    """The run with its words: what the image is given, behind its own entrypoint or another one."""
    words = [*(entrypoint or ()), *command]
    while words and words[0] in ("exec", "nohup"):
        del words[0]
    if words and PurePosixPath(words[0]).name in _SHELLS:
        inner = _of_shell(words, run.environment, depth=0)
        if inner is None or inner.image is not None:
            raise ImportRefused("the container runs a shell, but not with -c and a command that starts a vLLM")
        run.words, run.executable = inner.words, inner.executable
        run.environment |= inner.environment
        run.notes += inner.notes
        return run
    if _serve(run, words):
        return run
    # an image of vLLM's begins with `vllm serve` by itself; one of somebody's own with something else that takes the same
    run.words = list(command)
    if entrypoint:
        run.executable = tuple(entrypoint)
    return run


def _serve(run: Run, words: Sequence[str]) -> bool:
    """Whether the words start a vLLM; then the run has what follows."""
    if not words:
        return False
    program = PurePosixPath(words[0]).name
    rest = list(words)
    if words[0].startswith("-"):
        run.words = rest
        return True
    if words[0] == "serve":
        run.words = rest[1:]
        return True
    if program == "vllm":
        if words[1:2] != ["serve"]:
            raise ImportRefused(
                f"vllm {words[1] if len(words) > 1 else ''} starts no server: only vllm serve can be imported"
            )
        run.words = rest[2:]
        return True
    if _PYTHON.fullmatch(program):
        return _python(run, rest[1:])
    if program in WRAPPERS:
        for place in range(1, len(words)):
            inner = Run()
            if words[place].startswith("-") or words[place] == "serve" or not _is_start(words[place:]):
                continue
            if _serve(inner, words[place:]):
                run.words = inner.words
                run.executable = tuple(words[: len(words) - len(inner.words)])
                return True
    return False


def _is_start(words: Sequence[str]) -> bool:
    program = PurePosixPath(words[0]).name
    return (program == "vllm" and words[1:2] == ["serve"]) or _PYTHON.fullmatch(program) is not None


def _python(run: Run, words: list[str]) -> bool:
    """`python -m MODULE …`, or with the module's file."""
    while words and words[0].startswith("-") and words[0] != "-m":
        words = words[2 if words[0] in ("-X", "-W") else 1 :]
    if words[:1] == ["-m"]:
        words = words[1:]
    elif not words or not words[0].endswith(("vllm/entrypoints/openai/api_server.py", "/bin/vllm")):
        return False
    module, rest = words[0] if words else "", words[1:]
    if module in _COMMAND_LINE or module.endswith("/bin/vllm"):
        if rest[:1] != ["serve"]:
            return False
        rest = rest[1:]
    elif module != _API_SERVER and not module.endswith(".py"):
        return False
    run.words = rest
    return True
