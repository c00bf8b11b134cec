"""What can be said about the Dockerfile without building it. tests/cluster builds it and runs the result."""

import re

from .support import REPOSITORY, only, render

DOCKERFILE = (REPOSITORY / "Dockerfile").read_text()


def _instructions() -> list[tuple[str, str]]:
    text = re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE).replace("\\\n", " ")
    return [
        (word.upper(), " ".join(rest.split()))
        for word, _, rest in (line.partition(" ") for line in text.splitlines() if line.strip())
    ]


def _final_stage() -> list[tuple[str, str]]:
    instructions = _instructions()
    start = max(index for index, (word, _) in enumerate(instructions) if word == "FROM")
    return instructions[start:]


def test_every_stage_starts_from_the_base_that_can_be_chosen() -> None:
    assert _instructions()[0][0] == "ARG"
    assert [rest.split()[0] for word, rest in _instructions() if word == "FROM"] == ["${BASE_IMAGE}", "${BASE_IMAGE}"]


def test_the_final_stage_runs_nothing_and_has_no_package_settings() -> None:
    words = [word for word, _ in _final_stage()]
    assert "RUN" not in words
    assert "ADD" not in words
    assert not [rest for word, rest in _final_stage() if word in {"ARG", "ENV"} and "PIP_" in rest]


def test_the_user_is_the_one_of_the_chart() -> None:
    [user] = [rest for word, rest in _final_stage() if word == "USER"]
    pod = only(render(), "Deployment")["spec"]["template"]["spec"]["securityContext"]
    assert user == f"{pod['runAsUser']}:{pod['runAsGroup']}"
    assert user.split(":")[0] != "0"


def test_the_command_is_the_one_of_the_chart() -> None:
    assert ("ENTRYPOINT", '["vllm-operator"]') in _final_stage()
    assert ("CMD", '["run"]') in _final_stage()
    container = only(render(), "Deployment")["spec"]["template"]["spec"]["containers"][0]
    assert "command" not in container
    assert container["args"] == ["run"]


def test_the_exposed_port_is_the_one_of_the_chart() -> None:
    container = only(render(), "Deployment")["spec"]["template"]["spec"]["containers"][0]
    assert ("EXPOSE", str(container["ports"][0]["containerPort"])) in _final_stage()


def test_only_what_is_copied_reaches_the_builder() -> None:
    lines = [
        line for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")
    ]
    assert lines[0] == "*"
    kept = {line.removeprefix("!").rstrip("/") for line in lines if line.startswith("!")}
    copied = {
        source.rstrip("/*")
        for word, rest in _instructions()
        if word == "COPY" and not rest.startswith("--from")
        for source in rest.split()[:-1]
    }
    assert copied == kept
