"""A real, throw-away SLURM cluster on one machine: munge, slurmctld and two slurmd, each on a host of its own.

A host is a network namespace (so that its cable can be pulled) with a hostname and a hosts file of its own; nothing of
the machine is touched. Needs root and Debian's slurmctld, slurmd, slurm-client, munge and iproute2.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "scontrol", "munged", "ip", "nsenter", "unshare")
SWITCH = "10.77.0.254"
SEARCHED = f"/usr/sbin:/usr/bin:/sbin:/bin:{os.environ.get('PATH', '')}"

CONFIG = """
ClusterName=test
SlurmctldHost={host}({switch})
SlurmctldPort=17000
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/run/munge.sock,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd.%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.%n.log
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SwitchType=switch/none
MpiDefault=none
PlugStackConfig={folder}/etc/plugstack.conf
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,batch_sched_delay=0,bf_interval=1
SlurmdParameters=config_overrides
JobRequeue=1
ReturnToService=2
SlurmctldTimeout=30
SlurmdTimeout=60
KillWait=5
MinJobAge=600
{nodes}
PartitionName=test Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def why_not() -> str | None:
    """What is missing for a cluster here."""
    if os.geteuid() != 0:
        return "only root can start a SLURM cluster"
    missing = [name for name in PROGRAMS if shutil.which(name, path=SEARCHED) is None]
    if missing:
        return f"{', '.join(missing)} not found: apt-get install slurmctld slurmd slurm-client munge iproute2"
    name = f"lsqtry{os.getpid()}"  # every process of the tests asks, at the same time
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, env={"PATH": SEARCHED}, check=False)
    if made.returncode:
        return f"no network namespaces here: {made.stderr.decode().strip()}"
    subprocess.run(["ip", "netns", "delete", name], env={"PATH": SEARCHED}, check=False)
    return None


class Cluster:
    """`with Cluster(folder) as cluster:` two nodes, node1 and node2, that take jobs.

    Args:
        folder: Everything the daemons write.
        prefix: Of the namespaces' names, so that two test runs on one machine do not meet.
    """

    def __init__(self, folder: Path, *, num_nodes: int = 2) -> None:
        self.folder = folder
        self.nodes = [f"node{number}" for number in range(1, num_nodes + 1)]
        self.prefix = f"lsq{os.getpid() % 100000}"
        self.environment = os.environ | {"PATH": SEARCHED, "SLURM_CONF": str(folder / "etc/slurm.conf")}
        for name in [name for name in self.environment if name.startswith("SLURM_") and name != "SLURM_CONF"]:
            del self.environment[name]

    def __enter__(self) -> Cluster:
        try:
            self._make_network()
            self._configure()
            self._munge()
            self._on("sw", "slurmctld", "-c", "-f", self.environment["SLURM_CONF"])
            for node in self.nodes:
                self.start_node(node)
            self.wait_for_nodes()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._ask("scancel", "--full", "--user=root")
        deadline = time.monotonic() + 10
        while self._ask("squeue", "--noheader").strip() and time.monotonic() < deadline:
            time.sleep(0.2)
        for file in sorted((self.folder / "run").glob("*.pid"), reverse=True):
            self._kill(file, signal.SIGTERM)
        time.sleep(0.5)
        for file in (self.folder / "run").glob("*.pid"):
            self._kill(file, signal.SIGKILL)
        for name in ("sw", *self.nodes):
            self._end_processes(name)
            subprocess.run(
                ["ip", "netns", "delete", self.prefix + name], capture_output=True, env=self.environment, check=False
            )

    def submit(self, *words: str, environment: dict[str, str] | None = None, folder: Path | None = None) -> str:
        """`sbatch`: the number of the job."""
        done = self._on("sw", "sbatch", "--parsable", *words, environment=environment, folder=folder)
        return done.stdout.strip()

    def job(self, number: str) -> dict[str, str]:
        """What scontrol knows of a job."""
        words = self._ask("scontrol", "show", "job", number, "--oneliner").split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def command(self, *words: str) -> str:
        """A SLURM client's answer."""
        return self._on("sw", *words).stdout

    def begin(
        self, node: str, *words: str, environment: dict[str, str], folder: Path, log: Path
    ) -> subprocess.Popen[bytes]:
        """Start a program on a node without SLURM; whoever calls ends it."""
        with log.open("wb") as stream:
            return subprocess.Popen(
                [*self._entering(node), *words],
                stdout=stream,
                stderr=subprocess.STDOUT,
                env=self.environment | environment,
                cwd=folder,
            )

    def wait(self, number: str, *, states: tuple[str, ...] = (), seconds: float = 480) -> dict[str, str]:
        """Until the job is in one of `states`, or has ended for good."""
        final = states or ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            found = self.job(number)
            if found.get("JobState") in final:
                return found
            time.sleep(0.2)
        raise TimeoutError(f"job {number} is not {' or '.join(final)} after {seconds:g} s: {self.job(number)}")

    def wait_for_nodes(self, seconds: float = 120) -> None:
        """Until every node takes jobs."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            states = self._ask("sinfo", "--noheader", "--Node", "--format=%T").split()
            if states == ["idle"] * len(self.nodes):
                return
            time.sleep(0.1)
        logs = "\n".join(path.read_text()[-1000:] for path in (self.folder / "log").glob("*.log"))
        raise TimeoutError(f"the nodes are {states}\n{logs}")

    def start_node(self, node: str) -> None:
        """Its slurmd."""
        self._on(node, "slurmd", "-N", node, "-f", self.environment["SLURM_CONF"])

    def mend(self) -> None:
        """Plug every cable and start every slurmd that is gone."""
        for node in self.nodes:
            self.pull_cable(node, plug=True)
            if not self.processes(node, "slurmd"):
                self.start_node(node)

    def kill_node(self, node: str) -> None:
        """Its slurmd, and all that runs on it, at once."""
        self._end_processes(node)

    def pull_cable(self, node: str, *, plug: bool = False) -> None:
        """Take a node's network away, or give it back."""
        self._ip("-n", f"{self.prefix}sw", "link", "set", f"port-{node}", "up" if plug else "down")

    def processes(self, node: str, words: str = "lightning_sq") -> list[int]:
        """Processes of a node whose command line has `words` in it."""
        found = []
        for number in self._processes(node):
            try:
                command = Path(f"/proc/{number}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if words in command:
                found.append(number)
        return found

    def _processes(self, node: str) -> list[int]:
        done = subprocess.run(
            ["ip", "netns", "pids", self.prefix + node],
            capture_output=True,
            text=True,
            env=self.environment,
            check=False,
        )
        return [int(word) for word in done.stdout.split()]

    def _end_processes(self, node: str) -> None:
        for number in self._processes(node):
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)

    def _ask(self, *words: str) -> str:
        try:
            return self._on("sw", *words).stdout
        except (subprocess.SubprocessError, OSError):
            return ""

    def _on(
        self, host: str, *words: str, environment: dict[str, str] | None = None, folder: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on a host."""
        done = subprocess.run(
            [*self._entering(host), *words],
            capture_output=True,
            text=True,
            timeout=60,
            env=self.environment | (environment or {}),
            cwd=folder,
            check=False,
        )
        if done.returncode:
            raise OSError(f"{' '.join(words)}: {done.stderr}")
        return done

    def _entering(self, host: str) -> list[str]:
        """What stands before a command that is to run on a host; `sw` has the machine's own name."""
        enter = ["nsenter", f"--net=/run/netns/{self.prefix}{host}"]
        if host != "sw":
            script = 'hostname "$1" && mount --bind "$2" /etc/hosts && shift 2 && exec "$@"'
            enter += ["unshare", "--uts", "--mount", "--propagation", "private", "bash", "-c", script, "_", host]
            enter.append(str(self.folder / "etc/hosts"))
        return enter

    def _ip(self, *words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True, env=self.environment)

    def _make_network(self) -> None:
        """One switch, and a cable to each node."""
        switch = f"{self.prefix}sw"
        self._ip("netns", "add", switch)
        self._ip("-n", switch, "link", "set", "lo", "up")
        self._ip("-n", switch, "link", "add", "br0", "type", "bridge")
        self._ip("-n", switch, "addr", "add", f"{SWITCH}/24", "dev", "br0")
        self._ip("-n", switch, "link", "set", "br0", "up")
        for number, node in enumerate(self.nodes, start=1):
            own, port = self.prefix + node, f"port-{node}"
            self._ip("netns", "add", own)
            self._ip("-n", own, "link", "set", "lo", "up")
            self._ip("-n", switch, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", own)
            self._ip("-n", switch, "link", "set", port, "master", "br0", "up")
            self._ip("-n", own, "addr", "add", f"10.77.0.{number}/24", "dev", "eth0")
            self._ip("-n", own, "link", "set", "eth0", "up")

    def _configure(self) -> None:
        for name in ("etc", "run", "log", "state", "spool", "munge"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o755)
        host = socket.gethostname().split(".")[0]
        addresses = {f"10.77.0.{number}": node for number, node in enumerate(self.nodes, start=1)} | {SWITCH: host}
        lines = ["127.0.0.1 localhost", *(f"{address} {name}" for address, name in addresses.items())]
        (self.folder / "etc/hosts").write_text("\n".join(lines) + "\n")
        (self.folder / "etc/plugstack.conf").touch()
        nodes = [
            f"NodeName={node} NodeHostname={node} NodeAddr=10.77.0.{number} Port={17000 + number} CPUs=4 Boards=1 "
            "SocketsPerBoard=1 CoresPerSocket=4 ThreadsPerCore=1 RealMemory=4000 State=UNKNOWN"
            for number, node in enumerate(self.nodes, start=1)
        ]
        text = CONFIG.format(host=host, switch=SWITCH, folder=self.folder, nodes="\n".join(nodes))
        (self.folder / "etc/slurm.conf").write_text(text)

    def _munge(self) -> None:
        (self.folder / "munge").chmod(0o700)
        key = self.folder / "munge/munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        run, log = self.folder / "run", self.folder / "log"
        subprocess.run(
            [
                *("munged", "--force", "--num-threads=2", f"--key-file={key}", f"--socket={run}/munge.sock"),
                *(f"--pid-file={run}/munged.pid", f"--log-file={log}/munged.log"),
                f"--seed-file={self.folder}/munge/seed",
            ],
            check=True,
            capture_output=True,
            env=self.environment,
        )

    @staticmethod
    def _kill(file: Path, number: signal.Signals) -> None:
        with suppress(OSError, ValueError):
            os.kill(int(file.read_text()), number)
