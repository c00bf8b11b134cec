"""Debian packages the full profile needs, installed when they are missing."""

import os
import shutil
from pathlib import Path

from .commands import run
from .progress import Progress
from .settings import ClusterError, cache_root

# What proves that a package is there -> the package.
NODE_PACKAGES = {
    "/usr/sbin/runc": "runc",
    "/usr/lib/cni/bridge": "containernetworking-plugins",
    "/usr/sbin/iptables": "iptables",
    "/usr/sbin/conntrack": "conntrack",
    "/usr/sbin/ip": "iproute2",
    "/usr/sbin/ethtool": "ethtool",
    "/usr/bin/openssl": "openssl",
    "/usr/bin/python3.11": "python3.11",
    "/usr/lib/python3.11/ensurepip/__init__.py": "python3.11-venv",
    "/usr/bin/g++": "g++",
}
IMAGE_PACKAGES = {
    "/usr/bin/buildah": "buildah",
    "/usr/sbin/debootstrap": "debootstrap",
}


def ensure(wanted: dict[str, str], progress: Progress) -> None:
    """Install the missing ones with apt-get, after one `apt-get update`."""
    missing = [package for proof, package in wanted.items() if not Path(proof).exists()]
    if not missing:
        return
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        raise ClusterError(
            f"missing: {', '.join(missing)}. As root on Debian 12 they are installed for you; "
            f"here run: sudo apt-get install {' '.join(missing)}"
        )
    log = cache_root() / "build-logs" / "apt.log"
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    progress.expect(1)
    with progress.task(f"apt-get install {' '.join(missing)}"):
        run(["apt-get", "update", "-q"], env=quiet, timeout=300, log=log)
        run(["apt-get", "install", "-y", "-q", "--no-install-recommends", *missing], env=quiet, timeout=600, log=log)
