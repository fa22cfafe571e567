"""`sentilora env`."""


def env() -> None:
    """Print versions, GPU and hub: the text for a bug report."""
    from sentilora.stages.env import env as run

    for name, text in run().items():
        print(f"{name:<22}{text}")
