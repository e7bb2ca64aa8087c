"""The page that a reader opens."""


rule report:
    input:
        scores=f"{EXPERIMENT}/scores.csv",
        tables=rules.aggregate.output,
        verdict=rules.verdict.output[0],
        expected=config["expected"] or [],
    output:
        report(f"{EXPERIMENT}/report.html", caption="../report/report.rst", category="Report"),
    log:
        f"logs/{EXPERIMENT}/report.log",
    benchmark:
        f"logs/{EXPERIMENT}/report.tsv"
    params:
        aggregates=lambda wildcards, input: os.path.dirname(input.tables[0]),
        expected=["--expected", config["expected"]] if config["expected"] else [],
    resources:
        gpu=0,
        mem_mb=4000,
        runtime=60,
    shell:
        "mfql report --scores {input.scores} --aggregates {params.aggregates} --results results"
        " --verdict {input.verdict} {params.expected:q} --out {output} > {log} 2>&1"
