"""All attacks by name."""

from collections.abc import Mapping

from harness.attacks.attack import Attack
from harness.attacks.costly import COSTLY
from harness.attacks.floods import FLOODS
from harness.attacks.holding import HOLDING

ATTACKS: Mapping[str, Attack] = {attack.name: attack for attack in (*FLOODS, *HOLDING, *COSTLY)}
