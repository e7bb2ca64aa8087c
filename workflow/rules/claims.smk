"""The paper's claims, judged by the tables of the toy, the ablations and the comparison of methods. Never part of `all`."""

from glob import glob

import mfql


rule parity:
    input:
        # A table of other code's errors would say nothing of this one's, and a new one takes seconds.
        shipped(
            sorted(
                path
                for code in ("agents/**/*", "parity/*", "studies/claims/parity")
                for path in glob(os.path.relpath(f"{mfql.__path__[0]}/{code}.py"), recursive=True)
            )
        ),
        fixtures=shipped([in_project(f"tests/data/{name}.npz") for name in ("reference", "baselines")]),
    output:
        f"{STUDY}/claims/parity.csv",
    log:
        f"logs/{STUDY}/claims/parity.log",
    benchmark:
        f"logs/{STUDY}/claims/parity.tsv"
    resources:
        **NO_GPU,
        mem_mb=2000,
        runtime=growing(30),
    shell:
        "mfql claims parity {input.fixtures} --out {output} > {log} 2>&1"


rule judge_claims:
    input:
        judged_tables,
        claims=shipped(f"{CONFIG}/claims.yaml"),
    output:
        report(
            [f"{STUDY}/claims/{file}" for file in ("data.csv", "table.md", "table.csv")],
            caption="../report/claims.rst",
            category="Claims",
        ),
        panel=f"{STUDY}/claims/panel.json",
    log:
        f"logs/{STUDY}/claims/judge.log",
    benchmark:
        f"logs/{STUDY}/claims/judge.tsv"
    resources:
        **NO_GPU,
        mem_mb=2000,
        runtime=growing(30),
    params:
        study=subpath(output.panel, ancestor=2),
        folder=subpath(output.panel, parent=True),
        command=command_of("claims"),
    shell:
        f"mfql claims judge {{params.study}} --out {{params.folder}} --command {{params.command:q}}{CONFIG_DIR}"
        " 2>&1 | tee {log}"


rule claims:
    input:
        rules.judge_claims.output,
        judged_tables,
