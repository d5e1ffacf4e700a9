"""File names of an exported model, in a folder or in a Hugging Face Hub repository.

============================  ====================================================================================
``model.safetensors``         the weights
``config.json``               architecture, classes and transform, as timm and transformers read them
``README.md``                 the model card
``LICENSE``                   the licence of the weights
``test_vectors.safetensors``  a seeded input and its logits
``model.onnx``                only with ``export --onnx``
``run.json``, ``summary.csv`` copied from the run (``timm_landmark.runs.folder``)
``classes.csv``               the classes in the order of the outputs (``timm_landmark.data.layout``)
``space/``                    only with ``export --space`` (``timm_landmark.hub.space``); not part of a repository
``sha256sums.txt``            checksums of all other files (``timm_landmark.data.check``, as for data sets)
============================  ====================================================================================
"""

WEIGHTS, CONFIG = "model.safetensors", "config.json"  # a model is built from these two files only
CARD, LICENSE = "README.md", "LICENSE"
VECTORS = "test_vectors.safetensors"
ONNX = "model.onnx"
