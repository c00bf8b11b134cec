"""Figures in the beginning of vLLM's log."""

import pytest

from vllm_operator.serving.startup import StartUp, read_start_up

TWO_RANKS = """\
(APIServer pid=1) INFO 11-21 07:31:15 [model.py:733] Resolved architecture: Qwen3ForCausalLM
(Worker_TP0 pid=72) INFO 11-21 07:31:58 [default_loader.py:502] Loading weights took 12.31 seconds
(Worker_TP1 pid=73) INFO 11-21 07:31:58 [default_loader.py:502] Loading weights took 12.40 seconds
(Worker_TP0 pid=72) INFO 11-21 07:31:59 [gpu_model_runner.py:5150] Model loading took 30.59 GiB memory and 13.482017 seconds
(Worker_TP1 pid=73) INFO 11-21 07:31:59 [gpu_model_runner.py:5150] Model loading took 30.61 GiB memory and 13.502210 seconds
(Worker_TP0 pid=72) INFO 11-21 07:32:40 [gpu_worker.py:760] Available KV cache memory: 38.1 GiB
(Worker_TP1 pid=73) INFO 11-21 07:32:40 [gpu_worker.py:760] Available KV cache memory: 37.94 GiB
(EngineCore pid=60) INFO 11-21 07:32:40 [kv_cache_utils.py:2327] GPU KV cache size: 310,816 tokens
(Worker_TP0 pid=72) INFO 11-21 07:33:01 [gpu_model_runner.py:6582] Graph capturing finished in 19 secs, took 0.62 GiB
"""


@pytest.mark.parametrize(
    ("log", "figures"),
    [
        (TWO_RANKS, StartUp(weights=30.61, kv_cache=37.94, cuda_graphs=0.62, load_seconds=13.50221)),
        ("INFO [default_loader.py:502] Loading weights took 0.03 seconds\n", StartUp(load_seconds=0.03)),
        ("Model loading took 1.2.3 GiB memory and 4 seconds", StartUp(load_seconds=4)),
        ("Model loading took GiB memory", StartUp()),
        ("", StartUp()),
    ],
)
def test_figures(log: str, figures: StartUp) -> None:
    assert read_start_up(log) == figures
