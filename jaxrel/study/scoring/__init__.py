"""Ways to compute the numbers of a study: in programs that serve many units, metric by metric, or with reasons."""
