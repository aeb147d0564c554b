"""One CNN for semantic and image segmentation, trained together and fused.

The modules are named after the stops of the data, which flows one way:
scenes -> datasets -> transforms -> targets -> models -> losses -> weighting -> checkpoints ->
training -> regions -> metrics -> plots.
"""
