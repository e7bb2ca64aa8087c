"""The page that a reader opens."""

from glob import glob


rule report:
    input:
        EXTENSION_TABLES,
        scores=f"{EXPERIMENT}/scores.csv",
        tables=rules.aggregate.output,
        verdict=rules.verdict.output[0],
        expected=config["expected"] or [],
        films=videos(),
        tasks=TASK_TABLE,
    output:
        report(f"{EXPERIMENT}/report.html", caption="../report/report.rst", category="Report"),
    log:
        f"logs/{EXPERIMENT}/report.log",
    benchmark:
        f"logs/{EXPERIMENT}/report.tsv"
    resources:
        **NO_GPU,
        mem_mb=4000,
        runtime=growing(60, group="report", following=3),
    params:
        aggregates=lambda wildcards, input: os.path.dirname(input.tables[0]),
        expected=["--expected", config["expected"]] if config["expected"] else [],
        speed=["--speed", *measured] if (measured := sorted(glob(in_project("benchmarks/results/*.json")))) else [],
        panels=panels_at_hand,
        experiment=subpath(output[0], parent=True),
    shell:
        f"mfql{EXTENSIONS} report --scores {{input.scores}} --aggregates {{params.aggregates}} --results results"
        f"{CONFIG_DIR} --verdict {{input.verdict}}"
        " --tasks {input.tasks:q} --panels {params.experiment} {params.expected:q} {params.speed:q}"
        " --out {output} > {log} 2>&1"
