"""Whole models."""

from ppdet.modeling.architectures.hybrid_task_cascade import HybridTaskCascade

__all__ = ["HybridTaskCascade"]
