"""jaxrel: how well a pre-trained encoder transfers to a target task, and why."""
