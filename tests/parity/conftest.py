"""The official network's recording on synthetic scenes, and this project's model with the same weights."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import paddle
import pytest

from ppdet.core.workspace import create, load_config
from ppdet.engine.official_names import official_blocks, official_name, official_value

MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)

CONFIG = """
_BASE_: ['{root}/configs/runtime.yml', '{root}/configs/htc/_base_/htc_r50_fpn.yml']
num_classes: 80
semantic_num_classes: 183
pretrain_weights: null
"""


class Recording(NamedTuple):
    """A loaded model, its input, and what the official implementation computed for it."""

    model: Any
    inputs: dict[str, paddle.Tensor]
    golden: dict[str, np.ndarray]
    scenes: list[dict[str, np.ndarray]]


def load_module(path: Path) -> ModuleType:
    """Import one of the oracle's scripts."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def sampled(values: np.ndarray, count: int) -> np.ndarray:
    """The part of a tensor that a recording keeps."""
    flat = values.ravel()
    return flat if flat.size <= count else flat[np.linspace(0, flat.size - 1, count).astype(int)]


@pytest.fixture(scope="session")
def htc(oracle: Path, repo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Recording:
    """HTC R-50 on two synthetic scenes."""
    config = tmp_path_factory.mktemp("parity") / "htc.yml"
    config.write_text(CONFIG.format(root=repo_root))
    paddle.set_device("cpu")
    model = create(load_config(str(config)).architecture)
    state = load_module(oracle / "weights.py").state_dict(str(oracle / "keys" / "htc_r50_fpn.tsv"))
    blocks = official_blocks(state)
    names = {key: official_name(key, blocks) for key in state}
    assert all(name or key.endswith("num_batches_tracked") for key, name in names.items())
    own = {name: official_value(key, state[key]) for key, name in names.items() if name}
    expected = {key: list(value.shape) for key, value in model.state_dict().items()}
    assert {key: list(value.shape) for key, value in own.items()} == expected
    model.set_state_dict(own)
    model.eval()
    with np.load(oracle / "golden" / "synthetic_htc_r50_fpn.npz") as file:
        golden = dict(file)
    scene = load_module(oracle / "synthetic.py").scene
    scenes = [scene(7, 224, 320), scene(8, 256, 288)]
    image = np.zeros(golden["input.shape"], np.float32)
    for place, one in enumerate(scenes):
        pixels = (one["image"][:, :, ::-1].astype(np.float32) / 255 - MEAN) / STD
        image[place, :, : pixels.shape[0], : pixels.shape[1]] = pixels.transpose(2, 0, 1)
    inputs = {
        "image": paddle.to_tensor(image),
        "im_shape": paddle.to_tensor(np.stack([golden["img_shape0"], golden["img_shape1"]]).astype(np.float32)),
        "scale_factor": paddle.to_tensor(
            np.stack([golden["scale_factor0"][::-1], golden["scale_factor1"][::-1]]).astype(np.float32)
        ),
    }
    return Recording(model, inputs, golden, scenes)
