"""Times as people read them."""


def format_seconds(seconds: float) -> str:
    """A duration as 1:02:03."""
    minutes, second = divmod(round(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02}:{second:02}"
