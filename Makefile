# Tollgate. `make help` lists the targets. Nothing is needed but Python >= 3.11 and make.
PYTHON ?= python3
UV_VERSION := 0.13.8
TOOLS := .tools
KEYCLOAK_VERSION := 26.7.4
KEYCLOAK_SHA256 := a286e98b4296d4e75ee88d8527c7cd463b307caa022f088c9f22cffccc741fa1
KEYCLOAK := $(TOOLS)/keycloak-$(KEYCLOAK_VERSION)
KAFKA_SHA256 := 23a4827be5fbbc88f4c4544871c61b05347711d83cd7fff79d4e5febadd48a92
KEYCLOAK_BUILD := --db=dev-mem --features=ssf --https-client-auth=request  # BUILD of devstack/stack/keycloak.py
UV := $(TOOLS)/bin/uv
FRAMEWORKS ?= sklearn onnx
FEEDBACK ?=
MODELS_PYTHON := '>=3.11,<3.13'
SKLEARN := model_servers/.venvs/sklearn/bin/python
TRAINING := model_servers/training/sentiment
SENTIMENT := model_servers/repository/sentiment/2
RUN := $(UV) run --no-sync
DECIDES := ext_authz/check.py,ext_authz/phases/*,ext_authz/edge/*,ext_authz/identity/*
DECIDING := tests/advisories $(addprefix tests/unit/,check edge identity phases)
DECIDING += $(addprefix tests/unit/,server stack)  # these mostly wait: so both halves take as long
E2E := tests/e2e tests/fuzz tests/contract tests/docs tests/properties
# Of those, what a change of code breaks and needs no more than Redis: `make unit` has them.
QUICK := tests/e2e/settlement/test_behaviour.py $(addprefix tests/docs/test_,adr_index.py errors.py moving.py reading_guide.py)
E2E += $(addprefix --ignore=,$(QUICK))
# Held while the programs of the mesh proofs are compiled, which would disturb what measures time.
MESH_BUILD := $(TOOLS)/mesh/.lock
FUZZ_SECONDS ?= 60
ROWS ?= 10000000
BUNDLE_PYTHON ?= /usr/bin/python3  # one that an ordinary user may run, of the version of PYTHON
export UV_PROJECT_ENVIRONMENT := .venv
unexport PYTHONDONTWRITEBYTECODE  # the tests start some thousand processes: each would compile all that it imports

.DEFAULT_GOAL := help
.PHONY: help setup tools models test-models training test-training mlflow warehouse stac-validator spark replay-spark recount up down demo test unit unit-deciding unit-others e2e mutants check docs fmt gen fuzz screenshots bench bench-models bench-overload bench-revocation bench-ledger bench-bills bench-poller bench-signals bench-mesh keycloak kafka mesh-tools mesh-proof-fast mesh-proof k8s gen-k8s lab bundle bundle-proof clean

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

$(UV): Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Tollgate needs Python 3.11 or newer: make PYTHON=/path/to/python3.11")'
	@$(PYTHON) -m venv $(TOOLS)
	@$(TOOLS)/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@touch $@

setup: tools models ## install all dependencies at locked versions

tools: $(UV)
	@$(UV) sync --quiet --locked --all-packages --python $(PYTHON)
	@$(UV) sync --quiet --locked --project tests/contract/official

models: $(UV) ## make the environments of FRAMEWORKS (default: sklearn onnx; all: torch tensorflow r too), and train their models
	@$(PYTHON) model_servers/tollgate_models/environments.py $(UV) $(FRAMEWORKS)
	@if [ -e $(SKLEARN) ]; then $(MAKE) --no-print-directory --silent $(SENTIMENT)/SHA256SUMS; fi

# A promoted model stays. Exit status 3: the sentences cannot be fetched, and version 1 serves.
$(SENTIMENT)/SHA256SUMS: $(FEEDBACK) $(wildcard $(TRAINING)/*.py $(TRAINING)/*.t* $(TRAINING)/*.md) $(addprefix model_servers/,tollgate_models/sentiment.py uv.lock)
	@if [ -e $(SENTIMENT)/promoted.json ]; then touch $@; else \
	  for stage in 'prepare $(FEEDBACK)' train evaluate 'export $(SENTIMENT)'; do set -- $$stage; echo "sentiment 2: $$1"; \
	    $(SKLEARN) $(TRAINING)/$$1.py $$2 || { [ $$? = 3 ] && exit 0 || exit 1; }; done; fi

training: models ## make the environment of DVC and MLflow, for docs/training.md
	@$(UV) sync --quiet --locked --project model_servers/training --python $(MODELS_PYTHON)

mlflow: $(UV) ## make the environment of MLflow's server and client, for tests of what stands in front of it
	@$(UV) sync --quiet --locked --project tests/e2e/mlflow/server --python $(MODELS_PYTHON)

warehouse: $(UV) ## make the environment of ClickHouse's engine, for tests of the sums of published decisions
	@$(UV) sync --quiet --locked --project tests/e2e/publish/warehouse --python $(MODELS_PYTHON)

stac-validator: $(UV) ## make the environment of stac-api-validator, for the test of the catalogue with it
	@$(UV) sync --quiet --locked --project tests/stac/validator --python $(PYTHON)

spark: $(UV) ## make the environment of Spark, for the test of a replay by it
	@$(UV) sync --quiet --locked --project tests/e2e/policytool/spark --python $(MODELS_PYTHON)

replay-spark: spark ## replay a policy over Parquet files by Spark, as DuckDB does it (needs java; half a minute)
	@$(RUN) pytest -n0 tests/e2e/policytool/test_spark.py

test-training: setup training mlflow ## tests of the pipeline, the registry, and MLflow behind the door (two minutes)
	@$(RUN) pytest -m 'training or mlflow' tests/e2e/training tests/e2e/mlflow

recount: setup ## bills of random callers, while every process is killed, against what the callers counted (three minutes)
	@$(RUN) pytest -s tests/recount

up: setup ## start the whole stack on this machine and keep it running
	@$(RUN) tollgate up

down: setup ## stop a stack that `make up` left running
	@$(RUN) tollgate down

demo: setup ## start the stack, run the demo, stop
	@$(RUN) tollgate demo

test: unit e2e ## the whole suite

unit: tools ## unit tests, without servers; the decision path must be covered to 100 %
	@$(MAKE) --no-print-directory --jobs=2 --output-sync unit-deciding unit-others

unit-deciding: # by themselves, since coverage makes tests twice as long
	@$(RUN) pytest --cov --cov-report= $(DECIDING)
	@$(RUN) coverage report --skip-covered --fail-under=100 --include='$(DECIDES)'

unit-others:
	@$(RUN) pytest tests/unit tests/spec $(QUICK) $(addprefix --ignore=,$(DECIDING))

e2e: setup ## contract and end-to-end tests, with real servers
	@together=0; \
	  $(RUN) pytest -n 2 --dist loadfile --no-loadscope-reorder -m 'not alone and not mesh' $(E2E) || together=$$?; \
	  if [ -e $(MESH_BUILD) ]; then flock $(MESH_BUILD) true; fi; \
	  $(RUN) pytest -m 'alone and not mesh' $(E2E) && exit $$together

test-models: tools ## every model that is installed, in a real Triton behind Envoy (first: make models FRAMEWORKS=all)
	@$(RUN) pytest tests/e2e/stack/test_every_model.py

mutants: tools ## mutation tests of the decision path (minutes)
	@$(RUN) python -m tests.mutants

check: tools ## format, lint, types, import order, protos, generated pages
	@$(RUN) ruff format --check .
	@$(RUN) ruff check .
	@$(RUN) mypy
	@$(RUN) lint-imports
	@$(RUN) tests/check_protos.sh
	@$(RUN) python -m docs.build --check

docs: tools ## build the documentation as a site in .state/docs; a warning is an error
	@$(RUN) sphinx-build --quiet --fail-on-warning --keep-going --fresh-env --conf-dir docs/build --doctree-dir .state/doctrees docs .state/docs
	@echo .state/docs/index.html

fmt: tools ## format, and fix what can be fixed
	@$(RUN) ruff format .
	@$(RUN) ruff check --fix .

gen: tools ## generate Python from protos/, and pages of the documentation
	@$(RUN) protos/generate.sh
	@$(RUN) python -m docs.build

fuzz: tools ## fuzz loader, matcher and authorizer, FUZZ_SECONDS each (default: one minute)
	@$(RUN) python -m tests.fuzz --seconds $(FUZZ_SECONDS)

screenshots: setup ## make the pictures of the documentation anew (needs chromium)
	@mkdir -p docs/images
	@SCREENSHOTS=docs/images $(RUN) pytest tests/e2e/console/test_walk.py -k 'embedded or playground'
	@SCREENSHOTS=docs/images $(RUN) pytest tests/e2e/stack/test_sentiment.py

bench: tools ## benchmarks, as a table (needs h2load)
	@$(RUN) python -m tests.benchmarks
	@$(RUN) python -m tests.benchmarks.in_process
	@$(RUN) python -m tests.benchmarks.visible
	@$(RUN) python -m tests.benchmarks.bounds

bench-models: setup ## what each model costs, and the door in front of it (needs h2load; four minutes; FRAMEWORKS as for models)
	@$(RUN) python -m tests.benchmarks.models

bench-overload: tools ## throughput under twice the load that a worker can serve (needs h2load; about five minutes)
	@$(RUN) python -m tests.benchmarks.overload

bench-revocation: tools ## delay of revocations, and the cost of ROWS of them (default: 10 million)
	@$(RUN) python -m tests.benchmarks.revocation --rows $(ROWS)

bench-ledger: tools ## what ROWS calls in a month (default: 10 million) cost in the ledger, and how long its bills take
	@$(RUN) python -m tests.benchmarks.ledger_month --rows $(ROWS)

bench-bills: tools ## what a bill that is made again and again costs checks (three minutes)
	@$(RUN) python -m tests.benchmarks.bills

bench-poller: setup keycloak ## how soon changes at a real Keycloak are effective, and what that costs it (ten minutes)
	@$(RUN) python -m tests.benchmarks.poller

bench-signals: tools ## how long after an action in Keycloak a call is refused (needs `make keycloak`; ten minutes)
	@$(RUN) python -m tests.benchmarks.signals

bench-mesh: setup ## what the check adds behind the gateway that istiod configured (needs Go and root; three minutes)
	@tests/mesh/tools.sh
	@$(RUN) python -m tests.benchmarks.mesh

keycloak: $(KEYCLOAK)/built ## fetch a real Keycloak (needs java and mvn), for `tollgate up --idp keycloak` and its tests

# Built with the options of the stack, which are in this file: each start would otherwise take twice as long.
$(KEYCLOAK)/built: $(KEYCLOAK)/unpacked Makefile
	@$(KEYCLOAK)/bin/kc.sh build $(KEYCLOAK_BUILD) >$(TOOLS)/keycloak-build.log 2>&1 || { cat $(TOOLS)/keycloak-build.log >&2; exit 1; }
	@touch $@

$(KEYCLOAK)/unpacked: zip = $(TOOLS)/keycloak-quarkus-dist-$(KEYCLOAK_VERSION).zip
$(KEYCLOAK)/unpacked: | $(UV)
	@mvn -q dependency:copy -Dartifact=org.keycloak:keycloak-quarkus-dist:$(KEYCLOAK_VERSION):zip -DoutputDirectory=$(TOOLS) || { \
	  echo 'Keycloak $(KEYCLOAK_VERSION) cannot be fetched here: that takes Maven (Debian: apt install maven), and a repository that it reaches' >&2; exit 1; }
	@echo '$(KEYCLOAK_SHA256)  $(zip)' | sha256sum --check --status || { rm -f $(zip); \
	  echo 'Keycloak $(KEYCLOAK_VERSION) as Maven has it is not what KEYCLOAK_SHA256 in the Makefile says: remove org/keycloak/keycloak-quarkus-dist from the local Maven repository and try again' >&2; exit 1; }
	@rm -rf $(KEYCLOAK)
	@$(PYTHON) -m zipfile -e $(zip) $(TOOLS)
	@rm $(zip)
	@chmod +x $(KEYCLOAK)/bin/*.sh
	@touch $@

kafka: $(TOOLS)/kafka/built ## fetch a real broker of Kafka (needs java and mvn), for tests of `tollgate ledger publish`

$(TOOLS)/kafka/built: tests/e2e/publish/kafka/pom.xml Makefile | $(UV)
	@rm -rf $(TOOLS)/kafka
	@mvn -q -B -f $< dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory=$(abspath $(TOOLS)/kafka) || { \
	  echo 'Kafka cannot be fetched here: that takes Maven (Debian: apt install maven), and a repository that it reaches' >&2; exit 1; }
	@export LC_ALL=C; cat $(TOOLS)/kafka/*.jar | sha256sum | grep -q '^$(KAFKA_SHA256) ' || { rm -rf $(TOOLS)/kafka; \
	  echo 'Kafka as Maven has it is not what KAFKA_SHA256 in the Makefile says: remove its jars from the local Maven repository and try again' >&2; exit 1; }
	@touch $@

mesh-tools: ## build the programs of the mesh proofs (needs Go; minutes the first time)
	@tests/mesh/tools.sh

mesh-proof-fast: setup ## tests of the front in a mesh: istiod's translation of the rendered objects, in a stock Envoy (needs Go)
	@tests/mesh/tools.sh discovery pilot-agent
	@$(RUN) pytest -n 2 --dist loadfile --no-loadscope-reorder -m mesh tests/e2e/render tests/e2e/hostile

mesh-proof: setup ## tests in a cluster of real control planes on this machine (needs Go and root; minutes)
	@if command -v go >/dev/null; then tests/mesh/tools.sh; fi
	@$(RUN) pytest --timeout 300 tests/mesh/full

gen-k8s: tools ## write k8s/base and additions of the overlays from the chart
	@tests/mesh/tools.sh helm
	@$(RUN) python -m tests.k8s.generated

k8s: setup ## validate k8s/ and istio/ with helm and a real API server
	@tests/mesh/tools.sh helm istioctl etcd kube-apiserver
	@$(UV) sync --quiet --locked --project k8s/lab --python $(PYTHON)
	@$(RUN) pytest tests/k8s
	@echo 'not run: kubelet and scheduler, a container engine, a network that enforces NetworkPolicies, GPUs, models from S3'

lab: tools ## start a cluster of virtual machines with everything in it, or bring it up to date (needs Vagrant)
	@$(UV) sync --quiet --locked --project k8s/lab --python $(PYTHON)
	@cd k8s/lab && PATH=$$PWD/.venv/bin:$$PATH vagrant up --provision

bundle: setup ## write one archive to dist/, from which everything installs without a network
	@$(RUN) python -m bundle dist

bundle-proof: bundle ## install it and run the demo in a network namespace without a route (needs root; three minutes)
	@$(RUN) python -m bundle.proof "$$(ls -t dist/tollgate-*.tar | head -n 1)" $(BUNDLE_PYTHON)

clean: ## remove what `make` made
	rm -rf .venv .tools model_servers/.venvs model_servers/training/.venv tests/e2e/mlflow/server/.venv tests/e2e/publish/warehouse/.venv tests/e2e/policytool/spark/.venv tests/stac/validator/.venv model_servers/training/*/data .state dist
