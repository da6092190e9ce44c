# make demo       set up, make the demo set, train a small HTC on it, evaluate, draw pictures (about 10 minutes);
#                 interrupted, the same command goes on; after its end it trains anew
# make demo-long  the same, trained four times as long
# make test       set up, check style and types, run the tests (both Paddle versions: make test test-paddle26)
# make test-long  the tests that take minutes each
# make test-onnx  ONNX export against onnxruntime

PYTHON ?= python3
VENV ?= .venv
VENV26 ?= .venv-paddle26
PY := $(VENV)/bin/python
PY26 := $(VENV26)/bin/python
DEMO := configs/demo/htc_r18_demo.yml
DEMO_LONG := configs/demo/htc_r18_demo_long.yml

.PHONY: install install-dev demo demo-long demo-data test test-long test-onnx test-paddle26 lint clean

install: $(VENV)/.installed
install-dev: $(VENV)/.installed-dev

# A Paddle that is there already (a GPU build, say) is used and never overwritten; likewise OpenCV.
$(VENV)/.installed: requirements.txt requirements-cpu.txt
	@echo "installing Paddle, OpenCV and others into $(VENV), some hundred MB"
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
	@echo "installing what the tests need"
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

# Large blocks stay with the process instead of going back to the system after each step: a tenth faster.
export MALLOC_MMAP_THRESHOLD_ := 4294967296
export MALLOC_TRIM_THRESHOLD_ := 17179869184

# $(1) configuration, $(2) folder of its runs. An interrupted demo goes on where it was, a complete one starts anew.
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

test: lint
	$(PY) -m pytest -m "not slow"

test-long: install-dev
	$(PY) -m pytest -m slow

test-onnx: install-dev
	$(PY) -m pip install -q -r requirements-onnx.txt
	$(PY) -m pytest tests/export/test_onnx.py

test-paddle26: $(VENV26)/.installed
	$(PY26) -m pytest -m "not slow" -k "not test_losses_and_gradients" tests

clean:
	rm -rf $(VENV) $(VENV26) output
