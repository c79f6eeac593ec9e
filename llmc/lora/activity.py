"""State: what an adapter does at present."""

from enum import Enum


class State(Enum):
    """One of these at any time; disabled adapters are all inactive."""

    INACTIVE = "inactive"
    ACTIVE = "active"  # added to what its linears give
    TRAINS = "trains"  # active, and gets gradients
    MERGED = "merged"  # a part of the weights

    @property
    def computes(self):
        """Does a pass multiply by its matrices?"""
        return self in (State.ACTIVE, State.TRAINS)
