"""GPU products: what a node's label does not say. Pure data.

Memory is what CUDA (or ROCm, or Level Zero) reports as total on the device, in GiB, rounded down: a little less than the
nominal size, because the driver and ECC take their share.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Product:
    """A GPU product."""

    name: str
    memory_gib: float
    capability: tuple[int, int] | None = None
    """NVIDIA compute capability."""


_PRODUCTS = (
    Product("B300", 267.0, (10, 3)),
    Product("GB300", 267.0, (10, 3)),
    Product("B200", 178.3, (10, 0)),
    Product("GB200", 184.0, (10, 0)),
    Product("GH200", 94.5, (9, 0)),
    Product("H200", 139.7, (9, 0)),
    Product("H100-NVL", 93.0, (9, 0)),
    Product("H100", 79.1, (9, 0)),
    Product("H800", 79.1, (9, 0)),
    Product("H20", 95.0, (9, 0)),
    Product("A100-80GB", 79.1, (8, 0)),
    Product("A100-40GB", 39.3, (8, 0)),
    Product("A800-80GB", 79.1, (8, 0)),
    Product("A30", 23.4, (8, 0)),
    Product("A40", 44.3, (8, 6)),
    Product("A16", 14.5, (8, 6)),
    Product("A10G", 22.0, (8, 6)),
    Product("A10", 22.0, (8, 6)),
    Product("A2", 14.5, (8, 6)),
    Product("L40S", 44.3, (8, 9)),
    Product("L40", 44.3, (8, 9)),
    Product("L20", 44.3, (8, 9)),
    Product("L4", 22.0, (8, 9)),
    Product("RTX-PRO-6000", 94.9, (12, 0)),
    Product("RTX-6000-ADA", 47.3, (8, 9)),
    Product("RTX-A6000", 47.3, (8, 6)),
    Product("RTX-A5000", 23.5, (8, 6)),
    Product("RTX-5090", 31.3, (12, 0)),
    Product("RTX-4090", 23.5, (8, 9)),
    Product("RTX-3090", 23.5, (8, 6)),
    Product("T4", 14.5, (7, 5)),
    Product("V100-32GB", 31.7, (7, 0)),
    Product("V100-16GB", 15.7, (7, 0)),
    Product("MI355X", 287.0),
    Product("MI350X", 287.0),
    Product("MI325X", 255.0),
    Product("MI300X", 191.0),
    Product("MI308X", 191.0),
    Product("MI300A", 127.0),
    Product("MI250X", 63.9),
    Product("MI250", 63.9),
    Product("MI210", 63.9),
    Product("Max-1550", 63.9),
    Product("Max-1100", 47.9),
    Product("B60", 23.9),
)

_BY_NAME = {product.name.lower(): product for product in _PRODUCTS}

# GKE's cloud.google.com/gke-accelerator, AKS's kubernetes.azure.com/accelerator and Karpenter's karpenter.k8s.aws/instance-gpu-name
_ALIASES = {
    "nvidia-tesla-t4": "T4",
    "nvidia-tesla-v100": "V100-16GB",
    "nvidia-tesla-a100": "A100-40GB",
    "nvidia-a100-80gb": "A100-80GB",
    "nvidia-l4": "L4",
    "nvidia-h100-80gb": "H100",
    "nvidia-h100-mega-80gb": "H100",
    "nvidia-h200-141gb": "H200",
    "nvidia-b200": "B200",
    "nvidia-gb200": "GB200",
    "nvidia-rtx-pro-6000": "RTX-PRO-6000",
    "a100": "A100-40GB",
    "v100": "V100-16GB",
    "radeon-pro-v520": "",
    "m60": "",
    "k80": "",
}


def find_product(label: str) -> Product | None:
    """The product that a label means, e.g. NVIDIA-H100-80GB-HBM3, nvidia-l4, l40s, AMD_Instinct_MI300X_OAM."""
    text = re.sub(r"[\s_]+", "-", label.strip().lower())
    if text in _ALIASES:
        return _BY_NAME.get(_ALIASES[text].lower())
    if text in _BY_NAME:
        return _BY_NAME[text]
    memory = re.search(r"(\d+)gb", text)
    words = f"-{text}-"
    for product in sorted(_PRODUCTS, key=lambda product: -len(product.name)):
        if f"-{product.name.lower()}-" in words:
            return product
    for name in ("a100", "v100", "a800"):
        if f"-{name}-" in words:
            return _BY_NAME.get(f"{name}-{memory.group(1)}gb" if memory else f"{name}-40gb")
    for product in _PRODUCTS:
        # product numbers with a form factor behind them: A100-SXM4-80GB, Tesla-V100-SXM2-32GB, H100-PCIe
        base = product.name.lower().split("-")[0]
        if (
            len(base) > 2
            and f"-{base}-" in words
            and (memory is None or product.name.lower().endswith(memory.group(0)) or "-" not in product.name)
        ):
            return product
    return None
