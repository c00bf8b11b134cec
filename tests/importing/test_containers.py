"""docker run and compose services."""

from typing import Any

import pytest

from vllm_operator.importing.docker import SHORT, SWITCHES, VALUED
from vllm_operator.importing.errors import ImportRefused
from vllm_operator.importing.model import import_model

TABLE = (
    "docker run --gpus all -v ~/.cache/huggingface:/root/.cache/huggingface -p 8000:8000 --ipc=host "
    "vllm/vllm-openai:v0.24.0 --model m -tp 2"
)


def engine_of(text: str, **names: Any) -> dict[str, Any]:
    engine: dict[str, Any] = import_model(text, **names).model["spec"].get("engine", {})
    return engine


def refused(text: str, **names: Any) -> str:
    with pytest.raises(ImportRefused) as caught:
        import_model(text, **names)
    return str(caught.value)


def test_docker_run() -> None:
    imported = import_model(TABLE)
    assert imported.model["spec"] == {
        "model": "m",
        "engine": {"version": "0.24.0", "image": "vllm/vllm-openai:v0.24.0"},
        "parallelism": {"tensor": 2},
    }
    assert imported.notes == (
        'the mount "~/.cache/huggingface:/root/.cache/huggingface" is left out: spec.cache keeps downloads',
        "left out, since Kubernetes or the operator does it: --gpus, --publish, --ipc",
    )


@pytest.mark.parametrize(
    "head",
    [
        "docker run",
        "docker container run",
        "docker --context far -H tcp://x run",
        "sudo docker run",
        "podman run",
        "/usr/bin/docker run -dit --rm --init -p8000:8000 -u 1000:1000 -w /x --ulimit memlock=-1",
        "docker run --restart unless-stopped --health-cmd 'curl x' --log-opt max-size=1m --add-host a:1",
    ],
)
def test_options_of_docker_are_no_options_of_vllm(head: str) -> None:
    imported = import_model(f"{head} vllm/vllm-openai:v0.32.0 m --seed 1")
    assert imported.model["spec"] == {
        "model": "m",
        "engine": {"version": "0.32.0", "image": "vllm/vllm-openai:v0.32.0", "seed": 1},
    }


def test_every_option_of_docker_run_takes_its_value_or_none() -> None:
    assert not SWITCHES & VALUED
    assert set(SHORT.values()) <= SWITCHES | VALUED
    for name in VALUED - {"entrypoint"}:
        assert import_model(f"docker run --{name} 7 img m").model["spec"]["model"] == "m"
        assert import_model(f"docker run --{name}=7 img m").model["spec"]["model"] == "m"
    for name in SWITCHES:
        assert import_model(f"docker run --{name} img m").model["spec"]["model"] == "m"
    for letter, name in SHORT.items():
        value = "" if name in SWITCHES else "7"
        assert import_model(f"docker run -i{letter}{value} img m").model["spec"]["model"] == "m"
        assert import_model(f"docker run -{letter} {value} img m").model["spec"]["model"] == "m"


@pytest.mark.parametrize(
    ("text", "engine"),
    [
        ("docker run img m", {"image": "img"}),
        (
            "docker run docker.io/vllm/vllm-openai:v0.30.0-cu130 m",
            {"version": "0.30.0-cu130", "image": "docker.io/vllm/vllm-openai:v0.30.0-cu130"},
        ),
        ("docker run vllm/vllm-openai:latest m", {"image": "vllm/vllm-openai:latest"}),
        ("docker run vllm/vllm-openai@sha256:abc m", {"image": "vllm/vllm-openai@sha256:abc"}),
        ("docker run vllm/vllm-openai:nightly-123 m", {"image": "vllm/vllm-openai:nightly-123"}),
        ("docker run --entrypoint vllm img serve m", {"image": "img"}),
        ("docker run --entrypoint python3 img -m vllm.entrypoints.openai.api_server --model m", {"image": "img"}),
        ("docker run --entrypoint '' img vllm serve m", {"image": "img"}),
        ("docker run --entrypoint /bin/bash img -c 'exec vllm serve m'", {"image": "img"}),
        ("docker run --entrypoint /start.sh img --model m", {"image": "img", "executable": ["/start.sh"]}),
        ("docker run img bash -c 'A=1 vllm serve m'", {"image": "img", "env": [{"name": "A", "value": "1"}]}),
        (
            "docker run -e A=1 --env B=2 -eC=3 img m",
            {
                "image": "img",
                "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}, {"name": "C", "value": "3"}],
            },
        ),
        ("B=2 docker run -e B img m", {"image": "img", "env": [{"name": "B", "value": "2"}]}),
    ],
)
def test_image_entrypoint_and_variables(text: str, engine: dict[str, Any]) -> None:
    assert engine_of(text) == engine


def test_the_image_says_the_version_and_the_accelerator() -> None:
    imported = import_model("docker run vllm/vllm-openai-cpu:v0.25.1 m --max-num-partial-prefills 2", version="0.32.0")
    assert imported.model["spec"]["accelerator"] == {"type": "cpu"}
    assert imported.model["spec"]["engine"]["version"] == "0.25.1"
    assert not any("removed" in note for note in imported.notes)
    own = import_model("docker run registry.example.com/team/vllm:v0.25.1 m --max-num-partial-prefills 2")
    assert "version" not in own.model["spec"]["engine"]
    assert not any("removed" in note for note in own.notes)
    assert any("if spec.engine.version says 0.25.1" in note for note in own.notes)


def test_what_a_container_is_given() -> None:
    imported = import_model(
        "docker run --gpus 4 --shm-size=16g -m 64g --cpus 8 --env-file .env --mount type=bind,source=/a,target=/b "
        "-v /data:/models -e NVIDIA_VISIBLE_DEVICES=all -e HF_TOKEN -e A=$B --device /dev/kfd vllm/vllm-openai:v0.32.0 /models/x -tp 2"
    )
    assert imported.model["spec"]["resources"] == {"limits": {"memory": "64Gi", "cpu": "8"}}
    assert imported.model["spec"]["sharedMemory"] == {"sizeLimit": "16Gi"}
    for note in (
        "the container is given 4 GPUs, but the command uses 2: spec.parallelism says how many",
        'the mount "/a:/b" is left out: use podTemplate',
        'the mount "/data:/models" is left out, and the model is in it: copy it into a PersistentVolumeClaim and write model: pvc://CLAIM/PATH',
        "the variable A is left out: the value of $B is not known",
        "--env-file is not read: add its variables to spec.engine.env, and those that are secret to a Secret",
        "--device of docker run is left out",
        "left out, since Kubernetes or the operator does it: --gpus, NVIDIA_VISIBLE_DEVICES",
    ):
        assert note in imported.notes
    assert any("the value of $HF_TOKEN is not known" in note for note in imported.notes)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("docker ps", "only `docker run` starts a container"),
        ("docker run", "names no image"),
        ("docker run -v", "-v has no value"),
        ("docker run --brand-new x img m", "--brand-new is no option of docker run that is known here"),
        ("docker run -z img m", "-z is no option of docker run"),
        ("docker run img", "names no model"),
        ("docker run img bash", "the container runs a shell"),
    ],
)
def test_what_docker_would_not_run(text: str, part: str) -> None:
    assert part in refused(text)


COMPOSE = """
x-common: &common
  restart: always
services:
  web:
    image: open-webui
  llm:
    <<: *common
    image: vllm/vllm-openai:v0.24.0
    container_name: llm
    command: >
      --model ${MODEL:-Qwen/Qwen3-8B}
      --max-model-len 32k
      --limit-mm-per-prompt '{"image": 4}'
      --response-role "$$(x)"
    environment:
      - HUGGING_FACE_HUB_TOKEN=hunter2
      - VLLM_LOGGING_LEVEL=DEBUG
    volumes:
      - ~/.cache/huggingface:/root/.cache/huggingface
      - {type: bind, source: ./x, target: /x}
    ports: ["8000:8000"]
    ipc: host
    shm_size: 8gb
    user: "1000"
    deploy:
      replicas: 2
      placement: {}
      resources:
        limits: {memory: 32G, cpus: "4"}
        reservations:
          devices: [{driver: nvidia, count: 1, capabilities: [gpu]}]
"""


def test_compose() -> None:
    imported = import_model(COMPOSE)
    assert imported.model["spec"] == {
        "model": "Qwen/Qwen3-8B",
        "hub": {"tokenSecretRef": {"name": "qwen3-8b-credentials", "key": "HF_TOKEN"}},
        "servedModelNames": ["Qwen/Qwen3-8B"],
        "engine": {
            "version": "0.24.0",
            "image": "vllm/vllm-openai:v0.24.0",
            "maxModelLen": 32000,
            "args": {"limit-mm-per-prompt": {"image": 4}, "response-role": "$(x)"},
            "env": [{"name": "VLLM_LOGGING_LEVEL", "value": "DEBUG"}],
        },
        "replicas": 2,
        "resources": {"limits": {"memory": "32Gi", "cpu": "4"}},
        "sharedMemory": {"sizeLimit": "8Gi"},
    }
    assert imported.secret is not None
    assert imported.secret["stringData"] == {"HF_TOKEN": "hunter2"}
    assert imported.notes == (
        'the mount "~/.cache/huggingface:/root/.cache/huggingface" is left out: spec.cache keeps downloads',
        'the mount "./x:/x" is left out: use podTemplate',
        "left out, since Kubernetes or the operator does it: restart, container_name, ports, ipc, GPUs of deploy",
        "user of the compose service is left out",
        "deploy.placement of the compose service is left out",
    )


@pytest.mark.parametrize(
    ("text", "engine"),
    [
        (
            "image: img\ncommand: [--model, m, --seed, 1, --enforce-eager]",
            {"image": "img", "enforceEager": True, "seed": 1},
        ),
        ("image: img\ncommand: vllm serve m --seed 1\n", {"image": "img", "seed": 1}),
        ("image: img\nentrypoint: [vllm, serve]\ncommand: m --seed 1\n", {"image": "img", "seed": 1}),
        (
            "image: img\nentrypoint: python3 -m vllm.entrypoints.openai.api_server\ncommand: --model m\n",
            {"image": "img"},
        ),
        (
            "image: img\ncommand: [bash, -c, 'vllm serve $$M --seed 1']\nenvironment: {M: m}\n",
            {"image": "img", "seed": 1, "env": [{"name": "M", "value": "m"}]},
        ),
        (
            "llm:\n  image: img\n  command: m\n  environment:\n    A: 1\n    B: true\n    C:\n",
            {"image": "img", "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "true"}]},
        ),
    ],
)
def test_a_service_alone(text: str, engine: dict[str, Any]) -> None:
    assert engine_of(text) == engine


def test_which_service() -> None:
    two = "services:\n  a: {image: vllm, command: --model x}\n  b: {image: vllm, command: --model y}\n"
    assert "Name it with --service: a, b" in refused(two)
    assert import_model(two, service="b").model["spec"]["model"] == "y"
    assert "there is no service c; there are a, b" in refused(two, service="c")
    assert "--service is for compose files" in refused("vllm serve m", service="a")


@pytest.mark.parametrize(
    "text",
    [
        "services: [",
        "services: 3",
        "services: {}",
        "services:\n  a: 3",
        "image: x\ncommand: 3",
        "image: x\ncommand: {a: b}",
        "image: x\ncommand: [[a]]",
        "image: x\nenvironment: 3\ncommand: m",
        "image: x\ndeploy: 3\ncommand: m",
        "image: x\ncommand: ${M:?no}",
        "image: x\ncommand: vllm serve m; reboot",
        "image: !!python/object/apply:os.system [id]\ncommand: m",
        "command: " + "[" * 5000,
        "image: 2001-99-99\ncommand: m",
        "services:\n" + "".join(f"  a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9) if n else 'x'}]\n" for n in range(40)),
    ],
)
def test_what_is_no_compose_file(text: str) -> None:
    assert refused(text)
