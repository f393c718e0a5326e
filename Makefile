# make train        sample corpus -> preprocessing -> training -> report
# make experiments  all published tables on the sample corpus, with two epochs at a quarter of the sampling rate
# make test         lint, format check, all tests
# make lowest       the tests with the lowest versions that requirements.txt allows, in .venv-lowest
# make check        the commands of README and docs, in a fresh clone
# make faults       50 killed runs and 2,000 cases of bad input
PYTHON ?= python3
SAMPLE := data/sample
BIN := .venv/bin
LOWEST := .venv-lowest

# A small model and few epochs for a run of minutes on two cores; ARGS adds or overrides options of main.py
QUICK := --epochs 7 --batch_size 16 --num_layers 1 --lr 2e-4
ARGS ?=

.PHONY: train experiments test lowest check faults clean
.DELETE_ON_ERROR:

train: $(SAMPLE)/embedding_768.npy
	$(BIN)/python main.py --data_path $(SAMPLE) --SorL speaker --test_split 1-4 --bn_statistics train $(QUICK) $(ARGS)

experiments: $(SAMPLE)/embedding_768.npy
	$(BIN)/python experiments.py run --data_path $(SAMPLE) --save_path exp/tables --jobs 2 $(QUICK) --epochs 2 --sr 4000 --hidden_size 64 $(ARGS)

test: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest

lowest: requirements.txt requirements-dev.txt
	$(PYTHON) -m venv $(LOWEST)
	sed -E 's/>=([^,]+),.*/==\1/' requirements.txt > $(LOWEST)/constraints.txt
	$(LOWEST)/bin/pip install --quiet --disable-pip-version-check -r requirements-dev.txt -c $(LOWEST)/constraints.txt
	$(LOWEST)/bin/python -m pytest

check: .venv/run
	$(BIN)/python tests/check_docs.py

faults: .venv/dev
	KILLS=50 FUZZ=2000 $(BIN)/python -m pytest tests/test_resume.py tests/test_fuzz.py

.venv/run: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(None if (3, 10) <= sys.version_info[:2] <= (3, 13) else "Python 3.10 to 3.13 is needed, this is " + sys.version.split()[0] + "; call make PYTHON=...")'
	@echo "installing into .venv (5.7 GB, some minutes)"
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

.venv/dev: .venv/run requirements-dev.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

$(SAMPLE)/kobert/config.json: | .venv/run
	$(BIN)/python data/make_sample.py --out $(SAMPLE)

# Written last, so it exists only when all four files do
$(SAMPLE)/embedding_768.npy: $(SAMPLE)/kobert/config.json
	$(BIN)/python preprocessing.py --data_path $(SAMPLE) --text_model $(SAMPLE)/kobert --overwrite

clean:
	rm -rf .venv $(LOWEST) $(SAMPLE)
