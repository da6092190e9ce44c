"""Running a model: the session, evaluation, prediction, and the packages ``training`` and ``distributed``."""
