# Every target sets up .venv by itself.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
CELLMNN_DATA ?= ../shared/data
export CELLMNN_DATA
.PHONY: help simulated conditions demo test check test-slow docs notebooks test-hub \
	test-multiprocess test-rest lint pythons wheel peers benchmarks-quick benchmarks weights base \
	figures studies release clean

help:
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 20

demo: $(VENV)/.installed ## fit, interpolate and evaluate; figures and tables in demo_output/
	$(BIN)/cellmnn demo --output demo_output/known_systems
ifneq ($(wildcard $(CELLMNN_DATA)/emt_a549.h5ad),)
	$(BIN)/cellmnn demo $(CELLMNN_DATA)/emt_a549.h5ad --time-key time_index \
		--output demo_output/emt_a549
else
	@echo "no real time course: set CELLMNN_DATA to its folder"
endif

test: $(VENV)/.installed ## the fast tests, in two processes of one thread
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 2 --dist loadfile

check: lint ## what a commit needs, in under a minute: lint, types, order, style, documents
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 2 tests/test_rooms.py tests/test_style.py \
		tests/test_documents.py tests/model/test_linear_flow.py tests/cli/test_options.py

test-slow: $(VENV)/.installed ## slower tests, and the tutorials of docs/
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -m slow -n 2 --dist loadfile

docs: $(VENV)/.installed ## the documentation site, in build/site/: pages, notebooks, reference
	$(BIN)/sphinx-build -q -W -b html -d build/doctrees docs build/site

notebooks: $(VENV)/.installed ## the notebooks of docs/ run again, and the figures of the gallery
	$(BIN)/python docs/run_notebooks.py
	$(BIN)/python docs/draw_gallery.py

test-hub: $(VENV)/.installed ## the tests that talk to a Hub server, which they start
	env -u HF_HUB_OFFLINE OMP_NUM_THREADS=1 $(BIN)/pytest -q -m hub -n 2

test-multiprocess: $(VENV)/.installed ## the tests that start several processes
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -m multiprocess -n 2

test-rest: $(VENV)/.installed ## all that is not fast, at once: slow, hub and multiprocess
	env -u HF_HUB_OFFLINE OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 2 --dist loadfile \
		-m "slow or hub or multiprocess"

lint: $(VENV)/.installed ## formatting, linter and type checker
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

pythons: $(VENV)/.installed ## other Pythons: types, and whether the tested set can be installed
	for version in 3.12 3.13; do \
		$(BIN)/mypy --python-version $$version --cache-dir .mypy_cache/$$version && \
		$(BIN)/pip install --quiet --dry-run --only-binary=:all: --python-version $$version \
			--target build/none --constraint constraints.txt '.[plot,train]' || exit 1; \
	done

wheel: $(VENV)/.installed ## the wheel, imported from outside of the tree
	rm -rf dist
	$(BIN)/python -m build --wheel
	$(BIN)/pip install --quiet --no-deps --target dist/outside dist/*.whl
	cd dist/outside && HF_HUB_OFFLINE=1 PYTHONPATH=$$PWD ../../$(BIN)/python -c \
		"import cellmnn_fm, os; from cellmnn_fm import CellMNNPipeline; \
		assert cellmnn_fm.__file__.startswith(os.getcwd()); print('wheel', cellmnn_fm.__version__); \
		print(CellMNNPipeline.from_pretrained('cellmnn-base').of_dataset('hesc_endoderm').trajectory())"

peers: $(VENV)/.installed ## the methods of others, for the benchmarks; 2 GB
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[peers]'

benchmarks-quick: $(VENV)/.installed ## ours beside the methods that are installed; 10 minutes
	$(BIN)/python -m benchmarks.interpolation --tier quick

benchmarks: $(VENV)/.installed ## the tables of the README that are not there yet, an afternoon
	$(BIN)/python -m benchmarks.interpolation
	$(BIN)/python -m benchmarks.quality
	$(BIN)/python -m benchmarks.scaling
	$(BIN)/python -m benchmarks.scale
	$(BIN)/python -m studies.recipe
	$(BIN)/python -m benchmarks.profiles --compile
	$(BIN)/python -m benchmarks.rank
	$(BIN)/python -m benchmarks.fits
	$(BIN)/python -m benchmarks.fits --frame
	$(BIN)/python -m benchmarks.fits --subspace-mode aligned
	$(BIN)/python -m benchmarks.fits --subspace-mode shared
	$(BIN)/python -m benchmarks.subspaces
	$(BIN)/python -m benchmarks.memory
	$(BIN)/python -m benchmarks.memory --fit
	$(BIN)/python -m benchmarks.memory --questions
	$(BIN)/python -m benchmarks.runaway
	$(BIN)/python -m benchmarks.corpus
	$(BIN)/python -m benchmarks.corpus --ingest
	$(BIN)/python -m benchmarks.atlas
	$(BIN)/python -m benchmarks.grn_simulated
	$(BIN)/python -m benchmarks.grn_large
	$(BIN)/python -m benchmarks.grn_real
	$(BIN)/python -m benchmarks.grn_speed
	$(BIN)/python -m benchmarks.perturbed
	$(BIN)/python -m benchmarks.beeline
	$(BIN)/python -m benchmarks.clones
	$(BIN)/python -m benchmarks.growth
	$(BIN)/python -m benchmarks.published
	$(BIN)/python -m benchmarks.gene_space
	$(BIN)/python -m benchmarks.conditions
	$(BIN)/python -m benchmarks.finetune_speed
	$(BIN)/python -m benchmarks.interpolation_speed

simulated: $(VENV)/.installed ## cellmnn-simulated anew: an hour on two cores; killed, it goes on where it was
	OMP_NUM_THREADS=2 $(BIN)/python -m pretraining.pretrain_simulated \
		-o cellmnn_fm/model/pretrained/cellmnn-simulated

conditions: $(VENV)/.installed ## cellmnn-conditions anew, from cellmnn-simulated: half an hour on two cores
	OMP_NUM_THREADS=1 $(BIN)/python -m pretraining.pretrain_simulated \
		--config pretraining/configs/conditions.yaml --start cellmnn-simulated \
		-o cellmnn_fm/model/pretrained/cellmnn-conditions

weights: $(VENV)/.installed
	rm -rf corpus cellmnn_fm/model/pretrained/cellmnn-base
	OMP_NUM_THREADS=1 $(BIN)/python -m pretraining.build_corpus corpus
	OMP_NUM_THREADS=1 $(BIN)/python -m pretraining.pretrain corpus \
		--config pretraining/configs/base.yaml --output cellmnn_fm/model/pretrained/cellmnn-base
	$(BIN)/python -m pretraining.collect_networks cellmnn_fm/model/pretrained/cellmnn-base

base: weights ## cellmnn-base anew from cellmnn-simulated: corpus, pretraining, card; 4 minutes
	$(BIN)/python -m studies.write_card

figures: $(VENV)/.installed ## the figures of the README, with cellmnn-base
	mkdir -p build/figures
	$(BIN)/cellmnn interpolate cellmnn-base $(CELLMNN_DATA)/embryoid_body_pca.h5ad --time-key time \
		--at 16.5 -o build/figures/cells.h5ad --figure docs/figures/embryoid_body_interpolation.png
	$(BIN)/cellmnn grn cellmnn-base --dataset hesc_endoderm -o build/figures/edges.tsv \
		--figures build/figures
	cp build/figures/network.png docs/figures/hesc_endoderm_network.png
	printf '%s\n' POU5F1 SOX2 NANOG GATA6 SOX17 T EOMES KLF4 MYC CDX2 FGF4 DNMT3B LIN28A FOXA2 CER1 \
		> build/figures/genes.txt
	$(BIN)/cellmnn grn cellmnn-base --genes build/figures/genes.txt -o build/figures/edges.tsv \
		--figure docs/figures/pluripotency_network.png
	$(BIN)/cellmnn trajectory cellmnn-base $(CELLMNN_DATA)/embryoid_body_pca.h5ad --time-key time \
		--cells 100 -o build/figures/cells.h5ad --figure docs/figures/embryoid_body_trajectories.png
	$(BIN)/cellmnn annotate cellmnn-base $(CELLMNN_DATA)/embryoid_body_pca.h5ad --time-key time \
		-o build/figures/cells.h5ad --figure docs/figures/embryoid_body_velocities.png
	$(BIN)/cellmnn fates cellmnn-base $(CELLMNN_DATA)/ipsc_cardiomyocyte.h5ad --time-key time \
		--groups 2 -o build/figures/fates.tsv --figure docs/figures/ipsc_cardiomyocyte_fates.png
	$(BIN)/cellmnn fates cellmnn-base $(CELLMNN_DATA)/mef_neuron.h5ad --time-key time \
		--groups cell_type -o build/figures/fates.tsv --figure docs/figures/mef_neuron_fates.png
	$(BIN)/cellmnn perturb cellmnn-base $(CELLMNN_DATA)/ipsc_cardiomyocyte.h5ad --time-key time \
		--groups 2 --start 2 --gene SOX17 -o build/figures/shift.tsv
	$(BIN)/cellmnn trajectory cellmnn-base $(CELLMNN_DATA)/mef_neuron.h5ad --time-key time \
		-o build/figures/cells.h5ad --gene Ascl1 --gene Acta1 --gene Stmn3 \
		--trends docs/figures/mef_neuron_trends.png

release: ## weights, tables, figures and card anew, in that order; a day
	rm -rf bases results
	$(MAKE) weights peers
	$(MAKE) studies
	$(MAKE) benchmarks figures
	$(BIN)/python -m studies.write_card

studies: $(VENV)/.installed ## the tables of pretraining and finetune that are not there yet
	$(BIN)/python -m studies.leave_group_out
	$(BIN)/python -m studies.leave_group_out --base cellmnn-simulated
	$(BIN)/python -m studies.simulated
	$(BIN)/python -m studies.ablations
	$(BIN)/python -m studies.calibrate
	$(BIN)/python -m studies.joint_against_separate
	$(BIN)/python -m studies.finetuning steps
	$(BIN)/python -m studies.finetuning small-data
	$(BIN)/python -m studies.finetuning report

clean: ## all that can be made again
	rm -rf $(VENV) dist build demo_output .pytest_cache .ruff_cache .mypy_cache

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@
