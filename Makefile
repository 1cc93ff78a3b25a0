# Two commands are all a fresh machine needs: `make demo` and `make test`.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
# One thread per trial slot; more only makes threads wait for each other.
export OMP_NUM_THREADS ?= 1
export RAY_USAGE_STATS_ENABLED = 0
export MLFLOW_DISABLE_TELEMETRY = true

.PHONY: demo gallery test quick lint docs reference notebook gpu clean

# The stamp is written last, so an interrupted installation is started again.
$(VENV)/.installed: requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

.venv: $(VENV)/.installed

demo: $(VENV)/.installed
	$(BIN)/gcp-sweep run configs/demo.yaml
	$(BIN)/gcp-analyze front runs/digits-demo
	$(BIN)/gcp-analyze report runs/digits-demo
	$(BIN)/gcp-analyze select runs/digits-demo "macs <= 50%" "accuracy_drop <= 3" --best accuracy
	$(BIN)/gcp-analyze export runs/digits-demo "macs <= 50%" "accuracy_drop <= 3" --best accuracy --out runs/digits-demo/export
	@echo
	@echo "Look at it:"
	@echo "  report      xdg-open runs/digits-demo/report/report.html"
	@echo "  MLflow UI   $(BIN)/mlflow ui --backend-store-uri sqlite:///runs/digits-demo/mlflow.db"

# The pictures in docs/gallery, and a test of report page and MLflow UI in a real browser (Debian: apt-get install
# chromium). Another sweep: make gallery SWEEP=runs/my-sweep GALLERY=docs/gallery/my_sweep
SWEEP ?= runs/digits-demo
GALLERY ?= docs/gallery/digits_demo
gallery: $(VENV)/.installed
	test -f $(SWEEP)/sweep.json || $(BIN)/gcp-sweep run configs/demo.yaml
	$(BIN)/python docs/gallery/make.py $(SWEEP) --out $(GALLERY)

# Tests run in two processes; a whole file goes to one of them, so that what takes long to prepare is made once. More
# cores: make test WORKERS=4. One process, in the usual order: make test WORKERS=0, or plain pytest.
WORKERS ?= 2
PYTEST := $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile

test: $(VENV)/.installed
	$(PYTEST)

# Without what starts a real Ray, a real server, a browser or processes of its own, or runs whole sweeps.
quick: $(VENV)/.installed
	$(PYTEST) -m "not integration"

# The site, into site/ (its packages have an environment of their own, so that `make demo` does not wait for them).
DOCS := .venv-docs
$(DOCS)/.installed: docs/requirements.lock
	test -x $(DOCS)/bin/python || $(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip install --quiet --disable-pip-version-check -r docs/requirements.lock
	touch $@

docs: $(DOCS)/.installed
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --strict --quiet
	@echo "Look at it: xdg-open site/index.html (the search needs a server: $(DOCS)/bin/mkdocs serve)"

# The reference pages and the picture of the first page, from the code and the records.
reference: $(VENV)/.installed
	$(BIN)/python docs/reference/make.py
	$(BIN)/python docs/pictures/make.py

# What the notebook shows, by running it.
notebook: $(VENV)/.installed
	$(BIN)/python docs/notebook.py

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# What can be known of the tool on this machine's GPU, a few minutes a call: again until nothing is left. Images:
# python -m benchmarks.gpu.images FOLDER_WITH_PARQUET_FILES gpu_data. Without a GPU: make gpu KIT=--smoke
KIT ?= $(if $(wildcard gpu_data/cifar10.npz),--data gpu_data)
gpu: $(VENV)/.installed
	$(BIN)/python -m benchmarks.gpu.kit $(KIT)

# What is made again in no time. Sweeps stay: `runs` is where they are kept by default.
clean:
	rm -rf site .pytest_cache .ruff_cache .mypy_cache
