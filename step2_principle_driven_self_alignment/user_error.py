"""What a user has to put right, told apart from faults of our own code."""


class UserError(Exception):
    """A setting or an input that can't work. The message names it, the limit and the remedy.

    A script that ends with one prints this one line and exits with 2: trying again won't help.
    """
