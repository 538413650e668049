"""The wire contract: ``protos/skyrack/v1/*.proto`` and the code generated from it (``python -m protos.generate``)."""
