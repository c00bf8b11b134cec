"""Commands as people write and paste them, and what becomes of them."""

from pathlib import Path
from typing import Any

import pytest

from vllm_operator.importing.errors import ImportRefused
from vllm_operator.importing.model import Imported, import_model


def spec_of(text: str, **names: Any) -> dict[str, Any]:
    """The spec, without the name that vLLM gives a model by itself."""
    spec = dict(import_model(text, **names).model["spec"])
    if spec.get("servedModelNames") == [spec["model"]]:
        del spec["servedModelNames"]
    return spec


def refused(text: str, **names: Any) -> str:
    with pytest.raises(ImportRefused) as caught:
        import_model(text, **names)
    return str(caught.value)


def engine(**fields: Any) -> dict[str, Any]:
    return {"model": "m", "engine": fields}


def args(**given: Any) -> dict[str, Any]:
    return engine(args={name.replace("_", "-"): value for name, value in given.items()})


DIALOG = {"model": "microsoft/DialoGPT-medium"}
TWO_LINES = """
# what we run since Tuesday
vllm serve m \\
    --tensor-parallel-size 2 \\   # two GPUs
    # a comment between lines

    --max-model-len 4096 \\
    --enforce-eager
"""

READ: list[tuple[str, dict[str, Any]]] = [
    # what is run
    ("vllm serve microsoft/DialoGPT-medium", DIALOG),
    ("/usr/local/bin/vllm serve microsoft/DialoGPT-medium", DIALOG),
    ("serve microsoft/DialoGPT-medium", DIALOG),
    ("$ vllm serve microsoft/DialoGPT-medium", DIALOG),
    ("sudo -E nohup vllm serve microsoft/DialoGPT-medium &", DIALOG),
    ("exec 'vllm' \"serve\" microsoft/DialoGPT-medium\n", DIALOG),
    ("vllm serve --model microsoft/DialoGPT-medium", DIALOG),
    ("vllm serve --model=microsoft/DialoGPT-medium", DIALOG),
    ("--model microsoft/DialoGPT-medium", DIALOG),
    ("python -m vllm.entrypoints.openai.api_server --model microsoft/DialoGPT-medium", DIALOG),
    ("/opt/venv/bin/python3.11 -u -m vllm.entrypoints.openai.api_server --model microsoft/DialoGPT-medium", DIALOG),
    ("python3 -m vllm.entrypoints.cli.main serve microsoft/DialoGPT-medium", DIALOG),
    ("bash -lc 'vllm serve microsoft/DialoGPT-medium'", DIALOG),
    ("cd /srv && vllm serve microsoft/DialoGPT-medium > log 2>&1", DIALOG),
    ("vllm serve microsoft/DialoGPT-medium\r\n", DIALOG),
    ("vllm serve --enforce-eager m", engine(enforceEager=True)),
    ("numactl -N 0 vllm serve m", engine(executable=["numactl", "-N", "0", "vllm", "serve"])),
    ("vllm serve s3://bucket/x --load-format runai_streamer", {"model": "s3://bucket/x"}),
    # typed fields
    (
        "vllm serve microsoft/DialoGPT-medium --tensor-parallel-size 2",
        {**DIALOG, "parallelism": {"tensor": 2}},
    ),
    (
        "vllm serve /path/to/model --gpu-memory-utilization 0.8",
        {"model": "/path/to/model", "engine": {"gpuMemoryUtilization": 0.8}},
    ),
    (
        "vllm serve m --tensor-parallel-size 4 --gpu-memory-utilization 0.8 --enable-log-outputs",
        {
            "model": "m",
            "engine": {"gpuMemoryUtilization": 0.8, "args": {"enable-log-outputs": True}},
            "parallelism": {"tensor": 4},
        },
    ),
    ("vllm serve --model m --max_model_len 4096", engine(maxModelLen=4096)),
    ("--model m --max-model-len 4096", engine(maxModelLen=4096)),
    ("vllm serve m --max-model-len 32k", engine(maxModelLen=32000)),
    ("vllm serve m --max-model-len=32K", engine(maxModelLen=32768)),
    ("vllm serve m --max-model-len 1.5k", engine(maxModelLen=1500)),
    ("vllm serve m --max-model-len auto", engine(maxModelLen="auto")),
    ("vllm serve m --max-model-len -1", engine(maxModelLen=-1)),
    ("vllm serve m --max-num-batched-tokens 8k", engine(maxNumBatchedTokens=8000)),
    ("vllm serve m -tp 2 -pp 2", {"model": "m", "parallelism": {"tensor": 2, "pipeline": 2}}),
    ("vllm serve m -tp=2 -dp2 -ep", {"model": "m", "parallelism": {"tensor": 2, "data": 2, "expert": True}}),
    ("vllm serve m -q fp8", engine(quantization="fp8")),
    ("vllm serve m -qfp8", engine(quantization="fp8")),
    ("vllm serve m --no-enable-prefix-caching", engine(enablePrefixCaching=False)),
    ("vllm serve m --no_enable_prefix_caching", engine(enablePrefixCaching=False)),
    ("vllm serve m --enforce-eager --no-enforce-eager", engine(enforceEager=False)),
    ("vllm serve m --seed 0 --cpu-offload-gb 0", engine(cpuOffloadGB=0, seed=0)),
    ("vllm serve m --seed -1", args(seed=-1)),
    (
        'vllm serve m --speculative-config \'{"method": "mtp", "num_speculative_tokens": 1}\'',
        engine(speculativeConfig={"method": "mtp", "num_speculative_tokens": 1}),
    ),
    (
        "vllm serve m --speculative-config.method mtp -sc.num_speculative_tokens=1",
        engine(speculativeConfig={"method": "mtp", "num_speculative_tokens": 1}),
    ),
    (
        "vllm serve m --compilation_config.pass_config.fuse true --compilation-config.sizes+ 1,2 --compilation-config.sizes+=4",
        engine(compilationConfig={"pass_config": {"fuse": True}, "sizes": ["1", "2", "4"]}),
    ),
    ("vllm serve m --hf-overrides.n 32k", engine(hfOverrides={"n": 32000})),
    ("vllm serve m --hf-overrides my.module", args(hf_overrides="my.module")),
    (
        "vllm serve m --enable-auto-tool-choice --tool-call-parser hermes --reasoning-parser qwen3",
        engine(toolCallParser="hermes", reasoningParser="qwen3"),
    ),
    ("vllm serve m --tool-call-parser hermes", args(tool_call_parser="hermes")),
    ("vllm serve m --revision v1", {"model": "m", "hub": {"revision": "v1"}}),
    ("vllm serve m --served-model-name a b", {"model": "m", "servedModelNames": ["a", "b"]}),
    ("HF_ENDPOINT=https://mirror vllm serve m", {"model": "m", "hub": {"endpoint": "https://mirror"}}),
    # args
    ('vllm serve m --chat-template "a b.jinja"', args(chat_template="a b.jinja")),
    ("vllm serve m --chat-template a\\ b.jinja", args(chat_template="a b.jinja")),
    ("vllm serve m --lora-modules a=/x b=/y", args(lora_modules=["a=/x", "b=/y"])),
    (
        'vllm serve m --lora-modules \'{"name": "a", "path": "/x"}\'',
        args(lora_modules=[{"name": "a", "path": "/x"}]),
    ),
    ("vllm serve m --middleware auth.py --middleware=cors.py", args(middleware=["auth.py", "cors.py"])),
    ("vllm serve m --limit-mm-per-prompt '{\"image\": 4}'", args(limit_mm_per_prompt={"image": 4})),
    ("vllm serve m --allowed-origins '[\"*\"]'", args(allowed_origins=["*"])),
    (
        "vllm serve m --cudagraph-capture-sizes 1 2 4 --enforce-eager",
        engine(enforceEager=True, args={"cudagraph-capture-sizes": [1, 2, 4]}),
    ),
    ("vllm serve m --numa-bind-nodes -1 0", args(numa_bind_nodes=[-1, 0])),
    ("vllm serve m -O3", args(optimization_level="3")),
    ("vllm serve m -O 3", args(optimization_level="3")),
    ("vllm serve m --otlp-tr http://x", args(otlp_traces_endpoint="http://x")),
    ("vllm serve m --response-role ''", args(response_role="")),
    ("vllm serve m --response-role '$(reboot)'", args(response_role="$(reboot)")),
    ("vllm serve m --override-generation-config '{\"top_k\": 1}'", args(override_generation_config={"top_k": 1})),
    # what vLLM does not know
    (
        "vllm serve m --tensor-parallel-size 2 --unknown-flag value --new-bool-flag",
        {
            "model": "m",
            "engine": {"args": {"new-bool-flag": True, "unknown-flag": "value"}},
            "parallelism": {"tensor": 2},
        },
    ),
    ("vllm serve m --unknown_flag=1 --unknown-flag 2", args(unknown_flag=[1, 2])),
    ("vllm serve m --unknown a b -1 0.5", args(unknown=["a", "b", -1, 0.5])),
    ("vllm serve m --swap-space 4 --disable-log-requests", args(disable_log_requests=True, swap_space=4)),
    # a shell's words
    (TWO_LINES, {"model": "m", "engine": {"maxModelLen": 4096, "enforceEager": True}, "parallelism": {"tensor": 2}}),
    ("vllm serve m\n  --seed 1\n  --enforce-eager", engine(enforceEager=True, seed=1)),
    ("MODEL=m\nARGS='--seed 1 --enforce-eager'\nvllm serve $MODEL ${ARGS}", engine(enforceEager=True, seed=1)),
    ("vllm serve ${MODEL:-m} --seed ${SEED-1}", engine(seed=1)),
    ("CUDA_VISIBLE_DEVICES=0 vllm serve m", engine(env=[{"name": "CUDA_VISIBLE_DEVICES", "value": "0"}])),
    ("env -u X VLLM_USE_V1=1 vllm serve m", engine(env=[{"name": "VLLM_USE_V1", "value": "1"}])),
    ("export VLLM_USE_V1=1; vllm serve m", engine(env=[{"name": "VLLM_USE_V1", "value": "1"}])),
    ("vllm serve m --max-model-len $LEN", {"model": "m"}),
    ("FOO=$BAR vllm serve m", {"model": "m"}),
]


@pytest.mark.parametrize(("text", "spec"), READ, ids=[case[0].strip()[:70] for case in READ])
def test_read(text: str, spec: dict[str, Any]) -> None:
    assert spec_of(text) == spec


REFUSED = [
    ("", "the command is empty"),
    (" \n\t", "the command is empty"),
    ("# nothing", "it has none"),
    ('vllm serve "unterminated', 'a quote (") is not closed'),
    ("vllm serve 'unterminated", "a quote (') is not closed"),
    ("vllm serve m ---model x", '"---model" is no option'),
    ("vllm serve m --=x", '"--" is no option'),
    (
        "vllm serve m --gpu-memory-utilization 1.7",
        '--gpu-memory-utilization is "1.7": vLLM 0.32.0 takes a number, above 0 and at most 1',
    ),
    ("vllm serve m --max_num_seqs 0", '--max_num_seqs is "0": vLLM 0.32.0 takes an integer, at least 1'),
    ("vllm serve m -tp two", '-tp is "two": vLLM 0.32.0 takes an integer, at least 1'),
    ("vllm serve m -tp 128", "-tp is 128: spec.parallelism.tensor takes 1 to 64"),
    ("vllm serve m --max-model-len 32kb", '--max-model-len is "32kb"'),
    ("vllm serve m --dtype float8", "one of auto, bfloat16, float, float16, float32, half"),
    ("vllm serve m --compilation-config '{oops'", "takes a JSON object"),
    ("vllm serve m --enable-auto-tool-choice --tool-call-parser hermess", "did you mean hermes?"),
    ("vllm serve m --enable-prefix-caching=true", "write --enable-prefix-caching or --no-enable-prefix-caching"),
    ("vllm serve m --no-disable-log-stats", "--disable-log-stats has no --no- form"),
    ("vllm serve m --calculate-kv-scales=1", "takes no value; not in vLLM 0.32.0: removed in 0.28"),
    ("vllm serve m --max-num 3", "--max-num is an abbreviation of several options: --max-num-active-seqs"),
    ("vllm serve m --seed", "--seed has no value"),
    ("vllm serve m --seed --enforce-eager", "--seed has no value"),
    ("vllm serve m --seed.x 1", "--seed has no keys"),
    ("vllm serve m --watermark -0.5", "-0.5 is read as an option"),
    ("vllm serve m -x 1", "-x: unknown"),
    ("vllm serve m -model x", "did you mean --model?"),
    ("vllm serve m other", 'a word belongs to no option: "other"'),
    ("vllm serve m --model n", "the model is"),
    ("vllm serve", "names no model"),
    ("vllm serve $MODEL", "the value of $MODEL is not known"),
    ("vllm serve ./m", "spec.model does not take: write a Hugging Face id"),
    ("vllm serve m --served-model-name 'a b'", "spec.servedModelNames does not take"),
    ("vllm bench m", "only vllm serve can be imported"),
    ("rm -rf /", "no command that starts a vLLM (it begins with 'rm')"),
    ("vllm serve a; vllm serve b", "2 commands that start a vLLM"),
    ("vllm serve $(cat model)", "the value of $(cat...) is not known"),
    ("vllm serve m --api-key $(cat $(pwd)/key)", "would be run by a shell"),
    ("vllm serve m --api-key `cat key`", "would be run by a shell"),
    ("vllm serve m --seed $(( 1 + 1 ))", "would be run by a shell"),
    ("vllm serve m --seed \"$(cat 'x')\"", "would be run by a shell"),
    ("vllm serve m --seed <(cat x)", "would be run by a shell"),
    ("vllm serve m --seed ${X%y}", "write its value"),
    ("vllm serve m <<EOF", "<< (text that follows)"),
    ("(vllm serve m)", "parentheses"),
    ("for x in a b; do vllm serve $x; done", "'for' is for a shell to run"),
    ('vllm serve m --hf-overrides {"a":1,"b":2}', "single quotes"),
    ("vllm serve m --response-role a\0b", "NUL"),
    ("vllm serve m --hf-overrides '" + '{"a":' * 60 + "1" + "}" * 60 + "'", "deeper than"),
]


@pytest.mark.parametrize(("text", "part"), REFUSED, ids=[case[0].strip()[:70] for case in REFUSED])
def test_refused(text: str, part: str) -> None:
    assert part in refused(text)


NOTES = [
    (
        "vllm serve m --enable-prefix-cachng",
        "--enable-prefix-cachng: unknown in vLLM 0.32.0; did you mean --enable-prefix-caching?; kept in spec.engine.args as it is",
    ),
    (
        "vllm serve m --unknown-flag",
        "--unknown-flag: unknown in vLLM 0.32.0; the nearest that it knows is --cpu-offload-gb; kept in spec.engine.args as it is",
    ),
    (
        "vllm serve m --max-num-partial-prefills 2",
        "--max-num-partial-prefills: not in vLLM 0.32.0: removed in 0.27; use --long-prefill-token-threshold instead; "
        "kept in spec.engine.args as it is",
    ),
    (
        "vllm serve m --disable-log-requests",
        "--disable-log-requests: not in vLLM 0.32.0: removed in 0.17; use --no-enable-log-requests instead; "
        "kept in spec.engine.args as it is",
    ),
    ("vllm serve m --seed 1 --seed 2", "--seed is given 2 times: vLLM takes the last"),
    ("vllm serve m --host 0.0.0.0 --port 80", "left out, since Kubernetes or the operator does it: --host, --port"),
    ("vllm serve m --uds /x", "--uds is left out: the operator reaches vLLM by its port; remove it"),
    ("vllm serve m --max-model-len $LEN", "--max-model-len is left out: the value of $LEN is not known"),
    ("FOO=a$BAR vllm serve m", "the variable FOO is left out: the value of $BAR is not known"),
    ('vllm serve m --max-model-len "$(cat x)"', "--max-model-len is left out: the value of $(cat...) is not known"),
    ("docker run -v $(pwd)/x:/x -e A=$(date) img m", 'the mount "$(pwd)/x:/x" is left out: use podTemplate'),
    ("docker run -v $(pwd)/x:/x -e A=$(date) img m", "the variable A is left out: the value of $(date) is not known"),
    ("cd /x; vllm serve m", "the command 'cd' beside it is left out"),
    ("vllm serve m | tee log", "the command 'tee' beside it is left out"),
    ("vllm serve m 2> log", "where the output goes is left out: kubectl logs has it"),
    (
        "vllm serve m --chat-template x.jinja",
        '--chat-template names "x.jinja": it must be in the image, or be mounted by podTemplate; or give '
        "spec.engine.chatTemplate a ConfigMap",
    ),
    (
        "vllm serve /x",
        'the model is the directory "/x": it must be in the image or be mounted; from a volume, write model: pvc://CLAIM/PATH',
    ),
    (
        "CUDA_VISIBLE_DEVICES=2,3 vllm serve m",
        "CUDA_VISIBLE_DEVICES counts the GPUs of the pod, from 0: it is most likely to be removed",
    ),
    (
        "vllm serve m --log-config-file x",
        "--log-config-file is deprecated: --log-config-file is deprecated and will be removed in v0.33.0. Use "
        "--logging-config.pylogging_config_file instead.",
    ),
    (
        "vllm serve m",
        "options were checked against vLLM 0.32.0, since the command names no version: --vllm-version does",
    ),
]


@pytest.mark.parametrize(("text", "note"), NOTES, ids=[case[0] for case in NOTES])
def test_notes(text: str, note: str) -> None:
    assert note in import_model(text).notes


# ---- keys and tokens


def text_of(imported: Imported) -> str:
    return f"{imported.model}{imported.notes}"


def test_keys_go_to_a_secret() -> None:
    imported = import_model("vllm serve Qwen/Qwen3-8B --api-key key1 --api-key key2 --hf-token tok3n")
    assert imported.secret == {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "qwen3-8b-credentials"},
        "type": "Opaque",
        "stringData": {"HF_TOKEN": "tok3n", "api-key": "key1", "api-key-2": "key2"},
    }
    assert imported.model["spec"]["auth"] == {"apiKeySecretRef": {"name": "qwen3-8b-credentials", "key": "api-key"}}
    assert imported.model["spec"]["hub"] == {"tokenSecretRef": {"name": "qwen3-8b-credentials", "key": "HF_TOKEN"}}
    assert any("the first of 2 API keys" in note for note in imported.notes)
    for secret in ("key1", "key2", "tok3n"):
        assert secret not in text_of(imported)


@pytest.mark.parametrize(
    "name",
    [
        "HF_TOKEN",
        "HUGGING_FACE_HUB_TOKEN",
        "VLLM_API_KEY",
        "MY_TOKEN",
        "AWS_SECRET_ACCESS_KEY",
        "DB_PASSWORD",
        "db_passwd",
        "OPENAI_APIKEY",
        "X_CREDENTIALS",
    ],
)
@pytest.mark.parametrize("model", ["m", "/models/m"])
def test_variables_that_say_so_go_to_a_secret(name: str, model: str) -> None:
    imported = import_model(f"{name}=hunter2 vllm serve {model}")
    assert imported.secret is not None
    assert list(imported.secret["stringData"].values()) == ["hunter2"]
    assert "hunter2" not in text_of(imported)
    assert imported.secret["metadata"]["name"] in str(imported.model["spec"])


@pytest.mark.parametrize(
    "text",
    [
        "HTTPS_PROXY=http://user:hunter2@proxy:3128 vllm serve m",
        "X=hf_hunter2hunter2hunter2 vllm serve m",
    ],
)
def test_variables_that_look_so_go_to_a_secret(text: str) -> None:
    imported = import_model(text)
    assert imported.secret is not None
    assert "hunter2" not in text_of(imported)


@pytest.mark.parametrize(
    "text",
    [
        "vllm serve m --my-secret-key hunter2",
        "vllm serve m --unknown hf_hunter2hunter2hunter2",
        'vllm serve m --model-loader-extra-config \'{"s3": {"secret_key": "hunter2"}}\'',
        "vllm serve m --otlp-traces-endpoint http://user:hunter2@x/y",
    ],
)
def test_options_with_a_key_are_left_out(text: str) -> None:
    imported = import_model(text)
    assert "args" not in imported.model["spec"].get("engine", {})
    assert "hunter2" not in text_of(imported)
    assert any("looks like a key or token" in note for note in imported.notes)


@pytest.mark.parametrize(
    "text",
    [
        "vllm serve hf_hunter2hunter2hunter2",
        "vllm serve m hf_hunter2hunter2hunter2",
        "vllm serve m -tp hf_hunter2hunter2hunter2",
        "vllm serve m --served-model-name hf_hunter2hunter2hunter2",
        "hf_hunter2hunter2hunter2",
    ],
)
def test_a_key_in_the_wrong_place_is_not_repeated(text: str) -> None:
    assert "hunter2" not in refused(text)


@pytest.mark.parametrize("text", ["TOKENIZERS_PARALLELISM=false vllm serve m", "VLLM_LOGGING_LEVEL=INFO vllm serve m"])
def test_other_variables_stay(text: str) -> None:
    assert import_model(text).secret is None


def test_a_token_of_unknown_value_is_asked_for() -> None:
    imported = import_model("vllm serve m --hf-token $HF_TOKEN --api-key $KEY")
    assert imported.secret is None
    assert imported.model["spec"]["hub"] == {"tokenSecretRef": {"name": "m-credentials", "key": "HF_TOKEN"}}
    assert any(
        "the value of $HF_TOKEN is not known" in note
        and "kubectl create secret generic m-credentials --from-literal=HF_TOKEN=" in note
        for note in imported.notes
    )


def test_what_a_shell_would_run_is_not_run_and_not_repeated(tmp_path: Path) -> None:
    imported = import_model(f"vllm serve m --api-key $(touch {tmp_path}/hunter2)")
    assert list(tmp_path.iterdir()) == []
    assert imported.secret is None
    assert "hunter2" not in text_of(imported)
    assert any("the value of $(touch...) is not known" in note for note in imported.notes)


def test_a_token_of_a_model_elsewhere_is_a_variable() -> None:
    imported = import_model("HF_TOKEN=x vllm serve /models/m")
    assert "hub" not in imported.model["spec"]
    assert imported.model["spec"]["engine"]["env"] == [
        {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "m-credentials", "key": "HF_TOKEN"}}}
    ]


# ---- names and versions


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("vllm serve Qwen/Qwen3-8B", "qwen3-8b"),
        ("vllm serve meta-llama/Llama-3.3-70B-Instruct", "llama-3-3-70b-instruct"),
        ("vllm serve m --served-model-name Chat.Model", "chat-model"),
        ("vllm serve /models/70b/", "model-70b"),
        ("vllm serve /x/___", "model"),
        (f"vllm serve {'a' * 90}", "a" * 63),
        ("vllm serve s3://bucket/x/Y", "y"),
    ],
)
def test_a_name_is_made(text: str, name: str) -> None:
    assert import_model(text).model["metadata"] == {"name": name}


def test_a_name_is_given() -> None:
    imported = import_model("vllm serve m --api-key k", name="chat", namespace="ml")
    assert imported.model["metadata"] == {"name": "chat", "namespace": "ml"}
    assert imported.secret is not None
    assert imported.secret["metadata"] == {"name": "chat-credentials", "namespace": "ml"}
    assert "no name of a VLLMModel" in refused("vllm serve m", name="Chat")


def test_the_version_decides() -> None:
    line = "vllm serve m --max-num-partial-prefills 2 --seed 1"
    assert spec_of(line, version="0.25.1")["engine"] == {
        "version": "0.25.1",
        "seed": 1,
        "args": {"max-num-partial-prefills": 2},
    }
    assert not any("removed" in note for note in import_model(line, version="0.25.1").notes)
    assert any("removed in 0.27" in note for note in import_model(line, version="0.27.0").notes)


@pytest.mark.parametrize("version", ["0.9.2", "0.33.0rc1", "9.0.0"])
def test_of_other_versions_nothing_is_checked(version: str) -> None:
    imported = import_model("vllm serve m --dtype float8 --max-num-seqs many --seed 1", version=version)
    assert imported.model["spec"]["engine"] == {
        "version": version,
        "seed": 1,
        "args": {"dtype": "float8", "max-num-seqs": "many"},
    }
    assert any("were not checked" in note for note in imported.notes)
