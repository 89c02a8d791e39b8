# Development commands. `make demo` and `make test` alone do all the set-up on a fresh machine.

PYTHON ?= python3
PIP := .venv/bin/pip install --disable-pip-version-check -qq
# The tools in .venv (ninja among them) come first on PATH, as if it were activated.
IN_VENV := PATH="$(CURDIR)/.venv/bin:$$PATH"
CXX_FILES = $$(find csrc tests/emulation -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' -o -name '*.h')
# Where Debian's package dataset-fashion-mnist puts the files; make minmax takes them in where they are there.
FASHION = /usr/share/datasets/fashion-mnist

define BUILD
mkdir -p build
echo "Building the kernels"
$(IN_VENV) python setup.py build_ext --inplace > build/log.txt 2>&1 || { cat build/log.txt; exit 1; }
grep '^fastadv:' build/log.txt
touch .venv/built
endef

define CHECK_PYTHON
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
    "fastadv needs Python 3.11 or later, and $(PYTHON) is " + sys.version.split()[0] + ": make PYTHON=python3.12")'
endef

.PHONY: help demo kwta odds minmax smallest test bench gpu lint format build clean

help:
	@echo "make demo    break a real ImageNet classifier, and show it"
	@echo "make kwta    defend nets with k-WTA and break them, on real digits: half an hour on two cores"
	@echo "make odds    detect adversarial digits by noise, and evade the detector: 16 minutes on two cores"
	@echo "make minmax  train nets on their worst case, and attack them: 8 minutes on two cores, 11 with Fashion-MNIST"
	@echo "make smallest  find the smallest perturbations, beside adv-lib and Foolbox: 17 minutes on two cores"
	@echo "make test    run the tests"
	@echo "make bench   measure the kernels against PyTorch on this machine's CPU"
	@echo "make gpu     build, test and measure on this machine's GPU, with the PyTorch of PYTHON=python3"
	@echo "make lint    check style and types; make format mends what can be mended"
	@echo "make build   build the kernels again, for instance after installing a compiler"
	@echo "make clean   remove what was built; the virtual environment .venv stays"

demo: .venv/built
	@$(IN_VENV) fastadv demo

kwta: .venv/built
	@$(IN_VENV) python examples/kwta.py

odds: .venv/built
	@$(IN_VENV) python examples/odds.py

minmax: .venv/built
	@$(IN_VENV) python examples/minmax.py $(if $(wildcard $(FASHION)),--fashion $(FASHION))

smallest: .venv/built
	@$(IN_VENV) python examples/smallest.py

test: .venv/built
	@$(IN_VENV) pytest

bench: .venv/built
	@OMP_NUM_THREADS=2 $(IN_VENV) pytest benchmarks -v --benchmark-quiet --benchmark-json=build/bench.json
	@$(IN_VENV) python -m benchmarks.report build/bench.json

gpu:
	$(CHECK_PYTHON)
	@$(PYTHON) -m benchmarks.gpu $(STAGES) $(if $(MINUTES),--minutes $(MINUTES))

lint: .venv/built
	@$(IN_VENV) ruff check .
	@$(IN_VENV) ruff format --check .
	@$(IN_VENV) mypy
	@$(IN_VENV) clang-format --dry-run --Werror $(CXX_FILES)

format: .venv/built
	@$(IN_VENV) ruff check --fix .
	@$(IN_VENV) ruff format .
	@$(IN_VENV) clang-format -i $(CXX_FILES)

build: .venv/installed
	@$(BUILD)

# The directories count as well: a file added or removed changes them.
.venv/built: .venv/installed setup.py $(shell find csrc)
	@$(BUILD)

# fastadv itself is installed without kernels, which the next step builds in place and reports on.
.venv/installed: pyproject.toml
	$(CHECK_PYTHON)
	@echo "Setting up .venv: PyTorch is a large download and takes some minutes"
	@$(PYTHON) -m venv .venv
	@$(PIP) 'pip>=25.1'
	@$(PIP) --group dev
	@FASTADV_BUILD=reference $(PIP) --no-build-isolation --editable '.[examples,test]'
	@$(PIP) --no-deps torchattacks==3.5.1 mlxtend==0.25.0 adv-lib==0.2.8 tqdm
	@touch $@

clean:
	rm -rf build dist *.egg-info fastadv/*.so fastadv/_build.json .venv/built
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
