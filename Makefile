# Hawser. `make help` lists what there is to make.
GO      ?= go
BIN     := bin
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X hawser/tunnel.version=$(VERSION)

.DEFAULT_GOAL := build

.PHONY: help
help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## the four programs, into bin/
	@mkdir -p $(BIN)
	CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags '$(LDFLAGS)' -o $(BIN)/ ./edge/cmd/hawser-edge ./hub/cmd/hawser-hub ./auth/cmd/hawser-auth ./tools/hawser

.PHONY: demo
demo: ## a cluster with three agents, here, now
	@sh tools/demo.sh

.PHONY: test
test: ## everything CI asks: format, vet, lint, vulnerabilities, tests, sizes, emulated agents, black box
	@sh tools/apart.sh sh tools/test.sh

.PHONY: test-long
test-long: ## the same with the stated periods and counts
	@HAWSER_LONG=1 sh tools/apart.sh sh tools/test.sh

.PHONY: bench
bench: build ## figures beside OpenSSH's, as ratios of one run, with the agent as it ships
	$(GO) run ./cross/cmd/cross -o $(BIN) $$($(GO) env GOARCH) && mv $(BIN)/hawser-edge-$$($(GO) env GOARCH) $(BIN)/hawser-edge
	HAWSER_BIN=$(CURDIR)/$(BIN) sh tools/apart.sh $(GO) test -run '^$$' -bench . -benchtime 1x -count 1 -timeout 2h ./test/bench
	$(GO) test -run '^$$' -bench . ./tunnel/... ./recorder/... ./auth/...
	$(GO) test -run '^$$' -bench Idle -benchtime 1x ./hub

.PHONY: cross
cross: ## the agent for every target, into dist/
	$(GO) run ./cross/cmd/cross -o dist

.PHONY: proto
proto: ## the generated half of auth/api, from its .proto
	protoc -I auth/api --plugin=protoc-gen-go=$$($(GO) tool -n protoc-gen-go) --plugin=protoc-gen-connect-go=$$($(GO) tool -n protoc-gen-connect-go) \
	  --go_out=auth/api --go_opt=paths=source_relative --connect-go_out=auth/api --connect-go_opt=paths=source_relative auth/api/*.proto

.PHONY: fuzz
fuzz: ## every decoder for a short time each (FUZZTIME=30s)
	@sh tools/fuzz.sh $(or $(FUZZTIME),30s)

.PHONY: clean
clean: ## remove what was built
	rm -rf $(BIN) dist
