"""One CNN for semantic and image segmentation, trained together and fused.

The core follows the data, which flows one way:
scenes -> datasets -> transforms -> targets -> models -> losses -> weighting -> training ->
prediction -> regions -> metrics -> plots
Beside it stand `engine`, which keeps a run safe and fast, and `lab`, which makes the numbers of the
pages.
"""
