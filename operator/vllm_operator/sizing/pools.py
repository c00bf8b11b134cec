"""GPU pools of a cluster: Node objects → groups of nodes with the same GPUs. Pure.

Labels read, in order: each vendor's feature discovery (nvidia.com/gpu.*, amd.com/gpu.*, gpu.intel.com/*); then the cloud's
(GKE, Karpenter, AKS, EKS), for nodes without discovery. What a node offers is its allocatable, never its label's count.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from vllm_operator.api.base import Model
from vllm_operator.api.errors import problems_of_list
from vllm_operator.sizing.gpus import find_product
from vllm_operator.sizing.memory import GIB, Device
from vllm_operator.sizing.plan import PRODUCT_LABELS, RESOURCE_NAMES

Vendor = Literal["nvidia", "amd", "intel"]

_INTEL_RESOURCES = ("gpu.intel.com/xe", "gpu.intel.com/i915")
_GPU_TAINTS = ("nvidia.com/gpu", "amd.com/gpu", *_INTEL_RESOURCES)
"""Keys of taints that the operator's pods tolerate by themselves (NoSchedule, whatever the value), as every GPU workload does."""


@dataclass(frozen=True)
class Toleration:
    """A taint that pods tolerate, as in a pod's spec."""

    key: str = ""
    operator: str = "Equal"
    value: str = ""
    effect: str = ""

    def covers(self, taint: Mapping[str, Any]) -> bool:
        """Whether a taint is tolerated (k8s.io/api/core/v1: Toleration.ToleratesTaint)."""
        if self.effect and self.effect != taint.get("effect"):
            return False
        if self.key and self.key != taint.get("key"):
            return False
        if self.operator == "Exists":
            return True
        return bool(self.key) and self.value == (taint.get("value") or "")


@dataclass(frozen=True)
class GpuPool:
    """Nodes with the same GPUs, of which a plan takes one kind only."""

    name: str
    """For people: the product as its label has it."""
    device: Device
    gpus_per_node: int
    nodes: int
    vendor: Vendor = "nvidia"
    resource_name: str = "nvidia.com/gpu"
    node_selector: tuple[tuple[str, str], ...] = ()
    """Labels that pin a pod to this pool."""
    tolerations: tuple[Toleration, ...] = ()
    """Tolerations that its nodes need beyond the GPU vendors' own."""
    interconnect: str | None = None
    notes: tuple[str, ...] = ()
    """What a person should know, e.g. that time-slicing shares the memory."""
    scales_from_zero: bool = False
    shared: bool = False
    """Time-slicing or MPS: a GPU is offered several times, and so is its memory. Two of them may be the same GPU."""

    @property
    def gpus(self) -> int:
        """GPUs of all nodes."""
        return self.gpus_per_node * self.nodes

    @property
    def products(self) -> frozenset[str]:
        """Names by which accelerator.product may ask for it: a MIG slice goes by its GPU's, too."""
        return frozenset({self.name, self.device.name, *(value for _, value in self.node_selector)})

    def conflicts_with(self, selector: Mapping[str, str]) -> bool:
        """Whether labels that a model's nodes must have are others than this pool's; of labels that it does not name nothing is known."""
        own = {PRODUCT_LABELS[self.vendor]: self.device.name, **dict(self.node_selector)}
        return any(own.get(label, value) != value for label, value in selector.items())


@dataclass(frozen=True)
class Pools:
    """All pools of a cluster, and what does not count."""

    pools: tuple[GpuPool, ...]
    excluded: tuple[str, ...] = field(default=())
    """Why nodes with GPUs do not count, e.g. `2 × NVIDIA-L4 nodes cordoned`; sorted."""


def read_pools(
    nodes: Iterable[Mapping[str, Any]],
    *,
    tolerations: Sequence[Toleration] = (),
    node_selector: Mapping[str, str] | None = None,
    declared: Sequence[GpuPool] = (),
) -> Pools:
    """Pools from Node objects as JSON.

    `tolerations`, `node_selector`: of the model's pods. `declared`: pools that scale from zero, from Helm values; one whose
    nodes are there already is left to the nodes.
    """
    members: dict[GpuPool, int] = defaultdict(int)
    excluded: dict[str, int] = defaultdict(int)
    for node in nodes:
        labels = (node.get("metadata") or {}).get("labels") or {}
        found, unknown = _offers(node, labels)
        if any(labels.get(key) != value for key, value in (node_selector or {}).items()):
            continue
        for resource in unknown:
            excluded[f"{resource} node whose product no label tells"] += 1
        for pool in found:
            reason = _why_not(node, tolerations, pool.resource_name)
            if reason is None:
                members[pool] += 1
            else:
                excluded[f"{pool.name} {reason}"] += 1
    pools = [replace(pool, nodes=number) for pool, number in members.items()]
    there = {(pool.device.name, pool.resource_name) for pool in pools}
    pools += [
        pool
        for pool in declared
        if (pool.device.name, pool.resource_name) not in there and not pool.conflicts_with(node_selector or {})
    ]
    return Pools(
        tuple(
            sorted(
                pools,
                key=lambda pool: (
                    pool.name,
                    pool.gpus_per_node,
                    pool.device.memory,
                    pool.resource_name,
                    pool.node_selector,
                ),
            )
        ),
        tuple(sorted(f"{number} × {what}" for what, number in excluded.items())),
    )


class DeclaredToleration(Model):
    """A toleration, as in a pod's spec."""

    key: str = ""
    operator: Literal["Equal", "Exists"] = "Equal"
    value: str = ""
    effect: Literal["", "NoSchedule", "NoExecute", "PreferNoSchedule"] = ""


class DeclaredPool(Model):
    """A pool that scales from zero, as Helm values have it."""

    product: Annotated[str, Field(min_length=1, max_length=63)]
    """Value of the nodes' product label: by it the pool is known again when its first node comes."""
    memory: Annotated[str, Field(pattern=r"^\d+(\.\d+)?Gi$")] | None = None
    """Of one GPU; None: by the product's name."""
    gpus_per_node: Annotated[int, Field(ge=1, le=64)] = 1
    nodes: Annotated[int, Field(ge=1, le=10_000)] = 1
    """Most nodes that it grows to."""
    vendor: Vendor = "nvidia"
    resource_name: str | None = None
    compute_capability: Annotated[str, Field(pattern=r"^\d+\.\d+$")] | None = None
    node_selector: dict[str, str] | None = None
    """None: the product's label."""
    tolerations: tuple[DeclaredToleration, ...] = ()

    def pool(self) -> GpuPool:
        """The pool. Raises ValueError when its memory is not known."""
        product = find_product(self.product)
        if self.memory is None and product is None:
            raise ValueError(f"the memory of {self.product} is not known: set memory, e.g. 80Gi")
        memory = int(product.memory_gib * GIB) if product else 0
        capability = product.capability if product else None
        if self.memory is not None:
            memory = usable(int(float(self.memory.removesuffix("Gi")) * GIB))
        if self.compute_capability is not None:
            major, _, minor = self.compute_capability.partition(".")
            capability = (int(major), int(minor))
        selector = {PRODUCT_LABELS[self.vendor]: self.product} if self.node_selector is None else self.node_selector
        return GpuPool(
            name=self.product,
            device=Device(memory, self.product, capability),
            gpus_per_node=self.gpus_per_node,
            nodes=self.nodes,
            vendor=self.vendor,
            resource_name=self.resource_name or RESOURCE_NAMES[self.vendor],
            node_selector=tuple(sorted(selector.items())),
            tolerations=tuple(
                Toleration(item.key, item.operator, item.value, item.effect) for item in self.tolerations
            ),
            scales_from_zero=True,
        )


_DECLARED = TypeAdapter(list[DeclaredPool])


def declared_pools(text: str) -> tuple[GpuPool, ...]:
    """Pools that scale from zero, from JSON. Raises ValueError naming each field that is wrong."""
    try:
        return tuple(pool.pool() for pool in _DECLARED.validate_json(text))
    except ValidationError as error:
        raise ValueError(problems_of_list(error)) from error


def _why_not(node: Mapping[str, Any], tolerations: Sequence[Toleration], resource: str) -> str | None:
    """Why a node does not count, in a few words."""
    spec, status = node.get("spec") or {}, node.get("status") or {}
    if spec.get("unschedulable"):
        return "cordoned"
    conditions = {condition.get("type"): condition.get("status") for condition in status.get("conditions") or []}
    if conditions.get("Ready", "True") != "True":
        return "not ready"
    for taint in spec.get("taints") or []:
        own = taint.get("effect") == "NoSchedule" and taint.get("key") in (*_GPU_TAINTS, resource)
        if own or taint.get("effect") == "PreferNoSchedule":
            continue
        if not any(toleration.covers(taint) for toleration in tolerations):
            key, value = taint.get("key"), taint.get("value")
            return f"tainted {key}{f'={value}' if value else ''}:{taint.get('effect')} without toleration"
    return None


def _offers(node: Mapping[str, Any], labels: Mapping[str, str]) -> tuple[list[GpuPool], list[str]]:
    """What one node offers (several pools for MIG with profiles mixed), and the resources of which nothing more is known."""
    allocatable = (node.get("status") or {}).get("allocatable") or {}
    found: list[GpuPool] = []
    unknown: list[str] = []
    for resource, quantity in sorted(allocatable.items()):
        count = _count(quantity)
        if count < 1:
            continue
        if resource in ("nvidia.com/gpu", "nvidia.com/gpu.shared"):
            pool = _nvidia(labels, resource, count)
        elif resource.startswith("nvidia.com/mig-"):
            pool = _mig(labels, resource, count)
        elif resource == "amd.com/gpu":
            pool = _amd(labels, count)
        elif resource in _INTEL_RESOURCES:
            pool = _intel(labels, resource, count)
        else:
            continue
        if pool is not None:
            found.append(pool)
        else:
            unknown.append(resource)
    return found, unknown


def _count(quantity: object) -> int:
    try:
        return int(str(quantity))
    except ValueError:
        return 0


def usable(label_bytes: int) -> int:
    """What CUDA reports as total, from what nvidia-smi and the discovery labels call the memory: the driver keeps some back.

    By public reports of T4 to B200 0.4 to 1 GiB; 0.4 GiB and half a per cent is on the safe side of each, by less than 0.7 GiB.
    """
    return int(label_bytes * 0.995 - 0.4 * GIB)


def _nvidia(labels: Mapping[str, str], resource: str, count: int) -> GpuPool | None:
    label = labels.get("nvidia.com/gpu.product")
    selector: tuple[tuple[str, str], ...]
    notes: list[str] = []
    replicas = _count(labels.get("nvidia.com/gpu.replicas", "1")) or 1
    sharing = labels.get("nvidia.com/gpu.sharing-strategy", "none")
    shared = (
        (label or "").endswith("-SHARED") or resource == "nvidia.com/gpu.shared" or (replicas > 1 and sharing != "none")
    )
    if label is None:
        return _cloud(labels, resource, count)
    selector = (("nvidia.com/gpu.product", label),)
    plain = label.removesuffix("-SHARED")
    product = find_product(plain)
    memory = _count(labels.get("nvidia.com/gpu.memory", "0")) * 1024**2
    memory = usable(memory) if memory else int(product.memory_gib * GIB) if product else 0
    if not memory:
        return None
    if labels.get("nvidia.com/mig.strategy") == "single" and "-MIG-" in plain:
        notes.append("a MIG slice: it cannot be joined with others by tensor parallelism")
    if shared:
        notes.append(
            f"time-slicing: {replicas} pods share each GPU and its memory, so what is free depends on the others"
        )
    capability = None
    if labels.get("nvidia.com/gpu.compute.major"):
        capability = (
            _count(labels["nvidia.com/gpu.compute.major"]),
            _count(labels.get("nvidia.com/gpu.compute.minor", "0")),
        )
    elif product is not None:
        capability = product.capability
    return GpuPool(
        name=label,
        device=Device(memory, plain, capability),
        gpus_per_node=1 if "-MIG-" in plain else count // replicas if shared and count >= replicas else count,
        nodes=1,
        resource_name=resource,
        node_selector=selector,
        interconnect=_interconnect(labels, plain),
        notes=tuple(notes),
        shared=shared,
    )


def _interconnect(labels: Mapping[str, str], product: str) -> str | None:
    if labels.get("nvidia.com/gpu.clique"):
        return "NVLink between nodes"
    return (
        "NVLink" if any(part in product.upper() for part in ("SXM", "HBM3", "NVL", "GB200", "B200", "B300")) else None
    )


def _mig(labels: Mapping[str, str], resource: str, count: int) -> GpuPool | None:
    """A MIG profile with strategy mixed: nvidia.com/mig-3g.40gb, whose own labels say its memory."""
    label = labels.get("nvidia.com/gpu.product")
    profile = resource.removeprefix("nvidia.com/")
    memory = _count(labels.get(f"nvidia.com/{profile}.memory", "0")) * 1024**2
    if not memory:
        size = profile.rpartition(".")[2].partition("gb")[0]
        memory = _count(size) * GIB
    if not memory or count < 1:
        return None
    product = find_product(label) if label else None
    capability = product.capability if product else None
    if labels.get("nvidia.com/gpu.compute.major"):
        capability = (
            _count(labels["nvidia.com/gpu.compute.major"]),
            _count(labels.get("nvidia.com/gpu.compute.minor", "0")),
        )
    return GpuPool(
        name=f"{label or 'NVIDIA'} {profile}",
        device=Device(usable(memory), f"{label or ''} {profile}".strip(), capability),
        gpus_per_node=1,
        nodes=1,
        resource_name=resource,
        node_selector=(("nvidia.com/gpu.product", label),) if label else (),
        notes=("a MIG slice: it cannot be joined with others by tensor parallelism",),
    )


def _amd(labels: Mapping[str, str], count: int) -> GpuPool | None:
    label = labels.get("amd.com/gpu.product-name") or labels.get("beta.amd.com/gpu.product-name")
    product = find_product(label) if label else None
    text = labels.get("amd.com/gpu.vram") or labels.get("beta.amd.com/gpu.vram") or ""
    memory = _count(text.rstrip("GiB")) * GIB
    if product is not None:
        memory = min(memory, int(product.memory_gib * GIB)) if memory else int(product.memory_gib * GIB)
    if not memory:
        return None
    key = "amd.com/gpu.product-name" if "amd.com/gpu.product-name" in labels else "beta.amd.com/gpu.product-name"
    return GpuPool(
        name=label or f"AMD {memory // GIB}G",
        device=Device(memory, label or "AMD"),
        gpus_per_node=count,
        nodes=1,
        vendor="amd",
        resource_name="amd.com/gpu",
        node_selector=((key, label),) if label else (),
        interconnect="Infinity Fabric" if product and product.name.startswith("MI3") else None,
    )


def _intel(labels: Mapping[str, str], resource: str, count: int) -> GpuPool | None:
    label = labels.get("gpu.intel.com/product")
    product = find_product(label) if label else None
    memory = _count(labels.get("gpu.intel.com/memory.max", "0"))
    if not memory and product is not None:
        memory = int(product.memory_gib * GIB)
    if not memory:
        return None
    return GpuPool(
        name=label or "Intel",
        device=Device(memory, label or "Intel"),
        gpus_per_node=count,
        nodes=1,
        vendor="intel",
        resource_name=resource,
        node_selector=(("gpu.intel.com/product", label),) if label else (),
    )


_CLOUD_LABELS = (
    "cloud.google.com/gke-accelerator",
    "karpenter.k8s.aws/instance-gpu-name",
    "k8s.amazonaws.com/accelerator",
    "kubernetes.azure.com/accelerator-name",
    "node.kubernetes.io/instance-type",
)

_INSTANCE_GPUS = {
    "p3": "V100-16GB", "p3dn": "V100-32GB", "p4d": "A100-40GB", "p4de": "A100-80GB", "p5": "H100", "p5e": "H200", "p5en": "H200",
    "p6-b200": "B200", "p6-b300": "B300", "g4dn": "T4", "g5": "A10G", "g6": "L4", "g6e": "L40S", "gr6": "L4", "g7e": "RTX-PRO-6000",
    "a2-highgpu": "A100-40GB", "a2-ultragpu": "A100-80GB", "a3-highgpu": "H100", "a3-megagpu": "H100",
    "a3-ultragpu": "H200", "a4-highgpu": "B200", "g2-standard": "L4",
}  # fmt: skip
"""Family of an AWS or Google instance type → GPU."""

_AZURE_GPUS = (
    ("nd96isr_h200", "H200"), ("nd96isr_h100", "H100"), ("nd96amsr_a100", "A100-80GB"), ("nd96asr_v4", "A100-40GB"),
    ("nc40ads_h100", "H100-NVL"), ("nc80adis_h100", "H100-NVL"), ("ads_a100", "A100-80GB"), ("as_t4", "T4"), ("s_v3", "V100-16GB"),
    ("nd128isr_gb200", "GB200"), ("ads_a10", "A10"),
)  # fmt: skip


def instance_gpu(instance_type: str) -> str | None:
    """GPU of a cloud's instance type, e.g. p5.48xlarge, Standard_ND96isr_H100_v5, a3-highgpu-8g."""
    text = instance_type.lower()
    family = text.partition(".")[0]
    if family in _INSTANCE_GPUS:
        return _INSTANCE_GPUS[family]
    for prefix, gpu in _INSTANCE_GPUS.items():
        if "-" in prefix and text.startswith(prefix + "-"):
            return gpu
    if text.startswith(("standard_nc", "standard_nd", "standard_nv")):
        return next((gpu for part, gpu in _AZURE_GPUS if part in text), None)
    return None


def _cloud(labels: Mapping[str, str], resource: str, count: int) -> GpuPool | None:
    """A node without discovery labels, by what the cloud writes on it."""
    for key in _CLOUD_LABELS:
        value = labels.get(key)
        if value is None:
            continue
        if key == "node.kubernetes.io/instance-type":
            gpu = instance_gpu(value)
            product = find_product(gpu) if gpu else None
        else:
            product = find_product(value)
        if product is None:
            continue
        memory = int(product.memory_gib * GIB)
        mib = _count(labels.get("karpenter.k8s.aws/instance-gpu-memory", "0"))
        if mib:
            memory = min(memory, usable(mib * 1024**2))
        return GpuPool(
            name=product.name if key == "node.kubernetes.io/instance-type" else value,
            device=Device(memory, product.name, product.capability),
            gpus_per_node=count,
            nodes=1,
            resource_name=resource,
            node_selector=((key, value),),
            notes=("no GPU feature discovery labels: product and memory are by the cloud's label",),
        )
    return None
