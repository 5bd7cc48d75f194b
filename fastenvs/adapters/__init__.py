"""Views of environments in the forms of other libraries; each is imported, with its library, when it is asked for."""

from typing import Any

from fastenvs.vecenv import VecEnv


def check_env(env: Any) -> None:
    """Refuse what is no environment of fastenvs.

    Raises
    ------
    TypeError
        With what was given instead.
    """
    if not isinstance(env, VecEnv):
        raise TypeError(f"env must be an environment made by fastenvs.make, got {type(env).__name__}")
