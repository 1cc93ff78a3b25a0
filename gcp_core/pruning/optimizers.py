"""Optimisers that surgery knows."""

#: Optimisers whose state is one tensor per weight (plus scalars), so that cutting it is exact.
SUPPORTED_OPTIMIZERS = ("SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "Adadelta", "Adamax", "NAdam", "RAdam")
