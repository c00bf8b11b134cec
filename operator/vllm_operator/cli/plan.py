"""`kubectl vllm plan`: the operator's own sizing, without a cluster.

Exit codes: 0 it fits, 1 nothing fits, 2 the question makes no sense or the model's facts cannot be read.
"""

import argparse
import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
from huggingface_hub import get_token

from vllm_operator.api.types import VLLMModelSpec
from vllm_operator.cli.files import Usage, read_model
from vllm_operator.cli.kubectl import KubectlError, kubectl
from vllm_operator.hub.bucket import read_bucket
from vllm_operator.hub.directory import read_directory
from vllm_operator.hub.errors import HubError, HubUnavailableError
from vllm_operator.hub.facts import ModelFacts
from vllm_operator.hub.hugging_face import HuggingFaceHub
from vllm_operator.hub.read import facts_by_hand
from vllm_operator.sizing.cpu import PROCESSES, CpuPlan, plan_cpu
from vllm_operator.sizing.memory import GIB, EngineOptions, gib
from vllm_operator.sizing.planner import Sizing, SizingPlan, Wanted, describe_memory, nominal_pool, plan_sizing
from vllm_operator.sizing.pools import GpuPool, read_pools
from vllm_operator.sizing.wanted import pod_constraints, read_bytes, read_tokens, read_version, wanted_from_spec

EXIT_FITS, EXIT_DOES_NOT_FIT, EXIT_USAGE = 0, 1, 2

_EPILOG = """examples:
  kubectl vllm plan Qwen/Qwen3-32B --gpu H100:80:8 --gpu L4:22:4:3
  kubectl vllm plan -f model.yaml --from-cluster
  kubectl vllm plan Qwen/Qwen3-0.6B --cpu-memory-gib 16
  kubectl vllm plan --model-dir ./config-only --weights-gib 61 --gpu H100:79.18:1 --max-model-len 16000 -o json

exit codes: 0 it fits, 1 nothing fits, 2 the question makes no sense or the model cannot be read
"""


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `plan`."""
    parser = commands.add_parser(
        "plan",
        help="which GPUs, tensor-parallel size and context a model gets, and why",
        description="Which GPUs, tensor-parallel size and context length a model gets, and why. Reads no cluster unless asked.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help="Hugging Face id, directory, or s3://… or gs://…, opened with your own credentials (AWS_…, GOOGLE_…)",
    )
    parser.add_argument("-f", "--filename", metavar="FILE", help="a VLLMModel in YAML or JSON; - for standard input")
    parser.add_argument(
        "--gpu",
        action="append",
        default=[],
        metavar="NAME:MEMORY_GIB:GPUS_PER_NODE[:NODES]",
        help="a pool of GPUs; MEMORY_GIB is what CUDA reports as total, e.g. 79.18 for an H100 of 80 GB. May be repeated",
    )
    parser.add_argument(
        "--cpu-memory-gib",
        metavar="N",
        type=_positive_float,
        help="plan for CPUs: what the container may use; default for -f FILE: its resources.limits.memory",
    )
    parser.add_argument(
        "--from-cluster", action="store_true", help="take the pools from the cluster's nodes (runs kubectl)"
    )
    parser.add_argument("--context", metavar="NAME", help="kubectl context for --from-cluster")
    parser.add_argument(
        "--model-dir",
        metavar="DIR",
        type=Path,
        help="take the facts from here: config.json and safetensors, or config.json alone",
    )
    parser.add_argument(
        "--weights-gib",
        metavar="N",
        type=_positive_float,
        help="size of the weights, when the directory has config.json alone",
    )
    parser.add_argument("--revision", metavar="REVISION", help="revision on the hub")
    parser.add_argument("--tensor", metavar="N", type=_positive, help="fix the tensor-parallel size")
    parser.add_argument("--pipeline", metavar="N", type=_positive, help="fix the pipeline-parallel size")
    parser.add_argument(
        "--max-model-len", metavar="N", type=_tokens, help="fix the context, e.g. 16000, 32k, 32K or auto"
    )
    parser.add_argument(
        "--concurrency", metavar="N", type=_positive, help="sequences of the whole context that must fit at once (1)"
    )
    parser.add_argument(
        "--gpu-memory-utilization", metavar="SHARE", type=_share, help="default: 0.92 from vLLM 0.22 on, 0.9 before"
    )
    parser.add_argument("--kv-cache-dtype", metavar="DTYPE", help="e.g. fp8")
    parser.add_argument("--quantization", metavar="METHOD", help="e.g. fp8")
    parser.add_argument("--max-num-seqs", metavar="N", type=_positive, help="default: vLLM's, by the GPU's memory")
    parser.add_argument(
        "--max-num-batched-tokens", metavar="N", type=_positive, help="default: vLLM's, by the GPU's memory"
    )
    parser.add_argument("--enforce-eager", action="store_true", default=None, help="no CUDA graphs")
    parser.add_argument("--vllm-version", metavar="VERSION", type=_version, help="e.g. 0.32.0")
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table", help="default: table")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the plan; the exit code says whether there is one."""
    try:
        spec, wanted = _wanted(arguments)
        on_cpus = arguments.cpu_memory_gib is not None or _wants_cpus(spec)
        pools, excluded = ((), ()) if on_cpus else _pools(arguments, spec)
        facts = _facts(arguments, spec)
        memory = _cpu_memory(arguments, spec) if on_cpus else 0
    except (Usage, HubError) as error:
        hint = (
            "; without a hub, give the model's config.json with --model-dir"
            if isinstance(error, HubUnavailableError)
            else ""
        )
        print(f"error: {error}{hint}", file=sys.stderr)
        return EXIT_USAGE
    if on_cpus:
        found = plan_cpu(facts, memory=memory, options=wanted.options, max_model_len=wanted.max_model_len)
        answer = cpu_as_json(facts, found)
        text = (
            json.dumps(answer, indent=2, ensure_ascii=False)
            if arguments.output == "json"
            else cpu_as_table(facts, found)
        )
        print(text)
        return EXIT_FITS if found.fits else EXIT_DOES_NOT_FIT
    sizing = plan_sizing(facts, wanted, pools, excluded=excluded)
    if arguments.output == "json":
        print(json.dumps(as_json(facts, sizing), indent=2, ensure_ascii=False))
    else:
        print(as_table(facts, sizing))
    return EXIT_FITS if sizing.fits else EXIT_DOES_NOT_FIT


# ---- the question


def _wanted(arguments: argparse.Namespace) -> tuple[VLLMModelSpec | None, Wanted]:
    """What the file says, with what the command line says over it."""
    spec, wanted = None, Wanted()
    if arguments.filename is not None:
        _, spec = read_model(arguments.filename)
        wanted = wanted_from_spec(spec)
    options = {
        name: value
        for name, value in (
            ("version", arguments.vllm_version),
            ("gpu_memory_utilization", arguments.gpu_memory_utilization),
            ("kv_cache_dtype", arguments.kv_cache_dtype),
            ("quantization", arguments.quantization),
            ("max_num_seqs", arguments.max_num_seqs),
            ("max_num_batched_tokens", arguments.max_num_batched_tokens),
            ("enforce_eager", arguments.enforce_eager),
        )
        if value is not None
    }
    fields: dict[str, Any] = {
        name: value
        for name, value in (
            ("tensor", arguments.tensor),
            ("pipeline", arguments.pipeline),
            ("concurrency", arguments.concurrency),
        )
        if value is not None
    }
    if arguments.max_model_len is not None:
        fields["max_model_len"] = None if arguments.max_model_len < 0 else arguments.max_model_len
    before = {name: getattr(wanted, name) for name in Wanted.__dataclass_fields__}
    engine = {name: getattr(wanted.options, name) for name in EngineOptions.__dataclass_fields__}
    return spec, Wanted(**{**before, **fields, "options": EngineOptions(**{**engine, **options})})


def parse_gpu(text: str) -> GpuPool:
    """NAME:MEMORY_GIB:GPUS_PER_NODE[:NODES] → a pool. Raises Usage."""
    parts = text.split(":")
    if len(parts) not in (3, 4) or not parts[0]:
        raise Usage(f"--gpu {text!r}: write NAME:MEMORY_GIB:GPUS_PER_NODE[:NODES], e.g. H100:80:8:2")
    try:
        memory, count, nodes = float(parts[1]), int(parts[2]), int(parts[3]) if len(parts) == 4 else 1
    except ValueError as error:
        raise Usage(f"--gpu {text!r}: memory is a number of GiB, GPUs and nodes are whole numbers") from error
    if not (0 < memory < 100_000 and math.isfinite(memory) and 1 <= count <= 64 and 1 <= nodes <= 10_000):
        raise Usage(f"--gpu {text!r}: memory above 0, 1 to 64 GPUs a node, 1 to 10,000 nodes")
    return nominal_pool(parts[0], memory_gib=memory, gpus_per_node=count, nodes=nodes)


def _wants_cpus(spec: VLLMModelSpec | None) -> bool:
    return spec is not None and spec.accelerator is not None and spec.accelerator.type == "cpu"


def _cpu_memory(arguments: argparse.Namespace, spec: VLLMModelSpec | None) -> int:
    """Bytes that the container may use."""
    if arguments.cpu_memory_gib is not None:
        return int(arguments.cpu_memory_gib * GIB)
    limit = ((spec.resources.limits if spec and spec.resources else None) or {}).get("memory")
    memory = None if limit is None else read_bytes(str(limit))
    if memory is None:
        raise Usage("for CPUs the memory must be known: set resources.limits.memory, or --cpu-memory-gib N")
    return memory


def _pools(arguments: argparse.Namespace, spec: VLLMModelSpec | None) -> tuple[Sequence[GpuPool], Sequence[str]]:
    pools = [parse_gpu(text) for text in arguments.gpu]
    if not arguments.from_cluster:
        if not pools:
            raise Usage("name the GPUs: --gpu NAME:MEMORY_GIB:GPUS_PER_NODE[:NODES], or --from-cluster")
        return pools, ()
    try:
        nodes = json.loads(kubectl("get", "nodes", "-o", "json", context=arguments.context)).get("items") or []
    except KubectlError as error:
        raise Usage(f"--from-cluster: {error}") from error
    except ValueError as error:
        raise Usage(f"kubectl get nodes: {error}") from error
    tolerations, selector = pod_constraints(spec) if spec else ((), {})
    found = read_pools(nodes, tolerations=tolerations, node_selector=selector, declared=pools)
    return found.pools, found.excluded


def _facts(arguments: argparse.Namespace, spec: VLLMModelSpec | None) -> ModelFacts:
    weights = None if arguments.weights_gib is None else int(arguments.weights_gib * GIB)
    if spec is not None and spec.model_facts is not None and arguments.model_dir is None:
        given = spec.model_facts.weights
        by_hand = weights if given is None or weights is not None else read_bytes(str(given))
        return facts_by_hand(spec.model_facts.config, weights_bytes=by_hand)
    if arguments.model_dir is not None:
        return read_directory(arguments.model_dir, weights_bytes=weights)
    model = arguments.model or (spec.model if spec else None)
    if model is None:
        raise Usage("name a model: MODEL, -f FILE or --model-dir DIR")
    if arguments.model and spec and arguments.model != spec.model:
        raise Usage(f"the model is given twice: {arguments.model} and {spec.model}")
    if model.startswith(("/", "./", "../", "~")):
        return read_directory(Path(model).expanduser(), weights_bytes=weights)
    scheme, separator, rest = model.partition("://")
    if separator and scheme in ("s3", "gs"):
        return read_bucket(model)
    if separator and scheme != "hf":
        raise Usage(f"{model} can be read in its cluster only: give its config.json with --model-dir")
    repository, _, revision = (rest if separator else model).partition("@")
    hub = spec.hub if spec else None
    with httpx.Client(follow_redirects=True, timeout=30) as client:
        reader = HuggingFaceHub(
            client, endpoint=(hub.endpoint if hub else None) or os.environ.get("HF_ENDPOINT"), token=get_token()
        )
        return reader.read(repository, revision=arguments.revision or revision or (hub.revision if hub else None)).facts


def _positive(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 10_000_000:
        raise ValueError
    return value


def _positive_float(text: str) -> float:
    value = float(text)
    if not 0 < value < 1_000_000:
        raise ValueError
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise ValueError
    return value


def _tokens(text: str) -> int:
    value = read_tokens(text)
    return -1 if value is None else value


def _version(text: str) -> tuple[int, int, int]:
    return read_version(text)


# ---- the answer


def as_json(facts: ModelFacts, sizing: Sizing) -> Mapping[str, Any]:
    """The answer as JSON; null where there is none."""
    plan, miss = sizing.plan, sizing.closest
    common = {
        "model": _model_json(facts),
        "reasons": list(sizing.reasons),
        "alternatives": [_plan_json(other) for other in sizing.alternatives],
    }
    if plan is not None:
        return {"fits": True, **_plan_json(plan), "memory": describe_memory(plan.memory, plan.layout), **common}
    nearest = None
    memory = None
    if miss is not None:
        memory = describe_memory(miss.memory, miss.layout)
        nearest = {
            "gpu": miss.pool.name,
            "tensor_parallel_size": miss.tensor_parallel_size,
            "pipeline_parallel_size": miss.pipeline_parallel_size,
            "nodes": miss.nodes,
            "needed_gib": gib(miss.needed),
            "max_model_len": miss.longest or None,
        }
    return {
        "fits": False,
        "reason": "DoesNotFit",
        "tensor_parallel_size": None,
        "pipeline_parallel_size": None,
        "nodes": None,
        "max_model_len": None,
        "gpu": None,
        "memory": memory,
        "closest": nearest,
        **common,
    }


def cpu_as_json(facts: ModelFacts, plan: CpuPlan) -> Mapping[str, Any]:
    """The answer for CPUs; its keys are those for GPUs as far as they mean something."""
    return {
        "fits": plan.fits,
        **({} if plan.fits else {"reason": "DoesNotFit"}),
        "tensor_parallel_size": 1 if plan.fits else None,
        "pipeline_parallel_size": 1 if plan.fits else None,
        "nodes": 1 if plan.fits else None,
        "max_model_len": plan.max_model_len or None,
        "gpu": None,
        "kv_cache_tokens": plan.kv_cache_tokens,
        "memory": {
            "weights_gib": gib(plan.weights),
            "activation_gib": gib(plan.activation),
            "non_torch_gib": gib(PROCESSES),
            "cuda_graph_gib": 0.0,
            "kv_cache_gib": float(plan.kv_cache_space_gib),
            "kv_bytes_per_token": plan.kv_bytes_per_token,
            "needed_gib": gib(plan.memory_needed),
        },
        "model": _model_json(facts),
        "reasons": list(plan.reasons),
        "alternatives": [],
    }


def cpu_as_table(facts: ModelFacts, plan: CpuPlan) -> str:
    """The answer for people."""
    return "\n".join((_headline(facts), *(f"- {reason}" for reason in plan.reasons)))


def _headline(facts: ModelFacts) -> str:
    return f"{facts.architecture}: {facts.task}, weights {gib(facts.weights.total)} GiB ({facts.weights.source})"


def _model_json(facts: ModelFacts) -> Mapping[str, Any]:
    return {
        "architecture": facts.architecture,
        "task": facts.task,
        "weights_gib": gib(facts.weights.total),
        "weights_from": facts.weights.source,
        "max_model_len": facts.max_model_len,
        "quantization": facts.quantization.method if facts.quantization else None,
    }


def _plan_json(plan: SizingPlan) -> dict[str, Any]:
    return {
        "tensor_parallel_size": plan.tensor_parallel_size,
        "pipeline_parallel_size": plan.pipeline_parallel_size,
        "data_parallel_size": plan.data_parallel_size,
        "nodes": plan.nodes,
        "gpus": plan.gpus,
        "max_model_len": plan.max_model_len,
        "concurrency": None if math.isinf(plan.concurrency) else round(plan.concurrency, 2),
        "gpu": plan.pool.name,
        "tight": plan.tight,
    }


def as_table(facts: ModelFacts, sizing: Sizing) -> str:
    """The answer for people."""
    lines = [_headline(facts)]
    plans = [sizing.plan, *sizing.alternatives] if sizing.plan else []
    if plans:
        rows = [
            (
                "",
                "GPU",
                "GPUS",
                "NODES",
                "TENSOR",
                "PIPELINE",
                "CONTEXT",
                "SEQUENCES",
                "WEIGHTS",
                "ACTIVATION",
                "OTHER",
                "KV CACHE",
            )
        ]
        rows += [
            (
                "→" if index == 0 else "",
                plan.pool.name,
                str(plan.gpus),
                str(plan.nodes),
                str(plan.tensor_parallel_size),
                str(plan.pipeline_parallel_size),
                f"{plan.max_model_len:,}",
                "any" if math.isinf(plan.concurrency) else f"{plan.concurrency:.1f}",
                f"{gib(plan.memory.weights)}",
                f"{gib(plan.memory.activation)}",
                f"{gib(plan.memory.other)}",
                f"{gib(plan.memory.kv_cache)}",
            )
            for index, plan in enumerate(plans)
        ]
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines += [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
        ]
        lines.append("(memory in GiB of each GPU)")
    lines += [f"- {reason}" for reason in sizing.reasons]
    return "\n".join(lines)
