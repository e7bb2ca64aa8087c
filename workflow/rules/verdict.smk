"""Every score beside the published one, and whether it reproduces it."""

from glob import glob

PUBLISHED = in_command("--published", in_project("published"))


rule verdict:
    input:
        shipped(glob(in_project("published/**/*.csv"), recursive=True)),
        shipped(EXTENSION_TABLES),
        scores=f"{STUDY}/scores.csv",
        tables=shipped(glob(f"{CONFIG}/baselines/**/*.csv", recursive=True)),
        tasks=shipped(TASK_TABLE),
        outside=shipped(config["outside_scores"]),
        carried=carried_results(),
    output:
        [
            report(f"{STUDY}/verdict/verdict.{kind}", caption="../report/verdict.rst", category="Tables")
            for kind in ("csv", "md")
        ],
        [
            report(f"{STUDY}/verdict/benchmark.{kind}", caption="../report/benchmark.rst", category="Tables")
            for kind in ("csv", "md", "tex")
        ],
    log:
        f"logs/{STUDY}/verdict.log",
    benchmark:
        f"logs/{STUDY}/verdict.tsv"
    resources:
        **NO_GPU,
        mem_mb=2000,
        runtime=growing(30, group="report", following=3),
    params:
        folder=subpath(output[0], parent=True),
        outside=["--outside", *config["outside_scores"]] if config["outside_scores"] else [],
    shell:
        f"{UNPACK_ALL}mfql{EXTENSIONS} verdict --scores {{input.scores}}{PUBLISHED} --tasks {{input.tasks:q}}{RESULTS_DIR}"
        " {params.outside:q} --out {params.folder} > {log} 2>&1"
