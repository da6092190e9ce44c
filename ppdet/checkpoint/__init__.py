"""Weights on disk: finding, downloading, reading, converting and writing them, and loading them into a model.

``weights.py`` loads a file into a model. ``weight_files.py`` reads and writes files, whose formats are in ``formats``.
``source.py`` is the interface of the implementations whose checkpoints can be converted, one file each in ``names``;
``convert.py`` and ``convert_file.py`` convert with them. ``zoo.py`` lists published checkpoints and ``fetch.py``
downloads them. ``matching.py`` compares the tensors of files and models. Nothing here depends on training.
"""
