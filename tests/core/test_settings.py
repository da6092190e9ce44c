"""Settings of a run: one place for keys, types and defaults."""

from __future__ import annotations

import ast
import dataclasses
import inspect
from pathlib import Path

import pytest

from ppdet.core.config.keys import RUNTIME_KEYS
from ppdet.core.config.settings import ExportSettings, RuntimeSettings, field_types
from ppdet.core.workspace import ConfigError, load_config, merge_config


def test_defaults_and_values(repo_root: Path) -> None:
    assert (RuntimeSettings().log_iter, RuntimeSettings().ema_decay, RuntimeSettings().save_dir) == (
        20,
        0.9998,
        "output",
    )
    config = load_config(str(repo_root / "configs" / "runtime.yml"))
    merge_config({"export": {"nms": False}, "run_name": 7}, config)
    settings = RuntimeSettings.from_config(config)
    assert (settings.log_iter, settings.use_gpu, settings.run_name, settings.seed) == (50, True, 7, None)
    assert settings.export == ExportSettings(nms=False)
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.epoch = 3  # type: ignore[misc]


def test_defaults_fit_their_annotations_and_runtime_yml(repo_root: Path) -> None:
    unset = {"architecture", "epoch"}  # their defaults stand for "not set"
    values = {field.name: field.default for field in dataclasses.fields(RuntimeSettings) if field.name not in unset}
    values["export"] = dataclasses.asdict(ExportSettings())
    assert RuntimeSettings.from_config(values) == RuntimeSettings()
    written = load_config(str(repo_root / "configs" / "runtime.yml"))
    different = {key: value for key, value in written.items() if values[key] != value}
    assert different == {"use_gpu": True, "log_iter": 50}


def test_every_setting_is_a_key_with_a_description() -> None:
    assert set(field_types(RuntimeSettings)) <= set(RUNTIME_KEYS)
    for settings in (RuntimeSettings, ExportSettings):
        (tree,) = ast.parse(inspect.getsource(settings)).body
        assert isinstance(tree, ast.ClassDef)
        fields = [node for node in tree.body if isinstance(node, ast.AnnAssign)]
        texts = [after for before, after in zip(tree.body, tree.body[1:]) if isinstance(before, ast.AnnAssign)]
        assert len(fields) == len(texts) == len(dataclasses.fields(settings))
        assert all(isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant) for text in texts)


def test_values_of_python_code_are_checked() -> None:
    for values, message in (
        ({"log_iter": 0}, "'log_iter' takes an integer between 1 and"),
        ({"export": {"nmss": True}}, "unknown key 'export.nmss'; did you mean 'nms'"),
        ({"export": {"nms": 1}}, "'export.nms' takes true or false, got 1"),
    ):
        with pytest.raises(ConfigError, match=message):
            RuntimeSettings.from_config(values)
