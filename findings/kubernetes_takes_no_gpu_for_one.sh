#!/usr/bin/env bash
# snakemake-executor-plugin-kubernetes 0.5.1: a job with `gpu: 0` is taken for one that wants a GPU, and one with `gpu: 1`
# asks for it in a way that Kubernetes refuses.
#
# Guess: a job whose resource `gpu` is 0 asks for no GPU, as with the SLURM plugin; one of 1 asks for it in its pod's
# limits too, without which Kubernetes takes no request for an extended resource.
#
# Seen: `gpu: 0` ends the launch ("GPU requested but no manufacturer set") and, with a manufacturer, tolerates the nodes
# that are kept for GPUs and requests 0 of them. `gpu: 1` is in the requests alone; limits are written if the resource
# `scale` is 0.
set -euo pipefail

folder=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server" 2> /dev/null || true; rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check snakemake==9.27.1 \
    snakemake-executor-plugin-kubernetes==0.5.1 snakemake-storage-plugin-fs==1.1.3
cd "$folder"
# An API server that writes down the jobs which it is sent, and says of each that it failed.
cat > server.py <<'END'
import json, http.server

class Handler(http.server.BaseHTTPRequestHandler):
    def answer(self, content):
        said = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path.endswith("/jobs"):
            spec = body["spec"]["template"]["spec"]
            found = {kind: value.get("nvidia.com/gpu") for kind, value in spec["containers"][0]["resources"].items()}
            with open("asked", "a") as file:
                print("tolerates" if spec.get("tolerations") else "plain", found, file=file)
        self.answer(body)

    def do_GET(self):
        self.answer({"items": []} if "/pods" in self.path else {"status": {"failed": 1}})

    def do_DELETE(self):
        self.answer({"kind": "Status"})

    def log_message(self, *_):
        pass

server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
cluster = {"name": "here", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}
context = {"name": "here", "context": {"cluster": "here", "user": "here"}}
with open("config", "w") as file:
    users = [{"name": "here", "user": {}}]
    named = {"clusters": [cluster], "contexts": [context], "users": users, "current-context": "here"}
    json.dump({"apiVersion": "v1", "kind": "Config"} | named, file)
server.serve_forever()
END
venv/bin/python server.py &
server=$!
for _ in $(seq 60); do [ ! -s config ] || break; sleep 1; done
cat > Snakefile <<'END'
rule job:
    output: "{gpu}"
    resources: gpu=lambda wildcards: int(wildcards.gpu)
    shell: "touch {output}"
END
git init --quiet . && git add Snakefile
# What a job that asks for this many GPUs, with these default resources, is submitted as; or what the launch ends with.
submitted() {
    local gpu=$1
    shift
    rm -rf asked .snakemake
    KUBECONFIG=$folder/config venv/bin/snakemake "$gpu" --executor kubernetes --jobs 1 --default-storage-provider fs \
        --default-storage-prefix "$folder/storage" --seconds-between-status-checks 1 \
        ${1:+--default-resources "$@"} > printed 2>&1 < /dev/null || true
    if [ -s asked ]; then head -n 1 asked; else grep -o 'GPU requested but no manufacturer set' printed || cat printed; fi
}

venv/bin/snakemake --version
none=$(submitted 0)
none_named=$(submitted 0 "gpu_manufacturer='nvidia'")
one=$(submitted 1 "gpu_manufacturer='nvidia'")
limited=$(submitted 1 "gpu_manufacturer='nvidia'" scale=0)
echo "gpu: 0: $none | with a manufacturer: $none_named"
echo "gpu: 1: $one | with scale: 0: $limited"
[ "$none" = "GPU requested but no manufacturer set" ]
[ "$none_named" = "tolerates {'requests': '0'}" ]
[ "$one" = "tolerates {'requests': '1'}" ]
[ "$limited" = "tolerates {'limits': '1', 'requests': '1'}" ]
