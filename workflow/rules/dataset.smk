"""Datasets. The checksum file, which `mfql data` writes last, stands for the arrays beside it: they are large, and Snakemake
would delete them with a failed job."""


ruleorder: describe > fetch


# A dataset of one's own: checked against its environment, and known by its sha256 from then on.
rule describe:
    output:
        f"{DATA}/{{dataset}}.json",
    log:
        "logs/data/{dataset}.log",
    benchmark:
        "logs/data/{dataset}.tsv"
    wildcard_constraints:
        dataset="|".join(map(re.escape, OWN_TASKS)) or "(?!)",
    resources:
        **NO_GPU,
        mem_mb=lambda wildcards, attempt: attempt * 8000,
        runtime=growing(60),
    params:
        folder=subpath(output[0], parent=True),
    shell:
        # Of a job that fails Snakemake shows the log; what one that succeeds has to say must be seen, too.
        f"mfql{EXTENSIONS} data describe {{wildcards.dataset}} --out {{params.folder:q}}{CONFIG_DIR} > {{log}} 2>&1"
        " && {{ grep -E '^(mfql: |  [A-Z])' {log} >&2 || true; }}"


rule fetch:
    output:
        f"{DATA}/{{dataset}}.json",
        carried=stored(f"{DATA}/{{dataset}}.tar"),
    log:
        "logs/data/{dataset}.log",
    benchmark:
        "logs/data/{dataset}.tsv"
    localrule: True
    resources:
        **NO_GPU,
        mem_mb=1000,
        runtime=growing(240),
    params:
        folder=subpath(output[0], parent=True),
    shell:
        # No parameter: what was fetched from elsewhere is the same, and not fetched again.
        # What was compared with nothing must be seen, too.
        f"mfql data fetch {{wildcards.dataset}} --out {{params.folder:q}}{fetch_source()} > {{log}} 2>&1{PACK_DATASET}"
        " && {{ grep -E '^(mfql: |  [A-Z])' {log} >&2 || true; }}"


# The physics is told by the folder and is no parameter: Snakemake does not look at a training job's own parameters in a launch that
# makes its `ancient` dataset over again, but trains on one that was not there.
rule generate:
    output:
        f"{DATA}/episodes{{episodes}}-seed{{data_seed}}{{simulation}}/{{dataset}}.json",
        carried=stored(f"{DATA}/episodes{{episodes}}-seed{{data_seed}}{{simulation}}/{{dataset}}.tar"),
    log:
        "logs/data/episodes{episodes}-seed{data_seed}{simulation}/{dataset}.log",
    benchmark:
        "logs/data/episodes{episodes}-seed{data_seed}{simulation}/{dataset}.tsv"
    wildcard_constraints:
        episodes=r"\d+",
        data_seed=r"\d+",
        simulation=r"(-simulation\d+)?",
    threads: 64
    resources:
        **NO_GPU,
        mem_mb=lambda wildcards, attempt: attempt * 8000,
        runtime=growing(480),
    params:
        folder=subpath(output[0], parent=True),
    shell:
        "mfql data generate {wildcards.dataset} --out {params.folder:q} --episodes {wildcards.episodes}"
        f" --seed {{wildcards.data_seed}} --workers {{threads}} > {{log}} 2>&1{PACK_DATASET}"


# How far today's simulator is from the one that recorded a dataset, by one of the tasks on it.
rule replay_dataset:
    input:
        ancient(dataset_of),
        carried=ancient(carried_dataset),
    output:
        f"{STUDY}/replay/{{task}}.json",
    log:
        f"logs/{STUDY}/replay/{{task}}.log",
    benchmark:
        f"logs/{STUDY}/replay/{{task}}.tsv"
    resources:
        **NO_GPU,
        mem_mb=lambda wildcards, attempt: attempt * 8000,
        runtime=growing(30),
    params:
        data=subpath(input[0], parent=True),
        # Replays of another physics, and those that do not say of which, are made anew.
        simulation=lambda wildcards: simulation_version(wildcards.task),
    shell:
        f"{UNPACK}mfql data replay {{wildcards.task}} --data {{params.data:q}} --out {{output}}{CONFIG_DIR} > {{log}} 2>&1"


rule replay_table:
    input:
        replays,
    output:
        [f"{STUDY}/replay/{file}" for file in ("data.csv", "table.csv", "table.md", "table.tex")],
        steps=report(f"{STUDY}/replay/replay.csv", caption="../report/replay.rst", category="Tables"),
        panel=f"{STUDY}/replay/panel.json",
    log:
        f"logs/{STUDY}/replay_table.log",
    benchmark:
        f"logs/{STUDY}/replay_table.tsv"
    resources:
        **NO_GPU,
        mem_mb=1000,
        runtime=growing(10),
    params:
        command=command_of("replay"),
    shell:
        "mfql data replay-table {input} --out {output.steps} --command {params.command:q} > {log} 2>&1"
