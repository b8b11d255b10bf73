# Two commands matter: `make demo` and `make test`. Both set up .venv first if it is absent.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
DEMO := runs/demo
BITSTREAM ?= 1
LENET := --network lenet --hardware bitserial-tiny

.PHONY: setup demo test test-all prove lint clean

setup: .venv/.installed

.venv/.installed: pyproject.toml
	test -d .venv || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable ".[dev]"
	touch $@

# From a trained network to a policy that the RTL has confirmed, and its board package. The last step, an FPGA's bitstream from
# PyPI's tools, takes as long as all others several times: `make demo BITSTREAM=` leaves it out.
demo: setup
	rm -rf $(DEMO)
	$(BIN)/codesign search $(LENET) --agent haq --budget latency=0.6 --episodes 100 --seed 1 --out $(DEMO) --json $(DEMO)/search.json
	$(BIN)/codesign simulate $(LENET) --policy $(DEMO)/policy.yaml --weights $(DEMO)/quantized.pt --images 100 --json $(DEMO)/simulate.json
	$(BIN)/codesign export $(LENET) --policy $(DEMO)/policy.yaml --weights $(DEMO)/quantized.pt --board arty-z7-20 --out $(DEMO)/package
	$(BIN)/codesign simulate --package $(DEMO)/package --json $(DEMO)/package.json
ifneq ($(filter-out 0 no,$(BITSTREAM)),)
	$(BIN)/codesign export --network lenet --hardware bitserial-ulx3s --policy $(DEMO)/policy.yaml --weights $(DEMO)/quantized.pt --board ulx3s-85f --bitstream --out $(DEMO)/ulx3s
	cat $(DEMO)/ulx3s/ecp5/utilization.txt
	head -2 $(DEMO)/ulx3s/ecp5/timing.txt
endif

# Coverage of the rooms is printed at the end.
test: setup
	$(BIN)/pytest -m "not slow" -n 2 --dist loadfile --cov --cov-report term

test-all: setup
	$(BIN)/pytest -n 2 --dist loadfile --cov --cov-report term

# Every formal proof, the mutants that they must find included; see docs/verification.md.
prove: setup
	$(BIN)/pytest -k "formal or proof or reach" tests/rtl/test_*_formal.py tests/rtl/test_popcount.py tests/sim/test_reach.py

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(DEMO) build .coverage .pytest_cache .mypy_cache .ruff_cache
