"""Implementations whose checkpoints are converted: one file per source, see `ppdet.checkpoint.source`.

Every file in this folder is imported when a checkpoint is looked at, and registers its source.
"""
