"""Settings for tasks that have no published ones: a grid's runs, and the choice that a person reviews. Never part of `all`."""


rule list_tuning_runs:
    output:
        f"{STUDY}/tuning/runs.txt",
    log:
        f"logs/{STUDY}/list_tuning_runs.log",
    priority: 100
    localrule: True
    params:
        runs=tuning_files,
    run:
        with open(output[0], "w", encoding="utf-8") as file:
            file.writelines(f"{path}\n" for path in params.runs)


rule choose_settings:
    input:
        tuning_files,
        runs=rules.list_tuning_runs.output,
    output:
        f"{STUDY}/tuning/proposal.yaml",
    log:
        f"logs/{STUDY}/choose_settings.log",
    benchmark:
        f"logs/{STUDY}/choose_settings.tsv"
    localrule: True
    resources:
        **NO_GPU,
        mem_mb=2000,
        runtime=growing(30),
    shell:
        f"mfql{EXTENSIONS} tune choose @{{input.runs}} --out {{output}}{CONFIG_DIR} 2>&1 | tee {{log}}"
