"""Frames and gradients to the members of a sample: JPEG, H.264, optical flow."""
