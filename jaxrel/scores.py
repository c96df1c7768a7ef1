"""`jaxrel.metrics` under the name it had before; it goes with the first release."""

from jaxrel.metrics import *  # noqa: F403
