"""The method of the paper: settings, losses, step, schedule."""
