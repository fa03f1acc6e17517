"""Load and measurement: scenario mixes, closed-loop targets, percentiles with intervals."""
