"""Stage ``evaluate``: metrics, intervals, calibration and pictures of a trained network."""
