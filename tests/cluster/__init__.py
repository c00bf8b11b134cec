"""A real Kubernetes on this machine without Docker, for tests: see README.md in this folder.

cluster = LocalCluster.running() or LocalCluster.load().up(profile="control-plane")
cluster.kubectl("get", "nodes")
"""

from .local import ComponentStatus, LocalCluster, Profile
from .settings import ClusterError

__all__ = ["ClusterError", "ComponentStatus", "LocalCluster", "Profile"]
