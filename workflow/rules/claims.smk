"""The paper's claims, judged by the tables of the toy, the ablations and the comparison of methods. Never part of `all`."""

from mfql.claims.claims import needed_files, read_claims

CLAIMS = for_people(read_claims)


localrules:
    claims,


rule parity:
    input:
        ["tests/data/reference.npz", "tests/data/baselines.npz"],
    output:
        f"{EXPERIMENT}/claims/parity.csv",
    log:
        f"logs/{EXPERIMENT}/claims/parity.log",
    benchmark:
        f"logs/{EXPERIMENT}/claims/parity.tsv"
    resources:
        gpu=0,
        mem_mb=2000,
        runtime=30,
    shell:
        "mfql claims parity {input} --out {output} > {log} 2>&1"


rule judge_claims:
    input:
        [f"{EXPERIMENT}/{file}" for file in needed_files(CLAIMS)],
        claims="config/claims.yaml",
    output:
        report(
            [f"{EXPERIMENT}/claims/{file}" for file in ("data.csv", "table.md", "table.csv")],
            caption="../report/claims.rst",
            category="Claims",
        ),
        panel=f"{EXPERIMENT}/claims/panel.json",
    log:
        f"logs/{EXPERIMENT}/claims/judge.log",
    benchmark:
        f"logs/{EXPERIMENT}/claims/judge.tsv"
    params:
        experiment=subpath(output.panel, ancestor=2),
        folder=subpath(output.panel, parent=True),
        command="snakemake claims --configfile config/reduced.yaml",
    resources:
        gpu=0,
        mem_mb=2000,
        runtime=30,
    shell:
        "mfql claims judge {params.experiment} --out {params.folder} --command {params.command:q} 2>&1 | tee {log}"


rule claims:
    input:
        rules.judge_claims.output.panel,
