"""Node objects → pools of GPUs."""

from typing import Any

import pytest

from vllm_operator.sizing.gpus import find_product
from vllm_operator.sizing.memory import GIB, gib
from vllm_operator.sizing.planner import nominal_pool
from vllm_operator.sizing.pools import GpuPool, Toleration, declared_pools, instance_gpu, read_pools, usable


def node(
    labels: dict[str, str] | None = None,
    *,
    ready: str = "True",
    taints: Any = None,
    cordoned: bool = False,
    **allocatable: Any,
) -> Any:
    return {
        "metadata": {"name": "n", "labels": labels or {}},
        "spec": {"taints": taints, **({"unschedulable": True} if cordoned else {})},
        "status": {
            "allocatable": {
                "cpu": "8",
                **{key.replace("__", "/").replace("_", "."): str(value) for key, value in allocatable.items()},
            },
            "conditions": [{"type": "Ready", "status": ready}],
        },
    }


def nvidia(product: str = "NVIDIA-H100-80GB-HBM3", memory: int = 81559, count: int = 8, **more: Any) -> Any:
    labels = {
        "nvidia.com/gpu.product": product,
        "nvidia.com/gpu.memory": str(memory),
        "nvidia.com/gpu.count": str(count),
        "nvidia.com/gpu.compute.major": "9",
        "nvidia.com/gpu.compute.minor": "0",
        **more.pop("labels", {}),
    }
    return node(labels, nvidia_com__gpu=count, **more)


def only(*nodes: Any, **options: Any) -> GpuPool:
    pools = read_pools(nodes, **options).pools
    assert len(pools) == 1
    return pools[0]


def test_discovery_labels() -> None:
    pool = only(nvidia(), nvidia(), nvidia())
    assert (pool.name, pool.gpus_per_node, pool.nodes, pool.gpus) == ("NVIDIA-H100-80GB-HBM3", 8, 3, 24)
    assert pool.device.capability == (9, 0)
    assert 78.5 < gib(pool.device.memory) < 79.18
    assert pool.node_selector == (("nvidia.com/gpu.product", "NVIDIA-H100-80GB-HBM3"),)
    assert pool.interconnect == "NVLink"


@pytest.mark.parametrize(
    ("mib", "visible"),
    # what nvidia-smi says, and what CUDA reports
    [(15360, 14.56), (23034, 22.03), (40960, 39.38), (81559, 79.18), (143771, 139.72), (183359, 178.36)],
)
def test_usable_memory_is_close_and_not_over(mib: int, visible: float) -> None:
    assert visible - 0.7 < usable(mib * 1024**2) / GIB < visible + 0.05


def test_what_is_allocatable_counts_not_the_label() -> None:
    broken = nvidia()
    broken["status"]["allocatable"]["nvidia.com/gpu"] = "7"
    assert only(broken).gpus_per_node == 7
    assert [pool.gpus_per_node for pool in read_pools([broken, nvidia()]).pools] == [7, 8]
    assert read_pools([node({"nvidia.com/gpu.product": "x"}, nvidia_com__gpu=0), node()]).pools == ()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"cordoned": True}, "1 × NVIDIA-H100-80GB-HBM3 cordoned"),
        ({"ready": "False"}, "1 × NVIDIA-H100-80GB-HBM3 not ready"),
        ({"ready": "Unknown"}, "1 × NVIDIA-H100-80GB-HBM3 not ready"),
        (
            {"taints": [{"key": "team", "value": "a", "effect": "NoSchedule"}]},
            "1 × NVIDIA-H100-80GB-HBM3 tainted team=a:NoSchedule without toleration",
        ),
    ],
)
def test_nodes_that_do_not_count(changes: dict[str, Any], reason: str) -> None:
    pools = read_pools([nvidia(**changes), nvidia()])
    assert [pool.nodes for pool in pools.pools] == [1]
    assert pools.excluded == (reason,)


@pytest.mark.parametrize(
    "toleration",
    [
        Toleration("team", "Equal", "a", "NoSchedule"),
        Toleration("team", "Exists"),
        Toleration("", "Exists"),
        Toleration("team", "Equal", "a"),
    ],
)
def test_tolerated(toleration: Toleration) -> None:
    tainted = nvidia(taints=[{"key": "team", "value": "a", "effect": "NoSchedule"}])
    assert only(tainted, tolerations=[toleration]).nodes == 1


def test_taints_of_gpu_nodes_are_tolerated_anyway() -> None:
    assert only(nvidia(taints=[{"key": "nvidia.com/gpu", "effect": "NoSchedule"}])).nodes == 1
    assert only(nvidia(taints=[{"key": "x", "effect": "PreferNoSchedule"}])).nodes == 1


def test_node_selector() -> None:
    pools = read_pools(
        [nvidia(labels={"zone": "a"}), nvidia(product="NVIDIA-L4", labels={"zone": "b"})], node_selector={"zone": "b"}
    )
    assert [pool.name for pool in pools.pools] == ["NVIDIA-L4"]


def test_time_slicing_is_said() -> None:
    pool = only(
        nvidia(
            product="NVIDIA-L4-SHARED",
            memory=23034,
            count=16,
            labels={"nvidia.com/gpu.replicas": "4", "nvidia.com/gpu.sharing-strategy": "time-slicing"},
        )
    )
    assert pool.shared
    assert pool.gpus_per_node == 4
    assert "4 pods share each GPU" in pool.notes[0]
    assert pool.device.capability == (9, 0)


def test_mig() -> None:
    single = only(
        nvidia(
            product="NVIDIA-A100-SXM4-80GB-MIG-3g.40gb",
            memory=40192,
            count=2,
            labels={"nvidia.com/mig.strategy": "single"},
        )
    )
    assert (single.gpus_per_node, single.resource_name) == (1, "nvidia.com/gpu")
    assert 38 < gib(single.device.memory) < 39.5
    mixed = node(
        {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB", "nvidia.com/mig-1g.10gb.memory": "9728"},
    )
    mixed["status"]["allocatable"] |= {"nvidia.com/mig-1g.10gb": "7", "nvidia.com/mig-3g.40gb": "1"}
    pools = read_pools([mixed]).pools
    assert [(pool.resource_name, pool.gpus_per_node) for pool in pools] == [
        ("nvidia.com/mig-1g.10gb", 1),
        ("nvidia.com/mig-3g.40gb", 1),
    ]
    assert 8.8 < gib(pools[0].device.memory) < 9.5
    assert pools[0].device.capability == (8, 0)


def test_amd_and_intel() -> None:
    amd = only(
        node({"amd.com/gpu.product-name": "AMD_Instinct_MI300X_OAM", "amd.com/gpu.vram": "192G"}, amd_com__gpu=8)
    )
    assert (amd.vendor, amd.resource_name, amd.gpus_per_node, gib(amd.device.memory)) == (
        "amd",
        "amd.com/gpu",
        8,
        191.0,
    )
    intel = only(
        node({"gpu.intel.com/product": "Max_1100", "gpu.intel.com/memory.max": str(48 * GIB)}, gpu_intel_com__xe=1)
    )
    assert (intel.vendor, gib(intel.device.memory)) == ("intel", 48.0)


@pytest.mark.parametrize(
    ("labels", "name", "memory"),
    [
        ({"cloud.google.com/gke-accelerator": "nvidia-l4"}, "nvidia-l4", 22.0),
        ({"cloud.google.com/gke-accelerator": "nvidia-h100-80gb"}, "nvidia-h100-80gb", 79.1),
        (
            {"karpenter.k8s.aws/instance-gpu-name": "a10g", "karpenter.k8s.aws/instance-gpu-memory": "24576"},
            "a10g",
            22.0,
        ),
        (
            {"karpenter.k8s.aws/instance-gpu-name": "l40s", "karpenter.k8s.aws/instance-gpu-memory": "45776"},
            "l40s",
            44.08,
        ),
        ({"node.kubernetes.io/instance-type": "p5.48xlarge"}, "H100", 79.1),
        ({"node.kubernetes.io/instance-type": "Standard_ND96isr_H200_v5"}, "H200", 139.7),
        ({"node.kubernetes.io/instance-type": "a2-ultragpu-8g"}, "A100-80GB", 79.1),
    ],
)
def test_cloud_labels(labels: dict[str, str], name: str, memory: float) -> None:
    pool = only(node(labels, nvidia_com__gpu=8))
    assert (pool.name, gib(pool.device.memory)) == (name, memory)
    assert "no GPU feature discovery" in pool.notes[0]
    assert pool.node_selector[0][0] in labels


def test_unknown_gpus_are_not_guessed() -> None:
    assert read_pools([node({"node.kubernetes.io/instance-type": "x.large"}, nvidia_com__gpu=8)]).pools == ()
    assert instance_gpu("m5.large") is None


@pytest.mark.parametrize(
    ("label", "product"),
    [
        ("NVIDIA-H100-80GB-HBM3", "H100"),
        ("NVIDIA-H100-PCIe", "H100"),
        ("NVIDIA-H100-NVL", "H100-NVL"),
        ("NVIDIA-H200", "H200"),
        ("NVIDIA-A100-SXM4-40GB", "A100-40GB"),
        ("NVIDIA-A100-SXM4-80GB", "A100-80GB"),
        ("NVIDIA-A100-PCIE-40GB", "A100-40GB"),
        ("NVIDIA-A10G", "A10G"),
        ("NVIDIA-A10", "A10"),
        ("NVIDIA-L40S", "L40S"),
        ("NVIDIA-L4", "L4"),
        ("Tesla-T4", "T4"),
        ("Tesla-V100-SXM2-32GB", "V100-32GB"),
        ("NVIDIA-GeForce-RTX-4090", "RTX-4090"),
        ("NVIDIA-B200", "B200"),
        ("NVIDIA-GB200", "GB200"),
        ("AMD_Instinct_MI300X_OAM", "MI300X"),
    ],
)
def test_products(label: str, product: str) -> None:
    found = find_product(label)
    assert found is not None
    assert found.name == product


def test_pools_that_scale_from_zero() -> None:
    declared = nominal_pool("NVIDIA-H100-80GB-HBM3", memory_gib=79, gpus_per_node=8)
    other = nominal_pool("NVIDIA-L4", memory_gib=22, gpus_per_node=1)
    pools = read_pools([nvidia()], declared=[declared, other]).pools
    assert [(pool.name, pool.nodes) for pool in pools] == [("NVIDIA-H100-80GB-HBM3", 1), ("NVIDIA-L4", 1)]


def test_gpus_of_which_no_label_tells_are_named() -> None:
    found = read_pools([node(nvidia_com__gpu=8), node(nvidia_com__gpu=8), nvidia()])
    assert [pool.name for pool in found.pools] == ["NVIDIA-H100-80GB-HBM3"]
    assert found.excluded == ("2 × nvidia.com/gpu node whose product no label tells",)


def test_only_taints_that_pods_tolerate_are_excused() -> None:
    def tainted(key: str) -> list[dict[str, str]]:
        return [{"key": key, "effect": "NoSchedule"}]

    assert read_pools([nvidia(taints=tainted("nvidia.com/gpu"))]).pools
    assert not read_pools([nvidia(taints=tainted("rdma/hca"), rdma__hca=1)]).pools
    assert not read_pools([nvidia(taints=[{"key": "nvidia.com/gpu", "effect": "NoExecute"}])]).pools


def test_declared_pools() -> None:
    text = (
        '[{"product": "NVIDIA-H100-80GB-HBM3", "gpusPerNode": 8, "nodes": 2, "tolerations": [{"key": "gpu", "operator": "Exists"}]},'
        ' {"product": "Odd", "memory": "10Gi", "computeCapability": "8.9", "nodeSelector": {"pool": "odd"}}]'
    )
    h100, odd = declared_pools(text)
    assert (h100.name, h100.gpus, h100.scales_from_zero) == ("NVIDIA-H100-80GB-HBM3", 16, True)
    assert h100.node_selector == (("nvidia.com/gpu.product", "NVIDIA-H100-80GB-HBM3"),)
    assert h100.tolerations == (Toleration("gpu", "Exists"),)
    assert (odd.device.capability, odd.node_selector) == ((8, 9), (("pool", "odd"),))
    # A model that must go elsewhere is not given one.
    for selector in ({"nvidia.com/gpu.product": "NVIDIA-L40S"}, {"pool": "even"}):
        left = read_pools([], declared=[h100, odd], node_selector=selector).pools
        assert len(left) == (0 if "nvidia.com/gpu.product" in selector else 1)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("{", "JSON"),
        ("{}", "list"),
        ('[{"memory": "8Gi"}]', "product"),
        ('[{"product": "Odd"}]', "set memory"),
        ('[{"product": "NVIDIA-L4", "memory": "8"}]', "memory"),
        ('[{"product": "NVIDIA-L4", "gpus": 8}]', "gpus"),
        ('[{"product": "NVIDIA-L4", "gpusPerNode": 0}]', "gpusPerNode"),
    ],
)
def test_declared_pools_that_are_wrong(text: str, part: str) -> None:
    with pytest.raises(ValueError, match=part):
        declared_pools(text)
