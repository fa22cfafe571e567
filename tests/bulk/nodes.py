"""Ray nodes on this machine, as `ray start` makes them, and jobs on them, each a process group."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress

# Units of 8 rows, so that a short job has many.
SENTILORA = (
    "from sentilora.bulk import units\nunits.ROWS_PER_UNIT['cpu'] = 8\n"
    "from sentilora.cli.app import main\nmain()"
)


def free_port(above=7000):
    """A port below those that Ray gives to its workers, which begin at 10002."""
    for port in range(above + 1, 10000):
        with socket.socket() as listener, suppress(OSError):
            listener.bind(("0.0.0.0", port))
            return port
    raise AssertionError("no port is free")


class Nodes:
    """A cluster of nodes with one CPU each, with token authentication."""

    def __init__(self, folder):
        self.folder, self.port, self.groups = folder, free_port(), []
        self.env = {
            **os.environ,
            "HOME": str(folder),  # where Ray looks for a token
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": "0123456789abcdef" * 4,
            "RAY_USAGE_STATS_ENABLED": "0",
            "OMP_NUM_THREADS": "1",
            "RAY_raylet_start_wait_time_s": "180",
            "RAY_worker_niceness": "0",  # a busy machine would starve them at 15, the default
        }
        self.env.pop("RAY_ADDRESS", None)

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    def add(self):
        """Another node, the first one the head; returns its process."""
        where = (
            [f"--address={self.address}"]
            if self.groups
            else ["--head", f"--port={self.port}", "--include-dashboard=false",
                  f"--temp-dir={self.folder}/ray"]
        )  # fmt: skip
        # Named ports: Ray gives up after 15 s where it has to wait for an agent to choose its own.
        ports = [self.port + 100 * (1 + len(self.groups))]
        for _ in range(4):
            ports.append(free_port(ports[-1]))
        options = ("dashboard-agent-grpc-port", "dashboard-agent-listen-port",
                   "runtime-env-agent-port", "metrics-export-port")  # fmt: skip
        where += [f"--{option}={port}" for option, port in zip(options, ports[1:], strict=True)]
        log = self.folder / f"node-{len(self.groups)}.log"
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", *where, "--num-cpus=1",
                   "--object-store-memory=100000000", "--block"]  # fmt: skip
        with log.open("wb") as file:
            node = subprocess.Popen(
                command, stdout=file, stderr=file, env=self.env, start_new_session=True
            )
        self.groups.append(node)
        end = time.monotonic() + 180
        while "Ray runtime started" not in log.read_text():
            assert node.poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(0.2)
        return node

    def start(self, *arguments, **env):
        """`sentilora` with these arguments, as a process."""
        command = [sys.executable, "-c", SENTILORA, *map(str, arguments)]
        job = subprocess.Popen(
            command,
            env=self.env | env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        return job

    def run(self, *arguments, **env):
        """(exit code, stderr) of `sentilora` with these arguments."""
        job = self.start(*arguments, **env)
        _, stderr = job.communicate(timeout=300)
        return job.returncode, stderr

    def kill(self, node):
        """SIGKILL a node and its actors at once, as when its machine loses power."""
        actors = self.actors([node])
        kill_group(node)  # an actor would go on for a second or two
        for actor in actors:
            with suppress(ProcessLookupError):
                os.kill(actor, signal.SIGKILL)

    def actors(self, nodes=None):
        """The processes of actors that run on these nodes, by default on all."""
        command = ["ps", "-eo", "pid,ppid,pgid,args"]  # an actor's group is its own
        listed = subprocess.run(command, capture_output=True, text=True).stdout
        lines = [line.split(None, 3) for line in listed.splitlines()[1:]]
        groups = {str(node.pid) for node in nodes or self.groups}
        raylets = {pid for pid, _, group, _ in lines if group in groups}
        return [int(pid) for pid, parent, _, args in lines
                if "ray::Worker" in args and parent in raylets]  # fmt: skip

    def end(self):
        for node in self.groups:
            kill_group(node)


def kill_group(process):
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
