# shmd. `make help` lists what there is.

BIN     ?= bin
DESTDIR ?=
PREFIX  ?= /usr/local
# The configuration's place. It does not move with PREFIX: the units read /etc/shmd.
SYSCONFDIR ?= /etc

VERSION ?= $(shell sh scripts/version.sh)
LDFLAGS := -X github.com/shmd/shmd/internal/version.Version=$(VERSION)
# Static, and no C compiler needed. A clone of another user has no VCS status, so the version comes by -X alone.
GOBUILD := CGO_ENABLED=0 go build -buildvcs=false
SOURCES := go.mod go.sum $(shell find cmd internal pkg \( -name '*.go' -o -name '*.s' -o -name '*.toml' \) -not -name '*_test.go' 2>/dev/null)

# make run
INPUT ?=
FLAGS ?=
# make fuzz, bench, torture
FUZZTIME ?= 30s
BENCH    ?=
BENCHFLAGS ?=
COUNT    ?= 1
TORTURE  ?= 20

.DEFAULT_GOAL := build
.DELETE_ON_ERROR:
.PHONY: build programs run test check race fuzz model torture reliability bench gobench generate man install uninstall packages clean help

build: programs ## bin/shmd and bin/shmctl, their man pages and completions (BIN=DIR: elsewhere); after it `sudo make install` needs no Go
	@$(MAKE) --no-print-directory man

programs:
	$(GOBUILD) -ldflags '$(LDFLAGS)' -o '$(BIN)/' ./cmd/shmd ./cmd/shmctl

run: programs ## count the words of a tree of text with four workers, killing one (INPUT=DIR: of another tree; FLAGS='-o json --kill 3')
	@./examples/wordcount/run.sh $(FLAGS) $(if $(INPUT),"$$INPUT")
export INPUT

##@ Tests

check: ## the loop while you write: format, vet, generated files, unit tests (under a minute)
	scripts/test.sh format vet generated unit

test: ## everything that CI runs; as root, because it boots a systemd in namespaces of its own
	scripts/deps.sh
	scripts/test.sh

race: ## pkg/ and internal/ under the race detector
	scripts/test.sh race

fuzz: ## every fuzz target for FUZZTIME=30s
	scripts/fuzz.sh $(FUZZTIME)

model: ## the Promela models of the queue, and the mutants that must fail
	models/run.sh full

torture: ## the proofs in full: every crash point and mutant, large models, TORTURE=20 times the kills; writes docs/reliability.md
	TORTURE=$(TORTURE) scripts/reliability.sh full

reliability: ## the proofs as `make test` runs them; writes docs/reliability.md
	scripts/reliability.sh short

bench: ## every speed target beside its reference and the peers; writes docs/bench.* (BENCH=regexp: some, written nowhere; BENCHFLAGS=-quick)
	@bench/deps.sh
	@cd bench && go run . $(if $(BENCH),-run '$(BENCH)',-w ../docs) $(BENCHFLAGS)

gobench: ## Go benchmarks (BENCH=regexp, COUNT=n)
	@go test -run '^$$' -bench '$(or $(BENCH),.)' -benchmem -count $(COUNT) \
	  $$(grep -rl '^func Benchmark' --include='*_test.go' . | xargs -r -n 1 dirname | sort -u)

##@ Source

generate: ## write again what is generated: from internal/genlayout Go, C, Python, docs/layout.md; from the commands docs/cli.md
	go run ./internal/genlayout
	go run ./internal/genman -cli docs/cli.md

clean: ## remove BIN and what tests left
	rm -rf '$(BIN)'
	go clean -testcache

##@ Installation (DESTDIR=, PREFIX=/usr/local; distributions: PREFIX=/usr)

D        := $(DESTDIR)$(PREFIX)
UNITS    := $(D)/lib/systemd/system
DOC      := $(D)/share/doc/shmd
BASHCOMP := $(D)/share/bash-completion/completions
ZSHCOMP  := $(D)/share/zsh/site-functions
FISHCOMP := $(D)/share/fish/vendor_completions.d
UNITFILES := shmd.service shmd@.service shmd.socket

# Built again only if a source is newer.
$(BIN)/shmd $(BIN)/shmctl &: $(SOURCES)
	$(GOBUILD) -ldflags '$(LDFLAGS)' -o '$(BIN)/' ./cmd/shmd ./cmd/shmctl

man: $(BIN)/share ## man pages and completions into bin/share
$(BIN)/share: $(BIN)/shmd $(BIN)/shmctl
	rm -rf '$@' && mkdir -p '$@/man'
	go run ./internal/genman -dir '$@/man'
	for shell in bash zsh fish; do '$(BIN)/shmctl' completion $$shell >'$@/shmctl.'$$shell || exit; done

install: $(BIN)/shmd $(BIN)/shmctl $(BIN)/share ## binaries, units, sysusers.d, tmpfiles.d, man pages, completions, /etc/shmd/default.toml
	install -D -m 755 -t '$(D)/bin' '$(BIN)/shmd' '$(BIN)/shmctl'
	mkdir -p '$(UNITS)'
	for unit in $(UNITFILES); do \
	  sed 's|/usr/bin/|$(PREFIX)/bin/|' deploy/systemd/$$unit >'$(UNITS)'/$$unit && chmod 644 '$(UNITS)'/$$unit || exit; \
	done
	install -D -m 644 deploy/systemd/shmd.sysusers '$(D)/lib/sysusers.d/shmd.conf'
	install -D -m 644 deploy/systemd/shmd.tmpfiles '$(D)/lib/tmpfiles.d/shmd.conf'
	install -D -m 644 -t '$(D)/share/man/man8' '$(BIN)'/share/man/*.8
	install -D -m 644 -t '$(D)/share/man/man1' '$(BIN)'/share/man/*.1
	install -D -m 644 '$(BIN)/share/shmctl.bash' '$(BASHCOMP)/shmctl'
	install -D -m 644 '$(BIN)/share/shmctl.zsh' '$(ZSHCOMP)/_shmctl'
	install -D -m 644 '$(BIN)/share/shmctl.fish' '$(FISHCOMP)/shmctl.fish'
	install -D -m 644 -t '$(DOC)' LICENSE $(wildcard *.md)
	find docs examples -type f | while read -r f; do install -D -m 644 "$$f" '$(DOC)'/"$$f" || exit; done
	install -D -m 644 -t '$(DOC)/examples' deploy/systemd/default.toml deploy/systemd/workers.conf
	test -e '$(DESTDIR)$(SYSCONFDIR)/shmd/default.toml' || \
	  install -D -m 644 deploy/systemd/default.toml '$(DESTDIR)$(SYSCONFDIR)/shmd/default.toml'
	@echo "Installed. Next: systemd-sysusers && systemd-tmpfiles --create shmd.conf && systemctl daemon-reload && systemctl enable --now shmd"

uninstall: ## what install put there; /etc/shmd/default.toml only if it was not changed
	rm -f '$(D)/bin/shmd' '$(D)/bin/shmctl'
	rm -f $(foreach unit,$(UNITFILES),'$(UNITS)/$(unit)')
	rm -f '$(D)/lib/sysusers.d/shmd.conf' '$(D)/lib/tmpfiles.d/shmd.conf'
	rm -f '$(D)'/share/man/man8/shmd.8 '$(D)'/share/man/man8/shmd-*.8
	rm -f '$(D)'/share/man/man1/shmctl.1 '$(D)'/share/man/man1/shmctl-*.1
	rm -f '$(BASHCOMP)/shmctl' '$(ZSHCOMP)/_shmctl' '$(FISHCOMP)/shmctl.fish'
	rm -rf '$(DOC)'
	if cmp -s deploy/systemd/default.toml '$(DESTDIR)$(SYSCONFDIR)/shmd/default.toml'; then \
	  rm -f '$(DESTDIR)$(SYSCONFDIR)/shmd/default.toml'; rmdir '$(DESTDIR)$(SYSCONFDIR)/shmd' 2>/dev/null || :; fi

##@ Packages

packages: ## .deb and .rpm of this tree into bin/packages (ARCH=arm64: for another machine); the same commit gives the same bytes
	@packaging/build.sh '$(BIN)/packages'

##@ This

help: ## this list
	@awk 'BEGIN { FS = ":[^#]*## " } \
	  /^##@ / { printf "\n%s\n", substr($$0, 5) } \
	  /^[a-z][a-z-]*:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
