"""Calibration of a guide over data that the model itself draws: ranks of the true latents among the guide's draws."""
