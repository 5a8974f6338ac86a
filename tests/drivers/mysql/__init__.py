"""Real drivers of MySQL and MariaDB, direct and through the sidecar: the same results, errors, side effects and bytes."""
