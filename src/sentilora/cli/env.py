"""`sentilora env`."""


def env() -> None:
    """Print versions, GPU and hub: the text for a bug report."""
    from sentilora.stages.env import environment

    for name, value in environment().items():
        print(f"{name:<22}{value}")
