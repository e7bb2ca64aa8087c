"""A stand-in for a Kubernetes cluster: its API as far as Snakemake's plugin speaks it, with processes here as pods.

Each pod runs its container's command in a fresh, empty folder, as with a volume `emptyDir`, and sees of the environment
what it is given and no other. What a scheduler would do with requests, tolerations and images is not played; that a job
may ask for GPUs only by a limit, which the API server itself demands, is.
"""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

# What no job may be given more of than it asked for.
_EXTENDED = ("nvidia.com/gpu", "amd.com/gpu")


@dataclass
class Pod:
    """A job's only pod.

    Args:
        job: what was submitted, as the plugin made it.
        folder: that it runs in.
    """

    job: dict[str, Any]
    folder: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def container(self) -> dict[str, Any]:
        """Its only container."""
        containers = self.job["spec"]["template"]["spec"]["containers"]
        assert len(containers) == 1
        found: dict[str, Any] = containers[0]
        return found

    @property
    def command(self) -> str:
        """What the container runs."""
        return " ".join(self.container["args"])

    @property
    def rule(self) -> str:
        """The rule of the Snakemake job that it runs."""
        return re.search(r"--allowed-rules (\S+)", self.command)[1]

    @property
    def log(self) -> Path:
        """What it printed."""
        return self.folder.with_suffix(".log")

    def start(self, environment: Mapping[str, str]) -> None:
        """Run the container's command."""
        self.folder.mkdir(parents=True)
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [*self.container["command"], *self.container["args"]],
                cwd=self.folder,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def send(self, number: signal.Signals) -> None:
        """Send a signal to all of its processes."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def exit_code(self) -> int | None:
        """What its command ended with; None while it runs."""
        code = self.process.poll()
        return code if code is None or code >= 0 else 128 - code


@dataclass
class KubernetesApi:
    """The cluster.

    Args:
        folder: gets a folder for each pod and `kubeconfig`.
        environment: of every pod, beside its secrets.
        starts: whether pods run; else they wait for ever.
        watch: called with each pod that was started, in a thread of its own.
    """

    folder: Path
    environment: Mapping[str, str]
    starts: bool = True
    watch: Callable[[Pod], None] | None = None
    pods: dict[str, Pod] = field(default_factory=dict)
    _secrets: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def kubeconfig(self) -> Path:
        """What `KUBECONFIG` names."""
        return self.folder / "kubeconfig"

    @contextmanager
    def serving(self) -> Iterator[KubernetesApi]:
        """Answer requests; with the block's end all pods do."""
        api = self

        class Handler(_Handler):
            cluster = api

        self.folder.mkdir(parents=True, exist_ok=True)
        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        named = {"name": "here"}
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "here",
            "clusters": [named | {"cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
            "contexts": [named | {"context": {"cluster": "here", "user": "here"}}],
            "users": [named | {"user": {}}],
        }
        self.kubeconfig.write_text(json.dumps(content), encoding="utf-8")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            for pod in self.pods.values():
                if pod.process is not None:
                    pod.send(signal.SIGKILL)
                    pod.process.wait()

    def create_secret(self, secret: dict[str, Any]) -> None:
        """Keep what containers are to be given of it."""
        values = (secret.get("data") or {}).items()
        self._secrets[secret["metadata"]["name"]] = {key: base64.b64decode(value).decode() for key, value in values}

    def create_job(self, job: dict[str, Any]) -> str | None:
        """Start a job's pod; returns why it is invalid, if it is."""
        name = job["metadata"]["name"]
        pod = Pod(job, self.folder / name)
        resources = pod.container["resources"]
        for resource in _EXTENDED:
            requested, limit = (resources.get(kind, {}).get(resource) for kind in ("requests", "limits"))
            if requested != limit:
                return f"{resource}: requests {requested} and limits {limit}: an extended resource must have equal ones"
        self.pods[name] = pod
        if self.starts:
            pod.start(self.environment | dict(self._given(pod)))
            if self.watch is not None:
                threading.Thread(target=self.watch, args=[pod], daemon=True).start()
        return None

    def _given(self, pod: Pod) -> Iterator[tuple[str, str]]:
        for variable in pod.container.get("env") or []:
            source = variable["valueFrom"]["secretKeyRef"]
            yield variable["name"], self._secrets[source["name"]][source["key"]]

    def status(self, name: str) -> dict[str, Any]:
        """The job, and how it stands."""
        pod = self.pods[name]
        code = pod.exit_code() if self.starts else None
        state = "active" if code is None else "failed" if code else "succeeded"
        return pod.job | {"status": {state: 1}}

    def pod_list(self, name: str) -> list[dict[str, Any]]:
        """The pods of a job."""
        if name not in self.pods:
            return []
        code = self.pods[name].exit_code() if self.starts else None
        state = {"running": {}} if code is None else {"terminated": {"exitCode": code}}
        container = {"name": "snakemake", "image": "", "imageID": "", "ready": True, "restartCount": 0, "state": state}
        return [{"metadata": {"name": name}, "status": {"containerStatuses": [container]}}]


class _Handler(BaseHTTPRequestHandler):
    """The requests that the plugin makes; any other is answered with 501, and so ends the launch."""

    cluster: KubernetesApi

    def log_message(self, *_: Any) -> None:
        """Say nothing of requests."""

    def _answer(self, content: Any, status: int = 200) -> None:
        said = content.encode() if isinstance(content, str) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain" if isinstance(content, str) else "application/json")
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def do_POST(self) -> None:
        """A new secret or job."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        refused = None
        if self.path.endswith("/secrets"):
            self.cluster.create_secret(body)
        elif self.path.endswith("/jobs"):
            refused = self.cluster.create_job(body)
        else:
            return self._answer({"message": self.path}, 501)
        return self._answer({"message": refused}, 422) if refused else self._answer(body, 201)

    def do_GET(self) -> None:
        """How a job stands, its pods, or a pod's log."""
        if found := re.search(r"/jobs/([^/]+)/status$", self.path):
            return self._answer(self.cluster.status(found[1]))
        if found := re.search(r"/pods\?labelSelector=job-name%3D([^&]+)$", self.path):
            return self._answer({"items": self.cluster.pod_list(found[1])})
        if found := re.search(r"/pods/([^/]+)/log", self.path):
            return self._answer(self.cluster.pods[found[1]].log.read_text(encoding="utf-8"))
        return self._answer({"message": self.path}, 501)

    def do_DELETE(self) -> None:
        """What is deleted has ended: folders stay for whoever looks at them."""
        if (found := re.search(r"/jobs/([^/?]+)", self.path)) and self.cluster.starts:
            self.cluster.pods[found[1]].send(signal.SIGKILL)
        self._answer({"kind": "Status", "status": "Success"})
