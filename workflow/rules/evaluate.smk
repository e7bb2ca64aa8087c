"""Finished policies on episodes of their own, apart from the evaluations during training."""

# As training packs them: what a job takes to begin would outweigh the episodes of one run, and thousands of jobs a scheduler.
for job, seeds, tasks, other_seeds in TRAINING_JOBS:

    rule:
        name:
            f"evaluate_{job}".replace("-", "_")
        input:
            runs=run_files("{stage}", seeds),
            carried=stored(*run_files("{stage}", seeds, RUN)),
        output:
            run_files("{stage}", seeds, "final.json"),
        log:
            f"logs/evaluate/{{method}}/{{task}}/seed{pack_name(seeds)}-{{stage}}.log",
        benchmark:
            f"logs/evaluate/{{method}}/{{task}}/seed{pack_name(seeds)}-{{stage}}.tsv"
        wildcard_constraints:
            task=tasks,
            seed=other_seeds,
        threads: config["threads"]
        resources:
            **NO_GPU,
            mem_mb=lambda wildcards, attempt: attempt * 4000,
            runtime=growing(60 * len(seeds)),
        params:
            runs=lambda wildcards, input: [os.path.dirname(path) for path in input.runs],
            out=lambda wildcards, output: [word for path in output for word in ("--out", path)],
            episodes=config["final_episodes"],
        shell:
            f"{UNPACK}mfql{EXTENSIONS} evaluate {{params.runs:q}} --episodes {{params.episodes}} --workers {{threads}}"
            " {params.out:q} > {log} 2>&1"


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
        runtime=growing(60, group="video"),
    params:
        run=subpath(input[0], parent=True),
    shell:
        f"{UNPACK}mfql{EXTENSIONS} evaluate {{params.run:q}} --episodes 1 --out {{output.episodes}} --video {{output.video}}"
        " --strip {output.strip}"
        " > {log} 2>&1"
