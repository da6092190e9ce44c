# make demo       set up, generate the demo data set, train a small HTC on it, evaluate, draw predictions (about
#                 10 minutes); continues if it was interrupted, and starts over if it was completed
# make demo-long  the same with four times as many training steps
# make test       set up, check style and types, run the tests (for both versions of Paddle: make test test-paddle26)
# make test-long  run the tests that take several minutes each
# make test-onnx  compare the ONNX export with onnxruntime

PYTHON ?= python3
VENV ?= .venv
VENV26 ?= .venv-paddle26
PY := $(VENV)/bin/python
PY26 := $(VENV26)/bin/python
DEMO := configs/demo/htc_r18_demo.yml
DEMO_LONG := configs/demo/htc_r18_demo_long.yml

.PHONY: install install-dev demo demo-long demo-data test pytest test-long test-onnx test-paddle26 install-paddle26 lint clean

install: $(VENV)/.installed
install-dev: $(VENV)/.installed-dev

# An existing installation of Paddle (for example a GPU build) or OpenCV is used and never overwritten.
$(VENV)/.installed: requirements.txt requirements-cpu.txt
	@echo "installing Paddle, OpenCV and other packages into $(VENV) (several hundred MB)"
	@$(PYTHON) -c 'import importlib.util as u, sys; sys.exit(u.find_spec("paddle") is None)' \
		&& $(PYTHON) -m venv --system-site-packages $(VENV) || $(PYTHON) -m venv $(VENV)
	@$(PY) -c 'import cv2' 2>/dev/null && grep -v '^opencv' requirements.txt > $(VENV)/requirements.txt \
		|| cp requirements.txt $(VENV)/requirements.txt
	$(PY) -m pip install -q --upgrade pip
	$(PY) -m pip install -r $(VENV)/requirements.txt
	@$(PY) -c 'import importlib.util as u, sys; sys.exit(u.find_spec("paddle") is None)' \
		|| $(PY) -m pip install $$(grep '^paddlepaddle' requirements-cpu.txt)
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements-dev.txt requirements-serving.txt
	@echo "installing the packages required by the tests"
	$(PY) -m pip install -r requirements-dev.txt
	@touch $@

$(VENV26)/.installed: requirements.txt
	$(PYTHON) -m venv $(VENV26)
	$(PY26) -m pip install -q --upgrade pip
	$(PY26) -m pip install -q -r requirements.txt 'paddlepaddle==2.6.2' 'numpy<2' 'opencv-python-headless<4.11' \
		'pytest>=7' pytest-timeout setuptools
	@touch $@

demo-data: install
	$(PY) dataset/demo/make_demo.py --output dataset/demo/data

# Keep large memory blocks instead of returning them to the system after each step; this is about 10% faster.
export MALLOC_MMAP_THRESHOLD_ := 4294967296
export MALLOC_TRIM_THRESHOLD_ := 17179869184

# $(1) configuration, $(2) run folder. An interrupted demo continues where it stopped, a completed one starts over.
define run_demo
	@if [ -e $(2)/demo_done ]; then rm $(2)/demo_done; start=--overwrite; else start='-r auto'; fi; \
		set -x; $(PY) tools/train.py -c $(1) --eval $$start
	$(PY) tools/infer.py -c $(1) -o weights=$(2)/best_model \
		--infer_dir dataset/demo/data/val --output_dir $(2)/pictures --draw_threshold 0.4
	@touch $(2)/demo_done
	@echo
	@echo "pictures  $(2)/pictures"
	@echo "curves    $(2)/curves.png"
	@echo "AP        $(2)/train.log, $(2)/eval_scalars.csv"
	@echo "weights   $(2)/best_model.pdparams"
	@echo "next      $(PY) tools/infer.py -c $(1) -o weights=$(2)/best_model --infer_img=YOUR.jpg"
	@echo "          $(PY) tools/export_model.py -c $(1) -o weights=$(2)/best_model    # then deploy/python/infer.py"
endef

demo: demo-data
	$(call run_demo,$(DEMO),output/$(basename $(notdir $(DEMO))))

demo-long: demo-data
	$(call run_demo,$(DEMO_LONG),output/$(basename $(notdir $(DEMO_LONG))))

lint: install-dev
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

test: lint pytest

pytest: install-dev
	$(PY) -m pytest -m "not slow" --durations=30

test-long: install-dev
	$(PY) -m pytest -m slow

test-onnx: install-dev
	$(PY) -m pip install -q -r requirements-onnx.txt
	$(PY) -m pytest tests/export/test_onnx.py

install-paddle26: $(VENV26)/.installed

# With Paddle 2.6 (and the older NumPy and OpenCV that it takes) runs everything that can differ there. Tests marked
# same_on_every_paddle are left out: those of plain Python (configurations, YAML files, archives, names, messages), and
# repetitions, such as the comparison with the recordings on photographs after that on synthetic scenes.
test-paddle26: install-paddle26
	$(PY26) -m pytest -m "not slow and not same_on_every_paddle" --durations=30 \
		-k "not test_losses_and_gradients or mask_rcnn and not cascade" tests

clean:
	rm -rf $(VENV) $(VENV26) output
