"""Finished policies on episodes of their own, apart from the evaluations during training."""


rule evaluate:
    input:
        "results/runs/{method}/{task}/seed{seed}/{stage}/evaluation.json",
        carried=stored(f"results/runs/{{method}}/{{task}}/seed{{seed}}/{{stage}}/{RUN}"),
    output:
        "results/runs/{method}/{task}/seed{seed}/{stage}/final.json",
    log:
        "logs/evaluate/{method}/{task}/seed{seed}-{stage}.log",
    benchmark:
        "logs/evaluate/{method}/{task}/seed{seed}-{stage}.tsv"
    threads: config["threads"]
    resources:
        **NO_GPU,
        mem_mb=lambda wildcards, attempt: attempt * 4000,
        runtime=growing(60, group="evaluate"),
    params:
        run=subpath(input[0], parent=True),
        episodes=config["final_episodes"],
    shell:
        f"{UNPACK}mfql{EXTENSIONS} evaluate {{params.run:q}} --episodes {{params.episodes}} --workers {{threads}}"
        " --out {output} > {log} 2>&1"


# Where policies go in their maze: a panel of the report.
rule trajectories:
    input:
        trajectory_runs,
        carried=lambda wildcards: stored(*(f"{os.path.dirname(path)}/{RUN}" for path in trajectory_runs(wildcards))),
    output:
        [
            f"{STUDY}/trajectories/{{task}}/{{stage}}/{name}"
            for name in ("figure.svg", "figure.png", "data.csv", "panel.json")
        ],
    log:
        f"logs/{STUDY}/trajectories/{{task}}-{{stage}}.log",
    benchmark:
        f"logs/{STUDY}/trajectories/{{task}}-{{stage}}.tsv"
    wildcard_constraints:
        stage="offline|online",
    resources:
        **NO_GPU,
        mem_mb=lambda wildcards, attempt: attempt * 4000,
        runtime=growing(60),
    params:
        runs=lambda wildcards, input: list(dict.fromkeys(os.path.dirname(path) for path in input)),
        episodes=config["trajectories"],
        folder=subpath(output[0], parent=True),
    shell:
        f"{UNPACK}mfql{EXTENSIONS} trajectories {{params.runs:q}} --episodes {{params.episodes}} --out {{params.folder:q}} > {{log}} 2>&1"


rule video:
    input:
        "results/runs/{method}/{task}/seed{seed}/{stage}/evaluation.json",
        carried=stored(f"results/runs/{{method}}/{{task}}/seed{{seed}}/{{stage}}/{RUN}"),
    output:
        video=report(
            "results/runs/{method}/{task}/seed{seed}/{stage}/video.gif",
            caption="../report/video.rst",
            category="Videos",
            labels={"method": "{method}", "task": "{task}", "seed": "{seed}", "stage": "{stage}"},
        ),
        strip=report(
            "results/runs/{method}/{task}/seed{seed}/{stage}/strip.png",
            caption="../report/video.rst",
            category="Videos",
            labels={"method": "{method}", "task": "{task}", "seed": "{seed}", "stage": "{stage}"},
        ),
        episodes="results/runs/{method}/{task}/seed{seed}/{stage}/video.json",
    log:
        "logs/video/{method}/{task}/seed{seed}-{stage}.log",
    benchmark:
        "logs/video/{method}/{task}/seed{seed}-{stage}.tsv"
    resources:
        **NO_GPU,
        mem_mb=lambda wildcards, attempt: attempt * 4000,
        runtime=growing(60, group="evaluate"),
    params:
        run=subpath(input[0], parent=True),
    shell:
        f"{UNPACK}mfql{EXTENSIONS} evaluate {{params.run:q}} --episodes 1 --out {{output.episodes}} --video {{output.video}}"
        " --strip {output.strip}"
        " > {log} 2>&1"
