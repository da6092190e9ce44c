"""A data set of a few small pictures and a model of a few channels."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

SMALL = """
_BASE_: ['{root}/configs/demo/htc_r18_demo.yml']
save_dir: {folder}/output
log_iter: 1
worker_num: 0
epoch: 2
TrainDataset: {{dataset_dir: {folder}/data}}
EvalDataset: {{dataset_dir: {folder}/data}}
TestDataset: {{dataset_dir: {folder}/data}}
ResNet: {{ch_in: 8}}
FPN: {{out_channel: 16}}
BBoxAssigner: {{batch_size_per_im: 16}}
HybridTaskCascadeTwoFCHead: {{out_channel: 32}}
HybridTaskMaskFeat: {{num_convs: 1, out_channel: 16}}
FusedSemanticHead: {{num_convs: 1, conv_out_channels: 16}}
RPNHead:
  train_proposal: {{pre_nms_top_n: 50, post_nms_top_n: 20}}
  test_proposal: {{pre_nms_top_n: 50, post_nms_top_n: 10}}
TrainReader:
  sample_transforms:
  - Decode: {{}}
  - Resize: {{target_size: [64, 96]}}
  - RandomFlip: {{}}
  - NormalizeImage: {{}}
  - Permute: {{}}
  batch_size: 2
EvalReader:
  sample_transforms:
  - Decode: {{}}
  - Resize: {{target_size: [64, 96]}}
  - NormalizeImage: {{}}
  - Permute: {{}}
  batch_size: 2
TestReader:
  sample_transforms:
  - Decode: {{}}
  - Resize: {{target_size: [64, 96]}}
  - NormalizeImage: {{}}
  - Permute: {{}}
"""


class Workplace(NamedTuple):
    """Where the small run lives."""

    root: Path
    folder: Path
    config: Path

    def tool(self, name: str, *arguments: str, code: int = 0) -> str:
        """Run a tool as a user would and return what it printed."""
        command = [sys.executable, str(self.root / "tools" / f"{name}.py"), "-c", str(self.config), *arguments]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=300)
        printed = done.stdout + done.stderr
        assert done.returncode == code, printed[-4000:]
        return printed


def launch(processes: int, folder: Path, script: str, *arguments: str) -> None:
    """Run a script beside this file in several processes."""
    command = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", str(processes)]
    done = subprocess.run(
        [*command, "--log_dir", str(folder / "log"), str(Path(__file__).parent / script), *arguments],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "GLOG_minloglevel": "2"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, "".join(
        log.read_text()[-3000:] for log in sorted((folder / "log").glob("workerlog.*"))
    )


@pytest.fixture(scope="session")
def workplace(repo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    folder = tmp_path_factory.mktemp("small")
    generator = str(repo_root / "dataset" / "demo" / "make_demo.py")
    sizes = ["--train", "4", "--val", "3", "--size", "112"]
    subprocess.run([sys.executable, generator, "--output", str(folder / "data"), *sizes], check=True, timeout=120)
    config = folder / "small.yml"
    config.write_text(SMALL.format(root=repo_root, folder=folder))
    return Workplace(repo_root, folder, config)
