# The only entry points; CI calls the same. Everything fetched or built is kept under target/.
#
#   make demo [MANIFESTS=file.yaml]   a whole cluster on this machine: one Service, every type, every address
#   make test                         every test, on a real control plane and a real kernel
#   make fuzz [TARGET=netlink|watch] [SECONDS=60]   what neither kernel nor API server should send, led by coverage
#   make images [PROVIDERS=aws]       Portico's container images, as OCI layouts in target/images; the operator for these providers
#   make test-images                  the scenarios on a cluster, with those images
#   make lint                         formatting, lints, names, circles, licences, orphaned files, the chart
#   make docs                         the documentation as a site, in target/book
#   make conformance [FOCUS=regex]   Kubernetes' own tests of Services, with Portico and with kube-proxy
#   make bench [BENCH=…] [SERVICES="0 1000 5000"] [SUBJECTS="…"] [ROUNDS=50]   side by side with kube-proxy
#   make bench BENCH=cloud [SERVICES="50 200"] [CONTROLLERS="…"] [RESTART=1000] [BARE_METAL=10000] [WAITING=1000] [THROTTLED=200]   … and with AWS's cloud provider

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.PHONY: demo docs test images test-images fuzz lint bench conformance build build-demo setup emulators fmt

KUBERNETES := 1.36.3
HELM := 3.22.0
CARGO_DENY := 0.20.2
CLOUD_PROVIDER_AWS := 1.37.0
KUBERNETES_VALIDATE := 1.37.0
CARGO_CYCLONEDX := 0.5.9
ACTIONLINT := 1.7.12
MDBOOK := 0.5.4
PROVIDERS := aws bare-metal gce local

TOOLS := target/tools
E2E := target/debug/portico-e2e
CONFORMANCE := $(addprefix $(TOOLS)/,agnhost e2e.test ginkgo coredns)

setup: target/tools/.packages $(TOOLS)/controlplane $(TOOLS)/helm

emulators: $(TOOLS)/aws/.ready $(TOOLS)/gce/.complete

target/tools/.packages: scripts/packages.sh
	@scripts/packages.sh
	@mkdir -p $(@D) && touch $@

$(TOOLS)/aws/.ready: scripts/emulators.sh
	@scripts/emulators.sh aws

$(TOOLS)/controlplane: $(wildcard e2e/controlplane/*.go) e2e/controlplane/go.mod e2e/controlplane/go.sum
	@echo "building etcd and Kubernetes $(KUBERNETES) from their Go modules (cold: about 5 minutes; once)"
	@scripts/gobuild.sh controlplane $(KUBERNETES) $@

$(TOOLS)/helm: Makefile
	@echo "building helm $(HELM) from its Go module (cold: about a minute; once)"
	@scripts/gobuild.sh helm $(HELM) $@

# For `make bench BENCH=cloud` only.
$(TOOLS)/aws-cloud-controller-manager: Makefile
	@echo "building cloud-provider-aws $(CLOUD_PROVIDER_AWS) from its Go module (cold: about 5 minutes; once)"
	@scripts/gobuild.sh aws-cloud-controller-manager $(CLOUD_PROVIDER_AWS) $@

$(TOOLS)/cargo-deny: Makefile
	@echo "building cargo-deny $(CARGO_DENY) (cold: about 3 minutes; once)"
	@cargo install --quiet --locked --root target/tools/cargo --version $(CARGO_DENY) cargo-deny
	@ln -sf cargo/bin/cargo-deny $@ && touch $@

# The documentation as a site, in target/book. A warning of mdBook's is an error.
docs: $(TOOLS)/mdbook
	@warnings=$$($(TOOLS)/mdbook build 2>&1 | tee /dev/stderr | grep -E '^ *(WARN|ERROR)' || true); test -z "$$warnings"
	@scripts/links.py --book

$(TOOLS)/mdbook: Makefile
	@echo "building mdbook $(MDBOOK) (cold: about 3 minutes; once)"
	@cargo install --quiet --locked --root target/tools/cargo --version $(MDBOOK) mdbook
	@ln -sf cargo/bin/mdbook $@ && touch $@

# Bills of materials of the images.
$(TOOLS)/cargo-cyclonedx: Makefile
	@echo "building cargo-cyclonedx $(CARGO_CYCLONEDX) (cold: about 2 minutes; once)"
	@cargo install --quiet --locked --root target/tools/cargo --version $(CARGO_CYCLONEDX) cargo-cyclonedx
	@ln -sf cargo/bin/cargo-cyclonedx $@ && touch $@

# Checks of GitHub's workflows.
$(TOOLS)/actionlint: Makefile
	@echo "building actionlint $(ACTIONLINT) from its Go module (cold: seconds; once)"
	@GOBIN=$(CURDIR)/$(TOOLS) go install -trimpath github.com/rhysd/actionlint/cmd/actionlint@v$(ACTIONLINT)
	@touch $@

# Kubernetes' own schemas, which the chart's objects are checked by.
$(TOOLS)/validate/.ready: Makefile target/tools/.packages
	@echo "fetching kubernetes-validate $(KUBERNETES_VALIDATE) (140 MB; once)"
	@python3 -m venv $(@D)
	@$(@D)/bin/pip install --quiet --disable-pip-version-check kubernetes-validate==$(KUBERNETES_VALIDATE)
	@touch $@

# Without a Python package index the tests that need it fail, and say how to skip them.
$(TOOLS)/gce/.complete: scripts/emulator-gce.sh
	@echo "fetching Google's discovery document and Python clients (cold: about a minute; once)"
	@scripts/emulator-gce.sh setup || true

build:
	@echo "building Portico"
	@cargo build --workspace --bins

# Only what the demo runs: no cloud's SDK, and the machine's own helm where there is one of version 3. Go and Rust build side by side.
demo: HELM_OF_DEMO = $(if $(findstring v3.,$(shell helm version --short 2>/dev/null)),,$(TOOLS)/helm)
demo: target/tools/.packages
	@$(MAKE) --no-print-directory --jobs 2 $(TOOLS)/controlplane $(HELM_OF_DEMO) build-demo
	@$(E2E) demo $(if $(MANIFESTS),--manifests $(MANIFESTS))

build-demo:
	@echo "building Portico with provider local (cold: about 3 minutes)"
	@cargo build --bins --no-default-features --features portico-operator/local \
	  -p portico-e2e -p portico-nodeproxy -p portico-operator -p portico-provider-local

# --all-targets first: the cluster's scenarios run the binaries of all crates, and tests share the same build.
# The last lines are what was skipped and what the crash tests of all providers survived. A test whose surroundings are missing
# fails, unless PORTICO_SKIP names them: namespaces, emulators, or both between commas.
test: export PORTICO_SKIPPED := $(CURDIR)/target/skipped
test: setup emulators
	@scripts/crash-points.sh begin
	@cargo build --workspace --all-targets
	@cargo test --workspace
	@scripts/crash-points.sh tell

images: target/tools/.images-packages $(TOOLS)/cargo-cyclonedx
	@PROVIDERS="$(PROVIDERS)" scripts/images.sh

# The scenarios on a cluster again, with Portico's pods on the images' own files and users. Apart from `test`, since it builds
# everything twice.
test-images: setup images
	@cargo build --workspace --bins
	@for suite in cluster install; do \
	  PORTICO_IMAGES=$(CURDIR)/target/images cargo test -p portico-e2e --test scenarios -- $$suite::; \
	done

# Inputs that reach something new are kept under target/fuzz.
fuzz: target/tools/.packages target/tools/.fuzz-packages
	@echo "building the fuzz targets (after a build for tests: about a minute)"
	@for target in $(or $(TARGET),netlink watch); do scripts/fuzz.sh $$target $(or $(SECONDS),60); done

bench: setup $(if $(filter cloud,$(BENCH)),$(TOOLS)/aws/.ready $(TOOLS)/aws-cloud-controller-manager)
	@echo "building Portico for release (cold: several minutes)"
	@cargo build --release --bins -p portico-e2e -p $(if $(filter cloud,$(BENCH)),portico-operator,portico-nodeproxy)
	@target/release/portico-e2e bench $(if $(BENCH),--bench $(BENCH)) $(if $(SERVICES),--services "$(SERVICES)") \
	  $(if $(SUBJECTS),--subjects "$(SUBJECTS)") $(if $(ROUNDS),--rounds $(ROUNDS)) \
	  $(if $(CONTROLLERS),--controllers "$(CONTROLLERS)") $(if $(RESTART),--restart $(RESTART)) \
	  $(addprefix --bare-metal ,$(or $(BARE_METAL),$(CROWD))) $(if $(WAITING),--waiting $(WAITING)) $(if $(THROTTLED),--throttled $(THROTTLED))

conformance: setup build target/tools/.conformance-packages $(CONFORMANCE)
	@$(E2E) conformance $(if $(FOCUS),--focus '$(FOCUS)')

target/tools/.images-packages: scripts/packages.sh
	@scripts/packages.sh images
	@mkdir -p $(@D) && touch $@

target/tools/.fuzz-packages: scripts/packages.sh
	@scripts/packages.sh fuzz
	@mkdir -p $(@D) && touch $@

# What agnhost's image holds beside agnhost, and tests run in it.
target/tools/.conformance-packages: scripts/packages.sh
	@scripts/packages.sh conformance
	@mkdir -p $(@D) && touch $@

$(CONFORMANCE): e2e/conformance/go.mod e2e/conformance/go.sum $(wildcard e2e/conformance/coredns/*.go)
	@echo "building $(@F) from its Go module (e2e.test cold: about 5 minutes; once)"
	@scripts/gobuild.sh $(@F) $(KUBERNETES) $@

lint: $(TOOLS)/helm $(TOOLS)/cargo-deny $(TOOLS)/validate/.ready $(TOOLS)/actionlint
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --quiet -- -D warnings
	for provider in $(PROVIDERS); do \
	  cargo clippy --quiet -p portico-operator --no-default-features --features $$provider -- -D warnings; \
	done
	scripts/words.py
	scripts/circles.py
	scripts/orphans.sh
	scripts/deny.sh
	cd e2e/controlplane && test -z "$$(gofmt -l .)" && go vet -trimpath ./...
	test -z "$$(gofmt -l e2e/conformance)"
	$(TOOLS)/helm lint --strict --quiet helm/portico
	scripts/chart.sh
	scripts/iam.py
	scripts/links.py
	scripts/conditions.py
	scripts/values.py --check
	$(TOOLS)/actionlint

fmt:
	cargo fmt --all
	cd e2e/controlplane && gofmt -w .
