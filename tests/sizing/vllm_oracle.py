"""Run by vLLM's own Python, which has none of this project: what the real vLLM allocates, and what it accepts.

Standard input: {"allocate": [{"folder", "runner", "options"}], "verify": {"folder": [tensor-parallel sizes]}, "build": {"folder":
[tensor-parallel sizes]}}. Standard output, last line: the same keys with the answers. vLLM is imported once; each model is
loaded in a child of its own, because an engine cannot be made twice in one process.
"""

# mypy: disable-error-code="import-not-found"
# vLLM is in its own environment only, not where the type checker runs.

import json
import os
import sys
import tempfile
import traceback
from typing import Any

os.environ.update(
    VLLM_ENABLE_V1_MULTIPROCESSING="0", HF_HUB_OFFLINE="1", VLLM_CPU_KVCACHE_SPACE="1", VLLM_LOGGING_LEVEL="ERROR"
)
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from vllm import LLM
from vllm.config import ModelConfig, ParallelConfig, set_current_vllm_config
from vllm.distributed import ensure_model_parallel_initialized, init_distributed_environment, parallel_state
from vllm.engine.arg_utils import EngineArgs
from vllm.model_executor.model_loader import base_loader
from vllm.model_executor.model_loader.utils import initialize_model


def allocate(job: dict[str, Any]) -> dict[str, Any]:
    """Load a model with random weights: its KV cache groups, and the bytes of its parameters."""
    loaded: list[int] = []
    original = base_loader.process_weights_after_loading

    def process(model: Any, *rest: Any) -> None:
        # on CPUs this packs the weights into forms that are no parameters any more
        loaded.append(sum(parameter.numel() * parameter.element_size() for parameter in model.parameters()))
        original(model, *rest)

    base_loader.process_weights_after_loading = process
    llm = LLM(
        model=job["folder"],
        load_format="dummy",
        enforce_eager=True,
        skip_tokenizer_init=job.get("runner") != "pooling",
        runner=job.get("runner", "auto"),
        **{"max_model_len": 512, **job.get("options", {})},
    )
    core = llm.llm_engine.engine_core.engine_core
    groups = []
    for group in core.scheduler.kv_cache_config.kv_cache_groups:
        spec = group.kv_cache_spec
        groups.append(
            {
                "type": type(spec).__name__,
                "block_size": spec.block_size,
                "page_size_bytes": spec.page_size_bytes,
                "layers": len(group.layer_names),
                "state_bytes": getattr(spec, "state_content_size_bytes", 0) if hasattr(spec, "shapes") else 0,
                "blocks_per_request": -(
                    -spec.max_memory_usage_bytes(llm.llm_engine.vllm_config) // spec.page_size_bytes
                ),
            }
        )
    return {
        "groups": groups,
        "weights": loaded[0],
        "num_blocks": core.scheduler.kv_cache_config.num_blocks,
        "in_flight": llm.llm_engine.vllm_config.max_in_flight_tokens,
        "max_model_len": llm.llm_engine.vllm_config.model_config.max_model_len,
    }


def in_child(job: dict[str, Any]) -> dict[str, Any]:
    """allocate() in a forked child; its failure is an answer too."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        try:
            answer = allocate(job)
        except BaseException:
            answer = {"error": traceback.format_exc()[-3000:]}
        with os.fdopen(write, "w") as pipe:
            pipe.write(json.dumps(answer))
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    answer = json.loads(text or '{"error": "the child died"}')
    assert isinstance(answer, dict)
    return answer


def verify(folder: str, sizes: list[int]) -> dict[str, Any]:
    """Tensor-parallel sizes that vLLM's own verification accepts."""
    try:
        model = ModelConfig(model=folder, skip_tokenizer_init=True)
    except Exception as error:
        return {"error": str(error)[-500:]}
    legal = []
    for size in sizes:
        # as --distributed-executor-backend external_launcher: no world of this size is started
        parallel = ParallelConfig(tensor_parallel_size=size, distributed_executor_backend="mp")
        try:
            model.verify_with_parallel_config(parallel)
        except (ValueError, NotImplementedError):
            continue
        legal.append(size)
    return {
        "legal": legal,
        "kv_heads": {
            size: model.get_num_kv_heads(ParallelConfig(tensor_parallel_size=size, distributed_executor_backend="mp"))
            for size in legal
        },
        "max_model_len": model.max_model_len,
    }


def build(folders: dict[str, list[int]]) -> dict[str, Any]:
    """Make one rank's layers without memory (device meta): bytes of its parameters and of its KV cache's token and states, or
    why vLLM's layers refuse the size."""
    init_distributed_environment(1, 0, f"file://{tempfile.mktemp()}", 0, backend="gloo")
    result: dict[str, Any] = {}
    for folder, sizes in folders.items():
        result[folder] = {}
        for size in sizes:
            try:
                result[folder][size] = _rank(folder, size)
            except Exception as error:
                result[folder][size] = f"{type(error).__name__}: {error}"[-300:]
    return result


def _rank(folder: str, size: int) -> dict[str, int]:
    config = EngineArgs(
        model=folder, load_format="dummy", enforce_eager=True, skip_tokenizer_init=True, max_model_len=512
    ).create_engine_config()
    with set_current_vllm_config(config):
        ensure_model_parallel_initialized(1, 1)
        group = parallel_state.get_tp_group()
        try:
            # nothing is computed, so nobody notices that the other ranks are not there
            group.world_size = size
            config.parallel_config.tensor_parallel_size = size
            torch.set_default_dtype(config.model_config.dtype)
            with torch.device("meta"):
                model = initialize_model(vllm_config=config)
            tokens = states = 0
            for layer in config.compilation_config.static_forward_context.values():
                spec = layer.get_kv_cache_spec(config) if hasattr(layer, "get_kv_cache_spec") else None
                if spec is not None and hasattr(spec, "shapes"):
                    states += spec.state_content_size_bytes
                elif spec is not None:
                    tokens += spec.page_size_bytes // spec.block_size
        finally:
            torch.set_default_dtype(torch.float32)
            parallel_state.destroy_model_parallel()
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    return {"weights": weights, "token": tokens, "states": states}


def main() -> None:
    torch.set_num_threads(1)
    asked = json.load(sys.stdin)
    answer = {
        "allocate": [in_child(job) for job in asked.get("allocate", [])],
        "build": build(asked["build"]) if "build" in asked else {},
        "verify": {folder: verify(folder, sizes) for folder, sizes in asked.get("verify", {}).items()},
    }
    sys.stdout.write("\n" + json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
