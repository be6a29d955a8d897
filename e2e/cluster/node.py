"""A real node: containerd, kubelet, kube-proxy and CoreDNS, in a network of their own.

Needs root on Linux, and Debian's containerd, runc, containernetworking-plugins, iptables,
conntrack, iproute2 and busybox-static.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

from e2e.cluster import cgroups
from e2e.cluster.api import Api, wait_for
from e2e.cluster.control_plane import CONTROLLERS_USER, ControlPlane
from e2e.cluster.images import PAUSE, write_busybox
from e2e.cluster.network import Network, run
from e2e.cluster.process import Process
from e2e.cluster.provisioner import Provisioner
from e2e.cluster.scheduler import scheduler

NAME = "local"
KUBELET_USER = f"system:node:{NAME}"
PROXY_USER = "system:kube-proxy"
USERS = {
    "admin": ["system:masters"],
    "operator": [],
    KUBELET_USER: ["system:nodes"],
    PROXY_USER: [],
}
PROGRAMS = ("containerd", "runc", "iptables", "conntrack", "ip", "nsenter", "busybox", "ctr")
POD_CIDR, SERVICE_CIDR = "10.244.0.0/24", "10.96.0.0/16"
START_SECONDS = 120.0
"""3 s on an idle machine."""


def missing() -> list[str]:
    """The programs that this machine lacks."""
    found = [name for name in PROGRAMS if shutil.which(name) is None]
    return (
        found if Path("/usr/lib/cni/bridge").exists() else [*found, "containernetworking-plugins"]
    )


class LocalCluster:
    """A control plane and one node, in a network namespace.

    Args:
        binary: of ``build.cluster_binary``.
        dns: of ``build.dns_binary``.
        folder: with a short path (a socket's has at most 107 characters), for all files.

    Attributes:
        kubeconfig: of the admin; its address is reachable from this machine alone.
        socket: containerd's, for ``ctr``.
    """

    def __init__(self, binary: Path, dns: Path, folder: Path) -> None:
        self._dns = dns
        self.folder = folder
        self.network = Network()
        self.control_plane = ControlPlane(
            binary, folder, users=USERS, enabled=("*",),
            address=self.network.address, enter=self.network.enter,
        )  # fmt: skip
        self.socket = folder / "containerd.sock"
        self._processes: list[Process] = []
        self._provisioner: Provisioner | None = None

    @property
    def kubeconfig(self) -> Path:
        return self.control_plane.kubeconfig

    def start(self) -> None:
        """Start everything and wait until the node is ready."""
        try:
            self.network.start()
            cgroups.make(self.network.name)
            self.control_plane.start()
            self._start_containerd()
            planner = scheduler(self.control_plane)
            self._processes.append(planner)
            planner.start()
            self._start("kubelet", *self._kubelet())
            self._start("kube-proxy", *self._proxy())
            self._start("dns", str(self._dns), "-conf", str(self._corefile()))
            api = Api(self.kubeconfig)
            wait_for(lambda: self._ready(api), START_SECONDS, "the node is ready")
            api.close()
            self._provisioner = Provisioner(self.kubeconfig, self.folder / "volumes", NAME)
            self._provisioner.start()
        except AssertionError as error:
            tails = "\n".join(f"--- {item.name}\n{item.tail()}" for item in self._processes)
            self.stop()
            raise AssertionError(f"{error}\n{tails}") from None

    def import_image(self, archive: Path) -> None:
        """Make a docker-archive's images known to the node."""
        run("ctr", "-a", str(self.socket), "-n", "k8s.io", "images", "import", str(archive))

    def stop(self) -> None:
        """End everything, with the pods that still run; idempotent."""
        if self._provisioner is not None:
            self._provisioner.stop()
            self._provisioner = None
        kubelets = [item for item in self._processes if item.name != "containerd"]
        for process in kubelets:
            process.stop()
        self._end_containers()
        for process in self._processes:
            process.stop()
        self._processes.clear()
        self.control_plane.stop()
        self._unmount()
        cgroups.remove(self.network.name)
        self.network.stop()

    def _end_containers(self) -> None:
        """Shims outlive containerd, and pods' network namespaces outlive both: end them all."""
        spaces = self.pod_networks()
        for task in self._ctr("tasks", "ls", "-q"):
            self._ctr("tasks", "rm", "-f", task)
        for space in spaces:
            subprocess.run(["ip", "netns", "del", space], capture_output=True, check=False)

    def pod_networks(self) -> set[str]:
        """Names of the pods' network namespaces."""
        return {space for item in self._ctr("containers", "ls", "-q") for space in self._of(item)}

    def _of(self, container: str) -> list[str]:
        info = json.loads("\n".join(self._ctr("containers", "info", container)) or "{}")
        items = info.get("Spec", {}).get("linux", {}).get("namespaces", [])
        paths = [
            Path(item["path"]) for item in items if item["type"] == "network" and "path" in item
        ]
        return [path.name for path in paths if path.name.startswith("cni-")]

    def _ctr(self, *words: str) -> list[str]:
        """Lines of its answer; none where containerd does not answer."""
        command = ["ctr", "-a", str(self.socket), "-n", "k8s.io", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stdout.splitlines()

    def _unmount(self) -> None:
        """What pods had mounted beneath our folder."""
        mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        for path in sorted((m for m in mounts if m.startswith(f"{self.folder}/")), reverse=True):
            subprocess.run(["umount", "-l", path], capture_output=True, check=False)

    def _start(self, name: str, *command: str) -> None:
        process = Process(name, [*self.network.enter, *command], self.folder)
        self._processes.append(process)
        process.start()

    def _ready(self, api: Api) -> bool:
        for process in self._processes:
            assert process.running, f"{process.name} has ended"
        items = api.request("GET", "/api/v1/nodes")["items"]
        conditions = items[0]["status"].get("conditions", []) if items else []
        ready = any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)
        return ready and not items[0]["spec"].get("taints")

    def _start_containerd(self) -> None:
        network = self.folder / "cni"
        network.mkdir()
        (network / "10-bridge.conflist").write_text(json.dumps(_cni()))
        config = self.folder / "containerd.toml"
        config.write_text(_containerd(self.folder, self.socket))
        self._start("containerd", "containerd", "--config", str(config))
        command = ("ctr", "-a", str(self.socket), "version")

        def answers() -> bool:
            assert self._processes[0].running, "containerd has ended"
            return subprocess.run(command, capture_output=True, check=False).returncode == 0

        wait_for(answers, 60, "containerd answers")
        archive = self.folder / "busybox.tar"
        write_busybox(archive)
        self.import_image(archive)

    def _kubelet(self) -> list[str]:
        config = self.folder / "kubelet.json"
        resolv = self.folder / "resolv.conf"
        resolv.write_text(f"nameserver {self.network.address}\n")
        config.write_text(json.dumps(_kubelet(self.folder, self.socket, self.network)))
        return [
            str(self.control_plane.binary), "kubelet", f"--config={config}",
            f"--kubeconfig={self.control_plane.kubeconfig_for(KUBELET_USER)}",
            f"--hostname-override={NAME}", f"--node-ip={self.network.address}",
            f"--root-dir={self.folder / 'kubelet'}", f"--cert-dir={self.folder / 'kubelet-pki'}",
        ]  # fmt: skip

    def _corefile(self) -> Path:
        kubeconfig = self.control_plane.kubeconfig_for(CONTROLLERS_USER)
        path = self.folder / "Corefile"
        path.write_text(
            f""".:53 {{
    errors
    kubernetes cluster.local {{
        kubeconfig {kubeconfig}
        pods insecure
    }}
    cache 5
}}
"""
        )
        return path

    def _proxy(self) -> list[str]:
        return [
            str(self.control_plane.binary), "kube-proxy", "--proxy-mode=iptables",
            f"--kubeconfig={self.control_plane.kubeconfig_for(PROXY_USER)}",
            f"--hostname-override={NAME}", f"--cluster-cidr={POD_CIDR}",
            "--conntrack-max-per-core=0", "--conntrack-tcp-timeout-established=0",
            "--conntrack-tcp-timeout-close-wait=0",
        ]  # fmt: skip


def _containerd(folder: Path, socket: Path) -> str:
    return f"""version = 2
root = "{folder}/containerd"
state = "{folder}/containerd-state"
[grpc]
address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
restrict_oom_score_adj = true
disable_apparmor = true
sandbox_image = "{PAUSE}"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{folder}/cni"
"""


def _cni() -> dict[str, Any]:
    address = {"type": "host-local", "ranges": [[{"subnet": POD_CIDR}]],
               "routes": [{"dst": "0.0.0.0/0"}]}  # fmt: skip
    bridge = {"type": "bridge", "bridge": "cni0", "isGateway": True, "ipMasq": True,
              "hairpinMode": True, "ipam": address}  # fmt: skip
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
    return {"cniVersion": "1.0.0", "name": "pods", "plugins": [bridge, portmap]}


def _kubelet(folder: Path, socket: Path, network: Network) -> dict[str, Any]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": network.address,
        "containerRuntimeEndpoint": f"unix://{socket}",
        "failCgroupV1": False,
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{network.name}",
        "failSwapOn": False,
        "featureGates": {"KubeletInUserNamespace": True},
        "enforceNodeAllocatable": [],
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%"},
        "clusterDNS": [network.address],
        "clusterDomain": "cluster.local",
        "podLogsDir": str(folder / "pod-logs"),
        "resolvConf": str(folder / "resolv.conf"),
        "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
        "authorization": {"mode": "AlwaysAllow"},  # reachable in its own network alone
        "staticPodPath": "",
    }
