"""Real drivers, direct and through the sidecar: the same results, errors, notices, side effects and bytes."""
