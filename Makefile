# Every target works as the first command after a clone: it makes .venv and installs what it needs.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
DEMO := --data demo/data --results demo/results
# TORCH=cpu: PyTorch's own build without CUDA, and none of CUDA's packages. Without TORCH no line is empty, so none is left out.
LEFT_OUT := $(if $(filter cpu,$(TORCH)),^(nvidia-|cuda-|triton==),^$$)
BACKEND := $(if $(filter cpu,$(TORCH)),--torch-backend cpu)
UNREACHED := $(if $(BACKEND),PyTorch without CUDA has an index of its own. Where that cannot be reached: make install)

.DEFAULT_GOAL := help
.PHONY: help install demo test lint type check format options lock audit perf chaos chaos-slurm fuzz soak benchmark docs clean

help:  ## Show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1|\2/' | column -t -s '|'

install: $(STAMP)  ## Create .venv and install the locked packages; TORCH=cpu without CUDA

# Compiled here, once: where Python may not write beside its packages, every process would compile them again.
$(STAMP): requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -c 'import sys; sys.exit("asdray needs Python 3.11 or newer, this is " + sys.version) if sys.version_info < (3, 11) else 0'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	grep -vE '$(LEFT_OUT)' requirements.lock > .venv/requirements.txt
	@echo "installing $$(grep -c == .venv/requirements.txt) packages into .venv: two to four minutes without output ..."
	VIRTUAL_ENV=$(CURDIR)/.venv $(BIN)/uv pip install --quiet --compile-bytecode $(BACKEND) -r .venv/requirements.txt || \
		{ echo "$(UNREACHED)"; exit 1; }
	VIRTUAL_ENV=$(CURDIR)/.venv $(BIN)/uv pip install --quiet --no-deps -e .
	touch $@

demo: $(STAMP)  ## Two recipes x two seeds x two years on synthetic sound: ends with a leaderboard
	$(BIN)/asdray synth dcase2022 --machines fan,valve,ToyCar --train 24 --test 24 --seconds 2 --data demo/data
	$(BIN)/asdray synth dcase2023 --machines bearing,gearbox,bandsaw,ToyDrone --train 72 --test 48 --seconds 2 --data demo/data
	$(BIN)/asdray format dcase2022 --data demo/data
	$(BIN)/asdray format dcase2023 --data demo/data
	$(BIN)/asdray sweep sweeps/demo.yaml $(DEMO) --no-dashboard

test: $(STAMP)  ## Run the tests; what takes minutes on a Ray cluster is in chaos
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

chaos: $(STAMP)  ## Run the other tests: drivers and nodes are killed, writes fail, disks are full; prints a table
	rm -f chaos.jsonl
	code=0; ASDRAY_CHAOS=$(CURDIR)/chaos.jsonl $(BIN)/python -m pytest -q -m chaos || code=$$?; \
	$(BIN)/python tests/chaos/outcomes.py chaos.jsonl; exit $$code

# The tests start daemons of their own, in namespaces, and end these.
chaos-slurm: $(STAMP)  ## benchmarks/cluster/slurm.sh on a Slurm with two made-up machines; installs it (Debian, root)
	@if command -v slurmctld slurmd munged ip >/dev/null; then exit 0; \
	elif [ $$(id -u) -ne 0 ]; then echo "chaos-slurm: Slurm is not installed, and installing it needs root"; \
	elif ! command -v apt-get >/dev/null; then echo "chaos-slurm: Slurm is not installed, and there is no apt-get"; \
	else apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends \
		slurmctld slurmd slurm-client munge iproute2 || echo "chaos-slurm: Debian's packages cannot be installed"; fi
	rm -f chaos-slurm.jsonl
	code=0; ASDRAY_CHAOS=$(CURDIR)/chaos-slurm.jsonl $(BIN)/python -m pytest -q -m slurm tests/chaos/test_slurm.py || code=$$?; \
	if [ -e chaos-slurm.jsonl ]; then $(BIN)/python tests/chaos/outcomes.py chaos-slurm.jsonl; fi; exit $$code

fuzz: $(STAMP)  ## Damaged and hostile files, 1,000 new inputs per kind; FUZZ=10000 for more
	ASDRAY_FUZZ=$(or $(FUZZ),1000) $(BIN)/python -m pytest -q -n 2 tests/test_fuzz.py tests/test_fuzz_state.py tests/test_journal.py

soak: $(STAMP)  ## 1,000 tiny trials in one sweep, killed twice: memory, open files and threads stay flat
	$(BIN)/python benchmarks/perf/soak.py

lint: $(STAMP)  ## Check style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: $(STAMP)  ## Check types
	$(BIN)/mypy

check: lint type  ## What CI checks besides the tests

format: $(STAMP)  ## Reformat the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

options: $(STAMP)  ## Write docs/options.md and the JSON schema of sweep files anew, from the configuration classes
	$(BIN)/asdray schema options > docs/options.md.new && mv docs/options.md.new docs/options.md
	$(BIN)/asdray schema > asdray.schema.json.new && mv asdray.schema.json.new asdray/asdray.schema.json

lock: $(STAMP)  ## Resolve the packages anew into requirements.lock
	$(BIN)/uv pip compile --quiet --upgrade --extra dev --no-emit-index-url --no-header --no-annotate pyproject.toml -o requirements.lock

# Where the list is out of reach, pip-audit skips every package, or ends with an error.
audit: $(STAMP)  ## Look for known vulnerabilities of the locked packages
	@out=$$($(BIN)/uv tool run --quiet pip-audit --no-deps --disable-pip --progress-spinner off -r requirements.lock 2>&1); code=$$?; \
	if echo "$$out" | grep -q "known vulnerabilit" && [ $$(echo "$$out" | grep -c "could not be audited") -lt $$(grep -c == requirements.lock) ]; \
	then echo "$$out"; exit $$code; \
	else echo "audit: the list of vulnerabilities cannot be read from here ($$(echo "$$out" | tail -n 1 | cut -c1-120))"; fi

perf: $(STAMP)  ## Measure speed and memory where limits are promised
	$(BIN)/python benchmarks/perf/format.py
	$(BIN)/python benchmarks/perf/official.py
	$(BIN)/python benchmarks/perf/tables.py
	$(BIN)/python benchmarks/perf/report.py
	$(BIN)/python benchmarks/perf/backends.py
	$(BIN)/python benchmarks/perf/encoders.py --clips 8
	$(BIN)/python benchmarks/perf/tuning.py --small --seconds 4
	$(BIN)/python benchmarks/perf/startup.py
	$(BIN)/python benchmarks/perf/plan.py --quick
	$(BIN)/python benchmarks/perf/stages.py --quick --runs 1
	$(BIN)/python benchmarks/perf/memory.py --quick
	$(BIN)/python benchmarks/perf/overhead.py
	$(BIN)/python benchmarks/perf/train.py --quick

benchmark: $(STAMP)  ## A year's recipes beside published results: DCASE=dcase2022 [DATA=synthetic] [SET="seeds=[0]"]
	$(if $(DCASE),,$(error name the year: make benchmark DCASE=dcase2022 [DATA=synthetic]))
	$(BIN)/asdray benchmark $(DCASE) $(if $(filter synthetic,$(DATA)),--synthetic,$(if $(DATA),--data '$(DATA)')) \
		$(foreach option,$(SET),--set '$(option)')

docs: $(STAMP)  ## The pages of docs/ as a site in build/site; strict
	VIRTUAL_ENV=$(CURDIR)/.venv $(BIN)/uv pip install --quiet -r pyproject.toml --extra docs
	$(BIN)/mkdocs build --quiet --strict

clean:  ## Remove the demo and caches, keep .venv
	rm -rf demo benchmark-synthetic .pytest_cache .ruff_cache .mypy_cache .hypothesis build dist
