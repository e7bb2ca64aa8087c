"""The page that a reader opens."""

from glob import glob


rule report:
    input:
        shipped(EXTENSION_TABLES),
        scores=f"{STUDY}/scores.csv",
        tables=[file for file in rules.aggregate.output if file not in rules.aggregate.output.lost],
        verdict=rules.verdict.output[0],
        expected=shipped(config["expected"] or []),
        films=videos(),
        trajectories=trajectory_panels(),
        tasks=shipped(TASK_TABLE),
        carried=[*carried_results(), *carried_to_page()],
    output:
        page=report(f"{STUDY}/report.html", caption="../report/report.rst", category="Report"),
        summary=f"{STUDY}/{SUMMARY}",
        evidence=f"{STUDY}/report{EVIDENCE}",
    log:
        f"logs/{STUDY}/report.log",
    benchmark:
        f"logs/{STUDY}/report.tsv"
    resources:
        **NO_GPU,
        mem_mb=4000,
        runtime=growing(60, group="report", following=3),
    params:
        aggregates=lambda wildcards, input: os.path.dirname(input.tables[0]),
        expected=["--expected", config["expected"]] if config["expected"] else [],
        speed=["--speed", *measured] if (measured := sorted(glob(in_project("benchmarks/results/*.json")))) else [],
        panels=panels_at_hand,
        study=subpath(output[0], parent=True),
    shell:
        f"{UNPACK_ALL}mfql{EXTENSIONS} report --scores {{input.scores}} --aggregates {{params.aggregates}}{RESULTS_DIR}"
        f"{CONFIG_DIR} --verdict {{input.verdict}}"
        " --tasks {input.tasks:q} --panels {params.study} {params.expected:q} {params.speed:q}"
        " --out {output.page} --summary {output.summary} > {log} 2>&1"
