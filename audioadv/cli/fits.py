"""Which --attack goes with which recogniser and channel: said before any work, in the words of the command line."""

from audioadv.attacks.catalogue import CRAFTING, crafting
from audioadv.defenses.statement import stated
from audioadv.errors import AccessDenied, OptionError
from audioadv.models.access import granted, includes
from audioadv.models.recogniser import Recogniser
from audioadv.threat.channels.channel import NOTHING, Channel


def check_fits(attack: str, model: Recogniser, channel: Channel) -> None:
    """Raise AccessDenied for an attack that needs more of this recogniser than it grants, OptionError for one that averages no draws."""
    need, access = crafting(attack).access, granted(model)
    if not includes(access, need):
        less = [name for name in CRAFTING if includes(access, crafting(name).access)]
        raise AccessDenied(f"--attack {attack}: needs {need}, and {model.name} grants {access} alone. Use --attack {' or '.join(less)}")
    if attack == "nes" and (channel != NOTHING or stated(model).random):
        what = f"--channel {channel}" if channel != NOTHING else f"{model.name}, which is random"
        raise OptionError(f"--attack nes: estimates slopes from scores, and does not work over {what}. Use another, such as genetic")
