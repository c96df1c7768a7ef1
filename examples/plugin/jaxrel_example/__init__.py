"""A metric, an encoder and a data set for jaxrel."""
