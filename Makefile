# The short commands of the README. Everything is installed into $(VENV); nothing needs root.
#
#   make quickstart      install, run the quickstart workflow to its end, show the scores
#   make test            install, run the tests
#   make help            the others
#
# PYTHON=python3.12      the interpreter that .venv is made with (3.11 to 3.13), and the only one that is tested
# TORCH=cpu              the build of torch: cpu, cu126, cu130, ..., or auto by the driver; without it, what pip takes: README.md
# TORCH_INDEX=URL        instead, the package index that torch comes from, such as a mirror of a build's
# WHEELS=wheels          without a package index: this machine's packages, torch too, and what `make wheels` made (docs/benchmarks.md)
# CORES=4                cores that the quickstart may use
# CUDA=13.0              an image for NVIDIA's GPUs; BASE, SITE, ...: docs/containers.md

VENV ?= .venv
LAUNCHER ?= .launcher
PYTHON ?= $(firstword $(foreach name,python3 python3.13 python3.12 python3.11,$(shell \
	$(name) -c 'import sys; 311 <= sys.version_info[0] * 100 + sys.version_info[1] <= 313 and print("$(name)")' 2> /dev/null)))
CORES ?= all
TORCH ?=
TORCH_INDEX ?=
WHEELS ?=
ifneq ($(and $(TORCH),$(TORCH_INDEX)),)
$(error TORCH=$(TORCH) and TORCH_INDEX=$(TORCH_INDEX) both say where torch comes from. Give one of them)
endif
export BASE BOOTSTRAP CUDA DEBIAN_MIRROR DEBIAN_SECURITY_MIRROR ENGINE ENGINE_FLAGS IMAGE LOCAL_BASE PIP_INDEX RUN_FLAGS SITE \
	TORCH_INDEX

# What is installed is known by the content of the files that say what to install, not by their dates.
key = $(shell cat $(1) | cksum | cut -d ' ' -f 1)
RUNTIME := $(VENV)/.installed-$(call key,pyproject.toml containers/requirements.lock containers/torch.txt)
DEVELOPMENT := $(VENV)/.installed-dev-$(call key,pyproject.toml containers/requirements-dev.lock)
ifneq ($(WHEELS),)
RUNTIME := $(VENV)/.installed-wheels-$(shell ls $(WHEELS) | cksum | cut -d ' ' -f 1)
endif
LAUNCHER_INSTALLED := $(LAUNCHER)/.installed-$(call key,pyproject.toml containers/requirements-launcher.lock)
TORCH_PINNED := $(VENV)/.torch-$(call key,containers/torch.txt)
TORCH_INSTALLED := $(TORCH_PINNED)$(addprefix -,$(TORCH))$(if \
	$(TORCH_INDEX),-$(shell echo '$(TORCH_INDEX)' | cksum | cut -d ' ' -f 1))

PIP := $(VENV)/bin/python -m pip --disable-pip-version-check --quiet
RUN := PATH="$$(cd "$(VENV)" && pwd)/bin:$$PATH"

.DEFAULT_GOAL := help
.PHONY: help install launcher quickstart test test-pythons test-quick check-long lint types bench check-gpu check-data check-physics check-science check-methods check-package check-storage check-browser check-cuda-ahead check-golden check-fuzz update lock lock-cuda wheels image image-docker sbom check-image check-slurm test-site clean

help:
	@sed -n 's/^#   //p' $(MAKEFILE_LIST)
	@sed -n 's/^\([a-z-]*\):.*## /  \1: /p' $(MAKEFILE_LIST)

install: $(RUNTIME)  ## install what the workflow needs into .venv

launcher: $(LAUNCHER_INSTALLED)  ## install what launches the workflow on a login node into .launcher: no torch (docs/cluster.md)

quickstart: $(RUNTIME)  ## the whole pipeline, small
	$(RUN) snakemake --configfile config/quickstart.yaml --cores $(CORES)

test: $(DEVELOPMENT)  ## the tests; their quick part on every other supported Python of the machine too, unless PYTHON names one
	$(RUN) python -m pytest -n 2 -m "not long"
ifeq ($(origin PYTHON),file)
	@$(MAKE) --no-print-directory test-pythons
endif

# uv installs there what pip does in .venv: it keeps one copy of what the environments have in common. torch's build is that
# of .venv, where TORCH named it.
test-pythons: $(DEVELOPMENT)  ## the quick part of the tests on every supported Python of the machine but that of .venv (PYTHONS="3.13": on these)
	@own=$$($(VENV)/bin/python -c 'import sys; print("%d.%d" % sys.version_info[:2])'); tested=; \
	for python in $$($(VENV)/bin/python tests/support/pythons.py); do \
		release=$$("$$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
		[ "$$release" != "$$own" ] || continue; \
		case " $(or $(PYTHONS),$$release) " in *" $$release "*) ;; *) continue ;; esac; \
		$(MAKE) --no-print-directory test-quick PYTHON="$$python" VENV="$(VENV)-$$release" \
			$(if $(TORCH)$(TORCH_INDEX),,$(patsubst $(TORCH_PINNED)-%,TORCH=%,$(wildcard $(TORCH_PINNED)-[a-z]*))) \
			PIP="VIRTUAL_ENV=$(VENV)-$$release $(VENV)/bin/uv pip --quiet" || exit; \
		tested="$$tested $$release"; \
	done; \
	echo "Python $$own: all tests;$${tested:+ quick part:$$tested;} looked for $(or $(PYTHONS),3.11, 3.12 and 3.13)"

test-quick: $(DEVELOPMENT)
	@$(VENV)/bin/python -c 'import platform, torch; print(f"Python {platform.python_version()}, torch {torch.__version__}")'
	$(RUN) python -m pytest -n 2 -m "not slow and not long"

check-long: $(DEVELOPMENT)  ## the tests that `make test` leaves out: whole launches, libraries of every method; a quarter of an hour
	$(RUN) python -m pytest -n 2 -m long

lint: $(DEVELOPMENT)  ## style of the code and of the workflow
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) lint-imports --no-cache --no-logo
	$(RUN) snakefmt --check workflow
	$(RUN) snakemake --lint

types: $(DEVELOPMENT)  ## static types
	$(RUN) mypy

bench: $(RUNTIME)  ## how fast it is on this machine, beside the goals; 12 minutes (docs/benchmarks.md)
	$(RUN) python -m benchmarks run

check-gpu: $(RUNTIME)  ## what to run first on a GPU, called again until it is through (MINUTES=10 a call, PARTS=task, DEVICE=cpu in small)
	$(RUN) python -m benchmarks check --device $(or $(DEVICE),cuda) $(addprefix --minutes ,$(MINUTES)) $(if $(PARTS),--parts $(PARTS))

check-data: $(DEVELOPMENT)  ## generated datasets against what the official scripts produce; minutes
	$(RUN) python tests/check_generator.py --workers 2

check-physics: $(RUNTIME)  ## the tables of docs/physics.md: models against recorded steps of an earlier MuJoCo; half a minute
	$(RUN) python tests/check_physics.py

check-science: $(DEVELOPMENT)  ## every ablation at a miniature's size, trained and drawn; minutes
	$(RUN) python tests/check_science.py

check-methods: $(DEVELOPMENT)  ## every method through the workflow, one launch each, in miniature; minutes
	$(RUN) python tests/check_methods.py

check-cuda-ahead: $(RUNTIME)  ## without a GPU, with torch's CUDA build: each step on fake CUDA tensors, its kernels built for sm_90; minutes
	$(RUN) python tests/check_cuda_ahead.py

check-golden: $(RUNTIME)  ## the methods' numbers: fixtures of released code, and a short training run against its stated outcome
	$(RUN) mfql parity
	$(RUN) python tests/check_golden.py

update:  ## renew every package in the lock files, install them anew, and check that the numbers stayed; minutes
	$(MAKE) lock UPGRADE=--upgrade
	rm -rf $(VENV)
	@$(MAKE) check-golden || { echo "The numbers changed, or a check could not run. The former packages:" \
		"git checkout containers && rm -rf $(VENV) && make install" >&2; exit 1; }

check-package: $(DEVELOPMENT)  ## the wheel in fresh environments and an empty folder, its core alone too; minutes (TORCH_INDEX: torch's)
	$(RUN) python tests/check_package.py $(TORCH_INDEX)

check-storage: $(DEVELOPMENT)  ## the miniature by cluster-generic, and on pods that share no folder; minutes, needs rsync (docs/cluster.md)
	$(RUN) python tests/check_storage.py

check-browser: $(DEVELOPMENT)  ## the report in a real browser, from the file system; a minute, needs chromium and chromedriver
	$(RUN) python -m pytest tests/browser/check_report.py

test-site: $(DEVELOPMENT)  ## faults in real runs: kills, full disks, no memory, damaged files; minutes, needs root (docs/faults.md)
	$(RUN) python -m pytest tests/site

check-fuzz: $(DEVELOPMENT)  ## files of every kind changed at random, 200 a kind, and 50 random kills a command; two hours (docs/faults.md)
	$(RUN) python tests/check_fuzz.py
	$(RUN) python tests/site/check_kills.py --kills 50

check-slurm: $(DEVELOPMENT)  ## the miniature through a real SLURM, jobs cancelled and requeued on the way; minutes
	$(RUN) python -m pytest tests/site/check_slurm.py

COMPILE := UV_CUSTOM_COMPILE_COMMAND="make lock" $(VENV)/bin/uv pip compile --quiet --python-version 3.11 \
	--generate-hashes --no-emit-index-url $(UPGRADE)
LOCK := $(COMPILE) --universal
LOCK_PACKAGES := $(LOCK) --excludes containers/excludes.txt --extra export --extra hub --extra studies --extra slurm pyproject.toml containers/requirements.in
LOCK_TORCH := $(LOCK) --constraint containers/requirements.lock containers/torch.txt
# macOS has the releases of the lock for Linux, whose lines say `sys_platform`; torch's wheels for it are of macOS 14.
LOCK_MACOS := sed -n 's/^\([a-z0-9.-]*==[^ ;]*\).*/\1/p' containers/requirements.lock | \
	MACOSX_DEPLOYMENT_TARGET=14.0 $(COMPILE) --python-platform aarch64-apple-darwin --constraint -

# Of torch's builds the package index has one, for CUDA 13.0. The others are in PyTorch's own index, which comes last here since
# not every machine reaches it; TORCH_INDEX=URL names a mirror of the processor's.
lock: $(DEVELOPMENT)  ## write the lock files (UPGRADE=--upgrade renews every version)
	$(LOCK_PACKAGES) --output-file containers/requirements.lock > /dev/null
	$(LOCK_PACKAGES) --constraint containers/requirements.lock --extra dev \
		--output-file containers/requirements-dev.lock > /dev/null
	$(LOCK) --constraint containers/requirements.lock containers/requirements-launcher.in \
		--output-file containers/requirements-launcher.lock > /dev/null
	$(LOCK) containers/tools.in --output-file containers/tools.lock > /dev/null
	$(LOCK_TORCH) --output-file containers/torch-cu130.lock > /dev/null
	$(LOCK_MACOS) --excludes containers/excludes.txt --extra export --extra hub --extra studies pyproject.toml containers/requirements.in \
		--output-file containers/requirements-macos.lock > /dev/null
	$(LOCK_MACOS) --no-deps containers/torch.txt --output-file containers/torch-macos.lock > /dev/null
	$(LOCK_TORCH) --no-deps $(if $(TORCH_INDEX),--index $(TORCH_INDEX),--torch-backend cpu) \
		--output-file containers/torch-cpu.lock > /dev/null

lock-cuda: $(DEVELOPMENT)  ## lock torch for another CUDA, for images (CUDA=12.6)
	$(LOCK_TORCH) --torch-backend cu$(subst .,,$(CUDA)) --output-file containers/torch-cu$(subst .,,$(CUDA)).lock > /dev/null

wheels: | $(VENV)/bin/python  ## what a machine without a package index lacks, to be brought along (FOR=3.12, its Python)
	$(VENV)/bin/python containers/wheels.py $(or $(FOR),3.12) wheels

image:  ## the Apptainer image containers/mfql.sif (CUDA=13.0 for GPUs; docs/containers.md: mirrors)
	containers/build.sh apptainer

image-docker:  ## the same as an OCI image, mfql (ENGINE=docker, podman or buildah)
	containers/build.sh docker

sbom: containers/mfql.cdx.json  ## what is in the image, with versions and licences (CycloneDX)

containers/mfql.cdx.json: containers/mfql.sif
	apptainer exec $< cat /mfql/sbom.cdx.json > $@.part
	mv $@.part $@

containers/mfql.sif:
	containers/build.sh apptainer

check-image: $(RUNTIME)  ## build both images, run them and the workflow in them, compare two builds; an hour
	$(RUN) tests/site/check_image.sh

clean:  ## remove the installation and caches; results and data stay
	rm -rf $(VENV) $(VENV)-3.* $(LAUNCHER) .pytest_cache .ruff_cache .mypy_cache .hypothesis build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python $(LAUNCHER)/bin/python:
	@if [ -z "$(PYTHON)" ]; then \
		echo "No Python 3.11, 3.12 or 3.13 is in PATH. Install one, or name it: make PYTHON=path/to/python3.12" >&2; exit 1; fi
	@"$(PYTHON)" -c 'import sys; sys.exit(not 311 <= sys.version_info[0] * 100 + sys.version_info[1] <= 313)' || { \
		echo "$(PYTHON) is not Python 3.11, 3.12 or 3.13. Name another: make PYTHON=path/to/python3.12" >&2; exit 1; }
	@case "$$PWD" in *["\"\\\`\$$"]*) \
		echo "What pip installs cannot start from a folder whose path holds one of \" \$$ \` \\: $$PWD. Move the project." >&2; exit 1; \
	esac
	@"$(PYTHON)" -c 'import ensurepip, venv' 2> /dev/null || { \
		echo "$(PYTHON) cannot make virtual environments. Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	"$(PYTHON)" -m venv $(@:/bin/python=)

ifneq ($(WHEELS),)
# No pip is needed in it. PYTHON may be that of an environment itself, whose packages its own environments do not see.
$(RUNTIME):
	"$(PYTHON)" -m venv --system-site-packages --without-pip $(VENV)
	"$(PYTHON)" -c 'import site; print(*site.getsitepackages(), sep="\n")' > \
		"$$($(VENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/machine.pth"
	"$(PYTHON)" -m pip --python $(VENV)/bin/python --quiet install --no-index --no-deps $(WHEELS)/*.whl
	"$(PYTHON)" -m pip --python $(VENV)/bin/python --quiet install --no-index --no-deps --no-build-isolation --editable .
	@touch $@
else
# The locks are complete, so pip resolves nothing (--no-deps). torch follows them and finds its dependencies in place.
$(RUNTIME): | $(TORCH_INSTALLED)
	$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@
endif

$(LAUNCHER_INSTALLED): | $(LAUNCHER)/bin/python
	$(LAUNCHER)/bin/python -m pip --disable-pip-version-check --quiet install --no-deps --require-hashes \
		--requirement containers/requirements-launcher.lock
	$(LAUNCHER)/bin/python -m pip --disable-pip-version-check --quiet install --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.requirements-$(call key,containers/requirements.lock): | $(VENV)/bin/python
	@echo "Installing into $(VENV): about 220 MB to download, then torch (CPU build 190 MB, CUDA build 3 GB; TORCH=cpu takes the first)"
	$(PIP) install --no-deps --require-hashes --requirement containers/requirements.lock
	@touch $@

# pip knows no builds of torch by name; uv does, and takes the old one away only when it has the new one.
$(TORCH_INSTALLED): | $(VENV)/.requirements-$(call key,containers/requirements.lock)
ifneq ($(TORCH),)
	sed -n '/^uv==/,/ # via/p' containers/requirements-dev.lock > $(VENV)/uv.lock
	$(PIP) install --no-deps --require-hashes --requirement $(VENV)/uv.lock
	$(VENV)/bin/uv pip install --quiet --python $(VENV)/bin/python --torch-backend $(TORCH) --reinstall-package torch \
		--requirement containers/torch.txt
	@rm -f $(VENV)/.torch-*
else
	$(if $(TORCH_INDEX),$(PIP) uninstall --yes torch && rm -f $(VENV)/.torch-*)
	$(PIP) install $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) --requirement containers/torch.txt
endif
	@touch $@

$(DEVELOPMENT): | $(RUNTIME)
	$(PIP) install --no-deps --require-hashes --requirement containers/requirements-dev.lock
	@touch $@
