"""Every error that a user can meet. Each message names the thing, the value, the wish and the cure.

AudioadvError
|-- InputError                 a file or tensor that cannot be used
|   |-- UnreadableAudio        missing, empty, truncated, not audio, no samples, not finite
|   |-- UnusableTarget         letters that the model does not write, or nothing at all
|   |-- UnusableBatch          shapes, lengths, dtypes or devices that do not fit together
|   |-- UnusableResponse       a room response or recorded noise that cannot be played to a clip
|   |-- UnusableCheckpoint     a file of no training, or of another one's
|   |-- UnusableMemory         a file that is no memory's, or one of another kind
|   `-- UnwritableOutput       a folder or file that cannot be written, a full disk
|-- OptionError                a choice that does not exist or makes no sense
|   |-- UnknownModel
|   |-- WrongRole              rooms of one role (craft, check, judge) asked to play another
|   `-- MalformedSpec          a bound or channel that cannot be read
|-- AccessDenied               an attack asked the model for more than was granted
|-- TrainingDiverged           a loss that is no longer a finite number
`-- BrokenInstallation         packages that do not fit together
"""

import errno


class AudioadvError(Exception):
    """The root: catch it to catch everything that audioadv raises on purpose."""


class InputError(AudioadvError):
    """A file or tensor that cannot be used."""


class UnreadableAudio(InputError):
    """A file that gives no usable sound."""


class UnusableTarget(InputError):
    """A text that the recogniser could never write."""


class UnusableBatch(InputError):
    """Tensors whose shapes, lengths, dtypes or devices do not fit together."""


class UnusableResponse(InputError):
    """A room response or recorded noise that cannot be played to a clip."""


class UnusableCheckpoint(InputError):
    """A checkpoint or weights that do not belong to what is trained."""


class UnusableMemory(InputError):
    """A file that is no memory's, or that of a memory of another kind."""


class UnwritableOutput(InputError):
    """A place that cannot be written."""


class OptionError(AudioadvError):
    """A choice that does not exist or makes no sense."""


class UnknownModel(OptionError):
    """A model name that nothing answers to."""


class WrongRole(OptionError):
    """Rooms that were asked to play a role that is not theirs."""


class MalformedSpec(OptionError):
    """A bound or channel whose text or numbers cannot be read."""


class AccessDenied(AudioadvError):
    """An attack that asked the model for more than it was granted."""


class TrainingDiverged(AudioadvError):
    """Training whose loss is no longer a finite number."""


class BrokenInstallation(AudioadvError):
    """Packages that do not fit together."""


ONLY_IN_A_CHECKOUT = "samples/, with its rooms, comes with a checkout of audioadv alone: pip install -e . there"


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def remedy(error: OSError) -> str:
    """What to do where something cannot be written.

    >>> [remedy(OSError(number, "")) for number in (errno.ENOSPC, errno.EPERM)]
    ['Make room', 'See to it that this may be written']
    """
    return "Make room" if error.errno in FULL else "See to it that this may be written"


def with_extra(name: str) -> str:
    """How an extra of audioadv is installed, which no index has: from a checkout.

    >>> with_extra("hf")
    "in a checkout of audioadv, pip install -e '.[hf]'"
    """
    return f"in a checkout of audioadv, pip install -e '.[{name}]'"
