"""Ways to compute the numbers of a study: by programs shared by many units, metric by metric, or with explanations."""
