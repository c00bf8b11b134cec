"""One real node beside the pretended ones: containerd, kubelet and kube-proxy on this machine, pods on a bridge.

The node's address is the bridge's: it exists on every machine, it is not loopback, and nothing outside reaches it.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from . import images, tools, vllm_env
from .commands import run, wait_until
from .control_plane import ControlPlane, gpu_labels, http_ok
from .images import CONTAINERD_SOCKET, RUNTIME_DIRECTORY, VLLM_MOUNT
from .processes import Processes, Spec
from .settings import PAUSE_IMAGE, RUNTIME_CLASS, ClusterError, Settings

_GPUS = 8
_PRODUCT = "NVIDIA-L4"
_CNI_NETWORK = "vllm-operator"
_FORWARD = Path("/proc/sys/net/ipv4/ip_forward")


class Node:
    """Starts, checks, repairs and removes the real node."""

    COMPONENTS = ("containerd", "kubelet", "kube-proxy")

    def __init__(self, settings: Settings, processes: Processes, control_plane: ControlPlane) -> None:
        """Use the given addresses, paths, process records and API server."""
        self._settings = settings
        self._processes = processes
        self._control_plane = control_plane
        self._folder = settings.state / "node"

    def network_up(self) -> None:
        """Make the bridge, so that its address is there before anything binds to it."""
        settings = self._settings
        if not Path(f"/sys/class/net/{settings.bridge}").exists():
            run(["ip", "link", "add", settings.bridge, "type", "bridge"])
        addresses = run(["ip", "-o", "-4", "address", "show", "dev", settings.bridge])
        if settings.host_address not in addresses:
            run(["ip", "address", "add", f"{settings.host_address}/24", "dev", settings.bridge])
        run(["ip", "link", "set", settings.bridge, "up"])
        before = settings.state / "ip_forward.before"
        if not before.exists():
            settings.state.mkdir(parents=True, exist_ok=True)
            before.write_text(_FORWARD.read_text())
        _FORWARD.write_text("1")

    def up(self) -> None:
        """Start what does not run, import the images and wait until the node is Ready with its GPUs."""
        self._write_configuration()
        specs = {spec.name: spec for spec in self.specs()}
        self._processes.ensure(specs["containerd"])
        wait_until(
            "containerd to answer",
            lambda: bool(images.ctr("version")),
            timeout=30,
            log=self._processes.log("containerd"),
        )
        images.ensure_pause()
        images.ensure_vllm_runtime()
        self._processes.ensure(specs["kubelet"])
        self._processes.ensure(specs["kube-proxy"])
        wait_until("the real node to register", self._registered, timeout=60, log=self._processes.log("kubelet"))
        self._describe()
        wait_until("the real node to be Ready", self._ready, timeout=60, log=self._processes.log("kubelet"))
        wait_until(
            "the node's GPUs to be allocatable", self.advertise_gpus, timeout=40, log=self._processes.log("kubelet")
        )

    def healthy(self, name: str) -> bool:
        """Ask a component for its health."""
        if name == "containerd":
            with contextlib.suppress(ClusterError):
                return bool(images.ctr("version", timeout=5))
            return False
        return http_ok(f"http://127.0.0.1:{32248 if name == 'kubelet' else 32256}/healthz")

    def advertise_gpus(self) -> bool:
        """Write the extended resource, as a device plugin would make the kubelet do. Return whether it holds.

        A kubelet that starts without a device plugin's checkpoint resets extended resources to 0, so this is asked
        until the node says the number by itself.
        """
        key = "nvidia.com~1gpu"
        for field in ("capacity", "allocatable"):
            path = f"jsonpath={{.status.{field}.nvidia\\.com/gpu}}"
            if self._control_plane.kubectl("get", "node", self._settings.node_name, "-o", path).strip() != str(_GPUS):
                patch = [
                    {"op": "add", "path": f"/status/{kind}/{key}", "value": str(_GPUS)}
                    for kind in ("capacity", "allocatable")
                ]
                self._control_plane.kubectl(
                    "patch",
                    "node",
                    self._settings.node_name,
                    "--subresource=status",
                    "--type=json",
                    "-p",
                    json.dumps(patch),
                )
                return False
        return True

    def _registered(self) -> bool:
        words = ["get", "node", self._settings.node_name, "--ignore-not-found", "-o", "name"]
        return self._control_plane.kubectl(*words) != ""

    def _ready(self) -> bool:
        path = 'jsonpath={.status.conditions[?(@.type=="Ready")].status}'
        return self._control_plane.kubectl("get", "node", self._settings.node_name, "-o", path).strip() == "True"

    def _describe(self) -> None:
        """Label the node as GPU feature discovery would, and make the RuntimeClass."""
        labels = {
            **gpu_labels(product=_PRODUCT, memory_mib=23034, gpus=_GPUS),
            "nvidia.com/gpu.machine": "local",
            "vllm-operator.io/real-node": "true",
        }
        self._control_plane.kubectl(
            "label",
            "node",
            self._settings.node_name,
            "--overwrite",
            *(f"{key}={value}" for key, value in labels.items()),
        )
        self._control_plane.apply(
            {
                "apiVersion": "node.k8s.io/v1",
                "kind": "RuntimeClass",
                "metadata": {"name": RUNTIME_CLASS},
                "handler": RUNTIME_CLASS,
            }
        )

    # -- configuration
    # -------------------------------------------------------------------------------------------------

    def _write_configuration(self) -> None:
        folder = self._folder
        (folder / "cni").mkdir(parents=True, exist_ok=True)
        RUNTIME_DIRECTORY.mkdir(parents=True, exist_ok=True)
        (folder / "cni" / "10-bridge.conflist").write_text(json.dumps(self._cni()))
        (folder / "containerd.toml").write_text(self._containerd_toml())
        (folder / "kubelet.json").write_text(self._kubelet_configuration())
        spec = json.loads(run([tools.binary("ctr"), "oci", "spec"]))
        spec["process"].pop("rlimits", None)
        spec["mounts"] += [
            {"destination": inside, "type": "bind", "source": str(outside), "options": ["rbind", "ro", "nosuid"]}
            for inside, outside in (("/usr", Path("/usr")), (VLLM_MOUNT, vllm_env.environment_path()))
        ]
        (folder / "vllm-cpu-spec.json").write_text(json.dumps(spec))

    def _cni(self) -> dict[str, object]:
        return {
            "cniVersion": "1.0.0",
            "name": _CNI_NETWORK,
            "plugins": [
                {
                    "type": "bridge",
                    "bridge": self._settings.bridge,
                    "isGateway": True,
                    "ipMasq": True,
                    "hairpinMode": True,
                    "ipam": {
                        "type": "host-local",
                        "ranges": [[{"subnet": self._settings.pod_range}]],
                        "routes": [{"dst": "0.0.0.0/0"}],
                        "dataDir": str(self._folder / "cni-addresses"),
                    },
                },
                {"type": "portmap", "capabilities": {"portMappings": True}},
            ],
        }

    def _containerd_toml(self) -> str:
        folder = self._folder
        return f"""version = 3
root = "{folder}/containerd"
state = "{RUNTIME_DIRECTORY}/containerd"
disabled_plugins = ["io.containerd.nri.v1.nri", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
address = "{CONTAINERD_SOCKET}"
[ttrpc]
address = "{CONTAINERD_SOCKET}.ttrpc"
[plugins."io.containerd.internal.v1.opt"]
path = "{folder}/opt"
[plugins."io.containerd.cri.v1.images"]
snapshotter = "overlayfs"
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{PAUSE_IMAGE}"
[plugins."io.containerd.cri.v1.runtime"]
# Without this: "can't get final child's PID from pipe" where CAP_SYS_RESOURCE is missing.
restrict_oom_score_adj = true
# Under our own directory, so that `down` finds every network namespace it must remove.
netns_mounts_under_state_dir = true
[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["/usr/lib/cni"]
conf_dir = "{folder}/cni"
[plugins."io.containerd.cri.v1.runtime".containerd]
default_runtime_name = "runc"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.{RUNTIME_CLASS}]
runtime_type = "io.containerd.runc.v2"
base_runtime_spec = "{folder}/vllm-cpu-spec.json"
"""

    def _kubelet_configuration(self) -> str:
        settings = self._settings
        configuration = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
            "address": settings.host_address,
            "port": 32250,
            "healthzBindAddress": "127.0.0.1",
            "healthzPort": 32248,
            "readOnlyPort": 0,
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": False},
                "x509": {"clientCAFile": str(settings.pki / "ca.crt")},
            },
            "authorization": {"mode": "AlwaysAllow"},
            "clusterDomain": "cluster.local",
            "clusterDNS": [settings.host_address],
            "cgroupDriver": "cgroupfs",
            "failCgroupV1": False,
            "failSwapOn": False,
            "enforceNodeAllocatable": [],
            # Images are imported, not pulled: one that is removed cannot come back.
            "imageGCHighThresholdPercent": 100,
            "evictionHard": {"memory.available": "100Mi"},
            "podLogsDir": str(settings.logs / "pods"),
            "staticPodPath": "",
            "serializeImagePulls": False,
        }
        return json.dumps(configuration, indent=1)

    def specs(self) -> Sequence[Spec]:
        """Return how each component is started."""
        settings = self._settings
        # containerd looks for its shim on PATH.
        shim = tools.binary("containerd-shim-runc-v2")
        path = f"{shim.parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        return (
            Spec(
                "containerd",
                [
                    str(tools.binary("containerd")),
                    "--config",
                    str(self._folder / "containerd.toml"),
                    "--log-level",
                    "warn",
                ],
                # The digest changes with the configuration, and a process with another environment is started anew.
                env={"PATH": path, "CONFIGURATION": digest(self._containerd_toml(), str(vllm_env.environment_path()))},
                address=f"unix://{CONTAINERD_SOCKET}",
            ),
            Spec(
                "kubelet",
                [
                    str(tools.binary("kubelet")),
                    f"--config={self._folder / 'kubelet.json'}",
                    f"--kubeconfig={settings.pki / 'kubelet.kubeconfig'}",
                    f"--root-dir={self._folder / 'kubelet'}",
                    f"--cert-dir={self._folder / 'kubelet-pki'}",
                    f"--node-ip={settings.host_address}",
                    f"--hostname-override={settings.node_name}",
                ],
                env={"CONFIGURATION": digest(self._kubelet_configuration())},
                address=f"https://{settings.host_address}:32250",
            ),
            Spec(
                "kube-proxy",
                [
                    str(tools.binary("kube-proxy")),
                    f"--kubeconfig={settings.pki / 'kube-proxy.kubeconfig'}",
                    "--proxy-mode=iptables",
                    f"--cluster-cidr={settings.pod_range}",
                    # Pods on one bridge answer each other directly, past the NAT of a ClusterIP, unless all is
                    # masqueraded.
                    "--masquerade-all",
                    f"--hostname-override={settings.node_name}",
                    "--conntrack-max-per-core=0",
                    "--conntrack-tcp-timeout-established=0s",
                    "--conntrack-tcp-timeout-close-wait=0s",
                    "--healthz-bind-address=127.0.0.1:32256",
                    "--metrics-bind-address=127.0.0.1:32249",
                ],
                address=f"iptables, {settings.service_range}",
            ),
        )

    # -- removal
    # -------------------------------------------------------------------------------------------------------

    def down(self) -> None:
        """Remove all of the node; each step also works when there is nothing to do."""
        for name in ("kubelet", "kube-proxy"):
            self._processes.kill(name)  # nothing is kept, so there is nothing to be gentle about
        if self._processes.pid("containerd") is not None:
            with contextlib.suppress(ClusterError):
                for task in images.ctr("tasks", "ls", "-q", timeout=15).split():
                    with contextlib.suppress(ClusterError):
                        images.ctr("tasks", "rm", "-f", task, timeout=15)
        self._processes.stop("containerd")
        for pid in [*self._contained(), *self._shims()]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_gone([*self._contained(), *self._shims()])
        for folder in (RUNTIME_DIRECTORY, self._folder):
            unmount_below(folder)
        self._remove_cgroups()
        self._clean_iptables()
        bridge = self._settings.bridge
        if Path(f"/sys/class/net/{bridge}").exists():
            for port in Path(f"/sys/class/net/{bridge}/brif").iterdir():
                with contextlib.suppress(ClusterError):  # its other end may have gone, and it with it, a moment ago
                    run(["ip", "link", "delete", port.name])
            run(["ip", "link", "delete", bridge])
        before = self._settings.state / "ip_forward.before"
        if before.exists():
            _FORWARD.write_text(before.read_text())
        pod_logs = str(self._settings.logs / "pods")
        with contextlib.suppress(OSError):
            for link in Path("/var/log/containers").iterdir():
                if link.is_symlink() and str(link.readlink()).startswith(pod_logs):
                    link.unlink()
        shutil.rmtree(RUNTIME_DIRECTORY, ignore_errors=True)
        self._remove_fixed_places()

    @staticmethod
    def _remove_fixed_places() -> None:
        """Remove what programs put where no setting moves it: files of ours, and folders when they are empty."""
        results = Path("/var/lib/cni/results")
        for ours in results.glob(f"{_CNI_NETWORK}-*-eth0"):
            container = ours.name.removeprefix(f"{_CNI_NETWORK}-").removesuffix("-eth0")
            for file in results.glob(f"*-{container}-*"):
                file.unlink()
        with contextlib.suppress(OSError):
            listening = Path("/proc/net/unix").read_text()
            for socket in Path("/run/containerd/s").iterdir():
                if str(socket) not in listening:  # a killed shim's
                    socket.unlink()
        with contextlib.suppress(OSError):
            for name in ("kubelet.sock", "kubelet_internal_checkpoint", "DEPRECATION"):
                Path("/var/lib/kubelet/device-plugins", name).unlink(missing_ok=True)
        for folder in (
            "/var/lib/cni/results",
            "/var/lib/cni",
            "/var/lib/kubelet/device-plugins",
            "/var/lib/kubelet",
            "/var/log/containers",
            "/run/containerd/runc/k8s.io",
            "/run/containerd/runc",
            "/run/containerd/s",
            "/run/containerd",
        ):
            with contextlib.suppress(OSError):
                Path(folder).rmdir()

    @staticmethod
    def _cgroups() -> list[Path]:
        root = Path("/sys/fs/cgroup")
        found = [root / "kubepods", *root.glob("*/kubepods")]
        # /sys/fs/cgroup/cpu may be a link to cpu,cpuacct: once is enough
        return list({path.resolve() for path in found if path.is_dir()})

    def _contained(self) -> list[int]:
        """Return the processes in pods' cgroups (only when the kubelet was ours: then its folder is there)."""
        if not self._folder.exists():
            return []
        pids: set[int] = set()
        for top in self._cgroups():
            for file in top.rglob("cgroup.procs"):
                with contextlib.suppress(OSError):
                    pids.update(int(word) for word in file.read_text().split())
        return sorted(pids)

    @staticmethod
    def _shims() -> list[int]:
        """Return the shims that were started for our containerd's socket; they outlive it by design."""
        pids = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                    if words[0].endswith("containerd-shim-runc-v2") and str(CONTAINERD_SOCKET) in words:
                        pids.append(int(entry.name))
        return pids

    def _remove_cgroups(self) -> None:
        if not self._folder.exists():
            return
        for top in self._cgroups():
            folders = sorted(
                (path for path in [top, *top.rglob("*")] if path.is_dir()), key=lambda path: -len(path.parts)
            )
            for folder in folders:
                with contextlib.suppress(OSError):
                    folder.rmdir()

    @staticmethod
    def _clean_iptables() -> None:
        """Remove kube-proxy's and the kubelet's chains and those of our CNI network, in one go per address family."""
        for family in ("iptables", "ip6tables"):
            if shutil.which(f"{family}-save") is None:
                continue
            with contextlib.suppress(ClusterError):
                before = run([f"{family}-save"])
                after = "".join(_without_our_chains(before))
                if after != before:
                    run([f"{family}-restore"], stdin=after)


def _without_our_chains(rules: str) -> Iterator[str]:
    """Yield the lines of an iptables-save without chains and rules that Kubernetes or our CNI network made."""
    ours = set(re.findall(r"^:(KUBE-[A-Z0-9-]+|CNI-HOSTPORT-[A-Z]+)", rules, flags=re.MULTILINE))
    ours |= set(re.findall(rf"-A (CNI-\S+) .*{_CNI_NETWORK}", rules))
    ours |= set(re.findall(rf"{_CNI_NETWORK}.* -j (CNI-\S+)", rules))
    for line in rules.splitlines(keepends=True):
        words = line.split()
        chain = words[0][1:] if line.startswith(":") else words[1] if line.startswith("-A") else ""
        target = words[words.index("-j") + 1] if "-j" in words else ""
        if chain not in ours and target not in ours:
            yield line


def digest(*texts: str) -> str:
    """Return a short hash of texts."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


def wait_gone(pids: list[int]) -> None:
    """Wait until killed processes are gone, so that their mounts can be removed."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and any(Path(f"/proc/{pid}").exists() for pid in pids):
        time.sleep(0.05)


def unmount_below(folder: Path) -> None:
    """Unmount everything under a folder, the deepest first."""
    prefix = f"{folder}/"
    for _ in range(5):
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        # Spaces in paths are written as \\040.
        points = [line.split()[4].replace("\\040", " ") for line in lines]
        points = [point for point in points if point.startswith(prefix)]
        if not points:
            return
        for point in sorted(points, key=len, reverse=True):
            with contextlib.suppress(ClusterError):
                run(["umount", "-l", point])
