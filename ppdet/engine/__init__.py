"""Running a model: evaluation, prediction, and the packages ``training`` and ``distributed``."""
