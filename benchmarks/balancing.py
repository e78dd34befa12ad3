"""How a balancer can choose a replica, for benchmarks/fleet_simulation.py. Knows neither time nor queues."""

from collections.abc import Callable

import numpy as np


class Balancer:
    """Chooses a replica for each request. `open` counts its unanswered requests at each replica."""

    def __init__(self, replicas: int, random: np.random.Generator) -> None:
        self.open = [0] * replicas
        self._replicas = replicas
        self._random = random
        self._numbers: list[float] = []

    def choose(self) -> int:
        raise NotImplementedError

    def sent(self, replica: int) -> None:
        self.open[replica] += 1

    def answered(self, replica: int) -> None:
        self.open[replica] -= 1

    def any(self, count: int) -> int:
        """A number from 0 to below `count`, by chance."""
        if not self._numbers:
            self._numbers = self._random.random(4096).tolist()
        return int(self._numbers.pop() * count)


class Random(Balancer):
    """Any replica."""

    def choose(self) -> int:
        return self.any(self._replicas)


class RoundRobin(Balancer):
    """One after the other."""

    def __init__(self, replicas: int, random: np.random.Generator) -> None:
        super().__init__(replicas, random)
        self._turn = self.any(replicas)  # balancers do not start in step

    def choose(self) -> int:
        self._turn = (self._turn + 1) % self._replicas
        return self._turn


class PowerOfTwo(Balancer):
    """The better of two by chance: Envoy's least-request policy as it comes."""

    def choose(self) -> int:
        one, other = self.any(self._replicas), self.any(self._replicas)
        return one if self.open[one] <= self.open[other] else other


class LeastRequest(Balancer):
    """The one with the fewest open requests of all, by chance among equals. Keeps replicas in groups by that number."""

    def __init__(self, replicas: int, random: np.random.Generator) -> None:
        super().__init__(replicas, random)
        self._groups: dict[int, list[int]] = {0: list(range(replicas))}
        self._place = list(range(replicas))
        self._fewest = 0

    def choose(self) -> int:
        group = self._groups[self._fewest]
        return group[self.any(len(group))]

    def sent(self, replica: int) -> None:
        self._move(replica, 1)

    def answered(self, replica: int) -> None:
        self._move(replica, -1)

    def _move(self, replica: int, step: int) -> None:
        old = self.open[replica]
        self.open[replica] = new = old + step
        group, place = self._groups[old], self._place[replica]
        group[place] = last = group[-1]
        self._place[last] = place
        group.pop()
        self._place[replica] = len(joined := self._groups.setdefault(new, []))
        joined.append(replica)
        self._fewest = min(self._fewest, new)
        while not self._groups.get(self._fewest):
            self._fewest += 1


POLICIES: dict[str, Callable[[int, np.random.Generator], Balancer]] = {
    "random": Random,
    "round robin": RoundRobin,
    "least request, best of 2": PowerOfTwo,
    "least request, best of all": LeastRequest,
}
